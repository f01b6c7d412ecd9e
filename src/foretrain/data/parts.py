"""The parts of every series, for training, validation and test: cut by steps from its own end, or by dates.

# N series, T steps of a series

By steps, training has [0, T - v - t), validation the next v steps and test the newest t: items that end at different
times are cut on different days. By dates, all items are cut on the same days: training has the steps before the first
cut, less the embargo; validation those from validation_from to test_from, less the embargo; test those from test_from
on. A step lies where its stamp does. Dates are absolute, so rows that are added later move no cut. In the place of a
date, "library" means that of each series, which a library of symbols stores with its corpora (cuts.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from foretrain.data.chunks import Chunk
from foretrain.data.cuts import describe, read_cuts, times_of
from foretrain.data.store import Corpus
from foretrain.data.windows import IntArray
from foretrain.errors import ConfigError, DataError
from foretrain.notes import counted
from foretrain.timeaxis import grid
from foretrain.timeaxis.frequency import DAY, Frequency

PartName = Literal["validation", "test"]
LIBRARY = "library"  # in the place of a date: the corpus has one for each series
_TIME = r"(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?\s*(Z|[+-]\d\d(?::?\d\d)?)?"
_DATE = re.compile(rf"(\d{{4}})-(\d\d)-(\d\d)(?:[T ]{_TIME})?", re.ASCII)
_LONGEST_EMBARGO = 36_525 * DAY  # a hundred years


class Region(NamedTuple):
    """Steps begin..end-1 of each series, (N,) each: where the futures of windows may lie. words: that, for messages."""

    begin: IntArray
    end: IntArray
    words: str

    def room(self, min_context: int) -> IntArray:
        """Return (N,) steps for futures whose windows have min_context rows, at least one, before their cutoff."""
        return np.maximum(self.end - np.maximum(self.begin, max(1, min_context)), 0)

    def only(self, among: npt.NDArray[np.bool_] | None) -> Region:
        """Return the region without room in series outside an (N,) mask; None = all series."""
        return self if among is None else self._replace(end=np.where(among, self.end, self.begin))

    def most_room(self, min_context: int) -> int:
        """Return the room in the series that has most."""
        return int(self.room(min_context).max(initial=0))


class SeriesParts(NamedTuple):
    """The parts of each series of a corpus."""

    train_end: IntArray  # (N,) steps of the training part, which begins with the series
    validation: Region
    test: Region


class StepCuts(NamedTuple):
    """Parts by steps: the newest `test` steps of each series, and the `validation` steps before them."""

    validation: int
    test: int

    @property
    def has_test(self) -> bool:
        """Whether there is a test part."""
        return self.test > 0

    def reserved(self, corpus: Corpus) -> int:
        """Return the steps at the end of each series that are not trained on."""
        return self.validation + self.test

    def parts(self, corpus: Corpus) -> SeriesParts:
        """Return the parts of each series; those of a series that is too short begin at its first step."""
        lengths = corpus.lengths
        begin, middle = (np.maximum(lengths - steps, 0) for steps in (self.validation + self.test, self.test))
        validation = Region(begin, middle, f"{self.validation:,} steps before the test part")
        return SeriesParts(begin, validation, Region(middle, lengths, f"the newest {self.test:,} steps"))

    def record(self) -> dict[str, Any]:
        """Return the entries of release.json."""
        return {"validation_steps": self.validation, "test_steps": self.test}


@dataclass(frozen=True)
class DateCuts:
    """Parts by dates, of the clock that a corpus stores; texts as date_text and span_text return them.

    Without validation_from there is no validation part, without test_from no test part: the part before is the last.
    """

    validation_from: str | None = None
    test_from: str | None = None
    embargo: str | None = None  # a span of time before each cut that belongs to no part

    def check(self) -> None:
        """Raise ValueError for dates in the wrong order, and for an embargo that leaves no validation part."""
        if self.validation_from is None and self.test_from is None:
            if self.embargo is not None:
                raise ValueError("embargo: has no effect without validation_from or test_from, before which it lies")
            return
        if self.validation_from is None or self.test_from is None:
            if self.by_library:
                raise ValueError("validation_from and test_from: library means both; give it for both")
            return
        if self.by_library:
            if self.validation_from != self.test_from:
                raise ValueError("validation_from and test_from: give library for both, or a date for each")
            return
        if _is_aware(self.validation_from) != _is_aware(self.test_from):
            raise ValueError("validation_from and test_from: give both with a time zone, or both without")
        first, last = date_micros(self.validation_from), date_micros(self.test_from)
        if first >= last:
            raise ValueError(f"validation_from {self.validation_from} is not before test_from {self.test_from}")
        if first >= last - self.span:
            raise ValueError(
                f"embargo {self.embargo} leaves no validation part between {self.validation_from} and {self.test_from}"
            )

    @property
    def by_library(self) -> bool:
        """Whether each series has dates of its own, which its corpus stores."""
        return LIBRARY in (self.validation_from, self.test_from)

    def time(self, part: PartName, corpus: Corpus) -> int | IntArray:
        """Return where a part of a corpus begins, in microseconds of its clock: one time, or (N,) of all series.

        Raises ConfigError for a corpus without times of its own where the library is to say it.
        """
        text = getattr(self, f"{part}_from")
        if text != LIBRARY:
            return date_micros(text)
        cuts = read_cuts(corpus.path, corpus.manifest.cuts)
        if not cuts:
            raise ConfigError(
                f"data.{part}_from: library, and {corpus.name} is no corpus of a library, so its series have no dates "
                "of their own. Make one with `foretrain data market build`, or give dates."
            )
        return times_of(cuts, corpus.item_ids(), corpus.name)[part]

    def train_until_of(self, corpus: Corpus) -> int | IntArray:
        """Return the first time that training may not see: one, or (N,) of all series."""
        if not self.by_library:
            return self.train_until
        return np.minimum(self.time("validation", corpus), self.time("test", corpus)) - self.span

    @property
    def first(self) -> tuple[str, str]:
        """The field that ends the training part, and its date."""
        if self.validation_from is not None:
            return "validation_from", self.validation_from
        assert self.test_from is not None
        return "test_from", self.test_from

    @property
    def span(self) -> int:
        """The embargo in microseconds."""
        return 0 if self.embargo is None else span_micros(self.embargo)

    @property
    def has_test(self) -> bool:
        """Whether there is a test part."""
        return self.test_from is not None

    @property
    def train_until(self) -> int:
        """The first time, in microseconds of the corpus' clock, that training may not see."""
        return date_micros(self.first[1]) - self.span

    @property
    def end_of_training(self) -> str:
        """train_until in words."""
        if self.by_library:
            return "the dates of the library" + ("" if self.embargo is None else f" less {self.embargo}")
        less = "" if self.embargo is None else f" less {self.embargo}"
        return f"{grid.iso(self.train_until)} ({self.first[0]}{less})"

    def check_clock(self, corpus: Corpus) -> None:
        """Raise ConfigError for a corpus that these dates cannot cut."""
        for key in ("validation_from", "test_from"):
            text = getattr(self, key)
            if text is None:
                continue
            if corpus.manifest.time == "steps":
                raise ConfigError(
                    f"data.{key}: {corpus.name} has steps without a calendar, so no date cuts it. Give "
                    f"validation_steps and test_steps instead."
                )
            if text != LIBRARY and _is_aware(text) and corpus.manifest.timezone != "UTC":
                raise ConfigError(
                    f"data.{key}: {text} has a time zone, and {corpus.name} stores local times without one. Give the "
                    "date of that clock, without a zone."
                )

    def reserved(self, corpus: Corpus) -> IntArray:
        """Return (N,) steps at the end of each series that are not trained on."""
        self.check_clock(corpus)
        return corpus.lengths - rows_before(corpus, self.train_until_of(corpus))

    def parts(self, corpus: Corpus) -> SeriesParts:
        """Return the parts of each series. Raises ConfigError as check_clock does."""
        self.check_clock(corpus)
        lengths, train_end = corpus.lengths, rows_before(corpus, self.train_until_of(corpus))
        test, validation = Region(lengths, lengths, "nowhere"), Region(train_end, train_end, "nowhere")
        before_test, until = lengths, ""
        if self.test_from is not None:
            time = self.time("test", corpus)
            test = Region(rows_before(corpus, time), lengths, f"from {_when(time)} on")
            before_test, until = rows_before(corpus, time - self.span), f" to {_when(time - self.span)}"
        if self.validation_from is not None:
            time = self.time("validation", corpus)
            begin = np.minimum(rows_before(corpus, time), before_test)
            validation = Region(begin, before_test, f"from {_when(time)}{until or ' on'}")
        return SeriesParts(train_end, validation, test)

    def record(self) -> dict[str, Any]:
        """Return the entries of release.json."""
        given = {"validation_from": self.validation_from, "test_from": self.test_from, "embargo": self.embargo}
        return {key: text for key, text in given.items() if text is not None}


