"""Several models on the same windows: standings, tests of pairs, and where each wins.

Everything is relative to the seasonal naive of the suite, which is always among the models.

# W windows, K items, M models
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import numpy as np

from foretrain.errors import DataError
from foretrain.evaluation.scored import Array
from foretrain.evaluation.significance import (
    ITEMS,
    LEVEL,
    Comparison,
    adjusted_p_values,
    compare_items,
    diebold_mariano,
    has_too_few_origins,
)
from foretrain.suites.aggregate import CLIP, Figures, Interval, fev_standings
from foretrain.suites.contestants import OWN
from foretrain.suites.item_losses import SCALED_LOSSES, ItemLosses
from foretrain.suites.results import TaskResult
from foretrain.suites.tables import label_of

RESAMPLES = 1000
TESTED = "SQL"  # the loss of tests, wins and scatter plots
SHOWN = ("WQL", "MASE", "SQL")  # metrics of standings
_STEPS = (100, 500, 2000)  # where groups of histories begin
_SAME = 1e-9  # relative; seasonal naive on the same windows


@dataclass(frozen=True)
class TaskComparison:
    """The models on one task."""

    suite: str
    task: str
    freq: str  # a pandas alias; "" = unknown
    results: dict[str, TaskResult]  # by model, without seasonal naive unless it was asked for
    losses: dict[str, ItemLosses] = field(default_factory=dict)  # by model, seasonal naive's too; {} = not known

    @property
    def name(self) -> str:
        """suite/task."""
        return f"{self.suite}/{self.task}"

    @property
    def first(self) -> TaskResult:
        """A result, for what all have in common."""
        return next(iter(self.results.values()))

    def figures(self) -> dict[str, dict[str, float]]:
        """Return {model: {metric as tables call it: value}}, seasonal naive's too; a model without a score has {}."""
        found = {model: self._with_sql(model, result.metrics) for model, result in self.results.items()}
        if OWN not in found:
            found = {OWN: self._with_sql(OWN, self.first.baseline), **found}
        return found

    def _with_sql(self, model: str, metrics: Mapping[str, float | None]) -> dict[str, float]:
        shown = {label_of(name): value for name, value in metrics.items() if value is not None}
        imputed = model in self.results and self.results[model].imputed
        losses = self.losses.get(OWN if imputed else model)
        if losses is not None and shown and "SQL" not in shown:
            shown["SQL"] = losses.total("SQL")
        return {name: value for name, value in shown.items() if math.isfinite(value)}


@dataclass(frozen=True)
class ModelStanding:
    """A model among the others by one metric, over tasks, or over the items of a single task."""

    model: str
    metric: str
    over: str  # "tasks" or "items"
    count: int  # of them
    left_out: int  # of them, since a model or seasonal naive has no figure, or seasonal naive's is 0
    skill: float  # 1 - geometric mean of the errors relative to seasonal naive, each clipped to 0.01..100
    skill_interval: Interval  # 95%, bootstrap
    win_rate: float  # share of the comparisons with each other model that it wins; a tie is half a win
    win_rate_interval: Interval
    imputed: int  # tasks where seasonal naive stands for a failure
    seen: int  # tasks whose data the suite counts as seen in training


@dataclass(frozen=True)
class PairTest:
    """Two models on one task by their SQL: over origins or items together, and item by item."""

    task: str
    model: str
    other: str
    test: Comparison
    p_adjusted: float  # of all pairs and tasks that were tested
    items_tested: int  # by a Diebold-Mariano test of their own
    items_better: int  # of them, at a false discovery rate of 5% over the items
    items_worse: int
    items_with_too_few_windows: int


@dataclass(frozen=True)
class Group:
    """Who wins on a part of the items, or of the tasks."""

    by: str  # frequency, history, suite
    name: str
    unit: str  # "items" or "tasks"
    count: int
    won: dict[str, float]  # share with the least error; equal ones share it
    relative: dict[str, float]  # geometric mean of the errors relative to seasonal naive, each clipped to 0.01..100


def check_same_windows(tasks: Sequence[TaskComparison]) -> None:
    """Raise DataError if models of a task were scored on other windows: another sample, or another seasonal naive."""
    for task in tasks:
        first = task.first
        for model, result in task.results.items():
            same = (result.series, result.windows, result.max_items, result.sample_seed)
            if same != (first.series, first.windows, first.max_items, first.sample_seed) or not _alike(result, first):
                raise DataError(
                    f"{task.name}: {model} and {first.model} were scored on other windows: {result.windows:,} of "
                    f"{result.series:,} items and {first.windows:,} of {first.series:,}, or other values. Score both "
                    "on one set of files, with the same --max-items and --items."
                )


