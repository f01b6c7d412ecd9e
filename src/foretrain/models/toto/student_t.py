"""Cumulative distribution function of Student's t for any df > 2, on any device, without iteration, and its gradient.

With w = sqrt(df log(1 + z^2 / df)) the density is a normal density times a slowly growing factor,

    F(z) - 1/2 = C(df) * integral from 0 to w(z) of exp(-v^2 / 2) g(v^2 / df) dv,   g(s) = sqrt(s / (1 - exp(-s))),

whose integral a Gauss-Legendre rule with 20 nodes gives to about 1e-11. (Own derivation; w is that of Wallace 1959,
Bounds on normal approximations to Student's and the chi-square distributions.)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_NODES, _WEIGHTS = (part.tolist() for part in np.polynomial.legendre.leggauss(20))
_LARGEST = 80.0  # of w^2: the tail beyond is below float64's precision


def cdf(z: Tensor, df: Tensor) -> Tensor:
    """Return P(t <= z) for float64 z and df, which broadcast; differentiable in both, once."""
    return _Cdf.apply(*torch.broadcast_tensors(z, df))


class _Cdf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, df: Tensor) -> Tensor:
        ctx.save_for_backward(z, df)
        return 0.5 + _constant(df) * _integral(warp(z, df), df)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        z, df = ctx.saved_tensors
        of_z, of_df = ctx.needs_input_grad
        return grad * pdf(z, df) if of_z else None, grad * _slope_in_df(z, df) if of_df else None


def pdf(z: Tensor, df: Tensor) -> Tensor:
    """Return the density at z."""
    return _constant(df) * torch.exp(-0.5 * (df + 1.0) * torch.log1p(z.square() / df))


def warp(z: Tensor, df: Tensor) -> Tensor:
    """Return w(z) with z's sign; it is nearly normal if z is t distributed."""
    return (df * torch.log1p(z.square() / df)).clamp(max=_LARGEST).sqrt().copysign(z)


def unwarp(w: Tensor, df: Tensor) -> Tensor:
    """Return z for given w(z), the inverse of warp."""
    return (df * torch.expm1(w.square() / df)).sqrt().copysign(w)


def approximate_cdf(z: Tensor, df: Tensor) -> Tensor:
    """Return P(t <= z) with an error of about 1e-2, at a tenth of the cost of cdf (Wallace 1959)."""
    return torch.special.ndtr(warp(z, df) * ((8 * df + 1) / (8 * df + 3)))


def _integral(w: Tensor, df: Tensor) -> Tensor:
    """Integral from 0 to w of exp(-v^2 / 2) g(v^2 / df)."""
    square, total = w.square(), torch.zeros_like(w)
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        inner = square * (0.5 * (node + 1.0)) ** 2
        total += torch.exp(-0.5 * inner) * _factor(inner / df) * (0.5 * weight)
    return total * w


def _slope_in_df(z: Tensor, df: Tensor) -> Tensor:
    """Derivative of the cdf in df: of its constant, its upper limit w(z) and its integrand, by the same rule."""
    z = z.clamp(-1e100, 1e100)  # beyond, squares overflow
    w, ratio = warp(z, df), z.square() / df
    # ratio / (1 + ratio), without inf / inf
    growth = torch.log1p(ratio) - 1.0 / (1.0 + 1.0 / ratio.clamp(min=torch.finfo(ratio.dtype).tiny))
    of_limit = torch.where(w == 0, 0.0, growth / (2.0 * torch.where(w == 0, 1.0, w)))
    square, inside, total = w.square(), torch.zeros_like(w), torch.zeros_like(w)
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        inner = square * (0.5 * (node + 1.0)) ** 2
        s = inner / df
        value = torch.exp(-0.5 * inner) * _factor(s) * (0.5 * weight)
        total += value
        # derivative of log g, (1 / s - 1 / (exp(s) - 1)) / 2, by its series where the difference would lose digits
        log_slope = torch.where(s < 1e-3, 0.25 - s / 24, 0.5 / s.clamp(min=1e-3) - 0.5 / torch.expm1(s.clamp(min=1e-3)))
        inside -= value * log_slope * s / df
    of_constant = 0.5 * (torch.digamma(0.5 * df + 0.5) - torch.digamma(0.5 * df)) - 0.5 / df
    at_limit = torch.exp(-0.5 * square) * _factor(square / df)
    return _constant(df) * (of_constant * total * w + at_limit * of_limit + inside * w)


def _factor(s: Tensor) -> Tensor:
    s = s.clamp(min=torch.finfo(s.dtype).tiny)
    return (s / -torch.expm1(-s)).sqrt()


def _constant(df: Tensor) -> Tensor:
    """Gamma((df + 1) / 2) / (Gamma(df / 2) sqrt(pi df)); Stirling's series if the difference would lose digits."""
    half = 0.5 * df
    series = 0.5 * half.log() - (1 - (1 - 0.3 / half.square()) / (24 * half.square())) / (8 * half)
    ratio = torch.where(half > 30, series, torch.lgamma(half + 0.5) - torch.lgamma(half))
    return torch.exp(ratio - 0.5 * torch.log(math.pi * df))
