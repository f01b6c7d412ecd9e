"""Figures of many tasks in one: the aggregates that suites publish, over {model: {task: {metric: error}}}.

* Chronos: geometric mean of the ratios to seasonal naive, of each metric (`geometric_means`).
* GIFT-Eval: the same of MASE and CRPS, and mean ranks (`gift_eval_standings`).
* fev: win rate and skill with bootstrap intervals (`fev_standings`), and of each pair of models (`fev_pairs`).

Errors are not negative, lower is better. A task or metric that a model lacks, or a NaN, is a failure; nothing is
replaced unless `missing` says so, and what was replaced is counted in the result.

# T tasks, M models, R resamples
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from foretrain.errors import DataError
from foretrain.evaluation.scored import Array, Ints

Figures = Mapping[str, Mapping[str, Mapping[str, float]]]  # model -> task -> metric -> error
Missing = Literal["error", "drop", "impute"]
Interval = tuple[float, float]

CLIP = (0.01, 100.0)  # fev: an error relative to another counts as no less and no more
SEED = 123  # of fev's bootstrap
ALPHA = 0.05  # 95% intervals
GIFT_MASE, GIFT_CRPS = "MASE[0.5]", "mean_weighted_sum_quantile_loss"
_NAMED = 5  # tasks that an error lists


@dataclass(frozen=True)
class ErrorPanel:
    """One metric of all models on all tasks, in the order of both."""

    metric: str
    tasks: tuple[str, ...]
    models: tuple[str, ...]
    errors: Array  # (T, M) NaN = failed
    imputed: np.ndarray  # (T, M) bool: another model's error stands there

    def of(self, model: str) -> Array:
        """Return the errors of a model (T,). Raises DataError if there is none of that name."""
        if model not in self.models:
            raise DataError(f"{model}: no figures of this model. There are those of {', '.join(self.models)}.")
        return self.errors[:, self.models.index(model)]


@dataclass(frozen=True)
class GiftStanding:
    """A model in GIFT-Eval's table."""

    model: str
    mase: float  # geometric mean of the ratios to seasonal naive
    crps: float
    mase_rank: float  # mean over configurations; 1 = best
    crps_rank: float
    imputed: int  # configurations that count as seasonal naive


@dataclass(frozen=True)
class FevStanding:
    """A model in fev's leaderboard. Intervals are there if resamples were asked for."""

    model: str
    win_rate: float  # share of the comparisons with other models that it wins; a tie is half a win
    skill: float  # 1 - geometric mean of the errors relative to the baseline, clipped
    failures: int  # tasks without a figure
    leaky: int  # tasks whose data the model was trained on
    imputed: int  # tasks where another model's error stands for its own
    win_rate_interval: Interval | None = None
    skill_interval: Interval | None = None


@dataclass(frozen=True)
class FevPair:
    """A model against another."""

    model: str
    other: str
    win_rate: float
    skill: float  # 1 - geometric mean of the ratios of errors, clipped
    win_rate_interval: Interval | None = None
    skill_interval: Interval | None = None


def panel_of(figures: Figures, metric: str, tasks: Sequence[str] | None = None) -> ErrorPanel:
    """Return a metric of all models. tasks: which and in which order (None: all, as they come up first).

    Raises DataError without models or tasks, and for a negative error.
    """
    names = tuple(tasks) if tasks is not None else tuple(dict.fromkeys(task for of in figures.values() for task in of))
    if not figures or not names:
        raise DataError(f"{metric}: no {'tasks' if figures else 'models'} to aggregate over.")
    errors = np.array([[of.get(task, {}).get(metric, np.nan) for of in figures.values()] for task in names], np.float64)
    if (errors < 0).any():
        task, model = np.argwhere(errors < 0)[0]
        raise DataError(
            f"{list(figures)[model]}, {names[task]}: {metric} is {errors[task, model]:g}; an error is not below 0."
        )
    return ErrorPanel(metric, names, tuple(figures), errors, np.zeros(errors.shape, bool))


