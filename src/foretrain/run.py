"""RunConfig, the root of a run's config, and the only place that wires data, model, world, trainer and evaluation."""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field, model_validator

from foretrain.config import Section, apply_overrides, build, dump_yaml, read_yaml
from foretrain.data.source import DataConfig, TrainingSource
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError, DataError, TrainingError
from foretrain.evaluation.columns import scored_columns
from foretrain.evaluation.validation import EvaluationConfig, Validation
from foretrain.models import FAMILIES, families, family, infer_family
from foretrain.models.base import Forecaster, Trainable
from foretrain.training import checkpoint as checkpoints
from foretrain.training.distributed import World
from foretrain.training.monitor import silence_stdout
from foretrain.training.optimizer import OptimizerConfig
from foretrain.training.settings import TrainingConfig, plan_run
from foretrain.training.trainer import Evaluate, Trainer, TrainResult

if TYPE_CHECKING:
    from foretrain.forecasting.predictor import Predictor

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
    evaluation: EvaluationConfig = EvaluationConfig()
    output_dir: str
    seed: int = Field(default=42, ge=0)  # of data order, initial weights and dropout
    device: str = "auto"  # auto, cpu, cuda, cuda:N or mps
    threads: int | None = Field(default=None, ge=1)  # CPU threads per process; None = torch's choice

    @model_validator(mode="before")
    @classmethod
    def _with_family(cls, tree: Any) -> Any:
        """model.family may be left out where model_id tells it."""
        model = tree.get("model") if isinstance(tree, dict) else None
        if not isinstance(model, dict) or "family" in model:
            return tree
        return {**tree, "model": {"family": infer_family(model.get("model_id")), **model}}


