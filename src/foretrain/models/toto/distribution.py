"""Output distribution of Toto 1.0: at each step a mixture of Student-T distributions in scaled space.

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

_BISECTIONS = 12  # with the approximate cdf
_MAX_STEPS = 100  # with the exact cdf; a few suffice unless modes are far apart
_TOLERANCE = 1e-7  # error of the cdf below which one more step is exact


@dataclass(frozen=True)
class StudentTMixture:
    """A batch of mixtures; all tensors have shape (..., K), and every df is > 2."""

    df: Tensor
    loc: Tensor
    scale: Tensor
    log_weights: Tensor  # normalised over K

    @property
    def weights(self) -> Tensor:
        """Probabilities (..., K) of the components."""
        return self.log_weights.exp()

    def map(self, change: Callable[[Tensor], Tensor]) -> StudentTMixture:
        """Apply a function to each of the four tensors."""
        return StudentTMixture(change(self.df), change(self.loc), change(self.scale), change(self.log_weights))

    def __getitem__(self, index: Any) -> StudentTMixture:
        return self.map(lambda x: x[index])

    @property
    def mean(self) -> Tensor:
        """Mean (...)."""
        return (self.weights * self.loc).sum(-1)

    @property
    def variance(self) -> Tensor:
        """Variance (...): within components, scale^2 df / (df - 2), plus between them."""
        within = self.scale.square() * self.df / (self.df - 2.0).clamp(min=torch.finfo(self.df.dtype).eps)
        between = (self.loc - self.mean[..., None]).square()
        return (self.weights * (within + between)).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density (...) of values (...)."""
        return self._log_joint(value).logsumexp(-1)

    def _log_joint(self, value: Tensor) -> Tensor:
        """Return the joint log density (..., K) of component and value (...)."""
        z = (value[..., None] - self.loc) / self.scale
        half = 0.5 * (self.df + 1.0)
        level = torch.lgamma(half) - torch.lgamma(0.5 * self.df) - 0.5 * (self.df * math.pi).log() - self.scale.log()
        return self.log_weights + level - half * torch.log1p(z.square() / self.df)

    def density_and_log_slope(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the density (...) at values (...), and the derivative (...) of its logarithm."""
        error, joint = value[..., None] - self.loc, self._log_joint(value)
        each = (self.df + 1.0) * error / (self.df * self.scale.square() + error.square())
        return joint.logsumexp(-1).exp(), -(joint.softmax(-1) * each).sum(-1)

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(X <= value) (...) for values (...), in float64."""
        wide = self.map(lambda x: x.to(solver_dtype(x)))
        z = (value.to(wide.df.dtype)[..., None] - wide.loc) / wide.scale
        return (wide.weights * student_t.cdf(z, wide.df)).sum(-1)

    def quantiles(self, levels: Sequence[float]) -> Tensor:
        """Return quantiles (..., Q) at levels in (0, 1), in the dtype of the parameters.

        Exact up to rounding: bisection with an approximate cdf, then Halley steps with the exact one, kept within the
        bracket that their values give. Differentiable in the parameters: the cdf at a quantile does not change, so the
        quantile moves by -(change of the cdf) / density.
        """
        shape, count = self.df.shape[:-1], len(levels)
        flat = self.map(lambda x: x.to(solver_dtype(x)).reshape(-1, 1, x.shape[-1]).expand(-1, count, -1).flatten(0, 1))
        level = constant(list(levels), flat.df.device, flat.df.dtype).repeat(len(flat.df) // count)
        found = _solve(flat, level)
        if torch.is_grad_enabled():
            change = (level - flat.cdf(found)) / _steepness(flat, found, level)
            found = found + (change - change.detach())
        return found.view(*shape, count).to(self.df.dtype)


def solver_dtype(x: Tensor) -> torch.dtype:
    """Return the widest type of x's device, for sums of probabilities."""
    return torch.float32 if x.device.type == "mps" else torch.float64  # MPS has no float64


@torch.no_grad()
def _steepness(mixtures: StudentTMixture, quantile: Tensor, level: Tensor) -> Tensor:
    """Return the density (n,) at quantiles, at least a hundredth of that of a tail with the same distance and mass.

    Between modes far apart the density vanishes, and any change of the weights would move a quantile without limit.
    """
    distance = (mixtures.weights * (mixtures.scale + (quantile[:, None] - mixtures.loc).abs())).sum(-1)
    return torch.maximum(mixtures.log_prob(quantile).exp(), 0.01 * torch.minimum(level, 1.0 - level) / distance)


@torch.no_grad()
def _solve(mixtures: StudentTMixture, level: Tensor) -> Tensor:
    """Return the value (n,) at which the cdf of mixtures (n, K) is level (n,)."""
    value = _initial_quantiles(mixtures, level)
    low, high = torch.full_like(value, -torch.inf), torch.full_like(value, torch.inf)
    active = torch.arange(len(value), device=value.device)
    for k in range(_MAX_STEPS):
        part, x = mixtures[active], value[active]
        excess = part.cdf(x) - level[active]
        below = torch.where(excess < 0, x, low[active])
        above = torch.where(excess > 0, x, high[active])
        low[active], high[active] = below, above
        density, slope = part.density_and_log_slope(x)
        step = excess / density
        step = step / (1.0 - 0.5 * step * slope).clamp(0.5, 2.0)  # Halley's method
        proposal = x - step
        reach = (part.scale * part.weights).sum(-1) * 2.0**k  # longest step while the bracket is open on one side
        outside = ~((proposal >= below) & (proposal <= above) & (step.abs() <= reach))
        middle = 0.5 * (below + above)
        middle = torch.where(middle.isfinite(), middle, x - reach.copysign(excess))
        value[active] = torch.where(outside, middle, proposal)
        # the error is about the cube of the previous one; a bracket of rounding size is converged too
        done = ((excess.abs() < _TOLERANCE) & ~outside) | ((above - below) / (below.abs() + above.abs()) < 1e-15)
        active = active[~done]
        if not len(active):
            break
    return value


def _initial_quantiles(mixtures: StudentTMixture, level: Tensor) -> Tensor:
    """Return the value (n,) at which the approximate cdf of mixtures (n, K) is about level (n,)."""
    df, normal = mixtures.df, torch.special.ndtri(level)[:, None]
    w = normal * ((8 * df + 3) / (8 * df + 1))
    of_components = mixtures.loc + mixtures.scale * student_t.unwarp(w, df)
    # the mixture's quantile is between those of its components; components without weight would widen the bracket
    relevant = mixtures.weights > 1e-6
    low = torch.where(relevant, of_components, torch.inf).amin(-1)
    high = torch.where(relevant, of_components, -torch.inf).amax(-1)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        z = (middle[:, None] - mixtures.loc) / mixtures.scale
        under = (mixtures.weights * student_t.approximate_cdf(z, df)).sum(-1) < level
        low, high = torch.where(under, middle, low), torch.where(under, high, middle)
    return 0.5 * (low + high)


class MixtureHead(nn.Module):
    """Maps features of a step to its mixture, with upstream's parameter names; components None = one Student-T."""

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
        """The linear layers, in the order of the arguments of `shape`."""
        return list(self.children())

    def forward(self, features: Tensor) -> StudentTMixture:
        """(..., D) -> mixtures (..., K)."""
        return self.shape(*(project(features) for project in self.projections))

    @staticmethod
    def shape(df: Tensor, loc: Tensor, scale: Tensor, weights: Tensor | None = None) -> StudentTMixture:
        """Convert raw outputs (..., K) of the projections to parameters, in at least float32.

        Probabilities below float32's epsilon are raised to it and get no gradient, as in torch's Categorical and so
        upstream; this keeps log densities finite.
        """
        df, loc, scale = (x if x.dtype == torch.float64 else x.float() for x in (df, loc, scale))
        eps = torch.finfo(df.dtype).eps
        if weights is None:
            log_weights = torch.zeros_like(df)
        else:
            probabilities = weights.to(df.dtype).softmax(-1)
            log_weights = probabilities.clamp(eps, 1.0 - eps).log().log_softmax(-1)
        return StudentTMixture(2.0 + F.softplus(df).clamp(min=eps), loc, F.softplus(scale).clamp(min=eps), log_weights)
