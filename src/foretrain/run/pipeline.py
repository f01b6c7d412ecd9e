"""The stages of a run in order: what to do with each, resuming, skipping."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from foretrain.data.source import TrainingSource
from foretrain.data.store import Corpus
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, ForetrainError, TrainingError
from foretrain.models.base import Trainable
from foretrain.models.hub import release_hash
from foretrain.run.build import build_model, open_source
from foretrain.run.config import RunConfig, made_by
from foretrain.run.stages import StagesConfig
from foretrain.run.train import check_run, train_run
from foretrain.training import checkpoint as checkpoints
from foretrain.training.loader import stream_of
from foretrain.training.lock import RunLock
from foretrain.training.monitor import RunConsole
from foretrain.training.release import link_release, read_release
from foretrain.training.settings import check_resumable, plan_run
from foretrain.training.trainer import TrainResult, save_config


@dataclass
class Stage:
    """A stage about to be run, or not."""

    number: int  # from 0
    config: RunConfig  # as a run of its own
    skip: bool
    skip_existing: bool
    parents: dict[str, int]  # role -> number of the stage that it comes from
    source: TrainingSource | None = None
    trouble: ForetrainError | None = None  # why there is no source

    @property
    def name(self) -> str:
        """Its name."""
        return self.config.stage or ""

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return Path(self.config.output_dir)

    @property
    def release(self) -> Path:
        """Where its release is or will be."""
        return self.folder / "release"

    @property
    def begun(self) -> bool:
        """Whether it has left anything that a new start would spoil."""
        names = ("metrics.jsonl", "release")
        return bool(checkpoints.steps_in(self.folder / "checkpoints")) or any((self.folder / n).exists() for n in names)


@dataclass(frozen=True)
class StageStep:
    """What is done with a stage: run it (resume as for train_run), or why not."""

    do: Literal["run", "skip", "existing", "finished"]
    resume: str | None = None


def run_stages(
    config: StagesConfig,
    *,
    resume: str | None = None,
    world: World | None = None,
    corpora: Mapping[str, Corpus] | None = None,
) -> dict[str, TrainResult]:
    """Run the stages in order and make the last one's release output_dir/release. Every rank calls it.

    resume: None starts (an output_dir in which a stage has begun is an error), "auto" leaves finished stages as they
    are, goes on with the interrupted one and starts the others, a path goes on from that checkpoint of a stage. corpora
    by path are used in place of those folders. Returns how each stage ended that ran now.

    Raises what train_run raises; what makes a later stage impossible is found before the first one begins.
    """
    world = world or World.start(config.device, config.threads)
    stages = make_stages(config)
    open_sources(stages, corpora or {})
    root = Path(config.output_dir)
    console = RunConsole(highlight=False, quiet=not world.is_main)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    results: dict[str, TrainResult] = {}
    with ExitStack() as stack:
        lock = RunLock(root)
        world.on_main(lambda: stack.enter_context(lock) and None)
        steps = world.on_main(lambda: plan_steps(stages, root, resume))
        world.on_main(lambda: save_config(root, config.model_dump(mode="json")))
        for stage, step in zip(stages, steps, strict=True):
            title = f"stage {stage.number + 1} of {len(stages)}, {stage.name}"
            if step.do != "run":
                for line in world.on_main(lambda s=stage, d=step: skip_reasons(s, d, stages)):
                    say(f"{title}: {line}")
                continue
            results[stage.name] = train_run(
                stage.config, resume=step.resume, world=world, source=stage.source, notes=[title]
            )[1]
        last = [stage for stage in stages if not stage.skip][-1]
        world.on_main(lambda: link_release(last.release, root))
        say(f"finished; {root / 'release'} is that of {last.name}")
    return results


def make_stages(config: StagesConfig) -> list[Stage]:
    """The stages of a config, without their data."""
    found = []
    for number, stage in enumerate(config.stages):
        parents = {"model" if key == "model_id" else key: k for key, k in config.references(number).items()}
        found.append(Stage(number, config.run(number), stage.skip, stage.skip_existing, parents))
    return found


def open_sources(stages: list[Stage], corpora: Mapping[str, Corpus]) -> None:
    """Open the data of every stage that is not skipped; a corpus once. Raises where a stage cannot have its windows.

    One that is skipped where it has a release may do without data; what is wrong is kept for when it must run.
    """
    opened: dict[str, Corpus] = {}
    for stage in stages:
        if stage.skip:
            continue
        chosen = []
        try:
            with _named(stage):
                for spec in stage.config.data.corpora:
                    key = spec.model_dump_json(exclude={"weight"})
                    if key not in opened:
                        given = corpora.get(spec.path) if spec.path is not None else None
                        opened[key] = spec.open() if given is None else given
                    chosen.append(opened[key])
                stage.config, stage.source = open_source(stage.config, chosen)
        except ForetrainError as error:
            stage.trouble = error
            if not stage.skip_existing:
                raise


def plan_steps(stages: list[Stage], root: Path, resume: str | None) -> list[StageStep]:
    """What to do with each stage. Raises TrainingError where what is there does not allow what is asked for."""
    _check_unknown_folders(stages, root)
    target = None if resume in (None, "auto") else _stage_of(Path(str(resume)), stages)
    if resume is None:
        begun = [stage for stage in stages if stage.begun and not (stage.skip or _existing(stage))]
        if begun:
            raise TrainingError(
                f"{root} already holds a run: stage {begun[0].name} has begun. Go on with it by --resume, or choose "
                "another output_dir."
            )
    steps = [_step(stage, resume, target) for stage in stages]
    running = [stage for stage, step in zip(stages, steps, strict=True) if step.do == "run"]
    for stage in running:
        later = [s for s in stages[stage.number + 1 :] if steps[s.number].do in ("run", "finished") and s.begun]
        if later:
            raise TrainingError(
                f"stage {stage.name} is to go on, but stage {later[0].name}, which comes after it, has run already. "
                f"Move {later[0].folder} away, or choose another output_dir."
            )
        if stage.trouble is not None:
            raise stage.trouble
        for parent in (stages[k] for k in stage.parents.values() if steps[k].do == "skip"):
            if not stage_facts(parent):
                raise TrainingError(
                    f"stage {stage.name} starts from stage {parent.name}, which is skipped and has no release in "
                    f"{parent.release}. Put one there, or run it (stages.{parent.name}.skip=false)."
                )
    for stage in running[1:]:  # the first one is about to find out itself
        model = meta_model(stage, stages)
        if model is not None and stage.source is not None:
            with _named(stage):
                check_run(stage.config, stage.source, model)
    return steps


def meta_model(stage: Stage, stages: list[Stage]) -> Trainable | None:
    """A model such as the stage will train, without weights; None where it takes an earlier stage to tell.

    Raises what building it raises, unless that may be for want of a release that an earlier stage is yet to make.
    """
    awaited = {role: stages[k] for role, k in stage.parents.items() if not stage_facts(stages[k])}
    try:
        with _named(stage):
            return build_model(stage.config, device="meta")
    except ConfigError:
        raise  # of its own: whether a release is there, it does not say
    except ForetrainError:
        if not awaited:
            raise
    origin = awaited.get("model")
    if origin is None or origin.config.model.family != stage.config.model.family:
        return None
    return meta_model(origin, stages)


@contextmanager
def _named(stage: Stage) -> Iterator[None]:
    """Errors inside say which stage they are of."""
    try:
        yield
    except ForetrainError as error:
        raise type(error)(f"stage {stage.name}: {error}") from None


def _step(stage: Stage, resume: str | None, target: Stage | None) -> StageStep:
    if stage.skip:
        return StageStep("skip")
    if _existing(stage) and stage is not target:
        return StageStep("existing")
    if stage is target:
        return StageStep("run", resume)
    if resume is None:
        return StageStep("run")
    return StageStep("finished") if finished(stage) else StageStep("run", "auto")


def _existing(stage: Stage) -> bool:
    return stage.skip_existing and bool(stage_facts(stage))


def finished(stage: Stage) -> bool:
    """Whether a stage has run to its end. Raises TrainingError where its config or data are no longer the same."""
    facts, store = stage_facts(stage), stage.folder / "checkpoints"
    if not facts:
        return False
    if stage.source is None:
        raise stage.trouble or AssertionError(f"stage {stage.name} has no data")
    held = checkpoints.CheckpointManager(store, World()).list_complete()
    if not held:  # deleted, to have the space
        if (gap := next(_differences(stage, facts), None)) is None:
            return True
        raise TrainingError(
            f"stage {stage.name}: its release {gap}, and its checkpoints are gone. Restore the config and the data, "
            f"take the release as it is (stages.{stage.name}.skip_existing=true), or choose another output_dir."
        )
    newest, stopped = held[-1], facts.get("stopped") or {}
    if newest.step != stopped.get("step"):
        return False  # trained on since, and not to the end
    state = checkpoints.read_state(newest.path)
    saved, now = state["config"], stage.config.model_dump(mode="json")
    now["parents"] = saved.get("parents", {}) | _parents_now(stage)
    with _named(stage):
        check_resumable(saved, now, RunConfig)
    if state["data_fingerprint"] != stage.source.fingerprint:
        raise TrainingError(
            f"stage {stage.name}: was trained on other data (fingerprint {state['data_fingerprint']}, now "
            f"{stage.source.fingerprint}). Restore the corpus, or choose another output_dir."
        )
    return stopped["by"] != "max_steps" or newest.step >= _planned_steps(stage)


def _planned_steps(stage: Stage) -> int:
    training = stage.config.training
    assert stage.source is not None
    return plan_run(training, epoch_length=stream_of(stage.source, training).epoch_length, world_size=1).steps


def _differences(stage: Stage, facts: Mapping[str, Any]) -> Iterator[str]:
    """What a release's facts say that the stage, which has its data, would not make: "was ..."."""
    same, how = made_by(stage.config, facts.get("config_hash"), stage.folder / "config.yaml")
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


