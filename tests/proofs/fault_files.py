"""Let the n-th file operation of commands fail, or kill them there, and look at what they leave and at the next run.

    python tests/proofs/fault_files.py [--case train,export] [--faults kill,eio] [--most 40] [--seed 0]
                                       [--from 0] [--minutes 60] [--log FILE] [--new] [--again] [--json FILE]

fault_shim.c, built with `cc` and loaded before libc by fault_shim.py, counts the operations of a command on files of
its folder: those that change something (create, write, sync, rename, link, delete, ...) and those that read. A clean
run of each command of fault_cases.py gives their number; then each is disturbed in turn, in a forked process:

enospc     operation n fails, and after it all that need space
edquot     the same with the errno of a quota
short      a write writes a half; after it all that need space fail
erofs      operation n and all after it that change something fail
eio        operation n fails, once
eio-read   reading operation n fails, once
kill       the process is killed before operation n

Afterwards the command must have ended with exit code 2 and one line, or with 0 (and a warning or the whole result), or
by the kill; each of its outputs must be as before or as after a clean run, whole; everything else unchanged; and
where files can be deleted, no scratch file may be left. Then the same command runs undisturbed: everything must be as
after a clean run, file by file, or it must be refused because its result is there. That run is left out where an
earlier trial of the case left the same tree (fault_trees.kind_of) and its next run was right: a full disk and a spent
quota, say, leave the same.

--most: of operations that differ in numbers only, all first ones and a seeded sample are tried, up to so many per case
and fault (0: every operation). --new: only those that differ in more from all earlier ones, also of other commands; a
later call without it tries the others. --log: a file of JSON lines, one per trial, which a later call continues; with
--again it tries what was wrong, and nothing else. --json: a file for the counts of the log, by command and fault. The
folder of the trials is in memory (/dev/shm) if TMPDIR names no other. The exit code is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from fault_log import Log, summary
from fault_process import import_all, import_found, run
from fault_shim import FAULTS, FREES, End, Operation, logged, with_shim
from fault_trees import OWN, hidden, kind_of, lasting, part, snapshot

MEMORY = Path("/dev/shm")


class Trials:
    """The trials of one case: what its folder holds before, what a clean run leaves, its operations."""

    def __init__(self, name: str, base: Path) -> None:
        from fault_cases import CASES, damages

        self.name, self.case, self.folder, self._damages = name, CASES[name], base / "one", damages
        self._start, self._common = base / "start", base / "common"
        self._next_is_right = set[str]()  # kinds of trees after which it is
        self.new = list[Operation]()  # operations like none of an earlier command
        self._prepare()
        self.old = snapshot(self.folder)
        self.damaged = {text for name in self.case.runs for text in damages(self.folder / name)}  # on purpose
        self.clean, self.operations = self._clean_run()
        again, _ = self._clean_run()
        if self.clean.keys() != again.keys():
            raise SystemExit(f"{name}: two clean runs leave other files: {self.clean.keys() ^ again.keys()}")
        self.volatile = {path for path in self.clean if self.clean[path] != again[path]}  # times of day
        made = {path for path in self.clean.keys() - self.old.keys() if self.clean[path]}
        renamed = {o.path for o in self.operations if o.name == "rename"}  # safetensors' own renames are system calls
        seen = {o.path for o in self.operations if o.kind == "w"}
        written = {o.path.rpartition("/")[0] for o in self.operations if re.search(r"/\.tmp\w{6}$", o.path)}
        renamed |= {path for path in made if path.endswith(".safetensors") and path.rpartition("/")[0] in written}
        unseen = [p for p in made - seen - renamed if not any(p.startswith(f"{r}/") for r in renamed)]
        if unseen:
            raise SystemExit(f"{name}: the shim has not seen how these files came about: {unseen}")

    def _prepare(self) -> None:
        shutil.rmtree(self._start, ignore_errors=True)
        self._reset(None)
        for need in self.case.needs:
            source = self._common / need
            if source.is_dir():
                shutil.copytree(source, self.folder / need, copy_function=os.link)
                _unlink_copies(self.folder / need)
            else:
                shutil.copy(source, self.folder)
        if self.case.before is not None:
            self.case.before(self.folder)
        (self.folder / "of-the-user.txt").write_text("keep\n")
        shutil.copytree(self.folder, self._start, symlinks=True)
        if self.case.killed is not None:
            _, operations = self._clean_run()
            number = int(self.case.killed * sum(o.kind == "w" for o in operations))
            self._reset(self._start)
            assert run(self.case.words, self.folder, ("w", number, 0, 4)).code == -signal.SIGKILL
            shutil.rmtree(self._start)
            shutil.copytree(self.folder, self._start, symlinks=True)

    def _reset(self, start: Path | None) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if start is None:
            self.folder.mkdir()
        else:
            shutil.copytree(start, self.folder, symlinks=True, copy_function=shutil.copy2)
        for name in OWN:
            (self.folder / name).mkdir(exist_ok=True)

    def _clean_run(self) -> tuple[dict[str, str], list[Operation]]:
        self._reset(self._start)
        with tempfile.TemporaryFile() as log:
            modules = self.folder.with_name("modules")
            end = run(self.case.words, self.folder, ("w", 0, 0, 0), log.fileno(), modules)
            if end.code:
                raise SystemExit(f"{self.name}: {' '.join(self.case.words)}: exit code {end.code}\n{end.text}")
            import_found(modules)
            log.seek(0)
            operations = [replace(o, path=lasting(o.path)) for o in logged(log.read())]
        return snapshot(self.folder), operations

    def chosen(self, fault: str, most: int, seed: int) -> list[Operation]:
        """Return the operations to disturb: all, or the first of each sort and a sample."""
        kind = FAULTS[fault][0]
        found = [o for o in self.operations if o.kind == kind and (fault != "short" or o.name == "write")]
        if not most or len(found) <= most:
            return found
        rng = random.Random(f"{seed}/{self.name}/{fault}")
        firsts: dict[tuple[str, str], Operation] = {}
        for operation in found:
            firsts.setdefault(operation.sort, operation)
        kept = [*firsts.values()]
        kept = rng.sample(kept, most) if len(kept) > most else kept
        others = [o for o in found if o not in kept]
        return sorted([*kept, *rng.sample(others, most - len(kept))], key=lambda o: o.number)

    def trial(self, fault: str, operation: Operation) -> dict[str, Any]:
        """Disturb one operation; return how the command ended, and what was wrong, if anything."""
        kind, error, mode = FAULTS[fault]
        self._reset(self._start)
        end = run(self.case.words, self.folder, (kind, operation.number, error, mode))
        unlisted = operation.kind == "r" and hidden(operation.path)  # what cannot be listed cannot be deleted
        may_be_left = fault in ("erofs", "kill") or operation.name in FREES or unlisted
        ended = end.wrong(self.folder, fault == "kill")
        state = snapshot(self.folder)
        skipped = " is damaged and is skipped: " in end.text  # a checkpoint that could not be read
        wrong = [ended, *self._broken(state, may_be_left, skipped)]
        different = [path for path in self._differences(state) if not path.endswith(".lock")]  # of an ended process
        complete = all(may_be_left and hidden(path) for path in different)
        if end.code == 0 and not complete and not re.search("^warning: | is skipped: ", end.text, re.MULTILINE):
            wrong.append(f"exit code 0, but {different[:4]}")
        if not may_be_left:
            left = [path for path in different if hidden(path) and path in state.keys() - self.old.keys()]
            left = [path for path in left if path.split("/")[0] not in (self.case.kept, *self.case.runs)]
            wrong += [f"left: {left[:4]}"] * bool(left)
        wrong = [text for text in wrong if text]
        left = kind_of(self.folder, state, self.volatile)
        known = left in self._next_is_right and not wrong
        if not known and (text := self._next(complete or end.code == 0, skipped, may_be_left)):
            wrong.append(text)
        if not wrong and not skipped:
            self._next_is_right.add(left)
        said = " ".join(end.text.strip().splitlines()[-1:])[:160]
        return {"end": _outcome(end, complete), "said": said, "again": not known, "wrong": wrong}

    def _broken(self, state: dict[str, str], may_be_left: bool, skipped: bool) -> list[str]:
        """Return what is neither as before nor as after."""
        found = []
        state = {path: content for path, content in state.items() if not hidden(path)}
        trees = [{path: tree[path] for path in tree if not hidden(path)} for tree in (self.old, self.clean)]
        for unit in self.case.outputs:
            now, before, after = (part(tree, unit) for tree in (state, *trees))
            if may_be_left and not any(now.values()):
                continue  # empty folders
            if now not in (before, {}) and (now.keys() != after.keys() or self._unlike(now, after)):
                changed = [p for p in now.keys() | after.keys() if now.get(p) != after.get(p)]
                found.append(f"{unit} is neither as before nor as after: {sorted(changed)[:4]}")
            if now == {} and before:
                found.append(f"{unit} is gone")
        outside = [*self.case.outputs, *self.case.runs]
        for run_folder in self.case.runs:
            found += [text for text in self._damages(self.folder / run_folder) if text not in self.damaged]
            weights = f"{run_folder}/release/model.safetensors"
            if not skipped and weights in state and state[weights] not in (self.clean[weights], self.old.get(weights)):
                found.append(f"{weights} has other weights")
        roots = {unit.split("/")[0] for unit in outside} if self.case.runs else set()
        for path in self.old.keys() | state.keys():
            within = any(path == unit or path.startswith(f"{unit}/") or unit.startswith(f"{path}/") for unit in outside)
            if hidden(path) or within or path.split("/")[0] in roots:
                continue
            if self.old.get(path) != state.get(path) and path not in _parents(self.clean, self.old):
                found.append(f"{path} has changed")
        return found

    def _unlike(self, now: dict[str, str], after: dict[str, str]) -> bool:
        return any(now[path] != after[path] and path not in self.volatile for path in now)

    def _differences(self, state: dict[str, str]) -> list[str]:
        """Return what is not as after a clean run, scratch files included."""
        paths = sorted(state.keys() | self.clean.keys())
        return [
            path
            for path in paths
            if ((path in state) != (path in self.clean) and (path in state or not self._spare(path)))
            or (path in state and state[path] != self.clean[path] and path not in self.volatile)
        ]

    def _delete_outputs(self) -> None:
        for unit in self.case.outputs:
            if part(self.old, unit) == {} and (self.folder / unit).exists():
                path = self.folder / unit
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _is_empty_scratch(self, path: str) -> bool:
        folder = self.folder / path
        return folder.name.startswith(".tmp-") and folder.is_dir() and not any(folder.iterdir())

    def _spare(self, path: str) -> bool:
        return self.case.spare != "" and (path == self.case.spare or path.startswith(f"{self.case.spare}/"))

    def _next(self, complete: bool, skipped: bool, may_be_left: bool) -> str | None:
        """Run the command again, undisturbed; return what is wrong then.

        skipped: a checkpoint that could not be read was left out, so that finished stages hold another. may_be_left:
        empty scratch folders may stay in finished stages.
        """
        if self.case.numbered:
            self._delete_outputs()
            for name in self.case.runs if complete else ():
                shutil.rmtree(self.folder / name.split("/")[0])
        again = run(self.case.words, self.folder)
        if again.code == 2 and re.search("exists already|exists, and is not overwritten", again.text):
            self._delete_outputs()  # it had succeeded
            again = run(self.case.words, self.folder)
        if again.code:
            return f"next run: exit code {again.code}: {again.text.strip()[-200:]!r}"
        state = snapshot(self.folder)
        differences = [p for p in self._differences(state) if not p.endswith(".lock")]  # of an ended process
        if skipped:
            differences = [path for path in differences if not _depends_on_skipped(path)]
        if may_be_left:
            differences = [
                path for path in differences if not (path.count("/stages/") and self._is_empty_scratch(path))
            ]
        own = [str(p.relative_to(self.folder)) for name in OWN for p in (self.folder / name).rglob("*")]
        own = [path for path in own if hidden(path) or path.startswith("tmp/")]
        return f"next run: {(differences + own)[:4]} differ" if differences or own else None


def _depends_on_skipped(path: str) -> bool:
    """Return True for what differs after a checkpoint was left out: releases, what a resumed run sets aside, and
    records with the times of the steps that it repeats."""
    aside = re.search(r"/checkpoints/(abandoned|damaged)-", path)
    timed = ("state.json", "metrics.jsonl", "final_metrics.json")
    return aside is not None or Path(path).name in ("release.json", "model.safetensors", "best_records.json", *timed)


def _outcome(end: End, complete: bool) -> str:
    if end.code < 0:
        return "killed"
    return "refused" if end.code else "done" if complete else "warned"


def _parents(clean: dict[str, str], old: dict[str, str]) -> set[str]:
    return {path for path in clean if clean[path] == "" and path not in old}


def _unlink_copies(folder: Path) -> None:
    """Give each name its own file, but for names of one file in the common folder, which stay names of one file."""
    copies: dict[int, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            inode = path.stat().st_ino
            content, mode = path.read_bytes(), path.stat().st_mode
            path.unlink()
            if inode in copies:
                os.link(copies[inode], path)
                continue
            path.write_bytes(content)
            path.chmod(mode)
            copies[inode] = path


def main() -> int:
    """Try the faults, print counts, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", help="comma-separated beginnings of names (default: all)")
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--most", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", dest="first", type=int, default=0, help="leave out operations before this one")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--new", action="store_true", help="leave out operations that are like earlier ones")
    parser.add_argument(
        "--again", action="store_true", help="try what was wrong according to the log, and nothing else"
    )
    parser.add_argument("--json", type=Path, help="file for the counts of the log")
    parser.add_argument("--list", action="store_true", help="print the operations of clean runs instead")
    args = parser.parse_args()
    if "TMPDIR" not in os.environ and MEMORY.is_dir() and os.access(MEMORY, os.W_OK):
        os.environ["TMPDIR"] = str(MEMORY)
    with tempfile.TemporaryDirectory(prefix="fault-") as name:
        base = Path(name).resolve()
        code = with_shim(base)
        code = _all(args, base) if code is None else code
    if args.json is not None and args.log is not None:
        args.json.write_text(json.dumps(summary(args.log, FAULTS), indent=1) + "\n")
    return code


