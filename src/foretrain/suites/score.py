"""Data of a benchmark task, and the metrics of a seasonal naive on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foretrain.errors import DataError
from foretrain.evaluation.library_metrics import METRICS_OF, Instances
from foretrain.suites.definition import BenchmarkTask, raw_sources
from foretrain.suites.derive import derived
from foretrain.suites.naive import filled, seasonal_naive
from foretrain.suites.raw_files import BenchmarkSeries, missing_files, read_corpus, read_hub_parquet, read_raw
from foretrain.suites.windows import Cut, windows_of


@dataclass(frozen=True)
class TaskData:
    """Series of a task, and where they were read from."""

    series: list[BenchmarkSeries]
    origin: str


def find_data(task: BenchmarkTask, root: Path) -> str | None:
    """Return what of a task's data is below the root: "corpus", "hub" or "raw"; None if nothing is."""
    if (root / task.suite_name / task.name / "state.json").is_file():
        return "corpus"
    hub = root / task.suite.hub.folder / task.definition.dataset
    pattern = "*.parquet" if task.suite.hub.layout == "parquet" else "state.json"
    if hub.is_dir() and next(hub.rglob(pattern), None) is not None:
        return "hub"
    raw = task.definition.raw
    return "raw" if raw is not None and not missing_files(root, raw_sources()[raw.source]) else None


def where_to_get(task: BenchmarkTask, root: Path) -> str:
    """Return what to put where, for a task whose data are absent: raw files if the task can be made from them."""
    hub = task.suite.hub
    if task.definition.raw is None:
        return f"data sets of {hub.repository} into {root / hub.folder}"
    source = raw_sources()[task.definition.raw.source]
    files = " and ".join(missing_files(root, source) or source.files)
    packed = f" or {source.archive}" if source.archive else ""
    return f"{files}{packed}, from {source.origin}, into {root}"


def load_data(task: BenchmarkTask, root: Path) -> TaskData:
    """Return the series of a task: its corpus, else the suite's own data set, else derived from raw files.

    Raises DataError if there are none, or they cannot be read.
    """
    kind, targets = find_data(task, root), task.definition.targets
    if kind is None:
        raise DataError(f"{task.suite_name}/{task.name}: no data. Put {where_to_get(task, root)}.")
    if kind == "raw" and task.definition.raw is not None:
        use = task.definition.raw
        series = read_raw(root, raw_sources()[use.source], use)
        if use.derive is not None:
            series = [derived(one, use.derive) for one in series]
        return TaskData([one.select(_within(targets, one)) for one in series], use.source)
    if kind == "corpus":
        folder = root / task.suite_name / task.name
        return TaskData(read_corpus(folder, targets), str(folder))
    folder = root / task.suite.hub.folder / task.definition.dataset
    read = read_hub_parquet if task.suite.hub.layout == "parquet" else read_corpus
    return TaskData(read(folder, targets), str(folder))


def score_naive(task: BenchmarkTask, series: Sequence[BenchmarkSeries]) -> dict[str, float]:
    """Return the published metrics of a task, of the seasonal naive that its suite publishes. Raises DataError."""
    rows = naive_instances(task, series, windows_of(task, series))
    found = METRICS_OF[task.suite.metrics_of][1](rows)
    return {published: found[name] for published, name in task.suite.metrics.items()}


def naive_instances(task: BenchmarkTask, series: Sequence[BenchmarkSeries], cuts: Sequence[Cut]) -> Instances:
    """Return truth and seasonal naive of every variate of every window."""
    rule, suite = task.definition, task.suite
    levels, season = suite.quantile_levels, rule.baseline_seasonality or rule.seasonality
    rows = [(cut, variate) for cut in cuts for variate in range(len(series[cut.series].variates))]
    target = np.empty((len(rows), rule.horizon))
    forecasts = np.empty((len(rows), 1 + len(levels), rule.horizon))
    errors = np.empty(len(rows))
    for row, (cut, variate) in enumerate(rows):
        values = series[cut.series].values[variate]
        history = values[_start(task, cut) : cut.cutoff]
        target[row] = values[cut.cutoff : cut.cutoff + rule.horizon]
        errors[row] = METRICS_OF[suite.metrics_of][0](history, rule.seasonality)
        known = filled(history)[-(suite.baseline_context or len(history)) :]
        forecasts[row] = seasonal_naive(known, season, rule.horizon, levels, suite.baseline)
    if suite.metrics_of == "fev":  # of which the published baseline has 0 where it has nothing
        forecasts = np.nan_to_num(forecasts, nan=0.0)
    return Instances(
        target=target,
        point=forecasts[:, 0],
        quantiles=np.moveaxis(forecasts[:, 1:], 1, 2),
        levels=levels,
        seasonal_error=errors,
        variate=np.array([variate for _, variate in rows], np.int64),
        window=np.array([cut.window for cut, _ in rows], np.int64),
    )


def _start(task: BenchmarkTask, cut: Cut) -> int:
    longest = task.definition.max_context
    return 0 if longest is None else max(cut.cutoff - longest, 0)


def _within(targets: tuple[str, ...] | None, series: BenchmarkSeries) -> tuple[str, ...]:
    """Return the targets if raw columns have their names, else all columns: some suites number them anew."""
    return targets if targets and set(targets) <= set(series.variates) else series.variates
