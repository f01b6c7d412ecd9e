"""Attention of half precision on a CPU is computed in float32 where a backward pass may follow."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from foretrain.nn.attention import attend

HALF = torch.bfloat16


def parts(dtype: torch.dtype) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 9, 4, generator=draw).to(HALF).to(dtype).requires_grad_() for _ in range(3)]


def additive() -> Tensor:
    mask = torch.zeros(1, 1, 9, 9, dtype=HALF)
    mask[..., 4] = -1e30
    return mask


@pytest.mark.parametrize("mask", [None, additive(), torch.ones(9, 9, dtype=torch.bool).tril()])
@pytest.mark.parametrize("cast", [False, True])
def test_half_precision_is_that_of_float32_rounded_at_the_end(mask, cast):
    """cast: float32 under autocast to bfloat16; else bfloat16 without one. Gradients have the type of their tensors."""
    ours, wide = parts(torch.float32 if cast else HALF), parts(torch.float32)
    with torch.autocast("cpu", HALF, enabled=cast):
        found = attend(*ours, mask, scale=0.5)
    exact = F.scaled_dot_product_attention(
        *wide, attn_mask=mask if mask is None or mask.dtype == torch.bool else mask.float(), scale=0.5
    )
    assert found.dtype == ours[0].dtype and torch.equal(found, exact.to(found.dtype))
    weights = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1)).to(HALF)
    (found * weights).sum().backward()
    (exact * weights).sum().backward()
    for a, b in zip(ours, wide, strict=True):
        assert a.grad is not None and b.grad is not None and torch.equal(a.grad, b.grad.to(a.dtype))


def test_without_a_backward_pass_torch_gets_the_tensors_as_they_are():
    q, k, v = parts(HALF)
    with torch.no_grad():
        assert torch.equal(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))
