"""Causal statistics: continuation from sums, exactness, and gaps."""

from __future__ import annotations

import pytest
import torch

from foretrain.models.toto2.scaler import fill_gaps, scale_patches


def series(rows: int = 5, steps: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, steps, generator=generator).cumsum(1)
    observed = torch.rand(rows, steps, generator=generator) > 0.4
    observed[1] = False
    observed[2, :20] = False
    observed[3, 5:] = False
    return x, observed


@pytest.mark.parametrize("least", [0, 8])
@pytest.mark.parametrize("cut", [1, 3, 7])
def test_a_series_continues_from_its_sums(cut, least):
    """Also if the first observed steps, by which sparse patches are scaled, are on both sides of the cut: the later
    part then uses all of them."""
    x, observed = series()
    whole = scale_patches(x, observed, 8, least)
    head = scale_patches(x[:, : cut * 8], observed[:, : cut * 8], 8, least)
    tail = scale_patches(x[:, cut * 8 :], observed[:, cut * 8 :], 8, least, before=head.sums.at(cut - 1))
    for name in ("values", "loc", "scale"):
        torch.testing.assert_close(getattr(tail, name), getattr(whole, name)[:, cut:], rtol=1e-6, atol=1e-9)


def test_statistics_do_not_depend_on_later_patches():
    x, observed = series()
    changed = x.clone()
    changed[:, 32:] = 1e9
    one, other = (scale_patches(y, observed, 8) for y in (x, changed))
    assert torch.equal(one.loc[:, :4], other.loc[:, :4]) and torch.equal(one.scale[:, :4], other.scale[:, :4])


def test_values_that_are_not_observed_do_not_count():
    x, observed = series()
    poisoned = torch.where(observed, x, torch.nan)
    one, other = (scale_patches(y, observed, 8, 8) for y in (x, poisoned))
    assert torch.equal(one.values, other.values) and torch.equal(one.scale, other.scale)
    assert torch.equal(one.values.flatten(1) == 0, ~observed)


def test_a_large_offset_costs_no_digits():
    x = torch.arange(64.0)[None] % 7
    observed = torch.ones(1, 64, dtype=torch.bool)
    near, far = (scale_patches(y, observed, 8) for y in (x, x + 2.0**21))  # still exact in float32
    torch.testing.assert_close(far.scale, near.scale, rtol=1e-9, atol=0)
    torch.testing.assert_close(far.values, near.values, rtol=1e-6, atol=1e-9)


def test_the_relative_floor_continues_from_sums_and_grows_with_the_unit():
    x = torch.stack((torch.full((32,), 3.0), torch.zeros(32), torch.arange(32.0)))
    observed = torch.ones_like(x, dtype=torch.bool)
    whole = scale_patches(x, observed, 8, relative=True)
    assert torch.allclose(whole.scale[0], torch.full((4,), 3e-6).double()) and (whole.scale[1] < 1e-12).all()
    assert torch.allclose(whole.scale[2, -1], x[2].double().std())
    head = scale_patches(x[:, :16], observed[:, :16], 8, relative=True)
    tail = scale_patches(x[:, 16:], observed[:, 16:], 8, before=head.sums.at(1), relative=True)
    assert torch.equal(tail.scale, whole.scale[:, 2:]) and torch.equal(tail.values, whole.values[:, 2:])
    other = scale_patches(2.0**40 * x, observed, 8, relative=True)
    assert torch.equal(other.scale[[0, 2]], 2.0**40 * whole.scale[[0, 2]]) and torch.equal(other.values, whole.values)


def test_a_constant_and_an_empty_series_have_the_smallest_scale():
    x, observed = torch.full((2, 16), 3.0), torch.ones(2, 16, dtype=torch.bool)
    observed[1] = False
    found = scale_patches(x, observed, 8)
    assert found.loc.tolist() == [[3, 3], [0, 0]] and torch.all(found.scale == 1e-6)
    assert not found.values.any()


def test_gaps_before_the_first_value_stay():
    nan = torch.nan
    x = torch.tensor([[nan, 2.0, nan, nan, 5.0, nan], [nan] * 6])
    assert torch.equal(fill_gaps(x, "ffill").nan_to_num(-1), torch.tensor([[-1.0, 2, 2, 2, 5, 5], [-1.0] * 6]))
    assert torch.equal(fill_gaps(x, "linear").nan_to_num(-1), torch.tensor([[-1.0, 2, 3, 4, 5, 5], [-1.0] * 6]))
