"""Rolling-origin backtest: truth and baselines of the windows of a panel, and a model's forecasts of them.

Results are sorted by (corpus, series, cutoff) before anything is summed, so 1 or N processes give the same result.

# N rows (one target of one window), H horizon, Q levels
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from foretrain.data.asof import as_of
from foretrain.data.windows import NO_TIME, Window
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.baselines import BASELINES, FOUND, SEASONAL, STATISTICAL, baselines
from foretrain.evaluation.panel import LeftOut, Panel, ShardedWindows, WindowRef
from foretrain.evaluation.scored import INTERVAL, MEDIAN, Scored, seasonal_errors
from foretrain.evaluation.season_rows import season_rows
from foretrain.evaluation.statistical import check_names, replaced_notes, statistical_baseline
from foretrain.forecasting.batching import forecast_paths
from foretrain.forecasting.scaling import SCALE_CODES
from foretrain.models.base import Forecaster, ForecastOptions, ForecastRequest
from foretrain.models.memory import memory_bytes
from foretrain.models.output import RAW, OutputSettings
from foretrain.models.request import DECILES
from foretrain.notes import Tally, once, sum_tallies

DEFAULT_LEVELS = tuple(round(0.1 * k, 1) for k in range(1, 10))


def with_needed(levels: Sequence[float]) -> tuple[float, ...]:
    """Return the levels and those that every report needs (.1, .5, .9), ascending.

    Raises ConfigError if there is none or one is outside (0, 1).
    """
    asked = [round(float(level), 10) for level in levels]
    if not asked or any(not 0 < level < 1 for level in asked):
        raise ConfigError(f"quantile_levels: {list(levels)} must be numbers between 0 and 1, at least one.")
    return tuple(sorted({*asked, *INTERVAL, MEDIAN}))


@dataclass(frozen=True)
class _RowData:
    """Truth and baselines of the rows of a chunk, which need no model; arrays have one entry per row."""

    fields: dict[str, np.ndarray]  # fields of Scored
    keys: np.ndarray  # (rows, 3) corpus, series, target
    labels: list[str]
    units: list[str]
    usable: np.ndarray  # bool: the context has an observed value, and so has the horizon
    reason: np.ndarray  # why a row is not usable; "" if it is
    quantiles: dict[str, np.ndarray]  # baseline -> (rows, H, Q)
    replaced: dict[str, int]  # statistical baseline -> rows with naive's forecast


class Forecasts(NamedTuple):
    """A model's forecasts of the rows of a backtest."""

    quantiles: np.ndarray  # (N, H, Q)
    notes: tuple[Tally, ...]  # the family's notes about them
    crossed: np.ndarray  # (N, H) True where quantiles crossed before they were sorted


