"""Binary spherical quantisation (Zhao et al. 2024, arXiv 2406.07548): the token of a unit vector is its signs.

# ... any leading axes, D = s1_bits + s2_bits dimensions of a code
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrain.nn.undrawn import table


class QuantiserLoss(NamedTuple):
    """Parts of the loss of one micro-batch, means over its positions; commit includes the factor beta."""

    commit: Tensor
    per_sample_entropy: Tensor
    codebook_entropy: Tensor
    total: Tensor


class Quantiser(nn.Module):
    """Binary codes with straight-through gradients and the entropy loss; upstream's files contain its two buffers."""

    def __init__(self, bits: int, *, beta: float, gamma0: float, gamma: float, zeta: float, group_size: int) -> None:
        super().__init__()
        self.bits, self.beta, self.gamma0, self.gamma, self.zeta = bits, beta, gamma0, gamma, zeta
        self.register_buffer("basis", table(lambda: 2 ** torch.arange(bits - 1, -1, -1)))
        self.register_buffer("group_basis", table(lambda: 2 ** torch.arange(group_size - 1, -1, -1)))

    def unit(self, z: Tensor) -> Tensor:
        """Normalise z (..., D) to unit length."""
        return F.normalize(z, dim=-1, eps=1e-12)

    def quantise(self, unit: Tensor) -> Tensor:
        """Return codes (..., D) of +-1/sqrt(D), -1 for 0; straight-through gradient, as if they were unit / sqrt(D)."""
        signs = torch.where(unit > 0, 1.0, -1.0).to(unit.dtype)
        return (unit + (signs - unit).detach()) * self.bits**-0.5

    def loss(self, unit: Tensor, code: Tensor, valid: Tensor | None = None) -> QuantiserLoss:
        """Commitment and entropy terms over positions (..., D); valid (...) bool selects positions, None = all.

        Upstream replaces the distance to a group's codes by the product of single bits, so that the codebook entropy is
        a sum over bits and group_size has no effect on it.
        """
        unit, code = unit.flatten(0, -2), code.flatten(0, -2)
        weight = torch.ones_like(unit[:, 0]) if valid is None else valid.flatten().to(unit.dtype)
        weight = weight / weight.sum().clamp(min=1.0)  # of each position in a mean; all 0 if none is valid
        commit = self.beta * (weight * (code.detach() - unit).square().sum(-1)).sum()
        minus = torch.sigmoid(-4 * unit * self.bits**-0.5)  # probability of the bit -1
        probability = torch.stack((minus, 1 - minus), -1)
        per_sample = (weight * _entropy(probability).sum(-1)).sum()
        codebook = _entropy((weight[:, None, None] * probability).sum(0)).sum()
        total = commit + self.zeta * (self.gamma0 * per_sample - self.gamma * codebook)
        return QuantiserLoss(commit, per_sample, codebook, total)


def _entropy(probability: Tensor) -> Tensor:
    """Entropy over the last axis, in nats."""
    return -(probability * (probability + 1e-8).log()).sum(-1)


def to_ids(code: Tensor) -> Tensor:
    """Signs (..., k) -> int64 ids (...): bit i of an id is set if dimension i is positive."""
    return ((code > 0).long() << torch.arange(code.shape[-1], device=code.device)).sum(-1)


def to_signs(ids: Tensor, bits: int) -> Tensor:
    """int64 ids (...) -> float32 signs (..., bits) of +-1."""
    set_bits = ids[..., None] >> torch.arange(bits, device=ids.device) & 1
    return set_bits.to(torch.float32) * 2 - 1
