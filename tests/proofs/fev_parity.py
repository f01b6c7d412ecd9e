"""Task metrics, leaderboards and pairs beside fev itself, which has an environment of its own: `make fev-parity`.

    python tests/proofs/fev_parity.py --python .venv-fev/bin/python [--seed 0] [--keep FOLDER]

Univariate, multivariate and covariate tasks are generated as Parquet files; four models forecast them (the suite's
seasonal naive, two noisy ones, one that fails on a task and was trained on another). Both sides read the files, cut the
windows, score the same forecasts and aggregate the scores. A submission of all 100 tasks is read by fev as well.

Printed are the largest differences: relative ones of task metrics and seasonal naives, absolute ones of win rates,
skills and bounds. utilsforecast's losses, which that environment has too, are compared
as well. Each must be at most 1e-9: both sides sum the same terms in another order, which moves sums of some
thousand float64 terms by less than 1e-12. Values are float32 numbers, since fev passes series through float32 in
windows that leave some out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from tests.suites.tasks import task as small_task  # noqa: E402

from foretrain.evaluation.library_metrics import (  # noqa: E402
    Instances,
    fev_metrics,
    fev_seasonal_error,
    utilsforecast_metrics,
    utilsforecast_seasonal_error,
)
from foretrain.suites.aggregate import fev_pairs, fev_standings  # noqa: E402
from foretrain.suites.definition import BenchmarkTask, tasks_of  # noqa: E402
from foretrain.suites.naive import NORMAL, filled, seasonal_naive  # noqa: E402
from foretrain.suites.raw_files import BenchmarkSeries, read_hub_parquet  # noqa: E402
from foretrain.suites.submissions import write_submissions  # noqa: E402
from foretrain.suites.windows import Cut, windows_of  # noqa: E402

MOST = 1e-9
RESAMPLES = 200
LEVELS = tuple(round(0.1 * k, 1) for k in range(1, 10))
METRICS = ("SQL", "MASE", "WAPE", "WQL")
MODELS = ("seasonal_naive", "noisy", "noisier", "trained")
LEAKY = {"trained": ["three"]}
FAILED = {("trained", "weeks")}
CASES = (
    {"name": "impute", "missing_strategy": "impute", "leakage_imputation_model": None},
    {"name": "drop", "missing_strategy": "drop", "leakage_imputation_model": None},
    {"name": "leaks", "missing_strategy": "impute", "leakage_imputation_model": "noisy"},
)
TASKS: dict[str, dict[str, Any]] = {  # in the order in which fev sorts their files
    "prices": {"horizon": 6, "freq": "D", "seasonality": 7, "num_windows": 2, "initial_cutoff": "2020-02-20",
               "min_context": 14, "targets": ("price",), "known_covariates": ("promotion",),
               "past_covariates": ("visitors",), "static_covariates": ("shop",)},
    "three": {"horizon": 4, "freq": "h", "seasonality": 24, "num_windows": 3, "targets": ("a", "b", "c")},
    "walks": {"horizon": 5, "freq": "D", "seasonality": 4, "num_windows": 3, "targets": ("target",)},
    "weeks": {"horizon": 3, "freq": "W", "seasonality": 1, "num_windows": 2, "initial_cutoff": "2021-01-01",
              "targets": ("target",)},
}  # fmt: skip
STEPS = {"prices": "D", "three": "h", "walks": "D", "weeks": "W-WED"}


def definition(name: str) -> BenchmarkTask:
    """Return a task as ours."""
    task = small_task("fev", NORMAL, "fev", {metric: metric for metric in METRICS}, **TASKS[name])
    return BenchmarkTask(name, task.suite_name, task.suite, task.definition)


def fev_definition(name: str, file: Path) -> dict[str, Any]:
    """Return a task as fev's."""
    rule = TASKS[name]
    targets = rule["targets"]
    return {
        "dataset_path": str(file), "horizon": rule["horizon"], "num_windows": rule["num_windows"],
        "initial_cutoff": rule.get("initial_cutoff"), "seasonality": rule["seasonality"], "eval_metric": "SQL",
        "min_context_length": rule.get("min_context", 1), "quantile_levels": list(LEVELS),
        "extra_metrics": ["MASE", {"name": "WAPE", "epsilon": 1.0}, {"name": "WQL", "epsilon": 1.0}],
        "target": targets[0] if len(targets) == 1 else list(targets),
        "known_dynamic_columns": list(rule.get("known_covariates", ())),
        "past_dynamic_columns": list(rule.get("past_covariates", ())),
        "static_columns": list(rule.get("static_covariates", ())),
    }  # fmt: skip


