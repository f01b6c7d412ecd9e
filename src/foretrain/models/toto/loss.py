"""The loss that Toto 1.0 is trained with: likelihood of the next patch, and a robust error of its mean.

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
_MAX_ELEMENTS = 2**25  # numbers of a head's widest tensor at a time

Measure = Callable[[StudentTMixture, Tensor, Tensor], tuple[Tensor, ...]]


def elements(mixtures: StudentTMixture, target: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log density, and robust error of the mean, (...) each, of scaled targets (...)."""
    away = (mixtures.mean - target) / DELTA
    return -mixtures.log_prob(target), torch.log1p(0.5 * away.square())


def loss_sums(mixtures: StudentTMixture, target: Tensor, observed: Tensor) -> tuple[Tensor, ...]:
    """The same summed over what was observed, (1,) each."""
    found = elements(mixtures, torch.where(observed, target, 0.0))
    return tuple(torch.where(observed, part, 0.0).sum().reshape(1) for part in found)


def moments(mixtures: StudentTMixture, target: Tensor, observed: Tensor) -> tuple[Tensor, ...]:
    """Mean and standard deviation (n, P), scaled."""
    return mixtures.mean, mixtures.variance.sqrt()


def measure_patches(
    network: TotoNetwork, measure: Measure, hidden: Tensor, target: Tensor, observed: Tensor
) -> tuple[Tensor, ...]:
    """measure(mixtures, target, observed) of patches with hidden states (n, D) and values (n, P), joined.

    Where all patches at once would be large they go in pieces, whose head is computed again on the way back.
    """
    head, c = network.mixture_head(len(hidden)), network.config
    widest = max(16 * (c.components or 1), 0 if network.folds_head(len(hidden)) else c.embed_dim)  # numbers of a step
    piece = max(1, _MAX_ELEMENTS // (c.patch_size * widest))

    def work(hidden: Tensor, target: Tensor, observed: Tensor) -> tuple[Tensor, ...]:
        return measure(head(hidden), target, observed)

    if len(hidden) <= piece:
        return work(hidden, target, observed)
    parts = []
    for given in zip(*(x.split(piece) for x in (hidden, target, observed)), strict=True):
        parts.append(checkpoint(work, *given, use_reentrant=False) if torch.is_grad_enabled() else work(*given))
    return tuple(torch.cat(found) for found in zip(*parts, strict=True))