@dataclass(frozen=True)
class BatchFlags:
    """--per-device-train-batch-size and --gradient-accumulation-steps, upstream's way to give the batch size."""

    per_device: int | None = None
    accumulation: int | None = None

    def overrides(self, tree: dict[str, Any], world_size: int) -> list[tuple[str, Any]]:
        """batch_size and micro_batch_size that the flags mean: windows a step = micro x accumulation x processes."""
        if self.per_device is None and self.accumulation is None:
            return []
        section = tree.get("training") or {}
        micro = self.per_device or section.get("micro_batch_size")
        if micro is None:
            batch = section.get("batch_size", TrainingConfig.model_fields["batch_size"].default)
            micro = max(1, batch // ((self.accumulation or 1) * world_size))
        accumulation = self.accumulation or 1
        return [("training.micro_batch_size", micro), ("training.batch_size", micro * accumulation * world_size)]


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
    """The model a config asks for: random weights from the seed, or a checkpoint's, with its lengths adapted."""
    return family(config.model.family).build(
        config.model,
        context_length=config.data.context_length,
        prediction_length=config.data.prediction_length,
        seed=config.seed,
        device=device,
    )


def train_run(
    config: RunConfig, *, resume: str | None = None, world: World | None = None, corpora: list[Corpus] | None = None
) -> tuple[Trainable, TrainResult]:
    """Train as the config says and write output_dir/release. Every rank calls it.

    resume: None starts (an output_dir that holds a run is an error), "auto" goes on from the newest good checkpoint or
    starts, a path goes on from that one. Returns the model holding the released weights, and how the run ended.
    """
    world = world or World.start(config.device, config.threads)
    source = TrainingSource(config.data, config.seed, corpora)
    model = build_model(config)
    trainer = Trainer(
        model,
        source,
        config.training,
        config.optimizer,
        output_dir=config.output_dir,
        seed=config.seed,
        world=world,
        evaluate=_validation(config, source, model, world),
        resolved_config=config.model_dump(mode="json"),
        resume=resume,
        facts=_release_facts(config, source),
    )
    return model, trainer.fit()


def train_command(
    path: Path, overrides: list[Any], *, batch: BatchFlags, resume: str | None = None, dry_run: bool = False
) -> None:
    """What `foretrain train` does on every rank."""
    tree = apply_overrides(read_yaml(path), overrides)
    device, threads = tree.get("device", "auto"), tree.get("threads")
    with World.start(str(device), threads if isinstance(threads, int) else None) as world:
        saved = _saved_config(tree, resume)
        if saved is not None:  # a run goes on with the batch sizes it began with
            training = tree.setdefault("training", {})
            training["batch_size"] = saved["training"]["batch_size"]
            if batch.per_device is None:
                training["micro_batch_size"] = saved["training"]["micro_batch_size"]
            else:
                training["micro_batch_size"] = batch.per_device
        else:
            tree = apply_overrides(tree, batch.overrides(tree, world.size))
        config = build(RunConfig, tree, source=str(path))
        if dry_run:
            if world.is_main:
                print("\n".join(describe_run(config, world)))
            return
        if world.is_main:
            try:
                print(dump_yaml(config), end="", flush=True)
            except BrokenPipeError:
                silence_stdout()
        train_run(config, resume=resume, world=world)


def _saved_config(tree: dict[str, Any], resume: str | None) -> dict[str, Any] | None:
    """The config of the run that is to go on, if there is one."""
    folder = tree.get("output_dir")
    path = Path(str(folder)) / "config.yaml"
    if resume is None or folder is None or not path.is_file():
        return None
    return read_yaml(path)


def _validation(config: RunConfig, source: TrainingSource, model: Trainable, world: World) -> Evaluate | None:
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


def _scored(config: RunConfig) -> tuple[str, ...] | None:
    """The targets that validation scores, and an evaluation by default; None = all."""
    if config.data.target is None:
        return config.evaluation.target
    return scored_columns(config.evaluation.target, config.data.target, family(config.model.family))


def describe_run(config: RunConfig, world: World) -> list[str]:
    """Lines of `train --dry-run`: config, parameters, windows, memory and disk, and what would be refused."""
    import torch

    lines = [dump_yaml(config).rstrip(), ""]
    model = build_model(config, device="meta")
    count = sum(p.numel() for p in model.parameters())
    source = TrainingSource(config.data, config.seed)
    facts = source.describe()
    plan = plan_run(config.training, epoch_length=source.epoch_length, world_size=world.size)
    copies = 4 + (1 if config.training.ema_decay else 0)  # weights, gradients, two moments
    state = count * 4 * (copies - 1)  # a checkpoint holds no gradients
    kept = config.training.keep_last + config.training.keep_best + 1
    output = Path(config.output_dir)
    flops = model.flops_per_window(
        config.data.context_length, config.data.prediction_length, facts["corpora"][0]["rows_per_window"]
    )
    lines += [
        f"model: {count:,} parameters, {flops / 1e9:,.3f} GFLOP forward a window",
        f"data: {facts['series']:,} series, {facts['windows_per_epoch']:,} windows an epoch",
        *(
            f"  {c['name']}: {c['used']:,} of {c['series']:,} series ({c['provenance']}; {c['held_out']:,} held out, "
            f"{c['too_short']:,} too short)" + (f", share {c['share']:.1%}" if c["share"] is not None else "")
            for c in facts["corpora"]
        ),
        f"steps: {plan.steps:,} of {plan.batch_size:,} windows in micro-batches of {plan.micro_batch_size:,} over "
        f"{world.size} process{'es' if world.size > 1 else ''} = {plan.windows:,} windows, "
        f"{plan.windows / max(source.epoch_length, 1):.2f} epochs",
        f"memory: {_size(count * 4 * copies)} for weights, gradients and optimizer, activations on top",
        f"disk: {_size(state * kept)} for {kept} checkpoints of {_size(state)}, {_size(_free(output))} free",
        f"device: {world.device}, torch {torch.__version__}, {torch.get_num_threads()} threads",
    ]
    if (output / "checkpoints").exists() or (output / "metrics.jsonl").exists():
        lines.append(f"refused: {output} already holds a run; --resume goes on with it, or choose another output_dir.")
    if state * kept > _free(output):
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


def fit(data: Any, model: str | dict[str, Any] = "chronos2", **overrides: Any) -> Predictor:
    """Train from Python and return the Predictor.

    Args:
        data: a corpus folder, a Corpus, or a pandas frame in long format (item_id, timestamp, value columns), which
            is imported into output_dir/corpus by the rules of `foretrain data import`.
        model: a release folder or hub id to fine-tune; the name of a family for random weights; or a mapping for the
            `model:` section.
        overrides: config keys with `__` for the dot: fit(df, "amazon/chronos-2", data__prediction_length=24,
            training__max_steps=200, output_dir="runs/mine"). output_dir is required; training.max_steps defaults to
            1000, data.context_length to 512 and data.prediction_length to 24.

    Raises ConfigError, DataError, ModelError or TrainingError as `foretrain train` does.
    """
    from foretrain.forecasting.predictor import Predictor

    tree: dict[str, Any] = {"training": {}, "data": {"context_length": 512, "prediction_length": 24}}
    tree["model"] = dict(model) if isinstance(model, dict) else _model_section(model)
    tree = apply_overrides(tree, [(key.replace("__", "."), value) for key, value in overrides.items()])
    if not {"max_steps", "epochs"} & set(tree["training"]):
        tree["training"]["max_steps"] = 1000
    if "output_dir" not in tree:
        raise ConfigError('output_dir: required, but not given; for example output_dir="runs/mine".')
    corpora = [data] if isinstance(data, Corpus) else None
    path = data if isinstance(data, (str, Path, Corpus)) else _imported(data, Path(tree["output_dir"]) / "corpus")
    name = (path.path or f"(in memory) {path.name}") if isinstance(path, Corpus) else path
    tree["data"]["corpora"] = [{"path": str(name)}]
    trained, _ = train_run(build(RunConfig, tree, source="fit"), corpora=corpora)
    assert isinstance(trained, Forecaster)
    return Predictor(trained)


def _model_section(name: str) -> dict[str, Any]:
    return {"family": name, "random_init": True} if name in FAMILIES else {"model_id": name}


def _imported(frame: Any, out: Path) -> Path:
    """A pandas frame as a corpus folder."""
    import pandas as pd

    from foretrain.data.importers import import_corpus

    if not isinstance(frame, pd.DataFrame):
        raise ConfigError(f"data: a corpus folder, a Corpus or a pandas frame, not {type(frame).__name__}.")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "frame.parquet"
        frame.to_parquet(path, index=False)
        import_corpus([path], out)
    return out


def export_checkpoint(checkpoint: Path, out: Path, *, ema: bool = False) -> None:
    """Write a release from a checkpoint's weights, averaged ones with ema; all of it or nothing.

    Raises TrainingError where the checkpoint is damaged or has no averaged weights, or out exists already.
    """
    if problem := checkpoints.damage(checkpoint):
        raise TrainingError(f"{checkpoint}: cannot be exported: {problem}")
    if out.exists():
        raise TrainingError(f"{out}: exists already; choose another folder or remove it.")
    state = checkpoints.read_state(checkpoint)
    config = build(RunConfig, state["config"], source=f"{checkpoint}/state.json")
    if ema and config.training.ema_decay is None:
        raise TrainingError(f"{checkpoint}: this run kept no averaged weights (training.ema_decay); leave out --ema.")
    model = build_model(config)
    weights = checkpoints.release_weights(checkpoint, World(), model, averaged=ema)
    facts = {"step": state["progress"]["step"], "weights": "ema" if ema else "trained", "from": checkpoint.name}
    try:
        facts |= _release_facts(config, TrainingSource(config.data, config.seed))
    except DataError as error:
        print(f"note: {out} cannot say what it was trained on, so no evaluation can keep clear of it: {error}")
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        scratch.chmod(0o755)
        model.save_release(scratch, weights)
        checkpoints.write_json(scratch / "release.json", facts)
        scratch.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
