"""Frequencies of time axes: names, calendar arithmetic, inference from stamps, trading weeks and gaps.

Stamps are int64 microseconds since 1970 (UTC, or naive local time taken at face value). A frequency is named by its
pandas >= 2.2 alias ("h", "15min", "D", "B", "W-SUN", "MS", "QE", "YS-JUL"); pandas itself is not imported.

# N stamps of one item, K steps generated
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foretrain.errors import DataError

IntArray = npt.NDArray[np.int64]

SECOND = 1_000_000
DAY = 86_400 * SECOND
WEEK = 7 * DAY

_FIXED = {"W": WEEK, "D": DAY, "h": 3600 * SECOND, "min": 60 * SECOND, "s": SECOND, "ms": 1000, "us": 1}
_MONTHS = {"MS": 1, "ME": 1, "QS": 3, "QE": 3, "YS": 12, "YE": 12}
_MONTH_NAMES = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAY_NAMES = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
# spellings of older pandas; a period's "M" carries no anchor, and month starts are what most files hold
_OLD = {"H": "h", "T": "min", "S": "s", "L": "ms", "U": "us", "M": "MS", "Q": "QS", "A": "YS", "Y": "YS", "AS": "YS"}
_OLD |= {"d": "D", "w": "W", "b": "B"}
# steps in the next longer cycle, as gluonts.time_feature.get_seasonality counts them
_SEASONS = {"s": 3600, "min": 1440, "h": 24, "D": 1, "W": 1, "B": 5}
_CLOSURE_LIMIT = 10 * DAY  # the longest exchange closures (new year, national holidays) stay below
_OPEN_SHARE = 0.5  # a slot of the week is open when at least this share of its active days has a bar there
_WEAK_ROWS = 10  # an item with fewer rows follows the other items' frequency


@dataclass(frozen=True)
class Freq:
    """A parsed alias: multiple x base, with the anchor of weeks (weekday), quarters and years (month)."""

    multiple: int
    base: str
    anchor: str | None = None

    @classmethod
    def parse(cls, text: str) -> Freq:
        """The parts of an alias, old pandas spellings ("H", "T", "M", "A-DEC") included. DataError when it is none."""
        found = re.fullmatch(r"\s*(\d*)\s*([A-Za-z]+)(?:-([A-Za-z]{3}))?\s*", text)
        if found:
            multiple = int(found[1] or 1)
            base = _OLD.get(found[2], found[2])
            anchor = found[3].upper() if found[3] else None
            names = _DAY_NAMES if base == "W" else _MONTH_NAMES if base[0] in "QY" else ()
            known = base in _FIXED or base in _MONTHS or base == "B"
            if known and multiple > 0 and (anchor is None or anchor in names):
                return cls(multiple, base, anchor)
        raise DataError(
            f"frequency {text!r} is not known; use a pandas alias such as h, 15min, D, B, W-SUN, MS, QS or YS."
        )

    @property
    def alias(self) -> str:
        """pandas >= 2.2 spelling."""
        head = "" if self.multiple == 1 else str(self.multiple)
        return head + self.base + (f"-{self.anchor}" if self.anchor else "")

    @property
    def months(self) -> int | None:
        """Months in a step, None when the step is not made of months."""
        return self.multiple * _MONTHS[self.base] if self.base in _MONTHS else None

    @property
    def step(self) -> int | None:
        """Microseconds in a step, None for months and business days."""
        return self.multiple * _FIXED[self.base] if self.base in _FIXED else None


def seasonality(freq: str | None, bars_per_session: int | None = None) -> int | None:
    """Steps of the main cycle: a session's bars where there are sessions, else gluonts' get_seasonality(freq)."""
    if bars_per_session:
        return bars_per_session
    if freq is None:
        return None
    parsed = Freq.parse(freq)
    season = 12 // _MONTHS[parsed.base] if parsed.base in _MONTHS else _SEASONS.get(parsed.base, 1)
    return season // parsed.multiple if season % parsed.multiple == 0 else 1


# Calendar arithmetic


def ordinals(times: IntArray, freq: str) -> tuple[IntArray, bool]:
    """(N,) step number of each ascending stamp counted from the first, and whether all of them lie on the grid."""
    parsed = Freq.parse(freq)
    if not len(times):
        return np.zeros(0, np.int64), True
    if parsed.step:
        offset = times - times[0]
        exact = not (offset % parsed.step).any() and bool(_on_grid(times[:1], parsed)[0])
        return offset // parsed.step, exact
    days = times // DAY
    exact = bool((times - days * DAY == times[0] - days[0] * DAY).all() and _on_grid(times, parsed).all())
    if parsed.base == "B":
        number = np.busday_count(days[0].astype("datetime64[D]"), days.astype("datetime64[D]")).astype(np.int64)
    else:
        month = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
        number = month - month[0]
    unit = parsed.months or parsed.multiple
    return number // unit, exact and not (number % unit).any()


def _on_grid(times: IntArray, freq: Freq) -> npt.NDArray[np.bool_]:
    """(N,) whether each stamp is one the alias can produce: its weekday, day of the month, or anchor month."""
    days = times // DAY
    if freq.base == "W" and freq.anchor:
        return weekday(days) == _DAY_NAMES.index(freq.anchor)
    if freq.base == "B":
        return weekday(days) < 5
    if freq.base not in _MONTHS:
        return np.ones(len(times), bool)
    date = days.astype("datetime64[D]")
    month = date.astype("datetime64[M]")
    edge = month.astype("datetime64[D]") if freq.base.endswith("S") else (month + 1).astype("datetime64[D]") - 1
    good = np.asarray(date == edge)
    cycle = _MONTHS[freq.base]
    if cycle > 1:
        default = "JAN" if freq.base.endswith("S") else "DEC"
        good &= (month.astype(np.int64) - _MONTH_NAMES.index(freq.anchor or default)) % cycle == 0
    return good


def weekday(days: IntArray) -> IntArray:
    """Weekday of day numbers since 1970, Monday = 0."""
    return (days + 3) % 7


def iso(time: int) -> str:
    """A stamp as text: the date alone at midnight, else date and time without trailing zeros."""
    text = str(np.datetime64(int(time), "us"))
    return text.removesuffix(".000000").removesuffix("T00:00:00").replace("T", " ")


# Inference


@dataclass(frozen=True)
class Pattern:
    """What an item's stamps look like. weak: too few rows to contradict the other items."""

    freq: str | None
    weak: bool = False


