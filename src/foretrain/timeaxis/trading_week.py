"""The trading week of an item, inferred from its newest stamps, and the next bars in it.

Stamps are int64 microseconds since 1970 (UTC, or naive local time); exchange calendars are not used here.

# N stamps of one item, S slots of its week, K future bars
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foretrain.timeaxis.frequency import DAY, SECOND, WEEK

IntArray = npt.NDArray[np.int64]

HOUR = 3600 * SECOND
LULL = HOUR // 2  # a shorter hole is missing bars; breaks at noon and between days of futures are longer
NIGHT = 4 * HOUR
RECENT = 6 * WEEK  # history used: long enough to outvote holidays, short enough to follow a change of hours
USUAL_SHARE = 0.5  # a bar belongs to the week if it occurs on at least this share of the trading days
_HOLIDAYS = 2  # most absences of a working day in a short history that still leave it in the week
_TRUSTED_SHARE = 0.8  # share of an item's newest bars that must follow each other as in its week
_CLOCK_CHANGE = 0.05  # gain in agreement of two weeks from which a clock change is assumed
_WEEKEND = [2, 3]  # Saturday and Sunday of a week that starts on Thursday, the weekday of 1970-01-01


@dataclass(frozen=True)
class TradingWeek:
    """The times of the week at which an item has bars."""

    slots: IntArray  # (S,) ascending microseconds since the start of the week, Thursday 00:00

    @property
    def has_closures(self) -> bool:
        """True if nights, days or hours are closed: some slots are further apart than others."""
        steps = np.diff(self.slots, append=self.slots[0] + WEEK)
        return bool(steps.max() > 1.5 * np.median(steps))

    def after(self, time: int, count: int) -> IntArray:
        """Return the (K,) = (count,) slots after a stamp."""
        week, rest = divmod(int(time), WEEK)
        first = int(np.searchsorted(self.slots, rest, side="right")) + np.arange(count, dtype=np.int64)
        return (week + first // len(self.slots)) * WEEK + self.slots[first % len(self.slots)]

    def share_followed(self, times: IntArray) -> float:
        """Return the share of neighbouring stamps of which the later one is the slot after the earlier one."""
        week, rest = np.divmod(times[:-1], WEEK)
        first = np.searchsorted(self.slots, rest, side="right")
        expected = (week + first // len(self.slots)) * WEEK + self.slots[first % len(self.slots)]
        return float((expected == times[1:]).mean())


def trading_week(times: IntArray) -> TradingWeek | None:
    """Infer the week of (N,) ascending stamps with closed hours or days; None if none are closed or no week repeats.

    Only the newest six weeks are used. Intraday bars must include a night, daily ones more than a week. If the market
    changes its clocks, its hours in UTC move; the weeks before a change are shifted to match. A working day outside the
    history, or a holiday in a short history, is assumed to be like the other working days; a Saturday or Sunday outside
    the history is closed.
    """
    times = times[times > times[-1] - RECENT] if len(times) else times
    if len(times) < 3:
        return None
    steps, span = np.diff(times), times[-1] - times[0]
    step = np.median(steps)
    if step > DAY or (step == DAY and span <= WEEK) or (span < DAY and steps.max() < NIGHT):
        return None
    night = _night(times)
    times = _same_clock(times + night)
    slots = _usual_slots(times)
    if len(slots) < 2:
        return None
    times, week = times - night, TradingWeek(np.sort((slots - night) % WEEK))
    return week if week.has_closures and week.share_followed(times) >= _TRUSTED_SHARE else None


def missing_bars(times: IntArray, step: int) -> int | None:
    """Return the number of missing bars in a history without closures, None if over 1 % are missing or it is short."""
    steps, off = np.divmod(np.diff(times), step)
    lacking = int((steps - 1).sum())
    if len(times) < 100 or step > DAY or off.any() or lacking > 0.01 * len(times):
        return None
    return lacking


def _night(times: IntArray) -> int:
    """Return the shift of stamps that puts midnight in the middle of the longest closed hours of a day, else 0."""
    clock = np.unique(times % DAY)
    steps = np.diff(clock, append=clock[0] + DAY)
    longest = int(steps.argmax())
    if len(clock) == 1 or steps[longest] < NIGHT:
        return 0
    middle = int(clock[longest] + steps[longest] // 2) % DAY
    return -middle if middle <= DAY // 2 else DAY - middle


def _usual_slots(times: IntArray) -> IntArray:
    """Return the times of the week that occur on at least half of the trading days; empty for too short a history."""
    days, day = np.unique(times // DAY, return_inverse=True)
    step = int(np.median(np.diff(times)))
    clock = np.unique(np.append(times % DAY, _never_reached(times, days, step)))
    time = np.searchsorted(clock, times % DAY)
    came = np.zeros((len(days), len(clock)))
    came[day, time] = 1
    stamps = days[:, None] * DAY + clock  # of every day at every time
    seen = ((stamps >= times[0]) & (stamps <= times[-1])).astype(float)  # the first and the last day are incomplete
    shared = came.sum(0) >= USUAL_SHARE * seen.sum(0)
    of_week = np.eye(7)[days % 7].T  # (7, days)
    bars, chances = of_week @ came, of_week @ seen
    active = np.bincount(days % 7, minlength=7)
    spanned = np.bincount(np.arange(days[0], days[-1] + 1) % 7, minlength=7)
    trades = (active > 0) & (active >= USUAL_SHARE * spanned)
    usual = np.where(chances > 0, bars >= USUAL_SHARE * chances, shared) & trades[:, None]
    night = LULL if times[-1] - times[0] >= 2 * DAY else NIGHT  # a closure seen only once must be long
    if len(clock) > 1 and not len(_closures(clock[shared], DAY, step, night)):
        return _filled(_slots(usual, clock), step, NIGHT) if spanned.all() else np.zeros(0, np.int64)
    if not trades[_WEEKEND].any():
        unknown = (~trades & (spanned <= _HOLIDAYS)) | (active == 1)  # a single day may have been a half day
        unknown[_WEEKEND] = False
        usual[unknown] = shared
    return _filled(_slots(usual, clock), step, LULL)


def _never_reached(times: IntArray, days: IntArray, step: int) -> IntArray:
    """Return, for a history of two days, the times of day after the end of the second and before the first starts."""
    if len(days) != 2:
        return np.zeros(0, np.int64)
    return np.arange(times[-1] % DAY + step, times[0] % DAY, step)


def _slots(usual: npt.NDArray[np.bool_], clock: IntArray) -> IntArray:
    day, time = np.nonzero(usual)
    return day * DAY + clock[time]


def _closures(slots: IntArray, cycle: int, step: int, shortest: int) -> IntArray:
    """Return the indices of slots of a day or week that are followed by a closure of at least `shortest`."""
    if not len(slots):
        return np.zeros(0, np.int64)
    steps = np.diff(slots, append=slots[0] + cycle)
    return np.flatnonzero((steps > 1.5 * step) & (steps - step >= shortest))


def _filled(slots: IntArray, step: int, shortest: int) -> IntArray:
    """Fill holes between slots that are too short to be a closure: bars that were missing in the history."""
    if not len(slots):
        return slots
    steps = np.diff(slots, append=slots[0] + WEEK)
    steps[_closures(slots, WEEK, step, shortest)] = step
    count = np.maximum(steps // step, 1)
    number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.sort((np.repeat(slots, count) + number * step) % WEEK)


def _same_clock(times: IntArray) -> IntArray:
    """Shift earlier weeks by an hour where their times of day then agree better with those of the newest week.

    A week that consists only of the incomplete first day of the history shifts with the week after it.
    """
    days = times // DAY
    week = (days + 4) // 7  # clocks change at weekends, so a week starts on Sunday here
    newest = np.unique(times[week == week[-1]] % DAY)
    reached = int(times[-1] % DAY) if days[week == week[-1]][0] == days[-1] else DAY
    moved, shift = times.copy(), 0
    for number in np.unique(week)[-2::-1]:
        whole = np.unique(times[(week == number) & (days > days[0])] % DAY)
        if len(whole):
            shifts = (0, HOUR, -HOUR)
            scores = [_agreement(newest, (whole + change) % DAY, reached) for change in shifts]
            best = int(np.argmax(scores))
            shift = shifts[best] if scores[best] > scores[0] + _CLOCK_CHANGE else 0
        moved[week == number] += shift
    return moved


def _agreement(newest: IntArray, other: IntArray, reached: int) -> float:
    """Return the share of common times of two days, up to the last time of the newest day."""
    other = other[other <= reached]
    return len(np.intersect1d(newest, other)) / max(len(np.union1d(newest, other)), 1)


def continue_bars(times: IntArray, count: int) -> IntArray | None:
    """Return (K,) = (count,) stamps after the newest in the item's trading week, None if it has none."""
    week = trading_week(times)
    return None if week is None else week.after(int(times[-1]), count)
