"""Predictors of small models, and frames to forecast."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from foretrain.forecasting.predictor import Predictor, load


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    return Path(os.environ.get("FORETRAIN_GOLDEN_DIR") or Path(__file__).parents[1] / "golden") / "chronos2"


@pytest.fixture(scope="session")
def golden(golden_folder):
    """A function that reads the tensors of a recorded file by name."""
    return lambda name: load_file(golden_folder / f"{name}.safetensors")


@pytest.fixture(scope="session")
def predictor(golden_folder) -> Predictor:
    """Native horizon 32, context 64, patches of 8, 11 trained levels."""
    return load(golden_folder / "model", device="cpu")


@pytest.fixture
def frame() -> pd.DataFrame:
    """Three items of different lengths with a numeric and a text covariate, hourly, rows shuffled."""
    rng = np.random.default_rng(0)
    parts = [
        pd.DataFrame(
            {
                "item_id": name,
                "timestamp": pd.date_range("2024-03-01", periods=steps, freq="h"),
                "target": rng.standard_normal(steps).cumsum(),
                "temp": rng.standard_normal(steps),
                "kind": rng.choice(["a", "b", "c"], steps),
            }
        )
        for name, steps in (("007", 40), ("1e5", 20), ("nan", 30))
    ]
    return pd.concat(parts).sample(frac=1, random_state=1).reset_index(drop=True)


@pytest.fixture
def future(frame) -> pd.DataFrame:
    """Covariates of the 4 hours after each item of frame."""
    rng = np.random.default_rng(1)
    rows = []
    for name, last in frame.groupby("item_id")["timestamp"].max().items():
        for k in range(1, 5):
            time = last + pd.Timedelta(hours=k)
            rows.append((name, time, rng.standard_normal(), rng.choice(["a", "b", "z"])))
    return pd.DataFrame(rows, columns=["item_id", "timestamp", "temp", "kind"])


@pytest.fixture(scope="session")
def candle_predictor(zoo) -> Predictor:
    """A small Kronos with random weights."""
    return Predictor(zoo.shared("kronos"))


@pytest.fixture
def candles() -> pd.DataFrame:
    """Two items of 5-minute bars from half past nine to four with a capital first letter and a column of text."""
    rng = np.random.default_rng(2)
    sessions = [
        pd.date_range(d + pd.Timedelta("9h30min"), periods=78, freq="5min")
        for d in pd.bdate_range("2024-03-04", periods=4)
    ]
    stamps = sessions[0].append(sessions[1:])
    parts = []
    for name, steps in (("ACME", 300), ("7", 250)):
        close = 50 + rng.normal(0, 0.1, steps).cumsum()
        opened = close + rng.normal(0, 0.05, steps)
        parts.append(
            pd.DataFrame(
                {
                    "item_id": name,
                    "timestamp": stamps[:steps],
                    "Close": close,
                    "Open": opened,
                    "High": np.maximum(opened, close) + 0.1,
                    "Low": np.minimum(opened, close) - 0.1,
                    "Volume": rng.uniform(1e3, 2e3, steps),
                    "exchange": "N",
                }
            )
        )
    return pd.concat(parts, ignore_index=True)
