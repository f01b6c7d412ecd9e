"""Let the n-th file operation of commands fail, or kill them there, and look at what they leave and at the next run.

    python tests/proofs/fault_files.py [--case train,export] [--faults kill,eio] [--most 40] [--seed 0]
                                       [--from 0] [--minutes 60] [--log FILE]

fault_shim.c, built with `cc` and loaded before libc, counts the operations of a command on files of its folder: those
that change something (create, write, sync, rename, link, delete, ...) and those that read. A clean run of each command
of fault_cases.py gives their number; then each is disturbed in turn, in a forked process:

enospc     operation n fails, and after it all that need space
short      a write writes a half; after it all that need space fail
erofs      operation n and all after it that change something fail
eio        operation n fails, once
eio-read   reading operation n fails, once
kill       the process is killed before operation n

Afterwards the command must have ended with exit code 2 and one line, or with 0 (and a warning or the whole result), or
by the kill; each of its outputs must be as before or as after a clean run, whole; everything else unchanged; and
where files can be deleted, no scratch file may be left. Then the same command runs undisturbed: everything must be as
after a clean run, file by file, or it must be refused because its result is there.

--most: of operations that differ in numbers only, all first ones and a seeded sample are tried, up to so many per case
and fault (0: every operation). --log: a file of JSON lines, one per trial, which a later call continues. The exit code
is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("fault_shim.c")
SECONDS = 120
FAULTS = {  # name: (kind of operations, errno, what happens after n: ONCE, FULL, ALL, SHORT, KILL)
    "enospc": ("w", errno.ENOSPC, 1),
    "short": ("w", errno.ENOSPC, 3),
    "erofs": ("w", errno.EROFS, 2),
    "eio": ("w", errno.EIO, 0),
    "eio-read": ("r", errno.EIO, 0),
    "kill": ("w", 0, 4),
}
FREES = ("unlink", "rmdir", "rename")  # an operation that fails to delete leaves something, once
OWN = ("cache", "tmp")  # folders of the user's cache and of temporary files


@dataclass(frozen=True)
class Operation:
    """The n-th operation of its kind ("w" or "r") of a clean run."""

    kind: str
    number: int
    name: str
    path: str

    @property
    def sort(self) -> tuple[str, str]:
        """What it is, without the numbers and random names in its path."""
        return self.name, re.sub(r"[0-9a-f]{6,}|\d+", "#", self.path)


@dataclass(frozen=True)
class End:
    """How a command ended: its exit code (negative: by a signal) and what it printed."""

    code: int
    text: str

    def wrong(self, folder: Path, may_be_killed: bool) -> str | None:
        """Return what is wrong about how a disturbed command ended."""
        reports = [*folder.rglob("foretrain-error-*")]
        if reports or "Traceback" in self.text:
            body = reports[0].read_text() if reports else self.text
            frames = [line.strip() for line in body.splitlines() if "/foretrain/" in line]
            for path in reports:
                path.unlink()
            return f"traceback: {frames[-1] if frames else ''} {self.text.strip().splitlines()[-1:]}"
        if self.code == -signal.SIGKILL and may_be_killed:
            return None
        errors = [line for line in self.text.splitlines() if line.startswith("error: ")]
        if (self.code, len(errors)) not in ((0, 0), (2, 1)):
            return f"exit code {self.code}: {self.text.strip()[-300:]!r}"
        return None


def compiled(folder: Path) -> Path:
    """Build the shim; SystemExit where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise SystemExit("no C compiler (cc, gcc, clang) is in the PATH: file operations cannot be disturbed")
    library = folder / "fault_shim.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


def run(words: list[str], folder: Path, fault: tuple[str, int, int, int] | None = None, log: int = -1) -> End:
    """Run a command in a fork, in its folder. fault: (kind, n, errno, mode); n = 0 counts only."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.dup2(write, 1)
            os.dup2(write, 2)
            signal.alarm(SECONDS)
            os.chdir(folder)
            tempfile.tempdir = str(folder / "tmp")
            sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(os.dup(write), "wb"), "utf-8") for _ in range(2))
            sys.argv = ["foretrain", *words]
            from foretrain.cli import main

            if fault is not None:
                kind, number, error, mode = fault
                arm = ctypes.CDLL(None).fault_arm
                arm.argtypes = [ctypes.c_char_p, *[ctypes.c_int] * 1, ctypes.c_char, ctypes.c_long, *[ctypes.c_int] * 2]
                arm(os.fsencode(folder), log, kind.encode(), number, error, mode)
            try:
                main()
                code = 0
            except SystemExit as leave:
                code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        text = said.read().decode("utf-8", "replace")
    return End(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text)


def snapshot(folder: Path) -> dict[str, str]:
    """Return {path: sha256, or the target of a link, or "" of a folder} of everything below a folder.

    Times of this day in JSON do not count, nor does the order of the tensors in a file, nor hashes of such files.
    """
    found = {}
    days = {time.strftime("%Y-%m-%d", moment) for moment in (time.localtime(), time.gmtime())}
    now = re.compile(rf"({'|'.join(days)})[T ][0-9:.]+(Z|[+-][0-9:]+)?".encode())
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.split("/")[0] not in OWN:
            is_file = path.is_file() and not path.is_symlink()
            raw = path.read_bytes() if is_file else b""
            raw = now.sub(b"", raw) if path.suffix == ".json" else raw
            raw = _tensors(raw) if path.suffix == ".safetensors" else raw
            raw = b"" if path.name == "manifest.json" and "checkpoints" in name else raw  # compared by `damages`
            content = hashlib.sha256(raw).hexdigest() if is_file else ""
            found[name] = f"-> {os.readlink(path)}" if path.is_symlink() else content
    return found


def _tensors(raw: bytes) -> bytes:
    """Return the content of a whole safetensors file in an order of its own; torch's varies."""
    try:
        size = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + size])
        parts = {}
        for name, entry in header.items():
            first, last = entry.pop("data_offsets", (0, 0))
            parts[name] = json.dumps(entry, sort_keys=True).encode() + raw[8 + size + first : 8 + size + last]
        parts.pop("__metadata__", None)
        return b"".join(name.encode() + parts[name] for name in sorted(parts))
    except (ValueError, AttributeError):
        return raw  # cut


