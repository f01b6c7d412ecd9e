"""Runs the stages of a pipeline in order: start, resume or skip each."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from foretrain.data.store import Corpus
from foretrain.data.synthetic.generated import AnySource
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, ForetrainError, TrainingError
from foretrain.models.base import Forecaster, Trainable
from foretrain.models.hub import release_hash
from foretrain.reading import resolved
from foretrain.run.build import build_model, open_source, saved_config, settled
from foretrain.run.config import RunConfig, is_same_config
from foretrain.run.intact import begin_verification, stage_corpora
from foretrain.run.opening import with_checkpoints
from foretrain.run.stages import StagesConfig
from foretrain.run.train import check_run, next_commands, train_run
from foretrain.run.waiting import announced
from foretrain.training import checkpoint as checkpoints
from foretrain.training.launch import record_start, save_config
from foretrain.training.loader import plan_of, stream_of
from foretrain.training.lock import locked
from foretrain.training.manifest import CheckpointInfo, read_run_state
from foretrain.training.monitor import RunConsole
from foretrain.training.release import RECORDS, link_release, read_release
from foretrain.training.settings import check_resumable
from foretrain.training.trainer import TrainResult


@dataclass
class Stage:
    """A stage of a pipeline, with its data once they are opened."""

    number: int  # from 0
    config: RunConfig  # of the stage as a single run
    skip: bool
    skip_existing: bool
    parents: dict[str, int]  # role -> number of the stage whose release it is
    source: AnySource | None = None
    source_error: ForetrainError | None = None  # why there is no source
    devices: list[str] = field(default_factory=list)  # lines on the values that `auto` stands for

    @property
    def name(self) -> str:
        """Name of the stage."""
        return self.config.stage or ""

    @property
    def folder(self) -> Path:
        """Run folder of the stage."""
        return Path(self.config.output_dir)

    @property
    def release(self) -> Path:
        """Path of the stage's release, which may not exist yet."""
        return self.folder / "release"

    @property
    def started(self) -> bool:
        """Whether its folder holds checkpoints, metrics or a release, which a new start would overwrite."""
        names = ("metrics.jsonl", "release")
        return bool(checkpoints.steps_in(self.folder / "checkpoints")) or any((self.folder / n).exists() for n in names)


@dataclass(frozen=True)
class StageAction:
    """Run a stage (resume as for train_run), or the reason why it is not run."""

    do: Literal["run", "skip", "existing", "finished"]
    resume: str | None = None


def run_stages(
    config: StagesConfig,
    *,
    resume: str | None = None,
    world: World | None = None,
    corpora: Mapping[str, Corpus] | None = None,
    notes: Sequence[str] = (),
) -> dict[str, TrainResult]:
    """Run the stages in order and make the last one's release output_dir/release. Every rank calls it.

    Args:
        resume: None starts (an error if a stage in output_dir was started), "auto" skips finished stages, resumes the
            interrupted one and starts the others, a path resumes the stage of that checkpoint.
        corpora: path -> corpus that is used instead of the folder at that path.
        notes: first lines.

    Returns stage name -> result of the stages that ran. Raises the errors of train_run; those of a later stage that
    can be found in advance are raised before the first stage starts.
    """
    world = world or World.start(config.device, config.threads, config.deadlines)
    stages = make_stages(config)
    read = [stage.config.data for stage in stages if not stage.skip]
    stage_corpora(read, world, given=bool(corpora))
    begin_verification([] if corpora else read, world)()
    with announced("opening the data of all stages", world):
        open_sources(stages, corpora or {}, world, resume)
    root = Path(config.output_dir)
    console = RunConsole(highlight=False, quiet=not world.is_main)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    results: dict[str, TrainResult] = {}
    commands = list[str]()
    with ExitStack() as stack:
        stack.enter_context(locked(root, world))
        actions = world.on_main(lambda: plan_actions(stages, root, resume, world))
        world.on_main(lambda: save_config(root, config.model_dump(mode="json")))
        record_start(root, world)
        for note in notes:
            say(note)
        for stage, action in zip(stages, actions, strict=True):
            title = f"stage {stage.number + 1} of {len(stages)}, {stage.name}"
            if action.do != "run":
                for line in world.on_main(lambda s=stage, a=action: skip_reasons(s, a, stages)):
                    say(f"{title}: {line}")
                continue
            model, results[stage.name] = train_run(
                stage.config, resume=action.resume, world=world, source=stage.source, notes=[title, *stage.devices]
            )
            if results[stage.name].stopped_by == "max_minutes":
                say(f"{title}: training.max_minutes ended it before its last step; it counts as finished")
            commands = next_commands(stage.config, model, root)
        last = [stage for stage in stages if not stage.skip][-1]
        world.on_main(lambda: link_release(last.release, root))
        say(f"finished; {root / 'release'} is that of {last.name}")
        for line in commands if last.name in results else ():
            say(line)
    return results


