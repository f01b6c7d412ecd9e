"""Builds the parts of a run from its config: model, data, parent hashes and the facts for release.json."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from foretrain.adapters.layers import KEY, adapt
from foretrain.config import read_yaml
from foretrain.data.config import DataConfig
from foretrain.data.parts import last_seen
from foretrain.data.source import TrainingSource
from foretrain.data.store import Corpus
from foretrain.data.synthetic.generated import AnySource, GeneratedSource
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, ForetrainError, ModelError
from foretrain.evaluation.columns import scored_columns
from foretrain.forecasting.parents import ancestry_of
from foretrain.models import family
from foretrain.models.base import Trainable
from foretrain.models.hub import facts_of, local_folder
from foretrain.models.objective import objective_for
from foretrain.notes import Code, Note, warn
from foretrain.reading import resolved
from foretrain.run.config import RunConfig, config_hash, replace_stage_releases
from foretrain.training.auto import ModelFacts, settle
from foretrain.training.manifest import read_run_state
from foretrain.training.settings import TrainingConfig

MAX_CATEGORIES = 1000  # of a column, in release.json

_log = logging.getLogger(__name__)


def build_model(config: RunConfig, device: str = "cpu") -> Trainable:
    """Build the model of a config: random weights from the seed or a release's, lengths adapted to the data, the
    config's loss set, and the adapter's low-rank layers inserted."""
    model = family(config.model.family).build(
        config.model,
        context_length=config.data.context_length,
        prediction_length=config.data.prediction_length,
        seed=config.seed,
        device=device,
    )
    model.objective = objective_for(config.loss, model)
    if config.adapter is not None:
        adapt(model, config.adapter, config.seed, _adapter_base(config, model))
    return model


def _adapter_base(config: RunConfig, model: Trainable) -> dict[str, Any]:
    """Return what adapters.files needs to build the adapter's base model; folders as absolute paths."""
    section = config.model.model_dump(mode="json")
    for key, value in section.items():
        if value and key in ("model_id", *model.parents) and Path(value).is_dir():
            section[key] = str(resolved(Path(value)))
    lengths = {key: getattr(config.data, key) for key in ("context_length", "prediction_length")}
    return {"model": section, **lengths, "seed": config.seed, "parents": dict(model.parents)}


def open_source(
    config: RunConfig, corpora: list[Corpus] | None = None, saved: Mapping[str, Any] | None = None
) -> tuple[RunConfig, AnySource]:
    """Return the config with the fields that its data decide (columns, time stamps, parts of the model) and the name of
    its adapter, and its windows.

    corpora, if given, replace the config's. saved: the config as the run saved it before; None = that in output_dir,
    if there is one. Raises DataError and ConfigError as TrainingSource does.
    """
    saved = saved_config(Path(config.output_dir)) if saved is None else saved
    config = _with_adapter_name(config, saved)
    if corpora is None:
        config.data.check_folders()
    if config.data.generated is not None:
        return _generated(config, corpora, saved)
    opened = config.data.open() if corpora is None else corpora
    kind, found = family(config.model.family), dict[str, Any]()
    if config.data.with_times is None:
        found["with_times"] = kind.with_times and all(corpus.manifest.time != "steps" for corpus in opened)
    # corpora whose columns are not their own
    shared = [corpus for corpus, spec in zip(opened, config.data.corpora, strict=False) if spec.own_roles is None]
    if config.data.target is None and shared:
        choice = kind.columns(_shared_targets(config.data, shared))
        found |= {"target": choice.targets} if choice is not None else _marked_covariates(config.data, shared)
    data = config.data.model_copy(update=found)
    before = None if saved is None else saved.get("model") or {}
    model = kind.resolve_defaults(config.model, any(roles.known_covariates for roles in data.roles), before)
    config = config.model_copy(update={"data": data, "model": model})
    return config, TrainingSource(config.data, config.seed, opened)


