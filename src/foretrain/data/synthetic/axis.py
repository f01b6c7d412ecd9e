"""Time axes of generated series: their starts, their days, and what a calendar says of those days.

# N series of a block, T steps, D days

Stamps are microseconds since 1970. A series' start is on the grid of its frequency; so is every step after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from foretrain.errors import DataError
from foretrain.timeaxis import grid
from foretrain.timeaxis.frequency import CYCLE_MONTHS, DAY, DAY_NAMES, MONTH_NAMES, WEEK, Frequency, IntArray

FIRST_YEAR, LAST_YEAR = 1700, 2250  # that the tables below cover; pandas' nanoseconds hold them too
_LATEST = np.datetime64("2031-01-01", "D").astype(np.int64)  # series end before; their starts are spread back
_SPREAD = 50 * 366  # days over which the ends of series are spread
MAX_DAYS = 250 * 366  # of a series
EDGE = 5  # days at the start and at the end of a month that are told apart
MIDDLE = 2 * EDGE  # class of the days between

Table = npt.NDArray[np.int64]


def step_days(frequency: Frequency) -> float:
    """Return the mean length of a step in days."""
    if frequency.micros is not None:
        return frequency.micros / DAY
    if frequency.months is not None:
        return 365.2425 / 12 * frequency.months
    return 7 / 5 * frequency.multiple


def supported(freq: str) -> Frequency:
    """Parse a frequency that generated series can have. Raises DataError for others."""
    frequency = Frequency.storable(freq)
    if frequency.kind == "pandas" or step_days(frequency) > 366:
        raise DataError(
            f"freq={freq!r}: generated series have steps of at most a year, such as 15min, h, D, B, W, MS, ME or QE."
        )
    return frequency


def drawn_starts(rng: np.random.Generator, count: int, frequency: Frequency, length: int) -> IntArray:
    """Return (N,) starts on the grid of a frequency, of series that end in the 50 years before 2031."""
    span = int(np.ceil(length * step_days(frequency)))
    day = _LATEST - span - rng.integers(40, _SPREAD, count)
    if frequency.kind == "business":
        day = np.busday_offset(day.astype("M8[D]"), 0, roll="forward").astype(np.int64)
    elif frequency.months is not None:
        day = _cycle_edge(day, frequency)
    elif frequency.base == "W":
        day += (DAY_NAMES.index(frequency.anchor or "SUN") - grid.weekday(day)) % 7
    start = day * DAY
    if frequency.micros is not None and frequency.micros < DAY:
        start += frequency.micros * rng.integers(0, DAY // frequency.micros, count)
    return start


def _cycle_edge(day: IntArray, frequency: Frequency) -> IntArray:
    """Return the first or last days of the months of a cycle that days lie in or before."""
    month = day.astype("M8[D]").astype("M8[M]").astype(np.int64)
    anchor = frequency.anchor or ("DEC" if frequency.base.endswith("E") else "JAN")
    month += (MONTH_NAMES.index(anchor) - month) % CYCLE_MONTHS[frequency.base]
    if frequency.base.endswith("E"):
        return (month + 1).astype("M8[M]").astype("M8[D]").astype(np.int64) - 1
    return month.astype("M8[M]").astype("M8[D]").astype(np.int64)


def axis_stamps(starts: IntArray, frequency: Frequency, length: int) -> IntArray:
    """Return (N, T) stamps of series on the grid of a frequency."""
    return grid.stamps(starts[:, None], frequency, np.arange(length, dtype=np.int64)[None, :])


@dataclass(frozen=True)
class Days:
    """Days of every year from FIRST_YEAR to LAST_YEAR, in order.

    Attributes:
        first: day number since 1970 of the first one.
        weekday: Monday = 0.
        year_day: place in a year of 366 days, 29 February = 59, which common years leave out.
        edge: class of the place in the month: 0 to EDGE - 1 from its start, EDGE to MIDDLE - 1 back from its end, else
            MIDDLE; plus MIDDLE + 1 in months that end a quarter.
        summer: True from the last Sunday of March to the day before the last Sunday of October.
    """

    first: int
    weekday: npt.NDArray[np.int8]
    year_day: npt.NDArray[np.int16]
    edge: npt.NDArray[np.int8]
    summer: npt.NDArray[np.bool_]


@lru_cache(maxsize=1)
def days() -> Days:
    """Return the table of days."""
    date = np.arange(np.datetime64(f"{FIRST_YEAR}-01-01", "D"), np.datetime64(f"{LAST_YEAR + 1}-01-01", "D"))
    month = date.astype("M8[M]")
    number = month.astype(np.int64) % 12
    first, after = month.astype("M8[D]"), (month + 1).astype("M8[D]")
    into, left = (date - first).astype(np.int64), (after - date).astype(np.int64) - 1
    weekday = grid.weekday(date.astype(np.int64))
    edge = np.where(into < EDGE, into, np.where(left < EDGE, EDGE + left, MIDDLE))
    before_month = np.cumsum([0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30])
    last_sunday = (after - 1).astype(np.int64) - (weekday_of(after - 1) + 1) % 7
    after_change = date.astype(np.int64) >= last_sunday
    summer = ((number > 2) & (number < 9)) | ((number == 2) & after_change) | ((number == 9) & ~after_change)
    return Days(
        first=int(date[0].astype(np.int64)),
        weekday=weekday.astype(np.int8),
        year_day=(before_month[number] + into).astype(np.int16),
        edge=(edge + (MIDDLE + 1) * (number % 3 == 2)).astype(np.int8),
        summer=summer,
    )


def weekday_of(date: np.ndarray) -> IntArray:
    """Return the weekday of dates, Monday = 0."""
    return grid.weekday(date.astype("M8[D]").astype(np.int64))


def rows_of(table: np.ndarray, first: IntArray, count: int) -> np.ndarray:
    """Return (N, D): the values of a table of days() for D days from each of the day numbers `first`."""
    return sliding_window_view(table, count)[first - days().first]


@lru_cache(maxsize=1)
def easter() -> IntArray:
    """Return the day number of Easter Sunday of every year from FIRST_YEAR (Gregorian; Meeus, Jones and Butcher)."""
    year = np.arange(FIRST_YEAR, LAST_YEAR + 1)
    century, rest = np.divmod(year, 100)
    moon = (19 * (year % 19) + century - century // 4 - (century - (century + 8) // 25 + 1) // 3 + 15) % 30
    sunday = (32 + 2 * (century % 4) + 2 * (rest // 4) - moon - rest % 4) % 7
    late = (year % 19 + 11 * moon + 22 * sunday) // 451
    days_from_march = moon + sunday - 7 * late + 21  # 0 = 1 March
    march = np.array([f"{y}-03-01" for y in year], "M8[D]").astype(np.int64)
    return march + days_from_march


@dataclass(frozen=True)
class Holidays:
    """One holiday of each series: a fixed date, the n-th weekday of a month, or days before or after Easter.

    Attributes, each (N,):
        rule: 0 fixed date, 1 n-th weekday (n = 4: the last), 2 Easter.
        month: 0 to 11.
        day: of a fixed date, from 0, at most 27; for Easter, days after it.
        weekday: Monday = 0.
        nth: from 0.
    """

    rule: IntArray
    month: IntArray
    day: IntArray
    weekday: IntArray
    nth: IntArray

    @classmethod
    def drawn(cls, rng: np.random.Generator, count: int) -> Holidays:
        """Draw rules: half fixed dates, three in ten n-th weekdays, the others around Easter."""
        rule = np.searchsorted([0.5, 0.8], rng.random(count)).astype(np.int64)
        easter_day = np.array([-48, -2, 0, 1, 39, 50, 60])[rng.integers(0, 7, count)]
        day = np.where(rule == 2, easter_day, rng.integers(0, 28, count))
        drawn = (rng.integers(0, high, count) for high in (12, 7, 5))
        month, weekday, nth = drawn
        return cls(rule, month, day, weekday, nth)

    def take(self, rows: IntArray) -> Holidays:
        """Return the holidays of some series."""
        return Holidays(self.rule[rows], self.month[rows], self.day[rows], self.weekday[rows], self.nth[rows])

    def dates(self, first_year: IntArray, years: int) -> IntArray:
        """Return (N, years) day numbers of the holiday in years from `first_year` (N,)."""
        year = first_year[:, None] + np.arange(years)
        month = ((year - 1970) * 12 + self.month[:, None]).astype("M8[M]")
        first = month.astype("M8[D]").astype(np.int64)
        last = (month + 1).astype("M8[D]").astype(np.int64) - 1
        weekday = self.weekday[:, None]
        nth = first + (weekday - grid.weekday(first)) % 7 + 7 * self.nth[:, None]
        final = last - (grid.weekday(last) - weekday) % 7
        found = np.where(self.nth[:, None] == 4, final, nth)
        found = np.where(self.rule[:, None] == 0, first + self.day[:, None], found)
        return np.where(self.rule[:, None] == 2, easter()[year - FIRST_YEAR] + self.day[:, None], found)


def weeks_of(frequency: Frequency) -> bool:
    """Return True for steps of whole weeks, whose stamps are their last days."""
    return frequency.base == "W" and frequency.micros is not None and frequency.micros % WEEK == 0
