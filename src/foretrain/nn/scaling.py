"""Scales of rows: a floor that is relative to a row's own size, and the powers of two that lift rows above another one.

# (...) any shape that the arguments share; R rows, T steps
"""

from __future__ import annotations

import torch
from torch import Tensor

# Share of a row's root mean square below which its moves are not resolved: float32 rounds a value by 6e-8 of it, so
# that a smaller deviation would be mostly rounding.
RELATIVE = 1e-6
MAX_EXPONENT = 120  # of a factor, which must be finite in float32
# A rescaled row has at least this multiple of the deviation that a floor changes by 1%, and is changed by 1e-8.
LIFT = 1024.0
WIDE_RANGE = (1e-30, 1e36)  # magnitudes of float32 values whose statistics are in float64
ZERO_SCALE = 1e-18  # scale of a row of zeros, which has no unit; its square is in the range of float32


def relative_floor(mean: Tensor, variance: Tensor) -> Tensor:
    """Return the smallest scale (...) of rows with this mean and variance (...): RELATIVE times their root mean square.

    Multiplying a row by c multiplies its floor by |c|.
    """
    return RELATIVE * (mean.square() + variance).sqrt()


def or_zero_scale(scale: Tensor) -> Tensor:
    """Return the scale (...), ZERO_SCALE where it is 0, as that of a row of zeros is."""
    return torch.where(scale > 0, scale, ZERO_SCALE)


def exceeds_relative_floor(loc: Tensor, scale: Tensor) -> Tensor:
    """Return the mask (...) of scales, floored relative to rows with mean loc, that are clearly above the floor."""
    return (scale > 2.0 * RELATIVE * loc.abs()) & (scale > ZERO_SCALE)


def deviations(values: Tensor, observed: Tensor) -> Tensor:
    """Return the standard deviation (R, 1) of the observed values of rows (R, T), in float64 where the device has it.

    It is 0 for a row without values, and for a row whose moves float32 does not resolve.
    """
    dtype = torch.float32 if values.device.type == "mps" else torch.float64
    weight, wide = observed.to(dtype), torch.where(observed, values, 0.0).to(dtype)
    count = weight.sum(1, keepdim=True).clamp(min=1)
    mean = wide.sum(1, keepdim=True) / count
    deviation = (((wide - mean) * weight).square().sum(1, keepdim=True) / count).sqrt()
    size = (mean.square() + deviation.square()).sqrt()
    return torch.where(deviation > RELATIVE * size, deviation, 0.0)


def lifting_factors(values: Tensor, observed: Tensor, least: float) -> Tensor:
    """Return the smallest power of two (R, 1), at least 1, that lifts the deviation of each row (R, T) to `least`.

    It is 1 for constant rows and rows without values. Multiplying float32 by it and dividing again changes no bit.
    """
    deviation = deviations(values, observed)
    exponent = torch.where(deviation > 0, least / deviation, 1.0).log2().ceil().clamp(0, MAX_EXPONENT)
    return torch.ldexp(torch.ones_like(deviation), exponent.int()).to(values.dtype)
