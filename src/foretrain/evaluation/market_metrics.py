"""Metrics of prices on benchmark tasks: those of evaluations and validation, of rows without panels and corpora."""

from __future__ import annotations

import numpy as np

from foretrain.data.windows import NO_TIME
from foretrain.errors import DataError
from foretrain.evaluation import metrics
from foretrain.evaluation.library_metrics import Instances
from foretrain.evaluation.scored import INTERVAL, Scored

_PRICES_OF_ONE = ("price_mse", "price_rmse", "price_mae")
_NAMES = (
    "wql", "mase", "coverage_80_share", "pct_mae", "pct_mse", "pct_rmse", "pct_mape", "pct_r2", *_PRICES_OF_ONE,
    "direction_accuracy_share",
)  # fmt: skip


def market_metrics(rows: Instances) -> dict[str, float]:
    """Return evaluation.metrics of prices, and direction_up_share, the base rate of direction accuracy.

    NaN where undefined: price_* of several items, whose currencies and levels differ; the direction accuracy of
    forecasts that all are the last close. Rows without a last close are left out. Raises DataError if none has one.
    """
    assert rows.last is not None
    known = np.isfinite(rows.last)
    if not known.any():
        raise DataError("no window has a price before its cutoff.")
    scored = _scored(rows).take(known)
    found = metrics.pooled(scored) | metrics.price_squares(scored)
    result = {name: found.get(name, np.nan) for name in _NAMES}
    if metrics.names_no_direction(scored):
        result["direction_accuracy_share"] = np.nan
    moves = scored.target - scored.last[:, None]
    moves = moves[np.isfinite(moves) & (moves != 0)]
    return result | {"direction_up_share": float((moves > 0).mean()) if len(moves) else np.nan}


def _scored(rows: Instances) -> Scored:
    missing = [level for level in INTERVAL if level not in rows.levels]
    assert not missing and rows.last is not None and rows.item is not None
    count, items = len(rows.target), tuple(f"price {k}" for k in range(int(rows.item.max()) + 1))
    none, zeros = np.full(count, NO_TIME, np.int64), np.zeros(count, np.int64)
    scale = rows.seasonal_error
    return Scored(
        target=rows.target,
        quantiles=rows.quantiles,
        levels=rows.levels,
        last=rows.last,
        seasonal_error=np.where(scale > 0, scale, np.nan),
        item=rows.item,
        items=items,
        unit=items,  # each item has a currency and a level of its own
        price=np.ones(count, np.bool_),
        cutoff=zeros,
        rank=zeros,
        start=none,
        end=none,
        stride=1,
    )
