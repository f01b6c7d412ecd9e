"""Rolling-origin backtest: the windows of one or several corpora, what is known of each, and a model's forecasts.

Windows are dealt to processes in pieces whose make-up does not depend on how many processes there are, and results are
put back in the order of (corpus, series, cutoff) before anything is summed: one result for 1 or N processes.

# N rows (one target of one window), H horizon, Q levels
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from foretrain.data.frequency import seasonality as season_of
from foretrain.data.splits import Origin, Selection, cut
from foretrain.data.store import Corpus
from foretrain.data.windows import NO_TIME, Window, stack_windows
from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.baselines import BASELINES, baselines
from foretrain.evaluation.scored import INTERVAL, MEDIAN, Scored, seasonal_errors
from foretrain.forecasting.batching import forecast_windows
from foretrain.models.base import Forecaster, Loss, Trainable, move
from foretrain.training.distributed import World

T = TypeVar("T")
DEFAULT_LEVELS = tuple(round(0.1 * k, 1) for k in range(1, 10))
CACHE_BYTES = 512 * 2**20  # cut windows are kept for the next evaluation up to this size


class Place(NamedTuple):
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
    places: tuple[Place, ...]  # in order of (corpus, series, cutoff)
    seasons: tuple[int, ...]  # steps of a season, per corpus
    prediction_length: int
    context_length: int
    stride: int
    left_out: tuple[LeftOut, ...] = ()  # items without a window

    def window(self, place: Place) -> Window:
        """The window with its truth."""
        return cut(
            self.corpora[place.corpus],
            self.selections[place.corpus],
            place.series,
            place.cutoff,
            context_length=self.context_length,
            prediction_length=self.prediction_length,
            with_future=True,
        )

    def name(self, corpus: int) -> str:
        """A corpus' name, numbered where two have the same."""
        names = [c.name for c in self.corpora]
        own = names[corpus]
        return own if names.count(own) == 1 else f"{own}#{names[: corpus + 1].count(own)}"

    def label(self, place: Place, target: int) -> str:
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
    places = [Place(k, o.series, o.cutoff) for k, found in enumerate(origins) for o in sorted(found)]
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


def corpus_season(corpus: Corpus) -> int:
    """Steps of a corpus' season: as its manifest says, else bars per session, else from its frequency, else 1."""
    manifest = corpus.manifest
    return manifest.seasonality or season_of(manifest.freq, manifest.bars_per_session) or 1


def with_needed(levels: Sequence[float]) -> tuple[float, ...]:
    """The levels, ascending, with those that every report needs (.1, .5, .9). Raises ConfigError outside (0, 1)."""
    asked = [round(float(level), 10) for level in levels]
    if not asked or any(not 0 < level < 1 for level in asked):
        raise ConfigError(f"quantile_levels: {list(levels)} must be numbers between 0 and 1, at least one.")
    return tuple(sorted({*asked, *INTERVAL, MEDIAN}))


@dataclass(frozen=True)
class _Facts:
    """What is known of a piece's rows without a model; arrays have one entry a row."""

    fields: dict[str, np.ndarray]  # fields of Scored
    keys: np.ndarray  # (rows, 3) corpus, series, target
    labels: list[str]
    units: list[str]
    usable: np.ndarray  # bool: has history in the context and truth in the horizon
    reason: np.ndarray  # "" or why it is not usable
    quantiles: dict[str, np.ndarray]  # by baseline


