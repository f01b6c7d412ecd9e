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
import utilsforecast.losses as ufl
from fev.analysis import leaderboard, pairwise_comparison
from statsforecast.models import SeasonalNaive
from utilsforecast.evaluation import evaluate

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


def losses(folder: Path) -> dict[str, float]:
    """Return utilsforecast's losses of its rows, reduced by evaluate(agg_fn="mean")."""
    arrays = np.load(folder / "rows.npz")
    target, levels, season = arrays["target"], arrays["levels"], int(arrays["season"])
    count, horizon = target.shape
    future = pd.DataFrame({"unique_id": np.repeat(np.arange(count), horizon), "y": target.ravel()})
    future["ds"] = np.tile(np.arange(1000, 1000 + horizon), count)
    future["m"] = arrays["point"].ravel()
    columns = {"m": [f"q{k}" for k in range(len(levels))]}
    for k, column in enumerate(columns["m"]):
        future[column] = arrays["quantiles"][:, :, k].ravel()
    future["m-lo-80"], future["m-hi-80"] = future["q0"], future[columns["m"][-1]]
    lengths = arrays["lengths"]
    train = pd.DataFrame({"unique_id": np.repeat(np.arange(count), lengths), "y": arrays["history"]})
    train["ds"] = np.concatenate([np.arange(length) for length in lengths])
    scaled = {"seasonality": season, "train_df": train}
    of = {
        "mae": ufl.mae(future, ["m"]),
        "rmse": ufl.rmse(future, ["m"]),
        "mape": ufl.mape(future, ["m"]),
        "smape": ufl.smape(future, ["m"]),
        "nd": ufl.nd(future, ["m"]),
        "mase": ufl.mase(future, ["m"], **scaled),
        "rmsse": ufl.rmsse(future, ["m"], **scaled),
        "mqloss": ufl.mqloss(future, columns, quantiles=levels),
        "scaled_mqloss": ufl.scaled_mqloss(future, columns, quantiles=levels, **scaled),
        "scaled_crps": ufl.scaled_crps(future, columns, quantiles=levels),
        "coverage-80": ufl.coverage(future, ["m"], level=80),
    }
    first = evaluate(future[["unique_id", "ds", "y", "m"]], metrics=[ufl.mae], agg_fn="mean")["m"].item()
    assert first == of["mae"]["m"].mean()  # which is how evaluate reduces them
    return {name: float(frame["m"].mean()) for name, frame in of.items()}


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
        "losses": losses(folder),
        "submitted": submitted(folder),
    }
    (folder / "fev.json").write_text(json.dumps(result, default=float))


if __name__ == "__main__":
    main()
