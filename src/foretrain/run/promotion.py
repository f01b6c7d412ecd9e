"""The weights that a release's training started from, and the gate at the end of a run: is the release any better?"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from foretrain.adapters.layers import merged
from foretrain.data.source import TrainingSource
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, ModelError
from foretrain.evaluation.columns import validation_columns
from foretrain.evaluation.gate import judge
from foretrain.evaluation.reference import OTHER, ZERO_SHOT, Promotion, ReferenceModel
from foretrain.evaluation.significance import lag_in_origins, origins_needed
from foretrain.evaluation.tasks import evaluate
from foretrain.evaluation.validation import chosen_options
from foretrain.forecasting.predictor import load
from foretrain.models import family
from foretrain.models.base import Forecaster, Trainable
from foretrain.models.hub import release_hash, release_in, resolve
from foretrain.notes import Code, Note, warn
from foretrain.run.build import build_model, relocated, with_parents
from foretrain.run.config import RunConfig, load_config, made_by
from foretrain.training.monitor import append_log
from foretrain.training.release import mark_promotion, pipeline_folder, read_release, run_folder

_log = logging.getLogger(__name__)

ZERO_SHOT_WORD = "zero-shot"  # as a user asks for it


def open_reference(asked: str, model: str, like: Forecaster, options: Any = None) -> ReferenceModel:
    """What a model is to be compared with: START, the weights that it was trained from, or a folder or hub id.

    Args:
        asked: START, a folder or a hub id.
        model: the release, run or adapter folder of the model itself.
        like: the model: the rival gets its device and precision.
        options: its forecast options, which a rival of its family gets too; one of another family has its defaults.

    Raises ModelError where the weights are not to be had or are not those that training started from, ConfigError where
    nothing is known of where it started.
    """
    found = _starting_weights(release_in(Path(model).expanduser())) if asked == ZERO_SHOT_WORD else _other(asked)
    parameter = next(like.parameters())
    other = found.model.to(device=parameter.device, dtype=parameter.dtype).eval()
    return found._replace(model=other, options=options if other.family == like.family else None)


def _other(asked: str) -> ReferenceModel:
    folder = resolve(asked)
    known = release_hash(folder) if (folder / "config.json").is_file() else None  # an adapter has none
    return ReferenceModel(OTHER, asked, load(asked, device="cpu").model, known)


def _starting_weights(release: Path) -> ReferenceModel:
    """The weights that the run which made a release started from; of a run in stages, those of its first stage."""
    facts = read_release(release) if (release / "release.json").is_file() else {}
    if "parents" not in facts:
        raise ConfigError(
            f"--against {ZERO_SHOT_WORD}: {release} does not say what its training started from. Name it: "
            "--against FOLDER or hub id."
        )
    first, parents = _before_its_stages(release, facts)
    origin = parents.pop("model", None)
    if origin is None:
        return _random_weights(first)
    try:
        place = resolve(origin["asked"], origin.get("revision"))
        parts = {role: entry["asked"] for role, entry in parents.items() if entry["asked"]}
        found = {"model": release_hash(place), **{role: release_hash(resolve(asked)) for role, asked in parts.items()}}
        model = load(origin["asked"], device="cpu", revision=origin.get("revision"), **parts).model
    except ModelError as error:
        raise ModelError(f"the weights that {release} was trained from: {error}") from None
    for role, known in found.items():
        expected = origin if role == "model" else parents[role]
        if known != expected["hash"]:
            raise ModelError(
                f"{expected['asked']}: is not the {role} that {release} was trained from: its hash is {known}, that of "
                f"the {role} was {expected['hash']}. Restore it, or compare with what is there: "
                f"--against {origin['asked']}."
            )
    return ReferenceModel(ZERO_SHOT, origin["asked"], model, found["model"])


def _before_its_stages(release: Path, facts: Mapping[str, Any]) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The release that a run in stages trained first, and what that and its parts were made from, by role.

    A part that an earlier stage trained from random weights has no other origin than that stage's release.
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
    """The release of an earlier stage of the same pipeline, where a parent is one; also in a folder that was moved."""
    place = Path(parent["asked"] or "")
    if facts.get("stage") is None or place.name != "release" or place.parent.parent.name != "stages":
        return None
    here = pipeline_folder(release) / "stages" / place.parent.name / "release"
    written = (here / "release.json").is_file() and "parents" in read_release(here)
    return here if written and release_hash(here) == parent["hash"] else None


def _random_weights(release: Path) -> ReferenceModel:
    """The random weights that a run began with, made again from the seed by the config.yaml of its folder."""
    facts, run = read_release(release), run_folder(release)
    if facts.get("stage") is not None and run.parent.name != "stages":
        run = next((run / "stages").glob(f"*-{facts['stage']}"), run)
    path = run / "config.yaml"
    if not path.is_file():
        raise ModelError(
            f"{release}: its training began with random weights, and without the config.yaml of its run folder "
            f"({path}) they cannot be made again. Restore it, or name another model by --against."
        )
    config = load_config(path)
    same, how = made_by(config, facts.get("config_hash"), path)
    if not same:
        raise ModelError(
            f"{path}: is not the config that {release} was trained by ({how}), so it cannot make "
            "the random weights again that its training began with. Restore it, or name another model by --against."
        )
    config = relocated(config, run)
    model = build_model(config.model_copy(update={"adapter": None}))
    assert isinstance(model, Forecaster)
    with_parents(config, model)
    return ReferenceModel(ZERO_SHOT, f"random weights (seed {config.seed})", model)


def gate_notes(config: RunConfig, model: Trainable) -> list[Note]:
    """What there is to say of a run's gate before it begins. Raises ConfigError where nothing is left to compare on."""
    if not config.evaluation.promotion:
        return []
    if not isinstance(model, Forecaster):
        text = f"note: evaluation.promotion has no effect: {model.family} makes no forecasts"
        return [Note(Code.NO_FORECASTS_TO_COMPARE, text)]
    windows, stride = _windows(config)
    needed = origins_needed(lag_in_origins(config.data.prediction_length, stride))
    if windows >= needed or not config.evaluation.require_significance:
        return []
    steps = (needed - 1) * stride + config.data.prediction_length
    text = (
        f"note: evaluation.promotion: the test part has room for {windows} forecast origin{'s' * (windows != 1)} an "
        f"item, and it takes {needed} to tell a difference from chance. Unless items end at different times, the run "
        f"will not be promoted; give data.test_steps {steps} or more, or set evaluation.require_significance to false"
    )
    return [Note(Code.TOO_FEW_ORIGINS, text, {"origins": windows, "needed": needed, "test_steps_needed": steps})]


