"""Suites and corpora as evaluators of a training: the `evaluators:` section, and what scores the weights by it.

The series are read once, at the start of a run, by every process; an evaluation then shares their windows over all.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from foretrain.config import FREE, LAYOUT, Section
from foretrain.data.store import Corpus
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, TrainingError
from foretrain.hints import did_you_mean
from foretrain.models.base import Forecaster, Trainable
from foretrain.notes import counted
from foretrain.suites.contestants import LoadedModel
from foretrain.suites.definition import BenchmarkTask, tasks_of
from foretrain.suites.local import local_data, local_task
from foretrain.suites.results import hash_of_data
from foretrain.suites.rows import TaskRows
from foretrain.suites.score import TaskData, find_data, load_data, where_to_get
from foretrain.suites.scoring import ForecastFailed, OutOfTime, TaskScore, score_task
from foretrain.suites.windows import windows_of
from foretrain.training.evaluators import Evaluation, State
from foretrain.training.ranking import Ranking
from foretrain.training.settings import Every

_WQL, _MASE = ("mean_weighted_sum_quantile_loss", "WQL"), ("MASE[0.5]", "MASE")  # names in library_metrics


class CompositeWeights(Section):
    """What composite adds up: wql x avg_wql + mase x avg_mase."""

    wql: Annotated[float, FREE] = Field(default=0.7, ge=0)
    mase: Annotated[float, FREE] = Field(default=0.3, ge=0)


class EvaluatorConfig(Section):
    """One of a run's `evaluators:`: what scores its weights during training, how often, and how many it retains."""

    # of its records; None = that of its suite, or of its corpus' folder
    name: Annotated[str | None, FREE] = Field(default=None, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
    suite: Annotated[str | None, FREE] = None  # of `foretrain benchmark --list`
    tasks: Annotated[tuple[str, ...], FREE] = ()  # of the suite, by name or pattern (m4_*); () = all
    data_root: Annotated[str, FREE] = "benchmark-data"  # the folder that holds the suite's data
    corpus: Annotated[str | None, FREE] = None  # in place of a suite: its newest windows
    prediction_length: Annotated[int | None, FREE] = Field(default=None, ge=1)  # steps of a corpus' window
    num_windows: Annotated[int, FREE] = Field(default=1, ge=1)  # of each series of a corpus, a horizon apart
    every: Annotated[Every, FREE]  # steps, or "epoch"; also at the end
    share: Annotated[float, FREE] = Field(default=1.0, gt=0, le=1)  # of each task's items, drawn by their ids
    max_items: Annotated[int | None, FREE] = Field(default=None, ge=1)  # of each task, at most
    max_minutes: Annotated[float | None, FREE] = Field(default=None, gt=0)  # then it is given up
    batch_size: Annotated[int, LAYOUT] = Field(default=256, ge=1)  # rows per forward pass
    metric: Annotated[Literal["avg_wql", "avg_mase", "composite"], FREE] = "avg_wql"  # that ranks checkpoints
    weights: CompositeWeights = CompositeWeights()  # of composite
    keep_best: Annotated[int, FREE] = Field(default=0, ge=0)  # checkpoints that it retains by its metric

    @model_validator(mode="after")
    def _consistent(self) -> EvaluatorConfig:
        if (self.suite is None) == (self.corpus is None):
            raise ValueError("give exactly one of suite and corpus")
        given = self.model_fields_set - {name for name in self.model_fields_set if getattr(self, name) is None}
        apart = {"prediction_length", "num_windows"} if self.corpus is None else {"tasks", "data_root"}
        defaults = {name for name in given if getattr(self, name) == type(self).model_fields[name].default}
        if found := sorted((given - defaults) & apart):
            raise ValueError(f"{found[0]} has no effect beside {'suite' if self.corpus is None else 'corpus'}")
        if self.corpus is not None and self.prediction_length is None:
            raise ValueError("a corpus needs a prediction_length, the steps of a window")
        if self.metric != "composite" and self.weights != CompositeWeights():
            raise ValueError("weights has no effect without metric: composite")
        if self.weights.wql + self.weights.mase == 0:
            raise ValueError("weights: one of wql and mase must be positive")
        return self

    @property
    def label(self) -> str:
        """What records call it."""
        return self.name or self.suite or Path(str(self.corpus)).resolve().name


def check_names(configs: Sequence[EvaluatorConfig]) -> None:
    """Raise ValueError if two evaluators have one name, by which their records and scores are told apart."""
    names = [config.label for config in configs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two of them are called {twice[0]}; give each a name of its own")


def chosen_tasks(config: EvaluatorConfig) -> list[BenchmarkTask]:
    """Return the tasks of an evaluator with a suite. Raises ConfigError for an unknown suite, or tasks it lacks."""
    found = tasks_of(str(config.suite))
    if not config.tasks:
        return found
    names = [task.name for task in found]
    for pattern in config.tasks:
        if not fnmatch.filter(names, pattern):
            hint = did_you_mean(pattern, names, "`foretrain benchmark --list` has all names.")
            raise ConfigError(f"evaluators: {config.label}: {config.suite} has no task {pattern!r}. {hint}")
    return [task for task in found if any(fnmatch.fnmatchcase(task.name, pattern) for pattern in config.tasks)]


def missing_data(config: EvaluatorConfig) -> list[str]:
    """Return a line for each task of an evaluator whose data are absent: what to put where."""
    named = f"evaluators: {config.label}"
    if config.suite is None:
        there = Path(str(config.corpus)).is_dir()
        return [] if there else [f"{named}: corpus {config.corpus}: no such folder. Import it, or correct the path."]
    root = Path(config.data_root)
    tasks = chosen_tasks(config)
    return [
        f"{named}: {task.suite_name}/{task.name} has no data. Put {where_to_get(task, root)}; or choose other tasks."
        for task in tasks
        if find_data(task, root) is None
    ]


@dataclass(frozen=True)
class EvaluatedWeights:
    """How the weights of a run make forecasts."""

    context_length: int
    options: Any = None  # the family's
    takes_covariates: bool = False


class SuiteEvaluator:
    """Scores a model on the tasks of a suite, or on a corpus (see training.evaluators.Evaluator).

    Reads all series at construction. Raises DataError for data that are absent, damaged or too short, ConfigError for
    a corpus that the run trains on, TrainingError if processes have read different data.

    Args:
        config: its section.
        weights: how they make forecasts.
        world: the processes that share the work.
        trained_on: fingerprints of the run's corpora.
        tag: the suite in the names of metrics.
        alone: whether the run has no other evaluator, so that benchmark/avg_wql is unambiguous.
    """

    def __init__(
        self,
        config: EvaluatorConfig,
        weights: EvaluatedWeights,
        world: World,
        *,
        trained_on: Collection[str] = (),
        tag: str | None = None,
        alone: bool = False,
    ) -> None:
        self.config, self.weights, self.world, self.alone = config, weights, world, alone
        self.name, self.max_minutes = config.label, config.max_minutes
        self.every: int | Literal["epoch"] = config.every
        self.tag = tag or config.suite or self.name
        self.rows, facts = list[TaskRows](), list[Any]()
        for task, data in self._data(trained_on):
            rows = TaskRows(task, data.series, data.covariates, max_items=self._limit(task, data))
            self.rows.append(rows)
            facts.append(_facts(rows, data))
        of = [facts, config.metric, config.weights.model_dump(), repr(weights)]
        digest = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()
        if len(set(world.gather_objects(digest))) > 1:
            raise TrainingError(
                f"evaluators: {self.name}: its data are not the same for all processes. Copy them anew."
            )
        self.ranking = Ranking(digest, config.keep_best)

    def _data(self, trained_on: Collection[str]) -> list[tuple[BenchmarkTask, TaskData]]:
        """Return the tasks with their series."""
        config, covariates = self.config, self.weights.takes_covariates
        if config.corpus is None:
            root = Path(config.data_root)
            return [(task, load_data(task, root, with_covariates=covariates)) for task in chosen_tasks(config)]
        corpus = Corpus.open(config.corpus)
        if corpus.fingerprint in trained_on:
            raise ConfigError(
                f"evaluators: {self.name}: {config.corpus} is trained on, and its newest steps are the run's own "
                "validation and test parts. `evaluation:` scores the former; give another corpus here."
            )
        steps = config.prediction_length
        assert steps is not None
        return [(local_task(corpus, steps, config.num_windows), local_data(corpus, config.corpus))]

    def _limit(self, task: BenchmarkTask, data: TaskData) -> int | None:
        """Return the most items of a task that are scored."""
        most = self.config.max_items
        if self.config.share == 1:
            return most
        items = len({cut.series for cut in windows_of(task, data.series)})
        drawn = max(1, math.ceil(round(self.config.share * items, 9)))
        return drawn if most is None else min(drawn, most)

    def describe(self) -> str:
        """Return the line of the log on what it does."""
        config, windows = self.config, sum(len(rows.cuts) for rows in self.rows)
        every = "epoch" if config.every == "epoch" else f"{config.every:,} steps"
        limit = f", at most {config.max_minutes:g} minutes" if config.max_minutes else ""
        keep = f", keeps the best {config.keep_best} by {config.metric}" if config.keep_best else ""
        items = sum(rows.num_items for rows in self.rows)
        what = f"{counted(len(self.rows), 'task')} of {config.suite}" if config.suite else f"corpus {config.corpus}"
        size = f"{counted(items, 'item')}, {counted(windows, 'window')}"
        return f"evaluator {self.name}: {what}, {size}, every {every}{limit}{keep}"

    def __call__(self, model: Trainable, step: int, until: float | None) -> Evaluation:
        """Score a model on all tasks; on the first failure, or when the time is over, with those that are done."""
        assert isinstance(model, Forecaster)
        contestant = LoadedModel(
            self.name,
            model,
            context_length=self.weights.context_length,
            options=self.weights.options,
            batch_size=self.config.batch_size,
            takes_covariates=self.weights.takes_covariates,
        )
        found, state, problem = dict[str, tuple[TaskRows, TaskScore]](), "done", ""
        for rows in self.rows:
            batch = self.config.batch_size
            try:
                score = score_task(
                    contestant, rows.task, rows.series, batch_size=batch, world=self.world, until=until, rows=rows
                )
            except (ForecastFailed, OutOfTime) as error:
                state: State = "out of time" if isinstance(error, OutOfTime) else "failed"
                text = str(error).removeprefix(f"{self.name}: ")
                problem = f"{rows.task.name}, after {len(found)} of {len(self.rows)} tasks: {text}"
                break
            found[rows.task.name] = (rows, score)
        return self._evaluation(found, state, problem)

    def _evaluation(self, found: Mapping[str, tuple[TaskRows, TaskScore]], state: State, problem: str) -> Evaluation:
        """Return the metrics of tasks and, if all of them are there, their averages; fewer are not comparable."""
        metrics, columns = dict[str, float](), dict[str, list[float]]({"wql": [], "mase": []})
        for name, (rows, score) in found.items():
            for short, names in (("wql", _WQL), ("mase", _MASE)):
                published = next((key for key, of in rows.task.suite.metrics.items() if of in names), None)
                if published is not None:
                    metrics[f"benchmark/{self.tag}/{name}/{short}"] = score.metrics[published]
                    columns[short].append(score.metrics[published])
        score, averages = None, dict[str, float]()
        if state == "done":
            averages = {f"avg_{short}": _mean(values) for short, values in columns.items() if values}
            averages["composite_score"] = self._composite(averages)
            score = averages.get("composite_score" if self.config.metric == "composite" else self.config.metric)
            for prefix in (f"benchmark/{self.name}", *(["benchmark"] if self.alone else [])):
                metrics |= {f"{prefix}/{name}": value for name, value in averages.items()}
        items = sum(rows.num_items for rows, _ in found.values())
        shown = [*(f"{name} {value:.4f}" for name, value in averages.items() if math.isfinite(value))]
        return Evaluation(
            metrics,
            score,
            state,
            problem,
            summary=" | ".join([*shown, f"{counted(len(found), 'task')}, {counted(items, 'item')}"]),
            details={"suite": self.config.suite, "corpus": self.config.corpus, "of": self.ranking.of,
                     "metric": self.config.metric, "tasks": {name: _entry(*pair) for name, pair in found.items()}},
        )  # fmt: skip

    def _composite(self, averages: Mapping[str, float]) -> float:
        """Return the weighted sum of both averages; NaN without one of them that counts."""
        weights = self.config.weights
        terms = ((weights.wql, averages.get("avg_wql", math.nan)), (weights.mase, averages.get("avg_mase", math.nan)))
        return sum(weight * value for weight, value in terms if weight)


def _facts(rows: TaskRows, data: TaskData) -> list[Any]:
    """Return what decides a score on a task besides the weights."""
    task = rows.task
    rules = [task.suite_name, task.name, task.definition.model_dump(mode="json"), task.suite.rule, task.suite.metrics]
    return [*rules, task.suite.metrics_of, task.suite.quantile_levels, rows.sample, _hash(data)]


def _hash(data: TaskData) -> str:
    return hash_of_data(data.series, data.covariates)


def _mean(values: Sequence[float]) -> float:
    """Return the mean of those that are defined on their data; NaN if none is."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def _entry(rows: TaskRows, score: TaskScore) -> dict[str, Any]:
    sample = None if rows.sample is None else rows.sample._asdict()
    return {"metrics": score.metrics, "items": score.series, "windows": score.windows, "sample": sample,
            "seconds": score.seconds}  # fmt: skip
