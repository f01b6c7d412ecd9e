"""Convert epoch numbers and Excel's serial dates to microseconds.

# T numbers of a column
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from foretrain.data.importers.cells import BadCell
from foretrain.data.windows import NO_TIME, IntArray, Mask
from foretrain.timeaxis.frequency import DAY, SECOND

TimeUnit = Literal["s", "ms", "us", "ns"]

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_USUAL = (1990, 2100)  # the one unit that puts a whole column between these years is the column's
_POSSIBLE = (1900, 2200)  # years outside come from a wrong unit or from numbers that are no times
_NEAR_1970 = 10**8  # seconds; a number this close to the epoch does not show its unit by its magnitude
_BEFORE_1980 = 32 * 10**7  # seconds
_LONG_STEP = 367 * 86_400  # seconds; a history through 1970 has no longer step there, a zero for "missing" has
_EXCEL_EPOCH = -25569 * DAY  # 1899-12-30: serial dates count days from here
EXCEL_SERIALS = (20_000, 60_000)  # 1954-10-03 .. 2064-04-08
_MILLISECOND = 1000


def epoch_times(
    whole: IntArray, part: npt.NDArray[np.float64], present: Mask, unit: TimeUnit | None = None
) -> tuple[IntArray, dict[str, int]]:
    """Return (T,) microseconds, NO_TIME where not present, and how many numbers are in each unit, most first.

    The numbers are whole + part, with 0 <= part < 1. Without a unit, it is the one that puts the whole column between
    1990 and 2100, else each number's own by its magnitude. Raises BadCell for a number that no unit (or not the given
    one) puts between 1900 and 2200.
    """
    units = _units(whole, present, unit)
    times = np.full(len(whole), NO_TIME)
    counts: dict[str, int] = {}
    for code, name in enumerate(get_args(TimeUnit)):
        rows = present & (units == code)
        if not rows.any():
            continue
        counts[name] = int(rows.sum())
        scale = _PER_SECOND[name]
        micros = whole[rows] * (SECOND // scale) if scale <= SECOND else whole[rows] // (scale // SECOND)
        times[rows] = micros + np.round(part[rows] * (SECOND / scale)).astype(np.int64)
    return times, dict(sorted(counts.items(), key=lambda pair: -pair[1]))


def _units(whole: IntArray, present: Mask, unit: TimeUnit | None) -> npt.NDArray[np.int64]:
    """Return (T,) indices of the units."""
    names = get_args(TimeUnit)
    if unit is not None:
        good = _between(whole, unit, _POSSIBLE)
        if (present & ~good).any():
            raise _refused(whole, present & ~good, f"no time in {unit} between the years 1900 and 2200")
        return np.full(len(whole), names.index(unit))
    for code, name in enumerate(names):
        if _between(whole, name, _USUAL)[present].all():
            return np.full(len(whole), code)
    units = np.full(len(whole), -1)
    for code, name in enumerate(names):
        units[_between(whole, name, _POSSIBLE) & (np.abs(whole) >= _NEAR_1970 * _PER_SECOND[name])] = code
    held = np.unique(units[present & (units >= 0)])
    if len(held) == 1:  # a history that passes through 1970
        scale = _PER_SECOND[names[held[0]]]
        close = np.unique(whole[present & (np.abs(whole) < _BEFORE_1980 * scale)])
        if np.abs(close).max(initial=0) >= _NEAR_1970 * scale and (np.diff(close) <= _LONG_STEP * scale).all():
            units[np.abs(whole) < _NEAR_1970 * scale] = held[0]
    if (present & (units < 0)).any():
        why = "no time between the years 1900 and 2200 in s, ms, us or ns; --time-unit names the unit"
        raise _refused(whole, present & (units < 0), why)
    return units


def _refused(whole: IntArray, bad: Mask, why: str) -> BadCell:
    row = int(bad.argmax())
    return BadCell(row, str(int(whole[row])), why)


def _between(whole: IntArray, unit: str, years: tuple[int, int]) -> Mask:
    first, last = (int(np.datetime64(f"{year}-01-01", "s").astype(np.int64)) * _PER_SECOND[unit] for year in years)
    return (whole >= first) & (whole < last)


def are_excel_serials(numbers: npt.NDArray[np.float64]) -> bool:
    """Return True if all numbers but NaN lie in the range of Excel's serial dates, and there is one."""
    held = numbers[~np.isnan(numbers)]
    return bool(len(held) and (held >= EXCEL_SERIALS[0]).all() and (held < EXCEL_SERIALS[1]).all())


def excel_times(numbers: npt.NDArray[np.float64]) -> IntArray:
    """Return (T,) microseconds of serial dates (days since 1899-12-30, times of day as fractions), NO_TIME for NaN.

    Rounded to milliseconds: a fraction of a day has no exact decimal form.
    """
    milliseconds = np.round(np.nan_to_num(numbers) * (DAY // _MILLISECOND)).astype(np.int64)
    return np.where(np.isnan(numbers), NO_TIME, _EXCEL_EPOCH + milliseconds * _MILLISECOND)
