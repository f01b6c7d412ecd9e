"""The windows of one or several corpora to score, and their distribution over processes.

Windows are grouped into chunks that do not depend on the number of processes, and results are returned in the order of
the chunks, so 1 or N processes give the same result.

# V variates, H horizon
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np

from foretrain.data.items import Mask
from foretrain.data.parts import Region
from foretrain.data.splits import Origin, Origins, Selection, SplitName, cut, rolling_origins
from foretrain.data.store import Corpus
from foretrain.data.windows import IntArray, Window
from foretrain.distributed.world import World
from foretrain.errors import DataError
from foretrain.notes import Code, Note, counted
from foretrain.timeaxis.frequency import seasonality as season_of
from foretrain.training.interrupt import ValidationInterrupted

T = TypeVar("T")
CACHE_BYTES = 512 * 2**20  # windows are cached for the next evaluation up to this size


class WindowRef(NamedTuple):
    """Reference to one window of a panel."""

    corpus: int  # index into Panel.corpora
    series: int
    cutoff: int  # step of the first forecast value


class LeftOut(NamedTuple):
    """Items or rows that were not scored, and the reason."""

    what: str  # "items" or "rows"
    reason: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Panel:
    """Corpora, their selected columns, and the windows to score."""

    corpora: tuple[Corpus, ...]
    selections: tuple[Selection, ...]
    refs: tuple[WindowRef, ...]  # in order of (corpus, series, cutoff)
    seasons: tuple[int, ...]  # seasonality in steps, per corpus
    prediction_length: int
    context_length: int
    stride: int
    left_out: tuple[LeftOut, ...] = ()  # items without a window
    with_times: bool = True  # windows have time stamps if their corpus has them

    def window(self, ref: WindowRef) -> Window:
        """Return the window with its truth."""
        found = cut(
            self.corpora[ref.corpus],
            self.selections[ref.corpus],
            ref.series,
            ref.cutoff,
            context_length=self.context_length,
            prediction_length=self.prediction_length,
            with_future=True,
        )
        return found if self.with_times else replace(found, context_times=None, future_times=None)

    def name(self, corpus: int) -> str:
        """Return a corpus' name, numbered if several have the same."""
        names = [c.name for c in self.corpora]
        own = names[corpus]
        return own if names.count(own) == 1 else f"{own}#{names[: corpus + 1].count(own)}"

    def label(self, ref: WindowRef, target: int) -> str:
        """Return the name of an item, with its column if several are forecast and its corpus if there are several."""
        corpus, chosen = self.corpora[ref.corpus], self.selections[ref.corpus].targets
        parts = [self.name(ref.corpus)] if len(self.corpora) > 1 else []
        parts.append(corpus.item_id(ref.series))
        return "/".join(parts) + (f" {corpus.columns[chosen[target]]}" if len(chosen) > 1 else "")


