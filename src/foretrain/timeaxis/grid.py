"""Arithmetic on regular time axes: from a start, a frequency and step numbers to microsecond stamps, and back.

Fixed steps, calendar months and business days are computed with numpy; other aliases import pandas. Stamps are
microseconds since 1970 in UTC or naive local time, so there are no clock changes.

# N stamps of one item
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from foretrain.errors import DataError
from foretrain.timeaxis.frequency import CYCLE_MONTHS, DAY, DAY_NAMES, MONTH_NAMES, Frequency, IntArray


def stamps(start: int | IntArray, freq: str | Frequency, steps: IntArray) -> IntArray:
    """Return the microsecond stamps of step numbers counted from start; the two broadcast against each other.

    Months keep the start's day (limited to the month's length; for end aliases a month's last day stays the last day).
    Business days skip weekends and keep the time of day. Frequencies that need pandas count from their first stamp at
    or after start, and raise DataError for negative steps.
    """
    frequency = Frequency.of(freq)
    start = np.asarray(start, np.int64)
    steps = np.asarray(steps, np.int64)
    if frequency.micros is not None:
        return start + steps * frequency.micros
    if frequency.kind == "pandas":
        return _pandas_stamps(start, frequency, steps)
    day = start.astype("M8[us]").astype("M8[D]")
    clock = start - day.astype("M8[us]").astype(np.int64)
    if frequency.months is not None:
        moved = _add_months(day, steps * frequency.months, ends=frequency.base.endswith("E"))
    else:
        moved = np.busday_offset(*np.broadcast_arrays(day, steps * frequency.multiple), roll="forward")
    return moved.astype("M8[us]").astype(np.int64) + clock


def _add_months(day: np.ndarray, months: IntArray, *, ends: bool) -> np.ndarray:
    month = day.astype("M8[M]")
    into_month = (day - month.astype("M8[D]")).astype(np.int64)
    month_length = ((month + 1).astype("M8[D]") - month.astype("M8[D]")).astype(np.int64)
    if ends:
        into_month = np.where(into_month == month_length - 1, 30, into_month)
    target = month + months
    first = target.astype("M8[D]")
    length = ((target + 1).astype("M8[D]") - first).astype(np.int64)
    return first + np.minimum(into_month, length - 1)


def _pandas_stamps(start: IntArray, frequency: Frequency, steps: IntArray) -> IntArray:
    start, steps = np.broadcast_arrays(start, steps)
    out = np.empty(steps.shape, np.int64)
    flat_start, flat_steps, flat_out = start.ravel(), steps.ravel(), out.reshape(-1)
    for value in np.unique(flat_start):
        chosen = flat_start == value
        low, high = int(flat_steps[chosen].min()), int(flat_steps[chosen].max())
        if low < 0:
            raise DataError(f"freq {frequency.alias!r}: steps before the start of a series are not defined.")
        flat_out[chosen] = _pandas_range(int(value), frequency, periods=high + 1)[flat_steps[chosen]]
    return out


def _pandas_range(start: int, frequency: Frequency, **until: Any) -> IntArray:
    """Return ascending stamps of a frequency from the first one at or after start; until: periods= or end=."""
    import pandas as pd

    axis = pd.date_range(pd.Timestamp(start, unit="us"), freq=frequency.offset, **until)
    return axis.to_numpy().astype("M8[us]").astype(np.int64)


def stamps_after(last: int, freq: str | Frequency, count: int) -> IntArray:
    """Return (count,) stamps after `last`, which need not be a stamp of the frequency."""
    frequency = Frequency.of(freq)
    if frequency.kind != "pandas":
        return stamps(last, frequency, np.arange(1, count + 1, dtype=np.int64))
    coming = _pandas_range(last, frequency, periods=count + 1)
    return coming[coming > last][:count]


def typical_step(freq: str | Frequency) -> float:
    """Return the median of 20 steps in microseconds."""
    return float(np.median(np.diff(stamps(0, freq, np.arange(21)))))


def ordinals(times: IntArray, freq: str | Frequency) -> tuple[IntArray, bool]:
    """Return (N,) step numbers of ascending stamps counted from the first, and True if all are on the grid."""
    frequency = Frequency.of(freq)
    if not len(times):
        return np.zeros(0, np.int64), True
    if frequency.micros:
        offset = times - times[0]
        exact = not (offset % frequency.micros).any() and bool(_on_grid(times[:1], frequency)[0])
        return offset // frequency.micros, exact
    if frequency.kind == "pandas":
        return _pandas_ordinals(times, frequency)
    days = times // DAY
    exact = bool((times - days * DAY == times[0] - days[0] * DAY).all() and _on_grid(times, frequency).all())
    if frequency.kind == "business":
        number = np.busday_count(days[0].astype("datetime64[D]"), days.astype("datetime64[D]")).astype(np.int64)
    else:
        month = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
        number = month - month[0]
    unit = frequency.months or frequency.multiple
    return number // unit, exact and not (number % unit).any()


def _pandas_ordinals(times: IntArray, frequency: Frequency) -> tuple[IntArray, bool]:
    import pandas as pd

    grid = _pandas_range(int(times[0]), frequency, end=pd.Timestamp(int(times[-1]), unit="us"))
    number = np.searchsorted(grid, times, side="right").astype(np.int64)
    return number - number[0], bool(np.isin(times, grid).all())


def _on_grid(times: IntArray, frequency: Frequency) -> npt.NDArray[np.bool_]:
    """Return an (N,) mask of stamps that the alias can produce, by weekday, day of the month and anchor month."""
    days = times // DAY
    if frequency.base == "W" and frequency.anchor:
        return weekday(days) == DAY_NAMES.index(frequency.anchor)
    if frequency.kind == "business":
        return weekday(days) < 5
    if not frequency.months:
        return np.ones(len(times), bool)
    date = days.astype("datetime64[D]")
    month = date.astype("datetime64[M]")
    starts = frequency.base.endswith("S")
    edge = month.astype("datetime64[D]") if starts else (month + 1).astype("datetime64[D]") - 1
    good = np.asarray(date == edge)
    cycle = CYCLE_MONTHS[frequency.base]
    if cycle > 1:
        anchor = frequency.anchor or ("JAN" if starts else "DEC")
        good &= (month.astype(np.int64) - MONTH_NAMES.index(anchor)) % cycle == 0
    return good


def weekday(days: IntArray) -> IntArray:
    """Return the weekday of day numbers since 1970, Monday = 0."""
    return (days + 3) % 7


def iso(time: int) -> str:
    """Format a stamp: only the date at midnight, else date and time without trailing zeros."""
    text = str(np.datetime64(int(time), "us"))
    return text.removesuffix(".000000").removesuffix("T00:00:00").replace("T", " ")
