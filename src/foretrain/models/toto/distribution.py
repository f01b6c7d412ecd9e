"""The output of Toto 1.0 at a step: a mixture of Student-T distributions in scaled space.

# K components, N draws, Q levels
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class StudentTs:
    """A mixture at each of some places; all of shape (..., K), and every df > 2."""

    df: Tensor
    loc: Tensor
    scale: Tensor
    log_weights: Tensor  # normalised

    @property
    def weights(self) -> Tensor:
        """Probabilities of the components."""
        return self.log_weights.exp()

    def map(self, change) -> StudentTs:
        """With a function applied to each of the four tensors."""
        return StudentTs(change(self.df), change(self.loc), change(self.scale), change(self.log_weights))

    def __getitem__(self, index) -> StudentTs:
        return self.map(lambda x: x[index])

    @property
    def mean(self) -> Tensor:
        """(...)"""
        return (self.weights * self.loc).sum(-1)

    @property
    def variance(self) -> Tensor:
        """(...) Within components, scale^2 df / (df - 2), and between them."""
        within = self.scale.square() * self.df / (self.df - 2.0).clamp(min=torch.finfo(self.df.dtype).eps)
        between = (self.loc - self.mean[..., None]).square()
        return (self.weights * (within + between)).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density (...) of values (...)."""
        z = (value[..., None] - self.loc) / self.scale
        half = 0.5 * (self.df + 1.0)
        level = torch.lgamma(half) - torch.lgamma(0.5 * self.df) - 0.5 * (self.df * math.pi).log() - self.scale.log()
        return (self.log_weights + level - half * torch.log1p(z.square() / self.df)).logsumexp(-1)


class MixtureHead(nn.Module):
    """Features of a step to its mixture, with upstream's parameter names; components None is a single Student-T."""

    def __init__(self, width: int, components: int | None) -> None:
        super().__init__()
        count = components or 1
        self.df = nn.Linear(width, count)
        self.loc_proj = nn.Linear(width, count)
        self.scale_proj = nn.Linear(width, count)
        if components is not None:
            self.mixture_weights = nn.Linear(width, count)

    @property
    def projections(self) -> list[nn.Module]:
        """The linear layers in the order that `shape` takes their outputs."""
        return list(self.children())

    def forward(self, features: Tensor) -> StudentTs:
        """(..., D) -> mixtures (..., K)."""
        return self.shape(*(project(features) for project in self.projections))

    @staticmethod
    def shape(df: Tensor, loc: Tensor, scale: Tensor, weights: Tensor | None = None) -> StudentTs:
        """Raw outputs (..., K) of the projections to parameters, in float32 at least.

        As torch's Categorical, and so upstream, does, probabilities below float32's epsilon are raised to it, and get
        no gradient then: a far-off component keeps log densities finite.
        """
        df, loc, scale = (x if x.dtype == torch.float64 else x.float() for x in (df, loc, scale))
        eps = torch.finfo(df.dtype).eps
        if weights is None:
            log_weights = torch.zeros_like(df)
        else:
            chances = weights.to(df.dtype).softmax(-1)
            log_weights = chances.clamp(eps, 1.0 - eps).log().log_softmax(-1)
        return StudentTs(2.0 + F.softplus(df).clamp(min=eps), loc, F.softplus(scale).clamp(min=eps), log_weights)
