"""Rotary position embedding, half-split layout (Su et al. 2021, arXiv 2104.09864).

# S positions, d head width
"""

from __future__ import annotations

import torch
from torch import Tensor


def rope_table(length: int, dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the rotary tables cos and sin (S, d/2) of position * theta^(-2i/d), in float32 also under autocast."""
    exponent = torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] / theta**exponent
    return angles.cos(), angles.sin()


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the pairs (i, i + d/2) of x (..., S, d) by the angles of the tables, which are cast to x's dtype."""
    cos, sin = (part.to(x.dtype) for part in table)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