def write_data(name: str, file: Path, rng: np.random.Generator) -> None:
    """Write a Parquet file of items in no order: short ones, constant ones, missing values, small variates."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    rule, rows = TASKS[name], []
    columns = (*rule["targets"], *rule.get("known_covariates", ()), *rule.get("past_covariates", ()))
    for item in rng.permutation(14):
        length = 90 if name == "three" else 9 if item == 3 else int(rng.integers(12, 90))
        stamps = pd.date_range("2020-01-01", periods=length, freq=STEPS[name])
        row: dict[str, Any] = {"id": f"item{item:02}", "timestamp": stamps.to_numpy()}
        for variate, column in enumerate(columns):
            values = np.cumsum(rng.standard_normal(length)) * 10.0 ** (1 - 2 * variate) + item
            if item % 5 == 1:
                values[: length // 2 + variate] = 3.0
            if item == 7 and variate == 0:
                values[:] = 2.0
            values[rng.random(length) < 0.1 * (item % 3)] = np.nan
            row[column] = values.astype(np.float32).astype(np.float64)
        rows.append(row | {column: f"s{item % 2}" for column in rule.get("static_covariates", ())})
    pq.write_table(pa.Table.from_pylist(rows), file)


def forecast(model: str, history: np.ndarray, rule: Any, rng: np.random.Generator) -> np.ndarray:
    """Return point and quantiles (1 + Q, H) of a model."""
    if model == "seasonal_naive":
        known = filled(history)[-1000:]
        return np.nan_to_num(seasonal_naive(known, rule.seasonality, rule.horizon, LEVELS, NORMAL), nan=0.0)
    noise = {"noisy": 1.0, "noisier": 4.0, "trained": 0.5}[model]
    known = filled(history)
    levels = np.sort(rng.standard_normal((len(LEVELS), rule.horizon)), axis=0) * (1 + known.std())
    point = known[-1] + noise * rng.standard_normal(rule.horizon)
    return np.concatenate([point[None], point + noise * levels])


def instances(rule: Any, series: list[BenchmarkSeries], cuts: list[Cut], forecasts: dict[Cut, np.ndarray]) -> Instances:
    """Return truth and forecasts of every variate of every window."""
    rows = [(cut, variate) for cut in cuts for variate in range(len(series[cut.series].variates))]
    values = [series[cut.series].values[variate] for cut, variate in rows]
    found = np.stack([forecasts[cut][variate] for cut, variate in rows])
    return Instances(
        target=np.stack([v[c.cutoff : c.cutoff + rule.horizon] for v, (c, _) in zip(values, rows, strict=True)]),
        point=found[:, 0],
        quantiles=np.moveaxis(found[:, 1:], 1, 2),
        levels=LEVELS,
        seasonal_error=np.array(
            [fev_seasonal_error(v[: c.cutoff], rule.seasonality) for v, (c, _) in zip(values, rows, strict=True)]
        ),
        variate=np.array([variate for _, variate in rows]),
        window=np.array([cut.window for cut, _ in rows]),
    )


def our_side(folder: Path, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Generate data and forecasts, write what fev needs, and return our figures of all models and tasks."""
    rng = np.random.default_rng(seed)
    figures: dict[str, dict[str, dict[str, float]]] = {model: {} for model in MODELS}
    arrays, tasks = {}, {}
    for name in TASKS:
        (folder / name).mkdir()
        file = folder / name / f"{name}.parquet"
        write_data(name, file, rng)
        tasks[name] = fev_definition(name, file)
        task = definition(name)
        series = read_hub_parquet(folder / name, task.definition.targets)
        cuts = windows_of(task, series)
        for model in MODELS:
            if (model, name) in FAILED:
                continue
            made = {
                cut: np.stack(
                    [forecast(model, v[: cut.cutoff], task.definition, rng) for v in series[cut.series].values]
                )
                for cut in cuts
            }
            figures[model][name] = fev_metrics(instances(task.definition, series, cuts, made))
            for window in range(task.definition.num_windows or 1):
                arrays[f"{model}|{name}|{window}"] = np.stack([made[cut] for cut in cuts if cut.window == window])
    np.savez(folder / "forecasts.npz", **arrays)
    histories = {f"{season}": rng.standard_normal(50).cumsum() for season in (1, 7, 24)}
    np.savez(folder / "histories.npz", **histories)
    exchange = {
        "tasks": tasks, "models": MODELS, "leaky": LEAKY, "cases": CASES, "resamples": RESAMPLES, "metrics": METRICS,
        "naive": {key: (int(key), 30) for key in histories},
    }  # fmt: skip
    (folder / "exchange.json").write_text(json.dumps(exchange))
    return figures