class Backtest:
    """Rows of a panel on which any number of models are scored; truth and baselines are computed once.

    All processes of the world call each method together, and each gets the same result.
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
        check_names(baselines)
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it counts rows and is at least 1.")
        self.panel, self.batch_size = panel, batch_size
        self.asked = tuple(round(float(level), 10) for level in levels)
        self.levels = with_needed(levels)
        self.seasons = season_rows(panel, ("naive", *baselines))
        self.baselines = self.seasons.names
        self.sharded = ShardedWindows(panel, batch_size, world)
        self._first = np.cumsum([0, *(len(panel.selections[ref.corpus].targets) for ref in panel.refs)])
        self._ranks = _ranks(panel.refs)
        self._prepare_rows()

    # -- independent of the model ----------------------------------------------------------------------------------

    def _prepare_rows(self) -> None:
        chunks = self.sharded.map(self._row_data)
        order = np.argsort(np.concatenate([self._row_numbers(k) for k in range(len(chunks))]), kind="stable")
        usable = np.concatenate([chunk.usable for chunk in chunks])[order]
        reason = np.concatenate([chunk.reason for chunk in chunks])[order]
        labels = np.array([label for chunk in chunks for label in chunk.labels], object)[order]
        units = np.array([unit for chunk in chunks for unit in chunk.units], object)[order]
        self._order, self._usable = order, usable
        self.left_out = [*self.panel.left_out, *_count_rows(reason, labels)]
        if not usable.any():
            raise DataError(
                "no window to score: " + "; ".join(f"{left.count} {left.what} {left.reason}" for left in self.left_out)
            )
        fields = {name: self._usable_rows([chunk.fields[name] for chunk in chunks]) for name in chunks[0].fields}
        keys = self._usable_rows([chunk.keys for chunk in chunks])
        self.item_keys, first, item = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        quantiles = {name: self._usable_rows([chunk.quantiles[name] for chunk in chunks]) for name in self.baselines}
        counts = {name: sum(chunk.replaced[name] for chunk in chunks) for name in chunks[0].replaced}
        self.notes = replaced_notes(counts, len(usable))
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
        """Number of windows with at least one scored row."""
        return len(np.unique(np.searchsorted(self._first, np.flatnonzero(self._usable), side="right")))

    def row_ref(self, row: int) -> tuple[WindowRef, int]:
        """Return the window and the index of the target of a scored row."""
        number = int(np.flatnonzero(self._usable)[row])
        window = int(np.searchsorted(self._first, number, side="right")) - 1
        return self.panel.refs[window], number - int(self._first[window])

    def _usable_rows(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Join the arrays of all chunks; return their usable rows, sorted."""
        return np.concatenate(parts)[self._order][self._usable]

    def _row_numbers(self, chunk: int) -> np.ndarray:
        """Return the positions of a chunk's rows among all rows, usable or not."""
        return np.concatenate([np.arange(*self._first[k : k + 2].tolist()) for k in self.sharded.chunks[chunk]])

    def _row_data(self, chunk: int) -> _RowData:
        panel = self.panel
        windows, refs = self.sharded.windows(chunk), [panel.refs[k] for k in self.sharded.chunks[chunk]]
        contexts = [window.context[row] for window in windows for row in range(window.num_targets)]
        target = np.concatenate([window.future[: window.num_targets] for window in windows])  # type: ignore[index]
        rows = [(ref, row) for ref, w in zip(refs, windows, strict=True) for row in range(w.num_targets)]
        starts, ends = zip(*(_stamps(w) for w in windows for _ in range(w.num_targets)), strict=True)
        last = np.array([_last(context) for context in contexts])
        has_past, has_truth = np.isfinite(last), np.isfinite(target).any(1)
        reason = np.where(
            has_past, np.where(has_truth, "", "without a value to score"), "without a value to start from"
        )
        fields = {
            "target": target.astype(np.float64),
            "last": last,
            "seasonal_error": self._seasonal_errors(refs),
            "price": np.array([self._is_price(ref, row) for ref, row in rows]),
            "cutoff": np.array([ref.cutoff for ref, _ in rows], np.int64),
            "rank": np.array([self._ranks[ref] for ref, _ in rows], np.int64),
            "start": np.array(starts, np.int64),
            "end": np.array(ends, np.int64),
        }
        quantiles, replaced = self._baselines(np.array([ref.corpus for ref, _ in rows]), contexts, windows)
        return _RowData(
            fields=fields,
            keys=np.array([(ref.corpus, ref.series, row) for ref, row in rows], np.int64),
            labels=[panel.label(ref, row) for ref, row in rows],
            units=[self._unit(ref, row) for ref, row in rows],
            usable=has_past & has_truth,
            reason=reason,
            quantiles=quantiles,
            replaced=replaced,
        )

    def _baselines(
        self, corpus: np.ndarray, contexts: Sequence[np.ndarray], windows: Sequence[Window]
    ) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """Return each baseline's quantiles (rows, H, Q), and how many rows of statistical ones have naive's instead.

        corpus (rows,) and contexts are those of the rows.
        """
        horizon, seasons = self.panel.prediction_length, self.seasons
        quantiles = {name: np.empty((len(contexts), horizon, len(self.levels)), np.float32) for name in self.baselines}
        usual = [name for name in self.baselines if name != FOUND and name not in STATISTICAL]
        replaced = {name: 0 for name in self.baselines if name in STATISTICAL}
        stamps: list[Any] = [(w.context_times, w.future_times) for w in windows for _ in range(w.num_targets)]
        kinds = np.array([seasons.steps[SEASONAL], seasons.steps[FOUND], seasons.by_clock])[:, corpus].T
        for kind in np.unique(kinds, axis=0):
            chosen = np.flatnonzero((kinds == kind).all(1)).tolist()
            histories = [contexts[k] for k in chosen]
            own = [stamps[k] for k in chosen] if kind[2] and SEASONAL in usual else None
            found = baselines(usual, histories, horizon, self.levels, int(kind[0]), own)
            if FOUND in self.baselines:
                found |= baselines((FOUND,), histories, horizon, self.levels, int(kind[1]))
            for name in replaced:
                found[name], count = statistical_baseline(name, histories, horizon, self.levels, int(kind[0]))
                replaced[name] += count
            for name, values in found.items():
                quantiles[name][chosen] = values
        return quantiles, replaced

    def _seasonal_errors(self, refs: Sequence[WindowRef]) -> np.ndarray:
        """Return MASE's denominators (rows,), from the whole past of each window, not from its context alone."""
        panel = self.panel
        found: dict[WindowRef, np.ndarray] = {}
        for key in dict.fromkeys(ref[:2] for ref in refs):
            own = [ref for ref in refs if ref[:2] == key]
            corpus, targets = panel.corpora[key[0]], list(panel.selections[key[0]].targets)
            # one scale for all cutoffs of a series, unless prices are as of each
            groups = [own] if corpus.manifest.adjustment is None else [[ref] for ref in own]
            for group in groups:
                values = as_of(corpus, corpus.values(key[1]), group[0].cutoff)[targets]
                errors = seasonal_errors(values, [ref.cutoff for ref in group], panel.seasons[key[0]])
                found |= dict(zip(group, errors, strict=True))
        return np.concatenate([found[ref] for ref in refs])

    def _is_price(self, ref: WindowRef, row: int) -> bool:
        corpus = self.panel.corpora[ref.corpus]
        return corpus.columns[self.panel.selections[ref.corpus].targets[row]] in corpus.manifest.price_columns

    def _unit(self, ref: WindowRef, row: int) -> str:
        """Return the unit of a row: of prices one per item (its currency and level), else one per column."""
        corpus = self.panel.corpora[ref.corpus]
        column = corpus.columns[self.panel.selections[ref.corpus].targets[row]]
        if self._is_price(ref, row):
            return f"price of {self.panel.name(ref.corpus)}/{ref.series}"
        return f"{self.panel.name(ref.corpus)}/{column}" if len(self.panel.corpora) > 1 else column

    # -- forecasts of a model --------------------------------------------------------------------------------------

    def request(
        self,
        *,
        context_length: int | None = None,
        num_samples: int | None = None,
        seed: int = 0,
        rescale: bool | None = None,
        options: ForecastOptions | None = None,
        output: OutputSettings = RAW,
        max_memory: int | str | None = None,
    ) -> ForecastRequest:
        """What a model is asked for here: the panel's horizon, at all levels of the backtest.

        context_length is for a model that sees less history than the panel's windows hold; None = all of it. output is
        what is done to the forecasts; by default nothing. max_memory bounds the forecast of a chunk of windows.
        """
        return ForecastRequest(
            prediction_length=self.panel.prediction_length,
            quantile_levels=self.levels,
            context_length=context_length or self.panel.context_length,
            batch_size=self.batch_size,
            max_memory=memory_bytes(max_memory),
            num_samples=num_samples,
            seed=seed,
            rescale=rescale,
            options=options,
            **output.model_dump(),
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
        """The model's quantiles, and its notes; further arguments as forecast_paths.

        The request is one of this backtest; None = with the family's defaults, and quantiles as the model gives them.
        A step with a level that is not finite is NaN at all levels, so that a metric of some of them is NaN too.
        """
        asked = self.request() if request is None else request
        if asked.sort_quantiles:  # the deciles too, as a forecast of a frame does: what is sorted changes the values
            more = tuple(level for level in DECILES if level not in asked.quantile_levels)
            asked = asked.changed(quantile_levels=(*asked.quantile_levels, *more))

        def work(chunk: int) -> tuple[np.ndarray, np.ndarray, tuple[Tally, ...]]:
            windows = [_without_truth(window) for window in self.sharded.windows(chunk)]
            found = forecast_paths(
                model, windows, asked, keep_samples=False, device=device, dtype=dtype, progress=progress
            )
            return np.concatenate(found.quantiles)[..., : len(self.levels)], np.concatenate(found.crossed), found.notes

        with once():
            parts = self.sharded.map(work)
        quantiles = self._usable_rows([part for part, *_ in parts])
        crossed = self._usable_rows([crossings for _, crossings, _ in parts])
        broken = ~np.isfinite(quantiles).all(axis=2)
        quantiles[broken] = np.nan
        found, total = sum_tallies(tally for *_, notes in parts for tally in notes), len(self.panel.refs)
        # a chunk without the event has no tally, so that only the panel knows the number of all windows
        tallies = tuple(
            replace(tally, counts={**tally.counts, "windows": total}) if tally.code in SCALE_CODES else tally
            for tally in found
        )
        return Forecasts(quantiles, tallies, crossed & ~broken)


def _ranks(refs: Sequence[WindowRef]) -> dict[WindowRef, int]:
    """Return the rank of each window in its series: 0 for the newest, 1 for the one before, ..."""
    ranks: dict[WindowRef, int] = {}
    seen: dict[tuple[int, int], int] = {}
    for ref in reversed(refs):
        key = (ref.corpus, ref.series)
        ranks[ref] = seen.get(key, 0)
        seen[key] = ranks[ref] + 1
    return ranks


def _without_truth(window: Window) -> Window:
    """Return the window without the future of its targets and past covariates: what a forecaster may see."""
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
