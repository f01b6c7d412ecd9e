"""Memory of a training against its context: the figures by which `train --dry-run` says what a longer context costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from foretrain.errors import ForetrainError
from foretrain.models.base import Forecaster, Trainable
from foretrain.run import estimate
from foretrain.run.build import build_model
from foretrain.run.config import RunConfig
from foretrain.run.counting import Passes, Size
from foretrain.run.summary import format_bytes

TIMES = (0.5, 1, 2, 4)  # the run's context
# Bytes that a process takes on a CPU beside its tensors, whatever the model: code of torch that the first steps read
# from disk, buffers of its products, records of the run. benchmarks/memory.py compares the sum with what runs take.
PROCESS = 30 * 2**20
# By which the heap of a CPU run of several steps exceeds what one tried step took: 0.99 to 1.39 in six models at up to
# five contexts (docs/results/memory.md); fitted, as glibc says nothing of what it will reuse.
GAPS = 1.17


class AtContext(NamedTuple):
    """All bytes that a process takes in training with a context, beyond its imports."""

    context_length: int
    bytes: int


def memory_by_context(
    config: RunConfig,
    model: Trainable,
    size: Size,
    held: int,
    shared: int,
    own: Passes | None,
    heap: float,
    device: torch.device,
) -> list[AtContext]:
    """Return the memory at half the run's context, at its context, and at two and four times as many steps.

    Contexts that the model does not read, or that cannot be counted in COUNTING seconds, are left out.

    Args:
        model: the run's, with values or without.
        size: of the run's micro-batches.
        held: bytes of weights, gradients and optimizer.
        shared: bytes of gradients in `held` that the passes count too; 0 if they are of earlier micro-batches.
        own: what the passes of the run's micro-batches take; None = it is not known.
        heap: as of Measured.
    """
    until, found = time.thread_time() + estimate.COUNTING, list[AtContext]()
    parameters = _count(model)
    for times in TIMES:
        one = size._replace(context_length=max(int(times * size.context_length), 1))
        passes, share = own, 1.0
        if times != 1:
            there = _model_at(config, one) if time.thread_time() < until else None
            if there is None:
                continue
            passes = estimate.most_passes(_config_at(config, one), there, [one], device, until)
            # a linear model has weights for each step of its context
            share = _count(there) / parameters if parameters else 1.0
        if passes is not None:
            tensors = share * held + max(passes.peak - share * shared, 0)
            factor, beside = (heap * GAPS, PROCESS) if device.type == "cpu" else (1.0, 0)
            found.append(AtContext(one.context_length, round(factor * tensors) + beside))
    return found


def _count(model: Trainable) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _model_at(config: RunConfig, size: Size) -> Trainable | None:
    """Return the model with another context, without values; None if it does not read it."""
    try:
        model = build_model(_config_at(config, size), device="meta")
    except ForetrainError:
        return None
    too_long = isinstance(model, Forecaster) and model.max_context_length < size.context_length
    return None if too_long else model


def _config_at(config: RunConfig, size: Size) -> RunConfig:
    data = config.data.model_copy(update={"context_length": size.context_length})
    return config.model_copy(update={"data": data})


def describe_memory_by_context(found: Sequence[AtContext], size: Size) -> list[str]:
    """Return the line of a dry run; none if nothing was found."""
    if not found:
        return []
    windows = f"{size.windows:,} window{'s' * (size.windows > 1)}"
    figures = ", ".join(f"{one.context_length:,} steps {format_bytes(one.bytes)}" for one in found)
    return [f"memory by context, of {windows} at once, beyond that of the imports: {figures}"]
