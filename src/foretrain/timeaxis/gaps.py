"""Gaps of a time axis: the hours and days in which an item's week is regularly closed are none.

# N stamps of one item
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foretrain.timeaxis.frequency import DAY, WEEK, Frequency, IntArray
from foretrain.timeaxis.grid import ordinals
from foretrain.timeaxis.inference import mode

_CLOSURE_LIMIT = 10 * DAY  # the longest exchange closures (new year, national holidays) stay below
_OPEN_SHARE = 0.5  # a slot of the week is open when at least this share of its active days has a bar there


@dataclass(frozen=True)
class Week:
    """Which slots of the week an item trades in; slot 0 starts on Thursday 00:00, as day 0 of 1970 did."""

    step: int  # microseconds of a slot
    open: npt.NDArray[np.bool_]  # (slots,)
    before: IntArray  # (slots + 1,) open slots before each slot

    @classmethod
    def of(cls, times: IntArray, freq: str | Frequency) -> Week | None:
        """The weekly pattern of ascending stamps; None where a week holds no whole number of steps or too many."""
        frequency = Frequency.of(freq)
        step = DAY if frequency.kind == "business" and frequency.multiple == 1 else frequency.micros
        if step is None or step > DAY or WEEK % step or WEEK // step > 1_000_000 or not len(times):
            return None
        per_day = DAY // step
        slots = (times % WEEK) // step
        days = np.unique(times // DAY)
        active = np.bincount(days % 7, minlength=7)  # day 0 of 1970 is slot 0 of the week, as for times % WEEK
        weeks = len(np.unique(days // 7))
        open_day = active >= _OPEN_SHARE * min(weeks, active.max())
        spanned = np.arange(days[0], min(days[-1], days[0] + 6) + 1) % 7
        open_day[np.setdiff1d(np.arange(7), spanned)] = True  # no evidence of closure on days never reached
        count = np.bincount(slots, minlength=7 * per_day)
        is_open = (count >= _OPEN_SHARE * np.repeat(active, per_day)) & np.repeat(open_day, per_day)
        return cls(step, is_open, np.concatenate([[0], np.cumsum(is_open)]).astype(np.int64))

    @property
    def has_closures(self) -> bool:
        """Whether some of the week is regularly closed, so that silence there is no gap."""
        return bool(self.open.mean() < 0.98)

    @property
    def session(self) -> float:
        """Open slots on a day that trades at all."""
        days = self.open.reshape(7, -1).any(axis=1).sum()
        return float(self.before[-1] / max(days, 1))

    def open_between(self, after: IntArray, until: IntArray) -> IntArray:
        """Open slots strictly between two stamps, elementwise."""
        return self._count(until) - self._count(after + self.step)

    def _count(self, times: IntArray) -> IntArray:
        week, rest = np.divmod(times, WEEK)
        return week * self.before[-1] + self.before[rest // self.step]

    def is_open(self, times: IntArray) -> npt.NDArray[np.bool_]:
        """Whether each stamp falls into an open slot."""
        return self.open[(times % WEEK) // self.step]


class DayVotes:
    """How many items have a bar on each day, and how many were listed: holidays are days on which few trade."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        self._days: Counter[int] = Counter()
        self._tables: tuple[IntArray, IntArray, int] | None = None

    def add(self, times: IntArray) -> None:
        """Count one item's ascending stamps."""
        if not len(times):
            return
        days = np.unique(times // DAY)
        self._ranges.append((int(days[0]), int(days[-1])))
        self._days.update(days.tolist())
        self._tables = None

    def missed_openings(self, first: int, last: int) -> int:
        """Days of first..last on which at least half of the items listed then, and two or more, did trade."""
        if not self._ranges or last < first:
            return 0
        traded, listed, base = self._table()
        low, high = max(first - base, 0), min(last - base + 1, len(traded))
        part, total = traded[low:high], listed[low:high]
        return int(((part * 2 >= total) & (part >= 1) & (total >= 2)).sum())

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


def find_gaps(times: IntArray, freq: str | Frequency, votes: DayVotes | None = None) -> tuple[IntArray, IntArray]:
    """Holes in ascending stamps against their frequency: (index of the row after each hole, steps missing in it).

    Where the item's own week has closed hours or days, a hole is no gap when nothing was open in it, or when it is
    shorter than ten days and begins at a close, ends at an opening (half day, holiday) or spans a night; whole days on
    which most other items did trade stay gaps.
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
    held = missing > 0
    holes, before, after, missing = holes[held], before[held], after[held], missing[held]
    short = after - before <= _CLOSURE_LIMIT
    at_edge = ~week.is_open(before + week.step) | ~week.is_open(after - week.step)
    overnight = missing < (after - before) // week.step - 1  # something closed lies inside
    at_edge |= overnight & (missing <= 1.5 * week.session)  # UTC stamps: clock changes blur the edges of a session
    daily = week.step == DAY
    closed = short & (at_edge | daily)
    if votes is not None:
        for hole in np.flatnonzero(closed):
            missed = votes.missed_openings(int(before[hole] // DAY) + 1, int(after[hole] // DAY) - 1)
            closed[hole] = not missed
            if missed and daily:
                missing[hole] = missed  # not the holidays beside them
    return holes[~closed] + 1, missing[~closed]


def session_length(times: IntArray) -> tuple[int, float, int]:
    """Bars on an active day: the most frequent count, the share of days with exactly so many, and the median."""
    _, counts = np.unique(times // DAY, return_counts=True)
    found, share = mode(counts.astype(np.int64))
    return found, share, int(np.median(counts))
