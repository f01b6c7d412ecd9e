"""Training loss of Toto 1.0: likelihood of the next patch, and a robust error of its mean.

0.575 * -log p(y) + 0.425 * log(1 + ((mean - y) / 0.1)^2 / 2) in scaled space; the second is Barron's general robust
loss (arXiv 1701.03077) with alpha 0. (toto/model/lightning_module.py)

# n patches of any rows, P patch size, D width
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

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


def measure_patches(
    network: TotoNetwork, measure: Measure, hidden: Tensor, target: Tensor, observed: Tensor
) -> tuple[Tensor, ...]:
    """Apply measure(mixtures, target, observed) to patches with hidden states (n, D) and values (n, P).

    Many patches are processed in chunks, whose outputs are concatenated; activation checkpointing recomputes the head
    in the backward pass.
    """
    head, c = network.mixture_head(len(hidden)), network.config
    widest = max(16 * (c.components or 1), 0 if network.folds_head(len(hidden)) else c.embed_dim)  # elements per step
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