def _all(args: argparse.Namespace, base: Path) -> int:
    import_all()
    from fault_cases import CASES, make_common

    os.environ |= {"XDG_CACHE_HOME": str(base / "one" / "cache"), "MPLCONFIGDIR": str(base / "matplotlib")}
    (base / "common" / "tmp").mkdir(parents=True)
    wanted = tuple(args.case.split(",")) if args.case else ("",)
    names = [name for name in CASES if name.startswith(wanted)]
    log, faults = Log(args.log, args.again), args.faults.split(",")
    complete = [name for name in names if not (args.new or args.list) and log.complete(name, faults)]
    names = [name for name in names if name not in complete]
    if args.again:
        names = [name for name in names if any(name == case for case, *_ in log.failed)]
    needs = {need for name in names for need in CASES[name].needs}
    make_common(base / "common", lambda words: _succeed(run(words, base / "common"), words), needs)
    began, faulty = time.monotonic(), sum(map(log.wrong, complete))
    print(f"complete: {len(complete)} commands, {faulty} trials wrong", flush=True)
    seen = set[tuple[str, ...]]()
    for name in names:
        trials = Trials(name, base)
        for operation in trials.operations:
            if (like := (operation.kind, *operation.sort)) not in seen:
                seen.add(like)
                trials.new.append(operation)
        if args.list:
            print(name, *(f"  {o.kind} {o.number:4} {o.name:10} {o.path}" for o in trials.operations), sep="\n")
            continue
        each = {fault: trials.chosen(fault, 0, 0) for fault in FAULTS}
        counts = {fault: len(found) for fault, found in each.items()}
        new = {fault: sum(operation in trials.new for operation in found) for fault, found in each.items()}
        log.add({"case": name, "operations": counts, **({"new": new} if args.new and not args.case else {})})
        for fault in faults:
            found, stopped = _disturbed(trials, fault, args, log, began + 60 * args.minutes)
            faulty += found
            if stopped:
                print(f"{faulty} wrong; the time is up; the same command with its --log continues")
                return int(faulty > 0)
    print(f"{faulty} wrong; {time.monotonic() - began:.0f} s")
    return int(faulty > 0)