class Backtest:
    """Rows of a panel scored against any number of models; truth and baselines are worked out once.

    Every method is entered by all processes of the world together and gives each of them the same result.
    """

    def __init__(
        self,
        panel: Panel,
        *,
        levels: Sequence[float] = DEFAULT_LEVELS,
        baselines: Sequence[str] = tuple(BASELINES),
        batch_size: int = 256,
        world: World | None = None,
    ) -> None:
        unknown = [name for name in baselines if name not in BASELINES]
        if unknown:
            raise ConfigError(f"compare: {unknown[0]!r} is not a baseline. Known here: {', '.join(BASELINES)}.")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it counts rows and is at least 1.")
        self.panel, self.batch_size, self.world = panel, batch_size, world or World()
        self.asked = tuple(round(float(level), 10) for level in levels)
        self.levels = with_needed(levels)
        self.baselines = tuple(dict.fromkeys(("naive", *baselines)))
        self._pieces = _pieces(panel, batch_size)
        self._first = np.cumsum([0, *(len(panel.selections[place.corpus].targets) for place in panel.places)])
        self._ranks = _ranks(panel.places)
        self._windows: dict[int, list[Window]] = {}
        self._cached = 0
        self._gather_facts()

    # -- what does not depend on a model ---------------------------------------------------------------------------

    def _gather_facts(self) -> None:
        pieces = self._deal(self._facts_of)
        order = np.argsort(np.concatenate([self._row_numbers(k) for k in range(len(pieces))]), kind="stable")
        usable = np.concatenate([piece.usable for piece in pieces])[order]
        reason = np.concatenate([piece.reason for piece in pieces])[order]
        labels = np.array([label for piece in pieces for label in piece.labels], object)[order]
        units = np.array([unit for piece in pieces for unit in piece.units], object)[order]
        self._order, self._usable = order, usable
        self.left_out = [*self.panel.left_out, *_count_rows(reason, labels)]
        if not usable.any():
            raise DataError(
                "no window to score: " + "; ".join(f"{left.count} {left.what} {left.reason}" for left in self.left_out)
            )
        fields = {name: self._merge([piece.fields[name] for piece in pieces]) for name in pieces[0].fields}
        keys = self._merge([piece.keys for piece in pieces])
        _, first, item = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        quantiles = {name: self._merge([piece.quantiles[name] for piece in pieces]) for name in self.baselines}
        self.naive = Scored(
            **fields,
            quantiles=quantiles["naive"],
            levels=self.levels,
            item=item.reshape(-1).astype(np.int64),
            items=tuple(labels[usable][first]),
            unit=tuple(units[usable][first]),
            stride=self.panel.stride,
            scored_levels=self.asked,
        )
        self.scored_baselines = {name: self.naive.forecast(quantiles[name]) for name in self.baselines}

    @property
    def num_windows(self) -> int:
        """Windows with at least one scored row."""
        return len(np.unique(np.searchsorted(self._first, np.flatnonzero(self._usable), side="right")))

    def row_place(self, row: int) -> tuple[Place, int]:
        """Window and target of a scored row."""
        number = int(np.flatnonzero(self._usable)[row])
        window = int(np.searchsorted(self._first, number, side="right")) - 1
        return self.panel.places[window], number - int(self._first[window])

    def _merge(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts)[self._order][self._usable]

    def _row_numbers(self, piece: int) -> np.ndarray:
        """Number of every row of a piece in the order of all rows."""
        return np.concatenate([np.arange(*self._first[k : k + 2].tolist()) for k in self._pieces[piece]])

    def _facts_of(self, piece: int) -> _Facts:
        panel = self.panel
        windows, places = self._cut(piece), [panel.places[k] for k in self._pieces[piece]]
        contexts = [window.context[row] for window in windows for row in range(window.num_targets)]
        target = np.concatenate([window.future[: window.num_targets] for window in windows])  # type: ignore[index]
        rows = [(place, row) for place, w in zip(places, windows, strict=True) for row in range(w.num_targets)]
        starts, ends = zip(*(_stamps(w) for w in windows for _ in range(w.num_targets)), strict=True)
        last = np.array([_last(context) for context in contexts])
        has_past, has_truth = np.isfinite(last), np.isfinite(target).any(1)
        reason = np.where(
            has_past, np.where(has_truth, "", "without a value to score"), "without a value to start from"
        )
        fields = {
            "target": target.astype(np.float64),
            "last": last,
            "seasonal_error": self._seasonal_errors(places),
            "price": np.array([self._is_price(place, row) for place, row in rows]),
            "cutoff": np.array([place.cutoff for place, _ in rows], np.int64),
            "rank": np.array([self._ranks[place] for place, _ in rows], np.int64),
            "start": np.array(starts, np.int64),
            "end": np.array(ends, np.int64),
        }
        season = np.array([panel.seasons[place.corpus] for place, _ in rows])
        shape = (len(rows), panel.prediction_length, len(self.levels))
        quantiles = {name: np.empty(shape, np.float32) for name in self.baselines}
        for m in np.unique(season):
            chosen = np.flatnonzero(season == m)
            histories = [contexts[k] for k in chosen]
            found = baselines(self.baselines, histories, panel.prediction_length, self.levels, int(m))
            for name, values in found.items():
                quantiles[name][chosen] = values
        return _Facts(
            fields=fields,
            keys=np.array([(place.corpus, place.series, row) for place, row in rows], np.int64),
            labels=[panel.label(place, row) for place, row in rows],
            units=[self._unit(place, row) for place, row in rows],
            usable=has_past & has_truth,
            reason=reason,
            quantiles=quantiles,
        )

    def _seasonal_errors(self, places: Sequence[Place]) -> np.ndarray:
        """(rows,) MASE's denominator: from the whole past of each window, not from its context alone."""
        panel = self.panel
        found: dict[Place, np.ndarray] = {}
        for key in dict.fromkeys(place[:2] for place in places):
            own = [place for place in places if place[:2] == key]
            values = panel.corpora[key[0]].values(key[1])[list(panel.selections[key[0]].targets)]
            errors = seasonal_errors(values, [place.cutoff for place in own], panel.seasons[key[0]])
            found |= dict(zip(own, errors, strict=True))
        return np.concatenate([found[place] for place in places])

    def _is_price(self, place: Place, row: int) -> bool:
        corpus = self.panel.corpora[place.corpus]
        return corpus.columns[self.panel.selections[place.corpus].targets[row]] in corpus.manifest.price_columns

    def _unit(self, place: Place, row: int) -> str:
        """Prices are in their item's currency and level, so no two items share a unit; other columns share theirs."""
        corpus = self.panel.corpora[place.corpus]
        column = corpus.columns[self.panel.selections[place.corpus].targets[row]]
        if self._is_price(place, row):
            return f"price of {self.panel.name(place.corpus)}/{place.series}"
        return f"{self.panel.name(place.corpus)}/{column}" if len(self.panel.corpora) > 1 else column

    # -- what a model adds -----------------------------------------------------------------------------------------

    def forecast(
        self, model: Forecaster, *, progress: Callable[[int], None] | None = None, **options: Any
    ) -> np.ndarray:
        """(N, H, Q) the model's quantiles, as it gives them (not sorted). options go to forecast_windows.

        A step with a level that is not finite is NaN at all levels: sorting would move its other levels into the gap.
        """

        def work(piece: int) -> np.ndarray:
            blind = [_blind(window) for window in self._cut(piece)]
            found = forecast_windows(
                model,
                blind,
                self.panel.prediction_length,
                self.levels,
                batch_size=self.batch_size,
                context_length=self.panel.context_length,
                progress=progress,
                **options,
            )
            return np.concatenate(found)

        quantiles = self._merge(self._deal(work))
        quantiles[~np.isfinite(quantiles).all(axis=2)] = np.nan
        return quantiles

    def loss(self, model: Trainable, dtype: torch.dtype | None = None) -> float:
        """The model's own training loss over the windows: sum of losses over sum of weights, without dropout.

        dtype bfloat16 or float16 computes products in it, None in the model's own.
        """
        device = next(model.parameters()).device

        def work(piece: int) -> list[tuple[float, float]]:
            windows, sums = self._cut(piece), []
            for batch in _batches(windows, self.batch_size):
                stacked = stack_windows(batch, self.panel.prediction_length, self.panel.context_length)
                with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
                    loss: Loss = model(move(model.collate(stacked), device))
                sums.append((float(loss.total), float(loss.weight)))
            return sums

        training = model.training
        model.eval()
        try:
            with torch.no_grad():  # not inference mode: tables that a model keeps must stay fit for training
                parts = [pair for piece in self._deal(work) for pair in piece]
        finally:
            model.train(training)
        weight = sum(pair[1] for pair in parts)
        return sum(pair[0] for pair in parts) / weight if weight else float("nan")

    # -- dealing ---------------------------------------------------------------------------------------------------

    def _deal(self, work: Callable[[int], T]) -> list[T]:
        """work(piece) of every piece, in order, each done by one process; an error anywhere is raised everywhere."""
        done: dict[int, T] = {}
        error: Exception | None = None
        try:
            for piece in range(self.world.rank, len(self._pieces), self.world.size):
                done[piece] = work(piece)
        except Exception as caught:
            if self.world.size == 1:
                raise
            error = caught
        self.world.all_agree(error)
        everything = {piece: result for share in self.world.gather_objects(done) for piece, result in share.items()}
        return [everything[piece] for piece in range(len(self._pieces))]

    def _cut(self, piece: int) -> list[Window]:
        if piece in self._windows:
            return self._windows[piece]
        windows = [self.panel.window(self.panel.places[k]) for k in self._pieces[piece]]
        size = sum(window.context.nbytes for window in windows)
        if self._cached + size <= CACHE_BYTES:
            self._windows[piece] = windows
            self._cached += size
        return windows


