"""Stamps of a forecast: those after the last row of each series of a frame or corpus.

They follow from the common frequency of regular series, else from inferred trading hours or an exchange calendar.

# N items, T rows of all items, H horizon
"""

from __future__ import annotations

import itertools
import logging
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from foretrain.errors import ConfigError, DataError
from foretrain.notes import Code, Note, warn
from foretrain.timeaxis.exchange import Exchange
from foretrain.timeaxis.frequency import DAY, SECOND, WEEK, Frequency, IntArray, to_offset
from foretrain.timeaxis.grid import grid_numbers, grid_stamps, kept_day, stamps_after, weekday
from foretrain.timeaxis.inference import infer, mode
from foretrain.timeaxis.trading_week import TradingWeek, continue_bars, missing_bars, trading_week

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)

MAX_STEP_RATIO = 1.5  # ratio of steps above which frequencies differ; months and weeks with a holiday vary less
_HOUR = 3600 * SECOND
LONGEST_PLAIN_STEP = np.timedelta64(28, "D")  # steps of 28 to 31 days may be months
READ_TABLE = "foretrain.read_table(FILE) reads a file as `foretrain data import` does."


def shown(value: Any) -> str:
    """Return an item id for a message, as the user typed it: 7, not np.int64(7)."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def infer_step(steps: IntArray, starts: IntArray, ids: Any) -> int:
    """Return the distance between rows of an integer time column, 1 if no item has two. DataError if it varies."""
    gaps, rows = _gaps(steps, starts)
    if not len(gaps):
        return 1
    off = np.flatnonzero(gaps != gaps[0])
    if len(off):
        item = ids[np.searchsorted(starts, rows[off[0]], side="right") - 1]
        raise DataError(
            f"item {shown(item)}: steps {gaps[0]} and {gaps[off[0]]} apart in an integer time column; fill the gaps "
            f"with rows of missing values. {READ_TABLE}"
        )
    return int(gaps[0])


@dataclass(frozen=True)
class Continuation:
    """The stamps or step numbers (N * H,) after the last row of each item.

    guessed: they come from trading hours, which cannot know a holiday. grids: for items whose rows have holes, the
    frequency on whose grid the rows must be put; by the item's index.
    """

    times: Any
    guessed: bool = False
    grids: dict[int, str] = field(default_factory=dict)


def next_stamps(
    stamps: pd.DatetimeIndex,
    starts: IntArray,
    ids: Any,
    horizon: int,
    freq: str | None = None,
    calendar: str | None = None,
) -> pd.DatetimeIndex:
    """Return (N * H) stamps after each item's last one; stamps are grouped by item and ascend, starts are first rows.

    They follow the exchange calendar or the pandas alias if one is given, else the frequency that all items share, else
    for each item its frequency or the trading week of its newest bars. Raises DataError naming an item that has
    neither, ConfigError if both calendar and freq are given.
    """
    return _next_stamps(stamps, starts, ids, horizon, freq, calendar).times


def continued(
    times: pd.DatetimeIndex | IntArray, starts: IntArray, ids: Any, horizon: int, freq: str | None, calendar: str | None
) -> Continuation:
    """Return the time stamps, as next_stamps, or step numbers after each item's last row.

    Raises DataError for a freq or calendar of steps.
    """
    if not isinstance(times, np.ndarray):
        return _next_stamps(times, starts, ids, horizon, freq, calendar)
    for name, given in (("freq", freq), ("calendar", calendar)):
        if given is not None:
            raise DataError(
                f"{name}={given!r} cannot be used: the time column counts steps (integers), not time stamps."
            )
    ends = np.append(starts[1:], len(times)) - 1
    step = infer_step(times, starts, ids)
    return Continuation((times[ends][:, None] + step * np.arange(1, horizon + 1)).ravel())


def _next_stamps(
    stamps: pd.DatetimeIndex, starts: IntArray, ids: Any, horizon: int, freq: Any, calendar: str | None
) -> Continuation:
    if calendar is not None:
        if freq is not None:
            raise ConfigError("calendar= and freq= both set the stamps of the forecast; give one of them.")
        return Continuation(Exchange(calendar).following(stamps, starts, ids, horizon))
    ends = np.append(starts[1:], len(stamps)) - 1
    if freq is not None:
        if isinstance(freq, str) and not has_edge(freq):
            return Continuation(_on_own_edge(stamps, starts, horizon, freq))
        # a pandas offset is used unchanged: it may have holidays that an alias cannot express
        offset = Frequency.parse(freq).offset if isinstance(freq, str) else to_offset(freq)
        _compare_steps(stamps, starts, following(stamps[ends[:1]], offset, 20), freq)
        return Continuation(following(stamps[ends], offset, horizon))
    offset = shared_offset(stamps, starts)
    if offset is not None:
        return Continuation(following(stamps[ends], offset, horizon))
    return _each_its_own(stamps, starts, ids, horizon)


def checked(freq: Any) -> Any:
    """Return an alias as it is, and a pandas offset or timedelta as an offset. Raises DataError for anything else."""
    if freq is None or isinstance(freq, str):
        return freq
    try:
        return to_offset(freq)
    except (ValueError, TypeError):
        raise DataError(f"freq={freq!r} is neither a pandas alias, such as 'h', nor a pandas offset.") from None


def has_edge(freq: str) -> bool:
    """Return False for spellings ("M", "Q", "A") that do not say on which day of a period a stamp lies."""
    return Frequency.parse(freq, edge="S") == Frequency.parse(freq, edge="E")


def _on_own_edge(stamps: pd.DatetimeIndex, starts: IntArray, horizon: int, freq: str) -> pd.DatetimeIndex:
    """Return (N * H) stamps of months, quarters or years on the day of the period that each item keeps."""
    walls = stamps.tz_localize(None).as_unit("us").asi8
    coming = []
    for first, last in itertools.pairwise([*starts.tolist(), len(walls)]):
        own = walls[first:last]
        number = grid_numbers(own, freq, "the history")[-1]
        coming.append(grid_stamps(own, freq, number + np.arange(1, horizon + 1)))
    return from_walls(np.concatenate(coming), stamps)


def _compare_steps(stamps: pd.DatetimeIndex, starts: IntArray, coming: pd.DatetimeIndex, freq: str) -> None:
    """Warn if the given frequency differs from that of the rows."""
    before = _gaps(stamps.as_unit("us").asi8, starts)[0]
    after = np.diff(coming.as_unit("us").asi8)
    if not len(before):
        return
    rows, steps = float(np.median(before)), float(np.median(after))
    if not 1 / MAX_STEP_RATIO < steps / rows < MAX_STEP_RATIO:
        text = f"freq={freq!r} has steps of {_span(int(steps))}, but the rows are mostly {_span(int(rows))} apart."
        warn(_log, Note(Code.FREQ_UNLIKE_ROWS, text))


def shared_offset(stamps: pd.DatetimeIndex, starts: IntArray) -> Any:
    """Return the pandas offset that all series share, None if they are irregular or differ.

    Series of 1 or 2 rows need not agree. Raises DataError if no series has 3 rows.
    """
    if np.diff(np.append(starts, len(stamps))).max() < 3:
        raise DataError(f"no item has 3 rows, so the frequency cannot be inferred. {_way_out(None)} {READ_TABLE}")
    if stamps.tz is not None:
        offset = _shared(stamps.tz_convert(None), starts)
        if offset is not None:
            return offset
        stamps = stamps.tz_localize(None)  # with summer time, midnights are 24 h apart only in local time
    return _shared(stamps, starts)


def _shared(stamps: pd.DatetimeIndex, starts: IntArray) -> Any:
    import pandas as pd

    lengths = np.diff(np.append(starts, len(stamps)))
    ticks = stamps.to_numpy()  # in their own unit: years before 1677 and after 2262 have no nanoseconds
    gaps, rows = _gaps(ticks, starts)
    if gaps[0] < LONGEST_PLAIN_STEP and (gaps == gaps[0]).all():
        return _plain(gaps[0])
    longest = int(np.argmax(lengths))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas 3.1 announces that it will return an offset; both work here
        own = stamps[starts[longest] : starts[longest] + lengths[longest]]
        freq = pd.infer_freq(own)
    offset = None if freq is None else to_offset(freq)
    # each 15th of July, August and September is 31 days apart, too
    if freq is None or str(getattr(freq, "freqstr", freq)).endswith("D"):
        offset = _month_day(own) or offset
    if offset is None:
        return None
    unique, place = np.unique(ticks, return_inverse=True)
    expected = add(pd.DatetimeIndex(unique), offset).to_numpy()[place]
    long = np.repeat(lengths >= 3, lengths)[rows]
    return None if ((expected[rows] != ticks[rows + 1]) & long).any() else offset


@dataclass(frozen=True)
class MonthDay:
    """A step of whole months that keeps a day of the month, limited to the month's length: each 15th, each 30th."""

    months: int
    day: int

    def add(self, stamps: pd.DatetimeIndex, count: int) -> pd.DatetimeIndex:
        """Return naive stamps `count` steps later, with their time of day."""
        import pandas as pd

        values = stamps.to_numpy()
        date = values.astype("datetime64[D]")
        start = (date.astype("datetime64[M]") + count * self.months).astype("datetime64[D]")
        last = (start.astype("datetime64[M]") + 1).astype("datetime64[D]") - 1
        return pd.DatetimeIndex(np.minimum(start + (self.day - 1), last) + (values - date))

    def following(self, last: IntArray, count: int) -> IntArray:
        """Return (count,) microseconds of the steps after the one stamp in `last`."""
        import pandas as pd

        stamp = pd.DatetimeIndex(last.astype("M8[us]"))
        coming = [self.add(stamp, k).to_numpy() for k in range(1, count + 1)]
        return np.concatenate([np.zeros(0, "M8[us]"), *coming]).astype("M8[us]").astype(np.int64)


