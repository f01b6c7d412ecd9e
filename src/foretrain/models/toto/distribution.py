"""The output of Toto 1.0 at a step: a mixture of Student-T distributions in scaled space.

# K components, Q levels
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrain.models.toto import student_t
from foretrain.nn.quantiles import constant

_BISECTIONS = 12  # of a bracket by the approximate cdf
_MAX_STEPS = 100  # at most, by the exact one; a few do unless modes are far apart
_TOLERANCE = 1e-7  # an error of the cdf after which one more step is exact


@dataclass(frozen=True)
class StudentTMixture:
    """A mixture at each of some places; all of shape (..., K), and every df > 2."""

    df: Tensor
    loc: Tensor
    scale: Tensor
    log_weights: Tensor  # normalised

    @property
    def weights(self) -> Tensor:
        """Probabilities of the components."""
        return self.log_weights.exp()

    def map(self, change: Callable[[Tensor], Tensor]) -> StudentTMixture:
        """With a function applied to each of the four tensors."""
        return StudentTMixture(change(self.df), change(self.loc), change(self.scale), change(self.log_weights))

    def __getitem__(self, index: Any) -> StudentTMixture:
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
        return self._log_joint(value).logsumexp(-1)

    def _log_joint(self, value: Tensor) -> Tensor:
        """(..., K) of a component and a value (...)."""
        z = (value[..., None] - self.loc) / self.scale
        half = 0.5 * (self.df + 1.0)
        level = torch.lgamma(half) - torch.lgamma(0.5 * self.df) - 0.5 * (self.df * math.pi).log() - self.scale.log()
        return self.log_weights + level - half * torch.log1p(z.square() / self.df)

    def log_slope(self, value: Tensor) -> Tensor:
        """Derivative (...) of the log density at values (...)."""
        away = value[..., None] - self.loc
        responsibility = self._log_joint(value).softmax(-1)
        return -(responsibility * (self.df + 1.0) * away / (self.df * self.scale.square() + away.square())).sum(-1)

    def cdf(self, value: Tensor) -> Tensor:
        """Probability (...) of lying below values (...), in float64."""
        wide = self.map(lambda x: x.to(_solver_dtype(x)))
        z = (value.to(wide.df.dtype)[..., None] - wide.loc) / wide.scale
        return (wide.weights * student_t.cdf(z, wide.df)).sum(-1)

    def quantiles(self, levels: Sequence[float]) -> Tensor:
        """(..., Q) values below which these shares lie, each in (0, 1); in the type of the parameters.

        Exact up to rounding: an approximate distribution is bisected, then Halley's steps follow that stay within the
        bracket known from their values.
        """
        shape, count = self.df.shape[:-1], len(levels)
        flat = self.map(
            lambda x: x.to(_solver_dtype(x)).reshape(-1, 1, x.shape[-1]).expand(-1, count, -1).flatten(0, 1)
        )
        level = constant(list(levels), flat.df.device, flat.df.dtype).repeat(len(flat.df) // count)
        return _solve(flat, level).view(*shape, count).to(self.df.dtype)


def _solver_dtype(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64  # which that device lacks


@torch.no_grad()
def _solve(mixtures: StudentTMixture, level: Tensor) -> Tensor:
    """The value (n,) at which the cdf of mixtures (n, K) is level (n,)."""
    value = _initial_quantiles(mixtures, level)
    low, high = torch.full_like(value, -torch.inf), torch.full_like(value, torch.inf)
    active = torch.arange(len(value), device=value.device)
    for k in range(_MAX_STEPS):
        part, x = mixtures[active], value[active]
        excess = part.cdf(x) - level[active]
        below = torch.where(excess < 0, x, low[active])
        above = torch.where(excess > 0, x, high[active])
        low[active], high[active] = below, above
        step = excess / part.log_prob(x).exp()
        step = step / (1.0 - 0.5 * step * part.log_slope(x)).clamp(0.5, 2.0)  # Halley's
        proposal = x - step
        reach = (part.scale * part.weights).sum(-1) * 2.0**k  # what a step may be as long as one side is open
        outside = ~((proposal >= below) & (proposal <= above) & (step.abs() <= reach))
        middle = 0.5 * (below + above)
        middle = torch.where(middle.isfinite(), middle, x - reach.copysign(excess))
        value[active] = torch.where(outside, middle, proposal)
        # the error is about the cube of the one before; a bracket without room left is an answer too
        done = ((excess.abs() < _TOLERANCE) & ~outside) | ((above - below) / (below.abs() + above.abs()) < 1e-15)
        active = active[~done]
        if not len(active):
            break
    return value


def _initial_quantiles(mixtures: StudentTMixture, level: Tensor) -> Tensor:
    """(n,) where the approximate cdf of mixtures (n, K) is about level (n,)."""
    df, normal = mixtures.df, torch.special.ndtri(level)[:, None]
    w = normal * ((8 * df + 3) / (8 * df + 1))
    own = mixtures.loc + mixtures.scale * student_t.unwarp(w, df)
    # the mixture's quantile lies between those of its components; where one weighs nothing it may lie far off
    counts = mixtures.weights > 1e-6
    low = torch.where(counts, own, torch.inf).amin(-1)
    high = torch.where(counts, own, -torch.inf).amax(-1)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        z = (middle[:, None] - mixtures.loc) / mixtures.scale
        under = (mixtures.weights * student_t.approximate_cdf(z, df)).sum(-1) < level
        low, high = torch.where(under, middle, low), torch.where(under, high, middle)
    return 0.5 * (low + high)


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

    def forward(self, features: Tensor) -> StudentTMixture:
        """(..., D) -> mixtures (..., K)."""
        return self.shape(*(project(features) for project in self.projections))

    @staticmethod
    def shape(df: Tensor, loc: Tensor, scale: Tensor, weights: Tensor | None = None) -> StudentTMixture:
        """Raw outputs (..., K) of the projections to parameters, in float32 at least.

        As torch's Categorical, and so upstream, does, probabilities below float32's epsilon are raised to it, and get
        no gradient then: a far-off component keeps log densities finite.
        """
        df, loc, scale = (x if x.dtype == torch.float64 else x.float() for x in (df, loc, scale))
        eps = torch.finfo(df.dtype).eps
        if weights is None:
            log_weights = torch.zeros_like(df)
        else:
            probabilities = weights.to(df.dtype).softmax(-1)
            log_weights = probabilities.clamp(eps, 1.0 - eps).log().log_softmax(-1)
        return StudentTMixture(2.0 + F.softplus(df).clamp(min=eps), loc, F.softplus(scale).clamp(min=eps), log_weights)
