"""What turns a model into what the loop calls: activation checkpointing, compilation, data parallelism."""

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


def parallelize(model: Trainable, world: World, config: TrainingConfig, shapes: int | None = None) -> nn.Module:
    """What the loop calls: activation checkpointing, then compilation, then data parallelism, in this order.

    The first two change the model's blocks in place and keep every parameter name; the last returns a wrapper.
    shapes: so many shapes of training batches will come, and each is compiled for itself; None = torch decides.
    FSDP2 belongs here too, in place of DDP, once models need it.
    """
    if config.activation_checkpointing:
        for block in model.blocks():
            # On the instance, so that parameter names stay as they are.
            block.forward = functools.partial(recompute, block.forward, use_reentrant=False)
    if config.compile:
        if shapes is not None:
            import torch._dynamo.config as dynamo  # its import is slow

            # beyond the limit torch stops compiling; a block may be called in several ways for each shape
            dynamo.recompile_limit = max(dynamo.recompile_limit, 4 * shapes)
        for block in model.blocks():
            block.compile(
                mode=None if config.compile_mode == "default" else config.compile_mode,
                dynamic=None if shapes is None else False,
            )
    if world.size == 1:
        return model
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # as it was before 2.13
    sync: dict[str, Any] = {name: False}  # every rank built the same ones
    return DistributedDataParallel(
        model,
        device_ids=[world.device.index] if world.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **sync,
    )


def unwrap(model: Trainable) -> None:
    """Undo what parallelize did to the blocks in place, so that the model can be used and trained again."""
    for block in model.blocks():
        vars(block).pop("forward", None)
        block._compiled_call_impl = None


@contextmanager
def gradient_sync(network: nn.Module, last: bool) -> Iterator[None]:
    """All-reduce gradients in this backward only if it is the step's last one."""
    quiet = isinstance(network, DistributedDataParallel) and not last
    with network.no_sync() if quiet else nullcontext():  # pyright: ignore
        yield