def geometric_means(
    figures: Figures,
    metrics: Sequence[str],
    *,
    baseline: str | None,
    tasks: Sequence[str] | None = None,
    missing: Missing = "error",
) -> dict[str, dict[str, float]]:
    """Return {model: {metric: geometric mean over tasks of the ratios to the baseline}}, as Chronos' tables.

    baseline=None takes the errors themselves. A figure of 0 makes a mean 0. Raises DataError for failures (as `missing`
    says), and if a ratio is undefined.
    """
    found: dict[str, dict[str, float]] = {model: {} for model in figures}
    for metric in metrics:
        panel = complete(panel_of(figures, metric, tasks), missing, baseline)
        values = panel.errors if baseline is None else relative(panel, baseline).errors
        for model, mean in zip(panel.models, _geometric_mean(values).tolist(), strict=True):
            found[model][metric] = mean
    return found


def gift_eval_standings(
    figures: Figures, *, baseline: str, tasks: Sequence[str] | None = None, missing: Missing = "error"
) -> list[GiftStanding]:
    """Return the models of GIFT-Eval's table, best mean CRPS rank first.

    Errors are relative to seasonal naive's on the same configuration. Of equal errors the model whose name sorts first
    has the better rank, as in the leaderboard. Raises DataError for failures, as `missing` says.
    """
    ordered = {model: figures[model] for model in sorted(figures)}
    means, ranks = {}, {}
    imputed = np.zeros(len(ordered), np.int64)
    for metric in (GIFT_MASE, GIFT_CRPS):
        panel = relative(complete(panel_of(ordered, metric, tasks), missing, baseline), baseline)
        means[metric] = _geometric_mean(panel.errors)
        ranks[metric] = (np.argsort(np.argsort(panel.errors, axis=1, kind="stable"), axis=1) + 1).mean(axis=0)
        imputed = np.maximum(imputed, panel.imputed.sum(axis=0))
    columns = (means[GIFT_MASE], means[GIFT_CRPS], ranks[GIFT_MASE], ranks[GIFT_CRPS])
    rows = [
        GiftStanding(model, *(float(column[k]) for column in columns), imputed=int(imputed[k]))
        for k, model in enumerate(ordered)
    ]
    return sorted(rows, key=lambda row: row.crps_rank)


def fev_standings(
    figures: Figures,
    metric: str,
    *,
    baseline: str,
    tasks: Sequence[str] | None = None,
    missing: Missing = "error",
    leaky: Mapping[str, Collection[str]] | None = None,
    leakage_model: str | None = None,
    clip: Interval = CLIP,
    resamples: int | None = None,
    seed: int = SEED,
) -> list[FevStanding]:
    """Return fev's leaderboard of a metric, best win rate first.

    leaky: {model: tasks whose data it was trained on}; if leakage_model is named, its errors stand there. Then failures
    are an error, drop their task for all, or count as the baseline. Intervals are 95% bootstrap intervals over tasks;
    fev draws tasks in the order of its columns (data set, horizon, ...), so equal bounds need `tasks` in that order.
    Raises DataError if the baseline failed or has an error of 0. fev.analysis.leaderboard.
    """
    panel = panel_of(figures, metric, tasks)
    _require_baseline(panel, baseline)
    panel = _without_leaks(relative(panel, baseline), leaky or {}, leakage_model)
    panel = replace(panel, errors=np.clip(panel.errors, *clip))  # NaN stays NaN
    failures = np.isnan(panel.errors).sum(axis=0)
    done = complete(panel, missing, baseline)
    leaks = _leaks(done, leaky or {}).sum(axis=0)
    wins = _wins(done.errors)
    count = len(done.models)
    others = ~np.eye(count, dtype=bool)

    def win_rates(weights: Array) -> Array:
        pairs = _weighted_mean(weights, wins)
        return (
            np.where(others, pairs, 0.0).sum(axis=-1) / (count - 1) if count > 1 else np.full(pairs.shape[:-1], np.nan)
        )

    def skills(weights: Array) -> Array:
        return 1 - np.exp(_weighted_mean(weights, np.log(done.errors)))

    rates, rate_intervals = _bootstrap(win_rates, len(done.tasks), resamples, seed)
    skill, skill_intervals = _bootstrap(skills, len(done.tasks), resamples, seed)
    rows = [
        FevStanding(
            model, float(rates[k]), float(skill[k]), int(failures[k]), int(leaks[k]),
            int(done.imputed[:, k].sum()), _pair(rate_intervals, k), _pair(skill_intervals, k),
        )
        for k, model in enumerate(done.models)
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -row.win_rate if row.win_rate == row.win_rate else 0.0)


