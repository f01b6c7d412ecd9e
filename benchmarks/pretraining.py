"""Compare settings of pretraining by scores on panels of public series.

    python -m benchmarks.pretraining --work FOLDER --data PANELS [--only base,adamw-0.001] [--seeds 0,1] [--json FILE]

Every case is configs/pretrain/tiny.yaml with changes, trained for --steps steps of one micro-batch on generated series,
then scored on the 15 short panels as by benchmarks.panels. All cases but with-groups train on windows of one row. Steps
are equal and windows nearly so, as cases that change lengths change how many a micro-batch holds. Runs and scores stay
in FOLDER under the name of the case, the seed and the hash of the config, so a repeated command continues, also after
it was killed, and another recipe is trained anew. Scores do not know of changed code: take another FOLDER for it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.pack_pretrained import of_journal

from benchmarks import harness, panels
from foretrain.atomic import write_json
from foretrain.config import dump_yaml, read_yaml
from foretrain.data.synthetic.stream import GenerationConfig
from foretrain.run.config import RunConfig, config_hash, load_config

RECIPE = Path(__file__).parent.parent / "configs" / "pretrain" / "tiny.yaml"
SCORES = "panels.json"
Changes = dict[str, Any]  # keys of a run's config and their values


def adamw(rate: float) -> Changes:
    """Return AdamW instead of Muon."""
    return {"optimizer.name": "adamw", "optimizer.learning_rate": rate}


def contexts(shares: Sequence[float], edges: Sequence[int] = (8, 36, 96, 252, 504)) -> Changes:
    """Return shares of the ranges of contexts, from short to long; the first range begins with the first edge."""
    starts = [edges[0], *(edge + 1 for edge in edges[1:-1])]
    ranges = zip(starts, edges[1:], shares, strict=True)
    return {"data.generated.contexts": [{"shortest": a, "longest": b, "share": share} for a, b, share in ranges]}


def generators(*, only: Sequence[str] = (), without: Sequence[str] = ()) -> Changes:
    """Return a part of the default generators, with their weights."""
    weights = {generator.kind: generator.weight for generator in GenerationConfig().generators}
    chosen = [kind for kind in only or weights if kind not in without]
    return {"data.generated.generators": [{"kind": kind, "weight": weights[kind]} for kind in chosen]}


PATCHES_OF_16 = {
    "model.patch_size": 16,
    "model.max_output_patches": 4,
    "model.time_encoding_scale": 512,
    "data.context_length": 512,
    "data.prediction_length": 64,
    "data.generated.patch": 16,
    **contexts((0.13, 0.2, 0.33, 0.34), (8, 32, 96, 256, 512)),
    "data.generated.horizons": [
        {"steps": steps, "share": share} for steps, share in ((16, 0.4), (32, 0.3), (48, 0.15), (64, 0.15))
    ],
}
CASES: dict[str, Changes] = {
    "base": {},
    **{f"adamw-{rate:g}": adamw(rate) for rate in (0.0003, 0.001, 0.003, 0.01)},
    # initial weights 20 times as large: Chronos-2's small ones suit Muon, whose updates do not depend on their size
    "large-init": {"model.initializer_factor": 1.0},
    **{f"large-init-adamw-{rate:g}": {**adamw(rate), "model.initializer_factor": 1.0} for rate in (0.001, 0.003)},
    "few-short": contexts((0.05, 0.1, 0.35, 0.5)),
    "many-short": contexts((0.4, 0.3, 0.2, 0.1)),
    "kernel_synth-alone": generators(only=["kernel_synth"]),
    "trend_season-alone": generators(only=["trend_season"]),
    "no-kernel_synth": generators(without=["kernel_synth"]),
    "no-linear-models": generators(without=["arma", "smoothing"]),
    "no-augment": {"data.generated.augment": {}},
    "patches-of-16": PATCHES_OF_16,
    "with-groups": {"data.generated.layouts": read_yaml(RECIPE)["data"]["generated"]["layouts"]},
}


def main() -> None:
    """Train and score the cases that were not yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of the panels")
    parser.add_argument("--only", default=",".join(CASES), help="comma-separated cases")
    parser.add_argument("--seeds", default="0,1", help="comma-separated")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    args = parser.parse_args()
    names, seeds = args.only.split(","), [int(seed) for seed in args.seeds.split(",")]
    if unknown := [name for name in names if name not in CASES]:
        parser.error(f"--only {', '.join(unknown)}: choose from {', '.join(CASES)}")
    if args.steps < 1:
        parser.error(f"--steps {args.steps}: must be at least 1")
    short = panels.read_panels(panels.PANELS, args.data, "short")
    reference = {panel.name: panels.score(panel, panels.reference(panel)) for panel in short}
    found: dict[str, dict[str, Any]] = {}
    for seed in seeds:  # all cases of one seed first, so that a command that is stopped has compared them
        for name in names:
            figures = scored(run_config(args.work, name, seed, args.steps), short, reference)
            found[f"{name} seed {seed}"] = figures
            print(f"{name:<20} seed {seed}  {line(figures)}", flush=True)
    print(f"\n{'case':<20} {'seeds':>5}  WQL relative to seasonal naive: mean, each; windows of the first seed")
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


def run_config(work: Path, name: str, seed: int, steps: int) -> RunConfig:
    """Return the config of a case's run, whose folder is named after its hash too."""
    changes = {
        "seed": seed,
        "threads": 1,
        "training.max_steps": steps,
        "training.ema_decay": 0.99,  # of a tenth of the steps that the recipe's 0.999 averages
        "optimizer.schedule.warmup_steps": steps // 20,
        "data.generated.micro_batches_per_step": 1,
        "data.generated.layouts": [{"targets": 1}],
        **CASES[name],
    }
    config = load_config(RECIPE, list(changes.items()))
    folder = work / f"{name}-{steps}-{seed}-{config_hash(config).partition(':')[2][:10]}"
    return config.model_copy(update={"output_dir": str(folder)})


def scored(config: RunConfig, short: list[panels.Panel], reference: dict[str, panels.Score]) -> dict[str, Any]:
    """Return the scores of a run and what it cost; train and score it if they are not there."""
    run = Path(config.output_dir)
    if not (run / SCORES).exists():
        train(config)
        forecaster = panels.of_model(str(run / "release"))
        scores = {"model": {panel.name: panels.score(panel, forecaster(panel)) for panel in short}}
        figures = panels.relative({**scores, panels.REFERENCE: reference}, "model", short)
        cost = of_journal(run)
        write_json(run / SCORES, {**figures, "windows": cost.windows, "flops": cost.flops, "hours": cost.hours})
    return json.loads((run / SCORES).read_text(encoding="utf-8"))


def train(config: RunConfig) -> None:
    """Train a run, or continue it; its process shows its output only if it fails."""
    run = Path(config.output_dir)
    recipe = run.with_name(f"{run.name}.yaml")
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(dump_yaml(config), encoding="utf-8")
    command = [sys.executable, "-m", "foretrain.cli", "train", str(recipe), "--resume"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        shown = f"{done.stdout[-1000:]}{done.stderr[-1000:]}"
        raise SystemExit(f"{shown}\n{' '.join(command)}: exit code {done.returncode}; repeat to continue.")


if __name__ == "__main__":
    main()
