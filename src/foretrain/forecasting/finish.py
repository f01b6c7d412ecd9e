"""The output settings applied to forecasts: the one place for every verb, table and stream.

Candles are repaired where they are sampled (models/kronos/paths.py), since that takes all of their columns.

# R rows (targets of all windows), H horizon, Q levels, S samples
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from foretrain.data.windows import FloatArray, Mask, Window
from foretrain.models.request import ForecastRequest


def finished(parts: Mapping[str, FloatArray], empty: Mask, request: ForecastRequest) -> dict[str, np.ndarray]:
    """Return forecasts with the request's output settings applied, and "crossed" (R, H), which is True where quantiles
    crossed before.

    Args:
        parts: "quantiles" (R, H, Q) at request.quantile_levels; "mean" (R, H) and "samples" (R, S, H) if there are any.
        empty: (R,) True for targets without a value in the context. With blank_missing their forecasts are NaN.
        request: with sort_quantiles, quantiles ascend with their levels, whose order is kept, and a step with a
            quantile that is not finite is NaN at all levels: sorting would move the others to levels not theirs.
    """
    found: dict[str, np.ndarray] = dict(parts)
    if request.blank_missing and empty.any():
        for name, values in found.items():
            found[name] = np.where(empty.reshape(-1, *[1] * (values.ndim - 1)), np.float32(np.nan), values)
    order = np.argsort(request.quantile_levels)
    ascending = found["quantiles"][..., order]
    if request.sort_quantiles:
        broken = ~np.logical_and.reduce(np.isfinite(ascending), axis=-1)
        if broken.any():
            ascending = np.where(broken[..., None], np.float32(np.nan), ascending)
    found["crossed"] = np.any(ascending[..., 1:] < ascending[..., :-1], axis=-1)
    if request.sort_quantiles:
        found["quantiles"] = np.sort(ascending, axis=-1)[..., np.argsort(order)]
    return found


def without_values(windows: Sequence[Window], context_length: int) -> Mask:
    """Return (R,) True for targets without a value in the newest context_length steps."""
    rows = [np.isnan(w.context[: w.num_targets, -context_length:]).all(axis=1) for w in windows]
    return np.concatenate(rows) if rows else np.zeros(0, bool)