def fev_pairs(
    figures: Figures,
    metric: str,
    *,
    baseline: str | None = None,
    tasks: Sequence[str] | None = None,
    missing: Missing = "error",
    leaky: Mapping[str, Collection[str]] | None = None,
    leakage_model: str | None = None,
    clip: Interval = CLIP,
    resamples: int | None = None,
    seed: int = SEED,
) -> list[FevPair]:
    """Return every model against every model, itself included, those with the best mean rank first.

    Arguments as for `fev_standings`; the baseline is needed to impute failures only. The skill of two models with an
    error of 0 on the same task is undefined (NaN). fev.analysis.pairwise_comparison.
    """
    panel = panel_of(figures, metric, tasks)
    panel = complete(_without_leaks(panel, leaky or {}, leakage_model), missing, baseline)
    order = np.argsort(-_wins(panel.errors).mean(axis=0).sum(axis=1), kind="stable")  # the mean rank falls with wins
    errors, models = panel.errors[:, order], [panel.models[k] for k in order]
    wins = _wins(errors)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.log(np.clip(errors[:, :, None] / errors[:, None, :], *clip))
    rates, rate_intervals = _bootstrap(lambda weights: _weighted_mean(weights, wins), len(errors), resamples, seed)
    skill, skill_intervals = _bootstrap(
        lambda weights: 1 - np.exp(_weighted_mean(weights, ratios)), len(errors), resamples, seed
    )
    return [
        FevPair(
            model,
            other,
            float(rates[a, b]),
            float(skill[a, b]),
            _pair(rate_intervals, a, b),
            _pair(skill_intervals, a, b),
        )
        for a, model in enumerate(models)
        for b, other in enumerate(models)
    ]


def relative(panel: ErrorPanel, baseline: str) -> ErrorPanel:
    """Return the errors divided by the baseline's. Raises DataError if the baseline failed or has an error of 0."""
    _require_baseline(panel, baseline)
    return replace(panel, errors=panel.errors / panel.of(baseline)[:, None])


def complete(panel: ErrorPanel, missing: Missing, baseline: str | None = None) -> ErrorPanel:
    """Return a panel without failures: an error for them, without their tasks, or with the baseline's errors there.

    Raises DataError for failures under "error", if no task is left, and if the baseline failed too.
    """
    failed = np.isnan(panel.errors)
    if not failed.any():
        return panel
    if missing == "error":
        raise DataError(_failures(panel, failed))
    if missing == "drop":
        kept = ~np.logical_or.reduce(failed, axis=1)
        if not kept.any():
            raise DataError(f"{panel.metric}: every task lacks a figure of some model. {_failures(panel, failed)}")
        tasks = tuple(task for task, keep in zip(panel.tasks, kept, strict=True) if keep)
        return replace(panel, tasks=tasks, errors=panel.errors[kept], imputed=panel.imputed[kept])
    if baseline is None:
        raise DataError(f"{panel.metric}: failures count as a baseline's errors; name the baseline.")
    _require_baseline(panel, baseline, zero=True)
    return replace(
        panel,
        errors=np.where(failed, panel.of(baseline)[:, None], panel.errors),
        imputed=panel.imputed | failed,
    )