def make_stages(config: StagesConfig) -> list[Stage]:
    """Return the stages of a config, without their data."""
    found = []
    for number, stage in enumerate(config.stages):
        parents = {"model" if key == "model_id" else key: k for key, k in config.references(number).items()}
        found.append(Stage(number, config.run(number), stage.skip, stage.skip_existing, parents))
    return found


def open_sources(
    stages: list[Stage], corpora: Mapping[str, Corpus], world: World | None = None, resume: str | None = None
) -> None:
    """Open the data of every stage that is not skipped; each corpus once. Raises if a stage has no windows.

    Values that are `auto` are settled, by the devices of the world or, on resume, by those of the stage's run folder.
    A stage with skip_existing may not need its data; its error is stored and raised if it must run.
    """
    opened: dict[str, Corpus] = {}
    for stage in stages:
        if stage.skip:
            continue
        chosen = []
        try:
            with _errors_name_stage(stage):
                stage.config.data.check_folders(corpora)
                for spec in stage.config.data.corpora:
                    key = f"{spec.model_dump_json(exclude={'weight'})} {stage.config.data.stage_to}"
                    if key not in opened:
                        given = corpora.get(spec.path) if spec.path is not None else None
                        opened[key] = spec.open(stage.config.data.stage_to) if given is None else given
                    chosen.append(opened[key])
                before = saved_config(stage.folder) if resume else None
                config = with_checkpoints(stage.config, world or World(), before)
                config, source = open_source(config, chosen)
                build = functools.partial(meta_model, stage, stages)
                stage.config, stage.devices = settled(config, source, world or World(), before, build)
                stage.source = source
        except ForetrainError as error:
            stage.source_error = error
            if not stage.skip_existing:
                raise


def plan_actions(stages: list[Stage], root: Path, resume: str | None, world: World | None = None) -> list[StageAction]:
    """Return what to do with each stage. Raises TrainingError if the contents of `root` do not allow it."""
    _check_unknown_folders(stages, root)
    target = None if resume in (None, "auto") else _stage_of_checkpoint(Path(str(resume)), stages)
    if resume is None:
        started = [stage for stage in stages if stage.started and not (stage.skip or _uses_existing_release(stage))]
        if started:
            raise TrainingError(
                f"{root} already holds a run: stage {started[0].name} was started. Resume it with --resume, or choose "
                "another output_dir."
            )
    actions = [_plan_action(stage, resume, target, stages[stage.number + 1 :]) for stage in stages]
    running = [stage for stage, action in zip(stages, actions, strict=True) if action.do == "run"]
    for stage in running:
        later = [s for s in stages[stage.number + 1 :] if actions[s.number].do in ("run", "finished") and s.started]
        if later:
            raise TrainingError(
                f"stage {stage.name} is to run, but stage {later[0].name}, which comes after it, has run already. "
                f"Move {later[0].folder} away, or choose another output_dir."
            )
        if stage.source_error is not None:
            raise stage.source_error
        for parent in (stages[k] for k in stage.parents.values() if actions[k].do == "skip"):
            if not stage_facts(parent):
                raise TrainingError(
                    f"stage {stage.name} starts from stage {parent.name}, which is skipped and has no release in "
                    f"{parent.release}. Put one there, or run it (stages.{parent.name}.skip=false)."
                )
    for stage in running:  # the first one too, so that a refusal names it and leaves nothing behind
        model = meta_model(stage, stages)
        if model is not None and stage.source is not None:
            with _errors_name_stage(stage):
                check_run(stage.config, stage.source, model, world)
    return actions


