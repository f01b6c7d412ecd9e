from __future__ import annotations

import pytest
import torch

from foretrain.training.ema import Ema


def test_the_decay_grows_with_updates_up_to_its_limit(toy):
    ema = Ema(toy.Model(), 0.9)
    assert [ema.decay_at(t) for t in (0, 8, 10_000)] == [0.1, 0.5, 0.9]


def test_the_average_follows_its_formula(toy):
    model = toy.Model()
    ema = Ema(model, 0.9)
    expected = model.first.weight.detach().clone()
    for t in range(4):
        with torch.no_grad():
            model.first.weight.add_(1.0)
        ema.update(t)
        decay = min(0.9, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * model.first.weight.detach()
    torch.testing.assert_close(ema.weights["first.weight"], expected)


def test_swapping_gives_the_model_the_average_and_takes_it_back_even_after_an_error(toy):
    model = toy.Model()
    ema = Ema(model, 0.9)
    start = model.first.weight.detach().clone()
    address = model.first.weight.data_ptr()
    with torch.no_grad():
        own = model.first.weight.add_(1.0).clone()
    with pytest.raises(KeyError), ema.swapped():
        assert torch.equal(model.first.weight, start)
        assert model.first.weight.data_ptr() == address
        raise KeyError
    assert torch.equal(model.first.weight, own)
    assert torch.equal(ema.weights["first.weight"], start)
