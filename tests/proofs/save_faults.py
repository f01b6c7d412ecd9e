"""Disturb every file operation of one checkpoint save, and every file of a checkpoint, and look at what a resume does.

    python tests/proofs/save_faults.py [--cases new,again] [--faults kill,eio,damage] [--most 0] [--log FILE] [--list]

The list of operations is recorded from the save itself, by the shim of fault_files.py. There are four cases: the third
checkpoint of a run, which deletes the first (new), and that of a step that was saved before its validation, which a
signal had postponed (again), each written at once and in the background. Each operation is disturbed in turn, in a
forked process:

enospc, short, erofs, eio, eio-read, kill    as in fault_files.py
part       a write writes a half and says so; all else is well
damage     no operation fails, but after the save and a kill one file of the checkpoint has a bit flipped at one of
           PLACES places, is cut, longer, empty, gone, or the one of the checkpoint before (of `new`)

Then: the run has ended with exit code 0, with 2 and one line, or by the kill. Every checkpoint is either named by
checkpoint.damage or has the tensors and the state of the undisturbed run; a damaged one is named. The same command with
--resume starts at most one checkpoint interval before the disturbed one (of `again` at it) and ends with the loss
curve, weights, checkpoints and files of the undisturbed run. From the list alone: every file is synced after its last
write and before the rename that makes it a checkpoint, and the folder of the checkpoints after that.

Nothing is drawn. --most: as many operations of each case and fault, evenly spaced (0: all). --log: JSON lines, one per
trial, which a later call continues. The exit code is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fault_log import read_log, write_log
from fault_shim import FAULTS, FREES, End, Operation, arm, forked, logged, with_shim
from kill_resume import tensors_hash, traces

from conftest import Kit
from foretrain.errors import ForetrainError
from foretrain.training.checkpoint import CheckpointManager
from foretrain.training.interrupt import Interrupted
from foretrain.training.manifest import damage, read_state
from foretrain.training.trainer import ValidationResult

EVERY, DISTURBED, STEPS = 2, 6, 8  # steps between checkpoints, the step whose save is disturbed, those of the run
PART = {"part": ("w", errno.ENOSPC, 5)}
PLACES = 9  # of each file: the first byte, the last, and those evenly between; bit n of place n
CASES = {f"{kind}, {how}": (kind, how) for kind in ("new", "again") for how in ("at once", "in the background")}


class Postponed(Kit.Source):
    """A source that asks for the end of the run, by SIGTERM, so that it ends at DISTURBED without a validation."""

    def windows(self, first: int, count: int) -> Any:
        if first == 8 * (DISTURBED - 2):
            os.kill(os.getpid(), signal.SIGTERM)
        return super().windows(first, count)


def train(out: Path, background: bool, source: Any = None) -> None:
    """Start or resume the run."""

    def evaluate(model: Any, step: int) -> ValidationResult:
        return ValidationResult({"loss": abs(step - DISTURBED) + 1.0})

    trainer = Kit.trainer(
        out,
        model=Kit.Model(dropout=0.2),
        source=source or Kit.Source(),
        evaluate=evaluate,
        resume="auto",
        max_steps=STEPS,
        ema_decay=0.99,
        validate_every=EVERY,
        checkpoint_every=EVERY,
        prefetch=0,
        checkpoint_in_background=background,
    )
    try:
        trainer.fit()
    except ForetrainError as error:
        print(f"error: {error}")
        raise SystemExit(2) from None
    except Interrupted as end:
        raise SystemExit(end.exit_code) from None


def at_the_save(before: Callable[[], None], after: Callable[[], None] | None = None, of: int = DISTURBED) -> None:
    """Call functions before the save of a step begins and once it is complete."""
    real = CheckpointManager.save

    def save(self: CheckpointManager, step: int, *arguments: Any, **keywords: Any) -> None:
        if step == of:
            self.wait()  # the save before has operations of its own
            before()
        real(self, step, *arguments, **keywords)
        if step == of and after is not None:
            self.wait()
            after()

    CheckpointManager.save = save


def contents(checkpoint: Path) -> dict[str, Any]:
    """Return what a checkpoint says: hashes of its tensors, and its state without what may differ."""
    state = {key: value for key, value in read_state(checkpoint).items() if key not in ("totals", "config")}
    state["progress"].pop("validation_due")
    tensors = {path.name: tensors_hash(path) for path in sorted(checkpoint.glob("*.safetensors"))}
    return {**tensors, "state": json.dumps(state, sort_keys=True)}


class Trials:
    """The trials of one case."""

    def __init__(self, case: str, base: Path) -> None:
        (self.kind, how), self.base, self.out = CASES[case], base, base / "run"
        self.background = how != "at once"
        self.whole = self._undisturbed()
        self.start = base / "start"  # what the disturbed process finds
        self._prepare()
        self.known = [self.contents, {path.name: contents(path) for path in self.start.glob("checkpoints/step-*")}]
        self.operations = self._recorded()
        self._reset()
        expect(self._fork(lambda: at_the_save(lambda: None, self._die)), -signal.SIGKILL)
        self.saved = base / "saved"
        shutil.rmtree(self.saved, ignore_errors=True)
        self.out.rename(self.saved)
        files = {path.name for path in (self.saved / "checkpoints" / f"step-{DISTURBED:08d}").iterdir()}
        if unseen := files - {Path(o.path).name for o in self.operations if o.name == "create"}:
            raise SystemExit(f"{case}: the shim has not seen how these files came about: {unseen}")

    def _fork(self, prepare: Callable[[], None], source: Any = None) -> End:
        def work() -> None:
            prepare()
            train(self.out, self.background, source)

        return forked(work)

    @staticmethod
    def _die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _undisturbed(self) -> dict[str, str]:
        """Train the run once, with all checkpoints set aside as they are made; return its traces."""
        shutil.rmtree(self.out, ignore_errors=True)
        kept = self.base / "kept"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        real = CheckpointManager.prune

        def prune(manager: CheckpointManager) -> None:
            for info in manager.list_complete():
                shutil.copytree(info.path, kept / info.path.name, dirs_exist_ok=True)
            real(manager)

        def prepare() -> None:
            CheckpointManager.prune = prune

        expect(self._fork(prepare), 0)
        self.contents = {path.name: contents(path) for path in kept.iterdir()}
        if sorted(self.contents) != [f"step-{step:08d}" for step in range(EVERY, STEPS + 1, EVERY)]:
            raise SystemExit(f"the undisturbed run saved {sorted(self.contents)}")
        return traces(self.out)

    def _prepare(self) -> None:
        """Make what the disturbed process finds: a run that was killed, or stopped, after the save before."""
        shutil.rmtree(self.start, ignore_errors=True)
        shutil.rmtree(self.out)
        if self.kind == "again":
            expect(self._fork(lambda: None, Postponed()), 143)
        else:
            expect(self._fork(lambda: at_the_save(lambda: None, self._die, DISTURBED - EVERY)), -signal.SIGKILL)
        self.out.rename(self.start)

    def _reset(self, start: Path | None = None) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.copytree(start or self.start, self.out, symlinks=True)

    def _recorded(self) -> list[Operation]:
        self._reset()
        with tempfile.TemporaryFile() as log:
            folder = self.out / "checkpoints"

            def prepare() -> None:
                at_the_save(lambda: arm(folder, ("w", 0, 0, 0), log.fileno()), self._die)

            expect(self._fork(prepare), -signal.SIGKILL)
            log.seek(0)
            return logged(log.read())

    def chosen(self, fault: str, most: int) -> list[Operation]:
        """Return the operations that a fault disturbs; of `damage` the files that it damages, as operations."""
        if fault == "damage":
            if self.kind == "again":
                return []  # it has the files of `new`
            folder = self.saved / "checkpoints" / f"step-{DISTURBED:08d}"
            kinds = [*(f"flip {n}" for n in range(PLACES)), "cut", "last byte", "longer", "empty", "gone", "stale"]
            pairs = [(kind, path.name) for path in sorted(folder.iterdir()) for kind in kinds]
            found = [Operation("w", n, kind, name) for n, (kind, name) in enumerate(pairs, 1)]
        else:
            kind = (FAULTS | PART)[fault][0]
            writes = fault in ("short", "part")
            found = [o for o in self.operations if o.kind == kind and (not writes or o.name == "write")]
        count = min(most or len(found), len(found))
        return [found[int((k + 0.5) * len(found) / count)] for k in range(count)]

    def trial(self, fault: str, operation: Operation) -> dict[str, Any]:
        """Disturb the save or damage what it saved, then resume; return how it ended and what was wrong."""
        wrong: list[str | None] = []
        if fault == "damage":
            self._reset(self.saved)
            path = self.out / "checkpoints" / f"step-{DISTURBED:08d}" / operation.path
            spoil(path, operation.name, self.out / "checkpoints" / f"step-{DISTURBED - EVERY:08d}" / operation.path)
            end = End(-signal.SIGKILL, "")
            if damage(path.parent) is None:
                wrong.append("the damage is not found")
        else:
            kind, error, mode = (FAULTS | PART)[fault]
            self._reset()
            folder, at = self.out / "checkpoints", operation.number
            end = self._fork(lambda: at_the_save(lambda: arm(folder, (kind, at, error, mode))))
            wrong.append(end.wrong(self.out, fault == "kill"))
            if fault == "part" and end.code:
                wrong.append("a short write is not continued")
            if fault == "kill" and end.code != -signal.SIGKILL:
                wrong.append("was not killed")
        wrong += self._unlike()
        deletes = operation.name in FREES or operation.path.startswith((".trash-", ".former-"))
        deletes |= operation.path == "."  # a replaced checkpoint stays until its replacement is synced
        may_be_left = end.code and (fault in ("erofs", "kill", "damage") or deletes)  # later saves delete what is left
        if not may_be_left and (left := [*(self.out / "checkpoints").glob(".*")]):
            wrong.append(f"left: {left}")
        wrong += self._resumed(DISTURBED if self.kind == "again" and fault != "damage" else DISTURBED - EVERY)
        said = " ".join(end.text.strip().splitlines()[-1:]).replace(str(self.out), "")[:160]
        outcome = "killed" if end.code < 0 else "refused" if end.code else "done"
        resumed = (json.loads((self.out / "environment.json").read_text()) or [{}])[-1].get("step")
        return {"end": outcome, "resumed": resumed, "said": said, "wrong": [text for text in wrong if text]}

    def _unlike(self) -> list[str]:
        """Return which checkpoints are neither named as damaged nor as in the undisturbed run."""
        found = []
        for path in sorted((self.out / "checkpoints").glob("step-*")):
            if damage(path) is None and contents(path) not in [known.get(path.name) for known in self.known]:
                keys = [key for key, value in self.contents[path.name].items() if contents(path).get(key) != value]
                found.append(f"{path.name} differs: {keys}")
        return found

    def _resumed(self, lowest: int) -> list[str]:
        """Resume, undisturbed; return what is wrong then. lowest: the step from which it may start."""
        end = self._fork(lambda: None)
        if end.code:
            return [f"the resume ended with {end.code}: {end.text.strip()[-300:]}"]
        first = json.loads((self.out / "environment.json").read_text())[-1]["step"]
        found = [f"resumed from step {first}"] if first < lowest else []
        for path in (self.out / "checkpoints").glob("damaged-step-*"):  # set aside, for the user to look at
            shutil.rmtree(path)
        now = traces(self.out)
        if different := [name for name in self.whole.keys() | now.keys() if self.whole.get(name) != now.get(name)]:
            found.append(f"differs from the undisturbed run: {sorted(different)[:5]}")
        return found

    def unsynced(self) -> list[str]:
        """Return what a power cut could take from a checkpoint that a rename has made, by the list of operations."""
        scratch, dirty, found = f".tmp-step-{DISTURBED:08d}", set[str](), list[str]()
        for operation in self.operations:
            folder = operation.path.rpartition("/")[0] or "."
            if operation.name in ("create", "write", "truncate"):
                dirty |= {operation.path, folder}
            elif operation.name == "fsync":
                dirty.discard(operation.path)
            elif operation.name == "rename" and operation.path == f"step-{DISTURBED:08d}":
                found = sorted(path for path in dirty if path.startswith(scratch))
                dirty.add(folder)
            elif operation.name == "rename" and operation.path.startswith(".trash-"):  # before one is deleted
                found += ["."] * ("." in dirty)
        return found + ["."] * ("." in dirty)


def spoil(path: Path, how: str, stale: Path) -> None:
    """Damage a file as chosen() names it."""
    content = path.read_bytes()
    if how.startswith("flip"):
        n = int(how.split()[1])
        at = (len(content) - 1) * n // (PLACES - 1)
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << n % 8]) + content[at + 1 :])
    elif how == "gone":
        path.unlink()
    elif how == "stale":
        path.write_bytes(stale.read_bytes())
    else:
        cut = {"cut": content[: len(content) // 2], "last byte": content[:-1], "longer": content + b"\0", "empty": b""}
        path.write_bytes(cut[how])


def expect(end: End, code: int) -> None:
    """Raise SystemExit unless a process that nothing disturbs ended as it should."""
    if end.code != code:
        raise SystemExit(f"an undisturbed process ended with {end.code} instead of {code}: {end.text}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the faults, print counts, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="new,again", help="new, again")
    parser.add_argument("--faults", default=",".join([*FAULTS, *PART, "damage"]))
    parser.add_argument("--most", type=int, default=0)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--list", action="store_true", help="print the operations instead")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="save-faults-") as name:
        base = Path(name).resolve()
        code = with_shim(base)
        return _all(args, base) if code is None else code


def _all(args: argparse.Namespace, base: Path) -> int:
    import torch.distributed.checkpoint.hf_storage
    import torch.profiler

    torch.set_num_threads(1)
    done, began, faulty, totals = read_log(args.log), time.monotonic(), 0, Counter[str]()
    for case in [case for case, (kind, _) in CASES.items() if kind in args.cases.split(",")]:
        trials = Trials(case, base)
        if args.list:
            print(case, *(f"  {o.kind} {o.number:4} {o.name:10} {o.path}" for o in trials.operations), sep="\n")
            continue
        if unsynced := trials.unsynced():
            faulty += 1
            print(f"{case}: not synced before the rename: {unsynced}")
        for fault in args.faults.split(","):
            counts = Counter[str]()
            for operation in trials.chosen(fault, args.most):
                result = done.get((case, fault, operation.number))
                if result is None:
                    result = trials.trial(fault, operation)
                    write_log(args.log, case, fault, operation, result)
                counts[f"{result['end']}, resumed from {result['resumed']}"] += 1
                if result["wrong"]:
                    faulty += 1
                    print(f"{case}, {fault} at {operation.number} ({operation.name} {operation.path}):", flush=True)
                    print(*(f"    {text}" for text in result["wrong"]), sep="\n", flush=True)
            totals["trials"] += counts.total()
            totals["kills"] += counts.total() if fault == "kill" else 0
            said = "; ".join(f"{count} {what}" for what, count in sorted(counts.items()))
            print(f"{case:26}{fault:9}{counts.total():5}: {said or '-'}", flush=True)
    print(
        f"{totals['trials']} trials, {totals['kills']} of them kills; {faulty} wrong; {time.monotonic() - began:.0f} s"
    )
    return int(faulty > 0)


if __name__ == "__main__":
    sys.exit(main())