def _with_adapter_name(config: RunConfig, saved: Mapping[str, Any] | None) -> RunConfig:
    """Return the config with a name for its adapter: its own, else the one that the run began with, else the run's."""
    if config.adapter is None or config.adapter.name is not None:
        return config
    name = ((saved or {}).get("adapter") or {}).get("name")
    if name is None:
        folder = Path(config.output_dir).absolute()
        run = folder if config.stage is None else folder.parent.parent  # a stage's adapter is that of its pipeline
        name = re.sub(r"[^\w-]+", "-", run.name, flags=re.ASCII).strip("-_") or KEY
    return config.model_copy(update={"adapter": config.adapter.model_copy(update={"name": name})})


def _generated(
    config: RunConfig, corpora: list[Corpus] | None, saved: Mapping[str, Any] | None
) -> tuple[RunConfig, GeneratedSource]:
    """Return the same for a run on generated series, which have no calendar and no names."""
    kind, settings = family(config.model.family), config.data.generated
    assert settings is not None
    if corpora:
        raise ConfigError(f"data.generated takes the place of corpora, and {len(corpora)} were given; leave one out.")
    if kind.needs:
        raise ConfigError(
            f"data.generated: {kind.name} reads {kind.needs}, and generated series have no named columns. Train it on "
            "data.corpora."
        )
    if config.evaluation.promotion:
        raise ConfigError(
            "evaluation.promotion: it compares on the test part of a corpus, and data.generated has none. Leave it "
            "out, and compare by `foretrain evaluate RUN --data CORPUS --against zero-shot`."
        )
    if config.evaluation.target is not None:
        raise ConfigError(
            "evaluation.target: no effect beside data.generated, whose series have no names. Leave it out."
        )
    before = None if saved is None else saved.get("model") or {}
    model = kind.resolve_defaults(config.model, any(layout.known for layout in settings.layouts), before)
    data = config.data.model_copy(update={"with_times": False})
    config = config.model_copy(update={"data": data, "model": model})
    return config, GeneratedSource(config.data, config.seed)


def settled(
    config: RunConfig,
    source: AnySource,
    world: World,
    saved: Mapping[str, Any] | None = None,
    model: Callable[[], Trainable | None] | None = None,
) -> tuple[RunConfig, list[str]]:
    """Return the config with the values that `auto` stands for in its training section, and lines for the log.

    A collective if there are any. saved: the config of the run that is resumed; None = the run is new. model builds the
    model on "meta", or returns None where that is not possible yet; default: from the config. Raises ConfigError as
    training.auto.settle does.
    """
    data, rows = config.data, max((len(selection.columns) for selection in source.selections), default=1)
    window = (data.context_length + data.prediction_length) * rows
    before = (saved or {}).get("training")
    facts = functools.partial(model_facts, config, model)
    training, lines = settle(config.training, world, window=window, saved=before, model=facts)
    return config.model_copy(update={"training": training}), lines


def model_facts(config: RunConfig, model: Callable[[], Trainable | None] | None = None) -> ModelFacts:
    """Return what the rules of `auto` know of a config's model; model as in `settled`. Width 0 = not known yet."""
    try:
        found = build_model(config, device="meta") if model is None else model()
    except ForetrainError:  # raised again where the model is built
        found = None
    sizes = None if found is None else getattr(found.network, "config", None)
    width = next((getattr(sizes, key) for key in ("d_model", "embed_dim") if hasattr(sizes, key)), 0)
    return ModelFacts(config.model.family, width)


def saved_config(folder: Path, checkpoint: str | None = None) -> dict[str, Any] | None:
    """Return the config that a run folder, or a checkpoint if one is named, holds; None if it has none to read, or one
    whose training section is damaged."""
    try:
        if checkpoint not in (None, "auto"):
            found = read_run_state(Path(checkpoint))["config"]
        else:
            found = read_yaml(folder / "config.yaml")
        if "training" in found:
            TrainingConfig.model_validate(found["training"])
        return found
    except (ForetrainError, KeyError, TypeError, ValidationError):
        return None


