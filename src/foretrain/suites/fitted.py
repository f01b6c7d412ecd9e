"""Contestants that are fitted: statistical models, to each history by itself.

# N rows (targets of all windows), H horizon, Q levels
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from foretrain.evaluation.baselines import STATISTICAL
from foretrain.evaluation.scored import Array
from foretrain.evaluation.statistical import statistical_baseline
from foretrain.notes import Code, Tally
from foretrain.suites.contestants import with_point
from foretrain.suites.definition import BenchmarkTask
from foretrain.suites.rows import BenchmarkWindow


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
