"""Small runs of every family; test_two_processes.py runs them under torchrun and in one process, to compare.

Argument: a folder; each run has a subfolder.
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
    """Return True if a family supports losses of predictions."""
    return type(zoo.shared(name)).predict is not Trainable.predict


def cases(zoo: Zoo) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, config without output_dir) of every run: all weights, an adapter, a token budget and, if the family
    supports it, a loss of predictions. Windows have gaps and uneven lengths; 3 + 3 + 2 of them make a step, so that one
    of two processes is idle in the second round."""
    for name, entry in ZOO.items():
        with contextlib.redirect_stdout(io.StringIO()):
            parts = {key: zoo._part(part) for key, part in entry.parts.items()}
        tree = {
            "model": {"family": name, **entry.section, **parts},
            "data": data(entry.candles),
            "training": training(batch_size=8, micro_batch_size=3, max_steps=STEPS),
            # Attention does not depend on the keys' biases: their gradients are rounding noise, which a usual eps would
            # turn into steps.
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
    """Return the data section: candles, or three variates."""
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
    """Return the training section."""
    return {"checkpoint_every": None, "log_every": 1, "tensorboard": False, "prefetch": 0, **changes}


def budget() -> dict[str, Any]:
    """Return the training section with a token budget and length buckets."""
    buckets = {"length_buckets": [16], "horizon_buckets": [3], "micro_batches_per_step": 3}
    return training(max_steps=STEPS, token_budget={"max_tokens_per_batch": 600, **buckets})


def run(tree: dict[str, Any], folder: Path, world: World) -> None:
    """Train a case."""
    config = build(RunConfig, {**tree, "output_dir": str(folder)})
    with contextlib.redirect_stdout(io.StringIO()):
        train_run(config, world=world)


def main() -> None:
    """Run all cases in this process of the world."""
    folder = Path(sys.argv[1])
    world = World.start("cpu", threads=1)
    for name, tree in cases(Zoo(folder / "parts")):
        run(tree, folder / name, world)
    world.barrier()
    world.close()
    end()


if __name__ == "__main__":
    main()
