"""The trading week of an item, learnt from its own newest stamps, and the bars that come next in it.

Stamps are int64 microseconds since 1970 (UTC, or naive local time at face value); nothing here knows an exchange.

# N stamps of one item, S slots of its week, K bars to come
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foretrain.timeaxis.frequency import DAY, SECOND, WEEK

IntArray = npt.NDArray[np.int64]

HOUR = 3600 * SECOND
LULL = HOUR // 2  # shorter silences are missing bars; pauses at noon and between days of futures are longer
NIGHT = 4 * HOUR
RECENT = 6 * WEEK  # of history: long enough to outvote holidays, short enough to follow a change of hours
USUAL_SHARE = 0.5  # a bar belongs to the week when it comes on at least this share of the days that trade
_HOLIDAYS = 2  # a working day may be missing so often in a short history and still belong to the week
_TRUSTED_SHARE = 0.8  # of an item's own newest bars must follow each other as its week says
_CLOCK_CHANGE = 0.05  # by so much better must the weeks agree before a change of the clocks is believed
_WEEKEND = [2, 3]  # Saturday and Sunday of a week that begins on Thursday, as day 0 of 1970 did


@dataclass(frozen=True)
class TradingWeek:
    """The times of the week at which an item's bars come."""

    slots: IntArray  # (S,) ascending microseconds since the week began, Thursday 00:00

    @property
    def has_closures(self) -> bool:
        """Whether nights, days or hours are left out: some slots are further apart than others."""
        steps = np.diff(self.slots, append=self.slots[0] + WEEK)
        return bool(steps.max() > 1.5 * np.median(steps))

    def after(self, time: int, count: int) -> IntArray:
        """(K,) the slots that follow a stamp."""
        week, rest = divmod(int(time), WEEK)
        first = int(np.searchsorted(self.slots, rest, side="right")) + np.arange(count, dtype=np.int64)
        return (week + first // len(self.slots)) * WEEK + self.slots[first % len(self.slots)]

    def share_followed(self, times: IntArray) -> float:
        """Share of neighbouring stamps of which the later is the slot after the earlier."""
        week, rest = np.divmod(times[:-1], WEEK)
        first = np.searchsorted(self.slots, rest, side="right")
        expected = (week + first // len(self.slots)) * WEEK + self.slots[first % len(self.slots)]
        return float((expected == times[1:]).mean())


def trading_week(times: IntArray) -> TradingWeek | None:
    """The week of (N,) ascending stamps with closed hours or days; None where there are none or no week repeats.

    Only the newest six weeks are looked at; intraday bars must show a night, daily ones more than a week. Stamps in UTC
    move by an hour against a market that changes its clocks; the weeks before a change are moved along. A working day
    that was never reached, or was a holiday in a short history, is taken to be like the others; a Saturday or Sunday
    never reached is closed.
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
    """Bars that an item lacks in a week without closures; None where too many are missing to speak of single bars."""
    steps, off = np.divmod(np.diff(times), step)
    lacking = int((steps - 1).sum())
    if len(times) < 100 or step > DAY or off.any() or lacking > 0.01 * len(times):
        return None
    return lacking


def _night(times: IntArray) -> int:
    """What to add to stamps so that midnight falls into the middle of the longest closed hours of a day, if any."""
    clock = np.unique(times % DAY)
    steps = np.diff(clock, append=clock[0] + DAY)
    longest = int(steps.argmax())
    if len(clock) == 1 or steps[longest] < NIGHT:
        return 0
    middle = int(clock[longest] + steps[longest] // 2) % DAY
    return -middle if middle <= DAY // 2 else DAY - middle


def _usual_slots(times: IntArray) -> IntArray:
    """Times of the week that come on at least half of the days that trade; empty where too little was seen to tell."""
    days, day = np.unique(times // DAY, return_inverse=True)
    step = int(np.median(np.diff(times)))
    clock = np.unique(np.append(times % DAY, _never_reached(times, days, step)))
    time = np.searchsorted(clock, times % DAY)
    came = np.zeros((len(days), len(clock)))
    came[day, time] = 1
    stamps = days[:, None] * DAY + clock  # of every day at every time
    seen = ((stamps >= times[0]) & (stamps <= times[-1])).astype(float)  # the first and the last day are cut off
    shared = came.sum(0) >= USUAL_SHARE * seen.sum(0)
    of_week = np.eye(7)[days % 7].T  # (7, days)
    bars, chances = of_week @ came, of_week @ seen
    active = np.bincount(days % 7, minlength=7)
    spanned = np.bincount(np.arange(days[0], days[-1] + 1) % 7, minlength=7)
    trades = (active > 0) & (active >= USUAL_SHARE * spanned)
    usual = np.where(chances > 0, bars >= USUAL_SHARE * chances, shared) & trades[:, None]
    night = LULL if times[-1] - times[0] >= 2 * DAY else NIGHT  # what was seen once must be long to be believed
    if len(clock) > 1 and not len(_closures(clock[shared], DAY, step, night)):
        return _filled(_slots(usual, clock), step, NIGHT) if spanned.all() else np.zeros(0, np.int64)
    if not trades[_WEEKEND].any():
        unknown = (~trades & (spanned <= _HOLIDAYS)) | (active == 1)  # what traded once may have been a half day
        unknown[_WEEKEND] = False
        usual[unknown] = shared
    return _filled(_slots(usual, clock), step, LULL)


def _never_reached(times: IntArray, days: IntArray, step: int) -> IntArray:
    """Times of the day after the end of a history's second and last day and before the beginning of its first."""
    if len(days) != 2:
        return np.zeros(0, np.int64)
    return np.arange(times[-1] % DAY + step, times[0] % DAY, step)


def _slots(usual: npt.NDArray[np.bool_], clock: IntArray) -> IntArray:
    day, time = np.nonzero(usual)
    return day * DAY + clock[time]


def _closures(slots: IntArray, cycle: int, step: int, shortest: int) -> IntArray:
    """Indices of the slots of a day or week after which it is closed for at least so long."""
    if not len(slots):
        return np.zeros(0, np.int64)
    steps = np.diff(slots, append=slots[0] + cycle)
    return np.flatnonzero((steps > 1.5 * step) & (steps - step >= shortest))


def _filled(slots: IntArray, step: int, shortest: int) -> IntArray:
    """Slots with every hole filled that is too short to be a closure: bars that were missing when they were due."""
    if not len(slots):
        return slots
    steps = np.diff(slots, append=slots[0] + WEEK)
    steps[_closures(slots, WEEK, step, shortest)] = step
    count = np.maximum(steps // step, 1)
    number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.sort((np.repeat(slots, count) + number * step) % WEEK)


def _same_clock(times: IntArray) -> IntArray:
    """Stamps by the clock of the newest week: earlier weeks move by an hour where that makes their days agree with its.

    A week of which only the history's cut-off first day is there moves with the week after it.
    """
    days = times // DAY
    week = (days + 4) // 7  # clocks change at weekends, so a week here begins on Sunday
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
    """Share of the times of two days that they have in common, as far as the newest day has got."""
    other = other[other <= reached]
    return len(np.intersect1d(newest, other)) / max(len(np.union1d(newest, other)), 1)


def continue_bars(times: IntArray, count: int) -> IntArray | None:
    """(K,) stamps after the newest by the item's trading week; None where it has none (see trading_week)."""
    week = trading_week(times)
    return None if week is None else week.after(int(times[-1]), count)