def _windows(config: RunConfig) -> tuple[int, int]:
    """How many windows an item's test part has room for, and the steps between them."""
    horizon, steps = config.data.prediction_length, config.data.resolved_test_steps
    if steps < horizon:
        raise ConfigError(
            f"evaluation.promotion: data.test_steps {steps} has no room for a window of {horizon} steps to compare on. "
            "Give it more, or leave promotion out."
        )
    stride = config.evaluation.stride or horizon
    return (steps - horizon) // stride + 1, stride


def run_gate(config: RunConfig, model: Trainable, source: TrainingSource, world: World) -> Promotion | None:
    """Compare a finished run's released weights, which the model holds, with those that it started from and with naive.

    On all windows of the test part, as evaluation.stride sets them, with the sampling and options of validation. The
    outcome goes into release.json, final_metrics.json and the log. Every rank calls it; None where the model makes no
    forecasts. Raises what open_rival and evaluate raise.
    """
    if not isinstance(model, Forecaster):
        return None
    asked, kind = config.evaluation, family(config.model.family)
    release = Path(config.output_dir) / "release"
    windows, stride = _windows(config)
    options = chosen_options(asked, kind)
    columns = [
        validation_columns(*pair, asked.target, kind) for pair in zip(source.corpora, source.selections, strict=True)
    ]
    with merged(model):
        result = evaluate(
            model,
            source.corpora,
            selection=columns,
            prediction_length=config.data.prediction_length,
            num_windows=windows,
            stride=stride,
            context_length=config.data.context_length,
            batch_size=asked.batch_size,
            quantile_levels=asked.quantile_levels,
            seasonality=asked.seasonality,
            max_items=asked.max_items,
            compare=(),
            num_samples=asked.num_samples,
            seed=config.seed,
            options=options,
            against=open_reference(ZERO_SHOT_WORD, str(release), model, options),
            world=world,
            name=str(release),
            release=read_release(release),
            command=_command(config, windows, stride),
            dtype=None if config.training.dtype == "float32" else getattr(torch, config.training.dtype),
        )
    promotion = judge(result, require_significance=asked.require_significance)
    world.on_main(lambda: record(release, promotion))
    if world.is_main:
        append_log(Path(config.output_dir), promotion.headline)
    return promotion


def _command(config: RunConfig, windows: int, stride: int) -> str | None:
    """How to compare once more, where one command can."""
    corpora = [spec.path for spec in config.data.corpora]
    if len(corpora) != 1 or corpora[0] is None:
        return None
    words = ["foretrain", "evaluate", config.output_dir, "--data", corpora[0], "--against", ZERO_SHOT_WORD]
    return shlex.join([*words, "--num-windows", str(windows), "--stride", str(stride)])


def record(release: Path, promotion: Promotion) -> bool:
    """Mark a release that was written here, under all its names; whether it could be done, with a warning if not."""
    try:
        mark_promotion(release, promotion.to_dict())
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        text = f"{release / 'release.json'}: could not be marked ({why})."
        warn(_log, Note(Code.RELEASE_NOT_MARKED, text))
        return False
    return True
