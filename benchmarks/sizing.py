"""What runs of four sizes of models need of each process: the table of docs/distributed.md, computed, and its checks.

    python -m benchmarks.sizing [--measure] [--json FILE]

Memory is that of `train --dry-run` (foretrain.run.estimate): weights, gradients, AdamW's two moments and an average in
float32, split as the layout says, and what is gathered of split weights. "Activations" is the dry run's upper bound of
one micro-batch (float32, without fused attention or recomputation). "Copy" is the memory of the host that a save in the
background takes. A GPU's demand follows from FLOPs: a bfloat16 peak of 989 TFLOP/s (NVIDIA's figure for an H100), of
which a model is assumed to reach 30 %, as in the dry run. Nothing was measured on a GPU.

--measure compares, on a CPU, the dry run's memory of training Chronos-2 small with the peak of a process that trains
it, and measures how many windows of this length one core reads and collates. The figures of --json need --measure.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import harness

import numpy as np  # isort: skip  (after the harness, which sets the threads)
import torch

from foretrain.config import build
from foretrain.distributed.world import World
from foretrain.models.base import Trainable
from foretrain.run import estimate
from foretrain.run.build import build_model
from foretrain.run.config import RunConfig
from foretrain.run.counting import passes

CONTEXT, HORIZON = 2048, 64
PEAK = 989e12  # FLOP/s of a GPU
# {name: (model, windows of a micro-batch)}; the third is as wide and deep as no published one, for its number alone
MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "Chronos-2 small": ({"family": "chronos2", "preset": "small"}, 16),
    "Chronos-2 base": ({"family": "chronos2", "preset": "base"}, 12),
    "Chronos-2, 18 layers of 1,536": (
        {"family": "chronos2", "preset": "base", "d_model": 1536, "d_ff": 6144, "num_heads": 24, "num_layers": 18}, 8,
    ),
    "Toto 2.0 2.5B": ({"family": "toto2", "preset": "2.5B"}, 4),
}  # fmt: skip
# (label, processes, settings); a node has 8 processes
LAYOUTS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("one, or ddp", 1, {}),
    ("fsdp 8", 8, {"parallel": "fsdp"}),
    ("fsdp 64", 64, {"parallel": "fsdp"}),
    ("hsdp 512, shard_size 8", 512, {"parallel": "hsdp", "shard_size": 8}),
    ("fsdp 512", 512, {"parallel": "fsdp"}),
)
GB = 1e9


def config_of(name: str, **training: Any) -> RunConfig:
    """Return the config of a run of a model, with averaged weights."""
    section, windows = MODELS[name]
    tree = {
        "model": {**section, "random_init": True},
        "data": {"corpora": [{"path": "none"}], "context_length": CONTEXT, "prediction_length": HORIZON,
                 "target": ["x"]},
        "training": {"max_steps": 1, "batch_size": windows, "ema_decay": 0.999, **training},
        "output_dir": "unused",
        "device": "cpu",
    }  # fmt: skip
    return build(RunConfig, tree)


def sizes(name: str) -> dict[str, Any]:
    """Return what a model needs in every layout."""
    config = config_of(name)
    model = build_model(config, device="meta")
    micro_batch = estimate.sizes_of(config, None, World())
    flops = estimate.mean_flops(model, micro_batch) / micro_batch[0].windows
    demand = estimate.SHARE * PEAK / flops
    alone = estimate.memory_of(config, model)
    found: dict[str, Any] = {
        "case": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "windows": micro_batch[0].windows,
        "activations": estimate.most_activations(config, model, micro_batch),
        "checkpoint": alone.weights + alone.optimizer,
        "flops_per_window": flops,
        "windows_per_s": demand,
        "bytes_per_s": demand * 4 * (CONTEXT + HORIZON),
    }
    for label, processes, settings in LAYOUTS:
        memory = estimate.memory_of(config_of(name, **settings), model, World(size=processes))
        found[label] = {
            "training": memory.total,
            "most": memory.most,
            "copy": memory.weights + memory.optimizer,
        }
    return found


def print_sizes(found: dict[str, Any]) -> None:
    """Print a model's rows."""
    print(
        f"{found['case']}: {found['parameters']:,} parameters; checkpoint {found['checkpoint'] / GB:,.2f} GB; "
        f"activations of {found['windows']} windows at most {found['activations'] / GB:,.1f} GB; "
        f"{found['flops_per_window'] / 1e9:,.0f} GFLOP a window; a GPU needs {found['windows_per_s']:,.0f} windows/s, "
        f"{found['bytes_per_s'] / 1e6:,.1f} MB/s"
    )
    for label, *_ in LAYOUTS:
        one = found[label]
        print(
            f"    {label:<24} training {one['training'] / GB:8,.2f} GB, most {one['most'] / GB:8,.2f} GB, copy "
            f"{one['copy'] / GB:8,.2f} GB",
            flush=True,
        )


