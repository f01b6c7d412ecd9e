"""Forecast candles with Kronos: quantiles of the close, and sampled candles.

python examples/kronos_candles.py                              # candles that it makes, a model that it trains
python examples/kronos_candles.py bars.csv --model NeoQuasar/Kronos-small

The file has the columns timestamp, open, high, low, close and, if present, volume and amount, of one instrument.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

import foretrain
from foretrain.run.config import shipped_config

HORIZON = 12


def make_bars() -> pd.DataFrame:
    """Half-hourly candles around a random walk."""
    rng, count = np.random.default_rng(0), 1500
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.002, count)))
    opened = np.concatenate([[100.0], close[:-1]])
    edge = rng.uniform(0.0, 0.2, (2, count))
    return pd.DataFrame({
        "timestamp": pd.date_range("2024-01-01", periods=count, freq="30min"),
        "open": opened, "high": np.maximum(opened, close) + edge[0], "low": np.minimum(opened, close) - edge[1],
        "close": close, "volume": rng.uniform(1e3, 1e4, count),
    })  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("csv", type=Path, nargs="?")
    parser.add_argument("--model", help="release folder, run folder or hub id; without it a small one is trained")
    args = parser.parse_args()
    bars = foretrain.read_table(args.csv) if args.csv else make_bars()
    if args.model:
        predictor = foretrain.load(args.model)
    else:  # both stages of the config that ships: the tokenizer, then the predictor
        config = yaml.safe_load(shipped_config("kronos/debug.yaml").read_text())
        for stage in config["stages"]:
            stage["training"]["max_steps"] = 60
        sizes = {"data__context_length": 64, "data__prediction_length": HORIZON, "data__min_context": 64}
        folder = Path(tempfile.mkdtemp(prefix="kronos-candles-")) / "run"
        predictor = foretrain.fit(bars, stages=config["stages"], **sizes, output_dir=str(folder))
    quantiles = predictor.forecast_df(bars, HORIZON, quantile_levels=[0.1, 0.5, 0.9], target="close", num_samples=20)
    candles = predictor.forecast_df(bars, HORIZON, output="candles", num_samples=20)
    print(quantiles.to_string(index=False), candles.to_string(index=False), sep="\n\n")


if __name__ == "__main__":
    main()
