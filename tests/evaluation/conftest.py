"""Builders shared by the tests of this folder."""

from __future__ import annotations

import numpy as np
import pytest

from foretrain.evaluation.scored import Scored

LEVELS = tuple(round(0.1 * k, 1) for k in range(1, 10))


@pytest.fixture(scope="session")
def levels():
    return LEVELS


@pytest.fixture(scope="session")
def make_scored():
    """A Scored from truth (N, H) and either quantiles (N, H, 9) or a point forecast (N, H) in all levels."""

    def build(target, forecast, *, last=None, seasonal_error=None, item=None, price=False, stride=None, **more):
        target = np.asarray(target, np.float64)
        forecast = np.asarray(forecast, np.float64)
        rows, horizon = target.shape
        if forecast.ndim == 2:
            forecast = np.repeat(forecast[:, :, None], len(LEVELS), 2)
        item = np.arange(rows) if item is None else np.asarray(item)
        items = tuple(f"item-{k}" for k in range(int(item.max()) + 1))
        fields = {
            "target": target,
            "quantiles": forecast,
            "levels": LEVELS,
            "last": np.ones(rows) if last is None else np.asarray(last, np.float64),
            "seasonal_error": np.ones(rows) if seasonal_error is None else np.asarray(seasonal_error, np.float64),
            "item": item,
            "items": items,
            "unit": tuple(f"{name} currency" if price else "value" for name in items),
            "price": np.full(rows, price),
            "cutoff": np.zeros(rows, np.int64),
            "rank": np.zeros(rows, np.int64),
            "start": np.zeros(rows, np.int64),
            "end": np.zeros(rows, np.int64),
            "stride": stride or horizon,
        }
        return Scored(**{**fields, **more})

    return build
