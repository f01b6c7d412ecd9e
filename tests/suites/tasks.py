"""Small tasks and series for tests of suites."""

from __future__ import annotations

from typing import Any

import numpy as np

from foretrain.suites.definition import BenchmarkTask, SuiteDefinition
from foretrain.suites.raw_files import BenchmarkSeries

LEVELS = (0.1, 0.5, 0.9)


def task(
    rule: str = "offset",
    baseline: str = "point",
    metrics_of: str = "gluonts",
    metrics: dict[str, str] | None = None,
    baseline_context: int | None = None,
    **definition: Any,
) -> BenchmarkTask:
    """A task `small` of a suite `test`."""
    suite = SuiteDefinition.model_validate({
        "title": "a test", "origin": "here", "licence": "none", "rule": rule, "baseline": baseline,
        "hub": {"repository": "someone/sets", "layout": "parquet"}, "metrics_of": metrics_of,
        "baseline_context": baseline_context, "metrics": metrics or {"MASE": "MASE[0.5]"}, "eval_metric": "MASE",
        "quantile_levels": LEVELS, "published": "test.csv",
        "tasks": {"small": {"horizon": 2, "freq": "D", "seasonality": 1, "dataset": "small"} | definition},
    })  # fmt: skip
    return BenchmarkTask("small", "test", suite, suite.tasks["small"])


def series(values: Any, *, item: str = "a", stamps: Any = None, variates: tuple[str, ...] = ("target",)):
    """An item; values (T,) or (V, T)."""
    return BenchmarkSeries(item, variates, np.atleast_2d(np.asarray(values, np.float64)), stamps)
