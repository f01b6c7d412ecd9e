"""Data of a benchmark task, and the metrics of a seasonal naive on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foretrain.errors import DataError
from foretrain.suites.contestants import SuiteNaive
from foretrain.suites.definition import BenchmarkTask, raw_sources
from foretrain.suites.derive import derived
from foretrain.suites.raw_files import BenchmarkSeries, missing_files, read_corpus, read_hub_parquet, read_raw
from foretrain.suites.scoring import ForecastFailed, score_task


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
    try:
        return score_task(SuiteNaive(), task, series).metrics
    except ForecastFailed as error:
        raise DataError(str(error)) from None


def _within(targets: tuple[str, ...] | None, series: BenchmarkSeries) -> tuple[str, ...]:
    """Return the targets if raw columns have their names, else all columns: some suites number them anew."""
    return targets if targets and set(targets) <= set(series.variates) else series.variates