def _alike(result: TaskResult, other: TaskResult) -> bool:
    """Return whether seasonal naive came to the same on both."""
    if result.baseline.keys() != other.baseline.keys():
        return False
    pairs = [(value, other.baseline[name]) for name, value in result.baseline.items()]
    return all(a is b or (a is not None and b is not None and math.isclose(a, b, rel_tol=_SAME)) for a, b in pairs)


def standings(tasks: Sequence[TaskComparison], resamples: int = RESAMPLES) -> list[ModelStanding]:
    """Return every model by every shown metric, best skill first: over tasks, or over the items of a single one."""
    found: list[ModelStanding] = []
    if len(tasks) == 1 and tasks[0].losses:
        (task,) = tasks
        losses = {model: one for model, one in task.losses.items() if model == OWN or model in task.results}
        for metric in SCALED_LOSSES:
            items = {model: one.by_item(metric) for model, one in losses.items()}
            figures = {
                model: {str(k): {metric: value} for k, value in enumerate(values.tolist())}
                for model, values in items.items()
            }
            found += _standings(tasks, figures, metric, "items", resamples)
        return found
    by_task = {task.name: task.figures() for task in tasks}
    models = list(dict.fromkeys(model for figures in by_task.values() for model in figures))
    for metric in SHOWN:
        having = [name for name, figures in by_task.items() if any(metric in of for of in figures.values())]
        figures = {model: {name: by_task[name].get(model, {}) for name in having} for model in models}
        found += _standings(tasks, figures, metric, "tasks", resamples)
    return found


def _standings(
    tasks: Sequence[TaskComparison], figures: Figures, metric: str, over: str, resamples: int
) -> list[ModelStanding]:
    """Return the standings of one metric; [] if no unit has a figure of every model."""
    units = list(dict.fromkeys(unit for of in figures.values() for unit in of))
    whole = [u for u in units if all(_finite(of.get(u, {}).get(metric)) for of in figures.values())]
    whole = [u for u in whole if figures[OWN][u][metric] > 0]
    if not whole:
        return []
    chosen = {model: {unit: of[unit] for unit in whole} for model, of in figures.items()}
    seen = {
        model: [task.name for task in tasks if model in task.results and task.results[model].trained_on]
        for model in figures
    }
    rows = fev_standings(chosen, metric, baseline=OWN, tasks=whole, resamples=resamples)
    imputed = {model: sum(t.results[model].imputed for t in tasks if model in t.results) for model in figures}
    standing = [
        ModelStanding(
            row.model, metric, over, len(whole), len(units) - len(whole), row.skill, row.skill_interval or (0.0, 0.0),
            row.win_rate, row.win_rate_interval or (0.0, 0.0), imputed[row.model], len(seen[row.model]),
        )
        for row in rows
    ]  # fmt: skip
    return sorted(standing, key=lambda one: -one.skill)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def pair_tests(tasks: Sequence[TaskComparison]) -> list[PairTest]:
    """Return the tests of all pairs of models on all tasks whose losses are known."""
    found: list[PairTest] = []
    for task in tasks:
        models = [model for model in dict.fromkeys((*task.results, OWN)) if model in task.losses]
        for model, other in combinations(models, 2):
            found.append(_tested(task.name, model, other, task.losses[model], task.losses[other]))
    adjusted = adjusted_p_values(np.array([one.test.p_value for one in found], np.float64))
    return [
        PairTest(**{**one.__dict__, "p_adjusted": float(value)})
        for one, value in zip(found, adjusted.tolist(), strict=True)
    ]