def _disturbed(trials: Trials, fault: str, args: argparse.Namespace, log: Log, until: float) -> tuple[int, bool]:
    """Try a fault at the chosen operations of a case; return how many were wrong, and whether the time is up."""
    counts = Counter[str]()
    stopped = False
    for operation in trials.chosen(fault, args.most, args.seed):
        if operation.number < args.first or (args.new and operation not in trials.new):
            continue
        if args.again and (trials.name, fault, operation.number) not in log.failed:
            continue
        result = log.done.get((trials.name, fault, operation.number))
        if result is None:
            if stopped := time.monotonic() > until:
                break
            result = trials.trial(fault, operation)
            line = {"case": trials.name, "fault": fault, "n": operation.number, "operation": operation.name}
            log.add({**line, "path": operation.path, **result})
        counts[result["end"]] += 1
        if result["wrong"]:
            counts["WRONG"] += 1
            where = f"{operation.number} ({operation.name} {operation.path})"
            print(f"{trials.name}, {fault} at {where}:", *result["wrong"], sep="\n    ", flush=True)
    said = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    tried, all_of = counts.total() - counts["WRONG"], len(trials.chosen(fault, 0, 0))
    print(f"{trials.name:32}{fault:9}{tried:5} of {all_of:5} operations: {said or '-'}", flush=True)
    return counts["WRONG"], stopped


def _succeed(end: End, words: list[str]) -> None:
    if end.code:
        raise SystemExit(f"{' '.join(words)}: exit code {end.code}\n{end.text}")


if __name__ == "__main__":
    sys.exit(main())
