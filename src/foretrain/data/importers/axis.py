"""Choose the time axis of a corpus from the cleaned stamps of all items, and place every item on it.

# N items
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from foretrain.data.findings import ItemFindings
from foretrain.data.importers.cleaning import Cleaned
from foretrain.data.importers.job import ImportJob
from foretrain.data.market.review import lost_bars
from foretrain.data.market.traded import with_factors
from foretrain.data.quality import ItemRows, MarketColumns
from foretrain.data.windows import IntArray
from foretrain.errors import DataError
from foretrain.notes import Code, Note, counted
from foretrain.timeaxis.exchange import Exchange
from foretrain.timeaxis.frequency import DAY, Frequency, seasonality
from foretrain.timeaxis.gaps import DayVotes, Week, find_gaps, session_length
from foretrain.timeaxis.grid import are_too_many, grid_numbers, grid_stamps, on_rows, ordinals, stamps, typical_step
from foretrain.timeaxis.inference import Pattern, agree, infer

MAX_STEP_RATIO = 1.5  # ratio of steps above which frequencies differ; months with a holiday vary less
_NONE = np.zeros(0, np.int64)
FILL_LIMIT = 0.2  # largest share of NaN rows that may be added to make an axis regular


@dataclass(frozen=True)
class Axis:
    """How times are stored. fill: gaps become NaN rows; own: frequency of each item if items differ.

    grid: the frequency that the user gave, on whose grid all rows are. step: distance of numbered steps. renumbered:
    steps that are missing and are not filled, so that the rows before them lose their numbers.
    """

    time: Literal["regular", "stamps", "steps"]
    freq: str | None
    fill: bool = False
    seasonality: int | None = None
    bars_per_session: int | None = None
    votes: DayVotes | None = None
    own: dict[str, str | None] | None = None
    counts: dict[str, int] | None = None
    grid: str | None = None
    step: int = 1
    renumbered: int = 0

    def item_freq(self, item_id: str) -> str | None:
        """Return the frequency by which gaps of an item are found."""
        return self.freq if self.own is None else self.own.get(item_id)


@dataclass(frozen=True)
class Placed:
    """An item as it is stored. read: its number of rows before cleaning."""

    rows: ItemRows
    findings: ItemFindings
    read: int
    why: str | None = None  # the rules leave it out


def choose_axis(cleaned: Cleaned, job: ImportJob) -> tuple[Cleaned, Axis]:
    """Return the axis, and the items that go on it: in mode drop, those of the most frequent frequency."""
    clock, freq = cleaned.gathered.clock, job.options.freq
    if freq is None and clock in ("none", "steps"):  # that of stamps is found from them
        freq = cleaned.gathered.freq
    axis = decide(cleaned.items, job.spool.times, clock=clock, freq=freq)
    if axis.renumbered:
        text = (
            f"the step numbers leave out {axis.renumbered:,} steps; rows are stored one after the other up to the last "
            "number, so those before a hole get other numbers than in the files"
        )
        job.report.notes.append(Note(Code.STEPS_RENUMBERED, text, {"steps": axis.renumbered}))
    if axis.own is None:
        return cleaned, axis
    own, counts = axis.own, axis.counts or {}
    stored = Counter(own[item] or "irregular" for item in cleaned.items if item in job.stored)
    usual = max(stored or counts, key=lambda name: (stored or counts)[name])
    seen = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    rare = [item for item in cleaned.items if (own[item] or "irregular") != usual]
    for item in rare:
        detail = f"{own[item] or 'irregular'}; items: {seen}"
        example = {"item": item, "file": cleaned.gathered.origin.get(item), "detail": detail}
        job.findings.add("mixed_frequencies", 1, example)
    if job.options.on_bad != "drop":
        text = f"items of several frequencies ({seen}): seasonality is unknown to evaluation"
        job.report.notes.append(Note(Code.SEVERAL_FREQUENCIES, text, {"frequencies": len(counts)}))
        return cleaned, axis
    for item in (item for item in rare if item not in job.stored):
        job.report.dropped[item] = f"mixed_frequencies ({own[item] or 'irregular'})"
    kept = [item for item in cleaned.items if item not in job.report.dropped]
    return replace(cleaned, items=kept), decide(kept, job.spool.times, clock="dates", freq=freq)


def place_items(cleaned: Cleaned, axis: Axis, job: ImportJob) -> Iterator[Placed]:
    """Yield every cleaned item on the axis: judged by the rules of markets, its gaps found, and filled where that makes
    the axis regular."""
    schema = cleaned.schema
    codes = {item: job.calendars.get(item, job.options.calendar) for item in cleaned.items}
    exchanges = {code: Exchange(code) for code in dict.fromkeys(codes.values()) if code is not None}
    if exchanges and (schema.layout.close is None or axis.time == "steps"):
        raise DataError(
            f"{job.name}: --calendar checks bars of prices with time stamps, and there are none. Leave it out."
        )
    for item in cleaned.items:
        rows, findings, read = job.spool.cleaned(item)
        code = codes[item]
        exchange = None if code is None else exchanges[code]
        judged = cleaned.review.judge(rows, findings, exchange, insert=axis.time == "stamps")
        if judged.hidden.any() and rows.times is not None:
            hits = {name: rows.times[hit & judged.hidden] for name, hit in judged.found.items()}
            job.report.hidden[item] = {name: times for name, times in hits.items() if len(times)}
        rows = judged.rows
        after, missing = _NONE, _NONE
        if exchange is None or axis.time == "regular":
            after, missing = gaps(rows, axis, schema.layout)
        if len(after):
            detail = f"{counted(int(missing[0]), 'step')} missing"
            findings.add("gap", int(missing.sum()), rows.example(int(after[0]), detail))
        if axis.fill:
            rows = fill(rows, axis)
        if schema.adjusts:
            rows = with_factors(rows, schema.names, schema.layout)
        yield Placed(rows, findings, read, judged.why)


def decide(items: Sequence[str], times_of: Callable[[str], IntArray], *, clock: str, freq: str | None) -> Axis:
    """Choose the axis of items with the given cleaned times. freq: the user's option; clock: Gathered.clock."""
    if clock == "none":
        return Axis("steps", freq, seasonality=seasonality(freq))
    if clock == "steps":
        return _numbered(items, times_of, freq)
    votes = DayVotes()
    patterns: dict[str, Pattern] = {}
    for item in items:
        times = times_of(item)
        votes.add(times)
        patterns[item] = infer(times)
    common, counts = agree(patterns.values())
    if freq is not None:
        _refuse_other_steps(freq, counts)
        return _given_axis(items, times_of, freq, votes)
    if common is None:
        own = {item: pattern.freq for item, pattern in patterns.items()} if len(counts) > 1 else None
        return Axis("stamps", None, votes=votes, own=own, counts=counts)
    return _regularity(items, times_of, common, votes, counts)


