"""Which seasonal baselines an evaluation has: with the usual season, and with the one found before the first origin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from foretrain.data.asof import as_of
from foretrain.data.store import Corpus
from foretrain.evaluation.baselines import FOUND, SEASONAL
from foretrain.evaluation.panel import Panel
from foretrain.evaluation.scored import Ints
from foretrain.evaluation.seasons import LONGEST, MAX_ITEMS, MAX_ROWS, History, Seasons, find_seasons
from foretrain.notes import Code, Note, counted
from foretrain.timeaxis.frequency import DAY, WEEK

SEED = 0  # of the sample of items


@dataclass(frozen=True)
class SeasonRows:
    """The seasonal baselines of a panel."""

    names: tuple[str, ...]  # all baselines to compute
    steps: dict[str, tuple[int, ...]]  # of SEASONAL and FOUND: the season of each corpus; 1 = that of naive
    by_clock: tuple[bool, ...]  # corpora in which SEASONAL repeats the time of day
    found: tuple[int | None, ...]  # the season found in each corpus
    decisive: tuple[str, ...]  # the baselines that repeat a season of the data: SEASONAL, FOUND, both or none
    labels: dict[str, str]  # names for display that are not the keys
    notes: tuple[Note, ...]


class _Seasons(NamedTuple):
    """The seasons of one corpus, and the history that its windows have."""

    where: str  # for notes; "" if there is one corpus
    usual: int
    data: Seasons  # found in the values
    history: Ints  # steps of each window
    by_clock: bool

    @property
    def longest(self) -> int:
        return int(self.history.max(initial=0))

    @property
    def fitting(self) -> int:
        """The usual season, or 1 if it is longer than all histories."""
        return self.usual if self.usual <= self.longest else 1

    @property
    def found(self) -> int | None:
        """The season found that fits, or the longest within it that does; None if that is the usual one."""
        main = self.data.main
        fits = [season for season in self.data.all if main and main % season == 0 and season <= self.longest]
        return max(fits) if fits and max(fits) != self.usual else None

    @property
    def has_usual(self) -> bool:
        """Whether the values have the usual season."""
        return self.usual in self.data.all


def season_rows(panel: Panel, names: Sequence[str]) -> SeasonRows:
    """Return the seasonal baselines among `names`, without those whose season is longer than the contexts.

    FOUND among the names asks for the season of the data to be looked for. It stands for SEASONAL if that is the usual
    one, and for both if the usual one is found too, as a day is beside a week.
    """
    seasons = [_seasons(panel, k, FOUND in names) for k in range(len(panel.corpora))]
    found = sorted({own.found for own in seasons if own.found})
    usual = any(own.has_usual and own.usual <= own.longest for own in seasons)
    decisive = (*((SEASONAL,) if usual else ()), *((FOUND,) if found else ()))
    wanted = [name for asked in dict.fromkeys(names) for name in (decisive if asked == FOUND else (asked,))]
    if all(own.usual > own.longest for own in seasons):
        wanted = [name for name in wanted if name != SEASONAL]
    labels = {FOUND: f"seasonal naive ({' or '.join(map(str, found))}, found)"}
    if all(own.by_clock for own in seasons):
        labels[SEASONAL] = "seasonal naive (time of day)"
    notes = [note for own in seasons for note in _notes(own, SEASONAL in names or own.has_usual)]
    if found:
        notes.append(_found_note(labels[FOUND], next(own for own in seasons if own.found)))
    return SeasonRows(
        names=tuple(dict.fromkeys(wanted)),
        steps={
            SEASONAL: tuple(own.fitting for own in seasons),
            FOUND: tuple(own.found or own.fitting for own in seasons),
        },
        by_clock=tuple(own.by_clock and own.usual <= own.longest for own in seasons),
        found=tuple(own.data.main for own in seasons),
        decisive=decisive,
        labels=labels,
        notes=tuple(notes),
    )


def _seasons(panel: Panel, corpus: int, search: bool) -> _Seasons:
    history = [min(ref.cutoff, panel.context_length) for ref in panel.refs if ref.corpus == corpus]
    return _Seasons(
        where=f"{panel.name(corpus)}: " if len(panel.corpora) > 1 else "",
        usual=panel.seasons[corpus],
        data=seasons_before_scoring(panel, corpus) if search else Seasons(),
        history=np.array(history, np.int64),
        by_clock=repeats_by_clock(panel.corpora[corpus], panel.seasons[corpus]),
    )


def _notes(own: _Seasons, shown: bool) -> list[Note]:
    """Return the notes on seasons that histories are too short for, and on a season that is a time of day."""
    notes, longest = list[Note](), own.longest
    if shown and own.usual > longest > 0:
        notes.append(_too_long(own, own.usual, "the season", "there is no seasonal naive"))
    elif shown and (few := int((own.history < own.usual).sum())):
        text = (
            f"{own.where}{few:,} of {len(own.history):,} windows have less history than the season of {own.usual:,} "
            "steps; seasonal naive repeats their last value where it has no other."
        )
        counts = {"season": own.usual, "context": int(own.history.min()), "windows": few}
        notes.append(Note(Code.SEASON_EXCEEDS_CONTEXT, text, counts))
    if own.data.main and own.data.main != own.usual and own.data.main > longest:
        notes.append(_too_long(own, own.data.main, "the season found in the data", "no baseline repeats it"))
    if shown and own.by_clock and own.usual <= longest:
        text = (
            f"{own.where}sessions have no common number of bars (typically {own.usual:,}), so seasonal naive repeats "
            "the time of day, not a number of steps."
        )
        notes.append(Note(Code.SEASON_BY_CLOCK, text, {"season": own.usual}))
    return notes


def _too_long(own: _Seasons, season: int, what: str, so: str) -> Note:
    text = f"{own.where}{what}, {season:,} steps, is longer than the context of {own.longest:,}, so {so}."
    counts = {"season": season, "context": own.longest, "windows": len(own.history)}
    return Note(Code.SEASON_EXCEEDS_CONTEXT, text[0].upper() + text[1:] if not own.where else text, counts)


def _found_note(label: str, own: _Seasons) -> Note:
    text = (
        f"Before the first scored window the values repeat every {own.found:,} steps. MASE is scaled by the usual "
        f"season of {counted(own.usual, 'step')}; the row {label} repeats the found one, and the verdict counts it."
    )
    return Note(Code.SEASON_FOUND, text, {"season": own.found or 0, "usual": own.usual})


def seasons_before_scoring(panel: Panel, corpus: int) -> Seasons:
    """Return the seasons found in a corpus' values before its first scored window.

    With time stamps these are the values before the first instant that is forecast, of all items; else those before
    each item's own first window.
    """
    store, targets = panel.corpora[corpus], list(panel.selections[corpus].targets)
    first = dict[int, int]()  # item -> its first cutoff
    for ref in panel.refs:
        if ref.corpus == corpus:
            first[ref.series] = min(ref.cutoff, first.get(ref.series, ref.cutoff))
    candidates = natural_seasons(store, panel.seasons[corpus])
    if candidates is not None and not candidates:
        return Seasons()
    series, count = sorted(first), max(1, MAX_ITEMS // len(targets))
    if len(series) > count:
        series = sorted(np.random.default_rng(SEED).choice(series, count, replace=False).tolist())
    start = _first_instant(store, first)
    rows = max(MAX_ROWS, 8 * max(candidates or (1,)))
    items = list[History]()
    for item in series:
        stop = first[item]
        oldest = max(0, stop - rows)
        times = store.times_slice(item, oldest, stop)
        position = np.arange(oldest - stop, 0)
        if times is not None:
            times = times[: np.searchsorted(times, start)]
            position = (times - start) // _step(times)
        for values in as_of(store, store.values(item), max(stop, 1))[targets, oldest : oldest + len(position)]:
            items.append(History(values.astype(np.float64), position))
    return find_seasons(items, candidates)


def natural_seasons(corpus: Corpus, season: int) -> tuple[int, ...] | None:
    """Return the seasons, in steps, that a corpus' frequency makes plausible; None = unknown frequency, search all.

    These are the usual season and, if steps divide a day, the day and the week. Sessions of one number of bars have
    that number; for those of unlike lengths no number of bars is a season.
    """
    frequency = corpus.frequency
    if repeats_by_clock(corpus, season):
        return ()
    if frequency is None:
        return None
    found, step = {season}, frequency.micros
    if step and not corpus.manifest.bars_per_session and step <= DAY and DAY % step == 0:
        found |= {DAY // step, WEEK // step}
    if frequency.base == "W" and 52 % frequency.multiple == 0:
        found.add(52 // frequency.multiple)
    return tuple(sorted(lag for lag in found if 1 < lag <= LONGEST))


def repeats_by_clock(corpus: Corpus, season: int) -> bool:
    """Return whether a corpus holds sessions without a common number of bars, so that its season is only typical."""
    manifest, frequency = corpus.manifest, corpus.frequency
    if manifest.time != "stamps" or manifest.bars_per_session or frequency is None or frequency.micros is None:
        return False
    return frequency.micros < DAY and season == manifest.seasonality and season != frequency.seasonality


def _first_instant(corpus: Corpus, first: dict[int, int]) -> int:
    """Return the stamp of the first step that is forecast in any item; 0 without a calendar."""
    found = [corpus.times_slice(item, cutoff, cutoff + 1) for item, cutoff in first.items()]
    return min((int(times[0]) for times in found if times is not None), default=0)


def _step(times: np.ndarray) -> int:
    """Return the usual distance of stamps."""
    return max(1, int(np.median(np.diff(times)))) if len(times) > 1 else 1
