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
from foretrain.timeaxis.frequency import CYCLE_MONTHS, DAY, DAY_NAMES, FIXED, MONTH_NAMES, Frequency, IntArray

Mask = npt.NDArray[np.bool_]
_MOST_EMPTY = 100  # empty rows for each row, from which on a frequency is refused
_FEW_EMPTY = 100_000  # empty rows that are never too many
_LONGEST_PANDAS = 200_000  # steps; of business months 16,000 years
_MAX_ADDED = 4  # an alias is named as the fitting one only if it leaves at most four empty steps for each row


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

    axis = pd.date_range(_pandas_stamp(start), freq=frequency.offset, **until)
    return axis.to_numpy().astype("M8[us]").astype(np.int64)


def _pandas_grid(times: IntArray, frequency: Frequency) -> IntArray | None:
    """Return the stamps of a frequency from the first to the last of ascending ones; None of more than
    _LONGEST_PANDAS, which pandas makes one by one: a stamp is wrong then."""
    if (int(times[-1]) - int(times[0])) / typical_step(frequency) > _LONGEST_PANDAS:
        return None
    return _pandas_range(int(times[0]), frequency, end=_pandas_stamp(int(times[-1])))


def _pandas_stamp(time: int) -> Any:
    """Return a pandas stamp in microseconds, which hold years that nanoseconds do not."""
    import pandas as pd

    return pd.Timestamp(np.datetime64(time, "us"))


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


def grid_numbers(times: IntArray, freq: str, what: str) -> IntArray:
    """Return (N,) step numbers of ascending stamps on the grid of a frequency, counted from the first stamp.

    Unlike in `ordinals`, "W" means Sundays, as in pandas; and a spelling without an edge ("M", "Q", "A") takes that of
    the rows: the first or the last day of months, or a day that they keep (each 15th, each 28th). `what` names the rows
    in the error. Raises DataError naming the first row that is not on the grid, and the alias that fits.
    """
    if not len(times):
        return np.zeros(0, np.int64)
    frequency = on_rows(times, freq)
    number, on_grid = _numbers_on(times, frequency)
    if on_grid.all() and (_has_no_edge(freq) or not _keeps_day(times, frequency)):
        return number
    row = times[int((~on_grid).argmax())]
    fitting = _fitting(times, frequency)
    way_out = f"The rows fit freq={fitting!r}." if fitting else "The rows are at uneven distances, which no alias fits."
    raise DataError(f"{what}: the row of {iso(int(row))} is not on the grid of freq={freq!r}. {way_out}")


