"""Forecast the series of a CSV file.

python examples/forecast_csv.py                                    # series that it makes, the model in the box
python examples/forecast_csv.py sales.csv --model amazon/chronos-2

The file has the columns item_id, timestamp and target; the forecast is written beside it.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import foretrain

HORIZON = 24


def make_csv(path: Path) -> None:
    """Hourly series of two items with a daily season."""
    rng, hours = np.random.default_rng(0), np.arange(600)
    frames = [
        pd.DataFrame({
            "item_id": item,
            "timestamp": pd.date_range("2024-01-01", periods=len(hours), freq="h"),
            "target": level + 10 * np.sin(2 * np.pi * hours / 24) + rng.normal(0, 1, len(hours)),
        })
        for item, level in (("north", 100.0), ("south", 50.0))
    ]  # fmt: skip
    pd.concat(frames).to_csv(path, index=False)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("csv", type=Path, nargs="?")
    parser.add_argument("--model", default="tiny", help="model in the box, release folder, run folder or hub id")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="forecast-csv-"))
    path = args.csv or folder / "history.csv"
    if args.csv is None:
        make_csv(path)
    history = foretrain.read_table(path)  # as `foretrain data import` reads it
    predictor = foretrain.load(args.model)
    forecast = predictor.forecast_df(history, HORIZON, quantile_levels=[0.1, 0.5, 0.9])
    forecast.to_csv(path.with_suffix(".forecast.csv"), index=False)
    print(forecast.head(), f"\n{len(forecast)} rows in {path.with_suffix('.forecast.csv')}")


if __name__ == "__main__":
    main()
