"""fev's side of fev_parity.py, run by the Python of fev's environment: `fev_side.py FOLDER`.

Scores the forecasts of FOLDER through fev.Task, aggregates them through fev.analysis, and writes FOLDER/fev.json.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import fev
import numpy as np
import pandas as pd
from fev.analysis import leaderboard, pairwise_comparison
from statsforecast.models import SeasonalNaive

warnings.filterwarnings("ignore")


def summaries(folder: Path, exchange: dict) -> list[dict]:
    """Return the evaluation summaries of every model on every task it has forecasts of."""
    forecasts = np.load(folder / "forecasts.npz")
    found = []
    for name, definition in exchange["tasks"].items():
        task = fev.Task(**definition)
        task.load_full_dataset(num_proc=1)
        for model in exchange["models"]:
            keys = [f"{model}|{name}|{window}" for window in range(task.num_windows)]
            if keys[0] in forecasts:
                windows = [as_predictions(task, forecasts[key]) for key in keys]
                trained = name in exchange["leaky"].get(model, [])
                extra = {"model_name": model, "training_time_s": 0.0, "inference_time_s": 1.0}
                summary = task.evaluation_summary(windows, trained_on_this_dataset=trained, **extra)
                found.append(summary | {"task_name": name})
    return found


def as_predictions(task: fev.Task, values: np.ndarray) -> dict[str, list[dict]]:
    """Return forecasts (N, V, 1 + Q, H) in fev's form; variates in the order of fev's columns."""
    keys = ["predictions", *map(str, task.quantile_levels)]
    return {
        column: [dict(zip(keys, item[variate].tolist(), strict=True)) for item in values]
        for variate, column in enumerate(task.target_columns)
    }


def tables(rows: pd.DataFrame, exchange: dict, metrics: list[str]) -> dict:
    """Return leaderboards and pairs of all metrics and strategies, as lists of rows."""
    found = {}
    for metric in metrics:
        for case in exchange["cases"]:
            options = {
                "metric_column": metric,
                "n_resamples": exchange["resamples"],
                "baseline_model": "seasonal_naive",
            }
            options |= {key: case[key] for key in ("missing_strategy", "leakage_imputation_model")}
            board, pairs = leaderboard(rows, **options), pairwise_comparison(rows, **options)
            found[f"{metric}|{case['name']}"] = {
                "leaderboard": board.astype(float).reset_index().to_dict("records"),
                "pairs": pairs.reset_index().to_dict("records"),
            }
    return found


def naive(folder: Path, exchange: dict) -> dict[str, list]:
    """Return statsforecast's seasonal naive of each history: point and quantiles."""
    histories = np.load(folder / "histories.npz")
    found = {}
    for key in histories:
        season, horizon = exchange["naive"][key]
        widths = [80, 60, 40, 20]
        model = SeasonalNaive(season_length=season)
        out = model.forecast(histories[key], h=horizon, level=widths)
        low, high = [out[f"lo-{width}"] for width in widths], [out[f"hi-{width}"] for width in reversed(widths)]
        found[key] = np.stack([out["mean"], *low, out["mean"], *high]).tolist()
    return found


def submitted(folder: Path) -> list[dict]:
    """Return the leaderboard of the submission's files, as fev reads them."""
    files = [str(path) for path in sorted((folder / "submission").rglob("*.csv"))]
    board = leaderboard(files)
    return board.astype(float).reset_index().to_dict("records")


def main() -> None:
    """Score, aggregate, write."""
    folder = Path(sys.argv[1])
    exchange = json.loads((folder / "exchange.json").read_text())
    rows = summaries(folder, exchange)
    result = {
        "version": fev.__version__,
        "summaries": rows,
        "tables": tables(pd.DataFrame(rows), exchange, exchange["metrics"]),
        "naive": naive(folder, exchange),
        "submitted": submitted(folder),
    }
    (folder / "fev.json").write_text(json.dumps(result, default=float))


if __name__ == "__main__":
    main()
