"""Lines on a run that is about to start: what is trained, from where, on what, for how long."""

from __future__ import annotations

from foretrain.adapters.layers import parameter_counts
from foretrain.data.staging import Staging
from foretrain.data.synthetic.generated import AnySource
from foretrain.distributed.world import World
from foretrain.models.base import Trainable
from foretrain.run.config import RunConfig
from foretrain.run.estimate import memory_of
from foretrain.training.parallel import parallelism

NAMED = 3  # corpora that a line names


def start_lines(config: RunConfig, source: AnySource, model: Trainable, world: World) -> list[str]:
    """Return the summary at the head of a run's log; what the trainer decides (batches) follows it there."""
    training = config.training
    length = f"{training.max_steps:,} steps" if training.max_steps else f"{training.epochs:g} epochs"
    compiled = ", compiled (its first steps take minutes)" if training.compile else ""
    return [
        describe_model(config, model),
        describe_data(config, source),
        *_read_copies(config, source),
        *source.reading(),
        f"run: {length} in {training.dtype} on {describe_device(world)}{compiled}; output in {config.output_dir}",
        *describe_split(config, model, world),
    ]


def describe_split(config: RunConfig, model: Trainable, world: World) -> list[str]:
    """Return the line on what each of several processes holds of the model; none for one process."""
    how, training = parallelism(config.training, model, world), config.training
    if how == "none":
        return []
    accumulates = training.batch_size > (training.given_micro_batch or training.batch_size) * world.size
    memory = memory_of(config, model, world, accumulates)
    parts = "weights and gradients" if memory.host else "weights, gradients and optimizer state"
    kept = format_bytes(memory.total - memory.gathered)
    if memory.shards == 1:
        held = f"each holds all {parts}, {kept}"
    else:
        copies = f"{world.size // memory.shards:,} copies; " if how == "hsdp" else ""
        held = (
            f"{copies}each holds 1/{memory.shards:,} of {parts}, {kept}, gathers {format_bytes(memory.gathered)} in "
            f"training and all weights, {format_bytes(memory.whole)}, in validation and at the end"
        )
    if memory.host:
        held += f"; optimizer state, {format_bytes(memory.host)} of each, in the host's memory"
    return [f"processes: {world.size:,}, {how} (training.parallel: {training.parallel}): {held}"]


def format_bytes(count: float) -> str:
    """Format a number of bytes: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def describe_model(config: RunConfig, model: Trainable) -> str:
    """Return the line on the family and its parameters."""
    return f"model: {config.model.family} with {parameter_counts(model)[1]:,} parameters"


def describe_start(config: RunConfig) -> str:
    """Return where the weights come from, as the config says it."""
    model_id = getattr(config.model, "model_id", None)
    return model_id or f"random weights (seed {config.seed})"


def describe_data(config: RunConfig, source: AnySource) -> str:
    """Return the line on series, windows, corpora and lengths."""
    names = [corpus.name for corpus in source.corpora]
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    of = f", from {', '.join(names[:NAMED])}{more}" if names else ""
    return f"{source.lines()[0]}{of}; {describe_lengths(config)}"


def describe_copies(config: RunConfig) -> list[str]:
    """Return the line on what a run will copy to a local disk; none without data.stage_to.

    Raises DataError as Staging does, also where the disk is too full.
    """
    data = config.data
    if data.stage_to is None:
        return []
    staging = Staging(data.folders, data.stage_to)
    staging.check_space()
    if staging.missing_bytes:
        sizes = f"{format_bytes(staging.missing_bytes)} are to be copied, {format_bytes(staging.free_bytes)} are free"
        return [f"copies: of corpora, in {staging.target} (data.stage_to): {sizes}"]
    return [f"copies: of all corpora, in {staging.target} already (data.stage_to)"]


def _read_copies(config: RunConfig, source: AnySource) -> list[str]:
    """Return the line on the corpora whose copies a run reads; none if it reads no copy."""
    names = [corpus.name for corpus in source.corpora if corpus.shards != corpus.path]
    return [f"copies: of {', '.join(names)} are read in {config.data.stage_to} (data.stage_to)"] if names else []


def describe_lengths(config: RunConfig) -> str:
    """Return the lengths of a window."""
    return f"context {config.data.context_length:,}, horizon {config.data.prediction_length:,}"


def describe_device(world: World) -> str:
    """Return the device of this process and, on a CPU, its threads."""
    import torch

    threads = f" ({torch.get_num_threads()} threads)" if world.device.type == "cpu" else ""
    each = f", {world.size} processes" if world.size > 1 else ""
    return f"{world.device}{threads}{each}"
