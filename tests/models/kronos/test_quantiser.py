"""Binary spherical quantisation: ids, straight-through gradients, entropies."""

from __future__ import annotations

import math

import pytest
import torch

from foretrain.models.kronos.quantiser import Quantiser, to_ids, to_signs

BITS = 6


@pytest.fixture
def quantiser() -> Quantiser:
    return Quantiser(BITS, beta=0.05, gamma0=1.0, gamma=1.1, zeta=0.5, group_size=2)


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(3, 5, BITS, generator=torch.Generator().manual_seed(0))


def test_ids_count_the_first_dimension_as_the_lowest_bit():
    signs = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1], [-1, -1, -1]])
    assert to_ids(signs).tolist() == [1, 2, 4, 7, 0]


def test_every_id_comes_back():
    ids = torch.arange(2**BITS)
    assert torch.equal(to_ids(to_signs(ids, BITS)), ids)


def test_zero_counts_as_minus(quantiser):
    code = quantiser.quantise(torch.zeros(1, BITS))
    assert (code < 0).all() and to_ids(torch.zeros(1, BITS)).item() == 0


def test_codes_lie_on_the_unit_sphere(quantiser, latents):
    code = quantiser.quantise(quantiser.unit(latents))
    torch.testing.assert_close(code.norm(dim=-1), torch.ones(3, 5))
    assert torch.equal(code > 0, latents > 0)


def test_gradients_pass_the_signs_straight_through(quantiser, latents):
    unit = quantiser.unit(latents).requires_grad_()
    wanted = torch.randn_like(unit)
    (quantiser.quantise(unit) * wanted).sum().backward()
    torch.testing.assert_close(unit.grad, wanted * BITS**-0.5)


def test_a_vector_of_nothing_but_zeros_has_finite_gradients(quantiser):
    z = torch.zeros(1, BITS, requires_grad=True)
    quantiser.quantise(quantiser.unit(z)).sum().backward()
    assert z.grad.isfinite().all()


def test_the_loss_is_the_formula(quantiser, latents):
    unit = quantiser.unit(latents)
    code = quantiser.quantise(unit)
    found = quantiser.loss(unit, code)
    minus = torch.sigmoid(-4 * unit.double() / math.sqrt(BITS)).reshape(-1, BITS)
    each, average = (binary_entropy(p) for p in (minus, minus.mean(0)))
    commit = 0.05 * (code - unit).square().sum(-1).mean()
    assert float(found.commit) == pytest.approx(float(commit), rel=1e-5)
    assert float(found.per_sample_entropy) == pytest.approx(float(each.sum(-1).mean()), rel=1e-5)
    assert float(found.codebook_entropy) == pytest.approx(float(average.sum()), rel=1e-5)
    total = float(commit) + 0.5 * (1.0 * float(each.sum(-1).mean()) - 1.1 * float(average.sum()))
    assert found.total.item() == pytest.approx(total, rel=1e-5)


def binary_entropy(p: torch.Tensor) -> torch.Tensor:
    return -(p * p.log() + (1 - p) * (1 - p).log())


@pytest.mark.parametrize("size", [1, 3, 6])
def test_the_size_of_groups_does_not_change_the_loss(quantiser, latents, size):
    other = Quantiser(BITS, beta=0.05, gamma0=1.0, gamma=1.1, zeta=0.5, group_size=size)
    unit = quantiser.unit(latents)
    code = quantiser.quantise(unit)
    assert torch.equal(other.loss(unit, code).total, quantiser.loss(unit, code).total)
    assert other.group_basis.tolist() == [2**k for k in range(size)][::-1]


def test_positions_that_do_not_count_are_left_out(quantiser, latents):
    unit = quantiser.unit(latents)
    valid = torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [False] * 5])
    kept = unit[valid][None]
    expected = quantiser.loss(kept, quantiser.quantise(kept))
    for found, wanted in zip(quantiser.loss(unit, quantiser.quantise(unit), valid), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_where_no_position_counts_the_loss_is_zero_and_its_gradient_too(quantiser, latents):
    unit = quantiser.unit(latents).requires_grad_()
    found = quantiser.loss(unit, quantiser.quantise(unit), torch.zeros(3, 5, dtype=torch.bool))
    found.total.backward()
    assert found.total.item() == pytest.approx(0.0, abs=1e-6) and not unit.grad.any()
