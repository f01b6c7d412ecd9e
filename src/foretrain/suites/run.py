"""Models on the tasks of suites: data are read once a task, finished results kept, each result written at once.

All processes of a world go through the same tasks and models together; rank 0 decides what is kept, and writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from foretrain.data.store import Corpus
from foretrain.distributed.world import World, of_lost_ranks
from foretrain.errors import DataError, ForetrainError
from foretrain.forecasting.batching import forecast_notes
from foretrain.notes import Code, Note, sum_tallies
from foretrain.suites.contamination import SeenValues, counts_as_seen, flags_of
from foretrain.suites.contestants import LoadedModel, SuiteNaive
from foretrain.suites.covariates import TaskCovariates
from foretrain.suites.definition import BenchmarkTask
from foretrain.suites.fitted import StatisticalMethod, TaskLinear
from foretrain.suites.item_losses import ItemLosses, item_losses
from foretrain.suites.raw_files import BenchmarkSeries
from foretrain.suites.remembered import KnownData, SeriesLater, data_state, recall, remember
from foretrain.suites.results import (
    TaskResult,
    hash_of_data,
    identity_of,
    kept_result,
    result_file,
    without_nan,
    write_result,
)
from foretrain.suites.rows import Contestant, TaskRows
from foretrain.suites.score import TaskData, find_data, load_data, where_to_get
from foretrain.suites.scoring import ForecastFailed, OutOfTime, batches_of, forecast_batch, score_instances
from foretrain.suites.seen_values import MOST_TOGETHER, MOST_WINDOWS, TaskName, compare_all, parts_of_models
from foretrain.suites.user_function import UserFunction

T = TypeVar("T")
TRIAL_WINDOWS = 8  # of a dry run's batch
TRIAL_FITS = 3  # of a dry run, of a contestant whose time is limited


class Entrant(NamedTuple):
    """A contestant and what its results say of it."""

    contestant: Contestant
    model_hash: str
    device: str = "cpu"
    dtype: str = "float32"
    num_parameters: int | None = None
    context_length: int | None = None
    options: dict[str, Any] = {}  # noqa: RUF012  # what decides its figures besides the weights; never changed
    facts: Mapping[str, Any] | None = None  # the record of its training; {} = none, None = it was never trained
    seconds: float | None = None  # for all of a task, then it has failed on it; each call then has one window


class Outcome(NamedTuple):
    """What was done for a model on a task."""

    result: TaskResult
    kept: bool = False  # from an earlier call


class Trial(NamedTuple):
    """What a model on a task will cost."""

    task: str
    model: str
    rows: TaskRows
    seconds: float | None  # on one process; None = unknown
    why: str = ""  # it is unknown
    limit: float | None = None  # seconds that it is given


@dataclass(frozen=True)
class BenchmarkRun:
    """Models to score on tasks, and how."""

    entrants: Sequence[Entrant]
    root: Path  # of the data
    out: Path  # of the results
    load: Callable[[BenchmarkTask], TaskData] | None = None  # in place of files below root
    batch_size: int = 256
    max_items: int | None = None
    world: World = field(default_factory=World)
    progress: Callable[[int, int, str], None] | None = None  # windows done here, windows, task and model
    seen: Mapping[tuple[str, TaskName], SeenValues] = field(default_factory=dict)  # of models, in corpora of training

    def present(self, task: BenchmarkTask) -> bool:
        """Return whether a task's data are there."""
        return self.load is not None or find_data(task, self.root) is not None

    def remedy(self, task: BenchmarkTask) -> str:
        """Return what to put where, for a task whose data are absent."""
        return where_to_get(task, self.root)

    def looked_into(self, corpora: Sequence[Corpus], tasks: Sequence[BenchmarkTask]) -> BenchmarkRun:
        """Return the same run, which knows what of the tasks is in corpora that its models were trained on.

        A corpus that models record counts for these; one that none does for those whose record names not all of their
        training. Rank 0 reads the corpora, each once. Raises ConfigError for a corpus that counts for no model.
        """
        parts = parts_of_models({one.contestant.name: one.facts for one in self.entrants}, corpora)

        def series() -> Iterator[tuple[BenchmarkTask, Sequence[BenchmarkSeries]]]:
            for task in tasks:
                try:
                    yield task, self.data_of(task, with_covariates=False).series
                except DataError:  # said where the task is scored
                    continue

        most = min(MOST_WINDOWS, MOST_TOGETHER // len(tasks))
        found = self.world.on_main(lambda: compare_all(series(), parts, most_windows=most))
        return replace(self, seen={key: SeenValues(parts[key[0]], values) for key, values in found.items()})

    def data_of(self, task: BenchmarkTask, *, with_covariates: bool) -> TaskData:
        """Return the data of a task. Raises DataError if they cannot be used."""
        return self.load(task) if self.load else load_data(task, self.root, with_covariates=with_covariates)

    def outcomes(self, task: BenchmarkTask) -> list[Outcome]:
        """Return what each model came to on a task; results are written as soon as they are there.

        Raises DataError if one cannot be written.
        """
        kept = self.world.on_main(lambda: self._all_kept(task))
        if kept is not None:
            return kept
        try:
            opened = _agreed(self.world, lambda: _Opened(self, task))
        except DataError as error:  # data that cannot be used are a failure of each model's task
            return [self._without_data(entrant, task, str(error)) for entrant in self.entrants]
        return [self._outcome(entrant, opened) for entrant in self.entrants]

    def trials(self, task: BenchmarkTask) -> list[Trial]:
        """Return what each model on a task will cost, from one batch of a few windows. Nothing is written.

        Raises DataError for data that cannot be used.
        """
        opened = _Opened(self, task)
        return [_tried(entrant, opened.rows) for entrant in self.entrants]

    def losses(self, task: BenchmarkTask) -> tuple[list[TaskResult], dict[str, ItemLosses]]:
        """Return what each model came to on a task, and losses by model, seasonal naive's too. Nothing is written.

        A model that failed has no losses. Raises DataError for data that cannot be used.
        """
        opened = _Opened(self, task)
        opened.losses = {}
        results = [self._scored(one, opened, opened.draft(one)) for one in self.entrants]
        return results, opened.losses

    def _all_kept(self, task: BenchmarkTask) -> list[Outcome] | None:
        """Return the finished results of all models on a task whose data are remembered, without reading them.

        None if one is not there, or was of other data, or if the data must be read to say so.
        """
        if self.load is not None or self.max_items is not None:
            return None
        known = recall(data_state(task, self.root))
        if known is None:
            return None
        series = SeriesLater(lambda: load_data(task, self.root).series)  # for flags that look at dates
        found: list[Outcome] = []
        for entrant in self.entrants:
            contestant = entrant.contestant
            if isinstance(contestant, UserFunction) and contestant.takes_static:
                return None  # the hash of static covariates is not remembered
            data_hash = known.hash_with_covariates if contestant.takes_covariates else known.hash
            if data_hash is None:
                return None
            options = _options(entrant, known.covariates if contestant.takes_covariates else {}, None)
            path = result_file(self.out, contestant.name, task)
            kept = kept_result(path, identity_of(task, data_hash, entrant.model_hash, options))
            if kept is None:
                return None
            try:
                seen = self.seen.get((contestant.name, (task.suite_name, task.name)))
                flags = flags_of(task, entrant.facts, series, seen=seen)
            except DataError:
                return None
            facts = {"flags": _codes(flags), "trained_on": _trained_on(task, flags)}
            found.append(_told(kept, path, facts | {"unit": task.facts.unit, "licence": task.facts.licence}))
        return found

    def _outcome(self, entrant: Entrant, opened: _Opened) -> Outcome:
        path = result_file(self.out, entrant.contestant.name, opened.task)
        draft = opened.draft(entrant)
        kept = self.world.on_main(lambda: kept_result(path, draft.identity))
        if kept is not None:
            facts = {name: getattr(draft, name) for name in ("flags", "trained_on", "unit", "licence")}
            return self.world.on_main(lambda: _told(kept, path, facts))
        result = self._scored(entrant, opened, draft)
        self.world.on_main(lambda: write_result(path, result))
        return Outcome(result)

    def _scored(self, entrant: Entrant, opened: _Opened, draft: TaskResult) -> TaskResult:
        """Return the result of an entrant; a failure is one too, with seasonal naive's figures if the suite imputes.

        A task on which seasonal naive itself fails has no baseline, and nothing to impute.
        """
        contestant = entrant.contestant
        noting = isinstance(contestant, LoadedModel | StatisticalMethod | TaskLinear)
        if noting:
            contestant.take_notes()  # of a task on which it failed
        try:
            baseline = opened.baseline
        except ForecastFailed as error:
            baseline, draft = {}, replace(draft, notes=[*draft.notes, f"no baseline: {error}"])
        draft = replace(draft, baseline=baseline)
        began = time.monotonic()
        try:
            score = opened.score(contestant, entrant.seconds)
        except (ForecastFailed, OutOfTime) as error:
            imputed = opened.task.suite.imputes and bool(baseline)
            seconds = time.monotonic() - began
            return replace(
                draft,
                state="failed",
                error=f"{error}{_of_limit(entrant.seconds) if isinstance(error, OutOfTime) else ''}",
                metrics=dict(baseline) if imputed else {},
                imputed=imputed,
                seconds=seconds,
            )
        draft = replace(draft, metrics=without_nan(score.metrics), seconds=score.seconds)
        if not noting:
            return draft
        tallies = sum_tallies(tally for part in self.world.gather_objects(contestant.take_notes()) for tally in part)
        notes = [note.text for note in forecast_notes(tallies, "In these forecasts: {}.")]
        return replace(draft, point=contestant.point, notes=[*draft.notes, *notes])

    def _without_data(self, entrant: Entrant, task: BenchmarkTask, error: str) -> Outcome:
        named = (entrant.contestant.name, entrant.model_hash, task.suite_name, task.name, task.definition.dataset, "")
        result = TaskResult(*named, state="failed", error=error, processes=self.world.size)
        path = result_file(self.out, entrant.contestant.name, task)
        self.world.on_main(lambda: write_result(path, result))
        return Outcome(result)


class _Opened:
    """A task with its data."""

    def __init__(self, run: BenchmarkRun, task: BenchmarkTask) -> None:
        wanted = any(entrant.contestant.takes_covariates for entrant in run.entrants)
        self.run, self.task = run, task
        before = None if run.load else data_state(task, run.root)
        self.data = run.data_of(task, with_covariates=wanted)
        self.rows = TaskRows(task, self.data.series, self.data.covariates, max_items=run.max_items)
        self.losses: dict[str, ItemLosses] | None = None  # of those scored, if they are wanted
        self.hash = hash_of_data(self.data.series, None)
        given = self.data.covariates
        self.hash_with_covariates = self.hash if given is None else hash_of_data(self.data.series, given)
        if before is not None and run.world.is_main:
            known = KnownData(self.hash, self.hash_with_covariates if wanted else None, _names(given, static=False))
            remember(before, data_state(task, run.root), known)

    @cached_property
    def hash_with_static(self) -> str:
        """The hash of series and all covariates."""
        return hash_of_data(self.data.series, self.data.covariates, static=True)

    @cached_property
    def baseline(self) -> dict[str, float | None]:
        """Metrics of the suite's seasonal naive on the same rows. Raises ForecastFailed."""
        return without_nan(self.score(SuiteNaive()).metrics)

    def score(self, contestant: Contestant, seconds: float | None = None) -> Any:
        """Return the TaskScore of a contestant. Raises ForecastFailed, and OutOfTime if it takes more seconds."""
        run, done = self.run, 0
        if isinstance(contestant, TaskLinear):
            contestant.begin(self.rows)
        label = f"{self.task.suite_name}/{self.task.name} {contestant.name}"

        def advance(windows: int) -> None:
            nonlocal done
            done += windows * run.world.size  # the others are about as far
            if run.progress is not None:
                run.progress(min(done, len(self.rows.cuts)), len(self.rows.cuts), label)

        score, instances = score_instances(
            contestant,
            self.rows,
            batch_size=run.batch_size if seconds is None else 1,
            world=run.world,
            until=None if seconds is None else time.monotonic() + seconds,
            progress=advance,
        )
        if self.losses is not None:
            if instances is None:
                raise DataError(
                    f"{self.task.suite_name}/{self.task.name}: has sums of windows and no losses of items to compare. "
                    "Score it with `foretrain benchmark`, and name the results with --from."
                )
            self.losses[contestant.name] = item_losses(self.rows, instances)
        return score

    def draft(self, entrant: Entrant) -> TaskResult:
        """Return the result of an entrant without its figures."""
        task, rows, contestant = self.task, self.rows, entrant.contestant
        given = self.data.covariates if contestant.takes_covariates else None
        static = given is not None and isinstance(contestant, UserFunction) and contestant.takes_static
        data_hash = self.hash if given is None else self.hash_with_static if static else self.hash_with_covariates
        names = _names(given, static=static)
        options = _options(entrant, names, None if rows.sample is None else list(rows.sample))
        short = len(self.data.series) - (rows.num_items if rows.sample is None else rows.sample.of)
        part = [self.data.part] if self.data.part else []
        text = f"{short:,} of {len(self.data.series):,} series have no window: they are too short for the task."
        seen = self.run.seen.get((contestant.name, (task.suite_name, task.name)))
        flags = flags_of(task, entrant.facts, self.data.series, seen=seen, own=self.data.own)
        return TaskResult(
            model=contestant.name,
            model_hash=entrant.model_hash,
            suite=task.suite_name,
            task=task.name,
            dataset=task.definition.dataset,
            identity=identity_of(task, data_hash, entrant.model_hash, options),
            state="done",
            series=rows.num_items,
            windows=len(rows.cuts),
            variates=int(rows.widths.max()),
            forecasts=len(rows),
            max_items=None if rows.sample is None else rows.sample.items,
            items_of=None if rows.sample is None else rows.sample.of,
            sample_seed=None if rows.sample is None else rows.sample.seed,
            context_length=entrant.context_length,
            covariates=names,
            unit=task.facts.unit,
            licence=task.facts.licence,
            data=self.data.origin,
            data_hash=data_hash,
            processes=self.run.world.size,
            device=entrant.device,
            dtype=entrant.dtype,
            num_parameters=entrant.num_parameters,
            notes=part + ([text] if short else []) + _look_back(task),
            trained_on=_trained_on(task, flags),
            flags=_codes(flags),
        )


def _options(entrant: Entrant, covariates: dict[str, list[str]], sample: list[Any] | None) -> dict[str, Any]:
    """Return what decides an entrant's figures besides task, data and weights."""
    return {
        **entrant.options,
        "dtype": entrant.dtype,
        "context_length": entrant.context_length,
        "covariates": covariates,
        "sample": sample,
    }


def _told(kept: TaskResult, path: Path, facts: Mapping[str, Any]) -> Outcome:
    """Return a kept result with facts that are known by now, which may be more than when it was written."""
    told = replace(kept, **facts)
    if told != kept:
        write_result(path, told)
    return Outcome(told, kept=True)


def _codes(flags: Sequence[Note]) -> list[dict[str, str]]:
    return [{"code": str(note.code), "text": note.text} for note in flags]


def _look_back(task: BenchmarkTask) -> list[str]:
    """Return a note on a look-back that is not the suite's own."""
    own, used = task.suite.tasks[task.name].max_context if task.name in task.suite.tasks else None, task.definition
    if task.suite.rule != "ltsf" or own == used.max_context:
        return []
    return [f"look-back: {used.max_context} steps in place of the suite's {own}; compares with no figure of another."]


def _trained_on(task: BenchmarkTask, flags: Sequence[Note]) -> list[str] | None:
    """Return the data of a task that its suite counts as seen by training; None if that is not known."""
    if counts_as_seen(task, flags):
        return [task.definition.dataset]
    doubtful = (Code.BENCHMARK_DATA_PERHAPS_SEEN, Code.BENCHMARK_DATA_UNKNOWN)
    return None if any(note.code in doubtful for note in flags) else []


def _names(given: TaskCovariates | None, *, static: bool) -> dict[str, list[str]]:
    """Return which covariates are given: past, known, static to those who take them; and those that the data lack."""
    if given is None:
        return {}
    found = {"past": list(given.past), "known": list(given.known), "absent": list(given.absent)}
    if static:
        return found | {"static": list(given.static), "absent": [*given.absent, *given.static_absent]}
    return found if any(found.values()) else {}


def _of_limit(seconds: float | None) -> str:
    return f" It had {seconds:,.0f} s for the task: give more (--baseline-seconds), or score a sample (--max-items)."


def _tried(entrant: Entrant, rows: TaskRows) -> Trial:
    """Return what an entrant will cost on all rows, from its second call on a batch of windows of median length.

    One whose time is limited is called with a few windows of all lengths, one by one.
    """
    task, contestant = f"{rows.task.suite_name}/{rows.task.name}", entrant.contestant
    batches = batches_of(rows, TRIAL_WINDOWS if entrant.seconds is None else 1)
    chosen = [len(batches) // 2]
    if entrant.seconds is not None:
        chosen = np.unique(np.linspace(0, len(batches) - 1, TRIAL_FITS).astype(int)).tolist()
    fitting = 0.0
    try:
        began = time.monotonic()
        if isinstance(contestant, TaskLinear):
            contestant.begin(rows)
        forecast_batch(contestant, rows, batches[chosen[-1]])  # the first call also loads and compiles
        if isinstance(contestant, TaskLinear):
            fitting = time.monotonic() - began
        began = time.monotonic()
        for number in chosen:
            forecast_batch(contestant, rows, batches[number])
    except Exception as error:  # of the model, or of the user's function
        if of_lost_ranks(error):
            raise
        said = str(error) if isinstance(error, ForetrainError) else f"{type(error).__name__}: {error}"
        return Trial(task, contestant.name, rows, None, f"it failed on a batch: {' '.join(said.split())[:200]}")
    each = (time.monotonic() - began) / sum(len(rows.of(batches[number].tolist())) for number in chosen)
    return Trial(task, contestant.name, rows, fitting + each * len(rows), limit=entrant.seconds)


def _agreed(world: World, action: Callable[[], T]) -> T:
    """Return what an action gives here. Raises on every process the DataError of the first that has one."""
    result, problem = None, None
    try:
        result = action()
    except DataError as error:
        problem = error
    except Exception as error:
        world.all_agree(error)
        raise
    world.all_agree(None)
    found = next((text for text in world.gather_objects(None if problem is None else str(problem)) if text), None)
    if found is not None:
        raise DataError(found) from problem
    assert result is not None
    return result