def grid_stamps(times: IntArray, freq: str, numbers: IntArray) -> IntArray:
    """Return the stamps of step numbers on the grid of ascending stamps, as counted by `grid_numbers`.

    Numbers after the last stamp continue it; months keep the day that the stamps keep, also after a short month.
    """
    frequency = on_rows(times, freq)
    date = (times // DAY).astype("M8[D]")
    if frequency.months is None or (kept := kept_day(date)) is None:
        return stamps(int(times[0]), frequency, numbers)
    month = date[0].astype("M8[M]") + np.asarray(numbers, np.int64) * frequency.months
    return _in_month(month, kept) + times[0] % DAY


def _in_month(month: np.ndarray, day: int) -> IntArray:
    """Return the stamps of a day of months, limited to their length."""
    start = month.astype("M8[D]")
    last = (month + 1).astype("M8[D]") - 1
    return np.minimum(start + (day - 1), last).astype("M8[us]").astype(np.int64)


def on_rows(times: IntArray, freq: str) -> Frequency:
    """Return the frequency of an alias; one without an edge takes that of the rows, S if they keep another day."""
    ends, starts = Frequency.parse(freq, edge="E"), Frequency.parse(freq, edge="S")
    if ends == starts or not len(times):
        return ends
    readings = (starts, ends) if _keeps_day(times, starts) else (ends, starts)
    return next((reading for reading in readings if _numbers_on(times, reading)[1].all()), ends)


def _has_no_edge(freq: str) -> bool:
    return Frequency.parse(freq, edge="E") != Frequency.parse(freq, edge="S")


def _keeps_day(times: IntArray, frequency: Frequency) -> bool:
    return frequency.months is not None and kept_day((times // DAY).astype("M8[D]")) is not None


def _numbers_on(times: IntArray, frequency: Frequency) -> tuple[IntArray, Mask]:
    """Return (N,) step numbers from the first stamp, and an (N,) mask of the stamps on the grid."""
    if not len(times):
        return np.zeros(0, np.int64), np.zeros(0, bool)
    if frequency.kind == "pandas":
        if (grid := _pandas_grid(times, frequency)) is None:
            return np.zeros(len(times), np.int64), np.zeros(len(times), bool)
        number = np.searchsorted(grid, times, side="right").astype(np.int64)
        return number - number[0], np.isin(times, grid)
    number, _ = ordinals(times, frequency)
    if frequency.micros is not None:
        on_grid = (times - times[0]) % frequency.micros == 0
        if frequency.base == "W":
            on_grid &= weekday(times // DAY) == DAY_NAMES.index(frequency.anchor or "SUN")
        return number, on_grid
    if frequency.kind == "business":
        return number, (times == stamps(times[0], frequency, number)) & _on_grid(times, frequency)
    date = (times // DAY).astype("M8[D]")
    if (kept := kept_day(date)) is None:
        return number, (times == stamps(times[0], frequency, number)) & _on_grid(times, frequency)
    month = date.astype("M8[M]")
    on_grid = times == _in_month(month, kept) + times[0] % DAY
    on_grid &= (month.astype(np.int64) - month[0].astype(np.int64)) % (frequency.months or 1) == 0
    return number, on_grid & _in_cycle(month, frequency)


def kept_day(date: np.ndarray) -> int | None:
    """Return the day of the month that dates keep if it is neither the first nor the last (limited to the month)."""
    month = date.astype("M8[M]")
    day = (date - month.astype("M8[D]")).astype(np.int64) + 1
    length = ((month + 1).astype("M8[D]") - month.astype("M8[D]")).astype(np.int64)
    kept = int(day.max())
    whole = (day == np.minimum(kept, length)).all() and kept > 1 and not (day == length).all()
    return kept if whole else None


def _fitting(times: IntArray, frequency: Frequency) -> str | None:
    """Return the alias closest to a frequency on whose grid all stamps are, None if there is none."""
    first = np.int64(times[0] // DAY).astype("M8[D]")
    day = DAY_NAMES[int(weekday(times[:1] // DAY)[0])]
    anchor = MONTH_NAMES[int(first.astype("M8[M]").astype(np.int64)) % 12]
    aliases: list[str] = []
    if frequency.base == "W":
        aliases.append(f"{frequency.multiple}W-{day}")
    if frequency.months is not None:
        for edge in "SE" if frequency.base.endswith("E") else "ES":
            base = frequency.base[0]
            aliases += [f"{frequency.multiple}{base}{edge}"]
            aliases += [f"{frequency.multiple}{base}{edge}-{anchor}"] if base in "QY" else []
        aliases.append(f"{frequency.multiple}{frequency.base[0]}")
        if frequency.base[0] in "QY":
            before = MONTH_NAMES[MONTH_NAMES.index(anchor) - 1]  # without an edge, the anchor is the month of the end
            aliases += [f"{frequency.multiple}{frequency.base[0]}-{name}" for name in (before, anchor)]
    aliases += ["MS", "ME", "BMS", "BME", f"W-{day}", "B", "D"]
    step = int(np.gcd.reduce(np.diff(times))) if len(times) > 1 else 0
    if step > 0:
        aliases.append(fixed_alias(step))
    for alias in aliases:
        number, on_grid = _numbers_on(times, on_rows(times, alias))
        if _keeps_day(times, Frequency.parse(alias)) and not _has_no_edge(alias):
            continue
        if on_grid.all() and (np.diff(number) > 0).all() and number[-1] < (1 + _MAX_ADDED) * len(times):
            return alias.removeprefix("1")
    return None


def fixed_alias(step: int) -> str:
    """Return the alias of a step in microseconds in the longest unit, up to days, that divides it."""
    for base in ("D", "h", "min", "s", "ms", "us"):
        if step % FIXED[base] == 0:
            return Frequency(step // FIXED[base], base).alias
    raise AssertionError(step)


def _pandas_ordinals(times: IntArray, frequency: Frequency) -> tuple[IntArray, bool]:
    if (grid := _pandas_grid(times, frequency)) is None:
        raise DataError(
            f"stamps from {iso(int(times[0]))} to {iso(int(times[-1]))} are more than {_LONGEST_PANDAS:,} steps of "
            f"freq={frequency.alias!r}. Correct the one that is wrong."
        )
    number = np.searchsorted(grid, times, side="right").astype(np.int64)
    return number - number[0], bool(np.isin(times, grid).all())


def _on_grid(times: IntArray, frequency: Frequency) -> Mask:
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
    edge = month.astype("datetime64[D]") if frequency.base.endswith("S") else (month + 1).astype("datetime64[D]") - 1
    return np.asarray(date == edge) & _in_cycle(month, frequency)


def _in_cycle(month: np.ndarray, frequency: Frequency) -> Mask:
    """Return a mask of the months in which a step of months, quarters or years can begin or end."""
    cycle = CYCLE_MONTHS[frequency.base]
    anchor = frequency.anchor or ("DEC" if frequency.base.endswith("E") else "JAN")
    return (month.astype(np.int64) - MONTH_NAMES.index(anchor)) % cycle == 0


def weekday(days: IntArray) -> IntArray:
    """Return the weekday of day numbers since 1970, Monday = 0."""
    return (days + 3) % 7


def iso(time: int) -> str:
    """Format a stamp: only the date at midnight, else date and time without trailing zeros."""
    text = str(np.datetime64(int(time), "us"))
    return text.removesuffix(".000000").removesuffix("T00:00:00").replace("T", " ")


def are_too_many(empty: int, rows: int) -> bool:
    """Return True if a frequency would put so many empty rows between an item's rows that it cannot be meant."""
    return empty > _MOST_EMPTY * rows + _FEW_EMPTY
