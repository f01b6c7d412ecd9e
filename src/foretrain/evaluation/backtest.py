"""Rolling-origin backtest: what is known of each window of a panel without a model, and a model's forecasts.

Results are put back in the order of (corpus, series, cutoff) before anything is summed: one result for 1 or N
processes.

# N rows (one target of one window), H horizon, Q levels
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from foretrain.data.windows import NO_TIME, Window
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.baselines import BASELINES, baselines
from foretrain.evaluation.panel import LeftOut, Panel, ShardedWindows, WindowRef
from foretrain.evaluation.scored import INTERVAL, MEDIAN, Scored, seasonal_errors
from foretrain.forecasting.batching import forecast_paths
from foretrain.models.base import Forecaster, ForecastOptions, ForecastRequest
from foretrain.notes import Tally, added, once

DEFAULT_LEVELS = tuple(round(0.1 * k, 1) for k in range(1, 10))


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


class Forecasts(NamedTuple):
    """What a model forecast for the rows of a backtest."""

    quantiles: np.ndarray  # (N, H, Q)
    notes: tuple[Tally, ...]  # what the family has to tell of them


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
        self.panel, self.batch_size = panel, batch_size
        self.asked = tuple(round(float(level), 10) for level in levels)
        self.levels = with_needed(levels)
        self.baselines = tuple(dict.fromkeys(("naive", *baselines)))
        self.dealer = ShardedWindows(panel, batch_size, world)
        self._first = np.cumsum([0, *(len(panel.selections[place.corpus].targets) for place in panel.places)])
        self._ranks = _ranks(panel.places)
        self._gather_facts()

    # -- what does not depend on a model ---------------------------------------------------------------------------

    def _gather_facts(self) -> None:
        pieces = self.dealer.map(self._facts_of)
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
        self.item_keys, first, item = np.unique(keys, axis=0, return_index=True, return_inverse=True)
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

    def row_place(self, row: int) -> tuple[WindowRef, int]:
        """Window and target of a scored row."""
        number = int(np.flatnonzero(self._usable)[row])
        window = int(np.searchsorted(self._first, number, side="right")) - 1
        return self.panel.places[window], number - int(self._first[window])

    def _merge(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts)[self._order][self._usable]

    def _row_numbers(self, piece: int) -> np.ndarray:
        """Number of every row of a piece in the order of all rows."""
        return np.concatenate([np.arange(*self._first[k : k + 2].tolist()) for k in self.dealer.pieces[piece]])

    def _facts_of(self, piece: int) -> _Facts:
        panel = self.panel
        windows, places = self.dealer.windows(piece), [panel.places[k] for k in self.dealer.pieces[piece]]
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

    def _seasonal_errors(self, places: Sequence[WindowRef]) -> np.ndarray:
        """(rows,) MASE's denominator: from the whole past of each window, not from its context alone."""
        panel = self.panel
        found: dict[WindowRef, np.ndarray] = {}
        for key in dict.fromkeys(place[:2] for place in places):
            own = [place for place in places if place[:2] == key]
            values = panel.corpora[key[0]].values(key[1])[list(panel.selections[key[0]].targets)]
            errors = seasonal_errors(values, [place.cutoff for place in own], panel.seasons[key[0]])
            found |= dict(zip(own, errors, strict=True))
        return np.concatenate([found[place] for place in places])

    def _is_price(self, place: WindowRef, row: int) -> bool:
        corpus = self.panel.corpora[place.corpus]
        return corpus.columns[self.panel.selections[place.corpus].targets[row]] in corpus.manifest.price_columns

    def _unit(self, place: WindowRef, row: int) -> str:
        """Prices are in their item's currency and level, so no two items share a unit; other columns share theirs."""
        corpus = self.panel.corpora[place.corpus]
        column = corpus.columns[self.panel.selections[place.corpus].targets[row]]
        if self._is_price(place, row):
            return f"price of {self.panel.name(place.corpus)}/{place.series}"
        return f"{self.panel.name(place.corpus)}/{column}" if len(self.panel.corpora) > 1 else column

    # -- what a model adds -----------------------------------------------------------------------------------------

    def request(
        self,
        *,
        context_length: int | None = None,
        num_samples: int | None = None,
        seed: int = 0,
        options: ForecastOptions | None = None,
    ) -> ForecastRequest:
        """What a model is asked for here: the panel's horizon, at all levels of the backtest.

        context_length is for a model that sees less history than the panel's windows hold; None = all of it.
        """
        return ForecastRequest(
            prediction_length=self.panel.prediction_length,
            quantile_levels=self.levels,
            context_length=context_length or self.panel.context_length,
            batch_size=self.batch_size,
            num_samples=num_samples,
            seed=seed,
            options=options,
        )

    def forecast(
        self,
        model: Forecaster,
        request: ForecastRequest | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Forecasts:
        """The model's quantiles, as it gives them (not sorted), and its notes; further arguments as forecast_paths.

        The request is one of this backtest; None = with the family's defaults.
        A step with a level that is not finite is NaN at all levels: sorting would move its other levels into the gap.
        """
        asked = self.request() if request is None else request

        def work(piece: int) -> tuple[np.ndarray, tuple[Tally, ...]]:
            windows = [_blind(window) for window in self.dealer.windows(piece)]
            found = forecast_paths(
                model, windows, asked, keep_samples=False, device=device, dtype=dtype, progress=progress
            )
            return np.concatenate(found.quantiles), found.notes

        with once():
            parts = self.dealer.map(work)
        quantiles = self._merge([part for part, _ in parts])
        quantiles[~np.isfinite(quantiles).all(axis=2)] = np.nan
        return Forecasts(quantiles, added(tally for _, notes in parts for tally in notes))


def _ranks(places: Sequence[WindowRef]) -> dict[WindowRef, int]:
    """0 for the newest window of a series, 1 for the one before, ..."""
    ranks: dict[WindowRef, int] = {}
    seen: dict[tuple[int, int], int] = {}
    for place in reversed(places):
        key = (place.corpus, place.series)
        ranks[place] = seen.get(key, 0)
        seen[key] = ranks[place] + 1
    return ranks


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


def _count_rows(reason: np.ndarray, labels: np.ndarray) -> list[LeftOut]:
    found = []
    for text in sorted({str(r) for r in reason} - {""}):
        rows = np.flatnonzero(reason == text)
        found.append(LeftOut("rows", text, len(rows), tuple(dict.fromkeys(str(label) for label in labels[rows]))[:3]))
    return found
