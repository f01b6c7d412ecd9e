"""What the final table of a study compares: the winner, the run as it stands, and the weights that they started from.

Both are trained by the run's own split in STUDY/final/winner and STUDY/final/default, each with a release. A run that
ended there is used again if it is of the same config and data, one that was killed goes on from its checkpoint, and
one of another trial is replaced. In a study of forecasts both are its model, with other options.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from foretrain.atomic import remove, replacing_file, write_json
from foretrain.data.synthetic.generated import AnySource
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, Interrupted, ModelError
from foretrain.evaluation.validation import chosen_options
from foretrain.forecasting.parents import with_ancestry
from foretrain.forecasting.predictor import load
from foretrain.models import family
from foretrain.models.base import Forecaster
from foretrain.models.hub import facts_of, release_hash, resolve
from foretrain.reading import Unreadable, read_object
from foretrain.run.build import open_source, saved_config, settled
from foretrain.run.config import RunConfig
from foretrain.run.intact import stage_corpora
from foretrain.run.promotion import ZERO_SHOT_ARGUMENT, open_reference
from foretrain.run.train import train_run
from foretrain.training.run_record import METRICS
from foretrain.tuning.candidates import forecast_context, metric_key, run_config
from foretrain.tuning.forecasting import open_model
from foretrain.tuning.quiet import quiet
from foretrain.tuning.records import TrialRecord
from foretrain.tuning.space import Candidate
from foretrain.tuning.study import StudyFolder

FINAL = "final"
WINNER, DEFAULT, ZERO_SHOT, OTHER_START = "winner", "default", "zero_shot", "zero_shot_of_default"
_ASKED, _LOG = "asked.json", "final.log"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Contender:
    """A model of the final table.

    Attributes:
        label: its name for display.
        source: a folder or hub id.
        config: of its run, as resolved.
        context: steps of history that it sees.
        facts: its release's record; of the weights that a run started from, that of its release.
        hash: of its weights; None for a model without a release of its own.
        open: loads it.
        validated: objectives of the validation that chose its step, by metric.
    """

    key: str
    label: str
    source: str
    config: RunConfig
    context: int
    facts: dict[str, Any]
    hash: str | None
    open: Callable[[], Forecaster]
    validated: dict[str, float]

    @property
    def identity(self) -> dict[str, Any]:
        """What its forecasts depend on, as JSON data."""
        settings = self.config.evaluation
        return {
            "hash": self.hash,
            "source": self.source,
            "context_length": self.context,
            "num_samples": settings.num_samples,
            "options": dict(settings.options),
            "seed": self.config.seed,
        }


def final_config(study: StudyFolder, candidate: Candidate, key: str) -> RunConfig:
    """Return the config of the final run of a candidate, by the run's own split. Raises ConfigError."""
    return run_config(study.config, candidate, study.path / FINAL / key, final=True)


def contenders(study: StudyFolder, winner: TrialRecord, source: AnySource, say: Say) -> list[Contender]:
    """Return the winner, the default, and the weights that they started from where there are any.

    Trains what is not trained yet. source: of the run as it stands. say: is told what is being trained.
    """
    label = f"winner (trial {winner.number})"
    if study.config.task == "forecast":
        return _forecasters(study, winner, label, source)
    candidates: list[tuple[str, str, Candidate]] = [(WINNER, label, winner.params), (DEFAULT, "default", {})]
    found = [_trained(study, key, shown, candidate, source, say) for key, shown, candidate in candidates]
    starts: dict[str, Contender] = {}
    for one, key, shown in zip(found, (ZERO_SHOT, OTHER_START), ("zero-shot", "zero-shot of default"), strict=True):
        origin = (one.facts.get("parents") or {}).get("model")
        if origin is not None and origin["hash"] not in starts:
            starts[origin["hash"]] = _start(one, key, shown, origin)
    return [*found, *starts.values()]


