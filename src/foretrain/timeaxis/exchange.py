"""Stamps of the next sessions of an exchange, by the package exchange_calendars (extra `market`).

A frame's stamps may be the exchange's local time, naive UTC, or have any time zone, and may mark the start or the end
of a bar. The history decides: the interpretation that matches the calendar best is used.

# N items, T stamps of one item, S sessions, H horizon; instants are int64 microseconds of UTC
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from foretrain.errors import ConfigError, DataError
from foretrain.hints import did_you_mean
from foretrain.notes import Code, Note, warn
from foretrain.timeaxis.frequency import DAY, SECOND, IntArray

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)

RECENT_STAMPS = 1000  # newest stamps of an item that are compared with the calendar
MIN_MATCHED_SHARE = 0.8  # share of them that must match
LULL = 0.1  # an item that lacks this share of a day's bars, consecutive, on all days trades elsewhere
SHORTEST_DAY = 20 * 3600 * SECOND  # daily stamps in UTC are 23 hours apart at a clock change
# The instant of a bar that its stamp marks, likeliest first. "by the clock": bars start at multiples of their length in
# local time, not at the session's opening.
SIDES = ("begin", "end", "begin and close", "begin by the clock", "end by the clock")


@dataclass(frozen=True)
class Sessions:
    """The sessions in a range of days: dates and trading hours."""

    days: IntArray  # (S,) day numbers since 1970
    opens: IntArray  # (P,) instants at which trading starts, two on a day with a break
    closes: IntArray  # (P,) instants at which it stops
    zone: Any  # time zone of the exchange
    _bars: dict[tuple[int, str], IntArray] = field(default_factory=dict)  # cache

    def bars(self, step: int, side: str) -> IntArray:
        """Return the ascending stamps of bars of `step` microseconds; a session's last bar may be shorter."""
        if (step, side) not in self._bars:
            self._bars[step, side] = self._compute_bars(step, side)
        return self._bars[step, side]

    def _compute_bars(self, step: int, side: str) -> IntArray:
        import pandas as pd

        opens = self.opens
        if side.endswith("by the clock"):
            opens = opens - _wall(pd.DatetimeIndex(opens.view("datetime64[us]")), self.zone) % step
        count = -(-(self.closes - opens) // step)
        number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        bars = np.repeat(opens, count) + number * step
        if side.startswith("end"):
            bars = np.minimum(bars + step, np.repeat(self.closes, count))
        return np.union1d(bars, self.closes) if side == "begin and close" else np.unique(bars)


@dataclass(frozen=True)
class Reading:
    """One interpretation of a history's stamps; own and expected are on the same clock, ascending."""

    own: IntArray  # the history
    expected: IntArray  # the calendar's stamps before, in and after the history
    stamps: Callable[[IntArray], pd.DatetimeIndex]  # from this clock to the frame's stamps
    likely: bool = False  # preferred to another one with the same score

    @property
    def matched(self) -> npt.NDArray[np.bool_]:
        """Mask of the history's stamps that the calendar has."""
        place = np.minimum(np.searchsorted(self.expected, self.own), len(self.expected) - 1)
        return self.expected[place] == self.own

    @property
    def score(self) -> float:
        """Share of the history's stamps in the calendar plus share of the calendar's stamps in the history: 0..2."""
        first, last = np.searchsorted(self.expected, [self.own[0], self.own[-1] + 1])
        matched = self.matched
        return float(matched.mean() + matched.sum() / max(last - first, 1))


@dataclass(frozen=True)
class Compared:
    """A history beside a calendar. outside (T,): stamps in no session; missing (K,): sessions or bars it lacks."""

    outside: npt.NDArray[np.bool_]
    missing: IntArray


class Exchange:
    """An exchange's calendar by its name or an alias such as NYSE. Raises ConfigError for an unknown one."""

    def __init__(self, name: str) -> None:
        try:
            import exchange_calendars
        except ImportError:
            raise ConfigError(
                'calendar= needs the package exchange_calendars; install it with: pip install "foretrain[market]"'
            ) from None
        self.name = name
        self._package = exchange_calendars
        names = exchange_calendars.get_calendar_names(include_aliases=True)
        if name not in names:
            codes = "Use a code such as XNYS, XSHG, XTKS, CMES or 24/7."
            hint = did_you_mean(name.upper(), names, codes, cutoff=0.5)
            raise ConfigError(f"calendar {name!r} is not one that exchange_calendars knows. {hint}")

    def following(self, times: pd.DatetimeIndex, starts: IntArray, ids: Any, horizon: int) -> pd.DatetimeIndex:
        """Return (N * H) stamps after each item's last one: the exchange's next sessions, or the next bars in them.

        times are grouped by item and ascend, starts are the items' first rows. Raises DataError for stamps that do not
        match the calendar, bars longer than a session, and horizons beyond the sessions that the package knows.
        """
        bounds = [*starts.tolist(), len(times)]
        recent = times.as_unit("us")
        histories = [recent[max(a, b - RECENT_STAMPS) : b] for a, b in itertools.pairwise(bounds)]
        longest = _step(max(histories, key=len))
        if longest is None:
            raise DataError(f"no item has 2 rows, so the length of a bar for calendar={self.name!r} is unknown.")
        steps = [_step(history) or longest for history in histories]
        last_days = [int(history.asi8[-1]) // DAY for history in histories]
        last_day = max(day + _days(step, horizon) for day, step in zip(last_days, steps, strict=True))
        sessions = self._sessions(min(int(history.asi8[0]) for history in histories) // DAY - 14, last_day)
        cache: dict[tuple[bytes, int], tuple[pd.DatetimeIndex, str]] = {}  # many items share their stamps
        results, doubts = [], dict[str, list[Any]]()
        for history, step, item in zip(histories, steps, ids, strict=True):
            key = (history.asi8.tobytes(), step)
            if key not in cache:
                cache[key] = self._continue(history, step, sessions, item, horizon)
            results.append(cache[key][0])
            doubts.setdefault(cache[key][1], []).append(item)
        for doubt, items in doubts.items():
            if doubt:
                text = (
                    f"{len(items):,} item(s), first {items[0]!r}, may not trade by the calendar {self.name}: {doubt}."
                )
                warn(_log, Note(Code.CALENDAR_DOUBTFUL, text, {"items": len(items)}))
        return results[0].append(results[1:]) if len(results) > 1 else results[0]

    def compare(self, times: IntArray, item: Any) -> Compared:
        """Compare ascending stamps (T,) with the sessions, half days included, between the first and the last.

        Raises DataError if less than MIN_MATCHED_SHARE of them fit, or if bars are longer than a session.
        """
        import pandas as pd

        history = pd.DatetimeIndex(times.view("datetime64[us]"))
        step = _step(history)
        if step is None:
            return Compared(np.zeros(len(times), bool), np.zeros(0, np.int64))
        sessions = self._sessions(int(times[0]) // DAY - 14, int(times[-1]) // DAY + 14)
        readings = _daily(history, sessions) if step >= SHORTEST_DAY else _intraday(history, step, sessions)
        best = max(readings, key=lambda reading: (reading.score, reading.likely))
        matched = best.matched
        if (~matched).sum() > (1 - MIN_MATCHED_SHARE) * len(times):
            raise DataError(
                f"item {item!r}: {(~matched).mean():.0%} of its {len(times):,} stamps fit no session of {self.name}, "
                f"first {history[int((~matched).argmax())]}. Name the calendar it trades by, or none."
            )
        first, last = np.searchsorted(best.expected, [best.own[0], best.own[-1] + 1])
        between = best.expected[first:last]
        if step >= SHORTEST_DAY and len(times) > 1 and np.median(np.diff(np.searchsorted(between, best.own))) > 1:
            raise DataError(
                f"item {item!r} has bars of several sessions each; a calendar checks daily and shorter bars."
            )
        lacking = between[np.isin(between, best.own, invert=True)]
        return Compared(~matched, best.stamps(lacking).as_unit("us").asi8 if len(lacking) else lacking)

    def _continue(
        self, history: pd.DatetimeIndex, step: int, sessions: Sessions, item: Any, horizon: int
    ) -> tuple[pd.DatetimeIndex, str]:
        """Return (H,) stamps, and the reason to doubt that the item trades by this calendar, "" without one."""
        readings = _daily(history, sessions) if step >= SHORTEST_DAY else _intraday(history, step, sessions)
        best = max(readings, key=lambda reading: (reading.score, reading.likely))
        unmatched = history[~best.matched]
        if len(unmatched) > (1 - MIN_MATCHED_SHARE) * len(history):
            raise DataError(
                f"item {item!r}: {len(unmatched) / len(history):.0%} of its newest {len(history)} stamps fit no "
                f"session of {self.name}, first {', '.join(map(str, unmatched[:3]))}. Name the calendar it trades by, "
                "or leave calendar= out."
            )
        apart = np.diff(np.searchsorted(best.expected, best.own))
        if step >= SHORTEST_DAY and len(apart) > 1 and np.median(apart) > 1:
            raise DataError(
                f"item {item!r} has bars of several sessions each; calendar= continues daily and shorter bars. "
                "Give freq= instead."
            )
        coming = best.expected[best.expected > best.own[-1]][:horizon]
        if len(coming) < horizon:
            raise DataError(
                f"item {item!r}: the sessions of {self.name} are known until "
                f"{sessions.days[-1].astype('M8[D]')} only, which is {len(coming)} of {horizon} steps. Shorten "
                "prediction_length, update exchange_calendars, or give freq=."
            )
        return best.stamps(coming), _doubt(best, history, unmatched, step)

    def _sessions(self, first: int, last: int) -> Sessions:
        """Return the sessions of whole years, which the package caches, limited to those that the calendar knows."""
        import pandas as pd
        from exchange_calendars.errors import CalendarError

        years = np.array([first, last], "datetime64[D]").astype("datetime64[Y]") + np.array([0, 1])
        start, end = (cast("pd.Timestamp", pd.Timestamp(day)) for day in years.astype("datetime64[D]"))
        try:
            try:
                calendar = self._calendar(start=start, end=end)
            except ValueError:  # beyond the years that it knows
                known = self._calendar()
                start, end = max(start, known.bound_min() or start), min(end, known.bound_max() or end)
                calendar = self._calendar(start=start, end=end)
        except (ValueError, CalendarError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"calendar {self.name!r} does not know the time of these series ({reason}).") from None
        table = calendar.schedule
        opens, closes, pause, resume = (_micros(table[name]) for name in ("open", "close", "break_start", "break_end"))
        paused = table["break_start"].notna().to_numpy()
        return Sessions(
            days=_micros(table.index) // DAY,
            opens=np.sort(np.concatenate([opens, resume[paused]])),
            closes=np.sort(np.concatenate([np.where(paused, pause, closes), closes[paused]])),
            zone=calendar.tz,
        )

    def _calendar(self, **span: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pandas functions that the package still calls
            return self._package.get_calendar(self.name, **span)


def _doubt(best: Reading, history: pd.DatetimeIndex, unmatched: pd.DatetimeIndex, step: int) -> str:
    """Return the reason why a history that matches a calendar may belong to another exchange, "" without one."""
    if len(unmatched):
        return f"{len(unmatched):,} of its newest {len(history):,} stamps fit no session, first {unmatched[0]}"
    first, last = np.searchsorted(best.expected, [best.own[0], best.own[-1] + 1])
    times, seen = np.unique(best.expected[first:last] % DAY, return_counts=True)
    lacking = np.isin(times, best.own % DAY, invert=True) & (seen >= 3)
    edges = np.flatnonzero(np.diff(lacking.astype(np.int8), prepend=0, append=0))
    runs = edges.reshape(-1, 2)  # (first, stop) of each run of times without a bar
    longest = max(runs.tolist(), key=lambda run: run[1] - run[0], default=[0, 0])
    if step >= SHORTEST_DAY or longest[1] - longest[0] < max(3, LULL * len(times)):
        return ""
    begin, end = (str(times[k].astype("m8[us]").astype("M8[us]"))[11:16] for k in (longest[0], longest[1] - 1))
    return f"it has no bar from {begin} to {end}, when that trades"


def _daily(history: pd.DatetimeIndex, sessions: Sessions) -> list[Reading]:
    """Return the readings of daily stamps: one time of day, by the stamps' clock or by the exchange's."""
    import pandas as pd

    readings = []
    for zone in (history.tz, sessions.zone):
        wall = _wall(history, zone)
        clock = int(wall[-1] % DAY)

        def stamps(walls: IntArray, zone: Any = zone) -> pd.DatetimeIndex:
            local = pd.DatetimeIndex(walls.view("datetime64[us]"))
            if zone is None:
                return local
            there = local.tz_localize(zone, nonexistent="shift_forward", ambiguous=np.zeros(len(local), bool))
            return there.tz_convert("UTC").tz_localize(None) if history.tz is None else there.tz_convert(history.tz)

        readings.append(Reading(wall, sessions.days * DAY + clock, stamps, likely=clock == 0))
    return readings


def _intraday(history: pd.DatetimeIndex, step: int, sessions: Sessions) -> list[Reading]:
    """Return the readings of bars of `step` microseconds: each of SIDES, in UTC and for naive stamps in local time."""
    import pandas as pd

    def stamps(instants: IntArray) -> pd.DatetimeIndex:
        plain = pd.DatetimeIndex(instants.view("datetime64[us]"))
        return plain if history.tz is None else plain.tz_localize("UTC").tz_convert(history.tz)

    readings = []
    for side in SIDES:
        bars = sessions.bars(step, side)
        if history.tz is None:
            readings.append(Reading(history.asi8, _wall(stamps(bars), sessions.zone), stamps))
        readings.append(Reading(history.asi8, bars, stamps))
    return readings


def _wall(times: pd.DatetimeIndex, zone: Any) -> IntArray:
    """Return microseconds of local time in a zone, or unconverted if zone is None; naive stamps are UTC."""
    if zone is None:
        return times.asi8
    known = times.tz_localize("UTC") if times.tz is None else times
    return known.tz_convert(zone).tz_localize(None).asi8


def _micros(column: Any) -> IntArray:
    import pandas as pd

    index = pd.DatetimeIndex(column)
    return (index if index.tz is None else index.tz_convert("UTC").tz_localize(None)).as_unit("us").asi8


def _step(times: pd.DatetimeIndex) -> int | None:
    """Return the most frequent step, None for fewer than two stamps."""
    if len(times) < 2:
        return None
    spacing, counts = np.unique(np.diff(times.asi8), return_counts=True)
    return int(spacing[counts.argmax()])


def _days(step: int, horizon: int) -> int:
    """Return an upper bound of the days that `horizon` steps span: markets trade four hours a day or more."""
    sessions = horizon if step >= SHORTEST_DAY else -(-horizon * step // (4 * 3600 * SECOND))
    return 2 * sessions + 30