def hidden(name: str) -> bool:
    """Return True for scratch files, and what is in scratch folders."""
    return any(part.startswith(".") for part in name.split("/"))


class Trials:
    """The trials of one case: what its folder holds before, what a clean run leaves, its operations."""

    def __init__(self, name: str, base: Path) -> None:
        from fault_cases import CASES, damages

        self.name, self.case, self.folder, self._damages = name, CASES[name], base / "one", damages
        self._start, self._common = base / "start", base / "common"
        self._prepare()
        self.old = snapshot(self.folder)
        self.clean, self.operations = self._clean_run()
        again, _ = self._clean_run()
        if self.clean.keys() != again.keys():
            raise SystemExit(f"{name}: two clean runs leave other files: {self.clean.keys() ^ again.keys()}")
        self.volatile = {path for path in self.clean if self.clean[path] != again[path]}  # times of day
        made = {path for path in self.clean.keys() - self.old.keys() if self.clean[path]}
        renamed = {o.path for o in self.operations if o.name == "rename"}
        seen = {o.path for o in self.operations if o.kind == "w"}
        unseen = [p for p in made if p not in seen and not any(p.startswith(f"{r}/") for r in renamed)]
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
            end = run(self.case.words, self.folder, ("w", 0, 0, 0), log.fileno())
            if end.code:
                raise SystemExit(f"{self.name}: {' '.join(self.case.words)}: exit code {end.code}\n{end.text}")
            log.seek(0)
            lines = [line.split("\t", 3) for line in os.fsdecode(log.read()).splitlines()]
        return snapshot(self.folder), [Operation(kind, int(n), name, path) for kind, n, name, path in lines]

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
        may_be_left = fault in ("erofs", "kill") or operation.name in FREES
        ended = end.wrong(self.folder, fault == "kill")
        state = snapshot(self.folder)
        wrong = [ended, *self._broken(state, may_be_left)]
        different = [path for path in self._differences(state) if not path.endswith(".lock")]  # of an ended process
        complete = all(may_be_left and hidden(path) for path in different)
        if end.code == 0 and not complete and not re.search("^warning: | is skipped: ", end.text, re.MULTILINE):
            wrong.append(f"exit code 0, but {different[:4]}")
        if not may_be_left:
            left = [path for path in different if hidden(path) and path in state.keys() - self.old.keys()]
            left = [path for path in left if path.split("/")[0] not in (self.case.kept, *self.case.runs)]
            wrong += [f"left: {left[:4]}"] * bool(left)
        wrong.append(self._next(end))
        said = " ".join(end.text.strip().splitlines()[-1:])[:160]
        return {"end": _outcome(end, complete), "said": said, "wrong": [text for text in wrong if text]}

    def _broken(self, state: dict[str, str], may_be_left: bool) -> list[str]:
        """Return what is neither as before nor as after."""
        found = []
        state = {path: content for path, content in state.items() if not hidden(path)}
        for unit in self.case.outputs:
            now, before, after = (_part(tree, unit) for tree in (state, self.old, self.clean))
            if may_be_left and not any(now.values()):
                continue  # empty folders
            if now not in (before, {}) and (now.keys() != after.keys() or self._unlike(now, after)):
                changed = [p for p in now.keys() | after.keys() if now.get(p) != after.get(p)]
                found.append(f"{unit} is neither as before nor as after: {sorted(changed)[:4]}")
            if now == {} and before:
                found.append(f"{unit} is gone")
        outside = [*self.case.outputs, *self.case.runs]
        for run_folder in self.case.runs:
            found += self._damages(self.folder / run_folder)
            weights = f"{run_folder}/release/model.safetensors"
            if weights in state and state[weights] != self.clean[weights]:
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
            if (path in state) != (path in self.clean)
            or (state[path] != self.clean[path] and path not in self.volatile)
        ]

    def _next(self, end: End) -> str | None:
        """Run the command again, undisturbed; return what is wrong then."""
        again = run(self.case.words, self.folder)
        if again.code == 2 and re.search(
            "exists already|exists, and is not overwritten", again.text
        ):  # it had succeeded
            for unit in self.case.outputs:
                if _part(self.old, unit) == {} and (self.folder / unit).exists():
                    path = self.folder / unit
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            again = run(self.case.words, self.folder)
        if again.code:
            return f"next run: exit code {again.code}: {again.text.strip()[-200:]!r}"
        differences = self._differences(snapshot(self.folder))
        own = [str(p.relative_to(self.folder)) for name in OWN for p in (self.folder / name).rglob("*")]
        own = [path for path in own if hidden(path) or path.startswith("tmp/")]
        return f"next run: {(differences + own)[:4]} differ" if differences or own else None