def _trained(study: StudyFolder, key: str, label: str, candidate: Candidate, source: AnySource, say: Say) -> Contender:
    own = final_config(study, candidate, key)
    release = _train(own, source.fingerprint, label, say)
    resolved, _ = settled(open_source(own)[0], source, World(), saved_config(release.parent))
    facts = facts_of(release)
    return Contender(
        key,
        label,
        str(release),
        resolved,
        own.data.context_length,
        with_ancestry(facts),
        release_hash(release),
        partial(_opened, release, own.device),
        _validated(study, release.parent),
    )


def _train(own: RunConfig, fingerprint: str, name: str, say: Say) -> Path:
    """Train a final run unless it has ended, and return its release."""
    folder = Path(own.output_dir)
    asked = {"config": _hash(own), "data": fingerprint}
    release = folder / "release"
    if _asked(folder) != asked:
        if folder.exists():
            say(f"{name}: {folder} holds a run of another trial, config or data, which is replaced")
        remove(folder)
        folder.mkdir(parents=True)
        with replacing_file(folder / _ASKED) as scratch:
            write_json(scratch, asked)
    if (folder / METRICS).is_file():  # written after the release
        say(f"{name}: was trained before, in {folder}")
        return release
    say(f"{name}: training in {folder}; its log: {folder / _LOG}")
    try:
        with quiet(folder / _LOG):
            stage_corpora([own.data], World())  # of one process
            resolved, source = open_source(own)
            world = World.start(own.device, own.threads, own.deadlines)
            train_run(resolved, resume="auto", world=world, source=source)
    except Interrupted:
        say(f"{name}: stopped at a checkpoint, before the test part was opened; the same command goes on")
        raise
    return release


def _asked(folder: Path) -> dict[str, Any] | None:
    try:
        return read_object(folder / _ASKED)
    except (OSError, Unreadable):
        return None


def _hash(own: RunConfig) -> str:
    """Return a hash of all that a final run is asked for, but for where it runs."""
    tree = own.model_dump(mode="json", exclude={"output_dir", "device", "threads"})
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _opened(release: Path, device: str) -> Forecaster:
    return load(release, device=None if device == "auto" else device).model


def _start(of: Contender, key: str, label: str, origin: dict[str, Any]) -> Contender:
    """Return the weights that a contender started from, with its settings."""
    options = chosen_options(of.config.evaluation, family(of.config.model.family))

    def opened() -> Forecaster:
        return open_reference(ZERO_SHOT_ARGUMENT, of.source, of.open(), options).model

    name = f"{label} ({origin['asked']})"
    return Contender(key, name, str(origin["asked"]), of.config, of.context, of.facts, origin["hash"], opened, {})


def _validated(study: StudyFolder, folder: Path) -> dict[str, float]:
    """Return the objectives of the validation of a final run's released step; those of evaluators are not in it."""
    found = read_object(folder / METRICS)["metrics"]
    names = [objective.metric for objective in study.config.objectives]
    values = {one.metric: found.get(metric_key(one), {}).get("value") for one in study.config.objectives}
    return {name: values[name] for name in names if values[name] is not None}


def _forecasters(study: StudyFolder, winner: TrialRecord, label: str, source: AnySource) -> list[Contender]:
    """Return the model of a study of forecasts with the winner's options, and with those of the run."""
    config, found = study.config, list[Contender]()
    model = str(config.model)
    predictor = open_model(config, final_config(study, {}, DEFAULT))
    facts = with_ancestry(predictor.facts)
    try:
        hashed = release_hash(resolve(model))
    except ModelError:  # an adapter has none
        hashed = None
    for key, shown, candidate in ((WINNER, label, winner.params), (DEFAULT, "default", {})):
        own, _ = open_source(final_config(study, candidate, key), list(source.corpora))
        own, _ = settled(own, source, World(device=predictor.device))
        context = forecast_context(candidate) or own.data.context_length
        found.append(Contender(key, shown, model, own, context, facts, hashed, lambda: predictor.model, {}))
    return found


def check_default(record: TrialRecord | None) -> None:
    """Raise ConfigError if the run as it stands failed as a trial: there is nothing to compare the winner with."""
    if record is not None and record.state == "failed":
        raise ConfigError(
            f"the run as it stands failed, so the winner has nothing to be compared with: {record.message} Begin a "
            "study whose `run` and `set` make a run that trains."
        )
