from __future__ import annotations

import copy

import torch
from torch import nn

from foretrain.distributed.world import World
from foretrain.models.base import Loss
from foretrain.training.step import Updater
from foretrain.training.train_state import TrainState


def updater(toy, model, **settings) -> Updater:
    optimizer = torch.optim.AdamW(model.parameters())
    return Updater(model, optimizer, None, TrainState(), toy.config(**settings), seed=0, world=World())


def with_statistics(toy):
    """A model whose forward pass changes a buffer and draws numbers."""

    class Normed(toy.Model):
        def __init__(self) -> None:
            super().__init__(dropout=0.3)
            self.norm = nn.BatchNorm1d(12)

        def native_loss(self, batch):
            return super().native_loss({**batch, "context": self.norm(batch["context"])})

    return Normed()


def test_a_warm_up_changes_no_gradient_random_state_or_buffer(toy):
    model = with_statistics(toy)
    made, before = updater(toy, model), copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    made.warm_up(model.collate(toy.Source().windows(n, 4)) for n in (0, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not made.optimizer.state and made.train_state == TrainState()


def test_a_warm_up_runs_forward_and_backward_once_for_each_batch(toy):
    model, passed = toy.Model(), []

    class Recording(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            passed.append("forward")
            return x.view_as(x)

        @staticmethod
        def backward(ctx, grad):
            passed.append("backward")
            return grad

    plain = model.native_loss
    model.native_loss = lambda batch: Loss(Recording.apply(plain(batch).total), torch.ones(()))
    updater(toy, model).warm_up(model.collate(toy.Source().windows(n, 4)) for n in (0, 4))
    assert passed == ["forward", "backward"] * 2


def test_a_warm_up_uses_the_dtype_of_training(toy):
    model, seen = toy.Model(), []
    model.first.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    updater(toy, model, dtype="bfloat16").warm_up([model.collate(toy.Source().windows(0, 4))])
    assert seen == [torch.bfloat16]
