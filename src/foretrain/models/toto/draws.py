"""Draws from mixtures of Student-T distributions that depend only on seed, row, sample and step.

# R rows, S samples, n steps, K components
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from foretrain.data.permutation import derive, hash64, uniform
from foretrain.data.windows import IntArray

PER_STEP = 3  # uniform numbers per draw: one for the component, two for the Student-T


def row_keys(window: IntArray, key: np.ndarray) -> Tensor:
    """Return an int64 key for each row (R,), from its window's key (W,) and its position within the window.

    window: (R,) window index of each row, ascending from 0.
    """
    first = np.searchsorted(window, window)
    return torch.from_numpy(hash64(key.astype(np.uint64)[window], np.arange(len(window)) - first).view(np.int64))


def uniform_draws(seed: int, keys: Tensor, samples: Sequence[int], first: int, steps: int) -> Tensor:
    """Return uniform numbers (S, R, n, 3) in [0, 1), float32 on the CPU, for steps first .. first + n - 1.

    A number depends only on the seed, its row's key (R,), the sample index and the step. keys must be on the CPU.
    """
    rows = hash64(derive(seed), keys.numpy().view(np.uint64))
    paths = hash64(rows, np.asarray(samples, np.int64)[:, None])  # (S, R)
    counters = np.arange(PER_STEP * first, PER_STEP * (first + steps))
    numbers = uniform(paths[..., None], counters).astype(np.float32)
    return torch.from_numpy(numbers).unflatten(-1, (steps, PER_STEP))


def student_t(df: Tensor, numbers: Tensor) -> Tensor:
    """Return standard Student-T draws (...) from pairs of uniform numbers (..., 2).

    sqrt(df (u^(-2/df) - 1)) cos(2 pi v): the polar method of R. W. Bailey, Polar generation of random variates with
    the t-distribution, Mathematics of Computation 62 (1994).
    """
    radius = -numbers[..., 0].clamp(min=2.0**-53).log() * (2.0 / df)
    return (df * torch.expm1(radius)).sqrt() * torch.cos(2.0 * torch.pi * numbers[..., 1])


def choose_component(log_weights: Tensor, number: Tensor) -> Tensor:
    """Draw components (...) of mixtures (..., K): the inverse CDF of their weights at uniform numbers (...)."""
    cdf = log_weights.exp().cumsum(-1)
    level = number[..., None] * cdf[..., -1:]
    return (cdf <= level).sum(-1).clamp(max=log_weights.shape[-1] - 1)
