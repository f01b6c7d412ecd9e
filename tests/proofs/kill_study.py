"""Kill workers of a study, and the command itself, at random moments; resume it, and look at what it has become.

    python tests/proofs/kill_study.py [--repeats 10] [--seed 0] [--config configs/tune/quick.yaml] [--trials 20]
                                      [--keep FOLDER] [--json benchmarks/results/kill-study.json]

A repeat runs `foretrain tune CONFIG` with two workers. SIGKILL meets, at moments that --seed and the repeat determine,

storage lock  a worker while it holds the lock of the journal, with half a line written
claim lock    a worker while it holds the lock under which trials are taken
mid-trial     a worker in a trial, after at least one validation
command       the command; its workers end by themselves, at their trials' next checkpoints
all           the command and all workers at once, and half a line is left as the last one of journal.jsonl

in a shuffled order; after `command` and `all`, `foretrain tune resume` goes on. To hold a worker at a lock it is
stopped (SIGSTOP), and killed if the lock is still its own.

Afterwards: as many trials as were asked for, of distinct values, none running or waiting, the same in the records, in
the journal and in trials.jsonl; every training step of a trial logged once; no lease, lock or scratch file; the best
trial of the records is Optuna's own; the losses of complete trials fit together; and each trial that was killed and
gone on with has, run anew without a kill, the same curve and values. If anything differs, a line lists it and the exit
code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
KINDS = ("storage lock", "claim lock", "mid-trial", "command", "all")
WORKERS = 2
TORN = b'{"op_code": 4, "worker_id": "to'
PATIENCE = 600.0  # seconds for what must come


class Command:
    """`foretrain tune` on a folder, and the kills of its workers."""

    def __init__(self, words: list[str], study: Path, log: Path) -> None:
        self.study = study
        with log.open("ab") as stream:
            environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(
                [sys.executable, "-m", "foretrain", "tune", *words],
                stdout=stream, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            )  # fmt: skip

    def ended(self) -> bool:
        return self.process.poll() is not None

    def workers(self) -> list[int]:
        """Return the processes of workers of this study."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                words = path.read_bytes().split(b"\0")
                if b"foretrain.tuning.worker" in words and os.fsencode(self.study) in words:
                    found.append(int(path.parent.name))
        return found

    def kill_holder(self, name: str, torn: bool) -> bool:
        """Kill the worker that is next to hold a lock; return False if the command ended before."""
        path, journal = self.study / name, self.study / "journal.jsonl"
        while not self.ended():
            pid = self._holder(path)
            if pid is None or pid == self.process.pid:
                continue  # it is held for a millisecond or so: without a pause
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                if self._holder(path) == pid and pid in self.workers():
                    if torn:
                        with journal.open("ab") as file:
                            file.write(TORN)
                    os.kill(pid, signal.SIGKILL)
                    return True
                os.kill(pid, signal.SIGCONT)
        return False

    @staticmethod
    def _holder(path: Path) -> int | None:
        with suppress(OSError, ValueError, KeyError):
            return int(json.loads(path.read_text())["pid"])
        return None

    def kill_in_trial(self, rng: random.Random) -> bool:
        """Kill a worker that is in a trial; return False if the command ended before."""
        while not self.ended():
            time.sleep(rng.uniform(0.01, 0.3))
            leases = list((self.study / "leases").glob("*.json"))
            rng.shuffle(leases)
            for lease in leases:
                with suppress(OSError, ValueError, KeyError, TypeError):
                    holder = json.loads(lease.read_text())["holder"]
                    if holder.get("step", 0) > 0 and holder["pid"] in self.workers():
                        os.kill(holder["pid"], signal.SIGKILL)
                        return True
        return False

    def kill(self, workers: bool) -> None:
        """Kill the command, with or without its workers, and wait until all have ended."""
        found = self.workers() if workers else []
        self.process.kill()
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        wait(lambda: not self.workers())
        if workers:
            with (self.study / "journal.jsonl").open("ab") as file:
                file.write(TORN)


def wait(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"what was waited for did not come in {PATIENCE:.0f} s")
        time.sleep(0.05)


def repeat(args: argparse.Namespace, number: int, folder: Path) -> dict[str, Any]:
    """Run a study with its kills to its end; return what was done, and what is wrong."""
    rng = random.Random(f"{args.seed}/{number}")
    kinds = [*KINDS, *rng.choices(KINDS, k=2)]
    rng.shuffle(kinds)
    study, log, began = folder / "study", folder / "command.log", time.monotonic()
    settings = [f"trials={args.trials}", f"workers={WORKERS}", f"output_dir={study}", "set.training.log_every=1"]
    first, done = [str(args.config), *settings], Counter[str]()
    command, wrong = Command(first, study, log), []
    for kind in kinds:
        wait(lambda command=command: command.ended() or (study / "trials").is_dir())
        time.sleep(rng.uniform(0.0, 4.0))
        if command.ended():
            break
        if kind in ("command", "all"):
            command.kill(workers=kind == "all")
            done[kind] += 1
            command = Command(["resume", str(study)], study, log)
        elif kind == "mid-trial":
            done[kind] += command.kill_in_trial(rng)
        else:
            torn = kind == "storage lock"
            done[kind] += command.kill_holder("journal.jsonl.lock" if torn else "claims.lock", torn)
    code = command.process.wait()
    if code:
        wrong.append(f"exit code {code}: {log.read_text()[-500:]!r}")
    said = log.read_text()
    found = {"kills": dict(done), "seconds": round(time.monotonic() - began), "restarts": said.count("it starts anew")}
    with suppress(Exception):
        found |= counts(study)
    return {**found, "wrong": [*wrong, *faults(study, args.trials)]}