# -- measured on a CPU ------------------------------------------------------------------------------------------------


def windows_of(count: int) -> Any:
    """Return random walks as a batch of windows."""
    from foretrain.data.windows import Window, stack_windows

    values = np.random.default_rng(0).standard_normal((count, 1, CONTEXT + HORIZON)).cumsum(-1).astype(np.float32)
    return stack_windows([Window(row[:, :CONTEXT], 1, future=row[:, CONTEXT:]) for row in values], HORIZON)


def peak_of_training(windows: int) -> dict[str, float]:
    """Train Chronos-2 small for three steps in this process; return the growth of its peak memory and the estimate."""
    from benchmarks.data import memory
    from foretrain.training.ema import Ema
    from foretrain.training.optimizer import build_optimizer

    config = config_of("Chronos-2 small", batch_size=windows)
    batch = windows_of(windows)
    tiny = torch.nn.Linear(4, 4)  # what torch itself allocates for a first step
    optimizer = torch.optim.AdamW(tiny.parameters())
    tiny(torch.ones(4, 4)).sum().backward()
    optimizer.step()
    made = build_model(config, device="meta")  # imports the family
    at_most = estimate.most_activations(config, made, estimate.sizes_of(config, None, World())) or 0
    before = memory("VmRSS")
    model: Trainable = build_model(config).train()
    average, optimizer = Ema(model, 0.999), build_optimizer(model, config.optimizer)
    collated = model.collate(batch)
    for _ in range(3):
        loss = model(collated)
        (loss.total / loss.weight).backward()
        optimizer.step()
        average.update(1)
    peak = memory("VmHWM") - before
    activations = passes(model, collated, config.training, "float32", math.inf, math.inf).kept
    total = estimate.memory_of(config, model).total
    return {"measured": peak, "estimate": total + activations, "estimate_at_most": total + at_most}


def collating(name: str, windows: int = 64) -> float:
    """Return how many windows one core collates a second, by CPU time: the best of several batches."""
    config = config_of(name)
    model = build_model(config, device="meta")
    batch, best = windows_of(windows), float("inf")
    for _ in range(10):
        start = time.process_time()
        model.collate(batch)
        best = min(best, time.process_time() - start)
    return windows / best


def measured() -> dict[str, Any]:
    """Return all measurements, each of memory in a process of its own."""
    found: dict[str, Any] = {}
    for windows in (2, 8):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.sizing", "--peak", str(windows)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        found[f"Chronos-2 small, {windows} windows"] = facts = json.loads(done.stdout.splitlines()[-1])
        print(
            f"Chronos-2 small, {windows} windows: peak {facts['measured'] / GB:.3f} GB, the dry run says "
            f"{facts['estimate'] / GB:.3f} GB, at most {facts['estimate_at_most'] / GB:.3f} GB",
            flush=True,
        )
    for name in MODELS:
        if name in ("Chronos-2 small", "Toto 2.0 2.5B"):
            found[f"collating, {name}"] = {"windows_per_s": collating(name)}
            print(
                f"{name}: one core collates {found[f'collating, {name}']['windows_per_s']:,.0f} windows/s", flush=True
            )
    return found


def main() -> None:
    """Print the sizes of every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--peak", type=int, metavar="WINDOWS", help="(internal) print one measurement")
    args = parser.parse_args()
    if args.peak:
        print(json.dumps(peak_of_training(args.peak)))
        return
    cases = [sizes(name) for name in MODELS]
    for case in cases:
        print_sizes(case)
    checks = measured() if args.measure else {}
    if args.json is not None:
        facts = {"machine": harness.describe("cpu"), "commit": harness.commit(), "cases": cases}
        rows = [{"case": name, **values} for name, values in checks.items()]
        args.json.write_text(json.dumps({**facts, "cases": cases + rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
