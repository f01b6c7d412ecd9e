"""Training loss of Toto 1.0: likelihood of the next patch, and a robust error of its mean.

0.575 * -log p(y) + 0.425 * log(1 + ((mean - y) / 0.1)^2 / 2) in scaled space; the second is Barron's general robust
loss (arXiv 1701.03077) with alpha 0. (toto/model/lightning_module.py)

# n patches of any rows, P patch size, D width
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from foretrain.models.toto import crps
from foretrain.models.toto.distribution import StudentTMixture
from foretrain.models.toto.model import TotoNetwork

LIKELIHOOD, ROBUST = 0.575, 0.425
DELTA = 0.1
_MAX_ELEMENTS = 2**25  # of the head's largest tensor; more patches are processed in chunks

Measure = Callable[[StudentTMixture, Tensor, Tensor], tuple[Tensor, ...]]


def elements(mixtures: StudentTMixture, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return negative log density and robust error of the mean, (...) each, of scaled targets (...)."""
    error = (mixtures.mean - target) / DELTA
    return -mixtures.log_prob(target), torch.log1p(0.5 * error.square())


def loss_sums(mixtures: StudentTMixture, target: Tensor, observed: Tensor) -> tuple[Tensor, ...]:
    """Return the sums of `elements` over observed targets, (1,) each."""
    losses = elements(mixtures, torch.where(observed, target, 0.0))
    return tuple(torch.where(observed, loss, 0.0).sum().reshape(1) for loss in losses)


def moments(mixtures: StudentTMixture, target: Tensor, observed: Tensor) -> tuple[Tensor, ...]:
    """Return mean and standard deviation (n, P) in scaled space."""
    return mixtures.mean, mixtures.variance.sqrt()


@dataclass(frozen=True)
class PatchMixtures:
    """The mixtures of patches as a PredictedDistribution; the head runs again for each thing that is asked of them."""

    network: TotoNetwork
    hidden: Tensor  # (..., S, D)
    target: Tensor  # (..., S, P)
    observed: Tensor  # (..., S, P)

    def quantiles(self, levels: Sequence[float]) -> Tensor:
        """Return quantiles (..., S * P, Q) in scaled space."""
        return self._measured(lambda mixtures, target, observed: (mixtures.quantiles(levels),), 16 * len(levels))

    def crps(self) -> Tensor:
        """Return the CRPS (..., S * P) of the targets in scaled space; where not observed, that of 0."""

        def measure(mixtures: StudentTMixture, target: Tensor, observed: Tensor) -> tuple[Tensor, ...]:
            return (crps.crps(mixtures, torch.where(observed, target, 0.0)),)

        return self._measured(measure, 16 * crps.EDGES)

    def _measured(self, measure: Measure, width: int) -> Tensor:
        flat = (x.flatten(0, -2) for x in (self.hidden, self.target, self.observed))
        (found,) = measure_patches(self.network, measure, *flat, width=width)
        return found.unflatten(0, self.target.shape[:-1]).flatten(self.target.dim() - 2, self.target.dim() - 1)


def measure_patches(
    network: TotoNetwork, measure: Measure, hidden: Tensor, target: Tensor, observed: Tensor, *, width: int = 16
) -> tuple[Tensor, ...]:
    """Apply measure(mixtures, target, observed) to patches with hidden states (n, D) and values (n, P).

    Many patches are processed in chunks, whose outputs are concatenated; activation checkpointing recomputes the head
    in the backward pass. `width` is the number of elements per component that the measure stores of a step.
    """
    head, c = network.mixture_head(len(hidden)), network.config
    # elements per step
    widest = max(width * (c.components or 1), 0 if network.folds_head(len(hidden)) else c.embed_dim)
    chunk = max(1, _MAX_ELEMENTS // (c.patch_size * widest))

    def of_chunk(hidden: Tensor, target: Tensor, observed: Tensor) -> tuple[Tensor, ...]:
        return measure(head(hidden), target, observed)

    if len(hidden) <= chunk:
        return of_chunk(hidden, target, observed)
    parts = []
    for inputs in zip(*(x.split(chunk) for x in (hidden, target, observed)), strict=True):
        parts.append(
            checkpoint(of_chunk, *inputs, use_reentrant=False) if torch.is_grad_enabled() else of_chunk(*inputs)
        )
    return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))
