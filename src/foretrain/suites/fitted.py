"""Contestants that are fitted: statistical models to each history, a linear model to the histories of a task.

# N rows (targets of all windows), H horizon, Q levels
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from foretrain.errors import DataError
from foretrain.evaluation.baselines import STATISTICAL
from foretrain.evaluation.scored import Array
from foretrain.evaluation.statistical import statistical_baseline
from foretrain.models.linear.ridge import Examples, fit_linear
from foretrain.notes import Code, Tally, sum_tallies
from foretrain.suites.contestants import LoadedModel, with_point
from foretrain.suites.definition import BenchmarkTask
from foretrain.suites.rows import BenchmarkWindow, TaskRows

LINEAR = "linear"
_SHORTEST, _LONGEST = 32, 512  # steps that the linear model reads
_MOST = 10_000  # windows that it is fitted to, evenly spread over all of a task's
_NEWEST = 5  # the newest of so many windows of a series is held out


@dataclass
class StatisticalMethod:
    """A model of statsforecast, fitted to each history (evaluation/statistical.py); the median is its point forecast.

    Of suites that give their own baseline the newest steps alone, it reads as many. A history without a value is
    forecast as 0, as by other baselines.
    """

    name: str  # a key of STATISTICAL
    takes_covariates: bool = field(default=False, init=False)
    point: str = field(default="median", init=False)
    _replaced: int = field(default=0, init=False)
    _rows: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        assert self.name in STATISTICAL

    def forecast(self, windows: Sequence[BenchmarkWindow], task: BenchmarkTask) -> Array:
        """Return (N, 1 + Q, H). Raises ConfigError if statsforecast is not installed."""
        suite, rule = task.suite, task.definition
        longest = suite.baseline_context or sys.maxsize
        histories = [row[-longest:] for window in windows for row in window.history]
        found = statistical_baseline(self.name, histories, rule.horizon, suite.quantile_levels, rule.seasonality)
        found.quantiles[[not np.isfinite(row).any() for row in histories]] = 0.0
        self._replaced += found.replaced
        self._rows += len(histories)
        return with_point(np.moveaxis(found.quantiles, 1, 2), suite.quantile_levels)

    def take_notes(self) -> tuple[Tally, ...]:
        """Return how many rows of all forecasts since the last call have naive's instead."""
        counts = {"rows": self._replaced, "of": self._rows}
        self._replaced = self._rows = 0
        text = f"{STATISTICAL[self.name]} could not be fitted to {{rows:,}} of {{of:,}} rows, which have naive's"
        return (Tally(Code.BASELINE_REPLACED, text, counts),)


@dataclass
class TaskLinear:
    """The linear model (models/linear), fitted to each task anew by ridge regression; knows nothing of other tasks.

    It is fitted to the steps of each scored item before that item's first scored window, and forecasts each target
    alone. Every process fits it by itself, in float64.
    """

    name: str = field(default=LINEAR, init=False)
    takes_covariates: bool = field(default=False, init=False)
    point: str = field(default="median", init=False)
    _rows: TaskRows | None = field(default=None, init=False)
    _model: LoadedModel | None = field(default=None, init=False)
    _notes: tuple[Tally, ...] = field(default=(), init=False)

    def begin(self, rows: TaskRows) -> None:
        """Take the task that the next forecasts belong to; it is fitted at the first of them."""
        self._rows, self._model, self._notes = rows, None, ()

    def forecast(self, windows: Sequence[BenchmarkWindow], task: BenchmarkTask) -> Array:
        """Return (N, 1 + Q, H). Raises DataError if no history is long enough to be fitted to."""
        assert self._rows is not None and self._rows.task is task
        if self._model is None:
            examples = examples_of(self._rows)
            self._model = LoadedModel(self.name, fit_linear(examples))
            self._notes = (_fitted(examples),)
        return self._model.forecast(windows, task)

    def take_notes(self) -> tuple[Tally, ...]:
        """Return what it was fitted to, and the family's notes on all forecasts since the last call."""
        more = () if self._model is None else self._model.take_notes()
        notes, self._notes = sum_tallies([*self._notes, *more]), ()
        return notes


def examples_of(rows: TaskRows) -> Examples:
    """Return windows of the scored items' histories before their first scored ones. Raises DataError without any.

    Each has a season or a horizon of history, whichever is longer, or all that the model reads. The newest fifth of a
    series is held out; what overlaps with it is in neither part.
    """
    rule = rows.task.definition
    longest = min(max(2 * rule.seasonality, 2 * rule.horizon, _SHORTEST), _LONGEST, rule.max_context or sys.maxsize)
    least = min(longest, max(rule.seasonality, rule.horizon))
    first: dict[int, int] = {}
    for cut in rows.cuts:
        first[cut.series] = min(cut.cutoff, first.get(cut.series, cut.cutoff))
    series = [row for item, end in first.items() for row in rows.series[item].values[:, :end]]
    counts = np.array([max(len(row) - rule.horizon - least + 1, 0) for row in series], np.int64)
    ends = np.cumsum(counts)
    chosen = np.unique(np.linspace(0, ends[-1] - 1, min(int(ends[-1]), _MOST)).astype(np.int64)) if ends[-1] else []
    contexts, futures, old, held_out = list[Array](), list[Array](), list[bool](), list[bool]()
    for number in chosen:
        k = int(np.searchsorted(ends, number, side="right"))
        place = int(number - ends[k] + counts[k])  # among the windows of its series, the oldest first
        cutoff, newest = least + place, int(counts[k] - max(counts[k] // _NEWEST, 1))
        future = series[k][cutoff : cutoff + rule.horizon]
        history = series[k][max(cutoff - longest, 0) : cutoff]
        if not np.isfinite(future).all() or not np.isfinite(history).any():
            continue
        contexts.append(np.pad(history, (longest - len(history), 0), constant_values=np.nan))
        futures.append(future)
        held_out.append(place >= newest)
        old.append(place <= newest - rule.horizon)
    if not contexts:
        raise DataError(f"no history before the first scored window has the {least + rule.horizon} steps to fit to.")
    return Examples(np.stack(contexts), np.stack(futures), np.array(old), np.array(held_out))


def _fitted(examples: Examples) -> Tally:
    """Return what the linear model was fitted to, as an event that every process has alike."""
    (count, steps), horizon = examples.contexts.shape, examples.futures.shape[1]
    held = int(examples.held_out.sum()) if examples.old.any() else 0
    how = f"{held:,} held-out ones" if held else "the same, as histories are short, so they are too narrow"
    text = (
        f"{horizon} steps are regressed on {steps} before them, fitted to {count:,} earlier windows, with intervals "
        f"by errors on {how}"
    )
    return Tally(Code.LINEAR_FITTED, text, {"fits": 1})