Cuts = StepCuts | DateCuts


def _when(time: int | IntArray) -> str:
    """Return a time, or the range of those of all series, as text."""
    return grid.iso(time) if isinstance(time, int) else describe(time)


def last_seen(corpus: Corpus, cuts: Cuts) -> str | None:
    """Return the newest time of a corpus, ISO text; where a library cuts, the newest before its last test part."""
    last = corpus.manifest.last_time
    if not isinstance(cuts, DateCuts) or not cuts.by_library or last is None:
        return last
    limit = int(np.max(cuts.time("test", corpus))) - 1
    return str(min(np.datetime64(last, "us"), np.datetime64(limit, "us")))


def cuts_of(record: Mapping[str, Any]) -> DateCuts | None:
    """Return the dates that a record names, None without any. Raises ValueError for what is none."""
    found = DateCuts(
        date_text(record.get("validation_from")), date_text(record.get("test_from")), span_text(record.get("embargo"))
    )
    found.check()
    return None if found == DateCuts() else found


# -- dates and spans ---------------------------------------------------------------------------------------------------


def date_text(value: Any) -> Any:
    """Return a date, or a date and time, in one spelling; one with a time zone in UTC. None stays None.

    Raises ValueError for everything else, years outside 1 to 9999 among it.
    """
    if value is None or value == LIBRARY:
        return value
    if isinstance(value, date):  # of Python callers; a datetime is one too
        value = value.isoformat()
    found = _DATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError("takes a date such as 2024-01-31, a date and time such as 2024-01-31T09:30, or library")
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    micros = int((found[7] or "").ljust(6, "0"))
    try:
        when = datetime(year, month, day, hour, minute, second, micros)
        if found[8] is not None:
            zone = "+00:00" if found[8] == "Z" else found[8]
            when = datetime.fromisoformat(f"{when.isoformat()}{zone}").astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"is no date ({error})") from None
    text = when.isoformat()
    return text.removesuffix("T00:00:00")


