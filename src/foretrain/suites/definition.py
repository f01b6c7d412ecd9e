"""Suites and their tasks as data: what suites/definitions/*.yaml hold, read and checked.

A definition has facts only: names, horizons, windows, seasons, metrics, and from where data can be had.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt

from foretrain.config import Section, build, read_yaml
from foretrain.errors import ConfigError
from foretrain.hints import did_you_mean

FOLDER = Path(__file__).parent / "definitions"
_SOURCES = "sources.yaml"
_DATASETS = FOLDER / "datasets.yaml"
UNKNOWN, MIXED = "unknown", "mixed"  # units: of no statement; of series or variates in different ones


class RawSource(Section):
    """Files as their publishers offer them."""

    reader: Literal["competition", "matrix", "m4", "table", "columns", "monash"]
    files: tuple[str, ...]  # names, read in this order
    archive: str | None = None  # the .zip file that may hold them
    origin: str  # where they are published
    licence: str
    header: bool = False  # of `columns`: the first row names the columns
    separator: str = ","
    missing: float | None = None  # the number that stands for a missing value
    stamp_columns: PositiveInt = 1  # of `table`: the first columns that make a stamp, such as date and time
    stamp_format: str = "ISO8601"
    rename: dict[str, str] = Field(default_factory=dict)
    also: dict[str, str] = Field(default_factory=dict)  # period, or "" -> another source of the same series


class Derivation(Section):
    """How a suite's series are made from raw ones."""

    grid: str | None = None  # a fixed step: rows on a full grid of it, holes missing
    every: str | None = None  # periods that rows are summed or averaged over, a pandas frequency
    how: Literal["sum", "mean"] = "mean"
    drop_first: bool = False
    drop_last: bool = False  # the period that the data end in


class RawUse(Section):
    """Which part of a raw source a task takes."""

    source: str
    period: str | None = None  # of a competition: YEARLY, QUARTERLY, MONTHLY
    complete: bool = False  # without the series that have missing values
    split: bool = False  # each column becomes a series of its own
    derive: Derivation | None = None


class TaskDefinition(Section):
    """One benchmark task: a data set with its horizon, windows and season."""

    horizon: PositiveInt
    freq: str
    seasonality: PositiveInt  # of the metrics
    baseline_seasonality: PositiveInt | None = None  # of the published seasonal naive, if another
    offset: int | None = None  # of rule `offset`: where the forecast starts, from the end (None: the horizon)
    num_windows: PositiveInt | None = None  # None: the suite's own rule
    initial_cutoff: str | None = None  # the last stamp of the first window's history (None: windows end at the end)
    min_context: PositiveInt = 1
    max_context: PositiveInt | None = None
    parts: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None  # rule ltsf: steps of train, validation, test
    targets: tuple[str, ...] | None = None  # None: every column is a series of its own
    past_covariates: tuple[str, ...] = ()
    known_covariates: tuple[str, ...] = ()
    static_covariates: tuple[str, ...] = ()
    term: Literal["short", "medium", "long"] | None = None
    dataset: str  # in the suite's repository
    raw: RawUse | None = None


class Hub(Section):
    """The repository of data sets that a suite reads."""

    repository: str
    layout: Literal["parquet", "arrow"]

    @property
    def folder(self) -> str:
        """The name of its copy below the data root."""
        return self.repository.rpartition("/")[2]


class SuiteDefinition(Section):
    """A suite: tasks that share a rule of windows, metrics and a published seasonal naive."""

    title: str
    origin: str
    licence: str
    hub: Hub | None = None  # None: its data are raw files alone
    rule: Literal["offset", "gift-eval", "fev", "ltsf"]
    together: bool = False  # all columns are the targets of one item, which models of this package forecast singly
    baseline: Literal["point", "statsforecast-normal"]
    baseline_context: PositiveInt | None = None  # newest steps that the published baseline was given
    metrics_of: Literal["gluonts", "fev", "ltsf", "market"]
    metrics: dict[str, str]  # published name -> name in evaluation.library_metrics
    eval_metric: str
    imputes: bool = False  # a model without a score on a task has that of seasonal naive in its tables
    quantile_levels: tuple[float, ...]
    published: str = ""  # the file with the figures; "": none are, as of suites over data of the user
    published_decimals: int | None = None  # to which they are rounded; None: a relative tolerance
    published_batch: PositiveInt | None = None  # windows a batch, of which the last, not full, was left out of them
    tasks: dict[str, TaskDefinition] = Field(default_factory=dict)


