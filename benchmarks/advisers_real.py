"""Best value against trials on a real training: an adviser with SCRIPTED answers, TPE, GP and random.

    foretrain data import $MARKET_DATA/ohlcv_daily/us_stocknet_2012_2017.parquet --out corpora/stocks
    python -m benchmarks.advisers_real --json benchmarks/results/advisers_real.json --picture docs/img/advisers-real.png

The trainings are those of configs/tune/linear.yaml, shorter and on twelve of its stocks. No language model is asked
(benchmarks.advisers). What is drawn is the validation loss that each search minimises: no claim about other days.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks import harness

import numpy as np  # isort: skip  (after the harness, which sets the threads)
import optuna

from benchmarks.advisers import SAMPLERS, searched
from foretrain.run.shipped import TUNE, find_config
from foretrain.tuning.config import load_study_config
from foretrain.tuning.space import Candidate, SearchSpace
from foretrain.tuning.trial import run_trial

STOCKS = ["AAPL", "AMGN", "BAC", "CSCO", "HD", "JNJ", "JPM", "MCD", "PG", "UNH", "VZ", "XOM"]
SHORTER = {
    "set.data.items": STOCKS,
    "set.training.max_steps": 60,
    "set.training.validate_every": 60,
    "set.training.checkpoint_every": 60,
    "pruner.kind": "none",
}
STARTUP = 5  # random trials before TPE and GP begin
SHOWN = (4, 8, 12)


def main() -> None:
    """Run all searches; print and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=max(SHOWN))
    parser.add_argument("--corpus", default="corpora/stocks")
    parser.add_argument("--processes", type=int, default=1, help="searches at a time")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--picture", type=Path, metavar="FILE")
    args = parser.parse_args()
    default = trained({}, args.corpus)
    print(f"default: val_wql {default:.6f}", flush=True)
    searches = [(sampler, seed, args.trials, args.corpus) for sampler in SAMPLERS for seed in range(args.seeds)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, mp_context=context) as pool:
        values = list(pool.map(one_search, *zip(*searches, strict=True)))
    found: dict[str, list[list[float]]] = {}
    for (sampler, *_), one in zip(searches, values, strict=True):
        found.setdefault(sampler, []).append(one)
    for sampler, runs in found.items():
        best = np.minimum.accumulate(runs, axis=1)
        cells = [f"{count}: {best[:, count - 1].mean():.6f}" for count in SHOWN if count <= args.trials]
        print(f"{sampler:<20} best after {', '.join(cells)}; of each seed {best[:, -1].round(6).tolist()}", flush=True)
    facts = {
        "machine": harness.describe("cpu"), "commit": harness.commit(), "optuna": optuna.__version__,
        "answers": "scripted, by benchmarks.advisers.descend; no language model", "default": default, "values": found,
    }  # fmt: skip
    if args.json:
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in facts.items())
        args.json.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    if args.picture:
        draw(found, default, args.picture)


def one_search(sampler: str, seed: int, trials: int, corpus: str) -> list[float]:
    """Return the validation losses of the trials of one search."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # TPE's groups
    path, _ = find_config(Path("tune/linear"), TUNE)
    space = SearchSpace(load_study_config(path).space)
    return searched(space, sampler, seed, trials, lambda candidate: trained(candidate, corpus), startup=STARTUP)


def trained(candidate: Candidate, corpus: str) -> float:
    """Return the validation loss of a training."""
    path, _ = find_config(Path("tune/linear"), TUNE)
    with tempfile.TemporaryDirectory() as folder:
        overrides = {**SHORTER, "set.data.corpora": [{"path": corpus}], "output_dir": folder}
        config = load_study_config(path, list(overrides.items()))
        record = run_trial(config, 0, candidate, Path(folder), source="sampler", report=lambda step, value: False)
    if record.values is None:
        raise SystemExit(f"a training failed: {record.message}")
    return record.values[0]


def draw(found: dict[str, list[list[float]]], default: float, path: Path) -> None:
    """Draw the best value so far of each search against trials."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for number, (sampler, values) in enumerate(found.items()):
        best = np.minimum.accumulate(values, axis=1)
        count = np.arange(1, best.shape[1] + 1)
        axis.plot(count, best.T, color=f"C{number}", linewidth=0.7, alpha=0.5)
        axis.plot(count, best.mean(axis=0), color=f"C{number}", linewidth=2, label=sampler)
    axis.axhline(default, color="grey", linestyle="--", linewidth=1, label="the run as it stands")
    lowest = min(min(one) for values in found.values() for one in values)
    axis.set_ylim(lowest * 0.995, lowest * 1.15)  # the first trials are far above, and the ends would be one line
    axis.set(xlabel="trials", ylabel="best validation WQL so far", title="tune/linear, shortened; mean and each seed")
    axis.legend(loc="upper right")
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
