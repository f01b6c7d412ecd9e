"""Rotary positions on the first half of each head, with extrapolation scales (xPos, arXiv 2212.10554) if wanted.

Facts from DataDog/toto, commit 46bd92a: adjacent dimensions form a pair; a pair's two dimensions share angle and scale.

# S positions, w rotated width (half a head), d head width
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BASE = 10000.0
SCALE_BASE = 256.0  # distance in positions that multiplies by the scale of a pair once


class RotaryTables(NamedTuple):
    """Cosines and sines (S, w/2) for queries and for keys, scales included."""

    query: tuple[Tensor, Tensor]
    key: tuple[Tensor, Tensor]


def rotary_tables(start: int, length: int, width: int, centre: int | None, device: torch.device) -> RotaryTables:
    """Return the tables of positions start, start + 1, ... in float32; positions have no maximum.

    At position p, pair i of w/2 rotates by p * 10000^(-2i/w). With a centre c its queries are scaled by z_i^((p -
    c)/256) and its keys by the inverse, z_i = (2i + 0.4 w) / (1.4 w): a score depends on the distance of query and key
    only, as long as both use the same centre. Without a centre (None) nothing is scaled.
    """
    pair = torch.arange(0, width, 2, device=device, dtype=torch.float32)
    position = torch.arange(start, start + length, device=device, dtype=torch.float32)[:, None]
    angle = position / BASE ** (pair / width)
    cos, sin = angle.cos(), angle.sin()
    if centre is None:
        return RotaryTables((cos, sin), (cos, sin))
    scale = ((pair + 0.4 * width) / (1.4 * width)) ** ((position - centre) / SCALE_BASE)
    return RotaryTables((cos * scale, sin * scale), (cos / scale, sin / scale))


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the first w of the d dimensions of x (..., S, d) pair by pair, in float32 at least."""
    cos, sin = table
    rotated, rest = x.split([2 * cos.shape[-1], x.shape[-1] - 2 * cos.shape[-1]], dim=-1)
    even, odd = rotated.unflatten(-1, (-1, 2)).unbind(-1)  # half precision is widened by the product with the tables
    pairs = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((pairs.to(x.dtype), rest), dim=-1)
