"""Memory of a micro-batch's passes, counted on "meta": the shapes of all tensors are known, and nothing is computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from foretrain.data.windows import Window, stack_windows
from foretrain.errors import ForetrainError
from foretrain.models.base import Batch, Trainable, move
from foretrain.nn.counted import as_on_cpu
from foretrain.training.memory import PeakOfTensors
from foretrain.training.parallel import checkpoint_activations, unwrap
from foretrain.training.precision import autocast
from foretrain.training.settings import TrainingConfig

_FLASH = 1  # torch's number of the attention that keeps no scores
_HOUR = 3_600_000_000  # microseconds between the steps of blank windows


class TooLong(ForetrainError):
    """A pass takes longer than it may."""


class Size(NamedTuple):
    """Micro-batches of one shape."""

    weight: float  # how often they occur beside the others
    windows: int
    context_length: int
    horizon: int
    rows: int  # of a window

    @property
    def values(self) -> int:
        """Numbers of a micro-batch's windows."""
        return self.windows * self.rows * (self.context_length + self.horizon)


class Passes(NamedTuple):
    """Bytes of a micro-batch's forward and backward pass, weights left out."""

    kept: int  # by the forward pass for the backward pass
    peak: int  # the most at once, gradients of the weights included


def count_passes(
    model: Trainable, size: Size, names: tuple[str, ...], config: TrainingConfig, device: torch.device, until: float
) -> Passes | None:
    """Return what the passes of a model on "meta" take, in float32; None for a model that needs values.

    names: of the columns, for families that read prices. device: whose ways they take: on a CPU ours and torch's fused
    attention, elsewhere and where activations are computed again plain ones, which take the most. until:
    time.thread_time() at which TooLong is raised.
    """
    # torch's functions are not seen in a backward pass that computes activations again
    fused = device.type == "cpu" and config.activation_checkpointing == "off"
    try:
        batch = blank_batch(model.train(), size, names)
        with torch.random.fork_rng([]), as_on_cpu() if device.type == "cpu" else nullcontext(), _CpuAttention(fused):
            return passes(model, move(batch, torch.device("meta")), config, "float32", until, until)
    except TooLong:
        raise
    except (RuntimeError, TypeError, ForetrainError):
        return None


def blank_batch(model: Trainable, size: Size, names: tuple[str, ...]) -> Batch:
    """Return a batch of a size on the CPU, whose values are all 1; names as of count_passes."""
    context, future = (np.ones((size.rows, n), np.float32) for n in (size.context_length, size.horizon))
    clock = _HOUR * np.arange(size.context_length + size.horizon)
    times: dict[str, Any] = {
        "context_times": clock[: size.context_length],
        "future_times": clock[size.context_length :],
    }
    window = Window(context, size.rows, future=future, names=names, **(times if names else {}))
    return model.collate(stack_windows([window] * size.windows, size.horizon))


def passes(model: Trainable, batch: Batch, config: TrainingConfig, dtype: str, until: float, at_last: float) -> Passes:
    """Run a forward and a backward pass, of which nothing stays, and return what they take.

    until: time.thread_time() by which the first must have ended, and at_last the second. Raises TooLong.
    """
    device, tensors = next(iter(batch.values())).device, _TimedPeak(until)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # held, so that no other one gets its address
        return tensor

    checkpoint_activations(model, config)
    try:
        with tensors:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(device, dtype):
                total = model(batch).total
            held = sum(storage.nbytes() for address, storage in kept.items() if address not in weights)
            tensors.until = at_last
            kept.clear()  # or nothing of it were freed in the backward pass
            torch.autograd.grad(total, parameters, allow_unused=True)  # unlike backward(), sets no .grad
    finally:
        unwrap(model)
    return Passes(held, tensors.peak + sum(tensor.nbytes for tensor in batch.values()))


class _TimedPeak(PeakOfTensors):
    """Counts tensors until a time of this thread, which other processes do not shorten, and then raises TooLong."""

    def __init__(self, until: float) -> None:
        super().__init__()
        self.until = until

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        if time.thread_time() > self.until:
            raise TooLong("a micro-batch takes too long to be tried here")
        return super().__torch_dispatch__(func, types, args, kwargs)


class _CpuAttention(TorchFunctionMode):
    """Lets attention on "meta" be the one that torch chooses on a CPU for these shapes, or does nothing."""

    def __init__(self, replaces: bool) -> None:
        super().__init__()
        self.replaces = replaces

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, or the attention of a CPU in its place."""
        kwargs = kwargs or {}
        attends = func is F.scaled_dot_product_attention and len(args) == 3
        if not (self.replaces and attends and args[0].is_meta and _chosen(args, kwargs) == _FLASH):
            return func(*args, **kwargs)
        settings = (kwargs.get("dropout_p", 0.0), kwargs.get("is_causal", False))
        mask, scale = kwargs.get("attn_mask"), kwargs.get("scale")
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return flash(*args, *settings, attn_mask=mask, scale=scale)[0]


def _chosen(args: tuple[Tensor, ...], kwargs: Mapping[str, Any]) -> int:
    """Return torch's number of the attention that it chooses for tensors of these shapes on a CPU."""
    like: list[Any] = [_small(x) for x in args]
    others = {name: _small(x) if isinstance(x, Tensor) else x for name, x in kwargs.items()}
    return torch._fused_sdp_choice(*like, **others)  # pyright: ignore[reportPrivateImportUsage]


def _small(x: Tensor) -> Tensor:
    """Return a tensor of a shape on the CPU that takes little memory: all rows share theirs.

    Its last axis is contiguous if that of x is, since torch's choice depends on it.
    """
    *rows, length, width = x.shape
    apart = 1 if x.stride(-1) == 1 else 2
    storage = torch.empty(apart * length * width, dtype=x.dtype, device="cpu")
    return storage.as_strided(x.shape, (*[0] * len(rows), apart * width, apart))