def kept_month_day(last: IntArray) -> MonthDay | None:
    """Return the step of ascending stamps in microseconds that keep a day of the month, neither first nor last."""
    import pandas as pd

    kept = kept_day(last.astype("M8[us]").astype("M8[D]"))
    return None if kept is None else _month_day(pd.DatetimeIndex(last.astype("M8[us]")))


def _month_day(stamps: pd.DatetimeIndex) -> MonthDay | None:
    """Return the step of naive stamps that keep a day of the month and are equally many months apart, else None."""
    date = stamps.to_numpy().astype("datetime64[D]")
    month = date.astype("datetime64[M]")
    steps = np.diff(month.astype(np.int64))
    if not len(steps) or steps[0] < 1 or (steps != steps[0]).any():
        return None
    found = MonthDay(int(steps[0]), int((date - month.astype("datetime64[D]")).astype(np.int64).max()) + 1)
    return found if (found.add(stamps[:-1], 1) == stamps[1:]).all() else None


def _each_its_own(stamps: pd.DatetimeIndex, starts: IntArray, ids: Any, horizon: int) -> Continuation:
    """Return (N * H) stamps, each item by its own frequency or trading week, short items by that of the longest."""
    bounds = list(itertools.pairwise([*starts.tolist(), len(stamps)]))
    clock = _Clock.of(stamps, starts)
    longest = slice(*max(bounds, key=lambda bound: bound[1] - bound[0]))
    lead = trading_week(clock.walls[longest]) or shared_offset(stamps[longest], starts[:1])
    known: dict[bytes, tuple[pd.DatetimeIndex, str | None, int]] = {}  # many items share their stamps
    items_with_gaps: list[tuple[Any, int]] = []
    grids: dict[int, str] = {}
    results = []
    for number, (item, bound) in enumerate(zip(ids, bounds, strict=True)):
        own, walls = stamps[slice(*bound)], clock.walls[slice(*bound)]
        key = walls.tobytes()
        if key not in known:
            known[key] = _continue_item(own, walls, clock, lead, item, horizon)
        following_rows, grid, missing = known[key]
        results.append(following_rows)
        if grid is not None:
            grids[number] = grid
            items_with_gaps.append((item, missing))
    if items_with_gaps:
        counts = {"items": len(items_with_gaps), "bars": sum(count for _, count in items_with_gaps)}
        text = (
            f"{counts['items']:,} item(s), first {shown(items_with_gaps[0][0])}, lack {counts['bars']:,} bars of a "
            "market that never closes; rows of missing values stand for them."
        )
        warn(_log, Note(Code.BARS_MISSING, text, counts))
    return Continuation(results[0].append(results[1:]) if len(results) > 1 else results[0], True, grids)


