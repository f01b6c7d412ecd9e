"""Time stamps of a forecast: the frequency of a frame's series, and the stamps that follow their last rows.

# N items, T rows of all items, H horizon
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from foretrain.data.windows import IntArray
from foretrain.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

LONGEST_PLAIN_STEP = np.timedelta64(28, "D")  # a month can look like a constant step of 28 to 31 days
WAY_OUT = 'Give freq=, for example freq="B", to set the stamps of the forecast without this check.'


def parse_freq(freq: str) -> Any:
    """The pandas offset of an alias such as "h", "D", "B", "15min". Raises DataError for any other text."""
    from pandas.tseries.frequencies import to_offset

    try:
        offset = to_offset(freq)
    except ValueError as error:
        raise DataError(f"freq={freq!r} is no frequency that pandas knows ({' '.join(str(error).split())}).") from None
    if offset is None or offset.n < 1:
        raise DataError(f"freq={freq!r} does not move forward in time.")
    return offset


def infer_step(steps: IntArray, starts: IntArray, ids: Any) -> int:
    """Distance between neighbouring rows where the time column holds integers. Raises DataError when it varies."""
    gaps, rows = _gaps(steps, starts)
    if not len(gaps):
        return 1
    off = np.flatnonzero(gaps != gaps[0])
    if len(off):
        item = ids[np.searchsorted(starts, rows[off[0]], side="right") - 1]
        raise DataError(
            f"item {item!r}: steps {gaps[0]} and {gaps[off[0]]} apart in an integer time column; fill gaps."
        )
    return int(gaps[0])


def infer_offset(stamps: pd.DatetimeIndex, starts: IntArray, ids: Any) -> Any:
    """The pandas offset shared by all series; stamps are grouped by item and ascend, starts are the items' first rows.

    Series of fewer than 3 rows follow the others. Raises DataError for irregular, differing or too short series.
    """
    if stamps.tz is not None:
        try:
            return _infer(stamps.tz_convert(None), starts, ids)
        except DataError:
            stamps = stamps.tz_localize(None)  # midnights of a zone with summer time are 24 h apart by the wall clock
    return _infer(stamps, starts, ids)


def _infer(stamps: pd.DatetimeIndex, starts: IntArray, ids: Any) -> Any:
    import pandas as pd
    from pandas.tseries.frequencies import to_offset

    lengths = np.diff(np.append(starts, len(stamps)))
    if lengths.max() < 3:
        raise DataError(f"no item has 3 rows, so the frequency cannot be told. {WAY_OUT}")
    ticks = stamps.to_numpy().astype("datetime64[ns]")
    gaps, rows = _gaps(ticks, starts)
    if gaps[0] < LONGEST_PLAIN_STEP and (gaps == gaps[0]).all():
        return _plain(gaps[0])
    longest = int(np.argmax(lengths))
    freq = _infer_one(stamps, starts, lengths, longest, ids)
    offset = to_offset(freq)
    unique, place = np.unique(ticks, return_inverse=True)
    expected = add(pd.DatetimeIndex(unique), offset).to_numpy()[place]
    long = np.repeat(lengths >= 3, lengths)[rows]
    off = np.flatnonzero((expected[rows] != ticks[rows + 1]) & long)
    if len(off):
        other = int(np.searchsorted(starts, rows[off[0]], side="right") - 1)
        found = _infer_one(stamps, starts, lengths, other, ids)
        raise DataError(
            f"item {ids[other]!r} has frequency {found!r}, item {ids[longest]!r} has {freq!r}; all items of one call "
            f"need one frequency. Forecast them in separate calls. {WAY_OUT}"
        )
    return offset


def _infer_one(stamps: pd.DatetimeIndex, starts: IntArray, lengths: IntArray, item: int, ids: Any) -> str:
    import pandas as pd

    own = stamps[starts[item] : starts[item] + lengths[item]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas 3.1 announces that an offset will be returned; both are taken here
        freq = pd.infer_freq(own)
    if freq is None:
        gaps = np.diff(own.to_numpy())
        raise DataError(
            f"item {ids[item]!r}: rows are {pd.Timedelta(gaps.min())} to {pd.Timedelta(gaps.max())} apart, which is no "
            "regular frequency. "
            f"Fill the gaps with rows of missing values. {WAY_OUT}"
        )
    return freq if isinstance(freq, str) else freq.freqstr


def add(stamps: pd.DatetimeIndex, offset: Any, count: int = 1) -> pd.DatetimeIndex:
    """Stamps moved count offsets on; days and longer by the wall clock of their zone, shorter ones in real time."""
    import pandas as pd

    zone = stamps.tz
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=pd.errors.PerformanceWarning)  # some offsets step one by one
        if zone is None:
            return pd.DatetimeIndex(stamps + count * offset)
        if isinstance(offset, pd.offsets.Tick) and not isinstance(offset, pd.offsets.Day):
            return pd.DatetimeIndex((stamps.tz_convert("UTC") + count * offset).tz_convert(zone))
        moved = pd.DatetimeIndex(stamps.tz_localize(None) + count * offset)
        return moved.tz_localize(zone, nonexistent="shift_forward", ambiguous=np.zeros(len(moved), bool))


def following(last: pd.DatetimeIndex, offset: Any, horizon: int) -> pd.DatetimeIndex:
    """(N * H) stamps after the last ones, item by item."""
    import pandas as pd

    unique, place = np.unique(last.asi8, return_inverse=True)
    base = pd.DatetimeIndex(unique.view(f"datetime64[{last.unit}]"))
    if last.tz is not None:
        base = base.tz_localize("UTC").tz_convert(last.tz)
    steps = [add(base, offset, k) for k in range(1, horizon + 1)]
    table = np.stack([step.asi8 for step in steps], axis=1)  # many items end on the same day
    ticks = table[place].ravel()
    result = pd.DatetimeIndex(ticks.view(f"datetime64[{steps[0].unit}]"))
    return result if last.tz is None else result.tz_localize("UTC").tz_convert(last.tz)


def _gaps(values: Any, starts: IntArray) -> tuple[Any, IntArray]:
    """Differences to the next row of the same item, and the rows they start from."""
    inside = np.ones(len(values), bool)
    inside[starts[1:] - 1] = False
    inside[-1:] = False
    rows = np.flatnonzero(inside)
    return values[rows + 1] - values[rows], rows


def _plain(gap: np.timedelta64) -> Any:
    """A constant step as an offset: whole days go by the wall clock, shorter steps by real time."""
    import pandas as pd
    from pandas.tseries.frequencies import to_offset

    days = gap / np.timedelta64(1, "D")
    return pd.offsets.Day(int(days)) if days == int(days) else to_offset(pd.Timedelta(gap))  # type: ignore[arg-type]