def counts(study: Path) -> dict[str, Any]:
    """Return in how many processes the trials of a study were made."""
    from foretrain.tuning.study import open_study

    records = open_study(study).records()
    states = dict(Counter(record.state for record in records))
    return {"states": states, "gone_on_with": sum(record.attempts > 1 for record in records)}


def faults(path: Path, trials: int) -> list[str]:
    """Return what is wrong in the folder of a study that has ended."""
    from optuna.trial import TrialState

    from foretrain.tuning.losses import loss_matrix
    from foretrain.tuning.study import open_study, ranked
    from foretrain.tuning.worker import open_optuna

    study, wrong = open_study(path), list[str]()
    records, optuna = study.records(), open_optuna(study)
    told = optuna.get_trials()
    if [record.number for record in records] != list(range(-1, trials)):
        wrong.append(f"records of {[record.number for record in records]}")
    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    if len(told) != trials or any(trial.state not in states.values() for trial in told):
        wrong.append(f"trials of the storage: {Counter(trial.state.name for trial in told)}")
    if len({json.dumps(trial.params, sort_keys=True) for trial in told}) != len(told):
        wrong.append("two trials have the same values")
    for record, trial in zip(records[1:], told, strict=False):
        curve = {point.step: point.value for point in record.curve}
        values = tuple(trial.values) if trial.values and trial.state == TrialState.COMPLETE else None
        if record.message.endswith("workers died in it"):  # three, by chance of the kills: it has failed, as documented
            curve = trial.intermediate_values
        of_storage = (trial.params, trial.state, trial.intermediate_values, values)
        if (record.params, states[record.state], curve, record.values) != of_storage:
            wrong.append(f"trial {record.number}: its record says {record}, the storage {of_storage}")
    lines = [json.loads(line)["number"] for line in (path / "trials.jsonl").read_text().splitlines()]
    if lines != [record.number for record in records]:
        wrong.append(f"trials.jsonl has {lines}")
    best = ranked(records, study.directions)[0]
    if best.number != optuna.best_trial.number or best.values != tuple(optuna.best_trial.values):
        wrong.append(f"best by the records: {best.number}, by the storage: {optuna.best_trial.number}")
    for record in records:
        wrong += steps_wrong(study.trial(record.number), record)
        if record.attempts > 1 and record.state != "failed":
            wrong += not_repeated(study, record)
    loss_matrix({one.number: study.trial(one.number) for one in records if one.state == "complete"})
    left = [one for one in path.rglob("*") if one.suffix == ".lock" or one.name.startswith((".", "tmp"))]
    left += [*(path / "leases").iterdir()]
    return wrong + ([f"left: {sorted({str(one.relative_to(path)) for one in left})[:10]}"] if left else [])


def steps_wrong(folder: Path, record: Any) -> list[str]:
    """Return what is wrong in the journal of a trial's run: each step once, in order."""
    from foretrain.training.journal import read_journal

    steps = [line["step"] for line in read_journal(folder / "fold-0" / "metrics.jsonl") if line["kind"] == "train"]
    if record.message.endswith("workers died in it"):
        return [] if steps == list(range(1, len(steps) + 1)) else [f"trial {record.number} logged {steps[:200]}"]
    if steps == list(range(1, record.steps + 1)) and record.state != "failed":
        return []
    return [f"trial {record.number} ({record.state}, {record.steps} steps) logged {len(steps)} steps: {steps[:200]}"]


def not_repeated(study: Any, record: Any) -> list[str]:
    """Return how a trial that was killed differs from one of the same values that was not."""
    from foretrain.tuning.trial import run_trial

    last = record.steps if record.state == "pruned" else None
    with tempfile.TemporaryDirectory() as name:
        again = run_trial(
            study.config, record.number, record.params, Path(name), source=record.source,
            report=lambda step, value: step == last,
        )  # fmt: skip
    if (again.values, again.curve, again.metrics) == (record.values, record.curve, record.metrics):
        return []
    return [f"trial {record.number} after a kill: {record.curve}, without one {again.curve}"]


def main() -> int:
    """Run the repeats, print a line for each, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "tune" / "quick.yaml")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="folder for studies in which something is wrong")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = []
    for number in range(args.repeats):
        with tempfile.TemporaryDirectory(prefix="kill-study-") as name:
            found.append(one := repeat(args, number, Path(name)))
            print(json.dumps({"repeat": number, **one}), flush=True)
            if one["wrong"] and args.keep is not None:
                shutil.copytree(name, args.keep / str(number), dirs_exist_ok=True)
        if args.json is not None:
            args.json.write_text(json.dumps(summary(args, found), indent=1) + "\n")
    print(json.dumps(told := summary(args, found)))
    return int(told["repeats_wrong"] > 0)


def summary(args: argparse.Namespace, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the counts of repeats."""
    return {
        "machine": f"{platform.machine()} ({os.cpu_count()} cores)",
        "settings": {"seed": args.seed, "trials": args.trials, "workers": WORKERS, "config": args.config.stem},
        "repeats": len(found),
        "kills": dict(sum((Counter(one["kills"]) for one in found), Counter[str]())),
        "restarts": sum(one["restarts"] for one in found),
        "trials_gone_on_with": sum(one.get("gone_on_with", 0) for one in found),
        "repeats_wrong": sum(bool(one["wrong"]) for one in found),
        "seconds": [one["seconds"] for one in found],
    }


if __name__ == "__main__":
    sys.exit(main())
