"""Causal standardisation: a patch is scaled by the mean and deviation of everything observed up to its end.

Facts from DataDog/toto, commit 46bd92a. Running sums in float64 (float32 on devices without it) allow a longer series
to continue from the sums at any patch.

# R rows, T steps, P patch size, S = T / P patches
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foretrain.nn.scaling import or_zero_scale, relative_floor

SMALLEST = 1e-6  # standard deviation


@dataclass(frozen=True)
class PrefixSums:
    """Count, sum, and sum of squares about the mean of the observed steps up to n positions; (R, n), wide type.

    first_* (R, 1) cover only the first min_observed observed steps.
    """

    count: Tensor
    total: Tensor
    squares: Tensor
    first_count: Tensor
    first_total: Tensor
    first_squares: Tensor

    def at(self, patch: int) -> PrefixSums:
        """Return the sums at the end of one patch, to continue from."""
        return PrefixSums(
            self.count[:, patch : patch + 1],
            self.total[:, patch : patch + 1],
            self.squares[:, patch : patch + 1],
            self.first_count,
            self.first_total,
            self.first_squares,
        )


@dataclass(frozen=True)
class Scaled:
    """Scaled patches, and loc and scale to undo the scaling: x = sinh(values) * scale + loc."""

    values: Tensor  # (R, S, P) asinh((x - loc) / scale) float32, 0 where not observed
    loc: Tensor  # (R, S) wide type
    scale: Tensor  # (R, S) wide type, > 0
    sums: PrefixSums  # (R, S) at the end of each patch


def wide_type(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on devices without it."""
    return torch.float32 if device.type == "mps" else torch.float64


def scale_patches(
    x: Tensor,
    observed: Tensor,
    patch_size: int,
    min_observed: int = 0,
    before: PrefixSums | None = None,
    *,
    relative: bool = False,
) -> Scaled:
    """Scale the patches of x (R, T), whose values are arbitrary where observed (R, T) is False.

    With n observed steps up to a patch's end, their mean mu and M = sum of squares about it: loc = mu, scale =
    max(sqrt(M / max(1, n - 1)), 1e-6). Patches with n < min_observed use the first min_observed observed steps of the
    series instead, as upstream: these include later values, so a causal use must not score such patches. before: sums
    of the steps before x. relative: the smallest scale is a share of the row's own root mean square up to the patch's
    end instead of 1e-6, so that scaled values do not depend on the unit of the data.
    """
    with torch.no_grad():
        wide = wide_type(x.device)
        x, weight = torch.where(observed, x.detach().to(wide), 0.0), observed.to(wide)
        sums = _running(x, weight, patch_size, min_observed, before)
        count, total, squares = sums.count, sums.total, sums.squares
        if min_observed:
            early = count < min_observed
            count = torch.where(early, sums.first_count, count)
            total = torch.where(early, sums.first_total, total)
            squares = torch.where(early, sums.first_squares, squares)
        loc = total / count.clamp(min=1)
        variance = squares / (count - 1).clamp(min=1)
        scale = variance.sqrt()
        if relative:
            scale = or_zero_scale(torch.maximum(scale, relative_floor(loc, variance)))
        else:
            scale = scale.clamp(min=SMALLEST)
        values = (x.unflatten(-1, (-1, patch_size)) - loc[..., None]) / scale[..., None]
        values = torch.where(observed.unflatten(-1, (-1, patch_size)), values.asinh(), 0.0)
    return Scaled(values.float(), loc, scale, sums)


def _running(x: Tensor, weight: Tensor, patch_size: int, min_observed: int, before: PrefixSums | None) -> PrefixSums:
    """Return the sums at the end of each patch; x must be 0 where its weight is 0."""
    zero = x.new_zeros(len(x), 1)
    old = before or PrefixSums(zero, zero, zero, zero, zero, zero)
    count = old.count + weight.cumsum(1)
    total = old.total + x.cumsum(1)
    mean = total / count.clamp(min=1)
    mean_before = torch.cat((old.total / old.count.clamp(min=1), mean[:, :-1]), dim=1)
    # Welford's increments: no difference of large squares.
    squares = old.squares + (weight * (x - mean_before) * (x - mean)).cumsum(1)
    first = (old.first_count, old.first_total, old.first_squares)
    if min_observed:
        first = _combined(first, x, weight * (count <= min_observed))
    ends = slice(patch_size - 1, None, patch_size)
    return PrefixSums(count[:, ends], total[:, ends], squares[:, ends], *first)


def _combined(old: tuple[Tensor, Tensor, Tensor], x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return count, sum and squares about the mean (R, 1) of the earlier steps and the weighted steps of x together."""
    count, total = weight.sum(1, keepdim=True), (weight * x).sum(1, keepdim=True)
    squares = (weight * (x - total / count.clamp(min=1)).square()).sum(1, keepdim=True)
    mean_difference = total / count.clamp(min=1) - old[1] / old[0].clamp(min=1)
    both = count + old[0]
    return both, total + old[1], squares + old[2] + mean_difference.square() * count * old[0] / both.clamp(min=1)


def fill_gaps(x: Tensor, how: str) -> Tensor:
    """Fill every NaN in x (R, T) after a row's first observed step.

    `how`: "ffill" repeats the value before; "linear" interpolates between the neighbours and is constant at the end.
    """
    step = torch.arange(x.shape[1], device=x.device).expand_as(x)
    seen = ~x.isnan()
    left = torch.where(seen, step, -1).cummax(1).values
    before = x.gather(1, left.clamp(min=0))  # NaN before the first observed step
    if how == "ffill":
        return before
    right = torch.where(seen, step, x.shape[1]).flip(1).cummin(1).values.flip(1)
    last = right == x.shape[1]
    right = torch.where(last, left.clamp(min=0), right)
    after = x.gather(1, right)
    weight = (step - left) / (right - left).clamp(min=1)
    return torch.where(left < 0, x, torch.where(last | seen, before, torch.lerp(before, after, weight.to(x.dtype))))