def date_micros(text: str) -> int:
    """Return the microseconds since 1970 of what date_text returned, in its own clock."""
    return int(np.datetime64(text.removesuffix("+00:00"), "us").astype(np.int64))


def micros_text(time: int) -> str:
    """Return microseconds since 1970 as date_text writes them, from the year 1 on."""
    return date_text(str(np.datetime64(max(time, date_micros("0001-01-01")), "us")))


def _is_aware(text: str) -> bool:
    return text.endswith("+00:00")


def span_text(value: Any) -> Any:
    """Return a span of time in one spelling, such as 5D or 12h. None stays None. Raises ValueError."""
    if value is None:
        return None
    try:
        micros = Frequency.parse(value).micros if isinstance(value, str) else None
    except DataError:
        micros = None
    if micros is None:
        raise ValueError("takes a span of time with its unit, such as 5D, 12h or 30min")
    if micros > _LONGEST_EMBARGO:
        raise ValueError("is longer than a hundred years")
    alias = grid.fixed_alias(micros)
    return alias if alias[0].isdigit() else f"1{alias}"


def span_micros(text: str) -> int:
    """Return the microseconds of what span_text returned."""
    found = Frequency.parse(text).micros
    assert found is not None
    return found


# -- rows by time ------------------------------------------------------------------------------------------------------


def rows_before(corpus: Corpus, time: int | IntArray) -> IntArray:
    """Return (N,) steps of each series with stamps before a time in microseconds, one or (N,) of them; the corpus has a
    calendar.

    Regular axes are computed from their starts. Of stored stamps, all series are bisected at once on the memory map,
    which reads a few of each. Raises DataError for a foreign folder whose stamps do not ascend.
    """
    assert corpus.manifest.time != "steps", corpus.name
    if corpus.manifest.time == "stamps":
        if corpus.path is not None and not corpus.manifest.shards:  # of another program: nothing has looked at them
            _require_ascending(corpus)
        return _joined([chunk.rows_before(times) for chunk, times in _by_chunk(corpus, time)])
    assert corpus.frequency is not None
    count = _on_grid(corpus.frequency, int(corpus.lengths.max(initial=0)))
    return _joined([count(chunk, times) for chunk, times in _by_chunk(corpus, time)])


def _by_chunk(corpus: Corpus, time: int | IntArray) -> Iterator[tuple[Chunk, IntArray]]:
    """Yield each record batch with the (n,) times of its series."""
    for chunk in corpus.chunks:
        times = time if isinstance(time, int) else time[chunk.first : chunk.first + len(chunk)]
        yield chunk, np.broadcast_to(np.asarray(times, np.int64), len(chunk))


