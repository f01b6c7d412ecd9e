"""Data of a benchmark task, and the metrics of a seasonal naive on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from foretrain.data.store import Corpus
from foretrain.errors import DataError
from foretrain.evaluation.scored import Array
from foretrain.suites.contamination import OwnData
from foretrain.suites.contestants import SuiteNaive
from foretrain.suites.covariates import (
    TaskCovariates,
    corpus_covariates,
    corpus_static,
    covariates_of,
    parquet_covariates,
    parquet_static,
)
from foretrain.suites.definition import BenchmarkTask, RawUse, TaskDefinition, raw_sources, raw_uses
from foretrain.suites.derive import derived
from foretrain.suites.raw_files import BenchmarkSeries, missing_files, read_corpus, read_hub_parquet, read_raw
from foretrain.suites.rows import StaticValue, TaskRows
from foretrain.suites.scoring import ForecastFailed, score_task


@dataclass(frozen=True)
class TaskData:
    """Series of a task, and where they were read from."""

    series: list[BenchmarkSeries]
    origin: str
    covariates: TaskCovariates | None = None  # None = the task names none, or they were not asked for
    own: OwnData | None = None  # of the user, that the series are from; None = they are a suite's
    part: str = ""  # which items of the user's data are here; "" = all


def part_of(corpus: Corpus, chosen: Sequence[int] | None) -> str:
    """Return how results name chosen items of a corpus; "" for all."""
    if chosen is None or len(chosen) == corpus.num_series:
        return ""
    return f"{len(chosen):,} of {corpus.num_series:,} items of {corpus.name}, chosen by --items."


def find_data(task: BenchmarkTask, root: Path) -> str | None:
    """Return what of a task's data is below the root: "corpus", "hub" or "raw"; None if nothing is."""
    if (root / task.suite_name / task.name / "state.json").is_file():
        return "corpus"
    hub = task.suite.hub
    if hub is not None:
        folder = root / hub.folder / task.definition.dataset
        pattern = "*.parquet" if hub.layout == "parquet" else "state.json"
        if folder.is_dir() and next(folder.rglob(pattern), None) is not None:
            return "hub"
    return None if _raw_there(task.definition, root) is None else "raw"


def _raw_there(rule: TaskDefinition, root: Path) -> RawUse | None:
    """Return the first raw source of a task whose files are below the root."""
    return next((use for use in raw_uses(rule) if not missing_files(root, raw_sources()[use.source])), None)


def where_to_get(task: BenchmarkTask, root: Path) -> str:
    """Return what to put where, for a task whose data are absent: raw files if the task can be made from them."""
    hub = task.suite.hub
    if task.definition.raw is None:
        if hub is None:
            return "candles anywhere, and name them with --data"
        return f"data sets of {hub.repository} into {root / hub.folder}"
    ways = []
    for source in (raw_sources()[use.source] for use in raw_uses(task.definition)):
        files = " and ".join(missing_files(root, source) or source.files)
        packed = f" or {source.archive}" if source.archive else ""
        ways.append(f"{files}{packed}, from {source.origin}")
    return f"{', or '.join(ways)}, into {root}"


def load_data(task: BenchmarkTask, root: Path, *, with_covariates: bool = False) -> TaskData:
    """Return the series of a task: its corpus, else the suite's own data set, else derived from raw files.

    Raises DataError if there are none, or they cannot be read.
    """
    kind, rule = find_data(task, root), task.definition
    if kind is None:
        raise DataError(f"{task.suite_name}/{task.name}: no data. Put {where_to_get(task, root)}.")
    names = (*rule.past_covariates, *rule.known_covariates) if with_covariates else ()
    fixed = rule.static_covariates if with_covariates else ()
    values, categories, static = list[dict[str, Array]](), dict[str, int](), list[dict[str, StaticValue]]()
    if kind == "raw" and (use := _raw_there(rule, root)) is not None:
        origin, raw = use.source, _from_raw_files(root, rule, use, together=task.suite.together)
        series = [one.select(_within(rule.targets, one)) for one in raw]
        values = [{name: one.values[one.variates.index(name)] for name in names if name in one.variates} for one in raw]
    else:
        hub = None if kind == "corpus" else task.suite.hub
        folder = root / task.suite_name / task.name if hub is None else root / hub.folder / rule.dataset
        parquet = hub is not None and hub.layout == "parquet"
        read = read_hub_parquet if parquet else partial(read_corpus, together=task.suite.together)
        origin, series = str(folder), read(folder, rule.targets)
        if names:
            values, categories = (parquet_covariates if parquet else corpus_covariates)(folder, names)
        if fixed:
            static = (parquet_static if parquet else corpus_static)(folder, fixed)
    found = covariates_of(rule, series, values, categories, static) if names or fixed else None
    return TaskData(series, origin, found)


def _from_raw_files(root: Path, rule: TaskDefinition, use: RawUse, *, together: bool) -> list[BenchmarkSeries]:
    """Return what a suite derived from raw files, each column an item of its own if the task names no targets.

    together: columns of a file stay one item.
    """
    found = read_raw(root, raw_sources()[use.source], use)
    if use.derive is not None:
        found = [derived(one, use.derive) for one in found]
    if rule.targets is not None or together:
        return found
    return [part for one in found for part in (one.split() if len(one.variates) > 1 else [one])]


def score_naive(task: BenchmarkTask, series: Sequence[BenchmarkSeries]) -> dict[str, float]:
    """Return the published metrics of a task, of the seasonal naive that its suite publishes. Raises DataError.

    They are over the windows that the published figures are over: without a last batch that is not full, where that
    was left out of them.
    """
    try:
        rows, batch = TaskRows(task, series), task.suite.published_batch
        if batch is not None and (full := len(rows.cuts) // batch * batch):
            rows = TaskRows(task, series, most_windows=full)
        return score_task(SuiteNaive(), task, series, rows=rows).metrics
    except ForecastFailed as error:
        raise DataError(str(error)) from None


def _within(targets: tuple[str, ...] | None, series: BenchmarkSeries) -> tuple[str, ...]:
    """Return the targets if raw columns have their names, else all columns: some suites number them anew."""
    return targets if targets and set(targets) <= set(series.variates) else series.variates
