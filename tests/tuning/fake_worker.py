"""A worker whose trials cost nothing: `python fake_worker.py FOLDER NAME`.

A step appends a line to steps.txt of the trial, which is its checkpoint too. FAKE_GATE names a file for which trials
from number 1 on wait after two steps. FAKE_HOLD names a file that a worker
makes when it holds the journal's lock with half a line written, where it stays until it is killed.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from foretrain.tuning.config import TuneConfig
from foretrain.tuning.records import CurvePoint, Source, TrialRecord
from foretrain.tuning.space import Candidate

STEPS = 5


def fake_trial(
    config: TuneConfig,
    number: int,
    candidate: Candidate,
    folder: Path,
    *,
    source: Source,
    report: Callable[[int, float], bool],
) -> TrialRecord:
    """Run STEPS steps; what a run before did is not done again."""
    log = folder / "steps.txt"
    pause, gate = float(os.environ.get("FAKE_PAUSE", "0")), os.environ.get("FAKE_GATE")
    done = len(log.read_text().splitlines()) if log.exists() else 0
    curve, pruned = [], False
    for step in range(1, STEPS + 1):
        value = loss(candidate) + 1 / step
        while gate and number >= 1 and step == 3 and not Path(gate).exists():
            time.sleep(0.01)
        if step > done:
            with log.open("a") as file:
                file.write(f"{step} {os.getpid()}\n")
            time.sleep(pause)
        curve.append(CurvePoint(fold=0, step=step, value=value))
        if report(step, value):
            pruned = True
            break
    return TrialRecord(
        number=number,
        state="pruned" if pruned else "complete",
        source=source,
        params=candidate,
        values=None if pruned else (curve[-1].value or 0.0,) * len(config.objectives),
        curve=tuple(curve),
        steps=len(curve),
        constraints={"memory_gb": float(candidate.get("rate") or 0)} if config.constraints.memory_gb else {},
    )


def loss(candidate: Candidate) -> float:
    """Least at 0.01."""
    rate = candidate.get("rate")
    return abs(math.log10(rate) + 2) if isinstance(rate, float) else 1.5


def hold(signal_file: Path) -> None:
    """Let the third append of this process stop in its middle."""
    from foretrain.tuning.storage import StudyJournal

    usual, count = StudyJournal.append_logs, 0

    def append(journal: StudyJournal, logs: list[dict]) -> None:
        nonlocal count
        count += 1
        if count < 3:
            usual(journal, logs)
            return
        with journal._lock.held(), journal.path.open("ab") as file:
            file.write(b'{"op_code": 4, "worker_id": "to')
            file.flush()
            signal_file.touch()
            time.sleep(3600)

    StudyJournal.append_logs = append  # type: ignore[method-assign]


if __name__ == "__main__":
    from foretrain.tuning.worker import work

    if "FAKE_HOLD" in os.environ:
        hold(Path(os.environ["FAKE_HOLD"]))
    sys.exit(work(Path(sys.argv[1]), sys.argv[2], fake_trial))