def _parents_now(stage: Stage) -> dict[str, str]:
    """Role -> hash of the release that an earlier stage has now."""
    folder = stage.folder.parent
    places = {role: next(iter(folder.glob(f"{k + 1:02d}-*/release")), None) for role, k in stage.parents.items()}
    return {role: release_hash(place) for role, place in places.items() if place is not None}


def skip_reasons(stage: Stage, step: StageStep, stages: list[Stage]) -> list[str]:
    """Why a stage does not run, and what may surprise about it."""
    if step.do == "skip":
        return ["skipped (skip: true)"]
    if step.do == "finished":
        return ["finished before"]
    lines = [f"not run, since it has a release: {stage.release} (skip_existing: true)"]
    facts = stage_facts(stage)
    try:
        if stage.trouble is not None:
            raise stage.trouble
        lines += [f"note: its release {gap}" for gap in _differences(stage, facts)]
    except ForetrainError as error:
        lines.append(f"note: whether it was made by the present config cannot be told: {error}")
    for role, known in _parents_now(stage).items():
        if (facts.get("parents") or {}).get(role, {}).get("hash") != known:
            lines.append(f"note: its {role} was another than what stage {stages[stage.parents[role]].name} has now")
    return lines


def stage_facts(stage: Stage) -> dict[str, Any]:
    """release.json of a stage, {} where it has no complete release. (A release appears whole, by a rename.)"""
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
    known = {stage.folder.name for stage in stages}
    strangers = sorted(path.name for path in (root / "stages").glob("*") if path.is_dir() and path.name not in known)
    if strangers:
        raise TrainingError(
            f"{root / 'stages'} holds {', '.join(strangers)}, which this config does not have (its stages: "
            f"{', '.join(sorted(known))}). Stages keep their names and places; move it away or choose another "
            "output_dir."
        )


def _stage_of(path: Path, stages: list[Stage]) -> Stage:
    for stage in stages:
        if path.resolve().parent == (stage.folder / "checkpoints").resolve():
            return stage
    places = "".join(f"\n  {stage.folder / 'checkpoints'}" for stage in stages)
    raise TrainingError(f"{path}: is no checkpoint of a stage of this run; they lie in{places}")