def largest(gaps: list[float]) -> float:
    """Return the largest; NaN, which no limit lets pass, if one is NaN."""
    return float(np.max(gaps))


def metric_difference(figures: dict, summaries: list[dict]) -> float:
    """Return the largest relative difference of a task metric."""
    theirs = {(row["model_name"], row["task_name"], metric): row[metric] for row in summaries for metric in METRICS}
    ours = {(m, t, metric): of[metric] for m, tasks in figures.items() for t, of in tasks.items() for metric in METRICS}
    assert set(ours) == set(theirs), set(ours) ^ set(theirs)
    return largest([abs(ours[key] - value) / abs(value) for key, value in theirs.items()])


def aggregate_differences(figures: dict, tables: dict) -> dict[str, float]:
    """Return the largest absolute differences of leaderboards and of pairs."""
    worst = {"leaderboard": 0.0, "pairs": 0.0}
    for metric in METRICS:
        for case in CASES:
            options: dict[str, Any] = {
                "baseline": "seasonal_naive", "tasks": list(TASKS), "missing": case["missing_strategy"],
                "leaky": LEAKY, "leakage_model": case["leakage_imputation_model"], "resamples": RESAMPLES,
            }  # fmt: skip
            theirs = tables[f"{metric}|{case['name']}"]
            rows = {row.model: row for row in fev_standings(figures, metric, **options)}
            for line in theirs["leaderboard"]:
                row = rows.pop(line["model_name"])
                failed = 0 if case["name"] == "drop" else row.failures  # fev's share is one of the scored tasks
                left = len(TASKS) - failed - (case["name"] == "drop")
                counted = (line["num_failures"] - row.failures, line["training_corpus_overlap"] - row.leaky / left)
                worst["leaderboard"] = largest([worst["leaderboard"], *map(abs, counted), *_gaps(row, line)])
            pairs = {(pair.model, pair.other): pair for pair in fev_pairs(figures, metric, **options)}
            for line in theirs["pairs"]:
                pair = pairs.pop((line["model_1"], line["model_2"]))
                worst["pairs"] = largest([worst["pairs"], *_gaps(pair, line)])
            assert not rows and not pairs
    return worst


def _gaps(ours: Any, line: dict[str, float]) -> list[float]:
    low, high = ours.win_rate_interval
    worst, best = ours.skill_interval
    found = (ours.win_rate, low, high, ours.skill, worst, best)
    names = ("win_rate", "win_rate_lower", "win_rate_upper", "skill_score", "skill_score_lower", "skill_score_upper")
    return [abs(value - line[name]) for value, name in zip(found, names, strict=True)]


