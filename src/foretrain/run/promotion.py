"""The promotion gate at the end of a run: is the release better than its zero-shot weights and than the baselines?"""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from foretrain.adapters.layers import merged
from foretrain.atomic import replacing_folder
from foretrain.data.parts import DateCuts
from foretrain.data.splits import Selection
from foretrain.data.store import Corpus
from foretrain.data.synthetic.generated import AnySource
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, ModelError
from foretrain.evaluation.backtest import DEFAULT_LEVELS
from foretrain.evaluation.baselines import FOUND
from foretrain.evaluation.columns import validation_columns
from foretrain.evaluation.draws import can_test_items, check_clusters
from foretrain.evaluation.gate import judge
from foretrain.evaluation.items import TRAINED, ScoredItems
from foretrain.evaluation.panel import least_context
from foretrain.evaluation.reference import OTHER, ZERO_SHOT, Promotion, ReferenceModel
from foretrain.evaluation.result import EvaluationResult
from foretrain.evaluation.significance import ITEMS, lag_in_origins, origins_needed
from foretrain.evaluation.symbols import describe_ranking, ranking
from foretrain.evaluation.tasks import evaluate
from foretrain.evaluation.validation import chosen_options
from foretrain.forecasting.parents import with_ancestry
from foretrain.forecasting.predictor import load
from foretrain.models import family
from foretrain.models.base import Forecaster, Trainable
from foretrain.models.hub import facts_of, release_hash, release_in, resolve
from foretrain.notes import Code, Note, warn
from foretrain.run.build import build_model, relocated, with_parents
from foretrain.run.config import RunConfig, is_same_config, load_config
from foretrain.run.opening import openable
from foretrain.training.monitor import append_log
from foretrain.training.release import EVALUATION, mark_promotion, pipeline_folder, read_release, run_folder

_log = logging.getLogger(__name__)

ZERO_SHOT_ARGUMENT = "zero-shot"  # the value of --against that means the starting weights


def open_reference(asked: str, model: str, evaluated: Forecaster, options: Any = None) -> ReferenceModel:
    """Load the reference model that a model is compared with.

    Args:
        asked: "zero-shot" for the weights that the model was trained from, a folder or a hub id.
        model: the release, run or adapter folder of the evaluated model.
        evaluated: that model; the reference gets its device and precision.
        options: its forecast options, also used for a reference of its family; another family uses its defaults.

    Raises ModelError if the weights are missing or are not those that training started from, ConfigError if the
    release does not record its starting weights.
    """
    zero_shot = asked == ZERO_SHOT_ARGUMENT
    found = _zero_shot_reference(release_in(Path(model).expanduser())) if zero_shot else _named_reference(asked)
    parameter = next(evaluated.parameters())
    reference = found.model.to(device=parameter.device, dtype=parameter.dtype).eval()
    return found._replace(model=reference, options=options if reference.family == evaluated.family else None)


def _named_reference(asked: str) -> ReferenceModel:
    """Load a reference model by its folder or hub id."""
    asked = openable(asked)
    folder = resolve(asked)
    hashed = release_hash(folder) if (folder / "config.json").is_file() else None  # an adapter has none
    predictor = load(asked, device="cpu")
    return ReferenceModel(OTHER, asked, predictor.model, hashed, facts=with_ancestry(predictor.facts))


