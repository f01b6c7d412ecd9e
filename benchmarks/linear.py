"""The linear model beside seasonal naive on the generated series of configs/debug.yaml, one training per seed.

    python -m benchmarks.linear [--seeds 0 1 2] [--json FILE]

Each seed trains configs/linear/quick.yaml, which has the data of configs/debug.yaml, and scores the newest 240 steps of
every series, which training held out: ten origins that do not overlap. It prints the mean absolute error and WQL of
both, and the verdict of the Diebold-Mariano test of the model against seasonal naive, for a season of a day, which is
an evaluation's default for hourly series, and for one of a week, the longest season of these series.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import harness

import torch  # isort: skip  (after the harness, which sets the threads)

from foretrain.data.synthetic import generate
from foretrain.evaluation.tasks import evaluate
from foretrain.forecasting.predictor import load
from foretrain.run.config import load_config, shipped_config
from foretrain.run.train import train_run
from foretrain.training.release import read_release

ORIGINS = 10
DAY, WEEK = 24, 168  # steps


@dataclass(frozen=True)
class SeedResult:
    """Metrics of one seed and of seasonal naive with one season."""

    seed: int
    season: int  # steps
    steps: int
    train_s: float  # seconds of training, validation included
    mae: float  # in the units of the series, averaged over them
    seasonal_naive_mae: float
    wql: float
    seasonal_naive_wql: float
    verdict: str  # of the Diebold-Mariano test
    p_value: float
    origins: int


def run(seed: int, folder: Path, changes: Sequence[str] = ()) -> list[SeedResult]:
    """Train with a seed in a folder and score for each season; `changes` override the config."""
    base = [
        "training.tensorboard=false",
        "evaluation.promotion=false",
        f"threads={harness.THREADS}",
        f"seed={seed}",
    ]
    config = load_config(shipped_config("linear/quick.yaml"), [*base, *changes, ("output_dir", str(folder))])
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        train_run(config)
    took = time.perf_counter() - start
    spec = config.data.corpora[0].synthetic
    assert spec is not None
    found = []
    for season in (DAY, WEEK):
        result = evaluate(
            load(folder / "release", device="cpu").model,
            generate(spec),
            prediction_length=config.data.prediction_length,
            num_windows=ORIGINS,
            context_length=config.data.context_length,
            seasonality=season,
            release=read_release(folder / "release"),
        )
        assert not result.overlaps_training
        ours, theirs = (result.pooled[who] for who in ("model", "seasonal_naive"))
        test = next(comparison for comparison in result.comparisons if comparison.against == "seasonal_naive")
        found.append(
            SeedResult(
                seed=seed,
                season=season,
                steps=config.training.max_steps or 0,
                train_s=round(took, 2),
                mae=ours["mae"],
                seasonal_naive_mae=theirs["mae"],
                wql=ours["wql"],
                seasonal_naive_wql=theirs["wql"],
                verdict=test.verdict,
                p_value=test.p_value,
                origins=test.origins,
            )
        )
    return found


def main(arguments: Sequence[str]) -> None:
    """Run every seed, print a line each, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    args = parser.parse_args(arguments)
    torch.set_num_threads(harness.THREADS)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            for found in run(seed, Path(folder) / str(seed)):
                results.append(found)
                print(
                    f"seed {seed}, season {found.season}: MAE {found.mae:.3f} / {found.seasonal_naive_mae:.3f}, "
                    f"WQL {found.wql:.4f} / {found.seasonal_naive_wql:.4f} (model / seasonal naive), "
                    f"{found.verdict}, {found.origins} origins, trained in {found.train_s:.1f} s",
                    flush=True,
                )
    machine = {"device": harness.describe("cpu"), "threads": harness.THREADS, "commit": harness.commit()}
    print(f"threads {machine['threads']}, {machine['device']}, commit {machine['commit']}")
    if args.json is not None:
        content = {**machine, "results": [vars(result) for result in results]}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
