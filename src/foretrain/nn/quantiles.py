"""Quantile functions: interpolation from trained to requested levels, and quantiles of weighted samples.

# L trained levels, Q requested levels, K samples
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from foretrain.errors import ConfigError
from foretrain.notes import Code, Note, warn


def check_levels(quantile_levels: Sequence[float]) -> tuple[float, ...]:
    """Return the levels as floats. Raises ConfigError if there are none, or one is outside (0, 1) or given twice."""
    try:
        levels = tuple(float(level) for level in quantile_levels)
    except (TypeError, ValueError):
        raise ConfigError(
            f"quantile_levels: {quantile_levels!r} is not a list of numbers such as [0.1, 0.5]."
        ) from None
    if not levels:
        raise ConfigError("quantile_levels is empty; give at least one level, for example [0.1, 0.5, 0.9].")
    invalid = [level for level in levels if not 0.0 < level < 1.0]
    if invalid:
        raise ConfigError(f"quantile_levels: {invalid[0]} is not between 0 and 1 (0.1 means the 10% quantile).")
    if len(set(levels)) != len(levels):
        raise ConfigError(f"quantile_levels: a level is given twice in {list(levels)}; keep one.")
    return levels


def probability_mass(levels: Sequence[float]) -> np.ndarray:
    """Return the (L,) float32 probability mass of each of the ascending levels, with sum 1.

    The mass of a level is proportional to the distance between its neighbours, with 0 and 1 as the outermost ones.
    (chronos2/pipeline.py, long-horizon unrolling.)
    """
    edges = np.concatenate([[0.0], np.asarray(levels, np.float64), [1.0]])
    mass = (edges[2:] - edges[:-2]) / 2
    return (mass / mass.sum()).astype(np.float32)


def bracket(requested: Sequence[float], levels: Sequence[float]) -> tuple[list[int], list[int], list[float]]:
    """Return for each requested level the indices of the levels below and above, and the weight of the upper one.

    Levels ascend. A level outside their range uses the outermost one; a level among them uses itself with weight 0.
    """
    lower, upper, weight = [], [], []
    known = np.asarray(levels, np.float64)
    for level in requested:
        high = int(np.searchsorted(known, level, side="right"))
        low = max(high - 1, 0)
        high = min(high, len(known) - 1)
        exact = low == high or known[low] == level
        lower.append(low)
        upper.append(low if exact else high)
        weight.append(0.0 if exact else float((level - known[low]) / (known[high] - known[low])))
    return lower, upper, weight


def interpolate_levels(values: Tensor, levels: Sequence[float], requested: Sequence[float], dim: int = -1) -> Tensor:
    """Interpolate values at ascending levels along dim to the requested levels: linear inside, constant outside."""
    lower, upper, weight = bracket(requested, levels)
    below = values.index_select(dim, constant(lower, values.device))
    if lower == upper:
        return below
    above = values.index_select(dim, constant(upper, values.device))
    shape = [1] * values.dim()
    shape[dim] = len(weight)
    return torch.lerp(below, above, constant(weight, values.device, values.dtype).view(shape))


def warn_outside_trained(logger: logging.Logger, requested: Sequence[float], levels: Sequence[float]) -> None:
    """Log a note if a requested level is outside the trained `levels` (ascending)."""
    outside = [level for level in requested if not levels[0] <= level <= levels[-1]]
    if outside:
        text = (
            f"quantile level {outside[0]} is outside the trained ones ({levels[0]} to {levels[-1]}); the outermost "
            "trained level is used instead."
        )
        warn(logger, Note(Code.LEVEL_OUTSIDE_TRAINED, text, {"level": outside[0]}))


def constant(values: Sequence[float], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return a small tensor on a device, copied without synchronisation (torch.tensor(device=) synchronises)."""
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)


def weighted_quantiles(samples: Tensor, weights: Tensor, requested: Sequence[float]) -> Tensor:
    """Return (..., Q) quantiles of samples (..., K) with probabilities weights (K,), positive and summing to 1.

    The level of a sorted sample is its cumulative weight; values are linear between samples and constant below the
    first. This convention puts a sample at the right edge of its mass, so quantiles are slightly low; it is the one of
    published forecasts. (chronos/utils.py, weighted_quantile.)
    """
    ordered, order = _sort(samples)
    levels = weights[order].cumsum(dim=-1).clamp_(max=1.0)
    query = constant(requested, levels.device, levels.dtype).expand(*levels.shape[:-1], len(requested))
    high = torch.searchsorted(levels, query.contiguous(), right=True).clamp_(max=levels.shape[-1] - 1)
    low = (high - 1).clamp_(min=0)
    level_low, level_high = levels.gather(-1, low), levels.gather(-1, high)
    value_low, value_high = ordered.gather(-1, low), ordered.gather(-1, high)
    span = level_high - level_low
    fraction = torch.where(span > 0, (query - level_low) / span, torch.zeros_like(span))
    return value_low + fraction.clamp_(max=1.0) * (value_high - value_low)


def _sort(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Sort samples along the last dimension; return values and indices."""
    if samples.device.type != "cpu" or samples.dtype != torch.float32:
        return torch.sort(samples, dim=-1)
    order = torch.from_numpy(np.argsort(samples.detach().numpy(), axis=-1))  # vectorised: 2-3x torch.sort on a CPU
    return samples.gather(-1, order), order
