"""Exponential moving average of the weights: what is scored and released when it is on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """A second copy of the trainable weights that follows them slowly."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {
            name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad
        }
        self._live: list[Tensor] = [p for p in model.parameters() if p.requires_grad]

    def decay_at(self, update: int) -> float:
        """min(decay, (1 + t) / (10 + t)) for update t from 0: short runs are not stuck at their first weights."""
        return min(self.decay, (1 + update) / (10 + update))

    @torch.no_grad()
    def update(self, update: int) -> None:
        """Move towards the weights after update number `update` (from 0)."""
        averages, weight = list(self.weights.values()), 1 - self.decay_at(update)
        torch._foreach_lerp_(averages, self._live, weight)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The model holds the averaged weights inside, its own again after."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        # By value, not by pointer: captured graphs and gradient buckets keep the addresses of the parameters.
        for live, average in zip(self._live, self.weights.values(), strict=True):
            held = live.clone()
            live.copy_(average)
            average.copy_(held)