def _numbered(items: Sequence[str], times_of: Callable[[str], IntArray], freq: str | None) -> Axis:
    """Return the axis of step numbers: their greatest common distance, and whether few enough are missing to fill."""
    distances = [np.diff(times_of(item)) for item in items]
    step = max(1, int(np.gcd.reduce([int(np.gcd.reduce(steps)) for steps in distances if len(steps)] or [1])))
    total = sum(len(steps) + 1 for steps in distances)
    missing = sum(int((steps // step - 1).sum()) for steps in distances)
    few = missing <= FILL_LIMIT * total
    renumbered = 0 if few else sum(int((steps - 1).sum()) for steps in distances)
    season = seasonality(freq)
    return Axis("steps", freq, few and missing > 0, season, step=step if few else 1, renumbered=renumbered)


def _refuse_other_steps(freq: str, counts: dict[str, int]) -> None:
    """Raise DataError if the steps of all items differ clearly from the user's alias."""
    requested = Frequency.parse(freq)
    if counts and not any(_compatible(requested, name) for name in counts):
        seen = ", ".join(f"{name} ({counted(count, 'item')})" for name, count in counts.items())
        raise DataError(f"--freq {freq}, but the stamps look like {seen}. Leave --freq out, or give that.")


def _given_axis(items: Sequence[str], times_of: Callable[[str], IntArray], freq: str, votes: DayVotes) -> Axis:
    """Return the axis of the user's frequency. Raises DataError for a row off its grid, naming the alias that fits."""
    exact, added = True, 0
    first_of: dict[str, str] = {}  # alias -> item
    for item in items:
        times = times_of(item)
        if not len(times):
            continue
        number = grid_numbers(times, freq, f"item {item!r}")
        empty = int(number[-1]) + 1 - len(times)
        if are_too_many(empty, len(times)):
            raise DataError(
                f"item {item!r}: --freq {freq} would put {empty:,} rows of NaN between {len(times):,} rows. Give a "
                "longer step."
            )
        alias = on_rows(times, freq).alias
        first_of.setdefault(alias, item)
        exact &= bool((stamps(int(times[0]), alias, number) == times).all())
        added += empty
    if len(first_of) > 1:
        seen = " and ".join(f"{alias} (first item {item!r})" for alias, item in first_of.items())
        raise DataError(f"--freq {freq}: the items fit {seen}. Import them apart.")
    alias = next(iter(first_of), Frequency.parse(freq).alias)
    return Axis("regular" if exact else "stamps", alias, added > 0, seasonality(alias), votes=votes, grid=freq)


def _compatible(requested: Frequency, name: str) -> bool:
    if name == "irregular":
        return True
    other = Frequency.parse(name)
    if requested.kind == "pandas":
        return 1 / MAX_STEP_RATIO < typical_step(requested) / typical_step(other) < MAX_STEP_RATIO
    if requested.months or other.months:
        return requested.months == other.months
    days = {"B", "C", "D"}
    return requested.micros == other.micros or {requested.base, other.base} <= days


def _regularity(
    items: Sequence[str], times_of: Callable[[str], IntArray], freq: str, votes: DayVotes, counts: dict[str, int]
) -> Axis:
    exact, total, missing, closing = True, 0, 0, 0
    lengths: list[tuple[int, float, int]] = []
    for item in items:
        times = times_of(item)
        number, on_grid = ordinals(times, freq)
        if not on_grid and Frequency.parse(freq).months is not None:  # months may keep a 15th or a 28th
            on_grid = bool((stamps(int(times[0]), freq, number) == times).all())
        exact &= on_grid
        total += len(times)
        missing += int(number[-1]) + 1 - len(times) if len(times) else 0
        week = Week.of(times, freq)
        if week is not None and week.has_closures:
            closing += len(times)
            if week.step < DAY:
                lengths.append(session_length(times))
    session = 2 * closing >= total  # sessions need a majority of the rows, not a single item
    regular = exact and (missing == 0 or (not session and missing <= FILL_LIMIT * total))
    bars, season = _session(lengths, freq) if session else (None, seasonality(freq))
    return Axis("regular" if regular else "stamps", freq, regular and missing > 0, season, bars, votes, None, counts)


def _session(lengths: Iterable[tuple[int, float, int]], freq: str) -> tuple[int | None, int | None]:
    """Return (bars_per_session, seasonality): the common number of bars a day, else None and the typical number."""
    lengths = list(lengths)
    if not lengths:
        return None, seasonality(freq)
    bars = Counter(bars for bars, _, _ in lengths).most_common(1)[0][0]
    share = float(np.median([share for found, share, _ in lengths if found == bars]))
    typical = int(np.median([median for _, _, median in lengths]))
    whole_day = seasonality(freq)
    if whole_day and typical >= 0.9 * whole_day:
        return None, whole_day  # closed only at weekends
    return (bars, bars) if share >= 0.5 else (None, typical)


def gaps(rows: ItemRows, axis: Axis, layout: MarketColumns) -> tuple[IntArray, IntArray]:
    """Return (index of the row after each gap, steps missing there) of an item's ascending rows.

    Where gaps are filled, all are; else those of prices are the bars that the source probably lost.
    """
    if rows.times is None or len(rows) < 2:
        return _NONE, _NONE
    if axis.time == "steps" or axis.grid is not None:
        missing = np.diff(_numbers(rows.times, axis)) - 1
        holes = np.flatnonzero(missing > 0)
        return holes + 1, missing[holes]
    freq = axis.item_freq(rows.item_id)
    if freq is None:
        return _NONE, _NONE
    if axis.fill or layout.close is None:
        return find_gaps(rows.times, freq, axis.votes)
    return lost_bars(rows, layout, freq, axis.votes)


def fill(rows: ItemRows, axis: Axis) -> ItemRows:
    """Insert NaN rows for missing steps, so that the axis is regular."""
    assert rows.times is not None
    number = _numbers(rows.times, axis)
    count = int(number[-1]) + 1
    if count == len(rows):
        return rows
    values = np.full((len(rows.values), count), np.nan, np.float32)
    values[:, number] = rows.values
    lines = np.zeros(count, np.int64)
    lines[number] = rows.lines
    every = np.arange(count, dtype=np.int64)
    if axis.time == "steps":
        times = rows.times[0] + axis.step * every
    elif axis.grid is not None:
        times = grid_stamps(rows.times, axis.grid, every)
    else:
        assert axis.freq is not None
        times = stamps(int(rows.times[0]), axis.freq, every)
    return ItemRows(rows.item_id, values, times, lines, rows.file, rows.calendar)


def _numbers(times: IntArray, axis: Axis) -> IntArray:
    """Return the step number of each row from the first one."""
    if axis.time == "steps":
        return (times - times[0]) // axis.step
    if axis.grid is not None:
        return grid_numbers(times, axis.grid, "rows")
    return ordinals(times, axis.freq or "D")[0]
