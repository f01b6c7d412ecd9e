"""Draws from mixtures of Student-Ts that depend on seed, row, sample and step alone.

# R rows, N samples, T steps, K components
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foretrain.data.permutation import derive, hash64, uniform
from foretrain.models.toto import student_t
from foretrain.models.toto.distribution import StudentTs


def row_keys(window_keys: npt.NDArray[np.uint64], window: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """(R,) a key for each row: of its window's key and its place among the window's rows, which are adjacent."""
    first = np.searchsorted(window, window)
    return hash64(window_keys[window], np.arange(len(window)) - first).view(np.int64)


def numbers(seed: int, keys: Tensor, samples: Sequence[int], steps: range) -> Tensor:
    """(R, N, T, 2) float64 in [0, 1) on the CPU, for the component and the value of each step.

    keys (R,) int64. A number depends on seed, key, the sample's own number and step, and on nothing else: not on the
    batch, its order or how many samples and steps there are.
    """
    rows = hash64(derive(seed), keys.cpu().numpy().view(np.uint64))
    path = hash64(rows[:, None], np.asarray(samples, np.int64))
    drawn = uniform(path[..., None], np.arange(2 * steps.start, 2 * steps.stop))
    return torch.from_numpy(drawn).view(*path.shape, len(steps), 2)


def draw(mixtures: StudentTs, uniforms: Tensor) -> Tensor:
    """Values (..., T) drawn from mixtures (..., T, K) by uniform numbers (..., T, 2), which broadcast.

    One number picks the component, the other is its quantile. In float64 on the way, in the mixtures' type at the end.
    """
    dtype = torch.float32 if mixtures.df.device.type == "mps" else torch.float64  # which that device lacks
    pick, level = uniforms.to(device=mixtures.df.device, dtype=dtype).unbind(-1)
    reached = mixtures.weights.to(dtype).cumsum(-1)
    at = torch.searchsorted(
        reached.expand(*pick.shape, -1).contiguous(), (pick * reached[..., -1]).unsqueeze(-1), right=True
    ).clamp(max=reached.shape[-1] - 1)
    df, loc, scale = (
        x.expand(*pick.shape, -1).gather(-1, at).squeeze(-1) for x in (mixtures.df, mixtures.loc, mixtures.scale)
    )
    t = student_t.quantile(level.clamp(2.0**-54), df.to(dtype))
    return (t.to(loc.dtype) * scale + loc).to(mixtures.loc.dtype)
