"""`train --dry-run`: what a run or its stages need, from little data and without weights, and what would be refused."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from foretrain.adapters.layers import describe_adapter
from foretrain.data.synthetic.generated import AnySource
from foretrain.distributed.world import World
from foretrain.errors import DataError, ForetrainError, TrainingError
from foretrain.forecasting.ancestry import Ancestry
from foretrain.forecasting.parents import of_parent, recorded
from foretrain.models.base import Forecaster, Trainable
from foretrain.notes import texts
from foretrain.printing import duration
from foretrain.run import estimate
from foretrain.run.ancestry import check_test_part
from foretrain.run.build import build_model, model_facts, open_source, release_facts, saved_config, settled
from foretrain.run.by_context import describe_memory_by_context, memory_by_context
from foretrain.run.config import RunConfig
from foretrain.run.evaluators import describe_evaluators
from foretrain.run.opening import with_checkpoints
from foretrain.run.pipeline import (
    Stage,
    StageAction,
    make_stages,
    meta_model,
    open_sources,
    plan_actions,
    skip_reasons,
    stage_facts,
)
from foretrain.run.promotion import check_test_split
from foretrain.run.stages import StagesConfig
from foretrain.run.summary import (
    describe_copies,
    describe_data,
    describe_device,
    describe_lengths,
    describe_model,
    describe_split,
    describe_start,
    format_bytes,
)
from foretrain.run.train import check_run, holds_run
from foretrain.run.weights import missing_weights
from foretrain.training.auto import settle
from foretrain.training.loader import describe_stream, plan_of, stream_of
from foretrain.training.offload import could_offload, offload_note
from foretrain.training.parallel import local_size
from foretrain.training.settings import StepPlan, plan_run

REFUSED = "refused: "  # starts a line on what prevents the run
MEASURED = 8  # windows of the micro-batches that a CPU runs for training.micro_batch_size: auto, about
NO_WEIGHTS = "its weights are needed to measure it"


class _Told(list[str]):
    """Lines, each passed on as soon as it is known."""

    def __init__(self, say: Callable[[str], None] | None) -> None:
        super().__init__()
        self._say = say

    def add(self, *lines: str) -> None:
        for line in lines:
            self.append(line)
            if self._say is not None:
                self._say(line)


def describe_run(
    config: RunConfig, world: World, resume: str | None = None, say: Callable[[str], None] | None = None
) -> list[str]:
    """Return the lines of `train --dry-run`: parameters, memory, data, steps, time, disk, then details, refusals.

    say is called with each line as soon as it is known. Raises the errors that the run would raise, after the lines on
    what does not depend on their cause.
    """
    lines, saved, alone = _Told(say), saved_config(Path(config.output_dir), resume), World(device=world.device)
    try:
        config = with_checkpoints(config, alone, saved if resume else None)
        opened, source = open_source(config, None, saved)
        opened, devices = settled(opened, source, alone, saved if resume else None)
        model = build_model(opened, device="meta")
        check_run(opened, source, model, world)
    except ForetrainError:
        lines.add(*_without_data(config, world))
        raise
    absent = missing_weights(config)
    lines.add(*devices)
    _describe_needs(lines, opened, source, model, world, NO_WEIGHTS if absent else "")
    lines.add(*texts(check_test_split(opened, model, source)))
    lines.add(*texts(check_test_part(opened, source, _facts(opened, source, model))))
    evaluators, without_data = describe_evaluators(opened)
    lines.add(*evaluators)
    lines.add(*(f"{REFUSED}{problem}" for problem in [*absent, *without_data]))
    output = Path(config.output_dir)
    if resume is None and holds_run(output):
        lines.add(f"{REFUSED}{output} already holds a run; resume it with --resume, or choose another output_dir.")
    return lines


def describe_stages(
    config: StagesConfig, world: World, resume: str | None = None, say: Callable[[str], None] | None = None
) -> list[str]:
    """Return the lines of `train --dry-run`: each stage's action and needs, refusals; arguments as of describe_run."""
    stages, lines = make_stages(config), _Told(say)
    try:
        open_sources(stages, {}, World(device=world.device), resume)
    except ForetrainError:
        for stage in stages:
            lines.add(_title(stage, stages), *([] if stage.skip else _without_data(stage.config, world, stage, stages)))
        raise
    actions: list[StageAction] | None = None
    try:
        actions = plan_actions(stages, Path(config.output_dir), resume, world)
    except TrainingError as error:
        lines.add(f"{REFUSED}{error}")
    planned = dict[int, Ancestry]()  # stage -> what its release will have seen, itself included
    for stage in stages:
        lines.add(_title(stage, stages))
        if stage.skip or stage.source is None or (actions and actions[stage.number].do != "run"):
            lines.add(*skip_reasons(stage, actions[stage.number] if actions else StageAction("skip"), stages))
            continue
        pending = [stages[k].name for k in stage.parents.values() if not stage_facts(stages[k])]
        lines.add(
            *(f"starts from stage {name}, not released yet: figures of a model of equal size" for name in pending)
        )
        absent = _absent(stage, stages)
        model = meta_model(stage, stages)
        lines.add(*stage.devices)
        why = NO_WEIGHTS if absent or pending else ""
        _describe_needs(lines, stage.config, stage.source, model, world, why)
        if model is not None:
            lines.add(*texts(check_test_split(stage.config, model, stage.source)))
        coming = {role: planned[k] for role, k in stage.parents.items() if k in planned}
        facts = _facts(stage.config, stage.source, model, coming)
        planned[stage.number] = recorded(facts, Ancestry.read(facts) or Ancestry())
        lines.add(*texts(check_test_part(stage.config, stage.source, facts)))
        evaluators, without_data = describe_evaluators(stage.config) if isinstance(model, Forecaster) else ([], [])
        lines.add(*evaluators)
        lines.add(*(f"{REFUSED}{problem}" for problem in [*absent, *without_data]))
    return lines