def _continue_item(
    stamps: pd.DatetimeIndex, walls: IntArray, clock: _Clock, lead: Any, item: Any, horizon: int
) -> tuple[pd.DatetimeIndex, str | None, int]:
    """Return (H,) stamps after one item's last one; if bars are missing, the frequency of the bars and their number."""
    few, last = len(walls) < 3, int(walls[-1])
    if isinstance(lead, TradingWeek) and walls[-1] - walls[0] < WEEK and (few or lead.share_followed(walls) == 1):
        return clock.stamps(lead.after(last, horizon)), None, 0  # a history under a week does not show the item's week
    offset = lead if few else shared_offset(stamps, np.zeros(1, np.int64))
    if offset is not None:
        return following(stamps[-1:], offset, horizon), None, 0
    week = trading_week(walls)
    if week is not None:
        return clock.stamps(week.after(last, horizon)), None, 0
    freq = infer(walls).freq
    step = Frequency.parse(freq).micros if freq else None
    missing = missing_bars(walls, step) if step else None
    if step and missing:
        return following(stamps[-1:], _plain(np.timedelta64(step, "us")), horizon), freq, missing
    steps = np.diff(walls)
    raise DataError(
        f"item {shown(item)}: rows are {_span(steps.min())} to {_span(steps.max())} apart, which is neither a regular "
        "frequency nor the hours of a market that its newest rows repeat. "
        f"{_zone_hint(walls, aware=clock.zone is not None)}{_way_out(_grid_alias(walls, freq))} {READ_TABLE}"
    )


