"""Script of test_interrupt.py: toy runs in forked processes that receive signals. Arguments: folder. Prints JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from itertools import repeat
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import torch.distributed.checkpoint  # so that forks need not import it

from conftest import Kit
from foretrain.training.interrupt import Interrupted
from foretrain.training.trainer import ValidationResult

HOUR = 3600.0  # what waits for it fails by the deadline of a test


class Slow(Kit.Source):
    """A slow source, so that a signal arrives during a step."""

    seconds = 0.02

    def windows(self, first: int, count: int) -> Any:
        time.sleep(self.seconds)
        return super().windows(first, count)


class Stuck(Slow):
    """Stuck from the fourth step on."""

    first = 8 * 3

    def windows(self, first: int, count: int) -> Any:
        if first >= self.first:
            time.sleep(HOUR)
        return super().windows(first, count)


class StuckAtFirst(Stuck):
    first = 0


def start(out: Path, **settings: Any) -> int:
    """Start a run in a forked process, which exits with the code of the signal."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        torch.set_num_threads(1)
        defaults = {"source": Slow(), "max_steps": 2000, "checkpoint_every": None, "resume": "auto", "prefetch": 0}
        Kit.trainer(out, **{**defaults, **settings}).fit()
        code = 0
    except Interrupted as stop:
        code = stop.exit_code
    except KeyboardInterrupt:
        code = 99
    os._exit(code)


def signalled(out: Path, numbers: Iterable[int], ready: Any, pause: float = 0.0, **settings: Any) -> int:
    """Start a run, wait until ready(), send signals with pauses until the process exits; return its exit code."""
    pid = start(out, **settings)
    while not ready():
        time.sleep(0.01)
    for number in numbers:
        os.kill(pid, number)
        time.sleep(pause)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    root = Path(sys.argv[1])

    def steps(name: str, count: int) -> Any:
        path = root / name / "metrics.jsonl"
        return lambda: path.exists() and path.read_text().count('"kind": "train"') >= count

    def lengthy(model: Any, step: int) -> ValidationResult:
        (root / "evaluate" / "began").touch()
        time.sleep(HOUR)
        return ValidationResult({"loss": 1.0})

    both = {"validate_every": 4}
    print(
        json.dumps(
            {
                "int": signalled(root / "int", (signal.SIGINT,), steps("int", 3)),
                "term": signalled(root / "term", (signal.SIGTERM,), steps("term", 3)),
                # torchrun passes on what the terminal has sent already
                "twice": signalled(root / "twice", (signal.SIGINT, signal.SIGINT), steps("twice", 3), pause=0.01),
                "impatient": signalled(
                    root / "impatient",
                    repeat(signal.SIGINT),  # the first may be noticed late: the second is then no second one yet
                    steps("impatient", 3),
                    pause=1.2,
                    source=Stuck(),
                ),
                "usr1": signalled(root / "usr1", (signal.SIGUSR1,), steps("usr1", 3)),
                "first": signalled(
                    root / "first", (signal.SIGUSR1,), (root / "first" / "metrics.jsonl").exists, source=StuckAtFirst()
                ),
                "evaluate": signalled(
                    root / "evaluate", (signal.SIGTERM,), (root / "evaluate" / "began").exists, evaluate=lengthy, **both
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