def _joined(parts: list[IntArray]) -> IntArray:
    return np.concatenate(parts, dtype=np.int64)


def _on_grid(frequency: Frequency, longest: int) -> Callable[[Chunk, IntArray], IntArray]:
    """Return the function that counts the rows of each series of a record batch before its time."""

    def fixed(chunk: Chunk, times: IntArray) -> IntArray:
        assert frequency.micros is not None
        return np.clip(-((chunk.starts - times) // frequency.micros), 0, chunk.length)

    def bisected(chunk: Chunk, times: IntArray) -> IntArray:
        low, high = np.zeros(len(chunk), np.int64), chunk.length.astype(np.int64)
        while (low < high).any():
            middle = (low + high) // 2
            before = (grid.stamps(chunk.starts, frequency, middle) < times) & (low < high)
            low, high = np.where(before, middle + 1, low), np.where(before, high, np.minimum(high, middle))
        return low

    def named(chunk: Chunk, times: IntArray) -> IntArray:
        pairs = np.stack([chunk.starts, times])
        pairs, of = np.unique(pairs, axis=1, return_inverse=True)  # most series share a start, and a time
        starts, steps = np.unique(pairs[0]), np.arange(longest)
        stamps = {int(start): grid.stamps(int(start), frequency, steps) for start in starts}
        counts = [int(np.searchsorted(stamps[int(start)], time)) for start, time in pairs.T]
        return np.minimum(np.array(counts, np.int64)[of.reshape(-1)], chunk.length)

    if frequency.micros is not None:
        return fixed
    return named if frequency.kind == "pandas" else bisected


def _require_ascending(corpus: Corpus) -> None:
    for chunk in corpus.chunks:
        row = chunk.first_backward_row()
        if row is not None:
            raise DataError(
                f"{corpus.name}: the stamps of item {corpus.item_id(chunk.first + row)!r} do not ascend, so no date "
                "cuts it. Import the folder with `foretrain data import`, which sorts them."
            )


# -- what the cuts make of a corpus ------------------------------------------------------------------------------------


def clock_of(corpus: Corpus) -> str:
    """Return whose clock the dates of a corpus are."""
    return "UTC" if corpus.manifest.timezone == "UTC" else "the local times that it stores"


def part_counts(
    corpus: Corpus, cuts: DateCuts, min_context: int, horizon: int, among: npt.NDArray[np.bool_] | None = None
) -> dict[str, dict[str, int]]:
    """Return how many series have a window in the validation and the test part, and why the others have none.

    among: (N,) which series are counted; None = all.
    """
    parts, found = cuts.parts(corpus), dict[str, dict[str, int]]()
    for name, region in (("validation", parts.validation), ("test", parts.test)):
        if getattr(cuts, f"{name}_from") is None:
            continue
        ends_before, starts_after = region.begin >= corpus.lengths, region.end <= 0
        fits = region.room(min_context) >= horizon
        rest = ~(fits | ends_before | starts_after)
        counts = {"series": fits, "end_before_it": ends_before, "start_after_it": starts_after, "too_short": rest}
        found[name] = {key: int((mask if among is None else mask & among).sum()) for key, mask in counts.items()}
    return found


def part_lines(
    corpus: Corpus, cuts: DateCuts, min_context: int, horizon: int, among: npt.NDArray[np.bool_] | None = None
) -> list[str]:
    """Return lines on the dates that cut a corpus, for logs and dry runs; among: as of part_counts."""
    parts, total = cuts.parts(corpus), corpus.num_series if among is None else int(among.sum())
    lines = [
        f"{corpus.name}: training ends before {cuts.end_of_training}; a date is 00:00 of {clock_of(corpus)}, a step "
        "lies where its stamp does"
    ]
    for name, counts in part_counts(corpus, cuts, min_context, horizon, among).items():
        region = parts.validation if name == "validation" else parts.test
        reasons = (
            (counts["end_before_it"], "ending before it"),
            (counts["start_after_it"], "starting after it"),
            (counts["too_short"], f"without room for {counted(horizon, 'step')} in it"),
        )
        why = ", ".join(f"{count:,} {reason}" for count, reason in reasons if count)
        of = f"{counts['series']:,} of {total:,} series have a window"
        lines.append(f"{corpus.name}: {name} {region.words}: {of}{why and f'; {why}'}")
    return lines
