"""Forecast the series of a CSV file.

python examples/forecast_csv.py                                    # series that it makes, a model that it trains
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
SMALL = {"family": "toto2", "random_init": True, "patch_size": 8, "d_model": 32, "num_heads": 2, "num_layers": 2}


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
    parser.add_argument("--model", help="release folder, run folder or hub id; without it a small one is trained")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="forecast-csv-"))
    path = args.csv or folder / "history.csv"
    if args.csv is None:
        make_csv(path)
    history = foretrain.read_table(path)  # as `foretrain data import` reads it
    if args.model:
        predictor = foretrain.load(args.model)
    else:
        predictor = foretrain.fit(
            history, SMALL, data__context_length=96, data__prediction_length=HORIZON, training__max_steps=100,
            optimizer__learning_rate=0.2, output_dir=str(folder / "run"),
        )  # fmt: skip
    forecast = predictor.forecast_df(history, HORIZON, quantile_levels=[0.1, 0.5, 0.9])
    forecast.to_csv(path.with_suffix(".forecast.csv"), index=False)
    print(forecast.head(), f"\n{len(forecast)} rows in {path.with_suffix('.forecast.csv')}")


if __name__ == "__main__":
    main()
