"""Exponential moving average (EMA) of the weights. With EMA on, validation and releases use the averaged weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from foretrain.distributed.world import local


class Ema:
    """An exponential moving average of the trainable weights of a model."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {
            name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad
        }
        self._parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]

    def decay_at(self, update: int) -> float:
        """Return min(decay, (1 + t) / (10 + t)) for update t from 0, so that short runs forget the initial weights."""
        return min(self.decay, (1 + update) / (10 + update))

    @torch.no_grad()
    def update(self, update: int) -> None:
        """Average the current weights in, after update number `update` (from 0)."""
        averages, current = map(local, self.weights.values()), map(local, self._parameters)
        weight = 1 - self.decay_at(update)
        torch._foreach_lerp_(list(averages), list(current), weight)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Give the model the averaged weights inside the block and its trained weights after it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        # By value, not by pointer: captured graphs and gradient buckets hold the addresses of the parameters.
        for parameter, average in zip(self._parameters, self.weights.values(), strict=True):
            here, other = local(parameter), local(average)
            saved = here.clone()
            here.copy_(other)
            other.copy_(saved)
