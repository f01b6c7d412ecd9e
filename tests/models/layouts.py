"""Small runs of every family for layouts of several processes; test_layouts.py and proofs/layouts.py compare them.

Arguments: a folder, steps, and names of families; each run has a subfolder LAYOUT/FAMILY-KIND-MICRO_BATCHES.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.models.two_processes import data, training
from tests.models.zoo import ZOO, Zoo
from tests.tolerance import training_in_float64
from tests.waiting import end

from foretrain.config import build
from foretrain.distributed.world import World
from foretrain.run.config import RunConfig
from foretrain.run.train import train_run
from foretrain.training.journal import read_journal

KINDS = ("full", "adapter")
WINDOWS = 3  # in a micro-batch, whatever the layout
# {layout: (processes, settings)}
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (1, {}),
    "ddp 2": (2, {"parallel": "ddp"}),
    "fsdp 2": (2, {"parallel": "fsdp"}),
    "ddp 4": (4, {"parallel": "ddp"}),
    "fsdp 4": (4, {"parallel": "fsdp"}),
    "hsdp 2x2": (4, {"parallel": "hsdp", "shard_size": 2}),
}


def micro_batches(processes: int, accumulation: int) -> int:
    """Return the micro-batches of a step; with an accumulation above 1 one process is idle in the last round."""
    return processes * accumulation - (accumulation > 1)


def case(zoo: Zoo, name: str, kind: str, count: int, steps: int) -> dict[str, Any]:
    """Return the config of a run of a family with `count` micro-batches a step, without output_dir."""
    entry = ZOO[name]
    with contextlib.redirect_stdout(io.StringIO()):
        parts = {key: zoo._part(part) for key, part in entry.parts.items()}
    tree = {
        "model": {"family": name, **entry.section, **parts},
        "data": data(entry.candles),
        "training": training(batch_size=count * WINDOWS, micro_batch_size=WINDOWS, max_steps=steps),
        # as in two_processes.py: the gradients of some biases are rounding noise
        "optimizer": {"learning_rate": 1e-2, "eps": 1e-4, "schedule": {"kind": "linear", "warmup_steps": 2}},
        "seed": 3,
    }
    return tree | ({"adapter": {"rank": 2, "alpha": 4}} if kind == "adapter" else {})


def every(accumulations: Sequence[int] = (1, 3)) -> Iterator[tuple[str, str, int]]:
    """Yield (family, kind, accumulation) of all runs of a layout."""
    for name in ZOO:
        for kind in KINDS:
            for accumulation in accumulations:
                yield name, kind, accumulation


def run_in_float64(tree: dict[str, Any], folder: Path) -> None:
    """Train a case in one process with weights, data and arithmetic of float64."""
    with training_in_float64():
        run(tree, folder, World())


def run(tree: dict[str, Any], folder: Path, world: World, resume: str | None = None) -> Any:
    """Train a case; return its model."""
    config = build(RunConfig, {**tree, "output_dir": str(folder)})
    with contextlib.redirect_stdout(io.StringIO()):
        return train_run(config, world=world, resume=resume)[0]


def losses(folder: Path) -> list[float]:
    """Return the training losses of a run in the order of its steps."""
    return [line["loss"] for line in read_journal(folder / "metrics.jsonl") if line["kind"] == "train"]


def away(found: Sequence[float], exact: Sequence[float]) -> float:
    """Return the largest relative difference of losses from those of the float64 run."""
    return max(abs(a - b) / abs(b) for a, b in zip(found, exact, strict=True))


def folder_of(name: str, kind: str, count: int) -> str:
    """Return the name of a run's folder."""
    return f"{name}-{kind}-{count}"


def run_layouts(zoo: Zoo, folder: Path, world: World, steps: int, runs: Sequence[tuple[str, str, str, int]]) -> None:
    """Run each (layout, family, kind, micro-batches) of this number of processes; all processes call it."""
    for layout, name, kind, count in runs:
        processes, settings = LAYOUTS[layout]
        if processes == world.size:
            tree = case(zoo, name, kind, count, steps)
            tree["training"] |= settings
            run(tree, folder / layout / folder_of(name, kind, count), world)


def main() -> None:
    """Run every family, or those that are named, in all layouts of this number of processes."""
    folder, steps, names = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or list(ZOO)
    world = World.start("cpu", threads=1)
    chosen = [each for each in every() if each[0] in names]
    runs = [
        (layout, name, kind, micro_batches(processes, accumulation))
        for layout, (processes, _) in LAYOUTS.items()
        for name, kind, accumulation in chosen
    ]
    run_layouts(Zoo(folder / "parts"), folder, world, steps, runs)
    world.barrier()
    world.close()
    end()


if __name__ == "__main__":
    main()
