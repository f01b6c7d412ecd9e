"""Gaps of a time axis, not counting the hours and days in which an item's market is regularly closed.

# N stamps of one item
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foretrain.timeaxis.frequency import DAY, HOUR, MINUTE, WEEK, Frequency, IntArray
from foretrain.timeaxis.grid import ordinals
from foretrain.timeaxis.inference import mode

_CLOSURE_LIMIT = 10 * DAY  # longer than any exchange closure (new year, national holidays)
_CHANCE = 7.0  # logarithm of the chance, 1 in 1,000, below which a slot is closed rather than thin
_FEW_DAYS = 6  # of a weekday in the history, below which all trading days are taken to have the same hours
_BRIEF_CLOSURE = 10 * MINUTE  # shortest time that a market closes for
_HOLIDAY = 6 * HOUR  # shortest hole that is a holiday if it is there every year
_OPEN_SHARE = 0.5  # a slot of the week is open if at least this share of its active days has a bar there


@dataclass(frozen=True)
class Week:
    """The slots of the week in which an item trades; slot 0 is Thursday 00:00, the weekday of 1970-01-01."""

    step: int  # microseconds of a slot
    open: npt.NDArray[np.bool_]  # (slots,)
    before: IntArray  # (slots + 1,) open slots before each slot

    @classmethod
    def of(cls, times: IntArray, freq: str | Frequency) -> Week | None:
        """Infer the weekly pattern of ascending stamps; None if steps do not divide a week or are too many."""
        frequency = Frequency.of(freq)
        step = DAY if frequency.kind == "business" and frequency.multiple == 1 else frequency.micros
        if step is None or step > DAY or WEEK % step or WEEK // step > 1_000_000 or not len(times):
            return None
        per_day = DAY // step
        slots = (times % WEEK) // step
        days = _distinct(times // DAY)
        active = np.bincount(days % 7, minlength=7)  # day 0 of 1970 has slot 0, as in times % WEEK
        weeks = len(_distinct(days // 7))
        open_day = active >= _OPEN_SHARE * min(weeks, active.max())
        outside = np.ones(7, bool)
        outside[np.arange(days[0], min(days[-1], days[0] + 6) + 1) % 7] = False
        open_day |= outside  # a weekday outside the history may be open
        count = np.bincount(slots, minlength=7 * per_day)
        if active[active >= _OPEN_SHARE * active.max()].min() < _FEW_DAYS:  # a hole would be a closed time
            every = np.full(per_day, active.sum())
            every[: slots[0] % per_day] -= 1  # of the first and the last day a part
            every[slots[-1] % per_day + 1 :] -= 1
            seen = count.reshape(7, per_day).sum(axis=0)
            hours = _is_open(seen, every, step) & ((every > 1) | (seen > 0))  # one day alone tells no closed time
            is_open = np.tile(hours | (active.sum() == 1), 7)
        else:
            is_open = _is_open(count, np.repeat(active, per_day), step)
        is_open = _without_brief(is_open, step) & np.repeat(open_day, per_day)
        return cls(step, is_open, np.concatenate([[0], np.cumsum(is_open)]).astype(np.int64))

    @property
    def has_closures(self) -> bool:
        """True if part of the week is regularly closed, so that missing stamps there are no gap."""
        return bool(self.open.mean() < 0.98)

    @property
    def session(self) -> float:
        """Mean number of open slots on a trading day."""
        days = self.open.reshape(7, -1).any(axis=1).sum()
        return float(self.before[-1] / max(days, 1))

    def open_between(self, after: IntArray, until: IntArray) -> IntArray:
        """Return the number of open slots strictly between two stamps, elementwise."""
        return self._count(until) - self._count(after + self.step)

    def _count(self, times: IntArray) -> IntArray:
        week, rest = np.divmod(times, WEEK)
        return week * self.before[-1] + self.before[rest // self.step]

    def is_open(self, times: IntArray) -> npt.NDArray[np.bool_]:
        """Return a mask of stamps that fall into an open slot."""
        return self.open[(times % WEEK) // self.step]


def _is_open(count: IntArray, days: IntArray, step: int) -> npt.NDArray[np.bool_]:
    """Return which slots (S,) of a cycle are open, by the bars in each and the active days that have it.

    Half of its days are enough. In a thin market a slot is open with fewer, if the half hours beside it are half as
    busy as usual, and a slot as busy as usual could have so few by chance.
    """
    share = count / np.maximum(days, 1)
    usual = float(np.median(share[count > 0])) if count.any() else 1.0
    reach = min(HOUR // (2 * step), (len(share) - 1) // 2)
    beside = np.convolve(np.pad(share, reach, mode="wrap"), np.full(2 * reach + 1, 1 / (2 * reach + 1)), mode="valid")
    rate = np.clip(usual, 0.01, 0.99)
    with np.errstate(divide="ignore", invalid="ignore"):  # Chernoff's bound of a share so low
        gain = np.where(share > 0, share * np.log(share / rate), 0.0)
        gain += np.where(share < 1, (1 - share) * np.log((1 - share) / (1 - rate)), 0.0)
    by_chance = days * gain < _CHANCE
    return (share >= _OPEN_SHARE) | ((beside >= _OPEN_SHARE * usual) & by_chance)


def _without_brief(is_open: npt.NDArray[np.bool_], step: int) -> npt.NDArray[np.bool_]:
    """Return open slots (S,) of a cycle with closed times too short for a closure opened: thin minutes, no break."""
    least = _BRIEF_CLOSURE // step
    closed = np.flatnonzero(~is_open)
    if least <= 1 or not len(closed) or len(closed) == len(is_open):
        return is_open
    start = int(np.flatnonzero(is_open)[0])
    rolled = np.roll(is_open, -start)  # begins with an open slot, so that no run is cut
    edges = np.flatnonzero(np.diff(np.concatenate([[True], rolled, [True]]).astype(np.int8)))
    first, after = edges[::2], edges[1::2]
    for a, b in zip(first[after - first < least], after[after - first < least], strict=True):
        rolled[a:b] = True
    return np.roll(rolled, start)


class DayVotes:
    """Number of items with a bar on each day, and of items listed then; on a holiday few items trade."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        self._days: Counter[int] = Counter()
        self._tables: tuple[IntArray, IntArray, int] | None = None

    def add(self, times: IntArray) -> None:
        """Count one item's ascending stamps."""
        if not len(times):
            return
        days = _distinct(times // DAY)
        self._ranges.append((int(days[0]), int(days[-1])))
        self._days.update(days.tolist())
        self._tables = None

    def missed_openings(self, first: int, last: int) -> int:
        """Return the number of days in first..last on which at least half of the listed items (two or more) traded."""
        if not self._ranges or last < first:
            return 0
        traded, listed, base = self._table()
        low, high = max(first - base, 0), min(last - base + 1, len(traded))
        part, total = traded[low:high], listed[low:high]
        return int(((part * 2 >= total) & (part >= 1) & (total >= 2)).sum())

    def all_closed(self, first: int, last: int) -> bool:
        """Return True if two items or more are listed on each day in first..last, and none of them trades on any."""
        traded, listed, base = self._table()
        low, high = max(first - base, 0), last - base + 1
        return not traded[low:high].any() and bool((listed[low:high] >= 2).all())

    def on(self, days: IntArray) -> tuple[IntArray, IntArray]:
        """Return (D,) the items with a bar on each day, and (D,) those listed then; days of an added item."""
        traded, listed, base = self._table()
        return traded[days - base], listed[days - base]

    def _table(self) -> tuple[IntArray, IntArray, int]:
        if self._tables is None:
            base = min(first for first, _ in self._ranges)
            size = max(last for _, last in self._ranges) - base + 1
            traded = np.zeros(size, np.int64)
            traded[np.fromiter(self._days.keys(), np.int64) - base] = np.fromiter(self._days.values(), np.int64)
            change = np.zeros(size + 1, np.int64)
            for first, last in self._ranges:
                change[first - base] += 1
                change[last - base + 1] -= 1
            self._tables = (traded, np.cumsum(change)[:-1], base)
        return self._tables


def _distinct(ascending: IntArray) -> IntArray:
    """Return the different values of an array that never descends."""
    return ascending[np.append(True, ascending[1:] != ascending[:-1])]


def find_gaps(times: IntArray, freq: str | Frequency, votes: DayVotes | None = None) -> tuple[IntArray, IntArray]:
    """Find gaps in ascending stamps of a frequency: (index of the row after each gap, steps missing in it).

    If the item's week has closed hours or days, a hole is not a gap if no open slot is in it, or if it is shorter than
    ten days and starts at a close, ends at an opening (half day, holiday) or spans a night, or if the same date is a
    hole in two other years. Whole days on which most other items traded remain gaps.
    """
    week = Week.of(times, freq)
    if week is None or not week.has_closures:
        number, _ = ordinals(times, freq)
        missing = np.diff(number) - 1
        holes = np.flatnonzero(missing > 0)
        return holes + 1, missing[holes]
    holes = np.flatnonzero(np.diff(times) > week.step)
    before, after = times[holes], times[holes + 1]
    missing = week.open_between(before, after)
    open_inside = missing > 0
    holes, before, after, missing = (part[open_inside] for part in (holes, before, after, missing))
    short = after - before <= _CLOSURE_LIMIT
    if votes is not None:  # the new year of China closes its exchanges for longer
        for hole in np.flatnonzero(~short):
            short[hole] = votes.all_closed(int(before[hole] // DAY) + 1, int(after[hole] // DAY) - 1)
    at_edge = ~week.is_open(before + week.step) | ~week.is_open(after - week.step)
    overnight = 2 * missing <= (after - before) // week.step - 1  # the hole is mostly closed slots
    at_edge |= overnight & (missing <= 1.5 * week.session)  # clock changes move the edges of a session in UTC
    daily = week.step == DAY
    closed = (short & (at_edge | daily)) | _yearly(before, after, missing)
    if votes is not None:
        for hole in np.flatnonzero(closed):
            missed = votes.missed_openings(int(before[hole] // DAY) + 1, int(after[hole] // DAY) - 1)
            closed[hole] = not missed
            if missed and daily:
                missing[hole] = missed  # without neighbouring holidays
    return holes[~closed] + 1, missing[~closed]


def _yearly(before: IntArray, after: IntArray, missing: IntArray) -> npt.NDArray[np.bool_]:
    """Return which holes of six hours to ten days have their middle at a date that is in such holes of two other years.

    Those lack half as many steps at least: a weekend that lacks an hour is no holiday. Dates are compared by the day of
    the year, to within a day: leap years and holidays next to each other move them.
    """
    holiday = (after - before >= _HOLIDAY) & (after - before <= _CLOSURE_LIMIT)
    day = ((before + after) // 2 // DAY).astype("datetime64[D]")
    year = day.astype("datetime64[Y]")
    of_year = (day - year).astype(np.int64)
    result = np.zeros(len(before), bool)
    for hole in np.flatnonzero(holiday):
        apart = np.abs(of_year - of_year[hole])
        near = holiday & (np.minimum(apart, 365 - apart) <= 1) & (year != year[hole]) & (2 * missing >= missing[hole])
        result[hole] = len(np.unique(year[near])) >= 2
    return result


def session_length(times: IntArray) -> tuple[int, float, int]:
    """Return the most frequent number of bars on an active day, the share of days with that number, and the median."""
    _, counts = np.unique(times // DAY, return_counts=True)
    found, share = mode(counts.astype(np.int64))
    return found, share, int(np.median(counts))
