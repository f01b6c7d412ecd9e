"""Processes of groups as forks of one that has imported everything once, which takes 5 s of CPU for each that imports.

usage: python -m tests.forks MODULE FOLDER SIZE [SIZE ...]

For each size MODULE's main() runs in so many processes, with FOLDER as the first argument. What they print is in
FOLDER/forks SIZE/RANK.out and .err. Once one fails the others are killed, and the exit code is 1. What must be started
as users start it uses torchrun.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from tests import by_hand

ROOT = Path(__file__).parents[1]


def started(module: str, folder: Path, *sizes: int) -> subprocess.Popen[str]:
    """Start this script; what it prints is in folder/forks.log."""
    with (folder / "forks.log").open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.forks", module, str(folder), *map(str, sizes)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def stop(process: subprocess.Popen[str]) -> None:
    """Kill what has not ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def main() -> int:
    """Fork all processes and wait for them."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    work = importlib.import_module(name).main
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # imports torch._dynamo
    gc.collect()
    gc.freeze()
    running: dict[int, Path] = {}
    sizes, sys.argv = map(int, sys.argv[3:]), [name, str(folder)]
    for size in sizes:
        place = folder / f"forks {size}"
        place.mkdir()
        running |= {
            process: place / str(rank) for rank, process in by_hand.start(size, list(range(size)), place, work).items()
        }
    while running:
        process, status = os.wait()
        place = running.pop(process)
        if code := os.waitstatus_to_exitcode(status):
            for other in running:
                os.kill(other, signal.SIGKILL)
            print(f"{place} ended with code {code}:\n{Path(f'{place}.err').read_text()[-3000:]}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
