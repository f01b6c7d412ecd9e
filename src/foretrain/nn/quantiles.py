"""Quantile tools: from trained levels to asked levels, and quantiles of weighted samples.

# L trained levels, Q asked levels, K samples
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from foretrain.errors import ConfigError


def check_levels(quantile_levels: Sequence[float]) -> tuple[float, ...]:
    """The levels as floats. Raises ConfigError when there are none, one is outside (0, 1) or given twice."""
    try:
        levels = tuple(float(level) for level in quantile_levels)
    except (TypeError, ValueError):
        raise ConfigError(
            f"quantile_levels: {quantile_levels!r} is not a list of numbers such as [0.1, 0.5]."
        ) from None
    if not levels:
        raise ConfigError("quantile_levels is empty; give at least one level, for example [0.1, 0.5, 0.9].")
    wrong = [level for level in levels if not 0.0 < level < 1.0]
    if wrong:
        raise ConfigError(f"quantile_levels: {wrong[0]} is not between 0 and 1 (0.1 means the 10% quantile).")
    if len(set(levels)) != len(levels):
        raise ConfigError(f"quantile_levels: a level is given twice in {list(levels)}; keep one.")
    return levels


def probability_mass(levels: Sequence[float]) -> np.ndarray:
    """(L,) float32 share of probability each level stands for: half the distance to its neighbours, 0 and 1 being the
    outer ones, normalised to sum 1. Levels ascend. (chronos2/pipeline.py, long-horizon unrolling.)"""
    edges = np.concatenate([[0.0], np.asarray(levels, np.float64), [1.0]])
    mass = (edges[2:] - edges[:-2]) / 2
    return (mass / mass.sum()).astype(np.float32)


def bracket(asked: Sequence[float], levels: Sequence[float]) -> tuple[list[int], list[int], list[float]]:
    """For each asked level the indices below and above among ascending levels, and the weight of the upper one.

    A level outside the trained range takes the outermost trained level. A trained level takes itself with weight 0.
    """
    lower, upper, weight = [], [], []
    known = np.asarray(levels, np.float64)
    for level in asked:
        high = int(np.searchsorted(known, level, side="right"))
        low = max(high - 1, 0)
        high = min(high, len(known) - 1)
        exact = low == high or known[low] == level
        lower.append(low)
        upper.append(low if exact else high)
        weight.append(0.0 if exact else float((level - known[low]) / (known[high] - known[low])))
    return lower, upper, weight


def interpolate_levels(values: Tensor, levels: Sequence[float], asked: Sequence[float], dim: int = -1) -> Tensor:
    """Values known at ascending levels along dim, read at the asked levels: linear between, constant outside."""
    lower, upper, weight = bracket(asked, levels)
    below = values.index_select(dim, constant(lower, values.device))
    if lower == upper:
        return below
    above = values.index_select(dim, constant(upper, values.device))
    shape = [1] * values.dim()
    shape[dim] = len(weight)
    return torch.lerp(below, above, constant(weight, values.device, values.dtype).view(shape))


def constant(values: Sequence[float], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A small tensor on a device, sent without waiting for the work queued there (torch.tensor(device=) waits)."""
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)


def weighted_quantiles(samples: Tensor, weights: Tensor, asked: Sequence[float]) -> Tensor:
    """(..., Q) quantiles of samples (..., K) whose probabilities are weights (K,), positive and summing to 1.

    The cumulative weight of a sorted sample is its level; between samples it is linear, below the first constant.
    That convention puts a sample at the right edge of its mass, so quantiles come out slightly low; it is kept because
    published forecasts are made so. (chronos/utils.py, weighted_quantile.)
    """
    ordered, order = _sort(samples)
    levels = weights[order].cumsum(dim=-1).clamp_(max=1.0)
    query = constant(asked, levels.device, levels.dtype).expand(*levels.shape[:-1], len(asked))
    high = torch.searchsorted(levels, query.contiguous(), right=True).clamp_(max=levels.shape[-1] - 1)
    low = (high - 1).clamp_(min=0)
    level_low, level_high = levels.gather(-1, low), levels.gather(-1, high)
    value_low, value_high = ordered.gather(-1, low), ordered.gather(-1, high)
    span = level_high - level_low
    share = torch.where(span > 0, (query - level_low) / span, torch.zeros_like(span))
    return value_low + share.clamp_(max=1.0) * (value_high - value_low)


def _sort(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending samples along the last dimension and where they were."""
    if samples.device.type != "cpu" or samples.dtype != torch.float32:
        return torch.sort(samples, dim=-1)
    order = torch.from_numpy(np.argsort(samples.detach().numpy(), axis=-1))  # vectorised: 2-3x torch.sort on a CPU
    return samples.gather(-1, order), order
