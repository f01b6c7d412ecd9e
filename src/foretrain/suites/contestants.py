"""Contestants: a loaded model, baselines, the suite's own seasonal naive, and a Python function of the user.

# N rows (targets of all windows), V targets of a window, C steps of history, H horizon, Q levels
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foretrain.data.splits import window_key
from foretrain.data.windows import FloatArray, Window
from foretrain.evaluation.baselines import BASELINES, baselines
from foretrain.evaluation.scored import MEDIAN, Array
from foretrain.evaluation.validation import refuse_cross_learning
from foretrain.forecasting.batching import forecast_paths
from foretrain.models.base import Forecaster, ForecastRequest
from foretrain.models.output import OutputSettings
from foretrain.models.request import DECILES
from foretrain.notes import Tally, sum_tallies
from foretrain.suites.definition import BenchmarkTask
from foretrain.suites.naive import filled, seasonal_naive
from foretrain.suites.rows import BenchmarkWindow, Contestant

OWN = "seasonal_naive"  # that of the suite
NAMES = {OWN: OWN, "naive": "naive", "drift": "drift", "historical_mean": "historical_mean", "mean": "historical_mean"}
_BLANK = {"blank_missing": False}  # a forecast that is NaN could not be scored


def baseline(name: str) -> Contestant:
    """Return the baseline of one of NAMES."""
    return SuiteNaive() if NAMES[name] == OWN else NaiveMethod(name, NAMES[name])


@dataclass(frozen=True)
class SuiteNaive:
    """The seasonal naive that a suite publishes beside its figures (suites/naive.py)."""

    name: str = OWN
    takes_covariates: bool = False

    def forecast(self, windows: Sequence[BenchmarkWindow], task: BenchmarkTask) -> Array:
        """Return (N, 1 + Q, H); NaN where the suite's mode has no forecast."""
        rule, suite = task.definition, task.suite
        season = rule.baseline_seasonality or rule.seasonality
        found = []
        for window in windows:
            known = np.stack([filled(row) for row in window.history])[:, -(suite.baseline_context or sys.maxsize) :]
            found.append(seasonal_naive(known, season, rule.horizon, suite.quantile_levels, suite.baseline))
        # fev's published baseline has 0 where it has nothing
        return np.nan_to_num(np.concatenate(found), nan=0.0) if suite.metrics_of == "fev" else np.concatenate(found)


@dataclass(frozen=True)
class NaiveMethod:
    """A baseline of evaluations, with their empirical intervals (evaluation/baselines.py); the median is its point.

    A history without a value is forecast as 0, as the suites' seasonal naive does.
    """

    name: str
    method: str  # a key of BASELINES
    takes_covariates: bool = False

    def __post_init__(self) -> None:
        assert self.method in BASELINES

    def forecast(self, windows: Sequence[BenchmarkWindow], task: BenchmarkTask) -> Array:
        """Return (N, 1 + Q, H)."""
        histories = [row for window in windows for row in window.history]
        levels, horizon = task.suite.quantile_levels, task.definition.horizon
        found = baselines((self.method,), histories, horizon, levels, task.definition.seasonality)[self.method]
        empty = [not np.isfinite(row).any() for row in histories]
        found[empty] = 0.0
        return with_point(np.moveaxis(found, 1, 2), levels)


@dataclass
class LoadedModel:
    """A model of this package. It forecasts on its own device, in its own precision.

    name: what results call it; model: what forecasts; context_length: newest steps that it reads, None = as many as it
    can; output: what is done to its forecasts (never blank_missing); options: its family's, None = the defaults.
    """

    name: str
    model: Forecaster
    context_length: int | None = None
    output: OutputSettings = OutputSettings()  # noqa: RUF009  # immutable
    options: Any = None
    batch_size: int = 256  # rows, covariates included, of a forward pass
    max_memory: int | None = None  # bytes of a forecast; None = no bound
    takes_covariates: bool = False  # whether its family reads them
    point: str = field(default="median", init=False)  # what the newest point forecasts are
    _notes: tuple[Tally, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        refuse_cross_learning(self.options)

    def forecast(self, windows: Sequence[BenchmarkWindow], task: BenchmarkTask) -> Array:
        """Return (N, 1 + Q, H). The point is the family's mean, if it has one, where wants_mean; else the median."""
        levels = task.suite.quantile_levels
        # the deciles too, as a forecast of a frame does: what is sorted changes the values
        more = tuple(level for level in DECILES if level not in levels) if self.output.sort_quantiles else ()
        request = ForecastRequest(
            prediction_length=task.definition.horizon,
            quantile_levels=(*levels, *more),
            context_length=self.longest,
            batch_size=self.batch_size,
            max_memory=self.max_memory,
            options=self.options,
            **(self.output.model_dump() | _BLANK),
        )
        alone = [one for window in windows for one in (window.split() if task.suite.together else [window])]
        found = forecast_paths(
            self.model, [model_window(window, self.longest) for window in alone], request, keep_samples=False
        )
        quantiles = np.moveaxis(np.concatenate(found.quantiles)[..., : len(levels)].astype(np.float64), 1, 2)
        self._notes = sum_tallies([*self._notes, *found.notes])
        result = with_point(quantiles, levels)
        self.point = "median" if found.mean is None or not wants_mean(task) else "mean"
        if found.mean is not None and self.point == "mean":
            result[:, 0] = np.concatenate(found.mean)
        return result

    def take_notes(self) -> tuple[Tally, ...]:
        """Return the family's notes on all forecasts since the last call."""
        notes, self._notes = self._notes, ()
        return notes

    @property
    def longest(self) -> int:
        """Newest steps of history that it reads."""
        return min(self.context_length or self.model.max_context_length, self.model.max_context_length)


def wants_mean(task: BenchmarkTask) -> bool:
    """Return whether a metric of the suite scores the mean forecast, as those called [mean] of gluonts do."""
    return any("[mean]" in name for name in task.suite.metrics.values())


def with_point(quantiles: Array, levels: Sequence[float]) -> Array:
    """Return quantiles (N, Q, H) with the median before them as point forecast: (N, 1 + Q, H)."""
    middle = list(levels).index(MEDIAN)
    return np.concatenate([quantiles[:, middle : middle + 1], quantiles], axis=1)


def model_window(window: BenchmarkWindow, longest: int) -> Window:
    """Return a window as models of this package take it, with the newest `longest` steps; the truth is NaN."""
    steps = window.history.shape[1]
    past, known = window.covariates.past, window.covariates.known
    rows = [*window.history, *past.values(), *(values[:steps] for values in known.values())]
    future = None
    if known:
        ahead = np.stack([values[steps:] for values in known.values()])
        unknown = np.full((len(rows) - len(known), ahead.shape[1]), np.nan)
        future = _float32(np.concatenate([unknown, ahead]))
    return Window(
        context=_float32(np.stack([row[-longest:] for row in rows])),
        num_targets=len(window.targets),
        num_past=len(past),
        future=future,
        context_times=None if window.stamps is None else window.stamps[-longest:].astype(np.int64),
        future_times=None if window.future_stamps is None else window.future_stamps.astype(np.int64),
        item_id=window.item_id,
        key=window_key(window.item_id, window.cutoff),
        names=(*window.targets, *past, *known),
    )


def _float32(values: Array) -> FloatArray:
    """Return values as models read them; what float32 cannot hold is NaN."""
    with np.errstate(over="ignore"):
        found = values.astype(np.float32)
    return np.where(np.isfinite(found), found, np.float32(np.nan))
