"""Rotary positions with xPos decay (Sun et al. 2022, arXiv 2212.10554), in the layout of Toto 1.0.

Angles apply to adjacent pairs of a head's dimensions, while the decay of dimension j is that of j modulo d/2, so the
two dimensions of a rotated pair decay differently. This is a bug of the library that upstream uses; the published
weights were trained with it. A score therefore depends slightly on the positions of query and key, not only on their
distance: rows must start at position 0. The centre of the decay cancels as long as query and key share it.

# S positions, d head width
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

THETA = 10000.0
SCALE_BASE = 512.0


class RotaryFactors(NamedTuple):
    """Factors (..., S, d), decay included: rotated = x * cos + (x with its pairs swapped) * sin."""

    cos: Tensor
    sin: Tensor


class RotaryTables(NamedTuple):
    """Rotary tables (cos/sin) of queries and of keys."""

    query: RotaryFactors
    key: RotaryFactors

    def of_rows(self, part: slice) -> RotaryTables:
        """Return the tables of some rows; of tables that all rows share, the tables."""
        if self.query.cos.ndim < 4:
            return self
        return RotaryTables(*(RotaryFactors(*(x[part] for x in factors)) for factors in self))


def rotary_tables(positions: Tensor, dim: int, centre: float = 0.0) -> RotaryTables:
    """Return the tables at float positions (..., S) for heads of width `dim`; the decay is 1 at `centre`."""
    half = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32)
    angles = positions[..., None] * THETA ** -(half / dim)
    decay = ((half + 0.4 * dim) / (1.4 * dim)) ** ((positions[..., None] - centre) / SCALE_BASE)
    decay = torch.cat((decay, decay), dim=-1)
    cos = angles.cos().repeat_interleave(2, -1)
    sin = torch.stack((-angles.sin(), angles.sin()), dim=-1).flatten(-2)
    return RotaryTables(RotaryFactors(cos * decay, sin * decay), RotaryFactors(cos / decay, sin / decay))


def rotate(x: Tensor, factors: RotaryFactors) -> Tensor:
    """Rotate the pairs (2i, 2i + 1) of x (..., S, d); the factors are cast to x's dtype."""
    cos, sin = (factor.to(x.dtype) for factor in factors)
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return x * cos + swapped * sin
