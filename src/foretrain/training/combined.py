"""Several optimizers of disjoint parameters as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class CombinedOptimizer(Optimizer):
    """Several optimizers of disjoint parameters as one, which holds the parameter groups and states of all of them."""

    def __init__(self, optimizers: Iterable[Optimizer]) -> None:
        self.optimizers = list(optimizers)
        super().__init__([group for optimizer in self.optimizers for group in optimizer.param_groups], {})
        self._share_state()

    def _share_state(self) -> None:
        first = 0
        for optimizer in self.optimizers:
            count = len(optimizer.param_groups)
            optimizer.param_groups = self.param_groups[first : first + count]
            optimizer.state = self.state
            first += count

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict, as torch.optim.Optimizer does."""
        super().load_state_dict(state_dict)
        self._share_state()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Step each optimizer. A closure is not supported: each optimizer would evaluate it again."""
        assert closure is None
        for optimizer in self.optimizers:
            optimizer.step()
