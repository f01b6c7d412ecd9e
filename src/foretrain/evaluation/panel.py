"""The windows of one or several corpora that are scored, and how they are dealt to processes.

Windows are dealt in pieces whose make-up does not depend on how many processes there are, and results come back in the
order of the pieces: one result for 1 or N processes.

# V variates, H horizon
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np

from foretrain.data.splits import Origin, Selection, SplitName, cut, rolling_origins
from foretrain.data.store import Corpus
from foretrain.data.windows import Window
from foretrain.distributed.world import World
from foretrain.errors import DataError
from foretrain.timeaxis.frequency import seasonality as season_of

T = TypeVar("T")
CACHE_BYTES = 512 * 2**20  # cut windows are kept for the next evaluation up to this size


class WindowRef(NamedTuple):
    """One window: which corpus, which series, cut where."""

    corpus: int
    series: int
    cutoff: int


class LeftOut(NamedTuple):
    """Something that was not scored, and why."""

    what: str  # "items" or "rows"
    reason: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Panel:
    """Corpora, the columns used, and the windows to score."""

    corpora: tuple[Corpus, ...]
    selections: tuple[Selection, ...]
    places: tuple[WindowRef, ...]  # in order of (corpus, series, cutoff)
    seasons: tuple[int, ...]  # steps of a season, per corpus
    prediction_length: int
    context_length: int
    stride: int
    left_out: tuple[LeftOut, ...] = ()  # items without a window
    with_times: bool = True  # windows have time stamps where their corpus has them

    def window(self, place: WindowRef) -> Window:
        """The window with its truth."""
        found = cut(
            self.corpora[place.corpus],
            self.selections[place.corpus],
            place.series,
            place.cutoff,
            context_length=self.context_length,
            prediction_length=self.prediction_length,
            with_future=True,
        )
        return found if self.with_times else replace(found, context_times=None, future_times=None)

    def name(self, corpus: int) -> str:
        """A corpus' name, numbered where two have the same."""
        names = [c.name for c in self.corpora]
        own = names[corpus]
        return own if names.count(own) == 1 else f"{own}#{names[: corpus + 1].count(own)}"

    def label(self, place: WindowRef, target: int) -> str:
        """Name of an item, with its column where several are forecast and its corpus where there are several."""
        corpus, chosen = self.corpora[place.corpus], self.selections[place.corpus].targets
        parts = [self.name(place.corpus)] if len(self.corpora) > 1 else []
        parts.append(corpus.item_id(place.series))
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
) -> Panel:
    """Windows of each corpus' origins; with max_items those of so many items, drawn by the seed.

    seasonality None takes the corpus' own: its manifest's, its bars per session, or its frequency's; 1 without any.
    Raises DataError when there is no window.
    """
    places = [WindowRef(k, o.series, o.cutoff) for k, found in enumerate(origins) for o in sorted(found)]
    if not places:
        raise DataError("no window to score: the validation or test part is empty. Give it more steps.")
    items = sorted({place[:2] for place in places})
    left_out = [_too_short(corpus, found) for corpus, found in zip(corpora, origins, strict=True)]
    if max_items is not None and len(items) > max_items:
        left_out.append(LeftOut("items", f"not drawn (max_items {max_items})", len(items) - max_items, ()))
        drawn = np.random.default_rng(seed).choice(len(items), max_items, replace=False)
        kept = {items[k] for k in drawn}
        places = [place for place in places if place[:2] in kept]
    return Panel(
        corpora=tuple(corpora),
        selections=tuple(selections),
        places=tuple(places),
        seasons=tuple(seasonality or corpus_season(corpus) for corpus in corpora),
        prediction_length=prediction_length,
        context_length=context_length,
        stride=stride,
        left_out=tuple(left for left in left_out if left.count),
    )


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
) -> list[Origin]:
    """rolling_origins, with room for num_windows in the scored part where its size is left open (None)."""
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
        min_context=min(prediction_length, context_length) if min_context is None else min_context,
    )


def corpus_season(corpus: Corpus) -> int:
    """Steps of a corpus' season: as its manifest says, else bars per session, else from its frequency, else 1."""
    manifest = corpus.manifest
    return manifest.seasonality or season_of(corpus.frequency, manifest.bars_per_session) or 1


class ShardedWindows:
    """The windows of a panel in pieces, each piece worked on by one process; cut once as far as memory allows."""

    def __init__(self, panel: Panel, batch_size: int, world: World | None = None) -> None:
        self.panel, self.batch_size, self.world = panel, batch_size, world or World()
        self.pieces = _pieces(panel, batch_size)  # a piece: indices into panel.places
        self._windows: dict[int, list[Window]] = {}
        self._cached = 0

    def map(self, work: Callable[[int], T]) -> list[T]:
        """work(piece) of every piece, in order, each done by one process; an error anywhere is raised everywhere."""
        done: dict[int, T] = {}
        error: Exception | None = None
        try:
            for piece in range(self.world.rank, len(self.pieces), self.world.size):
                done[piece] = work(piece)
        except Exception as caught:  # of any kind: the other processes would wait for this one's share
            if self.world.size == 1:
                raise
            error = caught
        self.world.all_agree(error)
        everything = {piece: result for share in self.world.gather_objects(done) for piece, result in share.items()}
        return [everything[piece] for piece in range(len(self.pieces))]

    def windows(self, piece: int) -> list[Window]:
        """The windows of a piece, with their truth, in its order."""
        if piece in self._windows:
            return self._windows[piece]
        windows = [self.panel.window(self.panel.places[k]) for k in self.pieces[piece]]
        size = sum(window.context.nbytes for window in windows)
        if self._cached + size <= CACHE_BYTES:
            self._windows[piece] = windows
            self._cached += size
        return windows


def _pieces(panel: Panel, batch_size: int) -> list[np.ndarray]:
    """Windows of like context length together, in pieces of one to eight batches: about sixteen where that many fit."""
    steps = np.array([min(place.cutoff, panel.context_length) for place in panel.places])
    rows = np.array([len(panel.selections[place.corpus].columns) for place in panel.places])
    order = np.argsort(steps, kind="stable")
    size = int(np.clip(rows.sum() // 16, batch_size, 8 * batch_size))
    piece = (np.cumsum(rows[order]) - 1) // size
    return np.split(order, np.flatnonzero(np.diff(piece)) + 1)


def _too_short(corpus: Corpus, origins: Sequence[Origin]) -> LeftOut:
    present = {origin.series for origin in origins}
    absent = [series for series in range(corpus.num_series) if series not in present]
    examples = tuple(corpus.item_ids(absent[:3]))
    return LeftOut(
        "items", f"of {corpus.name} without room for one window, or outside the split", len(absent), examples
    )
