"""The last observed values of rows with gaps.

# R rows, T steps
"""

from __future__ import annotations

import torch
from torch import Tensor


def last_observed(values: Tensor) -> Tensor:
    """Return the last value (R, 1) of each row (R, T) that is not NaN; NaN for a row without values."""
    steps = torch.arange(values.shape[1], device=values.device)
    last = torch.where(values.isnan(), -1, steps).amax(dim=-1, keepdim=True)
    return values.gather(1, last.clamp_(min=0))  # of a row without values the first step, which is NaN too


def forward_fill(values: Tensor, observed: Tensor, before: Tensor | None = None) -> Tensor:
    """Return the last observed value (R, T) at each step; `before` (R, 1), default NaN, if there is none yet."""
    steps = torch.arange(values.shape[1], device=values.device)
    index = torch.where(observed, steps, -1).cummax(1).values
    last = values.gather(1, index.clamp(min=0))
    return torch.where(index >= 0, last, torch.nan if before is None else before)