def infer(times: IntArray) -> Pattern:
    """Frequency of (N,) strictly ascending stamps, by the most frequent step; None when the steps are irregular."""
    weak = len(times) < _WEAK_ROWS
    if len(times) < 3:
        return Pattern(None, weak=True)
    if not ((times - times[0]) % DAY).any():
        return Pattern(_infer_days(times // DAY), weak)
    step, share = _mode(np.diff(times))
    if share < 0.2 or ((np.diff(times) % step) != 0).mean() > 0.1:
        return Pattern(None, weak)
    return Pattern(fixed_alias(step), weak)


def _infer_days(days: IntArray) -> str | None:
    """Alias of stamps that share one time of day."""
    steps = np.diff(days)
    step, share = _mode(steps)
    date = days.astype("datetime64[D]")
    month = date.astype("datetime64[M]")
    first = (month.astype("datetime64[D]") == date).mean()
    last = ((month + 1).astype("datetime64[D]") - 1 == date).mean()
    day_of_month = (date - month.astype("datetime64[D]")).astype(np.int64)
    if step >= 28 and (max(first, last) > 0.9 or (day_of_month == day_of_month[0]).mean() > 0.9):
        return _month_alias(month.astype(np.int64), "S" if first >= last else "E")
    if share < 0.2 or (steps % step != 0).mean() > (0.5 if step == 1 else 0.1):
        return None
    if step % 7 == 0 and (weekday(days) == weekday(days)[0]).mean() > 0.9:
        return Freq(int(step) // 7, "W", _DAY_NAMES[int(np.bincount(weekday(days)).argmax())]).alias
    if step == 1 and days[-1] - days[0] >= 6 and (weekday(days) >= 5).mean() < 0.01:
        return "B"
    return fixed_alias(int(step) * DAY)


def _month_alias(months: IntArray, edge: str) -> str:
    """Alias of stamps at month starts (edge S) or ends (E), given month numbers since 1970."""
    unit, _ = _mode(np.diff(months))
    anchor = int(np.bincount(months % 12).argmax())
    if unit % 12 == 0:
        default = anchor == (0 if edge == "S" else 11)
        return Freq(unit // 12, f"Y{edge}", None if default else _MONTH_NAMES[anchor]).alias
    if unit == 3:
        phase = anchor % 3  # quarters that start in January/April/... or end in March/June/... need no anchor
        default = phase == (0 if edge == "S" else 2)
        return Freq(1, f"Q{edge}", None if default else _MONTH_NAMES[phase]).alias
    return Freq(unit, f"M{edge}").alias


def fixed_alias(step: int) -> str:
    """Alias of a step in microseconds: the longest unit that divides it, weeks written in days."""
    for base in ("D", "h", "min", "s", "ms", "us"):
        if step % _FIXED[base] == 0:
            return Freq(step // _FIXED[base], base).alias
    raise AssertionError(step)


def agree(patterns: Iterable[Pattern]) -> tuple[str | None, dict[str, int]]:
    """One frequency for a corpus, None when items differ, and how many items have each.

    Weak items follow. Daily items make "D" of "B" beside them; months, quarters and years with different anchors
    become multiples of "MS" or "ME", which fit any anchor.
    """
    patterns = list(patterns)
    strong = Counter(p.freq or "irregular" for p in patterns if not p.weak)
    if not strong:
        strong = Counter(p.freq for p in patterns if p.freq)
    counts = dict(strong.most_common())
    names = set(counts)
    if len(names) == 1:
        name = names.pop()
        return (None if name == "irregular" else name), counts
    if names == {"B", "D"}:
        return "D", counts
    if "irregular" not in names and names:
        parsed = [Freq.parse(name) for name in names]
        if len({(f.months, f.base[-1]) for f in parsed}) == 1 and parsed[0].months:
            return Freq(parsed[0].months, f"M{parsed[0].base[-1]}").alias, counts
    return None, counts


def _mode(values: IntArray) -> tuple[int, float]:
    """Most frequent value (the smallest of equals) and its share."""
    found, counts = np.unique(values, return_counts=True)
    best = int(counts.argmax())
    return int(found[best]), float(counts[best] / len(values))


# Trading weeks: what is closed is no gap


@dataclass(frozen=True)
class Week:
    """Which slots of the week an item trades in; slot 0 starts on Thursday 00:00, as day 0 of 1970 did."""

    step: int  # microseconds of a slot
    open: npt.NDArray[np.bool_]  # (slots,)
    before: IntArray  # (slots + 1,) open slots before each slot

    @classmethod
    def of(cls, times: IntArray, freq: str) -> Week | None:
        """The weekly pattern of ascending stamps; None where a week holds no whole number of steps or too many."""
        step = Freq.parse("D" if freq == "B" else freq).step
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


def find_gaps(times: IntArray, freq: str, votes: DayVotes | None = None) -> tuple[IntArray, IntArray]:
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
    found, share = _mode(counts.astype(np.int64))
    return found, share, int(np.median(counts))