def _tested(task: str, model: str, other: str, ours: ItemLosses, theirs: ItemLosses) -> PairTest:
    """Return the tests of a pair: over origins if there are enough, else over items, and of each item by itself."""
    test = diebold_mariano(ours.by_origin(TESTED), theirs.by_origin(TESTED), against=other)
    if has_too_few_origins(test):
        first, second = ours.by_item(TESTED), theirs.by_item(TESTED)
        both = np.isfinite(first) & np.isfinite(second)
        test = compare_items(first[both], second[both], ITEMS, test)
    by_item = _item_tests(ours, theirs, other)
    p_values = adjusted_p_values(np.array([one.p_value for one in by_item], np.float64))
    significant = [one.mean_difference for one, p in zip(by_item, p_values, strict=True) if p < LEVEL]
    few = sum(has_too_few_origins(one) for one in by_item)
    return PairTest(
        task=task,
        model=model,
        other=other,
        test=test,
        p_adjusted=math.nan,
        items_tested=len(by_item) - few,
        items_better=sum(difference < 0 for difference in significant),
        items_worse=sum(difference > 0 for difference in significant),
        items_with_too_few_windows=few,
    )


def _item_tests(ours: ItemLosses, theirs: ItemLosses, against: str) -> list[Comparison]:
    """Return a Diebold-Mariano test for each item with a loss, over its windows, the oldest first."""
    first, second = ours.by_window(TESTED), theirs.by_window(TESTED)
    order = np.lexsort((-ours.origin, ours.item))
    order = order[np.isfinite(first[order]) & np.isfinite(second[order])]
    parts = np.split(order, np.flatnonzero(np.diff(ours.item[order])) + 1) if len(order) else []
    return [diebold_mariano(first[part], second[part], against=against) for part in parts]


def groups(tasks: Sequence[TaskComparison]) -> list[Group]:
    """Return who wins by frequency, length of history and suite: on items if losses are known, else on tasks."""
    with_items = all(task.losses for task in tasks)
    models = list(dict.fromkeys((*(model for task in tasks for model in task.results), OWN)))
    parts: dict[tuple[str, str], list[Array]] = {}
    for task in tasks:
        errors = _errors(task, models, with_items)
        if errors is None:
            continue
        labels = [("frequency", np.full(len(errors), task.freq or "unknown"))]
        if with_items:
            labels.append(("history", _history_groups(task.losses[OWN])))
        labels.append(("suite", np.full(len(errors), task.suite)))
        for by, names in labels:
            for name in np.unique(names).tolist():
                parts.setdefault((by, name), []).append(errors[names == name])
    rank = {"frequency": 0, "history": 1, "suite": 2}
    bins = {name: k for k, name in enumerate(_bin_names())}
    ordered = sorted(parts, key=lambda key: (rank[key[0]], bins.get(key[1], -1), key[1]))
    unit = "items" if with_items else "tasks"
    found = [_group(by, name, unit, np.concatenate(parts[by, name]), models) for by, name in ordered]
    return [one for one in found if one.count]


def _errors(task: TaskComparison, models: Sequence[str], with_items: bool) -> Array | None:
    """Return the errors (K, M) of models on the items of a task, or (1, M) on the task itself."""
    if with_items:
        if any(model not in task.losses for model in models):
            return None
        return np.stack([task.losses[model].by_item(TESTED) for model in models], axis=1)
    figures = task.figures()
    metric = next((name for name in ("SQL", "WQL", "MASE") if name in figures[OWN]), None)
    return None if metric is None else np.array([[figures.get(m, {}).get(metric, np.nan) for m in models]])


def _group(by: str, name: str, unit: str, errors: Array, models: Sequence[str]) -> Group:
    """Return a group of those rows (K, M) on which every model has an error and seasonal naive's is above 0."""
    naive = list(models).index(OWN)
    kept = errors[np.isfinite(errors).all(axis=1) & (errors[:, naive] > 0)]
    if not len(kept):
        return Group(by, name, unit, 0, {}, {})
    least = kept == kept.min(axis=1, keepdims=True)
    won = (least / least.sum(axis=1, keepdims=True)).mean(axis=0)
    relative = np.exp(np.log(np.clip(kept / kept[:, [naive]], *CLIP)).mean(axis=0))
    return Group(
        by,
        name,
        unit,
        len(kept),
        dict(zip(models, won.tolist(), strict=True)),
        dict(zip(models, relative.tolist(), strict=True)),
    )


def _history_groups(losses: ItemLosses) -> np.ndarray:
    return np.array(_bin_names())[np.searchsorted(_STEPS, losses.history, side="right")]


def _bin_names() -> list[str]:
    middle = [f"{low:,} to {high - 1:,} steps" for low, high in pairwise(_STEPS)]
    return [f"under {_STEPS[0]:,} steps", *middle, f"{_STEPS[-1]:,} steps and more"]
