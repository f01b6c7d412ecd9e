"""Trains one run from its config to its release: wires data, model, world, trainer and evaluation."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from foretrain.adapters.layers import describe_adapter
from foretrain.data.store import Corpus
from foretrain.data.synthetic.generated import AnySource
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, TrainingError
from foretrain.evaluation.validation import Validation
from foretrain.forecasting.scaling import training_scale_notes
from foretrain.models import family
from foretrain.models.base import Forecaster, Trainable
from foretrain.models.checkpoints import checkpoint_at, describe_checkpoint
from foretrain.notes import texts
from foretrain.run.ancestry import check_test_part
from foretrain.run.build import (
    build_model,
    open_source,
    parent_source,
    release_facts,
    saved_config,
    settled,
    with_parents,
)
from foretrain.run.config import RunConfig
from foretrain.run.evaluators import build_evaluators, makes_forecasts
from foretrain.run.intact import begin_verification, check_unchanged, stage_corpora
from foretrain.run.opening import with_checkpoints
from foretrain.run.promotion import ZERO_SHOT_ARGUMENT, check_test_split, run_gate
from foretrain.run.summary import describe_start, start_lines
from foretrain.run.waiting import announced
from foretrain.suites.evaluator import SuiteEvaluator
from foretrain.training.memory import naming_what_to_lower, ways_of_validation
from foretrain.training.monitor import append_log
from foretrain.training.run_record import measure
from foretrain.training.scoring import OnValidation
from foretrain.training.sinks import Sink
from foretrain.training.trainer import Trainer, TrainResult


def train_run(
    config: RunConfig,
    *,
    resume: str | None = None,
    world: World | None = None,
    corpora: list[Corpus] | None = None,
    source: AnySource | None = None,
    notes: Sequence[str] = (),
    on_validation: OnValidation | None = None,
    sinks: Sequence[Sink] = (),
) -> tuple[Trainable, TrainResult]:
    """Train a config and write output_dir/release. Every rank calls it.

    Args:
        resume: None starts a run (an error if output_dir holds one), "auto" resumes from the newest intact checkpoint
            or starts, a path resumes from that checkpoint.
        source: the result of open_source, if the caller has resolved config with it already.
        notes: first lines of the log.
        on_validation: called on rank 0 as (step, metrics) after a validation and the evaluators that are due with it;
            True ends the run.
        sinks: they take what metrics.jsonl has, on rank 0.

    Returns the model with the released weights, and how the run ended.
    """
    world = world or World.start(config.device, config.threads, config.deadlines)
    if (Path(config.output_dir) / "stages").is_dir():
        raise TrainingError(f"{config.output_dir} holds a run in stages. Choose another output_dir.")
    saved = saved_config(Path(config.output_dir), resume)
    config = with_checkpoints(config, world, saved if resume else None)
    if source is None:
        stage_corpora([config.data], world, given=corpora is not None)
    finish_verification = begin_verification([config.data] if corpora is None else [], world)
    if source is None:
        with announced("opening the data and counting its windows", world):
            config, source = open_source(config, corpora, saved)
    config, devices = settled(config, source, world, saved if resume else None)
    with announced(f"building the model from {describe_start(config)}", world):
        model = build_model(config)
        model.check(source)
        config = with_parents(config, model)
    header = [*notes, *start_lines(config, source, model, world), *devices]
    header += [*_describe_start(config, model), config.loss.describe()]
    header += [*filter(None, [describe_adapter(model)]), *source.left_out()]
    facts = release_facts(config, source)
    scale = [*model.release_notes(), *training_scale_notes(model, source)]
    facts |= {"warnings": [asdict(note) for note in scale]} if scale else {}
    header += texts([*check_test_split(config, model, source), *check_test_part(config, source, facts), *scale])

    def check_data() -> None:
        finish_verification()
        check_unchanged(source.corpora, world)

    check_release(config)
    with announced("reading the data of evaluators", world):
        evaluators = build_evaluators(config, source, model, world)
    header += [evaluator.describe() for evaluator in evaluators]
    with announced("preparing batches and validation", world):
        trainer = _build_trainer(
            config, source, model, world, resume, header, facts, check_data, evaluators, on_validation, sinks
        )
    result = trainer.fit()
    if config.evaluation.promotion:
        settings = config.model_dump(mode="json")
        with naming_what_to_lower(world, lambda: ways_of_validation(settings), " in the gate"):
            run_gate(config, model, source, world)
    if world.is_main and config.stage is None:
        more = ["next: the same command with --resume trains on"] if result.stopped_by == "max_minutes" else []
        for line in [*more, *next_commands(config, model, Path(config.output_dir))]:
            append_log(Path(config.output_dir), line)
    return model, result


def next_commands(config: RunConfig, model: Trainable, folder: Path) -> list[str]:
    """Return lines with the commands that a run's `folder` is used by: its evaluation, unless its gate made one, and a
    forecast; none for a model that makes no forecasts."""
    if not isinstance(model, Forecaster) or not config.training.release:
        return []
    paths = [spec.path for spec in config.data.corpora if spec.path is not None and Path(spec.path).exists()]
    commands = [["forecast", str(folder), paths[0] if paths else "my.csv"]]
    if config.data.known_covariates:
        commands[0] += ["--future", "my-future.csv"]
    if paths and config.data.cuts.has_test and not config.evaluation.promotion:
        commands.insert(0, ["evaluate", str(folder), "--data", paths[0], "--against", ZERO_SHOT_ARGUMENT])
    return [f"next: foretrain {shlex.join(command)}" for command in commands]


def _build_trainer(
    config: RunConfig,
    source: AnySource,
    model: Trainable,
    world: World,
    resume: str | None = None,
    notes: Sequence[str] = (),
    facts: dict[str, Any] | None = None,
    before_release: Callable[[], None] | None = None,
    evaluators: Sequence[SuiteEvaluator] = (),
    on_validation: OnValidation | None = None,
    sinks: Sequence[Sink] = (),
) -> Trainer:
    validation = build_validation(config, source, model, world)
    return Trainer(
        model,
        source,
        config.training,
        config.optimizer,
        output_dir=config.output_dir,
        seed=config.seed,
        world=world,
        evaluate=validation,
        evaluators=evaluators,
        on_validation=on_validation,
        resolved_config=config.model_dump(mode="json"),
        resume=resume,
        facts=facts,
        notes=notes,
        units=validation.units if validation is not None else None,
        before_release=before_release,
        schema=RunConfig,
        sinks=sinks,
    )


def _describe_start(config: RunConfig, model: Trainable) -> list[str]:
    """Return the log lines about the weights that a run starts from, and what it changes in their model's settings."""
    start, others = f"random weights (seed {config.seed})", list[str]()
    for role, hashed in config.parents.items():
        place = parent_source(config, role) or "its own"
        checkpoint = checkpoint_at(place)
        text = f"{place}{f', {describe_checkpoint(checkpoint)}' if checkpoint else ''} (hash {hashed[:12]})"
        if role == "model":
            start = text
        else:
            others.append(f"{role} {text}")
    lines = ["; ".join([f"starts from {start}", *others])]
    if model.adapted:
        changes = (f"{_in_words(name)} {there} -> {here}" for name, (there, here) in model.adapted.items())
        lines.append(f"adapted to this run: {', '.join(changes)}")
    return lines