def _zero_shot_reference(release: Path) -> ReferenceModel:
    """Load the weights that the run of a release started from; in a pipeline, those of its first stage."""
    facts = facts_of(release)
    if "model" not in facts.get("parents", ()) and "corpora" not in facts:  # it may have parts, and no training
        raise ConfigError(
            f"--against {ZERO_SHOT_ARGUMENT}: {release} does not say what its training started from. Name it: "
            "--against FOLDER or hub id."
        )
    first, parents = _before_first_stage(release, facts)
    origin = parents.pop("model", None)
    if origin is None:
        return _random_init_reference(first)
    try:
        place = resolve(origin["asked"], origin.get("revision"))
        parts = {role: entry["asked"] for role, entry in parents.items() if entry["asked"]}
        found = {"model": release_hash(place), **{role: release_hash(resolve(asked)) for role, asked in parts.items()}}
        model = load(origin["asked"], device="cpu", revision=origin.get("revision"), **parts).model
    except ModelError as error:
        raise ModelError(f"the weights that {release} was trained from: {error}") from None
    for role, hashed in found.items():
        expected = origin if role == "model" else parents[role]
        if hashed != expected["hash"]:
            raise ModelError(
                f"{expected['asked']}: is not the {role} that {release} was trained from: its hash is {hashed}, that "
                f"of the {role} was {expected['hash']}. Restore it, or compare with the present weights: "
                f"--against {origin['asked']}."
            )
    return ReferenceModel(ZERO_SHOT, origin["asked"], model, found["model"])


def _before_first_stage(release: Path, facts: Mapping[str, Any]) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Return the first release in a pipeline that leads to `release`, and the parents of it and its parts by role.

    The parent of a part that an earlier stage trained from random weights is that stage's release.
    """
    parents = {role: dict(entry) for role, entry in facts["parents"].items()}
    first = release
    for role in list(parents):
        while (stage := _earlier_stage(release, facts, parents[role])) is not None:
            earlier = read_release(stage)["parents"].get("model")
            if role == "model":
                first = stage
            if earlier is None:
                parents[role]["asked"] = str(stage)
                if role == "model":
                    del parents[role]
                break
            parents[role] = dict(earlier)
    return first, parents


def _earlier_stage(release: Path, facts: Mapping[str, Any], parent: Mapping[str, Any]) -> Path | None:
    """Return the release of an earlier stage of the pipeline if `parent` is one, also in a moved folder; else None."""
    place = Path(parent["asked"] or "")
    if facts.get("stage") is None or place.name != "release" or place.parent.parent.name != "stages":
        return None
    here = pipeline_folder(release) / "stages" / place.parent.name / "release"
    return here if "parents" in facts_of(here) and release_hash(here) == parent["hash"] else None


def _random_init_reference(release: Path) -> ReferenceModel:
    """Build the random initial weights of a run again, from the seed and the config.yaml of its folder.

    Raises ModelError if config.yaml is missing or is not the config that the release was trained by.
    """
    facts, run = read_release(release), run_folder(release)
    if facts.get("stage") is not None and run.parent.name != "stages":
        run = next((run / "stages").glob(f"*-{facts['stage']}"), run)
    path = run / "config.yaml"
    if not path.is_file():
        raise ModelError(
            f"{release}: its training started from random weights, and without the config.yaml of its run folder "
            f"({path}) they cannot be built again. Restore it, or name another model by --against."
        )
    config = load_config(path)
    same, how = is_same_config(config, facts.get("config_hash"), path)
    if not same:
        raise ModelError(
            f"{path}: is not the config that {release} was trained by ({how}), so the random weights that its "
            "training started from cannot be built again. Restore it, or name another model by --against."
        )
    config = relocated(config, run)
    model = build_model(config.model_copy(update={"adapter": None}))
    assert isinstance(model, Forecaster)
    with_parents(config, model)
    return ReferenceModel(ZERO_SHOT, f"random weights (seed {config.seed})", model)


def check_test_split(config: RunConfig, model: Trainable, source: AnySource | None = None) -> list[Note]:
    """Return notes on a run's gate before training: no effect, or too few forecast origins for a significant result.

    Raises ConfigError if the test part has no room for a single window. With a source, it is also searched for
    evaluation.clusters: ConfigError if that is no column, DataError if it does not tell the cluster of an item.
    """
    if not config.evaluation.promotion:
        return []
    if not isinstance(model, Forecaster):
        text = f"note: evaluation.promotion has no effect: {model.family} makes no forecasts"
        return [Note(Code.NO_FORECASTS_TO_COMPARE, text)]
    cuts = config.data.cuts
    if source is None and isinstance(cuts, DateCuts):
        return []  # what lies after a date is not known without the data
    windows, stride = test_windows(config, () if source is None else source.corpora)
    needed = origins_needed(lag_in_origins(config.data.prediction_length, stride))
    settings, items = config.evaluation, True
    if source is not None:
        check_clusters(source.corpora, scored_columns(config, source), settings.clusters)
        items = can_test_items(source.corpora, settings.clusters, settings.max_items)
    if windows >= needed or not settings.require_significance or (settings.promote_over == ITEMS and items):
        return []
    by_date = isinstance(cuts, DateCuts)
    steps = (needed - 1) * stride + config.data.prediction_length
    text = (
        f"note: evaluation.promotion: the test part has room for {windows} forecast origin{'s' * (windows != 1)} an "
        f"item, and it takes {needed} to tell a difference from chance. Unless items end at different times, the run "
        f"will not be promoted; give {'an earlier data.test_from' if by_date else f'data.test_steps {steps} or more'}, "
        "or set "
        f"{'evaluation.promote_over to items or ' if items else ''}evaluation.require_significance to false"
    )
    return [Note(Code.TOO_FEW_ORIGINS, text, {"origins": windows, "needed": needed, "test_steps_needed": steps})]


def test_windows(config: RunConfig, corpora: Sequence[Corpus]) -> tuple[int, int]:
    """Return the number of windows in an item's test part, the most of any item, and the steps between them."""
    horizon, cuts = config.data.prediction_length, config.data.cuts
    if isinstance(cuts, DateCuts):
        if cuts.test_from is None:
            raise ConfigError(
                f"evaluation.promotion: data.validation_from {cuts.validation_from} alone leaves no test part to "
                "compare on. Give data.test_from, or leave promotion out."
            )
        least = least_context(None, horizon, config.data.context_length)
        items = config.data.choose_items(corpora)
        regions = [cuts.parts(corpus).test.only(own.used) for corpus, own in zip(corpora, items, strict=True)]
        steps = max(region.most_room(least) for region in regions)
        if steps < horizon:
            raise ConfigError(
                f"evaluation.promotion: from data.test_from {cuts.test_from} on, no item has room for a window of "
                f"{horizon} steps to compare on. Give an earlier date, or leave promotion out."
            )
    elif (steps := cuts.test) < horizon:
        raise ConfigError(
            f"evaluation.promotion: data.test_steps {steps} has no room for a window of {horizon} steps to compare on. "
            "Give it more, or leave promotion out."
        )
    stride = config.evaluation.stride or horizon
    return (steps - horizon) // stride + 1, stride


