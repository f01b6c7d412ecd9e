"""Results of batches by window, with the output settings applied: the one place for every verb, table and stream.

Candles are repaired where they are sampled (models/kronos/paths.py), since that takes all of their columns.

# R rows (targets of all windows), H horizon, Q levels, S samples
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from foretrain.data.windows import TARGET, FloatArray, IntArray, Mask, Window, Windows
from foretrain.models.base import Forecast
from foretrain.models.request import ForecastRequest
from foretrain.notes import Tally, sum_tallies


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
    if request.sort_quantiles and not (finite := np.isfinite(ascending)).all():
        ascending = np.where(finite.all(axis=-1, keepdims=True), ascending, np.float32(np.nan))
    crossed: Mask = np.any(ascending[..., 1:] < ascending[..., :-1], axis=-1)
    if request.sort_quantiles:
        ascending = np.sort(ascending, axis=-1) if crossed.any() else ascending
        found["quantiles"] = ascending[..., np.argsort(order)]
    return {**found, "crossed": crossed}


def without_values(windows: Windows) -> Mask:
    """Return (R,) True for targets without a value in the context."""
    return np.asarray(np.isnan(windows.context[windows.role == TARGET]).all(axis=1))


class Launched(NamedTuple):
    """One batch that the model has computed, or is computing."""

    windows: IntArray  # their indices
    forecast: Forecast
    empty: Mask  # (rows,) targets without a value in the context


@dataclass(frozen=True)
class ForecastList:
    """Forecasts of many windows, in the order of the windows and in the units of the data."""

    quantiles: list[FloatArray]  # per window (targets, H, Q)
    mean: list[FloatArray] | None  # per window (targets, H), if the family returns a mean of its sample paths
    samples: list[FloatArray] | None  # per window (targets, S, H) sample paths, if requested and drawn
    notes: tuple[Tally, ...]  # counts over all windows; log_tallies logs them as warnings
    crossed: list[Mask]  # per window (targets, H), True where quantiles crossed before they were sorted


class Collected:
    """Collects the results of batches by window."""

    def __init__(
        self,
        windows: Sequence[Window],
        request: ForecastRequest,
        keep_samples: bool,
        progress: Callable[[int], None] | None,
    ) -> None:
        self._windows, self._request, self._progress = windows, request, progress
        self.drawn = False  # True after a forecast that was made from sample paths
        self._parts: dict[str, dict[int, Any]] = {"quantiles": {}, "mean": {}, "crossed": {}}
        if keep_samples:
            self._parts["samples"] = {}
        self._notes: tuple[Tally, ...] = ()
        self.scales: tuple[Tally, ...] = ()  # of the rows' scales

    def add(self, batch: Launched) -> None:
        """Copy the results of one batch to the host, apply the output settings and assign its rows to windows."""
        tensors = {name: getattr(batch.forecast, name) for name in self._parts if name != "crossed"}
        parts = {name: tensor.float().cpu().numpy() for name, tensor in tensors.items() if tensor is not None}
        for name, values in finished(parts, batch.empty, self._request).items():
            first = 0
            for i in batch.windows:
                self._parts[name][int(i)] = values[first : first + self._windows[i].num_targets]
                first += self._windows[i].num_targets
        self._notes = sum_tallies([*self._notes, *batch.forecast.notes])
        if self._progress is not None:
            self._progress(len(batch.windows))

    def result(self) -> ForecastList:
        """Return the forecasts in the order of the windows; None for outputs that some batch lacked."""
        count = len(self._windows)
        lists = {
            name: [found[i] for i in range(count)] if len(found) == count else None
            for name, found in self._parts.items()
        }
        notes = (*self._notes, *(tally for tally in self.scales if tally.note() is not None))
        crossed = lists["crossed"] or []
        return ForecastList(lists["quantiles"] or [], lists["mean"], lists.get("samples"), notes, crossed)
