"""Makes the config of a run from a candidate: the study's run and `set`, the candidate's values, and a fold's cuts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from foretrain.errors import ConfigError
from foretrain.models import family, forecast_options
from foretrain.run.config import RunConfig
from foretrain.run.shipped import find_config
from foretrain.run.stages import Draft, StagesConfig
from foretrain.training.run_record import is_higher_better
from foretrain.tuning.config import StudyObjective, TuneConfig
from foretrain.tuning.folds import Fold, folds_of
from foretrain.tuning.space import Candidate

# Keys that decide which windows are scored and by what: candidates that differ in them cannot be compared.
_SCORING = (
    "data.corpora", "data.generated", "data.target", "data.prediction_length", "data.min_context",
    "data.validation_steps", "data.test_steps", "data.validation_from", "data.test_from", "data.embargo",
    "data.holdout_fraction", "evaluation.num_windows", "evaluation.stride", "evaluation.quantile_levels",
    "evaluation.max_items", "evaluation.seasonality", "evaluation.target", "evaluation.loss", "evaluation.forecasts",
)  # fmt: skip
# Keys that the study sets itself.
_OWN = (
    "output_dir", "training.release", "training.tensorboard", "training.best_metric", "training.best_mode",
    "training.validate_every", "evaluation.promotion", "evaluation.require_significance", "evaluation.promote_over",
    "evaluation.clusters", "evaluators", "stages", "stage", "parents", "device", "threads",
)  # fmt: skip
FORECAST_KEYS = ("context_length", "num_samples")
OPTIONS = "options."
EVALUATOR = "benchmark/"


def metric_key(objective: StudyObjective) -> str:
    """Return the name of an objective's metric in metrics.jsonl: that of a validation, or benchmark/TAG/METRIC."""
    metric = objective.metric
    return metric if metric.startswith(("val_", EVALUATOR)) else f"{EVALUATOR}{metric}"


def is_maximized(objective: StudyObjective) -> bool:
    """Whether higher is better."""
    if objective.direction == "auto":
        return is_higher_better(objective.metric)
    return objective.direction == "maximize"


def check_keys(config: TuneConfig) -> None:
    """Raise ConfigError for a key of the space that a study cannot try."""
    for key in config.space:
        if config.task == "forecast":
            if key not in FORECAST_KEYS and not key.startswith(OPTIONS):
                raise ConfigError(
                    f"space.{key}: a trial of task: forecast trains nothing. Its keys are {', '.join(FORECAST_KEYS)} "
                    f"and {OPTIONS}NAME of the model's family."
                )
            continue
        for reserved in (*_SCORING, *_OWN):
            if f"{key}.".startswith(f"{reserved}.") or f"{reserved}.".startswith(f"{key}."):
                why = "the study sets it itself" if reserved in _OWN else "it decides which windows are scored, and how"
                raise ConfigError(f"space.{key}: {why}, so trials could not be compared. Leave it out; `set` takes it.")


def run_config(
    config: TuneConfig, candidate: Candidate, folder: Path, *, fold: Fold | None = None, final: bool = False
) -> RunConfig:
    """Return the config of the run in `folder` that trains a candidate.

    fold: whose part validates; None = the run's own. final: the run writes a release. Raises ConfigError.
    """
    path, _ = find_config(Path(config.run))
    changes: list[tuple[str, Any]] = [*config.set.items(), *_changes(config, candidate)]
    draft = Draft.read(path, [*changes, *_own(config, folder, final), *(fold.changes if fold else ())])
    if draft.is_pipeline:
        raise ConfigError(
            f"run: {config.run} has stages. A study tunes one run: write the stage as a config of its own, which "
            "starts from the release of the stage before."
        )
    draft.settle(None)
    training = draft.merged.get("training")
    if isinstance(training, dict) and config.task == "train":
        if not training.get("validate_every"):
            raise ConfigError(
                f"run: {config.run} has no training.validate_every, and trials are scored by their validations. Give "
                "it in `set`."
            )
        if "checkpoint_every" not in training:  # a trial that is killed goes on from here
            draft.override(None, [("training.checkpoint_every", training["validate_every"])])
    built = draft.build()
    assert not isinstance(built, StagesConfig)
    return built


def fold_configs(config: TuneConfig, candidate: Candidate, folder: Path) -> list[tuple[Fold, RunConfig]]:
    """Return the folds of a candidate and the config of each; run folders are folder/fold-K. Raises ConfigError."""
    base = run_config(config, candidate, folder)
    folds = folds_of(base.data, config.folds)
    return [(fold, run_config(config, candidate, folder / f"fold-{fold.number}", fold=fold)) for fold in folds]


def _changes(config: TuneConfig, candidate: Candidate) -> Iterable[tuple[str, Any]]:
    """Return the keys of a run's config that a candidate sets."""
    if config.task == "train":
        return candidate.items()
    return [(f"evaluation.{key}", value) for key, value in candidate.items() if key != "context_length"]


def _own(config: TuneConfig, folder: Path, final: bool) -> list[tuple[str, Any]]:
    """Return what a study sets in the config of every trial."""
    first = config.objectives[0]
    of_validation = metric_key(first).startswith("val_")
    chosen = (
        [("training.best_metric", first.metric), ("training.best_mode", "max" if is_maximized(first) else "min")]
        if of_validation
        else []
    )
    return [
        ("output_dir", str(folder)),
        ("training.release", final),
        ("training.tensorboard", False),
        ("evaluation.promotion", False),
        ("evaluation.require_significance", True),
        ("evaluation.promote_over", "origins"),
        ("evaluation.clusters", None),
        *chosen,
    ]


def forecast_context(candidate: Candidate) -> int | None:
    """Return the steps of history of a candidate of task: forecast; None = those of the run."""
    value = candidate.get("context_length")
    return None if value is None else int(value)


def check_options(config: RunConfig) -> None:
    """Raise ConfigError for options that the family of a run does not have."""
    if config.evaluation.options:
        forecast_options(family(config.model.family), config.evaluation.options)