def meta_model(stage: Stage, stages: list[Stage]) -> Trainable | None:
    """Build the model of a stage on "meta"; None if it depends on a release that an earlier stage has yet to write.

    Raises the errors of build_model, unless a missing release of an earlier stage may be their cause.
    """
    pending = {role: stages[k] for role, k in stage.parents.items() if not stage_facts(stages[k])}
    try:
        with _errors_name_stage(stage):
            return build_model(stage.config, device="meta")
    except ConfigError:
        raise  # an error of the config does not depend on whether a release exists
    except ForetrainError:
        if not pending:
            raise
    origin = pending.get("model")
    if origin is None or origin.config.model.family != stage.config.model.family:
        return None
    return meta_model(origin, stages)


@contextmanager
def _errors_name_stage(stage: Stage) -> Iterator[None]:
    """Prefix errors raised inside with the name of the stage."""
    try:
        yield
    except ForetrainError as error:
        raise type(error)(f"stage {stage.name}: {error}") from None


def _plan_action(stage: Stage, resume: str | None, target: Stage | None, later: list[Stage]) -> StageAction:
    if stage.skip:
        return StageAction("skip")
    if _uses_existing_release(stage) and stage is not target:
        return StageAction("existing")
    if stage is target:
        return StageAction("run", resume)
    if resume is None:
        return StageAction("run")
    if not is_finished(stage):
        return StageAction("run", "auto")
    if any(other.started for other in later) or not (_has_more_minutes(stage) or _lacks_gate(stage)):
        return StageAction("finished")
    return StageAction("run", "auto")


def _uses_existing_release(stage: Stage) -> bool:
    """Return True if the stage is not run because it has a release (skip_existing)."""
    return stage.skip_existing and bool(stage_facts(stage))


def is_finished(stage: Stage) -> bool:
    """Return True if a stage has run to its end. Raises TrainingError if its config or data have changed since."""
    facts = stage_facts(stage)
    if not facts:
        return False
    if stage.source is None:
        raise stage.source_error or AssertionError(f"stage {stage.name} has no data")
    kept = _complete(stage)
    if not kept:  # deleted to free disk space
        if (gap := next(_release_differences(stage, facts), None)) is None:
            return True
        raise TrainingError(
            f"stage {stage.name}: its release {gap}, and its checkpoints are gone. Restore the config and the data, "
            f"use the release as it is (stages.{stage.name}.skip_existing=true), or choose another output_dir."
        )
    if not (stage.folder / RECORDS).is_file():
        return False  # killed between its release and its records, which the end of a run writes last
    newest, stopped = kept[-1], facts.get("stopped") or {}
    if newest.step != stopped.get("step"):
        return False  # resumed after this release, and not finished since
    state = read_run_state(newest.path)
    saved, now = state["config"], stage.config.model_dump(mode="json")
    now["parents"] = saved.get("parents", {}) | _current_parent_hashes(stage)
    with _errors_name_stage(stage):
        check_resumable(saved, now, RunConfig)
    if state["data_fingerprint"] != stage.source.fingerprint:
        raise TrainingError(
            f"stage {stage.name}: was trained on other data (fingerprint {state['data_fingerprint']}, now "
            f"{stage.source.fingerprint}). Restore the corpus, or choose another output_dir."
        )
    return stopped["by"] != "max_steps" or newest.step >= _planned_steps(stage)


def _complete(stage: Stage) -> list[CheckpointInfo]:
    """Return the complete checkpoints of a stage, by step."""
    return checkpoints.CheckpointManager(stage.folder / "checkpoints", World()).list_complete()


def _has_more_minutes(stage: Stage) -> bool:
    """Return True if max_minutes ended a finished stage before its last step, and the config now allows more."""
    kept = _complete(stage)
    if not _short_of_time(stage) or not kept:
        return False
    now, before = stage.config.training.max_minutes, read_run_state(kept[-1].path)["config"]["training"]
    return now is None or now > (before.get("max_minutes") or 0)


def _lacks_gate(stage: Stage) -> bool:
    """Return True if a finished stage asks for a gate that its release has no mark of: it was killed, or asks since."""
    if not stage.config.evaluation.promotion or "promotion" in stage_facts(stage) or not _complete(stage):
        return False
    return isinstance(build_model(stage.config, device="meta"), Forecaster)


def _short_of_time(stage: Stage) -> bool:
    """Return True if max_minutes ended a stage with a release before its last step."""
    stopped = stage_facts(stage).get("stopped") or {}
    return stopped.get("by") == "max_minutes" and stopped["step"] < _planned_steps(stage)


