"""A run whose hosts come and go under torchrun --nnodes 1:2 has the losses of one that nothing happened to.

usage: python tests/proofs/elastic.py [FOLDER]   three minutes. Exits with 1 if a step is missing, if a loss before the
first change differs, or one of the 15 steps after it by more than rounding. Later losses are printed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from tests.by_hand import TINY  # noqa: E402
from tests.waiting import DEADLINE, run_command, start_command, torchrun, wait_until  # noqa: E402

from foretrain.training.journal import read_journal  # noqa: E402

STEPS, NEAR, FURTHEST = 400, 15, 1e-6  # relative; rounding grows from step to step, as between micro-batch sizes
SETTINGS = [
    *TINY,
    f"training.max_steps={STEPS}",
    "training.checkpoint_every=20",
    "training.micro_batch_size=2",
    "training.validate_every=null",
    "training.best_metric=val_loss",
    "model.dropout_rate=0",
    "optimizer.learning_rate=2e-5",
]


def words(run: Path) -> list[str]:
    """Return the command of a run, as torchrun takes it."""
    return ["-m", "foretrain.cli", "train", "debug", "--threads", "1", *SETTINGS, f"output_dir={run}"]


def losses(run: Path) -> dict[int, float]:
    """Return the loss of each step so far."""
    file = run / "metrics.jsonl"
    return {r["step"]: r["loss"] for r in read_journal(file) if r["kind"] == "train"} if file.exists() else {}


def starts(run: Path) -> list[tuple[int, int]]:
    """Return (step, number of processes) of each start of a run."""
    return [(start["step"], len(start["processes"])) for start in json.loads((run / "environment.json").read_text())]


def agent(folder: Path, name: str) -> subprocess.Popen[str]:
    """Start a torchrun with one process, as on a host of its own."""
    options = ["--nnodes=1:2", "--max-restarts=3", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:29557"]
    options += ["--rdzv-id=elastic", "--rdzv-conf=last_call_timeout=2"]
    environment = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    command = torchrun(1, *words(folder / "elastic"), options=options)
    return start_command(command, environment=environment, output=folder / f"{name}.log")


def main() -> int:
    """Run both and compare them."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    elastic = folder / "elastic"
    first = agent(folder, "first")
    second = None
    try:
        wait_until(lambda: len(losses(elastic)) > 25, first)
        second = agent(folder, "second")
        wait_until(lambda: len(starts(elastic)) == 2 and max(losses(elastic)) > starts(elastic)[1][0] + 25, first)
        second.send_signal(signal.SIGTERM)  # it passes it on to its process
        second.wait(DEADLINE)
        first.wait(DEADLINE)
    finally:
        for process in (first, second):
            if process is not None and process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
    whole = run_command(torchrun(1, *words(folder / "whole")))
    assert not whole.returncode, whole.stdout[-3000:]
    return compare(starts(elastic), losses(elastic), losses(folder / "whole")) or int(first.returncode != 0)


def compare(changes: list[tuple[int, int]], found: dict[int, float], expected: dict[int, float]) -> int:
    """Print how far losses are apart. Returns 1 if they are too far, or if not all happened that was to happen."""
    apart = {step: abs(found.get(step, float("inf")) / loss - 1) for step, loss in expected.items()}
    change, sizes = changes[1][0], [size for _, size in changes]
    before = max(value for step, value in apart.items() if step <= change)
    after = max(value for step, value in apart.items() if change < step <= change + NEAR)
    print(
        f"starts (step, processes): {changes}; losses apart: {before:.1e} before the first change, {after:.1e} in the "
        f"{NEAR} steps after it, {max(apart.values()):.1e} at most"
    )
    whole = len(expected) == STEPS and {1, 2} <= set(sizes) and sizes[-1] == 1 and max(apart.values()) < 1
    return int(not whole or before > 0 or after > FURTHEST)


if __name__ == "__main__":
    sys.exit(main())
