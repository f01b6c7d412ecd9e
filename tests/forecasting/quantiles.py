"""Quantile forecasts of windows, without a Predictor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foretrain.data.windows import FloatArray, Window
from foretrain.forecasting.batching import forecast_paths, log_tallies
from foretrain.models.base import Forecaster
from foretrain.models.request import ForecastRequest


def forecast_windows(
    model: Forecaster, windows: Sequence[Window], prediction_length: int, quantile_levels: Sequence[float], **how: Any
) -> list[FloatArray]:
    """Return quantile forecasts, one (targets, H, Q) array per window, and log their notes."""
    apart = {name: how.pop(name) for name in ("device", "dtype", "progress") if name in how}
    request = ForecastRequest(prediction_length=prediction_length, quantile_levels=quantile_levels, **how)
    found = forecast_paths(model, windows, request, keep_samples=False, **apart)
    log_tallies(found.notes)
    return found.quantiles
