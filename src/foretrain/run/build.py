"""The parts of a run made from its config: model, data, parents, and what its release says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foretrain.adapters.layers import adapt
from foretrain.data.config import DataConfig
from foretrain.data.source import TrainingSource
from foretrain.data.store import Corpus
from foretrain.errors import ModelError
from foretrain.evaluation.columns import scored_columns
from foretrain.models import family
from foretrain.models.base import Trainable
from foretrain.models.objective import objective_for
from foretrain.run.config import RunConfig, config_hash, replace_stage_releases


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
    model = kind.resolve_defaults(config.model, bool(config.data.known_covariates))
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


def release_facts(config: RunConfig, source: TrainingSource) -> dict[str, Any]:
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


def relocated(config: RunConfig, folder: Path) -> RunConfig:
    """A stage's config with the releases of other stages where they are now, if the run folder is there by now."""
    old, folder = Path(config.output_dir), folder.absolute()
    if config.stage is None or old.exists() or folder.name != old.name:
        return config
    tree = replace_stage_releases(
        config.model.model_dump(mode="json"), old.parent, lambda name: str(folder.parent / name / "release")
    )
    return config.model_copy(update={"model": type(config.model)(**tree), "output_dir": str(folder)})