def run_gate(config: RunConfig, model: Trainable, source: AnySource, world: World) -> Promotion | None:
    """Compare a run's released weights, which the model holds, with its zero-shot weights, naive and a found season.

    The comparison uses all windows of the test part, evaluation.stride apart, with the sampling and options of
    validation. The result goes into release.json, final_metrics.json and the log, its report into evaluation/ of the
    run folder. Every rank calls it; returns None if the model makes no forecasts. Raises the errors of open_reference
    and evaluate.
    """
    if not isinstance(model, Forecaster):
        return None
    settings, kind = config.evaluation, family(config.model.family)
    release = Path(config.output_dir) / "release"
    windows, stride = test_windows(config, source.corpora)
    options = chosen_options(settings, kind)
    with merged(model):
        result = evaluate(
            model,
            source.corpora,
            selection=scored_columns(config, source),
            prediction_length=config.data.prediction_length,
            num_windows=windows,
            stride=stride,
            context_length=config.data.context_length,
            batch_size=settings.batch_size,
            quantile_levels=settings.quantile_levels,
            seasonality=settings.seasonality,
            max_items=settings.max_items,
            items=_scored_items(config, source),
            compare=(FOUND,),
            clusters=settings.clusters,
            num_samples=settings.num_samples,
            seed=config.seed,
            options=options,
            against=open_reference(ZERO_SHOT_ARGUMENT, str(release), model, options),
            world=world,
            name=str(release),
            release=read_release(release),
            command=_repeat_command(config, windows, stride),
            dtype=None if config.training.dtype == "float32" else getattr(torch, config.training.dtype),
        )
    promotion = judge(result, require_significance=settings.require_significance, promote_over=settings.promote_over)
    result = replace(result, promotion=promotion)
    report = world.on_main(lambda: _save_report(result, Path(config.output_dir) / EVALUATION))
    world.on_main(lambda: record(release, promotion))
    if world.is_main:
        lines = [
            promotion.headline,
            promotion.scores,
            describe_ranking(ranking(result.per_symbol)),
            f"report: {report}" if report else "",
        ]
        for line in filter(None, lines):
            append_log(Path(config.output_dir), line)
    return promotion


