"""The norm against torch's own, and its types."""

from __future__ import annotations

import torch

from foretrain.nn.rms_norm import RMSNorm


def test_it_equals_torchs_rms_norm():
    norm = RMSNorm(6, 1e-6)
    norm.weight.data = torch.randn(6)
    x = torch.randn(4, 3, 6)
    assert torch.allclose(norm(x), torch.nn.functional.rms_norm(x, (6,), norm.weight, 1e-6), atol=1e-6)


def test_half_precision_weights_cast_the_normalised_value_first():
    norm = RMSNorm(6, 1e-6).bfloat16()
    x = torch.randn(4, 6) * 1e4
    assert norm(x.bfloat16()).dtype == torch.bfloat16
    wide = x.bfloat16().float()
    expected = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).bfloat16()
    assert torch.equal(norm(x.bfloat16()), expected)