def _in_words(setting: str) -> str:
    """Return a setting of a model in words: "context" for context_length, max_context_length and max_context."""
    return setting.removeprefix("max_").removesuffix("_length").replace("_", " ")


def check_run(config: RunConfig, source: AnySource, model: Trainable, world: World | None = None) -> None:
    """Raise the errors of a run that can be found before its first step; model may be on "meta".

    world: of its device; None = a CPU.
    """
    check_test_split(config, model, source)
    check_release(config)
    makes_forecasts(config, model)
    _build_trainer(config, source, model, World() if world is None else World(device=world.device))
    model.check(source)


def check_release(config: RunConfig) -> None:
    """Raise ConfigError for what needs a release, if the run is to write none."""
    if config.training.release:
        return
    if config.evaluation.promotion:
        raise ConfigError(
            "training.release: false leaves evaluation.promotion nothing to promote. Leave one of them out."
        )
    if config.stage is not None:
        raise ConfigError(
            f"training.release: false: by the release of stage {config.stage} its pipeline knows that it has ended, "
            "and starts the next. Leave it out."
        )


def build_validation(config: RunConfig, source: AnySource, model: Trainable, world: World) -> Validation | None:
    """Build the function that scores the model during training; None if the config needs no validation.

    Raises ConfigError if training.best_metric is not among its metrics.
    """
    if not _needs_validation(config):
        return None
    data, corpora, selections = source.validation_data()
    validation = Validation(
        config.evaluation,
        data,
        model=model,
        family=family(config.model.family),
        corpora=corpora,
        selections=selections,
        world=world,
        dtype=config.training.dtype,
        seed=config.seed,
    )
    best = config.training.best_metric
    if best not in validation.names:
        pooled = [name for name in validation.names if "/" not in name]
        corpora = dict.fromkeys(name.partition("/")[2] for name in validation.names if "/" in name)
        each = f", or that of one corpus (val_wql/NAME), which are {', '.join(corpora)}" if corpora else ""
        raise ConfigError(
            f"training.best_metric: {best!r} is not computed here; choose one of {', '.join(pooled)}{each}."
        )
    if "coverage" in measure(best):
        raise ConfigError(
            f"training.best_metric: {best} is best at 0.8, neither lowest nor highest, so it cannot choose weights. "
            "Choose val_wql, which scores the whole distribution."
        )
    return validation


def _needs_validation(config: RunConfig) -> bool:
    return bool(config.training.validate_every) or config.optimizer.schedule.kind == "plateau"


def holds_run(folder: Path) -> bool:
    """Return True if a run was started in `folder`, with or without stages."""
    return any((folder / name).exists() for name in ("checkpoints", "metrics.jsonl", "stages"))
