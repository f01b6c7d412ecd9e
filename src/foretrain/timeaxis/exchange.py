"""Time stamps of an exchange's coming sessions, by the package exchange_calendars (extra `market`).

A frame's stamps may be the exchange's local time, UTC without a zone, or carry any zone; a bar may be named by its
beginning or its end. All of that is read off the history: the reading under which it fits the calendar best is used.

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

LOOKED_AT = 1000  # newest stamps of an item that are held against the calendar
ENOUGH = 0.8  # share of them that must fit
LULL = 0.1  # share of a day's bars, together, that no exchange's own series lacks on all days
SHORTEST_DAY = 20 * 3600 * SECOND  # daily stamps in UTC are 23 hours apart where the clocks change
SIDES = (
    "begin",
    "end",
    "begin and close",
    "begin by the clock",
    "end by the clock",
)  # what names a bar, likeliest first


@dataclass(frozen=True)
class Sessions:
    """The sessions of a span of days: their dates, and when they trade."""

    days: IntArray  # (S,) day numbers since 1970
    begins: IntArray  # (P,) instants at which trading begins, twice on a day with a pause
    ends: IntArray  # (P,)
    zone: Any  # the exchange's own
    _laid_out: dict[tuple[int, str], IntArray] = field(default_factory=dict)

    def bars(self, step: int, side: str) -> IntArray:
        """Ascending instants that name the bars of so many microseconds; a session's last bar may be shorter."""
        if (step, side) not in self._laid_out:
            self._laid_out[step, side] = self._lay_out(step, side)
        return self._laid_out[step, side]

    def _lay_out(self, step: int, side: str) -> IntArray:
        import pandas as pd

        begins = self.begins
        if side.endswith("by the clock"):
            begins = begins - _wall(pd.DatetimeIndex(begins.view("datetime64[us]")), self.zone) % step
        count = -(-(self.ends - begins) // step)
        number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        bars = np.repeat(begins, count) + number * step
        if side.startswith("end"):
            bars = np.minimum(bars + step, np.repeat(self.ends, count))
        return np.union1d(bars, self.ends) if side == "begin and close" else np.unique(bars)


@dataclass(frozen=True)
class Reading:
    """One way to understand a history's stamps; own and expected are in the same terms, ascending."""

    own: IntArray  # the history
    expected: IntArray  # what the calendar has, before, within and after the history
    stamps: Callable[[IntArray], pd.DatetimeIndex]  # from these terms to the frame's stamps
    likely: bool = False  # rather this than another that fits as well

    @property
    def met(self) -> npt.NDArray[np.bool_]:
        """Which stamps of the history the calendar has."""
        place = np.minimum(np.searchsorted(self.expected, self.own), len(self.expected) - 1)
        return self.expected[place] == self.own

    @property
    def likeness(self) -> float:
        """Share of the history that the calendar has, and share of the calendar's, in its span, that it has: 0..2."""
        first, last = np.searchsorted(self.expected, [self.own[0], self.own[-1] + 1])
        met = self.met
        return float(met.mean() + met.sum() / max(last - first, 1))


class Exchange:
    """An exchange's calendar by name; aliases such as NYSE are known. Raises ConfigError for an unknown one."""

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
        """(N * H) stamps after each item's last one: its exchange's next sessions, or bars of them.

        times are grouped by item and ascend, starts are the items' first rows. Raises DataError for stamps that are
        not this exchange's, bars longer than a session, and horizons beyond the sessions that are known.
        """
        bounds = [*starts.tolist(), len(times)]
        recent = times.as_unit("us")
        pieces = [recent[max(a, b - LOOKED_AT) : b] for a, b in itertools.pairwise(bounds)]
        longest = _step(max(pieces, key=len))
        if longest is None:
            raise DataError(f"no item has 2 rows, so the bars that calendar={self.name!r} continues cannot be told.")
        steps = [_step(piece) or longest for piece in pieces]
        ends = [int(piece.asi8[-1]) // DAY + _days(step, horizon) for piece, step in zip(pieces, steps, strict=True)]
        sessions = self._sessions(min(int(piece.asi8[0]) for piece in pieces) // DAY - 14, max(ends))
        found: dict[tuple[bytes, int], tuple[pd.DatetimeIndex, str]] = {}  # many items share their stamps
        results, doubts = [], dict[str, list[Any]]()
        for piece, step, item in zip(pieces, steps, ids, strict=True):
            key = (piece.asi8.tobytes(), step)
            if key not in found:
                found[key] = self._continue(piece, step, sessions, item, horizon)
            results.append(found[key][0])
            doubts.setdefault(found[key][1], []).append(item)
        for doubt, items in doubts.items():
            if doubt:
                text = (
                    f"{len(items):,} item(s), first {items[0]!r}, may not trade by the calendar {self.name}: {doubt}."
                )
                warn(_log, Note(Code.CALENDAR_DOUBTFUL, text, {"items": len(items)}))
        return results[0].append(results[1:]) if len(results) > 1 else results[0]

    def _continue(
        self, piece: pd.DatetimeIndex, step: int, sessions: Sessions, item: Any, horizon: int
    ) -> tuple[pd.DatetimeIndex, str]:
        """(H,) stamps, and what makes it doubtful that the item trades by this calendar, "" for nothing."""
        readings = _daily(piece, sessions) if step >= SHORTEST_DAY else _intraday(piece, step, sessions)
        best = max(readings, key=lambda reading: (reading.likeness, reading.likely))
        strange = piece[~best.met]
        if len(strange) > (1 - ENOUGH) * len(piece):
            raise DataError(
                f"item {item!r}: {len(strange) / len(piece):.0%} of its newest {len(piece)} stamps fit no session of "
                f"{self.name}, first {', '.join(str(time) for time in strange[:3])}. Name the calendar it trades by, "
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
        return best.stamps(coming), _doubt(best, piece, strange, step)

    def _sessions(self, first: int, last: int) -> Sessions:
        """Sessions of a span of days in whole years (which the package keeps), cut to what the calendar knows."""
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
        begins, ends, pause, resume = (_micros(table[name]) for name in ("open", "close", "break_start", "break_end"))
        paused = table["break_start"].notna().to_numpy()
        return Sessions(
            days=_micros(table.index) // DAY,
            begins=np.sort(np.concatenate([begins, resume[paused]])),
            ends=np.sort(np.concatenate([np.where(paused, pause, ends), ends[paused]])),
            zone=calendar.tz,
        )

    def _calendar(self, **span: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # what the package still asks of pandas
            return self._package.get_calendar(self.name, **span)


def _doubt(best: Reading, piece: pd.DatetimeIndex, strange: pd.DatetimeIndex, step: int) -> str:
    """Why a history that fits a calendar well enough may still be another exchange's."""
    if len(strange):
        return f"{len(strange):,} of its newest {len(piece):,} stamps fit no session, first {strange[0]}"
    first, last = np.searchsorted(best.expected, [best.own[0], best.own[-1] + 1])
    times, seen = np.unique(best.expected[first:last] % DAY, return_counts=True)
    lacking = np.isin(times, best.own % DAY, invert=True) & (seen >= 3)
    edges = np.flatnonzero(np.diff(lacking.astype(np.int8), prepend=0, append=0))
    runs = edges.reshape(-1, 2)  # each a part of the day without a bar
    longest = max(runs.tolist(), key=lambda run: run[1] - run[0], default=[0, 0])
    if step >= SHORTEST_DAY or longest[1] - longest[0] < max(3, LULL * len(times)):
        return ""
    begin, end = (str(times[k].astype("m8[us]").astype("M8[us]"))[11:16] for k in (longest[0], longest[1] - 1))
    return f"it has no bar from {begin} to {end}, when that trades"


def _daily(piece: pd.DatetimeIndex, sessions: Sessions) -> list[Reading]:
    """One stamp a session at one time of day, by the stamps' own clock or by the exchange's."""
    import pandas as pd

    readings = []
    for zone in (piece.tz, sessions.zone):
        wall = _wall(piece, zone)
        clock = int(wall[-1] % DAY)

        def stamps(walls: IntArray, zone: Any = zone) -> pd.DatetimeIndex:
            local = pd.DatetimeIndex(walls.view("datetime64[us]"))
            if zone is None:
                return local
            there = local.tz_localize(zone, nonexistent="shift_forward", ambiguous=np.zeros(len(local), bool))
            return there.tz_convert("UTC").tz_localize(None) if piece.tz is None else there.tz_convert(piece.tz)

        readings.append(Reading(wall, sessions.days * DAY + clock, stamps, likely=clock == 0))
    return readings


def _intraday(piece: pd.DatetimeIndex, step: int, sessions: Sessions) -> list[Reading]:
    """Bars of so many microseconds: every way to name them, by the exchange's clock or in UTC."""
    import pandas as pd

    def stamps(instants: IntArray) -> pd.DatetimeIndex:
        plain = pd.DatetimeIndex(instants.view("datetime64[us]"))
        return plain if piece.tz is None else plain.tz_localize("UTC").tz_convert(piece.tz)

    readings = []
    for side in SIDES:
        bars = sessions.bars(step, side)
        if piece.tz is None:
            readings.append(Reading(piece.asi8, _wall(stamps(bars), sessions.zone), stamps))
        readings.append(Reading(piece.asi8, bars, stamps))
    return readings


def _wall(times: pd.DatetimeIndex, zone: Any) -> IntArray:
    """Microseconds by the clock of a zone; stamps without a zone are UTC, and zone None takes them as they are."""
    if zone is None:
        return times.asi8
    known = times.tz_localize("UTC") if times.tz is None else times
    return known.tz_convert(zone).tz_localize(None).asi8


def _micros(column: Any) -> IntArray:
    import pandas as pd

    index = pd.DatetimeIndex(column)
    return (index if index.tz is None else index.tz_convert("UTC").tz_localize(None)).as_unit("us").asi8


def _step(times: pd.DatetimeIndex) -> int | None:
    """Most frequent spacing, None where there are fewer than two stamps."""
    if len(times) < 2:
        return None
    spacing, counts = np.unique(np.diff(times.asi8), return_counts=True)
    return int(spacing[counts.argmax()])


def _days(step: int, horizon: int) -> int:
    """Days that certainly hold so many steps: markets trade four hours or more, and five days of seven or fewer."""
    sessions = horizon if step >= SHORTEST_DAY else -(-horizon * step // (4 * 3600 * SECOND))
    return 2 * sessions + 30
