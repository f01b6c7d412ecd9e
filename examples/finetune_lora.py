"""Fine-tune a model by a low-rank adapter and compare it with the model that it started from.

python examples/finetune_lora.py                               # a small model, trained on other series first
python examples/finetune_lora.py --model amazon/chronos-2 --steps 200

The adapter is written to adapters/ of the run, its merged weights to release/.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import foretrain

HORIZON = 12
SIZES = {"data__context_length": 72, "data__prediction_length": HORIZON, "training__tensorboard": False}
SMALL = {"family": "chronos2", "random_init": True, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2,
         "num_heads": 4, "patch_size": 12, "initializer_factor": 1.0}  # fmt: skip


def make_frame(period: int, seed: int) -> pd.DataFrame:
    """Eight hourly series with a season of `period` hours."""
    rng, hours = np.random.default_rng(seed), np.arange(400)
    stamps = pd.date_range("2024-01-01", periods=len(hours), freq="h")
    values = 20 + 5 * np.sin(2 * np.pi * (hours + rng.integers(0, period, (8, 1))) / period)
    values += rng.normal(0, 0.5, values.shape)
    frames = [pd.DataFrame({"item_id": f"s{i}", "timestamp": stamps, "target": row}) for i, row in enumerate(values)]
    return pd.concat(frames)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", help="release folder or hub id to start from; without it a small one is trained")
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    folder, series = Path(tempfile.mkdtemp(prefix="finetune-lora-")), make_frame(period=8, seed=1)
    if not args.model:
        foretrain.fit(make_frame(period=24, seed=0), SMALL, training__max_steps=100, optimizer__learning_rate=3e-3,
                      output_dir=str(folder / "base"), **SIZES)  # fmt: skip
    model = args.model or str(folder / "base" / "release")
    history = series.groupby("item_id").head(400 - HORIZON)
    truth = series.groupby("item_id").tail(HORIZON)["target"].to_numpy()
    tuned = foretrain.fit(history, model, adapter__rank=8, training__max_steps=args.steps,
                          optimizer__learning_rate=1e-2, output_dir=str(folder / "adapted"), **SIZES)  # fmt: skip
    for name, predictor in (("before", foretrain.load(model)), ("after", tuned)):
        error = predictor.forecast_df(history, HORIZON)["predictions"].to_numpy() - truth
        print(f"mean absolute error {name}: {np.abs(error).mean():.2f}")
    print(f"merged weights: {folder / 'adapted' / 'release'}")


if __name__ == "__main__":
    main()
