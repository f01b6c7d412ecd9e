"""RunConfig, the root of a run's config: its sections and its identity hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field, field_validator, model_validator

from foretrain.adapters.layers import AdapterConfig
from foretrain.config import FREE, FieldRule, Section, apply_overrides, build, identity, read_yaml
from foretrain.data.config import ColumnRoles, DataConfig
from foretrain.distributed.watch import Deadlines
from foretrain.errors import ConfigError
from foretrain.evaluation.validation import EvaluationConfig
from foretrain.models import families, infer_family
from foretrain.models.objective import LossConfig
from foretrain.models.output import OutputSettings
from foretrain.processes import MOST_THREADS
from foretrain.run.shipped import shipped_config as shipped_config
from foretrain.suites.evaluator import EvaluatorConfig, check_names
from foretrain.training.optimizer import OptimizerConfig
from foretrain.training.settings import TrainingConfig

if TYPE_CHECKING:
    ModelSection = Any
else:
    _SECTIONS = tuple(entry.config() for entry in families())
    ModelSection = _SECTIONS[0]
    if len(_SECTIONS) > 1:
        ModelSection = Annotated[Union[_SECTIONS], Field(discriminator="family")]  # noqa: UP007


class RunSections(Section):
    """The sections of a run, and of each stage of a pipeline: a section added here works in both."""

    model: ModelSection
    data: DataConfig
    training: TrainingConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()  # the family's own loss, or a loss of its predictions in a declared space
    evaluation: EvaluationConfig = EvaluationConfig()
    adapter: AdapterConfig | None = None  # train low-rank updates or the head instead of all weights
    output: OutputSettings = OutputSettings()  # what is done to forecasts of the released model

    @model_validator(mode="before")
    @classmethod
    def _with_family(cls, tree: Any) -> Any:
        """Fill in model.family if model_id determines it."""
        model = tree.get("model") if isinstance(tree, dict) else None
        if not isinstance(model, dict) or "family" in model:
            return tree
        return {**tree, "model": {"family": infer_family(model.get("model_id")), **model}}


class RunSettings(Section):
    """Settings of a run outside its sections; in a pipeline they apply to all stages."""

    output_dir: Annotated[str, FREE]
    seed: int = Field(default=42, ge=0)  # of data order, initial weights and dropout
    device: Annotated[str, FREE] = "auto"  # auto, cpu, cuda, cuda:N or mps
    # CPU threads per process; None = torch's choice
    threads: Annotated[int | None, FREE] = Field(default=None, ge=1, le=MOST_THREADS)
    deadlines: Deadlines = Deadlines()  # after which a run that does not get on is ended
    evaluators: Annotated[tuple[EvaluatorConfig, ...], FREE] = ()  # scores during training beside the validation

    @field_validator("evaluators")
    @classmethod
    def _with_names_of_their_own(cls, evaluators: tuple[EvaluatorConfig, ...]) -> tuple[EvaluatorConfig, ...]:
        check_names(evaluators)
        return evaluators


class RunConfig(RunSettings, RunSections):  # fields of the last base come first
    """The full config of a run; printed with --verbose and saved as output_dir/config.yaml."""

    # name of the stage, if the run is one of a pipeline
    stage: Annotated[str | None, FieldRule(identity=False, on_resume="refused")] = None
    # role -> release hash of what the model is built from. Filled in at the start; given hashes are checked.
    parents: Annotated[dict[str, str], FieldRule(identity=False, on_resume="refused")] = Field(default_factory=dict)


def config_hash(config: RunConfig) -> str:
    """Return the hash ("2:<sha256>", 2 is the version) of a config's identity fields, which determine the weights.

    The release of another stage of the same pipeline is represented by that stage's name. A change that alters the
    hash of a config with unchanged meaning, such as a new default of an identity field, needs a new version number.
    """
    tree = config.model_dump(mode="json")
    tree["model"] = _model_by_stages(config, tree["model"])
    text = json.dumps(identity(RunConfig, tree), sort_keys=True)
    return f"2:{hashlib.sha256(text.encode()).hexdigest()}"


def config_hash_1(config: RunConfig) -> str:
    """Return the hash of version 1, stored without a version number; it covers layout and length too.

    Its fields are those of that time: fields added later must be deleted here.
    """
    tree = config.model_dump(mode="json")
    for key in ("output_dir", "device", "threads", "stage", "parents", "output", "deadlines", "evaluators"):
        del tree[key]
    for key in ("log_every", "health_every", "alarms", "profile", "tensorboard", "release", "offload_optimizer"):
        del tree["training"][key]
    for key in ("promotion", "require_significance", "promote_over", "clusters"):
        del tree["evaluation"][key]
    model, budget = tree["model"], tree["training"]["token_budget"] or {}
    later = (
        (tree["data"], "generated", None),
        *((tree["data"], key, None) for key in ("validation_from", "test_from", "embargo", "items", "holdout_items")),
        (tree["data"], "verify", tree["data"]["verify"]),  # never part of an identity
        (tree["data"], "stage_to", tree["data"]["stage_to"]),
        (tree["data"], "reader", "mapped"),
        (tree["data"], "read_buffer_mb", None),
        (tree["training"], "validate_first", False),
        (tree["training"], "shard_size", None),
        (tree["training"], "keep_every", None),
        (tree["training"], "checkpoint_in_background", tree["training"]["checkpoint_in_background"]),
        (tree["training"], "reshard_after_forward", True),
        (budget, "draw_horizons", False),
        (budget, "max_windows_per_batch", None),
        (model, "loss_horizon", "run"),
        (model, "scale_floor", None),
        (model, "rescale", None),
        *((spec, key, None) for spec in tree["data"]["corpora"] for key in (*ColumnRoles._fields, "items")),
    )
    for section, key, default in later:
        if key in section and section[key] == default:  # another value was not to be had then
            del section[key]
    recompute = tree["training"]["activation_checkpointing"]
    tree["training"]["activation_checkpointing"] = {"off": False, "full": True}.get(recompute, recompute)
    if tree["adapter"] is not None and tree["adapter"]["name"] is None:
        tree["adapter"]["name"] = "default"  # the default of that time
    tree["model"] = _model_by_stages(config, tree["model"])
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def is_same_config(config: RunConfig, recorded: str | None, saved: Path) -> tuple[bool, str]:
    """Return whether a release with config_hash `recorded` was trained by an equivalent config, and how we compared.

    A hash of an earlier version is compared by that version's function. Version 1 also covers fields that do not
    determine the weights, so if it differs, the run's config at `saved` (if it still has that hash) is compared.
    """
    if recorded is None:
        return False, "it records no config_hash"
    version, _, _ = recorded.rpartition(":")
    if version == "2":
        return config_hash(config) == recorded, "compared by config_hash"
    if version:
        return False, f"its config_hash is of version {version}, which this foretrain does not know"
    if config_hash_1(config) == recorded:
        return True, "compared by config_hash of version 1"
    try:
        old = load_config(saved)
    except ConfigError:  # it is gone, or can no longer be read
        old = None
    if old is None or config_hash_1(old) != recorded:
        return False, "compared by config_hash of version 1"
    return config_hash(config) == config_hash(old), f"compared with {saved}"


def _model_by_stages(config: RunConfig, section: dict[str, Any]) -> dict[str, Any]:
    """Return a model section with the releases of other stages of the same pipeline written as stage:NAME."""
    if config.stage is None:
        return section
    stages = Path(config.output_dir).parent
    return replace_stage_releases(section, stages, lambda name: f"stage:{name.partition('-')[2]}")


def replace_stage_releases(value: Any, stages: Path, rename: Callable[[str], str]) -> Any:
    """Return a model section with each release path below the folder `stages` replaced by rename(its stage folder)."""
    if isinstance(value, dict):
        return {key: replace_stage_releases(item, stages, rename) for key, item in value.items()}
    path = Path(value) if isinstance(value, str) else None
    if path is not None and path.name == "release" and path.parent.parent == stages:
        return rename(path.parent.name)
    return value


def load_config(path: Path, overrides: list[Any] | None = None) -> RunConfig:
    """Load the resolved config of a file and overrides. Raises ConfigError listing every problem."""
    return build(RunConfig, apply_overrides(read_yaml(path), overrides or []), source=str(path))