def _zone_hint(walls: IntArray, *, aware: bool) -> str:
    """Return words for rows that only a clock change sets an hour nearer or farther apart, "" for others."""
    steps = np.diff(walls)
    usual = mode(steps)[0]
    odd = np.flatnonzero(steps != usual)
    if (np.abs(steps[odd] - usual) != _HOUR).any():
        return ""
    if aware and usual % DAY == 0:
        return (
            "The stamps seem to keep a local time through clock changes: put them into its zone with "
            "Series.dt.tz_convert(ZONE). "
        )
    early = (weekday(walls[odd] // DAY) == 6) & (walls[odd] % DAY < 4 * _HOUR)
    if aware or not early.all():
        return ""
    return (
        "A clock change seems to leave an hour out: give the stamps their zone with Series.dt.tz_localize(ZONE), or "
        "read the file with foretrain.read_table(FILE, timezone=ZONE). "
    )


def _grid_alias(walls: IntArray, freq: str | None) -> str | None:
    """Return the alias on whose grid rows with holes are, from the frequency inferred from them; None without one."""
    if freq is None:
        return None
    found = Frequency.parse(freq)
    alias = found.alias if found.months is None else f"{found.multiple if found.multiple > 1 else ''}{found.base[0]}"
    try:
        grid_numbers(walls, alias, "the rows")
    except DataError:
        return None
    return alias


def _way_out(freq: str | None) -> str:
    given = "freq=, for example freq='B'," if freq is None else f"freq={freq!r},"
    return (
        f"Give {given} which puts the rows on that grid with rows of missing values between (--freq), or the exchange, "
        "for example calendar='XNYS' (--calendar)."
    )


_NANOS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}  # of a unit of stamps


@dataclass(frozen=True)
class _Clock:
    """Stamps in microseconds by the clock on which trading hours are inferred."""

    walls: IntArray  # (T,)
    zone: Any  # time zone of the clock, None for stamps without a zone
    template: pd.DatetimeIndex  # empty; has the zone and unit of the stamps to return

    @classmethod
    def of(cls, stamps: pd.DatetimeIndex, starts: IntArray) -> _Clock:
        """Use local time of the stamps' zone, or UTC if local time goes back within a series."""
        if stamps.tz is None:
            return cls(stamps.as_unit("us").asi8, None, stamps[:0])
        walls = stamps.tz_localize(None).as_unit("us").asi8
        if (_gaps(walls, starts)[0] > 0).all():
            return cls(walls, stamps.tz, stamps[:0])
        return cls(stamps.as_unit("us").asi8, "UTC", stamps[:0])

    def stamps(self, walls: IntArray) -> pd.DatetimeIndex:
        """Return the stamps at the given microseconds of this clock."""
        return from_walls(walls, self.template, self.zone)


def from_walls(walls: IntArray, template: pd.DatetimeIndex, zone: Any = None) -> pd.DatetimeIndex:
    """Return naive microseconds of a zone (None = the template's) as stamps with the zone and unit of the template."""
    import pandas as pd

    plain = pd.DatetimeIndex(walls.view("datetime64[us]"))
    if template.unit != "ns" or np.abs(walls).max(initial=0) < 2**63 // 1000:
        plain = plain.as_unit(template.unit)
    if template.tz is None:
        return plain
    return _in_zone(plain, zone or template.tz).tz_convert(template.tz)


def _span(micros: int) -> str:
    """Format a duration: "00:05:00", "1 day", "2 days 23:42:09"."""
    import pandas as pd

    text = str(pd.Timedelta(np.timedelta64(int(micros), "us"))).removesuffix(" 00:00:00").removeprefix("0 days ")
    return "1 day" + text[6:] if text.startswith("1 days") else text


def add(stamps: pd.DatetimeIndex, offset: Any, count: int = 1) -> pd.DatetimeIndex:
    """Add count offsets to stamps: days and longer ones in local time of their zone, shorter ones in absolute time."""
    import pandas as pd

    zone = stamps.tz
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=pd.errors.PerformanceWarning)  # some offsets are not vectorised
        if isinstance(offset, MonthDay):
            moved = offset.add(stamps.tz_localize(None), count)
            return moved if zone is None else _in_zone(moved, zone)
        if zone is None:
            return pd.DatetimeIndex(stamps + count * offset)
        if isinstance(offset, pd.offsets.Tick) and not isinstance(offset, pd.offsets.Day):
            return pd.DatetimeIndex((stamps.tz_convert("UTC") + count * offset).tz_convert(zone))
        return _in_zone(pd.DatetimeIndex(stamps.tz_localize(None) + count * offset), zone)


