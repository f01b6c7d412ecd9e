"""Series derived from raw ones as suites did: full grids, and sums or means over hours, days and weeks."""

from __future__ import annotations

import numpy as np

from foretrain.errors import DataError
from foretrain.suites.definition import Derivation
from foretrain.suites.raw_files import BenchmarkSeries


def derived(series: BenchmarkSeries, rule: Derivation) -> BenchmarkSeries:
    """Return a series on a full grid, or over periods. Raises DataError for a series without stamps.

    Holes of the grid and periods without rows are NaN. Of stamps that come twice the first row counts. A week W-SUN
    ends on Sunday.
    """
    import pandas as pd

    if series.stamps is None:
        raise DataError(f"item {series.item_id!r} has no time stamps; periods cannot be formed.")
    frame = pd.DataFrame(series.values.T, index=pd.DatetimeIndex(series.stamps))
    if rule.grid:
        frame = frame[~frame.index.duplicated()].sort_index().asfreq(rule.grid)
    if rule.every:
        groups = frame.resample(rule.every)
        frame = groups.sum(min_count=1) if rule.how == "sum" else groups.mean()
    frame = frame.iloc[int(rule.drop_first) : len(frame) - int(rule.drop_last)]
    stamps = frame.index.to_numpy().astype("datetime64[us]")
    return BenchmarkSeries(series.item_id, series.variates, frame.to_numpy(np.float64).T.copy(), stamps)
