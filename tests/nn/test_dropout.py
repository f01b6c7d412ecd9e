"""Masks are fair, repeatable and ruled by torch's seed."""

from __future__ import annotations

import pytest
import torch

from foretrain.nn.dropout import draw_seed, drop, keep_mask, keep_scale


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_scale_is_the_inverse_of_the_kept_fraction(rate):
    mask = keep_mask((1000, 1003), rate, 7)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask.mean().item() == pytest.approx(1 - rate, abs=0.002)
    assert keep_scale(rate) == pytest.approx(1 / (1 - rate), rel=1e-4)


def test_a_mask_depends_on_seed_and_place_alone():
    assert torch.equal(keep_mask((50,), 0.5, 1, 2, 3), keep_mask((50,), 0.5, 1, 2, 3))
    assert not torch.equal(keep_mask((50,), 0.5, 1, 2, 3), keep_mask((50,), 0.5, 1, 2, 4))
    assert not torch.equal(keep_mask((50,), 0.5, 1, 2, 3), keep_mask((50,), 0.5, 2, 2, 3))


def test_neighbours_are_independent():
    mask = keep_mask((200_000,), 0.5, 11) - 0.5
    for lag in (1, 2, 3, 4, 8):
        assert abs(float((mask[lag:] * mask[:-lag]).mean()) * 4) < 0.01


def test_the_seed_comes_from_torch():
    torch.manual_seed(3)
    first = [draw_seed(), draw_seed()]
    torch.manual_seed(3)
    assert first == [draw_seed(), draw_seed()] and first[0] != first[1]


def test_the_backward_uses_the_same_mask():
    torch.manual_seed(0)
    x = torch.randn(40, 30, requires_grad=True)
    out = drop(x, 0.25, training=True)
    out.sum().backward()
    assert torch.allclose(out, x * x.grad)
    assert (x.grad == 0).any() and x.grad.max().item() == pytest.approx(4 / 3)


def test_nothing_is_dropped_outside_training_or_at_rate_zero():
    x = torch.randn(4)
    assert drop(x, 0.5, training=False) is x
    assert drop(x, 0.0, training=True) is x
