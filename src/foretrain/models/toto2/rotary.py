"""Rotary positions on the first half of each head, with extrapolation scales (xPos, arXiv 2212.10554) if wanted.

Facts from DataDog/toto, commit 46bd92a: adjacent dimensions form a pair; a pair's two dimensions share angle and scale.

# S positions, w rotated width (half a head), d head width
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BASE = 10000.0
SCALE_BASE = 256.0  # positions over which the scale of a pair is applied once


class RotaryTables(NamedTuple):
    """Cosines and sines (S, w/2) for queries and for keys, scales included."""

    query: tuple[Tensor, Tensor]
    key: tuple[Tensor, Tensor]


def rotary_tables(start: int, length: int, width: int, centre: int | None, device: torch.device) -> RotaryTables:
    """Tables of positions start, start + 1, ... in float32; there is no longest position.

    Pair i of w/2 turns by p * 10000^(-2i/w). With a centre c its queries are scaled by z_i^((p - c)/256) and its keys
    by the inverse, z_i = (2i + 0.4 w) / (1.4 w): of a query and a key only the distance counts, as long as both were
    made with the same centre. Without a centre (None) nothing is scaled.
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
    """x (..., S, d) with the first w of its d dimensions turned pair by pair, in float32 at least."""
    cos, sin = table
    turned, kept = x.split([2 * cos.shape[-1], x.shape[-1] - 2 * cos.shape[-1]], dim=-1)
    even, odd = turned.unflatten(-1, (-1, 2)).unbind(-1)  # half precision is widened by the product with the tables
    pairs = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((pairs.to(x.dtype), kept), dim=-1)
