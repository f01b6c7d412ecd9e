"""What can be said of a study before its first trial: its keys, objectives, folds and constraints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foretrain.atomic import temporary_files
from foretrain.distributed.world import World
from foretrain.errors import ConfigError
from foretrain.run.build import build_model, open_source, settled
from foretrain.run.config import RunConfig
from foretrain.run.evaluators import check_data, tag_of
from foretrain.run.train import build_validation
from foretrain.suites.evaluator import EvaluatorConfig, chosen_tasks
from foretrain.training.memory import ResidentGrowth
from foretrain.tuning.candidates import EVALUATOR, check_keys, check_options, fold_configs, metric_key, run_config
from foretrain.tuning.config import TuneConfig
from foretrain.tuning.folds import check_folds
from foretrain.tuning.forecasting import open_fold
from foretrain.tuning.space import Candidate, SearchSpace

_AVERAGES, _OF_TASKS = ("avg_wql", "avg_mase", "composite_score"), ("wql", "mase")  # figures of an evaluator
_DRAWS = 20  # candidates of which one must make a config
WITHOUT_TEST = "the run has no test part, so no final table can be made; give data.test_from or data.test_steps"


def check_study(config: TuneConfig) -> list[str]:
    """Return lines on a study before its first trial. Raises ConfigError for one that cannot run.

    Every key of the space must exist, some candidate must make a config, the objectives must be among the metrics of
    its runs, and every fold must have room in the data.
    """
    check_keys(config)
    with temporary_files() as scratch:
        base, lines = run_config(config, {}, scratch), list[str]()
        _check_candidates(config, scratch)
        folds = fold_configs(config, {}, scratch)
        resolved, source = open_source(base)
        lines += check_folds([fold for fold, _ in folds], [own for _, own in folds], list(source.corpora))
        if config.task == "forecast":
            for fold, own in folds:
                _, validation = open_fold(config, own, fold)
            names = [*validation.names]
        else:
            model = build_model(resolved)
            model.check(source)
            found = build_validation(settled(resolved, source, World())[0], source, model, World())
            assert found is not None
            _ = found.backtest  # raises without forecasts, whose losses a study keeps
            names = [*found.names]
        _check_objectives(config, resolved, names)
    if resolved.evaluators and config.task == "train":
        check_data(resolved)
        lines += _evaluator_lines(resolved)
    if not resolved.data.cuts.has_test:
        lines.append(WITHOUT_TEST)
    if config.constraints.memory_gb is not None and ResidentGrowth().bytes() is None:
        raise ConfigError("constraints.memory_gb: this system does not tell what a process takes. Leave it out.")
    return lines


def _check_candidates(config: TuneConfig, folder: Path) -> None:
    """Raise ConfigError if no candidate of some draws makes a config, with the first one's problem."""
    space, first = SearchSpace(config.space), None
    for candidate in _draws(space, config.seed):
        try:
            check_options(run_config(config, candidate, folder))
            return
        except ConfigError as error:
            first = first or (candidate, error)
    assert first is not None
    raise ConfigError(f"space: no candidate of {_DRAWS} makes a config; of the first one, {first[0]}: {first[1]}")


def _draws(space: SearchSpace, seed: int) -> list[Candidate]:
    """Return random candidates."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed), storage=None)
    return [space.suggest(study.ask()) for _ in range(_DRAWS)]


def _check_objectives(config: TuneConfig, run: RunConfig, names: list[str]) -> None:
    """Raise ConfigError for an objective that no trial measures."""
    tags = _tags(run) if config.task == "train" else {}
    for objective in config.objectives:
        key = metric_key(objective)
        if not key.startswith(EVALUATOR):
            if key not in names:
                raise ConfigError(
                    f"objectives: {objective.metric} is not computed by the validation, which has {', '.join(names)}."
                )
            continue
        tag = key.removeprefix(EVALUATOR).partition("/")[0]
        evaluator = tags.get(tag)
        if evaluator is None:
            known = f"The run has {', '.join(tags)}." if tags else "The run has none."
            raise ConfigError(f"objectives: {objective.metric}: no evaluator of the run is called {tag}. {known}")
        _check_figure(objective.metric, key.removeprefix(EVALUATOR).partition("/")[2], evaluator)
        if evaluator.every != run.training.validate_every:
            raise ConfigError(
                f"objectives: {objective.metric}: the evaluator is due every {evaluator.every}, and the validation, "
                f"which chooses a trial's weights, every {run.training.validate_every}. Give both the same."
            )


def _check_figure(metric: str, figure: str, evaluator: EvaluatorConfig) -> None:
    """Raise ConfigError for a figure that an evaluator does not have: an average, or one of a task of its suite."""
    task, _, short = figure.rpartition("/")
    tasks = [one.name for one in chosen_tasks(evaluator)] if evaluator.suite is not None else [evaluator.label]
    if figure in _AVERAGES or (task in tasks and short in _OF_TASKS):
        return
    raise ConfigError(
        f"objectives: {metric}: evaluator {evaluator.label} has no {figure!r}. It has {', '.join(_AVERAGES)}, and "
        f"TASK/{' and TASK/'.join(_OF_TASKS)} of {', '.join(tasks[:5])}{', ...' if len(tasks) > 5 else ''}."
    )


def _tags(run: RunConfig) -> dict[str, EvaluatorConfig]:
    found: dict[str, Any] = {}
    for one in run.evaluators:
        found |= {one.label: one, tag_of(one, run.evaluators): one}
    return found


def _evaluator_lines(run: RunConfig) -> list[str]:
    """Return a line for each evaluator on another corpus, which may hold days of the test part."""
    return [
        f"evaluator {one.label} scores the newest steps of {one.corpus}: if they are of the days of the test part, an "
        "objective of it lets the choice see those days"
        for one in run.evaluators
        if one.corpus is not None
    ]