def _shared_targets(data: DataConfig, corpora: list[Corpus]) -> list[str]:
    """Return the numeric columns, covariates excluded, that every corpus has, in the order of the first corpus."""
    numeric = [corpus.manifest.default_targets for corpus in corpora]
    taken = {*data.past_covariates, *data.known_covariates}
    return [name for name in numeric[0] if name not in taken and all(name in other for other in numeric)]


def _marked_covariates(data: DataConfig, corpora: list[Corpus]) -> dict[str, tuple[str, ...]]:
    """Return both lists of covariates with the columns added that the manifests of all corpora call so; log a note.

    Columns that only some corpora mark are no targets there, and no covariates.
    """
    given = {*data.past_covariates, *data.known_covariates}
    found, lines = dict[str, tuple[str, ...]](), list[str]()
    for key in ("past_covariates", "known_covariates"):
        marked = [getattr(corpus.manifest, key) for corpus in corpora]
        shared = [name for name in marked[0] if name not in given and all(name in other for other in marked)]
        found[key] = (*getattr(data, key), *shared)
        lines += [f"data.{key}: {', '.join(shared)}"] if shared else []
        apart = sorted({name for names in marked for name in names} - {*shared, *given})
        lines += [f"not in every corpus and left out: {', '.join(apart)}"] if apart else []
    if lines:
        text = f"Columns that the data calls covariates are no targets. {'; '.join(lines)}."
        counts = {key: len(names) for key, names in found.items()}
        warn(_log, Note(Code.COVARIATES_BY_NAME, text, counts))
    return found


def with_parents(config: RunConfig, model: Trainable) -> RunConfig:
    """Return the config with the hashes of the model's parents. Raises ModelError if it names other hashes."""
    found = dict(model.parents)
    for role, expected in config.parents.items():
        if found.get(role) != expected:
            raise ModelError(
                f"parents.{role}: {parent_source(config, role) or 'none'} does not hold the weights that the config "
                f"names: expected {expected}, found {found.get(role, 'nothing')}. Restore them, or remove "
                f"parents.{role} to use the present weights."
            )
    return config.model_copy(update={"parents": found})


def parent_source(config: RunConfig, role: str) -> str | None:
    """Return the folder or hub id that a config gives for a parent: model_id for role "model", else the key `role`."""
    return getattr(config.model, "model_id" if role == "model" else role, None)


def start_facts(config: RunConfig) -> dict[str, Any]:
    """Return the entries of release.json that name where the weights started from; they move with the run's folder."""
    parents = {role: _parent(config, role) for role in config.parents}
    return {"model_id": getattr(config.model, "model_id", None), "parents": parents}


def release_facts(config: RunConfig, source: AnySource) -> dict[str, Any]:
    """Return the entries of release.json on the origin of the weights; evaluate takes its defaults from them and
    checks for overlaps with the training data."""
    ranges = [(c.manifest.first_time, last_seen(c, config.data.cuts)) for c in source.corpora]
    first = [start for start, _ in ranges if start]
    last = [end for _, end in ranges if end]
    start = start_facts(config)
    return {
        **start,
        "stage": config.stage,
        "ancestry": ancestry_of(start["parents"]).to_json(),
        "config_hash": config_hash(config),
        "output": config.output.model_dump(),
        # only if there are some, so that facts of releases without them are what they were
        **({"options": dict(config.evaluation.options)} if config.evaluation.options else {}),
        "loss": {"name": config.loss.name, "space": config.loss.space, "unit": config.loss.unit},
        "corpora": [
            *source.records(),
            *(
                {
                    "name": c.name,
                    "fingerprint": c.fingerprint,
                    "provenance": c.manifest.provenance["kind"],
                    **({"generated": c.manifest.generated} if c.manifest.provenance["kind"] == "synthetic" else {}),
                    "date_range": [start, end] if start and end else None,
                    **parts,
                }
                for c, (start, end), parts in zip(source.corpora, ranges, source.part_records(), strict=True)
            ),
        ],
        "date_range": [min(first), max(last)] if first and last else None,
        "data": {
            **_columns(config, source),
            "categories": _categories(source),
            "context_length": config.data.context_length,
            "prediction_length": config.data.prediction_length,
            "longest_trained": _longest_trained(config),
            **config.data.cuts.record(),
            "holdout_fraction": config.data.holdout_fraction,
            "max_train_series": limit if (limit := config.data.max_train_series) == source.num_series else None,
        },
    }


