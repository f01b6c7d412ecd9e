"""One run from its config to its release: the place that wires data, model, world, trainer and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from foretrain.adapters.layers import describe_adapter
from foretrain.data.source import TrainingSource
from foretrain.data.store import Corpus
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, TrainingError
from foretrain.evaluation.validation import Validation
from foretrain.models import family
from foretrain.models.base import Trainable
from foretrain.notes import texts
from foretrain.run.build import asked_for, build_model, open_source, release_facts, with_parents
from foretrain.run.config import RunConfig
from foretrain.run.promotion import gate_notes, run_gate
from foretrain.training.trainer import Trainer, TrainResult


def train_run(
    config: RunConfig,
    *,
    resume: str | None = None,
    world: World | None = None,
    corpora: list[Corpus] | None = None,
    source: TrainingSource | None = None,
    notes: Sequence[str] = (),
) -> tuple[Trainable, TrainResult]:
    """Train as the config says and write output_dir/release. Every rank calls it.

    resume: None starts (an output_dir that holds a run is an error), "auto" goes on from the newest good checkpoint or
    starts, a path goes on from that one. source: of open_source, which has then resolved config. notes head the log.
    Returns the model holding the released weights, and how the run ended.
    """
    world = world or World.start(config.device, config.threads)
    if (Path(config.output_dir) / "stages").is_dir():
        raise TrainingError(f"{config.output_dir} holds a run in stages. Choose another output_dir.")
    if source is None:
        config, source = open_source(config, corpora)
    model = build_model(config)
    model.check(source)
    config = with_parents(config, model)
    told = [*notes, _origin(config), config.loss.describe(), *filter(None, [describe_adapter(model)])]
    told += texts(gate_notes(config, model))
    result = _trainer(config, source, model, world, resume, told).fit()
    if config.evaluation.promotion:
        run_gate(config, model, source, world)
    return model, result


def _trainer(
    config: RunConfig,
    source: TrainingSource,
    model: Trainable,
    world: World,
    resume: str | None = None,
    notes: Sequence[str] = (),
) -> Trainer:
    validation = _validation(config, source, model, world)
    return Trainer(
        model,
        source,
        config.training,
        config.optimizer,
        output_dir=config.output_dir,
        seed=config.seed,
        world=world,
        evaluate=validation,
        resolved_config=config.model_dump(mode="json"),
        resume=resume,
        facts=release_facts(config, source),
        notes=notes,
        units=validation.units if validation is not None else None,
        schema=RunConfig,
    )


def _origin(config: RunConfig) -> str:
    """What a run starts from, in words."""
    start, others = f"random weights (seed {config.seed})", list[str]()
    for role, known in config.parents.items():
        text = f"{asked_for(config, role) or 'its own'} (hash {known[:12]})"
        if role == "model":
            start = text
        else:
            others.append(f"{role} {text}")
    return "; ".join([f"starts from {start}", *others])


def check_run(config: RunConfig, source: TrainingSource, model: Trainable) -> None:
    """Raise what makes a run impossible and can be told before its first step; model may be on "meta"."""

    gate_notes(config, model)
    _trainer(config, source, model, World())
    model.check(source)


def _validation(config: RunConfig, source: TrainingSource, model: Trainable, world: World) -> Validation | None:
    """The function that scores the model during training, or None where nothing asks for it."""
    if not _validates(config):
        return None
    validation = Validation(
        config.evaluation,
        config.data,
        model=model,
        family=family(config.model.family),
        corpora=source.corpora,
        selections=source.selections,
        world=world,
        dtype=config.training.dtype,
        seed=config.seed,
    )
    best = config.training.best_metric
    if best not in validation.names:
        choice = ", ".join(validation.names)
        raise ConfigError(f"training.best_metric: {best!r} is not computed here; choose one of {choice}.")
    return validation


def _validates(config: RunConfig) -> bool:
    return bool(config.training.validate_every) or config.optimizer.schedule.kind == "plateau"


def holds_run(folder: Path) -> bool:
    """Whether a run has begun in a folder, with or without stages."""
    return any((folder / name).exists() for name in ("checkpoints", "metrics.jsonl", "stages"))
