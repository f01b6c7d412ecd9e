"""RunConfig, the root of a run's config, and the only place that wires data, model, world, trainer and evaluation."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field, model_validator

from foretrain.adapters.files import write_adapter
from foretrain.adapters.layers import AdapterConfig, adapt, adapter_facts, describe_adapter, merged, parameter_counts
from foretrain.atomic import new_folder, write_json
from foretrain.config import Section, apply_overrides, build, dump_yaml, read_yaml
from foretrain.data.source import DataConfig, TrainingSource
from foretrain.data.store import Corpus
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, DataError, ModelError, TrainingError
from foretrain.evaluation.columns import scored_columns
from foretrain.evaluation.validation import EvaluationConfig, Validation
from foretrain.models import families, family, infer_family
from foretrain.models.base import Trainable
from foretrain.models.objective import LossConfig, objective_for
from foretrain.training import checkpoint as checkpoints
from foretrain.training.batches import describe_stream, stream_of
from foretrain.training.optimizer import OptimizerConfig, state_size
from foretrain.training.settings import TrainingConfig, plan_run
from foretrain.training.trainer import Trainer, TrainResult

if TYPE_CHECKING:
    ModelSection = Any
else:
    _SECTIONS = tuple(entry.config() for entry in families())
    ModelSection = _SECTIONS[0]
    if len(_SECTIONS) > 1:
        ModelSection = Annotated[Union[_SECTIONS], Field(discriminator="family")]  # noqa: UP007


class RunConfig(Section):
    """Everything that decides a run; printed before it starts and saved as output_dir/config.yaml."""

    model: ModelSection
    data: DataConfig
    training: TrainingConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()  # the family's own, or one of its predictions in a space of its own
    evaluation: EvaluationConfig = EvaluationConfig()
    adapter: AdapterConfig | None = None  # train low-rank updates or the head in place of all weights
    output_dir: str
    seed: int = Field(default=42, ge=0)  # of data order, initial weights and dropout
    device: str = "auto"  # auto, cpu, cuda, cuda:N or mps
    threads: int | None = Field(default=None, ge=1)  # CPU threads per process; None = torch's choice
    stage: str | None = None  # which stage of a pipeline this run is
    # What the weights were made from, role to hash of its release. Filled in at the start; what is given is checked.
    parents: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _with_family(cls, tree: Any) -> Any:
        return with_family(tree)


def with_family(tree: Any) -> Any:
    """A tree that names its model.family, which may be left out where model_id tells it."""
    model = tree.get("model") if isinstance(tree, dict) else None
    if not isinstance(model, dict) or "family" in model:
        return tree
    return {**tree, "model": {"family": infer_family(model.get("model_id")), **model}}


def config_hash(config: RunConfig) -> str:
    """sha256 of what decides a run's weights: its config without places, device, threads, logging, what comes after
    training, and parents' hashes.

    A release of another stage of the same pipeline counts by that stage's name.
    """
    tree = config.model_dump(mode="json")
    for key in ("output_dir", "device", "threads", "stage", "parents"):
        del tree[key]
    for key in ("log_every", "tensorboard"):
        del tree["training"][key]
    for key in ("promotion", "require_significance"):
        del tree["evaluation"][key]
    if config.stage is not None:
        stages = Path(config.output_dir).parent
        tree["model"] = _by_stage(tree["model"], stages, lambda name: f"stage:{name.partition('-')[2]}")
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _by_stage(value: Any, stages: Path, say: Callable[[str], str]) -> Any:
    """A model section with every release in the folder `stages` named as say(folder of the stage)."""
    if isinstance(value, dict):
        return {key: _by_stage(item, stages, say) for key, item in value.items()}
    path = Path(value) if isinstance(value, str) else None
    if path is not None and path.name == "release" and path.parent.parent == stages:
        return say(path.parent.name)
    return value


def shipped_config(name: str) -> Path:
    """Path of a config that ships with foretrain: from the source tree, else from the installed package."""
    for folder in (Path(__file__).parents[2] / "configs", Path(sys.prefix) / "share" / "foretrain" / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"{name}: no such shipped config.")


def load_config(path: Path, overrides: list[Any] | None = None) -> RunConfig:
    """The resolved config of a file and overrides. Raises ConfigError listing every problem."""
    return build(RunConfig, apply_overrides(read_yaml(path), overrides or []), source=str(path))


def build_model(config: RunConfig, device: str = "cpu") -> Trainable:
    """The model a config asks for: random weights from the seed, or a checkpoint's, with its lengths adapted, the
    loss that it is to minimise, and the low-rank layers of an adapter in it."""
    model = family(config.model.family).build(
        config.model,
        context_length=config.data.context_length,
        prediction_length=config.data.prediction_length,
        seed=config.seed,
        device=device,
    )
    model.objective = objective_for(config.loss, model)
    if config.adapter is not None:
        adapt(model, config.adapter, config.seed, _base(config, model))
    return model


def _base(config: RunConfig, model: Trainable) -> dict[str, Any]:
    """How adapters.files builds the model that an adapter belongs to: folders by their full paths."""
    section = config.model.model_dump(mode="json")
    for key, value in section.items():
        if value and key in ("model_id", *model.parents) and Path(value).is_dir():
            section[key] = str(Path(value).resolve())
    lengths = {key: getattr(config.data, key) for key in ("context_length", "prediction_length")}
    return {"model": section, **lengths, "seed": config.seed, "parents": dict(model.parents)}


def open_source(config: RunConfig, corpora: list[Corpus] | None = None) -> tuple[RunConfig, TrainingSource]:
    """The config with what its data decide filled in (columns, time stamps, parts of the model), and its windows.

    corpora, when given, take the place of the config's. Raises DataError and ConfigError as TrainingSource does.
    """
    opened = [spec.open() for spec in config.data.corpora] if corpora is None else corpora
    kind, found = family(config.model.family), dict[str, Any]()
    if config.data.with_times is None:
        found["with_times"] = kind.with_times and all(corpus.manifest.time != "steps" for corpus in opened)
    if config.data.target is None and (choice := kind.columns(_free_columns(config.data, opened))):
        found["target"] = choice.targets
    model = kind.settled(config.model, bool(config.data.known_covariates))
    config = config.model_copy(update={"data": config.data.model_copy(update=found), "model": model})
    return config, TrainingSource(config.data, config.seed, opened)


def _free_columns(data: DataConfig, corpora: list[Corpus]) -> list[str]:
    """Numeric columns that every corpus has and that are no covariates, in the first one's order."""
    numeric = [[c.name for c in corpus.manifest.columns if c.kind == "numeric"] for corpus in corpora]
    taken = {*data.past_covariates, *data.known_covariates}
    return [name for name in numeric[0] if name not in taken and all(name in other for other in numeric)]


