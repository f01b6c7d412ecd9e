"""Arithmetic on time axes: a frequency alias, a start and step numbers give microsecond stamps, vectorised.

Fixed steps, calendar months and business days are computed with numpy; only rarer aliases import pandas. Stamps are
microseconds since 1970: UTC, or a naive local clock where the corpus says so, so no step ever crosses a clock change.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from foretrain.errors import DataError
from foretrain.timeaxis import frequency
from foretrain.timeaxis.frequency import DAY, DAY_NAMES, MONTH_NAMES, SECOND, Freq, IntArray

_FIXED = {
    **dict.fromkeys(("us", "U"), 1),
    **dict.fromkeys(("ms", "L"), 1_000),
    **dict.fromkeys(("s", "S", "sec"), SECOND),
    **dict.fromkeys(("min", "T"), 60 * SECOND),
    **dict.fromkeys(("h", "H"), 3600 * SECOND),
    "D": DAY,
    "W": 7 * DAY,
}
_MONTHS = {
    **dict.fromkeys(("M", "ME", "MS"), 1),
    **dict.fromkeys(("Q", "QE", "QS"), 3),
    **dict.fromkeys(("Y", "YE", "YS", "A", "AS"), 12),
}


class Step(NamedTuple):
    """One step of a frequency: a fixed span, calendar months, business days, or what only pandas knows."""

    kind: str  # "fixed", "months", "business" or "other"
    size: int  # microseconds, months or days
    month_end: bool = False


@functools.lru_cache(maxsize=256)
def parse_freq(freq: str) -> Step:
    """The step that a pandas alias names, old spellings ("H", "T", "M") included.

    Raises DataError for what is no alias and for steps that do not go forward.
    """
    match = re.fullmatch(r"(\d*)([A-Za-z]+)(-[A-Z]{3})?", freq)
    if match:
        count, unit = int(match[1] or 1), match[2]
        if count > 0 and unit in _FIXED and (match[3] is None or unit == "W"):
            return Step("fixed", count * _FIXED[unit])
        if count > 0 and unit in _MONTHS:
            return Step("months", count * _MONTHS[unit], month_end=not unit.endswith("S"))
        if count > 0 and unit == "B" and match[3] is None:
            return Step("business", count)
    import pandas as pd

    try:
        if pd.tseries.frequencies.to_offset(freq).n < 1:
            raise ValueError(freq)
    except ValueError:
        raise DataError(
            f"freq {freq!r} is not a forward pandas frequency alias; use for example 'h', '15min', 'D' or 'MS'."
        ) from None
    return Step("other", 0)


def stamps(start: int | IntArray, freq: str, steps: IntArray) -> IntArray:
    """Microsecond stamps of step numbers counted from start; the two broadcast against each other.

    Months keep the start's day (cut to the month's length; a month's last day stays the last day under an end alias),
    business days skip weekends and keep the time of day.
    """
    step = parse_freq(freq)
    start = np.asarray(start, np.int64)
    steps = np.asarray(steps, np.int64)
    if step.kind == "fixed":
        return start + steps * step.size
    if step.kind == "other":
        return _pandas_stamps(start, freq, steps)
    day = start.astype("M8[us]").astype("M8[D]")
    clock = start - day.astype("M8[us]").astype(np.int64)
    moved = _add_months(day, step, steps) if step.kind == "months" else _add_business_days(day, step, steps)
    return moved.astype("M8[us]").astype(np.int64) + clock


def _add_business_days(day: np.ndarray, step: Step, steps: IntArray) -> np.ndarray:
    day, steps = np.broadcast_arrays(day, steps)
    return np.busday_offset(day, steps * step.size, roll="forward")


def _add_months(day: np.ndarray, step: Step, steps: IntArray) -> np.ndarray:
    month = day.astype("M8[M]")
    into_month = (day - month.astype("M8[D]")).astype(np.int64)
    month_length = ((month + 1).astype("M8[D]") - month.astype("M8[D]")).astype(np.int64)
    if step.month_end:
        into_month = np.where(into_month == month_length - 1, 30, into_month)
    target = month + steps * step.size
    first = target.astype("M8[D]")
    length = ((target + 1).astype("M8[D]") - first).astype(np.int64)
    return first + np.minimum(into_month, length - 1)


def _pandas_stamps(start: IntArray, freq: str, steps: IntArray) -> IntArray:
    import pandas as pd

    start, steps = np.broadcast_arrays(start, steps)
    out = np.empty(steps.shape, np.int64)
    flat_start, flat_steps, flat_out = start.ravel(), steps.ravel(), out.reshape(-1)
    for value in np.unique(flat_start):
        chosen = flat_start == value
        low, high = int(flat_steps[chosen].min()), int(flat_steps[chosen].max())
        if low < 0:
            raise DataError(f"freq {freq!r}: steps before the start of a series are not defined.")
        axis = pd.date_range(pd.Timestamp(int(value), unit="us"), periods=high + 1, freq=freq)
        micros = axis.to_numpy().astype("M8[us]").astype(np.int64)
        flat_out[chosen] = micros[flat_steps[chosen]]
    return out


def ordinals(times: IntArray, freq: str) -> tuple[IntArray, bool]:
    """(N,) step number of each ascending stamp counted from the first, and whether all of them lie on the grid."""
    parsed = Freq.parse(freq)
    if not len(times):
        return np.zeros(0, np.int64), True
    if parsed.step:
        offset = times - times[0]
        exact = not (offset % parsed.step).any() and bool(_on_grid(times[:1], parsed)[0])
        return offset // parsed.step, exact
    days = times // DAY
    exact = bool((times - days * DAY == times[0] - days[0] * DAY).all() and _on_grid(times, parsed).all())
    if parsed.base == "B":
        number = np.busday_count(days[0].astype("datetime64[D]"), days.astype("datetime64[D]")).astype(np.int64)
    else:
        month = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
        number = month - month[0]
    unit = parsed.months or parsed.multiple
    return number // unit, exact and not (number % unit).any()


def _on_grid(times: IntArray, freq: Freq) -> npt.NDArray[np.bool_]:
    """(N,) whether each stamp is one the alias can produce: its weekday, day of the month, or anchor month."""
    days = times // DAY
    if freq.base == "W" and freq.anchor:
        return weekday(days) == DAY_NAMES.index(freq.anchor)
    if freq.base == "B":
        return weekday(days) < 5
    if freq.base not in frequency._MONTHS:
        return np.ones(len(times), bool)
    date = days.astype("datetime64[D]")
    month = date.astype("datetime64[M]")
    edge = month.astype("datetime64[D]") if freq.base.endswith("S") else (month + 1).astype("datetime64[D]") - 1
    good = np.asarray(date == edge)
    cycle = frequency._MONTHS[freq.base]
    if cycle > 1:
        default = "JAN" if freq.base.endswith("S") else "DEC"
        good &= (month.astype(np.int64) - MONTH_NAMES.index(freq.anchor or default)) % cycle == 0
    return good


def weekday(days: IntArray) -> IntArray:
    """Weekday of day numbers since 1970, Monday = 0."""
    return (days + 3) % 7


def iso(time: int) -> str:
    """A stamp as text: the date alone at midnight, else date and time without trailing zeros."""
    text = str(np.datetime64(int(time), "us"))
    return text.removesuffix(".000000").removesuffix("T00:00:00").replace("T", " ")