def _in_zone(walls: pd.DatetimeIndex, zone: Any) -> pd.DatetimeIndex:
    return walls.tz_localize(zone, nonexistent="shift_forward", ambiguous=np.zeros(len(walls), bool))


def following(last: pd.DatetimeIndex, offset: Any, horizon: int) -> pd.DatetimeIndex:
    """Return (N * H) stamps after the last stamp of each item, grouped by item."""
    import pandas as pd

    unique, place = np.unique(last.asi8, return_inverse=True)
    base = pd.DatetimeIndex(unique.view(f"datetime64[{last.unit}]"))
    if last.tz is not None:
        base = base.tz_localize("UTC").tz_convert(last.tz)
    try:
        coming = _in_one_step(base, offset, horizon)
        if coming is None:
            steps = [add(base, offset, k) for k in range(1, horizon + 1)]
            table, unit = np.stack([step.asi8 for step in steps], axis=1), steps[0].unit
        else:
            table, unit = coming.asi8.reshape(len(base), horizon), coming.unit
    except (ValueError, OverflowError):  # beyond the years that nanoseconds hold
        if last.unit != "ns":
            raise
        return following(last.as_unit("us"), offset, horizon)
    ticks = table[place].ravel()  # many items end on the same day
    result = pd.DatetimeIndex(ticks.view(f"datetime64[{unit}]"))
    return result if last.tz is None else result.tz_localize("UTC").tz_convert(last.tz)