def write_rows(folder: Path, rng: np.random.Generator) -> dict[str, float]:
    """Write rows with gaps, zeros, short and empty histories for utilsforecast; returns our figures of them."""
    season, count, horizon = 4, 40, 6
    histories = [rng.standard_normal(int(length)).cumsum() for length in rng.integers(2, 30, count)]
    for history in histories[::3]:
        history[rng.random(len(history)) < 0.2] = np.nan
    target = rng.standard_normal((count, horizon)).round(1)
    target[rng.random(target.shape) < 0.15] = np.nan
    target[5], target[6] = np.nan, 0.0
    point = np.where(rng.random(target.shape) < 0.1, 0.0, rng.standard_normal(target.shape))
    quantiles = np.sort(rng.standard_normal((count, horizon, len(LEVELS))), axis=2)
    lengths = np.array([len(history) for history in histories])
    shared = {"target": target, "point": point, "quantiles": quantiles, "levels": np.array(LEVELS)}
    np.savez(folder / "rows.npz", **shared, season=season, lengths=lengths, history=np.concatenate(histories))
    gaps = [np.abs(history[season:] - history[:-season]) for history in histories]
    squares = [np.nanmean(gap**2) if np.isfinite(gap).any() else np.nan for gap in gaps]
    rows = Instances(
        target, point, quantiles, LEVELS, np.array([utilsforecast_seasonal_error(one, season) for one in histories]),
        np.zeros(count, np.int64), np.zeros(count, np.int64), np.array(squares),
    )  # fmt: skip
    return utilsforecast_metrics(rows)


def naive_difference(folder: Path, theirs: dict[str, list]) -> float:
    """Return the largest relative difference of our seasonal naive from statsforecast's."""
    histories = np.load(folder / "histories.npz")
    gaps = []
    for key, rows in theirs.items():
        ours = seasonal_naive(histories[key], int(key), 30, LEVELS, NORMAL)
        expected = np.array(rows)
        gaps.append(np.abs(ours - expected).max() / np.abs(expected).max())
    return largest(gaps)


def write_submission(folder: Path, rng: np.random.Generator) -> dict[str, dict[str, dict[str, float]]]:
    """Write a submission of made-up figures of all 100 tasks; returns the figures."""
    tasks = tasks_of("fev-bench")
    figures = {m: {t.name: {n: float(rng.uniform(0.5, 2)) for n in METRICS} for t in tasks} for m in MODELS[:2]}
    results = [
        {"schema": 1, "model": "noisy", "model_hash": "0" * 64, "suite": "fev-bench", "task": task.name,
         "dataset": task.definition.dataset, "state": "done", "error": None, "metrics": figures["noisy"][task.name],
         "baseline": figures["seasonal_naive"][task.name], "imputed": False, "series": 2, "windows": 1,
         "variates": 1, "seconds": 1.0, "device": "cpu", "num_parameters": 1, "identity": "0" * 64,
         "trained_on": None if k % 2 else []}
        for k, task in enumerate(tasks)
    ]  # fmt: skip
    write_submissions(results, folder / "submission")
    return figures


def main() -> int:
    """Compare both sides. Returns 1 if a difference is too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="the Python of fev's environment")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the files of both sides")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        figures = our_side(folder, arguments.seed)
        submitted = write_submission(folder, np.random.default_rng(arguments.seed + 1))
        losses = write_rows(folder, np.random.default_rng(arguments.seed + 2))
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache"), "PYTHONPATH": ""}
        side = [str(arguments.python), str(Path(__file__).with_name("fev_side.py")), str(folder)]
        subprocess.run(side, check=True, env=os.environ | offline)
        theirs = json.loads((folder / "fev.json").read_text())
        gaps = {"task metrics": metric_difference(figures, theirs["summaries"])}
        gaps |= aggregate_differences(figures, theirs["tables"])
        gaps["seasonal naive"] = naive_difference(folder, theirs["naive"])
        assert set(losses) == set(theirs["losses"])
        gaps["utilsforecast"] = largest([abs(losses[name] / value - 1) for name, value in theirs["losses"].items()])
        board = {row.model: row for row in fev_standings(submitted, "SQL", baseline="seasonal_naive")}
        lines = {line["model_name"]: line for line in theirs["submitted"]}
        assert set(board) == set(lines)
        gaps["submission"] = largest(
            [
                abs(row.win_rate - lines[m]["win_rate"]) + abs(row.skill - lines[m]["skill_score"])
                for m, row in board.items()
            ]
        )
    print(f"fev {theirs['version']}: {len(theirs['summaries'])} summaries, {len(METRICS)} metrics, {len(CASES)} cases")
    for name, gap in gaps.items():
        print(f"{'equal ' if gap <= MOST else 'DIFFERS'} {name:16}{gap:.1e}")
    return 0 if all(gap <= MOST for gap in gaps.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
