"""A parameter a batch does not need gets a zero gradient, not none."""

from __future__ import annotations

import torch

from foretrain.nn.unused import attach


def test_attached_parameters_get_zero_gradients_and_x_keeps_its_own():
    x, unused = torch.randn(3, requires_grad=True), torch.randn(2, requires_grad=True)
    attach(x, [unused]).square().sum().backward()
    assert torch.equal(unused.grad, torch.zeros(2))
    assert torch.equal(x.grad, 2 * x.detach())


def test_frozen_parameters_and_inference_add_nothing_to_the_graph():
    x, frozen = torch.randn(3), torch.randn(2)
    assert attach(x, [frozen]) is x
    with torch.no_grad():
        assert attach(x, [frozen.requires_grad_()]) is x
