"""Compare settings of pretraining at equal numbers of windows, by scores on panels of public series.

    python -m benchmarks.pretraining --work FOLDER --data PANELS [--only adamw-0.001,base] [--seeds 0,1] [--json FILE]

Every case is configs/pretrain/tiny.yaml with changes, trained for --steps micro-batches (default 1,600, about 300,000
windows) on 200,000 series of configs/synthetic/mixture.yaml with changes, then scored on the 15 short panels as by
benchmarks.panels. Both the corpora and the finished runs stay in FOLDER, so a repeated command continues.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import harness, panels

import yaml  # isort: skip  (after the harness, which sets the threads)

CONFIGS = Path(__file__).parent.parent / "configs"
SERIES = 200_000
SHORT_LENGTHS = ({"shortest": 16, "longest": 96}, {"shortest": 97, "longest": 320}, {"shortest": 321, "longest": 640})


@dataclass(frozen=True)
class Case:
    """Changes of the recipe: settings of the run, weights of generators, shares of the three ranges of lengths."""

    settings: dict[str, Any] = field(default_factory=dict)
    leave_out: tuple[str, ...] = ()
    alone: str | None = None
    shares: tuple[float, float, float] | None = None


def adamw(rate: float) -> Case:
    """Return the recipe with AdamW instead of Muon."""
    return Case({"optimizer.name": "adamw", "optimizer.learning_rate": rate})


PATCHES_OF_16 = {
    "model.patch_size": 16,
    "model.max_output_patches": 4,
    "data.context_length": 512,
    "data.prediction_length": 64,
    "training.token_budget.length_buckets": [32, 64, 96, 160, 256, 384, 512],
    "training.token_budget.horizon_buckets": [16, 32, 48, 64],
}
CASES = {
    "base": Case(),
    "adamw-0.0003": adamw(3e-4),
    "adamw-0.001": adamw(1e-3),
    "adamw-0.003": adamw(3e-3),
    "adamw-0.01": adamw(1e-2),
    "few-short": Case(shares=(0.15, 0.4, 0.45)),
    "many-short": Case(shares=(0.75, 0.15, 0.1)),
    "kernel_synth-alone": Case(alone="kernel_synth"),
    "trend_season-alone": Case(alone="trend_season"),
    "no-kernel_synth": Case(leave_out=("kernel_synth",)),
    "no-linear-models": Case(leave_out=("arma", "smoothing")),
    "patches-of-16": Case(PATCHES_OF_16),
}


def main() -> None:
    """Train and score the cases that were not yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of corpora and runs")
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of the panels")
    parser.add_argument("--only", default=",".join(CASES), help="comma-separated cases")
    parser.add_argument("--seeds", default="0,1", help="comma-separated")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    args = parser.parse_args()
    names, seeds = args.only.split(","), [int(seed) for seed in args.seeds.split(",")]
    if unknown := [name for name in names if name not in CASES]:
        parser.error(f"--only {', '.join(unknown)}: choose from {', '.join(CASES)}")
    short = panels.read_panels(Path(panels.__file__).with_name("panels.yaml"), args.data, "short")
    reference = {panel.name: panels.score(panel, panels.reference(panel)) for panel in short}
    found: dict[str, dict[str, Any]] = {}
    for seed in seeds:
        for name in names:
            found[f"{name} seed {seed}"] = scored(args.work, name, seed, args.steps, short, reference)
            print(f"{name:<20} seed {seed}  " + line(found[f"{name} seed {seed}"]), flush=True)
    print(f"\n{'case':<20} {'seeds':>5}  WQL relative to seasonal naive: mean, each; windows")
    for name in names:
        runs = [found[f"{name} seed {seed}"] for seed in seeds]
        each = [run["wql"] for run in runs]
        shown = ", ".join(f"{value:.3f}" for value in each)
        print(f"{name:<20} {len(runs):>5}  {sum(each) / len(each):.3f}  {shown}  {runs[0]['windows']:,}")
    if args.json:
        facts = {"machine": harness.describe("cpu"), "commit": harness.commit(), "steps": args.steps, "runs": found}
        args.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def line(run: dict[str, Any]) -> str:
    """Return the figures of a run in a line."""
    return f"WQL {run['wql']:.3f}  MASE {run['mase']:.3f}  80 % coverage {run['coverage']:.3f}"


def scored(work: Path, name: str, seed: int, steps: int, short: list[Any], reference: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of a case and a seed; train it if its record is not there."""
    run = work / "runs" / f"{name}-{steps}-{seed}"
    record = run / "panels.json"
    if not record.exists():
        train(CASES[name], corpus(work, CASES[name]), run, seed, steps)
        forecaster = panels.of_model(str(run / "release"), None)
        scores = {"model": {panel.name: panels.score(panel, forecaster(panel)) for panel in short}}
        facts = panels.relative({**scores, panels.REFERENCE: reference}, "model", short)
        record.write_text(json.dumps({**facts, "windows": windows_seen(run)}) + "\n", encoding="utf-8")
    return json.loads(record.read_text(encoding="utf-8"))


def corpus(work: Path, case: Case) -> Path:
    """Return the corpus of a case, written if it is not there."""
    mixture = yaml.safe_load((CONFIGS / "synthetic" / "mixture.yaml").read_text(encoding="utf-8"))
    kinds = [g for g in mixture["generators"] if g["kind"] not in case.leave_out]
    mixture["generators"] = [g for g in kinds if case.alone in (None, g["kind"])]
    if case.shares is not None:
        mixture["lengths"] = [{**ends, "share": s} for ends, s in zip(SHORT_LENGTHS, case.shares, strict=True)]
    label = case.alone or "-".join(("without", *case.leave_out)) if case.alone or case.leave_out else "all"
    label += "".join(f"-{share}" for share in case.shares or ())
    out = work / "corpora" / label
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        config = out.with_suffix(".yaml")
        config.write_text(yaml.safe_dump(mixture), encoding="utf-8")
        call("data", "generate", str(config), "--out", str(out), "--num-series", str(SERIES))
    return out


def train(case: Case, data: Path, run: Path, seed: int, steps: int) -> None:
    """Train a case."""
    changes = {
        "data.corpora.0.path": str(data),
        "output_dir": str(run),
        "seed": seed,
        "threads": 1,
        "training.max_steps": steps,
        "training.token_budget.micro_batches_per_step": 1,
        "training.ema_decay": 0.99,
        "optimizer.schedule.warmup_steps": steps // 20,
        **case.settings,
    }
    settings = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    again = ["--resume"] if (run / "checkpoints").exists() else []
    call("train", str(CONFIGS / "pretrain" / "tiny.yaml"), *again, *settings)


def windows_seen(run: Path) -> int:
    """Return the windows of a run, from the rates that it logged."""
    total, before = 0.0, 0
    for text in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(text)
        if entry.get("kind") == "train":
            total += (entry["step"] - before) * entry["windows_per_s"] / entry["steps_per_s"]
            before = entry["step"]
    return round(total)


def call(*command: str) -> None:
    """Run a command of foretrain; its output is shown only if it fails."""
    done = subprocess.run([sys.executable, "-m", "foretrain.cli", *command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