def with_parents(config: RunConfig, model: Trainable) -> RunConfig:
    """The config with the hashes of what the model was made from. Raises ModelError where it names other ones."""
    found = dict(model.parents)
    for role, expected in config.parents.items():
        if found.get(role) != expected:
            raise ModelError(
                f"parents.{role}: {asked_for(config, role) or 'none'} does not hold the weights that the config "
                f"names: expected {expected}, found {found.get(role, 'nothing')}. Restore them, or leave "
                f"parents.{role} out to take what is there."
            )
    return config.model_copy(update={"parents": found})


def asked_for(config: RunConfig, role: str) -> str | None:
    """The folder or hub id by which a config asks for a parent: model_id for "model", else the key of that name."""
    return getattr(config.model, "model_id" if role == "model" else role, None)


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
    from foretrain.promotion import gate_notes, run_gate

    world = world or World.start(config.device, config.threads)
    if (Path(config.output_dir) / "stages").is_dir():
        raise TrainingError(f"{config.output_dir} holds a run in stages. Choose another output_dir.")
    if source is None:
        config, source = open_source(config, corpora)
    model = build_model(config)
    model.check(source)
    config = with_parents(config, model)
    told = [*notes, _origin(config), config.loss.describe(), *filter(None, [describe_adapter(model)])]
    told += gate_notes(config, model)
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
        facts=_release_facts(config, source),
        notes=notes,
        units=validation.units if validation is not None else None,
        upgrade=_as_of_today,
    )


