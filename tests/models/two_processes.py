"""What test_two_processes.py runs under torchrun, and in one process to compare: small runs of every family.

Argument: a folder; each run is in a folder below it.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.models.zoo import ZOO, Zoo
from tests.waiting import end

from foretrain.config import build
from foretrain.distributed.world import World
from foretrain.models.base import Trainable
from foretrain.run.config import RunConfig
from foretrain.run.train import train_run

CONTEXT, HORIZON, STEPS = 24, 6, 6


def predicts(zoo: Zoo, name: str) -> bool:
    """Whether a family takes losses of predictions."""
    return type(zoo.shared(name)).predict is not Trainable.predict


def cases(zoo: Zoo) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, config without output_dir) of every run: of all weights, by an adapter, by a token budget, and on a loss
    of predictions where the family has these. Windows have gaps and uneven lengths; 3 + 3 + 2 of them make a step, so
    that one of two processes is idle in the second round."""
    for name, entry in ZOO.items():
        with contextlib.redirect_stdout(io.StringIO()):
            parts = {key: zoo._part(part) for key, part in entry.parts.items()}
        tree = {
            "model": {"family": name, **entry.section, **parts},
            "data": data(entry.candles),
            "training": training(batch_size=8, micro_batch_size=3, max_steps=STEPS),
            # Keys' biases that attention does not feel have gradients of rounding noise; a usual eps makes steps of it.
            "optimizer": {"learning_rate": 1e-2, "eps": 1e-4, "schedule": {"kind": "linear", "warmup_steps": 2}},
            "seed": 3,
        }
        yield f"{name}-full", tree
        yield f"{name}-adapter", {**tree, "adapter": {"rank": 2, "alpha": 4}}
        shorter = {**data(entry.candles), "min_prediction_length": 3}
        yield f"{name}-budget", {**tree, "data": shorter, "training": budget()}
        if predicts(zoo, name):
            yield f"{name}-huber", {**tree, "loss": {"name": "huber", "space": "scaled", "delta": 1.0}}


def data(candles: bool) -> dict[str, Any]:
    """The data section: candles, or three variates."""
    kind = {"kind": "ohlcv", "freq": "30min"} if candles else {"kind": "seasonal", "num_variates": 3}
    synthetic = {**kind, "num_series": 6, "length": 60, "seed": 1, "missing_fraction": 0.1}
    return {
        "corpora": [{"synthetic": synthetic}],
        "context_length": CONTEXT,
        "prediction_length": HORIZON,
        "min_context": 10,
        "sampling": "epoch",
        "stride": 5,
    }


def training(**changes: Any) -> dict[str, Any]:
    """The training section."""
    return {"checkpoint_every": None, "log_every": 1, "tensorboard": False, "prefetch": 0, **changes}


def budget() -> dict[str, Any]:
    """The training section with batches by length."""
    buckets = {"length_buckets": [16], "horizon_buckets": [3], "micro_batches_per_step": 3}
    return training(max_steps=STEPS, token_budget={"max_tokens_per_batch": 600, **buckets})


def run(tree: dict[str, Any], folder: Path, world: World) -> None:
    """Train a case."""
    config = build(RunConfig, {**tree, "output_dir": str(folder)})
    with contextlib.redirect_stdout(io.StringIO()):
        train_run(config, world=world)


def main() -> None:
    """All cases in this process's place in the world."""
    folder = Path(sys.argv[1])
    world = World.start("cpu", threads=1)
    for name, tree in cases(Zoo(folder / "parts")):
        run(tree, folder / name, world)
    world.barrier()
    world.close()
    end()


if __name__ == "__main__":
    main()
