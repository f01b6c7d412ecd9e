"""Activation checkpointing, compilation and data parallelism of a model."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint as recompute

from foretrain.distributed.world import World
from foretrain.errors import ConfigError, TrainingError
from foretrain.models.base import Trainable
from foretrain.training.settings import TrainingConfig

if TYPE_CHECKING:
    from foretrain.training.sharding import Sharded

LARGE = 1_000_000_000  # parameters from which `auto` splits a model over the processes


@dataclass(frozen=True)
class Parallel:
    """A model that is ready for training: the module to call, and what its parameters are split by, if they are."""

    network: nn.Module
    sharded: Sharded | None = None

    def unsharded(self) -> AbstractContextManager[None]:
        """Give the model whole weights inside the block; they must not be changed there. A collective if sharded."""
        return self.sharded.unsharded() if self.sharded else nullcontext()

    def gather(self) -> None:
        """Give the model whole weights for good, on every process. A collective if sharded."""
        if self.sharded:
            self.sharded.gather()


def parallelism(config: TrainingConfig, model: nn.Module, world: World) -> Literal["none", "ddp", "fsdp", "hsdp"]:
    """Return how the processes of a run share its model; "none" for one process."""
    if world.size == 1:
        return "none"
    if config.parallel == "auto":
        return "ddp" if sum(p.numel() for p in model.parameters()) < LARGE else "fsdp"
    return config.parallel


def shards(config: TrainingConfig, model: nn.Module, world: World) -> int:
    """Return how many processes hold one copy of a model between them; 1 if each of them holds it whole.

    Raises ConfigError for a number that does not divide the processes, TrainingError for a model that an error left
    split.
    """
    if any(hasattr(parameter, "to_local") for parameter in model.parameters()):
        raise TrainingError(
            "this model is still split over the processes of a run that an error ended. Build a new one, then resume."
        )
    how = parallelism(config, model, world)
    if how in ("none", "ddp"):
        return 1
    size = world.size if how == "fsdp" else config.shard_size or local_size(world)
    if world.size % size:
        what = f"training.shard_size: {size}" if config.shard_size else f"training.parallel: hsdp: {size} (of a node)"
        raise ConfigError(
            f"{what} does not divide the {world.size} processes of this run. Set training.shard_size to a divisor, "
            "such as the number of GPUs of a node."
        )
    return size


def local_size(world: World) -> int:
    """Return the number of this run's processes on a node, as its launcher says; all of them if it does not."""
    return world.local_size or world.size


def parallelize(model: Trainable, world: World, config: TrainingConfig, num_shapes: int | None = None) -> Parallel:
    """Apply activation checkpointing, compilation and data parallelism, in this order.

    The first two change the model's blocks in place and keep every parameter name. Sharding replaces the parameters, so
    that optimizer and average must be made afterwards.
    num_shapes: number of different shapes of training batches, each compiled separately; None = torch decides.
    """
    how = parallelism(config, model, world)
    sharded = how in ("fsdp", "hsdp")
    checkpoint_activations(model, config)
    if config.compile:
        if num_shapes is not None:
            import torch._dynamo.config as dynamo  # its import is slow

            # beyond the limit torch stops compiling; a block may be compiled more than once per shape
            dynamo.recompile_limit = max(dynamo.recompile_limit, 4 * num_shapes)
        settings: dict[str, Any] = {
            "mode": None if config.compile_mode == "default" else config.compile_mode,
            "dynamic": None if num_shapes is None else False,
        }
        for block in model.blocks():
            if sharded:  # without the hooks that gather weights: validation has none
                block.forward = torch.compile(block.forward, **settings)
            else:
                block.compile(**settings)
    if how == "none":
        return Parallel(model)
    if sharded:
        from foretrain.training.sharding import Sharded  # its import takes a second

        return Parallel(model, Sharded(model, world, shards(config, model, world), config.reshard_after_forward))
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its name before 2.13
    sync: dict[str, Any] = {name: False}  # buffers are equal on every rank by construction
    network = DistributedDataParallel(
        model,
        device_ids=[world.device.index] if world.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **sync,
    )
    _order_buckets(network, model)
    return Parallel(network)


def _order_buckets(network: DistributedDataParallel, model: Trainable) -> None:
    """Let DDP order its buckets of gradients by the parameters, by a backward pass of their sum. A collective.

    Otherwise it orders them after the first step. The place of a gradient in a bucket decides in which order more than
    two processes sum it, so that the first step after a resume would round otherwise than the same step of a run that
    was not interrupted.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    vars(model)["forward"] = lambda: torch.stack([parameter.sum() for parameter in trained]).sum()
    try:
        network().backward()
    finally:
        del vars(model)["forward"]
        model.zero_grad()


def checkpoint_activations(model: Trainable, config: TrainingConfig) -> None:
    """Let the blocks compute activations again in the backward pass, if the config says so."""
    if config.activation_checkpointing == "off":
        return
    settings: dict[str, Any] = {"use_reentrant": False}
    if config.activation_checkpointing == "selective":
        from torch.utils.checkpoint import create_selective_checkpoint_contexts as contexts

        settings["context_fn"] = functools.partial(contexts, _kept_operations())
    for block in model.blocks():
        # on the instance, so that parameter names do not change
        block.forward = functools.partial(recompute, block.forward, **settings)


def _kept_operations() -> list[Any]:
    """Return the operations whose results selective checkpointing keeps: matrix products and attention."""
    aten = torch.ops.aten
    names = (
        "mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_attention_math",
    )  # fmt: skip
    return [getattr(aten, name).default for name in names if hasattr(aten, name)]


def unwrap(model: Trainable) -> None:
    """Undo the in-place changes of parallelize to the blocks, so that the model can be used and trained again."""
    for block in model.blocks():
        for name in ("forward", "_compiled_call_impl"):
            vars(block).pop(name, None)


@contextmanager
def gradient_sync(network: nn.Module, last: bool) -> Iterator[None]:
    """Exchange gradients in this backward pass only if it is the step's last one."""
    defer: Any = getattr(network, "set_requires_gradient_sync", None)  # of a sharded model
    if defer is not None:
        defer(last)
    skip = isinstance(network, DistributedDataParallel) and not last
    with network.no_sync() if skip else nullcontext():  # pyright: ignore
        yield
