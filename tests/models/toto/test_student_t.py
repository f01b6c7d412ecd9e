"""Student's t against scipy's."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from foretrain.models.toto import student_t


def spread_df(count: int, seed: int = 0) -> torch.Tensor:
    """Just above 2 to a million."""
    rng = np.random.default_rng(seed)
    parts = 2 + 1e-6 * rng.random(count), 2 + 60 * rng.random(count), 2 + 10 ** (6 * rng.random(count))
    return torch.from_numpy(np.concatenate(parts))


def test_the_distribution_is_scipys():
    df = spread_df(500)
    z = torch.from_numpy(np.random.default_rng(1).standard_normal(len(df))) * torch.logspace(-3, 4, len(df)).double()
    expected = stats.t.cdf(z.numpy(), df.numpy())
    np.testing.assert_allclose(student_t.cdf(z, df), expected, atol=1e-10)


def test_the_cdf_is_a_half_at_zero_and_zero_at_minus_infinity():
    df = torch.tensor([2.5, 8.0, 1e5], dtype=torch.float64)
    assert torch.allclose(student_t.cdf(torch.zeros_like(df), df), torch.full_like(df, 0.5))
    assert torch.allclose(student_t.cdf(torch.full_like(df, -1e300), df), torch.zeros_like(df), atol=1e-10)


def test_float32_is_accurate_enough_for_devices_without_float64():
    z = torch.tensor([-3.0, 0.0, 1e-30, 2.0])
    found = student_t.cdf(z, torch.tensor(4.0))
    assert found.dtype == torch.float32
    assert np.allclose(found, stats.t.cdf(z, 4.0), atol=1e-6)


def test_the_gradient_of_the_cdf_is_that_of_numeric_differentiation():
    z = torch.cat((torch.linspace(-6, 6, 12), torch.tensor([0.0, 1e-3, -1e-3]))).double()
    df = 2 + torch.logspace(-3, 2, len(z)).double()
    assert torch.autograd.gradcheck(student_t.cdf, (z.requires_grad_(), df.requires_grad_()), atol=1e-8)


def test_the_gradient_of_the_cdf_is_finite_for_any_value():
    df = torch.tensor([2.0, 61.0, 1e30], dtype=torch.float64, requires_grad=True)
    for value in (0.0, -1e-300, 1e6, -1e300, torch.inf):
        z = torch.full_like(df, value).requires_grad_()
        assert all(x.isfinite().all() for x in torch.autograd.grad(student_t.cdf(z, df).sum(), (z, df)))


def test_unwarp_inverts_warp():
    df = spread_df(200)
    z = torch.linspace(-50, 50, len(df), dtype=torch.float64)
    assert torch.allclose(student_t.unwarp(student_t.warp(z, df), df).clamp(-8, 8), z.clamp(-8, 8))


def test_the_approximate_distribution_is_near():
    df = spread_df(200)
    z = torch.linspace(-6, 6, len(df), dtype=torch.float64)
    assert (student_t.approximate_cdf(z, df) - student_t.cdf(z, df)).abs().max() < 0.02
