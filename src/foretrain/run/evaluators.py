"""Wires the `evaluators:` of a config into its run."""

from __future__ import annotations

from collections.abc import Sequence

from foretrain.data.synthetic.generated import AnySource
from foretrain.distributed.world import World
from foretrain.errors import ConfigError
from foretrain.evaluation.validation import chosen_options
from foretrain.models import family
from foretrain.models.base import Forecaster, Trainable
from foretrain.notes import counted
from foretrain.run.config import RunConfig
from foretrain.suites.evaluator import EvaluatedWeights, EvaluatorConfig, SuiteEvaluator, chosen_tasks, missing_data


def build_evaluators(config: RunConfig, source: AnySource, model: Trainable, world: World) -> list[SuiteEvaluator]:
    """Read the data of a run's evaluators.

    Raises ConfigError that lists every task without data, and for a model that makes no forecasts; DataError for data
    that cannot be used.
    """
    if not config.evaluators or not makes_forecasts(config, model):
        return []
    check_data(config)
    of = family(config.model.family)
    weights = EvaluatedWeights(
        min(config.data.context_length, model.max_context_length) if isinstance(model, Forecaster) else 0,
        chosen_options(config.evaluation, of),
        of.reads_covariates,
    )
    trained_on = {corpus.fingerprint for corpus in source.corpora}
    return [
        SuiteEvaluator(one, weights, world, trained_on=trained_on, tag=tag_of(one, config.evaluators),
                       alone=len(config.evaluators) == 1)
        for one in config.evaluators
    ]  # fmt: skip


def makes_forecasts(config: RunConfig, model: Trainable) -> bool:
    """Return whether a run's model can be evaluated. Raises ConfigError if not, unless the run is one of a pipeline,
    whose evaluators are those of all its stages."""
    if isinstance(model, Forecaster):
        return True
    if config.stage is None and config.evaluators:
        raise ConfigError(f"evaluators: a {model.family} makes no forecasts, so they cannot score it. Leave them out.")
    return False


def check_data(config: RunConfig) -> None:
    """Raise ConfigError that lists what data of a run's evaluators are absent."""
    if missing := [line for one in config.evaluators for line in missing_data(one)]:
        raise ConfigError("\n  ".join(missing))  # indented, as a terminal shows lines of one error


def describe_evaluators(config: RunConfig) -> tuple[list[str], list[str]]:
    """Return a line for each evaluator of a run, and a line for each task without data, for `train --dry-run`."""
    lines, missing = list[str](), list[str]()
    for one in config.evaluators:
        absent = missing_data(one)
        what = (
            f"corpus {one.corpus}" if one.suite is None else f"{counted(len(chosen_tasks(one)), 'task')} of {one.suite}"
        )
        there = (
            "data absent"
            if absent and one.suite is None
            else f"{len(absent):,} without data"
            if absent
            else "all data there"
        )
        every = "epoch" if one.every == "epoch" else f"{one.every:,} steps"
        lines.append(f"evaluator {one.label}: {what}, {there}, every {every} and at the end")
        missing += absent
    return lines, missing


def tag_of(one: EvaluatorConfig, others: Sequence[EvaluatorConfig]) -> str:
    """Return the suite in the names of an evaluator's metrics: its own name where another one has the same suite."""
    same = [other for other in others if one.suite is not None and other.suite == one.suite]
    return one.suite if one.suite is not None and len(same) == 1 else one.label
