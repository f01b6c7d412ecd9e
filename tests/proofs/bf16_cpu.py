"""Train float32 and bfloat16 at several seeds on a CPU, and compare their final validation with the spread of seeds.

    python tests/proofs/bf16_cpu.py --work DIR [--corpus FOLDER] [--seeds 3] [--steps 100] [--width 256] [--json FILE]

A Chronos-2 of two layers on generated hourly series, or on a corpus; both types see the same batches and
start from the same weights. A finished run in DIR is read and not repeated. The exit code is 1 if the mean difference
is larger than the standard deviation of float32 over the seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch

from foretrain.run.config import load_config, shipped_config
from foretrain.run.train import train_run
from foretrain.training.journal import read_journal

METRICS = ("val_wql", "val_loss")
SETTINGS = (
    "training.micro_batch_size=null", "training.batch_size=4", "training.tensorboard=false", "training.log_every=20",
    "training.health_every=null", "evaluation.promotion=false", "threads=1", "model.num_layers=2", "model.num_heads=8",
    "model.dropout_rate=0.0", "optimizer.learning_rate=5.0e-4",
)  # fmt: skip


def main() -> None:
    """Train what is not there, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, help="instead of generated series")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        {"seed": seed, **{f"{name}_{dtype}": value for dtype in ("float32", "bfloat16") for name, value in
         trained(args, seed, dtype).items()}}
        for seed in range(1, args.seeds + 1)
    ]  # fmt: skip
    found = {"corpus": args.corpus.name if args.corpus else "generated", "width": args.width, "steps": args.steps,
             "runs": rows, **{name: compared(rows, name) for name in METRICS}}  # fmt: skip
    print(json.dumps(found, indent=1))
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.exit(any(abs(found[name]["mean_difference"]) > found[name]["deviation_float32"] for name in METRICS))


def trained(args: argparse.Namespace, seed: int, dtype: str) -> dict[str, float]:
    """Return the final validation of a run, which is trained if it is not there."""
    folder = args.work / f"{dtype}-{seed}"
    if not (folder / "final_metrics.json").exists():
        width, steps = args.width, args.steps
        changes = [f"seed={seed}", f"training.dtype={dtype}", f"training.max_steps={steps}", f"output_dir={folder}",
                   f"training.validate_every={steps}", f"training.checkpoint_every={steps}", f"model.d_model={width}",
                   f"model.d_kv={width // 8}", f"model.d_ff={4 * width}"]  # fmt: skip
        if args.corpus is not None:
            changes.append(f"data.corpora=[{{path: {args.corpus}}}]")
        train_run(load_config(shipped_config("debug.yaml"), [*SETTINGS, *changes]))
    last = [line for line in read_journal(folder / "metrics.jsonl") if line["kind"] == "validation"][-1]
    return {name: last[name] for name in METRICS}


def compared(rows: list[dict[str, float]], name: str) -> dict[str, float]:
    """Return the mean of both types, the mean and the largest difference of a seed, and the spread of float32."""
    exact, rough = ([row[f"{name}_{dtype}"] for row in rows] for dtype in ("float32", "bfloat16"))
    away = [b - a for a, b in zip(exact, rough, strict=True)]
    return {
        "mean_float32": statistics.fmean(exact),
        "mean_bfloat16": statistics.fmean(rough),
        "mean_difference": statistics.fmean(away),
        "largest_difference": max(away, key=abs),
        "deviation_float32": statistics.stdev(exact),
    }


if __name__ == "__main__":
    main()
