"""Metrics that sums of each window give, for tasks of so many overlapping windows that no one holds their forecasts.

ltsf: the benchmarks of long horizons take the means of squared and of absolute errors over all windows, steps and
variates at once, of standardised values. Steps without a truth are left out.

# V variates, H horizon, W windows
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from foretrain.evaluation.scored import Array

STREAMED_SUMS = 3  # numbers a window


def ltsf_sums(truth: Array, point: Array) -> Array:
    """Return the sums of squared and absolute errors of a window, truth and point (V, H), and the steps: (3,)."""
    errors = (truth - point)[np.isfinite(truth)]
    return np.array([(errors**2).sum(), np.abs(errors).sum(), errors.size])


def streamed_metrics(sums: Array) -> dict[str, float]:
    """Return MSE and MAE of the sums of all windows (W, 3); NaN without an observed step."""
    squared, absolute, steps = sums.sum(axis=0)
    if not steps:
        return {"MSE": np.nan, "MAE": np.nan}
    return {"MSE": float(squared / steps), "MAE": float(absolute / steps)}


STREAMED: dict[str, Callable[[Array, Array], Array]] = {"ltsf": ltsf_sums}
