"""The model in the box opens in the official chronos-forecasting package and forecasts there what it forecasts here."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import foretrain
from foretrain.models.shipped import shipped

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
chronos = pytest.importorskip("chronos")

LEVELS = [0.1, 0.37, 0.5, 0.9]
HORIZONS = (12, 100)  # within the trained one, and beyond it
FORECAST = 5e-5  # largest |a - b| / (|b| + 1), as in test_chronos2.py


@pytest.fixture(scope="module")
def ours():
    return foretrain.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def theirs():
    return chronos.BaseChronosPipeline.from_pretrained(str(shipped()["tiny"]), device_map="cpu")


def walk(rng: np.random.Generator, rows: int, steps: int) -> np.ndarray:
    """(rows, steps) waves on random walks, with missing values."""
    values = rng.standard_normal((rows, steps)).cumsum(1) + 3 * np.sin(np.arange(steps) * np.pi / 6)
    values[:, rng.random(steps) < 0.03] = np.nan
    return values.astype(np.float32)


def univariate(horizon: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [walk(rng, 1, steps)[0] for steps in (40, 9, 300, 700)]


def multivariate(horizon: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [walk(rng, rows, steps) for rows, steps in ((3, 200), (2, 60), (4, 520))]


def covariates(horizon: int) -> list[dict]:
    """Items of two targets, with a past covariate, one known ahead and a category known ahead."""
    rng, items = np.random.default_rng(2), []
    for steps in (90, 400):
        past = {"a": walk(rng, 1, steps)[0], "z": walk(rng, 1, steps)[0], "k": rng.choice(["sun", "rain"], steps)}
        ahead = {"z": rng.standard_normal(horizon), "k": rng.choice(["sun", "rain"], horizon)}
        items.append({"target": walk(rng, 2, steps), "past_covariates": past, "future_covariates": ahead})
    return items


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("inputs", [univariate, multivariate, covariates], ids=lambda made: made.__name__)
def test_forecasts_are_equal(ours, theirs, inputs, horizon: int):
    given = inputs(horizon)
    context = ours.facts["data"]["context_length"]
    expected, _ = theirs.predict_quantiles(given, horizon, LEVELS, context_length=context)
    found = ours.forecast(given, horizon, LEVELS)
    for a, b in zip(found, expected, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape and np.isfinite(a).all()
        assert (np.abs(a - b) / (np.abs(b) + 1)).max() <= FORECAST


def test_forecasts_of_frames_are_equal(ours, theirs):
    rng = np.random.default_rng(3)
    times = pd.date_range("2024-01-31", periods=130, freq="h")
    frame = pd.DataFrame({"item_id": "a", "timestamp": times, "target": rng.standard_normal(130).cumsum()})
    frame = frame.assign(other=rng.standard_normal(130), temp=rng.standard_normal(130))
    past, ahead = frame[:118], frame[118:].drop(columns=["target", "other"])
    arguments = {"prediction_length": 12, "quantile_levels": LEVELS, "future_df": ahead}
    expected = theirs.predict_df(past, target="target", **arguments)
    found = ours.forecast_df(past, sort_quantiles=False, **arguments)
    assert list(found.columns) == list(expected.columns)
    a, b = (table[list(expected.columns[3:])].to_numpy(np.float64) for table in (found, expected))
    assert (np.abs(a - b) / (np.abs(b) + 1)).max() <= FORECAST
