"""`train --dry-run`: describes the data, steps, memory and disk of a run or its stages, and what would be refused."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foretrain.adapters.layers import describe_adapter, parameter_counts
from foretrain.config import dump_yaml
from foretrain.data.synthetic.generated import AnySource
from foretrain.distributed.world import World
from foretrain.errors import TrainingError
from foretrain.forecasting.ancestry import Ancestry
from foretrain.forecasting.parents import of_parent, recorded
from foretrain.models.base import Trainable
from foretrain.notes import texts
from foretrain.run.ancestry import check_test_part
from foretrain.run.build import build_model, open_source, release_facts, saved_config, settled
from foretrain.run.config import RunConfig
from foretrain.run.opening import with_checkpoints
from foretrain.run.pipeline import (
    StageAction,
    make_stages,
    meta_model,
    open_sources,
    plan_actions,
    skip_reasons,
    stage_facts,
)
from foretrain.run.stages import StagesConfig
from foretrain.run.train import check_run, holds_run
from foretrain.training.loader import describe_stream, plan_of, stream_of
from foretrain.training.optimizer import state_size


def describe_run(config: RunConfig, world: World, resume: str | None = None) -> list[str]:
    """Return the lines of `train --dry-run`: config, parameters, windows, memory and disk, refusals."""
    saved = saved_config(Path(config.output_dir), resume)
    config = with_checkpoints(config, World(device=world.device), saved if resume else None)
    config, source = open_source(config, None, saved)
    config, devices = settled(config, source, World(device=world.device), saved if resume else None)
    model = build_model(config, device="meta")
    check_run(config, source, model)
    lines = [dump_yaml(config).rstrip(), "", *devices, *describe_needs(config, source, model, world)]
    lines += texts(check_test_part(config, source, _facts(config, source, model)))
    output = Path(config.output_dir)
    if resume is None and holds_run(output):
        lines.append(f"refused: {output} already holds a run; resume it with --resume, or choose another output_dir.")
    return lines


def describe_stages(config: StagesConfig, world: World, resume: str | None = None) -> list[str]:
    """Return the lines of `train --dry-run`: the config, each stage's action and needs, refusals."""
    stages = make_stages(config)
    lines = [dump_yaml(config).rstrip()]
    open_sources(stages, {}, World(device=world.device), resume)
    actions: list[StageAction] | None = None
    try:
        actions = plan_actions(stages, Path(config.output_dir), resume)
    except TrainingError as error:
        lines += ["", f"refused: {error}"]
    planned = dict[int, Ancestry]()  # stage -> what its release will have seen, itself included
    for stage in stages:
        lines += ["", f"stage {stage.number + 1} of {len(stages)}, {stage.name}"]
        if stage.skip or stage.source is None or (actions and actions[stage.number].do != "run"):
            lines += skip_reasons(stage, actions[stage.number] if actions else StageAction("skip"), stages)
            continue
        pending = [stages[k].name for k in stage.parents.values() if not stage_facts(stages[k])]
        lines += [f"starts from stage {name}, not released yet: figures of a model of equal size" for name in pending]
        model = meta_model(stage, stages)
        lines += stage.devices
        lines += describe_needs(stage.config, stage.source, model, world)
        coming = {role: planned[k] for role, k in stage.parents.items() if k in planned}
        facts = _facts(stage.config, stage.source, model, coming)
        planned[stage.number] = recorded(facts, Ancestry.read(facts) or Ancestry())
        lines += texts(check_test_part(stage.config, stage.source, facts))
    return lines


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


def describe_needs(config: RunConfig, source: AnySource, model: Trainable | None, world: World) -> list[str]:
    """Return lines on the data, steps, memory and disk of a run; model is None if it cannot be built yet."""
    stream = stream_of(source, config.training)
    plan = plan_of(stream, config.training, world.size)
    epochs = f", {plan.total / stream.epoch_length:.2f} epochs" if stream.epoch_length else ""
    lines = [
        *source.lines(),
        *describe_stream(stream),
        f"steps: {plan.steps:,} of {plan.batch_size:,} {plan.unit}"
        + (f" in micro-batches of {plan.micro_batch_size:,}" if plan.unit == "windows" else "")
        + f" over {world.size} process{'es' if world.size > 1 else ''} = {plan.total:,} {plan.unit}{epochs}",
    ]
    if model is not None:
        from foretrain.run.promotion import check_test_split

        about = _describe_model(config, model, source.rows_per_window)
        return [*about, *lines, _describe_device(world), *texts(check_test_split(config, model, source))]
    return [
        "model: its parameters, memory and disk depend on a stage that has not run yet",
        *lines,
        _describe_device(world),
    ]


def _describe_device(world: World) -> str:
    import torch

    return f"device: {world.device}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def _describe_model(config: RunConfig, model: Trainable, variates: int) -> list[str]:
    trained, count = parameter_counts(model)
    moments = state_size(model, config.optimizer) + (trained if config.training.ema_decay else 0)
    frozen = count - trained
    # a checkpoint holds no gradients and, with an adapter, no frozen weights
    state = 4 * (trained + moments + (frozen if model.adapter is None else 0))
    count_kept = config.training.keep_last + config.training.keep_best + 1
    needed, free = state * count_kept, _free_bytes(Path(config.output_dir).absolute())
    memory = 4 * (count + trained + moments)
    flops = model.flops_per_window(config.data.context_length, config.data.prediction_length, variates)
    lines = [
        f"model: {count:,} parameters, {flops / 1e9:,.3f} GFLOP forward a window",
        *filter(None, [describe_adapter(model)]),
        f"memory: {_format_bytes(memory)} for weights, gradients and optimizer, activations on top",
        f"disk: {_format_bytes(needed)} for {count_kept} checkpoints of {_format_bytes(state)}, "
        f"{_format_bytes(free)} free",
    ]
    if needed > free:
        lines.append("refused: the checkpoints do not fit on the disk; lower training.keep_last or keep_best.")
    return lines


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _format_bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"
