"""Small runs that read one corpus from its map, from a copy, or shard by shard; test_reading.py compares them.

Argument: a folder with the corpus; tests/forks.py runs this in several processes at once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.config import build
from foretrain.data import sequential
from foretrain.data.store import CorpusWriter
from foretrain.distributed.world import World
from foretrain.run.config import RunConfig
from foretrain.run.train import train_run

STEPS = 7  # more than an epoch
SEQUENTIAL = {"reader": "sequential", "read_buffer_mb": 2}


def write_corpus(folder: Path) -> None:
    """Write 24 series of two columns in several shards."""
    rng = np.random.default_rng(0)
    small = {"batch_bytes": 4000, "shard_bytes": 10_000}
    with CorpusWriter(folder / "c", ["a", "b"], time="regular", freq="h", **small) as writer:
        for k in range(24):
            values = rng.normal(size=(2, 60 + k)).cumsum(1)
            writer.append(f"i{k}", values, times=np.datetime64("2024-01-01T00", "h") + np.arange(60 + k))


def config(folder: Path, run: str, steps: int = STEPS, **data: Any) -> RunConfig:
    """Return the config of a run in folder/run; data: changes of its section."""
    sequential.MB = 8000  # so that there are several groups
    section = {"corpora": [{"path": str(folder / "c")}], "context_length": 24, "prediction_length": 6, "stride": 13}
    tree = {
        "model": {"family": "linear", "random_init": True},
        "data": section | {"sampling": "epoch"} | data,
        "training": {"max_steps": steps, "batch_size": 16, "micro_batch_size": 4, "log_every": 1, "prefetch": 2,
                     "checkpoint_every": 3, "tensorboard": False},
        "optimizer": {"learning_rate": 1e-3},
        "output_dir": str(folder / run),
    }  # fmt: skip
    return build(RunConfig, tree)


class Killer:
    """A sink that kills its process, at a step, as kill -9 does."""

    def __init__(self, step: int) -> None:
        self._step = step

    def open(self, folder: Path, step: int) -> None:
        """Do nothing."""

    def record(self, record: Mapping[str, Any]) -> None:
        """Kill the process once the line of the step is written."""
        if record["kind"] == "train" and record["step"] >= self._step:
            os.kill(os.getpid(), signal.SIGKILL)

    def text(self, step: int, name: str, text: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def train_killed(config: RunConfig, step: int) -> None:
    """Train in a fork that is killed at a step."""
    if not (child := os.fork()):
        train_run(config, sinks=[Killer(step)])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def main() -> None:
    """Train each kind of run, and two that are resumed."""
    folder, world = Path(sys.argv[1]), World.start("cpu", 1)
    place = folder / f"processes {world.size}"
    local = {"stage_to": str(place / "local")}
    if world.is_main:
        place.mkdir()
        (place / "c").symlink_to(folder / "c")
    world.barrier()
    for name, data in (("mapped", {}), ("staged", local), ("sequential", SEQUENTIAL), ("both", SEQUENTIAL | local)):
        train_run(config(place, name, **data), world=world)
    for name, before, after in (("resumed", {}, local), ("resumed sequential", SEQUENTIAL, SEQUENTIAL | local)):
        train_run(config(place, name, 3, **before), world=world)
        train_run(config(place, name, **after), resume="auto", world=world)
    if world.size == 1:
        train_killed(config(place, "killed", **SEQUENTIAL), 5)
        train_run(config(place, "killed", **SEQUENTIAL), resume="auto", world=world)
    train_run(config(place, "to one", 3, **SEQUENTIAL), world=world)  # which one process resumes
