"""Root-mean-square norm (Zhang and Sennrich 2019): no mean subtraction, no bias, statistics in float32.

# D width
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis of width D.

    With half-precision weights the normalised value is cast to their dtype before the product, as in T5.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x (..., D) -> (..., D)."""
        wide = x if x.dtype == torch.float64 else x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (
            normed.to(self.weight.dtype) * self.weight if self.weight.dtype != torch.float32 else normed * self.weight
        )