def _ranks(places: Sequence[Place]) -> dict[Place, int]:
    """0 for the newest window of a series, 1 for the one before, ..."""
    ranks: dict[Place, int] = {}
    seen: dict[tuple[int, int], int] = {}
    for place in reversed(places):
        key = (place.corpus, place.series)
        ranks[place] = seen.get(key, 0)
        seen[key] = ranks[place] + 1
    return ranks


def _pieces(panel: Panel, batch_size: int) -> list[np.ndarray]:
    """Windows of like context length together, in pieces of one to eight batches: about sixteen where that many fit."""
    steps = np.array([min(place.cutoff, panel.context_length) for place in panel.places])
    rows = np.array([len(panel.selections[place.corpus].columns) for place in panel.places])
    order = np.argsort(steps, kind="stable")
    size = int(np.clip(rows.sum() // 16, batch_size, 8 * batch_size))
    piece = (np.cumsum(rows[order]) - 1) // size
    return np.split(order, np.flatnonzero(np.diff(piece)) + 1)


def _batches(windows: Sequence[Window], batch_size: int) -> Iterator[list[Window]]:
    """Windows in order, at most batch_size rows together, a single window at the least."""
    batch: list[Window] = []
    rows = 0
    for window in windows:
        if batch and rows + len(window.context) > batch_size:
            yield batch
            batch, rows = [], 0
        batch.append(window)
        rows += len(window.context)
    if batch:
        yield batch


def _blind(window: Window) -> Window:
    """The window without its truth: what a forecaster may see."""
    assert window.future is not None
    future = window.future.copy()
    future[: window.num_targets + window.num_past] = np.nan
    return replace(window, future=future)


def _last(context: np.ndarray) -> float:
    observed = np.flatnonzero(np.isfinite(context))
    return float(context[observed[-1]]) if len(observed) else float("nan")


def _stamps(window: Window) -> tuple[int, int]:
    times = window.future_times
    return (NO_TIME, NO_TIME) if times is None else (int(times[0]), int(times[-1]))


def _too_short(corpus: Corpus, origins: Sequence[Origin]) -> LeftOut:
    present = {origin.series for origin in origins}
    absent = [series for series in range(corpus.num_series) if series not in present]
    examples = tuple(corpus.item_ids(absent[:3]))
    return LeftOut(
        "items", f"of {corpus.name} without room for one window, or outside the split", len(absent), examples
    )


def _count_rows(reason: np.ndarray, labels: np.ndarray) -> list[LeftOut]:
    found = []
    for text in sorted({str(r) for r in reason} - {""}):
        rows = np.flatnonzero(reason == text)
        found.append(LeftOut("rows", text, len(rows), tuple(dict.fromkeys(str(label) for label in labels[rows]))[:3]))
    return found