def _title(stage: Stage, stages: list[Stage]) -> str:
    return f"{'' if stage.number == 0 else chr(10)}stage {stage.number + 1} of {len(stages)}, {stage.name}"


def _absent(stage: Stage, stages: list[Stage]) -> list[str]:
    """Return a message for each release that a stage needs and that neither is there nor comes from another stage."""
    own = tuple(str(stages[k].release) for k in stage.parents.values())
    return [problem for problem in missing_weights(stage.config) if not problem.startswith(own)]


def _facts(
    config: RunConfig, source: AnySource, model: Trainable | None, coming: Mapping[str, Ancestry] | None = None
) -> dict[str, Any]:
    """Return the facts of the release that a run will write; coming: role -> ancestry of a parent yet to be trained."""
    parents = {} if model is None else dict(model.parents)
    facts = release_facts(config.model_copy(update={"parents": parents}), source)
    if coming:
        present = {role: of_parent(role, facts["parents"]) for role in facts["parents"]}
        facts["ancestry"] = Ancestry.joined({**present, **coming}).to_json()
    return facts


def _without_data(
    config: RunConfig, world: World, stage: Stage | None = None, stages: list[Stage] | None = None
) -> list[str]:
    """Return the lines of a run whose data are not there or do not fit; none if its model cannot be built either."""
    lines, plan = _Told(None), None
    window = config.data.context_length + config.data.prediction_length
    try:
        build = None if stage is None else functools.partial(meta_model, stage, stages or [])
        facts = functools.partial(model_facts, config, build)
        training, _ = settle(config.training, World(device=world.device), window=window, model=facts)
        config = config.model_copy(update={"training": training})
        if training.micro_batch_size == "auto":
            config = _sized(config, -(-training.batch_size // world.size))
        model = build_model(config, device="meta") if stage is None else meta_model(stage, stages or [])
    except ForetrainError:
        return []
    if model is None:
        return [f"data: {describe_lengths(config)}"]
    lines.add(*_about(config, model), f"data: {describe_lengths(config)}")
    if config.training.max_steps is not None and config.data.generated is None:
        plan = plan_run(config.training, epoch_length=0, world_size=world.size)
        lines.add(_describe_steps(plan, world))
    _describe_costs(lines, config, model, None, plan, world, "its data are needed to measure it")
    return [*lines, *(f"{REFUSED}{problem}" for problem in (missing_weights(config) if stage is None else []))]


def _describe_needs(
    lines: _Told, config: RunConfig, source: AnySource, model: Trainable | None, world: World, unmeasured: str = ""
) -> None:
    """Add lines on the model, data, steps, memory, time and disk of a run; model None = it cannot be built yet.

    unmeasured: why no step can be tried; "" = it can.
    """
    if config.training.micro_batch_size == "auto":
        config, line = _with_micro_batch(config, source, model, world, unmeasured)
        lines.add(line)
    stream = stream_of(source, config.training)
    plan = plan_of(stream, config.training, world.size)
    unknown = "model: its parameters, memory and disk depend on a stage that has not run yet"
    lines.add(*([unknown] if model is None else _about(config, model)))
    epochs = f", {plan.total / stream.epoch_length:.2f} epochs" if stream.epoch_length else ""
    lines.add(describe_data(config, source), *_copies(config), _describe_steps(plan, world) + epochs)
    section = "training.token_budget" if config.training.token_budget else "data.generated"
    lines.add(*plan.warn_of_idle(world.size, section))
    if model is not None:
        lines.add(*describe_split(config, model, world))
        _describe_costs(lines, config, model, source, plan, world, unmeasured)
    lines.add(f"device: {describe_device(world)}, torch {torch.__version__}")
    lines.add(*source.lines()[1:], *describe_stream(stream))


def _copies(config: RunConfig) -> list[str]:
    try:
        return describe_copies(config)
    except DataError as error:
        return [f"{REFUSED}{error}"]


def _with_micro_batch(
    config: RunConfig, source: AnySource, model: Trainable | None, world: World, unmeasured: str
) -> tuple[RunConfig, str]:
    """Return the config with the micro-batch that auto stands for, and its line; if it is not tried, with the largest.

    Arguments as of _describe_needs.
    """
    most = -(-config.training.batch_size // world.size)
    if model is None:
        unmeasured = "its model depends on a stage that has not run yet"
    elif not unmeasured:
        tried = most if world.device.type == "cuda" else min(most, MEASURED)
        flops = estimate.mean_flops(model, estimate.sizes_of(_sized(config, tried), source, world))
        if flops > estimate.LONGEST * estimate.SHARE * estimate.device_speed(world.device, config.training.dtype):
            unmeasured = "a micro-batch takes too long to be tried here"
    if not unmeasured:
        try:
            found = estimate.micro_batch_of(config, source, world)
        except (RuntimeError, ForetrainError) as error:
            unmeasured = f"the trial failed: {str(error).splitlines()[0]}"
        else:
            each = ", asked for this process alone" if world.size > 1 else ""
            line = f"auto: training.micro_batch_size {found.windows:,} ({found.how}{each})"
            return _sized(config, found.windows), line
    line = f"auto: training.micro_batch_size is found at the start; of {most:,}, the most, are the lines below"
    return _sized(config, most), f"{line} ({unmeasured})"


def _sized(config: RunConfig, windows: int) -> RunConfig:
    """Return the config with a micro-batch of so many windows."""
    return config.model_copy(update={"training": config.training.model_copy(update={"micro_batch_size": windows})})


def _about(config: RunConfig, model: Trainable) -> list[str]:
    """Return the lines on the model itself."""
    adapter = describe_adapter(model)
    return [f"{describe_model(config, model)}, from {describe_start(config)}", *([adapter] if adapter else [])]


def _describe_steps(plan: StepPlan, world: World) -> str:
    micro = f" in micro-batches of {plan.micro_batch_size:,}" if plan.unit == "windows" else ""
    processes = f"{world.size} process{'es' if world.size > 1 else ''}"
    return (
        f"steps: {plan.steps:,} of {plan.batch_size:,} {plan.unit}{micro} over {processes} = {plan.total:,} {plan.unit}"
    )


def _describe_costs(
    lines: _Told,
    config: RunConfig,
    model: Trainable,
    source: AnySource | None,
    plan: StepPlan | None,
    world: World,
    unmeasured: str,
) -> None:
    """Add the lines on memory, time and disk. source None = unknown; plan None = its steps are unknown."""
    sizes = estimate.sizes_of(config, source, world)
    accumulates = plan is not None and plan.batch_size > plan.micro_batch_size * world.size
    memory = estimate.memory_of(config, model, world, accumulates)
    alone = estimate.memory_of(config, model, World(device=world.device))
    flops = estimate.mean_flops(model, sizes)
    speed = estimate.SHARE * estimate.device_speed(world.device, config.training.dtype)
    counted = estimate.most_passes(config, model, sizes, world.device, time.thread_time() + estimate.COUNTING)
    activations, room = None if counted is None else counted.kept, estimate.device_memory(world.device)
    measured = None
    if not unmeasured and (flops / speed > estimate.LONGEST or alone.total + (activations or 0) > room / 2):
        unmeasured = "a step is too large to be tried here"
    if source is not None and not unmeasured:
        try:
            measured = estimate.measure(config, source, world)
        except estimate.TooLong as error:
            unmeasured = str(error)
        except (RuntimeError, ForetrainError) as error:  # what torch raises, out of memory too
            unmeasured = f"a step failed when it was tried: {str(error).splitlines()[0]}"
    kept = activations if measured is None else measured.passes.kept
    if kept is None:
        text = "activations unknown"
    else:
        text = f"activations of a micro-batch {'' if measured else 'at most '}{format_bytes(kept)}"
    lines.add(
        f"memory: {format_bytes(memory.total)} = weights {format_bytes(memory.weights)} + gradients "
        f"{format_bytes(memory.gradients)} + optimizer {format_bytes(memory.optimizer)}{_describe_split(memory)}; "
        f"{text}; {world.device} has {format_bytes(room)}"
    )
    if len(sizes) == 1 and config.data.generated is None and config.training.token_budget is None:
        own, heap = (counted, 1.0) if measured is None else (measured.passes, measured.heap)
        held, shared = memory.total + model.other_weights, 0 if accumulates else alone.gradients
        found = memory_by_context(config, model, sizes[0], held, shared, own, heap, world.device)
        lines.add(*describe_memory_by_context(found, sizes[0]))
    if max(memory.total + (kept or 0), memory.most) > room:
        apart = ", or training.offload_optimizer: true" if could_offload(config.training, world.device) else ""
        split = ", or split the model: training.parallel: fsdp" if world.size > 1 and memory.shards == 1 else ""
        way = f"lower training.micro_batch_size or set activation_checkpointing{apart}{split}."
        lines.add(f"warning: that may be too much; {way}")
    lines.add(*offload_note(config.training, world.device))
    if memory.host:
        lines.add(*_describe_host(memory.host, world))
    if config.training.in_background(world.device.type):
        beside = memory.total + (kept or 0) if world.device.type == "cpu" else memory.host
        lines.add(*_describe_copy(memory.checkpoint(model), beside, world))
    if plan is not None:
        lines.add(_describe_time(plan, world, flops, speed, measured, unmeasured))
    lines.add(f"compute: {flops / 1e9:,.3f} GFLOP forward and backward a micro-batch, on average")
    lines.add(*_describe_disk(config, plan, alone.checkpoint(model)))


def _describe_split(memory: estimate.Memory) -> str:
    visits = f" + parts of its state on the host {format_bytes(memory.visiting)}" if memory.host else ""
    if memory.shards == 1:
        return visits
    return (
        f"{visits}, split over {memory.shards} processes, + {format_bytes(memory.gathered)} gathered in training, or "
        f"all weights, {format_bytes(memory.whole)}, in validation and at the end"
    )


def _describe_time(
    plan: StepPlan, world: World, flops: float, speed: float, measured: estimate.Measured | None, unmeasured: str
) -> str:
    rounds = -(-plan.batch_size // (plan.micro_batch_size * world.size))
    if measured is None:
        step = rounds * flops / speed
        how = f"estimated at {speed / 1e9:,.0f} GFLOP/s, {estimate.SHARE:.0%} of a matrix product here; {unmeasured}"
    else:
        step = rounds * measured.seconds * flops / measured.flops + measured.update
        how = f"measured on the first micro-batch, on {world.device}"
    each = f"{step:,.1f} s" if step >= 1 else f"{1000 * step:,.1f} ms"
    return (
        f"time: about {duration(plan.steps * step)}, {each} a step ({how}), without start, validation and checkpoints"
    )


def _describe_host(state: int, world: World) -> list[str]:
    """Return the line on an optimizer's state that a process keeps in the host's memory, and one that warns of it."""
    room, processes = estimate.device_memory(torch.device("cpu")), local_size(world)
    each = f" for each of {processes} processes" if processes > 1 else ""
    lines = [
        f"offload_optimizer: {format_bytes(state)} of the host's memory{each}, up to twice that, as pinned memory "
        f"comes in powers of two; the host has {format_bytes(room)}"
    ]
    if 2 * processes * state > room:
        lines.append("warning: that may be too much; training.parallel: fsdp splits it over processes.")
    return lines


def _describe_copy(copy: int, beside: int, world: World) -> list[str]:
    """Return the line on the copy of a checkpoint that is written in the background, and one that warns of it.

    copy: bytes of a process; beside: what else it holds there.
    """
    room, processes = estimate.device_memory(torch.device("cpu")), local_size(world)
    each = f" for each of {processes} processes" if processes > 1 else ""
    lines = [
        f"checkpoint_in_background: {format_bytes(copy)} more of the host's memory{each}, for a copy of the state; "
        f"the host has {format_bytes(room)}"
    ]
    if processes * (copy + beside) > room:
        lines.append("warning: that may be too much; training.checkpoint_in_background: false needs no copy.")
    return lines


def _describe_disk(config: RunConfig, plan: StepPlan | None, state: int) -> list[str]:
    """Return the line on checkpoints, of which one takes `state` bytes, and one that refuses those that do not fit."""
    training = config.training
    count_kept = training.keep_last + training.keep_best + 1 + sum(one.keep_best for one in config.evaluators)
    if training.keep_every and plan is not None:
        count_kept += plan.steps // training.keep_every
    needed, free = state * count_kept, _free_bytes(Path(config.output_dir).absolute())
    lines = [
        f"disk: {format_bytes(needed)} for {count_kept} checkpoints of {format_bytes(state)}, {format_bytes(free)} free"
    ]
    if needed > free:
        less = " or raise keep_every" if training.keep_every else ""
        lines.append(f"{REFUSED}the checkpoints do not fit on the disk; lower training.keep_last or keep_best{less}.")
    return lines


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
