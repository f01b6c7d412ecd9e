"""Binary spherical quantisation (Zhao et al. 2024, arXiv 2406.07548): the signs of a unit vector are its token.

# ... any leading axes, D = s1_bits + s2_bits dimensions of a code
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class QuantiserLoss(NamedTuple):
    """Parts of the loss of one micro-batch, means over its positions; commit holds beta already."""

    commit: Tensor
    per_sample_entropy: Tensor
    codebook_entropy: Tensor
    total: Tensor


class Quantiser(nn.Module):
    """Signs, straight-through gradients and the entropy loss; its two buffers are in upstream's files."""

    def __init__(self, bits: int, *, beta: float, gamma0: float, gamma: float, zeta: float, group_size: int) -> None:
        super().__init__()
        self.bits, self.beta, self.gamma0, self.gamma, self.zeta = bits, beta, gamma0, gamma, zeta
        self.register_buffer("basis", 2 ** torch.arange(bits - 1, -1, -1))
        self.register_buffer("group_basis", 2 ** torch.arange(group_size - 1, -1, -1))

    def unit(self, z: Tensor) -> Tensor:
        """z (..., D) on the unit sphere."""
        return F.normalize(z, dim=-1, eps=1e-12)

    def quantise(self, unit: Tensor) -> Tensor:
        """(..., D) codes of +-1/sqrt(D), 0 counting as -1; their gradient passes as if they were unit / sqrt(D)."""
        signs = torch.where(unit > 0, 1.0, -1.0).to(unit.dtype)
        return (unit + (signs - unit).detach()) * self.bits**-0.5

    def loss(self, unit: Tensor, code: Tensor, valid: Tensor | None = None) -> QuantiserLoss:
        """Commitment and entropies of positions (..., D); valid (...) bool picks those that count.

        Upstream replaces the distance to a group's codes by the product of single bits, so that the codebook entropy is
        a sum over bits and group_size has no effect on it.
        """
        unit, code = unit.flatten(0, -2), code.flatten(0, -2)
        share = torch.ones_like(unit[:, 0]) if valid is None else valid.flatten().to(unit.dtype)
        share = share / share.sum().clamp(min=1.0)  # of each position in a mean; all 0 where none counts
        commit = self.beta * (share * (code.detach() - unit).square().sum(-1)).sum()
        minus = torch.sigmoid(-4 * unit * self.bits**-0.5)  # probability of the bit -1
        probability = torch.stack((minus, 1 - minus), -1)
        per_sample = (share * _entropy(probability).sum(-1)).sum()
        codebook = _entropy((share[:, None, None] * probability).sum(0)).sum()
        total = commit + self.zeta * (self.gamma0 * per_sample - self.gamma * codebook)
        return QuantiserLoss(commit, per_sample, codebook, total)


def _entropy(probability: Tensor) -> Tensor:
    """Over the last axis, in nats."""
    return -(probability * (probability + 1e-8).log()).sum(-1)


def to_ids(code: Tensor) -> Tensor:
    """Signs (..., k) -> int64 (...): bit i of the id is set where dimension i is positive."""
    return ((code > 0).long() << torch.arange(code.shape[-1], device=code.device)).sum(-1)


def to_signs(ids: Tensor, bits: int) -> Tensor:
    """int64 (...) -> float32 (..., bits) of +-1."""
    found = ids[..., None] >> torch.arange(bits, device=ids.device) & 1
    return found.to(torch.float32) * 2 - 1