def make_panel(
    corpora: Sequence[Corpus],
    selections: Sequence[Selection],
    origins: Sequence[Sequence[Origin]],
    *,
    prediction_length: int,
    context_length: int,
    stride: int,
    seasonality: int | None = None,
    max_items: int | None = None,
    seed: int = 0,
    among: Sequence[Mask | None] | None = None,
) -> Panel:
    """Return a panel of the windows at each corpus' origins.

    Args:
        corpora: the corpora to score.
        selections: their columns.
        origins: their forecast origins.
        prediction_length: steps of the horizon.
        context_length: steps of history per window.
        stride: steps between the origins of an item.
        seasonality: steps of a season; None = corpus_season of each corpus.
        max_items: use the windows of a random sample of this many items; None = all items.
        seed: of that sample.
        among: of each corpus, an (N,) mask of the items that the origins were asked of; None = all.

    Raises DataError if there is no window.
    """
    given = [Origins.of(found) for found in origins]
    if not sum(map(len, given)):
        raise DataError("no window to score: the validation or test part is empty. Give it more steps.")
    items = [_distinct(found.series) for found in given]
    asked = [None] * len(given) if among is None else among
    left_out = [_too_short(*triple) for triple in zip(corpora, items, asked, strict=True)]
    left_out += [_not_asked(corpus, mask) for corpus, mask in zip(corpora, asked, strict=True) if mask is not None]
    count = sum(map(len, items))
    if max_items is not None and count > max_items:
        left_out.append(LeftOut("items", f"not drawn (max_items {max_items})", count - max_items, ()))
        drawn = np.sort(np.random.default_rng(seed).choice(count, max_items, replace=False))
        edges = np.cumsum([0, *map(len, items)])
        items = [own[drawn[(drawn >= a) & (drawn < b)] - a] for own, a, b in zip(items, edges, edges[1:], strict=False)]
    refs = list[WindowRef]()
    for k, (found, chosen) in enumerate(zip(given, items, strict=True)):
        kept = np.isin(found.series, chosen)
        pairs = Origins(found.series[kept], found.cutoff[kept])
        refs += [WindowRef(k, *origin) for origin in sorted(pairs)]
    return Panel(
        corpora=tuple(corpora),
        selections=tuple(selections),
        refs=tuple(refs),
        seasons=tuple(seasonality or corpus_season(corpus) for corpus in corpora),
        prediction_length=prediction_length,
        context_length=context_length,
        stride=stride,
        left_out=tuple(left for left in left_out if left.count),
    )


def open_ends(panel: Panel) -> list[Note]:
    """Return a note if the newest rows of items have no target, so that newest windows have no truth, or less of it.

    It is given if a window has none at all, or if all items end so, as where the coming rows are in the same file.
    """
    cutoffs: dict[tuple[int, int], list[int]] = {}
    for ref in panel.refs:
        cutoffs.setdefault((ref.corpus, ref.series), []).append(ref.cutoff)
    horizon, rows, items, bare, part = panel.prediction_length, 0, 0, 0, 0
    for (corpus, series), found in cutoffs.items():
        first, end = min(found), max(found) + horizon
        chunk, row = panel.corpora[corpus].locate(series)
        targets = chunk.values(row, first, end)[list(panel.selections[corpus].targets)]
        observed = np.flatnonzero(np.isfinite(targets).any(axis=0))
        last = first + (int(observed[-1]) + 1 if len(observed) else 0)
        rows += end - last
        items += last < end
        bare += sum(cutoff >= last for cutoff in found)
        part += sum(cutoff < last < cutoff + horizon for cutoff in found)
    if not bare and items < len(cutoffs):
        return []
    text = (
        f"The newest rows of {items:,} of {counted(len(cutoffs), 'item')} have no target ({counted(rows, 'row')}). Of "
        f"{counted(len(panel.refs), 'window')} {bare:,} have no truth and are not scored, {part:,} have less of it. If "
        "these rows are steps to forecast, leave them out of the data."
    )
    counts = {"items": items, "rows": rows, "windows": bare, "windows_in_part": part}
    return [Note(Code.NEWEST_ROWS_WITHOUT_TARGET, text, counts)]


def newest_origins(
    corpus: Corpus,
    split: SplitName,
    prediction_length: int,
    num_windows: int,
    stride: int,
    validation_steps: int | None,
    test_steps: int | None,
    min_context: int | None,
    context_length: int,
    region: Region | None = None,
    among: Mask | None = None,
) -> Origins:
    """Return rolling_origins; if the size of the scored part is None, the part has room for num_windows."""
    room = (num_windows - 1) * stride + prediction_length
    sizes = {"validation": validation_steps, "test": test_steps}
    if split in sizes and sizes[split] is None:
        sizes[split] = room
    return rolling_origins(
        corpus,
        split=split,
        prediction_length=prediction_length,
        num_windows=num_windows,
        stride=stride,
        validation_steps=sizes["validation"],
        test_steps=sizes["test"],
        region=region,
        among=among,
        min_context=least_context(min_context, prediction_length, context_length),
        too_long="prediction_length or context_length" if min_context is None else "prediction_length or min_context",
    )