def _require_baseline(panel: ErrorPanel, baseline: str, *, zero: bool = False) -> None:
    errors = panel.of(baseline)
    bad = np.isnan(errors) if zero else ~((errors > 0) & np.isfinite(errors))
    if bad.any():
        names = _listed([task for task, one in zip(panel.tasks, bad, strict=True) if one])
        raise DataError(
            f"{baseline}: {panel.metric} is missing, 0 or not finite on {names}; nothing can be relative to it. "
            "Score it on these tasks, or leave them out."
        )


def _failures(panel: ErrorPanel, failed: np.ndarray) -> str:
    """Return one line that names the models with failures and their tasks."""
    parts = [
        f"{model} on {_listed([task for task, one in zip(panel.tasks, column, strict=True) if one])}"
        for model, column in zip(panel.models, failed.T, strict=True)
        if column.any()
    ]
    return f"{panel.metric}: no figure of {'; '.join(parts)}. Score them, drop the tasks, or impute the baseline."


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def _leaks(panel: ErrorPanel, leaky: Mapping[str, Collection[str]]) -> np.ndarray:
    """Return which tasks each model was trained on (T, M)."""
    unknown = [model for model in leaky if model not in panel.models]
    if unknown:
        panel.of(unknown[0])
    flags = [[task in leaky.get(model, ()) for model in panel.models] for task in panel.tasks]
    return np.array(flags, bool).reshape(panel.errors.shape)


def _without_leaks(panel: ErrorPanel, leaky: Mapping[str, Collection[str]], leakage_model: str | None) -> ErrorPanel:
    """Return the panel with another model's errors where a model was trained on a task's data."""
    flags = _leaks(panel, leaky)
    if leakage_model is None:
        return panel
    clean = panel.of(leakage_model)
    if flags[:, panel.models.index(leakage_model)].any():
        raise DataError(f"{leakage_model}: was trained on tasks itself, and cannot stand for models that were.")
    return replace(panel, errors=np.where(flags, clean[:, None], panel.errors), imputed=panel.imputed | flags)


def _wins(errors: Array) -> Array:
    """Return 1 where a model's error is less than another's, 1/2 where equal (T, M, M)."""
    first, second = errors[:, :, None], errors[:, None, :]
    return (first < second) + 0.5 * (first == second)


def _weighted_mean(weights: Array, values: Array) -> Array:
    """Return the means over tasks of values (T, ...), one for each row of whole weights (R, T): (R, ...)."""
    flat = values.reshape(len(values), -1)
    return (weights @ flat / weights.sum(axis=1, keepdims=True)).reshape(len(weights), *values.shape[1:])


def _bootstrap(
    statistic: Callable[[Array], Array], tasks: int, resamples: int | None, seed: int
) -> tuple[Array, tuple[Array, Array] | None]:
    """Return a statistic of weights (R, T) over all tasks, and its 95% interval if resamples are asked for."""
    found = statistic(np.ones((1, tasks)))[0]
    if resamples is None:
        return found, None
    drawn = np.random.default_rng(seed).integers(0, tasks, size=(resamples, tasks))
    values = statistic(_counts(drawn, tasks))
    return found, (np.quantile(values, ALPHA / 2, axis=0), np.quantile(values, 1 - ALPHA / 2, axis=0))


def _counts(drawn: Ints, tasks: int) -> Array:
    """Return how often each task was drawn in each resample (R, T)."""
    flat = drawn + tasks * np.arange(len(drawn))[:, None]
    return np.bincount(flat.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)


def _pair(interval: tuple[Array, Array] | None, *at: int) -> Interval | None:
    return None if interval is None else (float(interval[0][at]), float(interval[1][at]))


def _geometric_mean(values: Array) -> Array:
    """Return the geometric means of columns (T, M)."""
    with np.errstate(divide="ignore"):
        return np.exp(np.log(values).mean(axis=0))
