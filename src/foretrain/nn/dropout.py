"""Dropout masks on a CPU, several times cheaper than Bernoulli draws and reproducible from a seed.

A mask is a pure function of (seed, place), so a hand-written backward draws it again instead of saving it. The seed
comes from torch's generator: torch.manual_seed determines it, and activation checkpointing recomputes the same mask.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from foretrain.nn.counted import counted, on_cpu

_LEVELS = 1 << 16  # draws have 16 bits, so a rate is rounded by at most 2^-17; outputs are scaled by the rounded rate


def draw_seed() -> int:
    """Draw a seed from torch's CPU generator."""
    return int(torch.empty((), dtype=torch.int64).random_())


def keep_scale(rate: float) -> float:
    """Return 1 / (1 - rate), with the rate as rounded by keep_mask."""
    return _LEVELS / (_LEVELS - round(rate * _LEVELS))


def keep_mask(
    shape: tuple[int, ...], rate: float, seed: int, *place: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return a mask that is 1 with probability 1 / keep_scale(rate), else 0; it depends only on its arguments."""
    if counted():
        return torch.empty(shape, dtype=dtype, device="meta")
    count = int(np.prod(shape))
    generator = np.random.Generator(np.random.SFC64([seed, *place]))
    low = np.iinfo(np.int64)
    bits = generator.integers(low.min, low.max, -(-count // 4), dtype=np.int64, endpoint=True).view(np.int16)[:count]
    threshold = round(rate * _LEVELS) - _LEVELS // 2  # draws are signed
    mask = torch.empty(shape, dtype=dtype)
    return torch.ge(torch.from_numpy(bits).view(shape), threshold, out=mask)


def drop(x: Tensor, rate: float, training: bool) -> Tensor:
    """Apply dropout; on a CPU in eager mode with a mask that is drawn again in the backward pass."""
    if not training or not rate:
        return x
    if not on_cpu(x) or torch.compiler.is_compiling():
        return F.dropout(x, rate)
    return _Drop.apply(x, rate, draw_seed())


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, rate: float, seed: int) -> Tensor:
        ctx.facts = rate, seed
        return _masked(x, rate, seed)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return _masked(grad, *ctx.facts), None, None


def _masked(x: Tensor, rate: float, seed: int) -> Tensor:
    mask = keep_mask(tuple(x.shape), rate, seed).mul_(keep_scale(rate))
    wide = torch.promote_types(x.dtype, torch.float32)  # bfloat16 would round keep_scale by up to 0.4%
    return mask.to(wide).mul_(x).to(x.dtype)
