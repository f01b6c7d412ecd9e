"""Forecast two related series with a covariate of the past and one that is known ahead.

python examples/covariates.py                                  # a small Chronos-2 that it trains
python examples/covariates.py --model amazon/chronos-2
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import foretrain

HORIZON = 24
TARGETS = ["sales", "returns"]
SMALL = {"family": "chronos2", "random_init": True, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2,
         "num_heads": 4, "patch_size": 8, "initializer_factor": 1.0}  # fmt: skip


def make_frame() -> pd.DataFrame:
    """A shop: promotions, which are planned, lift sales at once and returns a day later; visitors are counted."""
    rng, hours = np.random.default_rng(0), np.arange(1000)
    promotion = (rng.random(len(hours) // 8) < 0.2).repeat(8).astype(float)
    visitors = 50 + 20 * np.sin(2 * np.pi * hours / 24) + rng.normal(0, 2, len(hours))
    sales = visitors * (1 + promotion) + rng.normal(0, 2, len(hours))
    returns = 0.1 * np.roll(sales, 24) + rng.normal(0, 0.3, len(hours))
    stamps = pd.date_range("2024-01-01", periods=len(hours), freq="h")
    return pd.DataFrame({"item_id": "shop", "timestamp": stamps, "sales": sales, "returns": returns,
                         "visitors": visitors, "promotion": promotion})  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", help="release folder, run folder or hub id; without it a small one is trained")
    args = parser.parse_args()
    frame = make_frame()
    history, truth = frame[:-HORIZON], frame[-HORIZON:]
    if args.model:
        predictor = foretrain.load(args.model)
    else:
        predictor = foretrain.fit(
            history, SMALL, data__target=TARGETS, data__known_covariates=["promotion"],
            data__past_covariates=["visitors"], data__context_length=96, data__prediction_length=HORIZON,
            training__max_steps=150, optimizer__learning_rate=3e-3,
            output_dir=str(Path(tempfile.mkdtemp(prefix="covariates-")) / "run"),
        )  # fmt: skip
    known = truth[["item_id", "timestamp", "promotion"]]  # visitors are not known ahead
    forecast = predictor.forecast_df(history, HORIZON, target=TARGETS, future_df=known)
    for name, rows in forecast.groupby("target_name"):
        error = np.abs(rows["predictions"].to_numpy() - truth[name].to_numpy()).mean()
        naive = np.abs(history[name].iloc[-1] - truth[name]).mean()
        print(f"{name}: mean absolute error {error:.2f}, of naive {naive:.2f}")


if __name__ == "__main__":
    main()