def least_context(min_context: int | None, prediction_length: int, context_length: int) -> int:
    """Return the fewest rows before an origin: as given, or its default."""
    return min(prediction_length, context_length) if min_context is None else min_context


def corpus_season(corpus: Corpus) -> int:
    """Return a corpus' seasonality: its manifest's, else its bars per session, else its frequency's, else 1."""
    manifest = corpus.manifest
    return manifest.seasonality or season_of(corpus.frequency, manifest.bars_per_session) or 1


class ShardedWindows:
    """The windows of a panel in chunks, each processed by one process; windows are cached up to CACHE_BYTES."""

    def __init__(self, panel: Panel, batch_size: int, world: World | None = None) -> None:
        self.panel, self.batch_size, self.world = panel, batch_size, world or World()
        self.chunks = _chunks(panel, batch_size)  # a chunk: indices into panel.refs
        self._windows: dict[int, list[Window]] = {}
        self._cached = 0

    def map(self, work: Callable[[int], T]) -> list[T]:
        """Return work(chunk) of every chunk, in order. Each chunk is processed by one process of the world.

        All processes call this together; an error in one of them is raised in all, and so is ValidationInterrupted.
        """
        done: dict[int, T] = {}
        error: Exception | None = None
        broken_off = False
        try:
            with self.world.watch.own_work():
                for chunk in range(self.world.rank, len(self.chunks), self.world.size):
                    self.world.watch.tick("validation")
                    done[chunk] = work(chunk)
        except Exception as caught:  # any exception: otherwise the other processes would wait for this one's results
            if self.world.size == 1:
                raise
            error = caught
        except ValidationInterrupted:
            if self.world.size == 1:
                raise
            broken_off = True
        self.world.all_agree(error)
        parts = self.world.gather_objects(None if broken_off else done)
        if None in parts:  # of one process: all drop this validation
            raise ValidationInterrupted
        results = {chunk: result for part in parts if part for chunk, result in part.items()}
        return [results[chunk] for chunk in range(len(self.chunks))]

    def windows(self, chunk: int) -> list[Window]:
        """Return the windows of a chunk, with their truth, in its order."""
        if chunk in self._windows:
            return self._windows[chunk]
        windows = [self.panel.window(self.panel.refs[k]) for k in self.chunks[chunk]]
        size = sum(window.context.nbytes for window in windows)
        if self._cached + size <= CACHE_BYTES:
            self._windows[chunk] = windows
            self._cached += size
        return windows


def _chunks(panel: Panel, batch_size: int) -> list[np.ndarray]:
    """Group windows of similar context length into chunks of one to eight batches, about sixteen chunks if possible."""
    steps = np.array([min(ref.cutoff, panel.context_length) for ref in panel.refs])
    rows = np.array([len(panel.selections[ref.corpus].columns) for ref in panel.refs])
    order = np.argsort(steps, kind="stable")
    size = int(np.clip(rows.sum() // 16, batch_size, 8 * batch_size))
    chunk = (np.cumsum(rows[order]) - 1) // size
    return np.split(order, np.flatnonzero(np.diff(chunk)) + 1)


def _distinct(series: IntArray) -> IntArray:
    """Return np.unique, in a tenth of its time for series that ascend already."""
    if len(series) and (series[1:] >= series[:-1]).all():
        return series[np.flatnonzero(np.diff(series, prepend=series[0] - 1))]
    return np.unique(series)


def _not_asked(corpus: Corpus, among: Mask) -> LeftOut:
    absent = np.flatnonzero(~among)
    return LeftOut("items", f"of {corpus.name} not chosen by --items", len(absent), tuple(corpus.item_ids(absent[:3])))


def _too_short(corpus: Corpus, present: np.ndarray, among: Mask | None) -> LeftOut:
    missing = np.ones(corpus.num_series, bool) if among is None else among.copy()
    missing[present] = False
    absent = np.flatnonzero(missing)
    examples = tuple(corpus.item_ids(absent[:3]))
    return LeftOut(
        "items", f"of {corpus.name} without room for one window, or outside the split", len(absent), examples
    )
