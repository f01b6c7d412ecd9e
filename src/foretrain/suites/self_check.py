"""Seasonal naive on every task whose data are there, held against the published tables.

A harness that has a window, a derivation, a baseline or a metric wrong does not get these figures. Figures agree
within TOLERANCE, relative; of tables that are rounded to a number of decimals within half a unit of the last one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from foretrain.errors import DataError
from foretrain.suites.definition import BenchmarkTask, tasks_of
from foretrain.suites.published import published_figures, published_table
from foretrain.suites.score import find_data, load_data, score_naive, where_to_get

TOLERANCE = 5e-4  # relative difference up to which figures agree
ROUNDING = 1 + 1e-9  # half a unit of the last decimal is no binary number
SCHEMA = 1  # of the JSON
MOST_DIGITS = 16


@dataclass(frozen=True)
class FigureCheck:
    """A metric of a task: what was published and what was found."""

    published: float
    found: float
    decimals: int | None = None  # to which the published one is rounded; None = it has all digits

    @property
    def agrees(self) -> bool:
        """Whether they differ by no more than the tolerance, or than rounding explains."""
        if self.decimals is None:
            return self.difference <= TOLERANCE
        return abs(self.found - self.published) <= 0.5 * 10.0**-self.decimals * ROUNDING

    @property
    def difference(self) -> float:
        """Relative difference; NaN if a figure is none."""
        if self.found == self.published:
            return 0.0
        return abs(self.found - self.published) / abs(self.published) if self.published else math.inf

    @property
    def ratio(self) -> float:
        """Found over published."""
        return self.found / self.published if self.published else math.nan

    @property
    def digits(self) -> int:
        """Leading digits in which the figures agree."""
        return agreeing_digits(self.difference)


@dataclass(frozen=True)
class TaskCheck:
    """What the check of a task came to."""

    suite: str
    task: str
    state: Literal["agreed", "disagreed", "failed", "absent"]
    metrics: dict[str, FigureCheck] = field(default_factory=dict)
    dataset: str = ""  # its name in the suite's repository
    data: str = ""  # where the series came from
    remedy: str = ""  # of an absent or failed one
    series: int = 0
    seconds: float = 0.0

    @property
    def digits(self) -> int:
        """The fewest agreeing digits of its metrics."""
        return min((comparison.digits for comparison in self.metrics.values()), default=0)


def agreeing_digits(difference: float) -> int:
    """Return the leading digits in which two figures agree, from their relative difference."""
    if not math.isfinite(difference):
        return 0
    return MOST_DIGITS if difference == 0 else min(max(0, math.floor(-math.log10(difference))), MOST_DIGITS)


def check_task(task: BenchmarkTask, root: Path) -> TaskCheck:
    """Return the check of a task. Data that cannot be read or cut make it failed, not an error."""
    named, dataset = (task.suite_name, task.name), task.definition.dataset
    if find_data(task, root) is None:
        return TaskCheck(*named, "absent", dataset=dataset, remedy=where_to_get(task, root))
    began = time.monotonic()
    try:
        data = load_data(task, root)
        found = score_naive(task, data.series)
    except DataError as error:
        return TaskCheck(*named, "failed", dataset=dataset, remedy=str(error))
    decimals = task.suite.published_decimals
    metrics = {name: FigureCheck(value, found[name], decimals) for name, value in published_figures(task).items()}
    agreed = all(comparison.agrees for comparison in metrics.values())
    return TaskCheck(
        *named,
        "agreed" if agreed else "disagreed",
        metrics,
        dataset=dataset,
        data=data.origin,
        series=len(data.series),
        seconds=time.monotonic() - began,
    )


def report(checks: Sequence[TaskCheck], suites: Sequence[str], root: Path) -> dict[str, Any]:
    """Return all checks as JSON: counts, tolerance, sources of the published tables, and one entry a task."""
    tables = {check.suite: source_of(check.suite) for check in checks}
    return {
        "schema": SCHEMA,
        "suites": list(suites),
        "data_root": str(root),
        "tolerance": TOLERANCE,
        "decimals": {suite: decimals for suite in tables if (decimals := decimals_of(suite)) is not None},
        "published": tables,
        "counts": counts(checks),
        "tasks": [_entry(check) for check in checks],
    }


def counts(checks: Sequence[TaskCheck]) -> dict[str, int]:
    """Return how many tasks agreed, disagreed, failed and were absent."""
    return {
        state: sum(check.state == state for check in checks) for state in ("agreed", "disagreed", "failed", "absent")
    }


def source_of(suite: str) -> str:
    """Return where the figures of a suite were published."""
    return published_table(tasks_of(suite)[0].suite.published).source


def decimals_of(suite: str) -> int | None:
    """Return the decimals to which the published figures of a suite are rounded, by which they are then compared."""
    return tasks_of(suite)[0].suite.published_decimals


def _entry(check: TaskCheck) -> dict[str, Any]:
    entry = asdict(check) | {"seconds": round(check.seconds, 3)}
    entry["metrics"] = {
        name: {"published": one.published, "found": _finite(one.found), "difference": _finite(one.difference)}
        for name, one in check.metrics.items()
    }
    return entry | ({"digits": check.digits} if check.metrics else {})


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