def _save_report(result: EvaluationResult, folder: Path) -> Path | None:
    """Write the report of a gate into `folder`, which appears complete; return its page. None, with a warning, on
    failure."""
    from foretrain.evaluation.report import write_report

    try:
        with replacing_folder(folder) as scratch:
            write_report(result, scratch)
    except OSError as error:
        warn(_log, Note(Code.REPORT_NOT_WRITTEN, f"{folder}: could not be written ({error.strerror or error})."))
        return None
    return folder / "report.html"


def _scored_items(config: RunConfig, source: AnySource) -> ScoredItems | None:
    """Return the items that the gate scores: those that the run uses, so that held-out ones decide nothing."""
    chosen = config.data.choose_items(source.corpora)
    if all(items.used is None for items in chosen):
        return None
    pairs = zip(source.corpora, chosen, strict=True)
    return ScoredItems((TRAINED,), tuple(items.among(corpus.num_series) for corpus, items in pairs))


def scored_columns(config: RunConfig, source: AnySource) -> list[Selection]:
    """Return the columns of each corpus that the gate scores: those of validation."""
    kind, pairs = family(config.model.family), zip(source.corpora, source.selections, strict=True)
    return [validation_columns(*pair, config.evaluation.target, kind) for pair in pairs]


def _repeat_command(config: RunConfig, windows: int, stride: int) -> str | None:
    """Return the command that repeats the comparison; None if the run has several corpora or one without a folder."""
    corpora = [spec.path for spec in config.data.corpora]
    if len(corpora) != 1 or corpora[0] is None:
        return None
    words = ["foretrain", "evaluate", config.output_dir, "--data", corpora[0], "--against", ZERO_SHOT_ARGUMENT]
    settings = config.evaluation
    words += ["--num-windows", str(windows), "--stride", str(stride)]
    for name in ("max_items", "seasonality", "num_samples", "clusters"):
        value = getattr(settings, name)
        words += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    if tuple(settings.quantile_levels) != DEFAULT_LEVELS:
        words += ["--quantile-levels", ",".join(map(str, settings.quantile_levels))]
    words += ["--items", TRAINED] if _chooses_items(config) else []
    words += ["--seed", str(config.seed)] if config.seed else []
    for key, value in settings.options.items():
        words += ["--option", f"{key}={json.dumps(value)}"]
    words += ["--promote-over", ITEMS] if settings.promote_over == ITEMS else []
    return shlex.join([*words, *([] if settings.require_significance else ["--no-require-significance"])])


def _chooses_items(config: RunConfig) -> bool:
    data = config.data
    return bool(data.items or data.holdout_items or any(spec.items for spec in data.corpora))


def record(release: Path, promotion: Promotion) -> bool:
    """Write the result into a release's release.json, under all its names. Return False, with a warning, on failure."""
    try:
        mark_promotion(release, promotion.to_dict())
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        text = f"{release / 'release.json'}: could not be marked ({why})."
        warn(_log, Note(Code.RELEASE_NOT_MARKED, text))
        return False
    return True