def _columns(config: RunConfig, source: AnySource) -> dict[str, Any]:
    """Return the columns by role; none if they are not the model's own.

    Corpora with roles of their own and generated covariates have no names in common with a user's columns: as for
    weights without a record, those have the roles that he gives.
    """
    data = config.data
    if any(spec.own_roles is not None for spec in data.corpora):
        return {}
    if isinstance(source, GeneratedSource) and source.rows_per_window > 1:
        return {}
    return {
        "target": data.target,
        "scored": _scored(config),
        "past_covariates": data.past_covariates,
        "known_covariates": data.known_covariates,
    }


def _categories(source: AnySource) -> dict[str, list[str]]:
    """Return the categories of covariates by their codes, for windows with several targets, which hold these codes.

    Left out are columns whose corpora have unlike categories, and those with more than MAX_CATEGORIES.
    """
    found: dict[str, set[tuple[str, ...]]] = {}
    for corpus, selection in zip(source.corpora, source.selections, strict=True):
        columns = [corpus.manifest.columns[k] for k in selection.columns] if len(selection.targets) > 1 else []
        for column in columns:
            if column.categories is not None:
                found.setdefault(column.name, set()).add(tuple(column.categories))
    alike = {name: list(*lists) for name, lists in found.items() if len(lists) == 1}
    return {name: order for name, order in alike.items() if len(order) <= MAX_CATEGORIES}


def _longest_trained(config: RunConfig) -> dict[str, int]:
    """Return the longest lengths of this training and, as far as recorded, of those that its weights saw before."""
    start = parent_source(config, "model")
    folder = local_folder(start) if start else None
    earlier = facts_of(folder).get("data") if folder else None
    longest = earlier.get("longest_trained") if isinstance(earlier, dict) else None
    records = [record for record in (earlier, longest) if isinstance(record, dict)]
    lengths = {key: getattr(config.data, key) for key in ("context_length", "prediction_length")}
    before = {key: [record.get(key) for record in records] for key in lengths}
    return {key: max([own, *(n for n in before[key] if isinstance(n, int))]) for key, own in lengths.items()}


def _parent(config: RunConfig, role: str) -> dict[str, str | None]:
    """Return a parent's hash, the name that the config gives for it and, if one is set, its revision."""
    found = {"hash": config.parents[role], "asked": parent_source(config, role)}
    revision = getattr(config.model, "revision" if role == "model" else f"{role}_revision", None)
    return found if revision is None else found | {"revision": revision}


def _scored(config: RunConfig) -> tuple[str, ...] | None:
    """Return the targets that validation scores, also the default of an evaluation; None = all."""
    if config.data.target is None:
        return config.evaluation.target
    return scored_columns(config.evaluation.target, config.data.target, family(config.model.family))


def relocated(config: RunConfig, folder: Path) -> RunConfig:
    """Return a stage's config with paths of other stages' releases updated, if the run was moved to `folder`."""
    old, folder = Path(config.output_dir), folder.absolute()
    if config.stage is None or old.exists() or folder.name != old.name:
        return config
    tree = replace_stage_releases(
        config.model.model_dump(mode="json"), old.parent, lambda name: str(folder.parent / name / "release")
    )
    return config.model_copy(update={"model": type(config.model)(**tree), "output_dir": str(folder)})