def _planned_steps(stage: Stage) -> int:
    """Return the number of optimizer steps that the stage's config plans."""
    training = stage.config.training
    assert stage.source is not None
    return plan_of(stream_of(stage.source, training), training, 1).steps


def _release_differences(stage: Stage, facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield how a release differs from what the stage, whose source is open, would train: "was ..."."""
    same, how = is_same_config(stage.config, facts.get("config_hash"), stage.folder / "config.yaml")
    if not same:
        yield f"was made by another config than the present one ({how})"
    assert stage.source is not None
    trained_on = facts.get("data_fingerprint", stage.source.fingerprint)
    if trained_on != stage.source.fingerprint:
        yield f"was trained on other data (fingerprint {trained_on}, now {stage.source.fingerprint})"
    stopped = facts.get("stopped") or {"step": facts.get("step"), "by": "max_steps"}
    done, planned = stopped["step"], _planned_steps(stage)
    if done is not None and stopped["by"] == "max_steps" and done < planned:
        yield f"was trained for {done:,} of the {planned:,} steps that are planned now"


def _current_parent_hashes(stage: Stage) -> dict[str, str]:
    """Return role -> present release hash of the earlier stage that is this parent."""
    folder = stage.folder.parent
    places = {role: next(iter(folder.glob(f"{k + 1:02d}-*/release")), None) for role, k in stage.parents.items()}
    return {role: release_hash(place) for role, place in places.items() if place is not None}


def skip_reasons(stage: Stage, action: StageAction, stages: list[Stage]) -> list[str]:
    """Return why a stage does not run, with notes on how its release differs from the present config."""
    if action.do == "skip":
        return ["skipped (skip: true)"]
    if action.do == "finished":
        if not _short_of_time(stage):
            return ["finished before"]
        step = f"{stage_facts(stage)['stopped']['step']:,} of {_planned_steps(stage):,}"
        return [f"finished before, at step {step} by training.max_minutes"]
    lines = [f"not run, since it has a release: {stage.release} (skip_existing: true)"]
    facts = stage_facts(stage)
    try:
        if stage.source_error is not None:
            raise stage.source_error
        lines += [f"note: its release {gap}" for gap in _release_differences(stage, facts)]
    except ForetrainError as error:
        lines.append(f"note: cannot check whether it was made by the present config: {error}")
    for role, hashed in _current_parent_hashes(stage).items():
        if (facts.get("parents") or {}).get(role, {}).get("hash") != hashed:
            lines.append(f"note: its {role} was not the present release of stage {stages[stage.parents[role]].name}")
    return lines


def stage_facts(stage: Stage) -> dict[str, Any]:
    """Return release.json of a stage; {} without a release. (A release is renamed into place, so it is complete.)"""
    if not (stage.release / "config.json").is_file():
        return {}
    try:
        return read_release(stage.release)
    except FileNotFoundError:
        return {"from": "elsewhere"}  # put there by hand
    except (OSError, json.JSONDecodeError) as error:
        raise TrainingError(f"{stage.release / 'release.json'}: cannot be read ({error}).") from None


def _check_unknown_folders(stages: list[Stage], root: Path) -> None:
    if (root / "checkpoints").exists() or (root / "metrics.jsonl").exists():
        raise TrainingError(f"{root} already holds a run without stages. Choose another output_dir.")
    """Raise TrainingError if `root` holds a single run, or a stage that is not in the config."""
    known = {stage.folder.name for stage in stages}
    unknown = sorted(path.name for path in (root / "stages").glob("*") if path.is_dir() and path.name not in known)
    if unknown:
        raise TrainingError(
            f"{root / 'stages'} holds {', '.join(unknown)}, which this config does not have (its stages: "
            f"{', '.join(sorted(known))}). Stages keep their names and places; move it away or choose another "
            "output_dir."
        )


def _stage_of_checkpoint(path: Path, stages: list[Stage]) -> Stage:
    """Return the stage of a checkpoint. Raises TrainingError if it belongs to none."""
    for stage in stages:
        if resolved(path).parent == resolved(stage.folder / "checkpoints"):
            return stage
    places = "".join(f"\n  {stage.folder / 'checkpoints'}" for stage in stages)
    raise TrainingError(f"{path}: is not a checkpoint of a stage of this run; their folders:{places}")