def _in_one_step(base: pd.DatetimeIndex, offset: Any, horizon: int) -> pd.DatetimeIndex | None:
    """Return what `add` makes of 1 .. horizon offsets, grouped by stamp: of steps of one length, weeks and business
    days. None for other offsets."""
    import pandas as pd

    if type(offset) is pd.offsets.BusinessDay and not getattr(offset, "offset", None):
        return _business_days(base, offset.n * np.arange(1, horizon + 1))
    counts = np.arange(1, horizon + 1)
    if isinstance(offset, pd.offsets.Week):
        if offset.weekday is not None:  # the first step may be shorter
            base, counts = add(base, offset), counts - 1
        offset = pd.offsets.Day(7 * offset.n)
    days = isinstance(offset, pd.offsets.Day)
    if not days and not isinstance(offset, pd.offsets.Tick):
        return None
    nanos = int((pd.Timedelta(days=offset.n) if days else pd.Timedelta(offset)).value)
    ticks, finer = divmod(nanos, _NANOS[base.unit])
    if finer:  # than the stamps
        return None
    if abs(ticks) * horizon >= 2**62:
        return None
    spans = pd.TimedeltaIndex(np.tile(counts * ticks, len(base)).view(f"timedelta64[{base.unit}]"))
    zone, stamps = base.tz, base.repeat(horizon)
    if zone is None:
        return pd.DatetimeIndex(stamps + spans)
    if not days:
        return pd.DatetimeIndex((stamps.tz_convert("UTC") + spans).tz_convert(zone))
    return _in_zone(pd.DatetimeIndex(stamps.tz_localize(None) + spans), zone)


def _business_days(base: pd.DatetimeIndex, counts: IntArray) -> pd.DatetimeIndex:
    """Return the stamps these numbers of business days later, grouped by stamp, at the same time of day.

    Raises OverflowError beyond the years that the stamps' unit holds.
    """
    import pandas as pd

    walls = base if base.tz is None else base.tz_localize(None)
    days = walls.values.astype("M8[D]")
    moved = np.busday_offset(days[:, None], counts, roll="backward")
    if walls.unit == "ns" and np.abs(moved.astype(np.int64)).max(initial=0) > 2**63 // (86400 * 10**9) - 1:
        raise OverflowError("beyond the years that nanoseconds hold")
    clock = walls.values - days.astype(walls.values.dtype)
    stamps = pd.DatetimeIndex((moved.astype(walls.values.dtype) + clock[:, None]).ravel())
    return stamps if base.tz is None else _in_zone(stamps, base.tz)


def _gaps(values: Any, starts: IntArray) -> tuple[Any, IntArray]:
    """Return the differences to the next row of the same item, and the rows from which they start."""
    inside = np.ones(len(values), bool)
    inside[starts[1:] - 1] = False
    inside[-1:] = False
    rows = np.flatnonzero(inside)
    return values[rows + 1] - values[rows], rows


def _plain(gap: np.timedelta64) -> Any:
    """Return a constant step as an offset: whole days are added in local time, other steps in absolute time."""
    import pandas as pd

    days = gap / np.timedelta64(1, "D")
    return pd.offsets.Day(int(days)) if days == int(days) else to_offset(pd.Timedelta(gap))  # type: ignore[arg-type]


def continue_stamps(last: IntArray, freq: str | Frequency | None, count: int) -> IntArray:
    """Return (count,) stamps after the newest of `last`.

    They follow the trading week of `last` if it has closed hours or days, else the nominal freq (months stay on the day
    that `last` keeps), else the median of the last 100 steps. Raises DataError for a single stamp without a freq.
    """
    if (bars := continue_bars(last, count)) is not None:
        return bars
    if freq is not None:
        kept = kept_month_day(last) if Frequency.of(freq).months is not None else None
        if kept is not None:
            return kept.following(last[-1:], count)
        return stamps_after(int(last[-1]), freq, count)
    if len(last) < 2:
        raise DataError("a series with a single stamp and no freq has no spacing to continue; name a freq.")
    return last[-1] + np.arange(1, count + 1, dtype=np.int64) * int(np.median(np.diff(last[-101:])))