def _outcome(end: End, complete: bool) -> str:
    if end.code < 0:
        return "killed"
    return "refused" if end.code else "done" if complete else "warned"


def _part(tree: dict[str, str], unit: str) -> dict[str, str]:
    return {path: content for path, content in tree.items() if path == unit or path.startswith(f"{unit}/")}


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
    parser.add_argument("--list", action="store_true", help="print the operations of clean runs instead")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fault-") as name:
        base = Path(name).resolve()
        if "FAULT_SHIM" not in os.environ:
            library = compiled(base)
            environment = {**os.environ, "LD_PRELOAD": str(library), "FAULT_SHIM": "1", "OMP_NUM_THREADS": "1"}
            return subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode
        return _all(args, base)


def _all(args: argparse.Namespace, base: Path) -> int:
    _import_all()
    from fault_cases import CASES, make_common

    os.environ |= {"XDG_CACHE_HOME": str(base / "one" / "cache"), "MPLCONFIGDIR": str(base / "matplotlib")}
    os.environ.pop("LD_PRELOAD")
    (base / "common").mkdir()
    wanted = tuple(args.case.split(",")) if args.case else ("",)
    names = [name for name in CASES if name.startswith(wanted)]
    needs = {need for name in names for need in CASES[name].needs}
    make_common(base / "common", lambda words: _succeed(run(words, base / "common"), words), needs)
    done = _read_log(args.log)
    began, faulty, stopped = time.monotonic(), 0, False
    for name in names:
        trials = Trials(name, base)
        if args.list:
            print(name, *(f"  {o.kind} {o.number:4} {o.name:10} {o.path}" for o in trials.operations), sep="\n")
            continue
        for fault in args.faults.split(","):
            counts = Counter[str]()
            chosen = [o for o in trials.chosen(fault, args.most, args.seed) if o.number >= args.first]
            for operation in chosen:
                result = done.get((name, fault, operation.number))
                if result is None:
                    if stopped := time.monotonic() - began > 60 * args.minutes:
                        break
                    result = trials.trial(fault, operation)
                    _write_log(args.log, name, fault, operation, result)
                counts[result["end"]] += 1
                if result["wrong"]:
                    counts["WRONG"] += 1
                    print(f"{name}, {fault} at {operation.number} ({operation.name} {operation.path}):", flush=True)
                    print(*(f"    {text}" for text in result["wrong"]), sep="\n", flush=True)
            faulty += counts["WRONG"]
            all_of = sum(
                o.kind == FAULTS[fault][0] and (fault != "short" or o.name == "write") for o in trials.operations
            )
            said = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
            tried = counts.total() - counts["WRONG"]
            print(f"{name:32}{fault:9}{tried:5} of {all_of:5} operations: {said or '-'}", flush=True)
            if stopped:
                print("the time is up; the same command with its --log continues")
                return 1
    print(f"{faulty} wrong; {time.monotonic() - began:.0f} s")
    return int(faulty > 0)


def _import_all() -> None:
    """Import what commands import, so that forks need not."""
    sys.path.insert(0, str(Path(__file__).parent))
    import torch
    import torch._dynamo

    import foretrain.cli.commands
    import foretrain.cli.quick_steps
    import foretrain.evaluation.candles
    import foretrain.evaluation.plots
    import foretrain.evaluation.report
    import foretrain.run.export
    import foretrain.run.pipeline
    import foretrain.run.quick  # noqa: F401

    torch.set_num_threads(1)


def _succeed(end: End, words: list[str]) -> None:
    if end.code:
        raise SystemExit(f"{' '.join(words)}: exit code {end.code}\n{end.text}")


def _read_log(path: Path | None) -> dict[tuple[str, str, int], dict[str, Any]]:
    if path is None or not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {(line["case"], line["fault"], line["n"]): line for line in lines}


def _write_log(path: Path | None, name: str, fault: str, operation: Operation, result: dict[str, Any]) -> None:
    if path is not None:
        line = {"case": name, "fault": fault, "n": operation.number, "operation": operation.name}
        with path.open("a", encoding="utf-8") as log:
            log.write(json.dumps({**line, "path": operation.path, **result}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
