"""Train float32 and bfloat16 at several seeds on a CPU, and compare their final validation with the spread of seeds.

    python tests/proofs/bf16_cpu.py --work DIR [--corpus FOLDER] [--seeds 3] [--steps 100] [--width 256] [--json FILE]
                                    [--control 3]

A Chronos-2 of two layers on generated hourly series, or on a corpus; both types see the same batches and
start from the same weights. A finished run in DIR is read and not repeated. Differences are paired by seed: their mean
with the 95% interval of Student's t, and at how many seeds bfloat16 is worse, with the p value of the sign test. The
control trains that many seeds in float32 again, with learning rates larger by a rounding of bfloat16 (1 + 2**-8): how
far a change without any loss of precision moves a run. The exit code is 1 if the mean difference is larger than the
standard deviation of float32 over the seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch
from scipy import stats

from foretrain.run.config import load_config, shipped_config
from foretrain.run.train import train_run
from foretrain.training.journal import read_journal

METRICS = ("val_wql", "val_loss")
CONTROL, RATE = "control", 5.0e-4
SETTINGS = (
    "training.micro_batch_size=null", "training.batch_size=4", "training.tensorboard=false", "training.log_every=20",
    "training.health_every=null", "evaluation.promotion=false", "threads=1", "model.num_layers=2", "model.num_heads=8",
    "model.dropout_rate=0.0",
)  # fmt: skip


def main() -> None:
    """Train what is not there, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, help="instead of generated series")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--control", type=int, default=0, help="seeds that float32 trains again, slightly changed")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        {"seed": seed, **{f"{name}_{kind}": value for kind in kinds_of(args, seed) for name, value in
         trained(args, seed, kind).items()}}
        for seed in range(1, args.seeds + 1)
    ]  # fmt: skip
    found = {"corpus": args.corpus.name if args.corpus else "generated", "width": args.width, "steps": args.steps,
             "runs": rows, **{name: compared(rows, name) for name in METRICS}}  # fmt: skip
    print(json.dumps(found, indent=1))
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.exit(any(abs(found[name]["mean_difference"]) > found[name]["deviation_float32"] for name in METRICS))


def kinds_of(args: argparse.Namespace, seed: int) -> tuple[str, ...]:
    """Return the runs of a seed."""
    return ("float32", "bfloat16", CONTROL) if seed <= args.control else ("float32", "bfloat16")


def trained(args: argparse.Namespace, seed: int, kind: str) -> dict[str, float]:
    """Return the final validation of a run, which is trained if it is not there."""
    folder = args.work / f"{kind}-{seed}"
    if not (folder / "final_metrics.json").exists():
        width, steps = args.width, args.steps
        dtype, rate = ("float32", RATE * (1 + 2**-8)) if kind == CONTROL else (kind, RATE)
        changes = [f"seed={seed}", f"training.dtype={dtype}", f"training.max_steps={steps}", f"output_dir={folder}",
                   f"optimizer.learning_rate={rate!r}",
                   f"training.validate_every={steps}", f"training.checkpoint_every={steps}", f"model.d_model={width}",
                   f"model.d_kv={width // 8}", f"model.d_ff={4 * width}"]  # fmt: skip
        if args.corpus is not None:
            changes.append(f"data.corpora=[{{path: {args.corpus}}}]")
        train_run(load_config(shipped_config("debug.yaml"), [*SETTINGS, *changes]))
    last = [line for line in read_journal(folder / "metrics.jsonl") if line["kind"] == "validation"][-1]
    return {name: last[name] for name in METRICS}


def compared(rows: list[dict[str, float]], name: str) -> dict[str, float | list[float]]:
    """Return the means of both types, their differences by seed and the spread of float32 over the seeds."""
    exact = [row[f"{name}_float32"] for row in rows]
    found = {
        "mean_float32": statistics.fmean(exact),
        "mean_bfloat16": statistics.fmean(row[f"{name}_bfloat16"] for row in rows),
        "deviation_float32": statistics.stdev(exact),
        **paired([row[f"{name}_bfloat16"] - row[f"{name}_float32"] for row in rows]),
    }
    moved = [row[f"{name}_{CONTROL}"] - row[f"{name}_float32"] for row in rows if f"{name}_{CONTROL}" in row]
    return found | ({f"{CONTROL}_{key}": value for key, value in paired(moved).items()} if len(moved) > 1 else {})


def paired(away: list[float]) -> dict[str, float | list[float]]:
    """Return the mean of differences with its 95% interval, the largest, and how many are above 0 with the p value."""
    count, mean = len(away), statistics.fmean(away)
    half = float(stats.t.ppf(0.975, count - 1)) * statistics.stdev(away) / count**0.5
    worse = sum(x > 0 for x in away)
    return {
        "mean_difference": mean,
        "interval": [mean - half, mean + half],
        "largest_difference": max(away, key=abs),
        "worse": worse,
        "sign_test": float(stats.binomtest(worse, count).pvalue),
    }


if __name__ == "__main__":
    main()
