"""Rotary positions with xPos decay (Sun et al. 2022, arXiv 2212.10554), in the layout of Toto 1.0.

Angles belong to adjacent pairs of a head's dimensions, while the decay of dimension j is that of j modulo d/2, so the
two dimensions of a rotated pair decay differently. That is a slip of the library upstream uses; the published weights
were trained with it. So a score depends a little on where query and key stand, and not on their distance alone: rows
must begin at position 0. The centre of the decay cancels as long as query and key share it.

# S positions, d head width
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

THETA = 10000.0
SCALE_BASE = 512.0


class RotaryFactors(NamedTuple):
    """Factors (..., S, d) of a rotation: turned = x * own + x with its pairs swapped * other."""

    cos: Tensor
    sin: Tensor


class RotaryTables(NamedTuple):
    """The rotations of queries and of keys."""

    query: RotaryFactors
    key: RotaryFactors


def rotary_tables(positions: Tensor, dim: int, centre: float = 0.0) -> RotaryTables:
    """Rotations at float positions (..., S) of heads of width d, whose decay is 1 at the centre."""
    half = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32)
    angles = positions[..., None] * THETA ** -(half / dim)
    decay = ((half + 0.4 * dim) / (1.4 * dim)) ** ((positions[..., None] - centre) / SCALE_BASE)
    decay = torch.cat((decay, decay), dim=-1)
    cos = angles.cos().repeat_interleave(2, -1)
    sin = torch.stack((-angles.sin(), angles.sin()), dim=-1).flatten(-2)
    return RotaryTables(RotaryFactors(cos * decay, sin * decay), RotaryFactors(cos / decay, sin / decay))


def rotate(x: Tensor, factors: RotaryFactors) -> Tensor:
    """x (..., S, d) with the pairs (2i, 2i + 1) turned; the factors are cast to x's dtype."""
    cos, sin = (factor.to(x.dtype) for factor in factors)
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return x * cos + swapped * sin
