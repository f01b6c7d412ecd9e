"""Activation checkpointing, compilation and data parallelism of a model."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint as recompute

from foretrain.distributed.world import World
from foretrain.models.base import Trainable
from foretrain.training.settings import TrainingConfig


def parallelize(model: Trainable, world: World, config: TrainingConfig, num_shapes: int | None = None) -> nn.Module:
    """Apply activation checkpointing, compilation and data parallelism, in this order; return the module to train.

    The first two change the model's blocks in place and keep every parameter name; the last returns a wrapper.
    num_shapes: number of different shapes of training batches, each compiled separately; None = torch decides.
    """
    if config.activation_checkpointing:
        for block in model.blocks():
            # on the instance, so that parameter names do not change
            block.forward = functools.partial(recompute, block.forward, use_reentrant=False)
    if config.compile:
        if num_shapes is not None:
            import torch._dynamo.config as dynamo  # its import is slow

            # beyond the limit torch stops compiling; a block may be compiled more than once per shape
            dynamo.recompile_limit = max(dynamo.recompile_limit, 4 * num_shapes)
        for block in model.blocks():
            block.compile(
                mode=None if config.compile_mode == "default" else config.compile_mode,
                dynamic=None if num_shapes is None else False,
            )
    if world.size == 1:
        return model
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its name before 2.13
    sync: dict[str, Any] = {name: False}  # buffers are equal on every rank by construction
    return DistributedDataParallel(
        model,
        device_ids=[world.device.index] if world.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **sync,
    )


def unwrap(model: Trainable) -> None:
    """Undo the in-place changes of parallelize to the blocks, so that the model can be used and trained again."""
    for block in model.blocks():
        vars(block).pop("forward", None)
        block._compiled_call_impl = None


@contextmanager
def gradient_sync(network: nn.Module, last: bool) -> Iterator[None]:
    """All-reduce gradients in this backward pass only if it is the step's last one."""
    skip = isinstance(network, DistributedDataParallel) and not last
    with network.no_sync() if skip else nullcontext():  # pyright: ignore
        yield
