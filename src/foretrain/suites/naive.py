"""Seasonal naive as published tables have it. The baseline of evaluations is another: its intervals are empirical.

* point: the last season, repeated; of a history shorter than a season its mean. Every level is the point forecast, so
  that WQL equals ND. gluonts' SeasonalNaivePredictor, which Chronos' tables have.
* statsforecast-normal: the last season, repeated; nothing of a history shorter than a season. Normal intervals of
  sigma = sqrt(mean e^2) over the errors e = y_t - y_(t-m) of the history, times sqrt(floor(step / m) + 1), step = 0, 1,
  ... statsforecast's SeasonalNaive, which the tables of GIFT-Eval and fev-bench have.
"""

from __future__ import annotations

import numpy as np

from foretrain.evaluation.scored import Array

POINT, NORMAL = "point", "statsforecast-normal"


def seasonal_naive(history: Array, season: int, horizon: int, levels: tuple[float, ...], mode: str) -> Array:
    """Return point forecasts and quantiles of histories (..., T) without missing values: (..., 1 + Q, horizon).

    Values are NaN where the mode has none: of a history shorter than a season, statsforecast's (SeasonalNaive).
    """
    steps = np.arange(horizon)
    length, each = history.shape[-1], (*history.shape[:-1], 1 + len(levels), horizon)
    if length < season:
        value = history.mean(axis=-1)[..., None, None] if mode == POINT else np.nan
        return np.broadcast_to(value, each).copy()
    point = history[..., None, length - season + steps % season]
    if mode == POINT:
        return np.broadcast_to(point, each).copy()
    errors = history[..., season:] - history[..., :-season]
    sigma = np.sqrt((errors**2).mean(axis=-1)) if length > season else np.full(history.shape[:-1], np.nan)
    width = sigma[..., None, None] * np.sqrt(steps // season + 1)
    return np.concatenate([point, point + _normal(levels)[:, None] * width], axis=-2)


def filled(history: Array) -> Array:
    """Return a history (T,) with each missing value replaced by the one before it; 0 before the first."""
    observed = np.isfinite(history)
    if observed.all():
        return history
    newest = np.maximum.accumulate(np.where(observed, np.arange(len(history)), -1))
    return np.where(newest >= 0, history[newest], 0.0)


def _normal(levels: tuple[float, ...]) -> Array:
    from scipy.special import ndtri

    return np.asarray(ndtri(np.asarray(levels)), np.float64)