class SuiteSelection(Section):
    """A suite made of tasks of others."""

    title: str
    origin: str
    parts: dict[str, tuple[str, ...]]


class DataFacts(Section):
    """What is known of the data sets that have the same facts. No part of a result's identity."""

    names: tuple[str, ...] = ()
    unit: str  # of the values that are scored, UNKNOWN or MIXED
    licence: str  # of the data themselves
    source: str  # of both


class _FactsOfSets(Section):
    sets: dict[str, tuple[DataFacts, ...]]  # by repository, or by suite where there is none


@dataclass(frozen=True)
class BenchmarkTask:
    """A task of a suite, with the suite whose rules hold for it."""

    name: str
    suite_name: str
    suite: SuiteDefinition
    definition: TaskDefinition

    @property
    def facts(self) -> DataFacts:
        """Unit and licence of its data; of a suite that is not shipped, as over data of the user, the unit is unknown.

        Raises KeyError for a data set that a shipped repository lacks.
        """
        of = data_facts().get(self.suite_name if self.suite.hub is None else self.suite.hub.repository)
        if of is None:
            return DataFacts(unit=UNKNOWN, licence=self.suite.licence, source=self.suite.origin)
        return of[self.definition.dataset]


def suite_names() -> list[str]:
    """Return the names of the suites, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.name not in (_SOURCES, _DATASETS.name))


def own_suites() -> list[str]:
    """Return the names of the suites with published figures that are no selections from others, sorted."""
    found = {name: _read(name) for name in suite_names()}
    return [name for name, suite in found.items() if isinstance(suite, SuiteDefinition) and suite.published]


def tasks_of(suite: str) -> list[BenchmarkTask]:
    """Return the tasks of a suite in its own order. Raises ConfigError for an unknown suite."""
    found = _read(suite)
    if isinstance(found, SuiteDefinition):
        return [BenchmarkTask(name, suite, found, task) for name, task in found.tasks.items()]
    tasks = {part: {task.name: task for task in tasks_of(part)} for part in found.parts}
    return [tasks[part][name] for part, names in found.parts.items() for name in names]


def title_of(suite: str) -> str:
    """Return what a suite is, in a line."""
    return _read(suite).title


@cache
def raw_sources() -> dict[str, RawSource]:
    """Return the raw sources by name."""
    tree = read_yaml(FOLDER / _SOURCES)
    return {name: build(RawSource, entry, source=f"{_SOURCES}: {name}") for name, entry in tree.items()}


def raw_uses(rule: TaskDefinition) -> tuple[RawUse, ...]:
    """Return the raw sources that a task can be made from, the best first; () if there is none."""
    if rule.raw is None:
        return ()
    other = raw_sources()[rule.raw.source].also.get(rule.raw.period or "")
    return (rule.raw,) if other is None else (rule.raw, rule.raw.model_copy(update={"source": other, "period": None}))


@cache
def data_facts() -> dict[str, dict[str, DataFacts]]:
    """Return what is known of data sets, by repository (or suite) and name. Raises ConfigError for one named twice."""
    found: dict[str, dict[str, DataFacts]] = {}
    for place, entries in build(_FactsOfSets, {"sets": read_yaml(_DATASETS)}, source=_DATASETS.name).sets.items():
        found[place] = {}
        for entry in entries:
            for name in entry.names:
                if name in found[place]:
                    raise ConfigError(f"{_DATASETS.name}: {place} has {name} twice; keep one entry.")
                found[place][name] = entry
    return found


@cache
def _read(suite: str) -> SuiteDefinition | SuiteSelection:
    if suite not in suite_names():
        raise ConfigError(f"{suite}: no such suite. {did_you_mean(suite, suite_names(), _known())}")
    tree: dict[str, Any] = read_yaml(FOLDER / f"{suite}.yaml")
    return build(SuiteSelection if "parts" in tree else SuiteDefinition, tree, source=f"{suite}.yaml")


def _known() -> str:
    return f"The suites are {', '.join(suite_names())}."