def _as_of_today(saved: dict[str, Any]) -> dict[str, Any]:
    """A saved config with the defaults of settings that came after it; as it is where it has some that are gone."""
    try:
        return build(RunConfig, saved).model_dump(mode="json")
    except ConfigError:
        return saved


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
    from foretrain.promotion import gate_notes

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


def _release_facts(config: RunConfig, source: TrainingSource) -> dict[str, Any]:
    """What release.json says of where the weights come from; evaluate reads its defaults and overlaps from it."""
    ranges = [(c.manifest.first_time, c.manifest.last_time) for c in source.corpora]
    first = [start for start, _ in ranges if start]
    last = [end for _, end in ranges if end]
    return {
        "model_id": getattr(config.model, "model_id", None),
        "stage": config.stage,
        "parents": {role: _parent(config, role) for role in config.parents},
        "config_hash": config_hash(config),
        "loss": {"name": config.loss.name, "space": config.loss.space, "unit": config.loss.unit},
        "corpora": [
            {"name": c.name, "fingerprint": c.fingerprint, "provenance": c.manifest.provenance["kind"]}
            for c in source.corpora
        ],
        "date_range": [min(first), max(last)] if first and last else None,
        "data": {
            "target": config.data.target,
            "scored": _scored(config),
            "past_covariates": config.data.past_covariates,
            "known_covariates": config.data.known_covariates,
            "context_length": config.data.context_length,
            "prediction_length": config.data.prediction_length,
            "validation_steps": config.data.resolved_validation_steps,
            "test_steps": config.data.resolved_test_steps,
            "holdout_fraction": config.data.holdout_fraction,
        },
    }


def _parent(config: RunConfig, role: str) -> dict[str, str | None]:
    """A parent's hash, and how to find it."""
    found = {"hash": config.parents[role], "asked": asked_for(config, role)}
    revision = getattr(config.model, "revision" if role == "model" else f"{role}_revision", None)
    return found if revision is None else found | {"revision": revision}


def _scored(config: RunConfig) -> tuple[str, ...] | None:
    """The targets that validation scores, and an evaluation by default; None = all."""
    if config.data.target is None:
        return config.evaluation.target
    return scored_columns(config.evaluation.target, config.data.target, family(config.model.family))


def describe_run(config: RunConfig, world: World) -> list[str]:
    """Lines of `train --dry-run`: config, parameters, windows, memory and disk, and what would be refused."""
    config, source = open_source(config)
    model = build_model(config, device="meta")
    check_run(config, source, model)
    lines = [dump_yaml(config).rstrip(), "", *describe_needs(config, source, model, world)]
    output = Path(config.output_dir)
    if holds_run(output):
        lines.append(f"refused: {output} already holds a run; --resume goes on with it, or choose another output_dir.")
    return lines


def holds_run(folder: Path) -> bool:
    """Whether a run has begun in a folder, with or without stages."""
    return any((folder / name).exists() for name in ("checkpoints", "metrics.jsonl", "stages"))


def describe_needs(config: RunConfig, source: TrainingSource, model: Trainable | None, world: World) -> list[str]:
    """What a run would read, do and need; None for a model that does not exist yet."""
    facts, stream = source.describe(), stream_of(source, config.training)
    plan = plan_run(config.training, epoch_length=stream.epoch_length, world_size=world.size)
    lines = [
        f"data: {facts['series']:,} series, {facts['windows_per_epoch']:,} windows an epoch",
        *(
            f"  {c['name']}: {c['used']:,} of {c['series']:,} series ({c['provenance']}; {c['held_out']:,} held out, "
            f"{c['too_short']:,} too short)" + (f", share {c['share']:.1%}" if c["share"] is not None else "")
            for c in facts["corpora"]
        ),
        *describe_stream(stream),
        f"steps: {plan.steps:,} of {plan.batch_size:,} {plan.unit}"
        + (f" in micro-batches of {plan.micro_batch_size:,}" if plan.unit == "windows" else "")
        + f" over {world.size} process{'es' if world.size > 1 else ''} = {plan.total:,} {plan.unit}, "
        f"{plan.total / max(stream.epoch_length, 1):.2f} epochs",
    ]
    if model is not None:
        from foretrain.promotion import gate_notes

        about = _describe_model(config, model, facts["corpora"][0]["rows_per_window"])
        return [*about, *lines, _machine(world), *gate_notes(config, model)]
    return ["model: its parameters, memory and disk depend on a stage that has not run yet", *lines, _machine(world)]


