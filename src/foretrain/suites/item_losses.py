"""Losses of a contestant item by item, for what a pooled figure does not tell: tests, and who wins where.

# N rows (a target of a window), W windows, K items, H horizon, Q levels
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foretrain.evaluation.library_metrics import Instances
from foretrain.evaluation.scored import Array, Ints
from foretrain.suites.rows import TaskRows

SCALED_LOSSES = ("SQL", "MASE")


@dataclass(frozen=True)
class ItemLosses:
    """Scaled losses of the windows of a task. Sums and counts are over the observed steps of all targets of a window.

    SQL: 2 * pinball loss, mean over levels, over the row's seasonal error; MASE: the absolute error over it. Rows whose
    seasonal error is undefined or 0 do not count.
    """

    items: tuple[str, ...]  # (K,)
    history: Ints  # (K,) steps before an item's first window
    item: Ints  # (W,) number of the item
    origin: Ints  # (W,) 0 = the item's newest window
    count: Ints  # (W,) steps that count
    sums: dict[str, Array]  # (W,) of each of SCALED_LOSSES

    def by_window(self, name: str) -> Array:
        """Return the mean loss of each window (W,); NaN = nothing to measure by."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.sums[name] / self.count

    def by_item(self, name: str) -> Array:
        """Return the mean loss of each item over all its windows (K,); NaN = nothing to measure by."""
        return self._mean(name, self.item, len(self.items))

    def by_origin(self, name: str) -> Array:
        """Return the mean loss over all items of each origin that has one, the oldest first."""
        found = self._mean(name, self.origin, int(self.origin.max()) + 1)[::-1]
        return found[np.isfinite(found)]

    def total(self, name: str) -> float:
        """Return the mean loss over all steps."""
        steps = int(self.count.sum())
        return float(self.sums[name].sum() / steps) if steps else np.nan

    def _mean(self, name: str, group: Ints, groups: int) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.bincount(group, self.sums[name], groups) / np.bincount(group, self.count, groups)


def item_losses(rows: TaskRows, instances: Instances) -> ItemLosses:
    """Return the losses of what was forecast for the rows of a task."""
    scale = instances.seasonal_error
    measured = np.isfinite(scale) & (scale > 0)
    usable = np.isfinite(instances.target) & measured[:, None]
    truth, unit = np.where(usable, instances.target, 0.0), np.where(measured, scale, 1.0)
    pinball = np.zeros_like(truth)
    for k, level in enumerate(instances.levels):
        miss = truth - instances.quantiles[:, :, k]
        pinball += 2 * np.maximum(level * miss, (level - 1) * miss) / len(instances.levels)
    errors = {"SQL": pinball, "MASE": np.abs(truth - instances.point)}
    windows = len(rows.cuts)
    window = np.repeat(np.arange(windows), rows.widths)
    chosen, item = np.unique([cut.series for cut in rows.cuts], return_inverse=True)
    cutoff = np.array([cut.cutoff for cut in rows.cuts], np.int64)
    order = np.lexsort((-cutoff, item))  # item by item, its newest window first
    first = np.searchsorted(item[order], np.arange(len(chosen)))
    origin = np.empty(windows, np.int64)
    origin[order] = np.arange(windows) - first[item[order]]
    history = np.full(len(chosen), np.iinfo(np.int64).max)
    np.minimum.at(history, item, cutoff)
    return ItemLosses(
        items=tuple(rows.series[int(series)].item_id for series in chosen),
        history=history,
        item=item,
        origin=origin,
        count=np.bincount(window, usable.sum(axis=1), windows).astype(np.int64),
        sums={
            name: np.bincount(window, np.where(usable, values, 0.0).sum(axis=1) / unit, windows).astype(np.float64)
            for name, values in errors.items()
        },
    )