def _machine(world: World) -> str:
    import torch

    return f"device: {world.device}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def _describe_model(config: RunConfig, model: Trainable, variates: int) -> list[str]:
    trained, count = parameter_counts(model)
    moments = state_size(model, config.optimizer) + (trained if config.training.ema_decay else 0)
    frozen = count - trained
    # a checkpoint holds no gradients, nor what an adapter leaves as it is
    state = 4 * (trained + moments + (frozen if model.adapter is None else 0))
    kept = config.training.keep_last + config.training.keep_best + 1
    free = _free(Path(config.output_dir).absolute())
    flops = model.flops_per_window(config.data.context_length, config.data.prediction_length, variates)
    lines = [
        f"model: {count:,} parameters, {flops / 1e9:,.3f} GFLOP forward a window",
        *filter(None, [describe_adapter(model)]),
        f"memory: {_size(4 * (count + trained + moments))} for weights, gradients and optimizer, activations on top",
        f"disk: {_size(state * kept)} for {kept} checkpoints of {_size(state)}, {_size(free)} free",
    ]
    if state * kept > free:
        lines.append("refused: the checkpoints do not fit on the disk; lower training.keep_last or keep_best.")
    return lines


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def relocated(config: RunConfig, folder: Path) -> RunConfig:
    """A stage's config with the releases of other stages where they are now, if the run folder is there by now."""
    old, folder = Path(config.output_dir), folder.absolute()
    if config.stage is None or old.exists() or folder.name != old.name:
        return config
    tree = _by_stage(
        config.model.model_dump(mode="json"), old.parent, lambda name: str(folder.parent / name / "release")
    )
    return config.model_copy(update={"model": type(config.model)(**tree), "output_dir": str(folder)})


def export_checkpoint(checkpoint: Path, out: Path, *, ema: bool = False, adapter: bool = False) -> None:
    """Write a release from a checkpoint's weights, averaged ones with ema; all of it or nothing.

    A run with an adapter gives the merged weights or, with adapter, the adapter's folder. Raises TrainingError where
    the checkpoint is damaged or has no averaged weights or no adapter, or out exists already.
    """
    if problem := checkpoints.damage(checkpoint):
        raise TrainingError(f"{checkpoint}: cannot be exported: {problem}")
    if out.exists():
        raise TrainingError(f"{out}: exists already; choose another folder or remove it.")
    state = checkpoints.read_state(checkpoint)
    config = build(RunConfig, state["config"], source=f"{checkpoint}/state.json")
    config = relocated(config, checkpoint.absolute().parents[1])
    if ema and config.training.ema_decay is None:
        raise TrainingError(f"{checkpoint}: this run kept no averaged weights (training.ema_decay); leave out --ema.")
    model = build_model(config)
    if adapter and (model.adapter is None or not model.adapter.portable):
        raise TrainingError(
            f"{checkpoint}: this run has no adapter that could be saved apart from its base; leave out --adapter."
        )
    # Weights that training began from and that are replaced here may be others; whatever else the model is made of
    # must be the same.
    others = {role: known for role, known in config.parents.items() if role != "model" or model.adapter is not None}
    with_parents(config.model_copy(update={"parents": others}), model)
    model.load_state_dict(checkpoints.release_weights(checkpoint, World(), model, averaged=ema), strict=False)
    facts = {"step": state["progress"]["step"], "weights": "ema" if ema else "trained", "from": checkpoint.name}
    facts |= adapter_facts(model)
    try:
        facts |= _release_facts(*open_source(config))
    except DataError as error:
        print(f"note: {out} cannot say what it was trained on, so no evaluation can keep clear of it: {error}")
    with new_folder(out) as scratch:
        if adapter:
            write_adapter(scratch, model)
        else:
            with merged(model):
                model.save_release(scratch)
        write_json(scratch / "release.json", facts)
