"""Causal normalisation: running mean and deviation of each row, in one pass or updated patch by patch.

Statistics are computed in float64 (float32 on devices without it) and have no gradient.

# R rows (variates of all windows), T steps, P patch size
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from foretrain.models.toto.config import TotoConfig
from foretrain.nn.scaling import exceeds_relative_floor, or_zero_scale, relative_floor

MINIMUM = 0.1  # added to the variance of the causal scalers
STD_MEAN_MINIMUM = 1e-3  # of StdMeanScaler


class Statistics(NamedTuple):
    """value = scaled * scale + loc; shape (R, T), or (R, 1) if all steps of a row share them."""

    loc: Tensor
    scale: Tensor


class RunningSums(NamedTuple):
    """Sums of each row up to now, from which the statistics of the next steps are updated; (R, 1) each."""

    count: Tensor  # number of observed steps
    total: Tensor  # sum of their values
    squares: Tensor  # sum of squared deviations from the running mean (Welford's M2)


@dataclass(frozen=True)
class Bounds:
    """Limits of the running scale, (R, 1) each."""

    low: Tensor
    high: Tensor


class Scaler:
    """One of upstream's three scalers.

    CausalPatchStdMeanScaler gives every step of a patch the statistics of the patch's last step, CausalStdMeanScaler
    each step its own, StdMeanScaler all steps those of the prefix. (model/scaler.py)

    relative: add a share of the row's own mean square to the variance instead of upstream's constant, so that scaled
    values do not depend on the unit of the data. `stabilize` then limits the scale only from above.
    """

    def __init__(
        self, kind: str, patch_size: int, *, stabilize: bool = True, exponent: float = 10.0, relative: bool = False
    ) -> None:
        self.kind, self.patch_size = kind, patch_size
        self.stabilize, self.exponent, self.relative = stabilize, exponent, relative

    @classmethod
    def of(cls, config: TotoConfig) -> Scaler:
        """Return the scaler of a model; upstream passes stabilize_with_global only to the patch scaler."""
        stabilize = config.stabilize_with_global and config.scaler == "CausalPatchStdMeanScaler"
        return cls(
            config.scaler,
            config.patch_size,
            stabilize=stabilize,
            exponent=float(config.scale_factor_exponent),
            relative=config.scale_floor == "relative",
        )

    @property
    def minimum(self) -> float:
        """The constant that is added to the variance, in squared units of the data; 0 if the floor is relative."""
        if self.relative:
            return 0.0
        return STD_MEAN_MINIMUM if self.kind == "StdMeanScaler" else MINIMUM

    def scale(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Return the scale of rows with this mean and variance."""
        if not self.relative:
            return (variance + self.minimum).sqrt()
        return or_zero_scale((variance + relative_floor(mean, variance).square()).sqrt())

    def moves(self, statistics: Statistics) -> Tensor | None:
        """Return the mask, of the statistics' shape, of steps whose row had moved by then; None = of all.

        With the relative floor a row that was constant so far has no scale of its own, so that no loss can be stated
        in it.
        """
        return exceeds_relative_floor(statistics.loc, statistics.scale) if self.relative else None

    @torch.no_grad()
    def __call__(self, series: Tensor, observed: Tensor, prefix_length: int | None = None) -> Statistics:
        """Return statistics of series (R, T), in its dtype; values where observed (R, T) is False have no effect.

        prefix_length: steps that determine the global limits (with StdMeanScaler: the statistics); None = all.
        """
        if self.kind == "StdMeanScaler":
            return self._fixed(series, observed, prefix_length)
        return self.start(series, observed, prefix_length)[0]

    @torch.no_grad()
    def start(
        self, series: Tensor, observed: Tensor, prefix_length: int | None = None
    ) -> tuple[Statistics, CausalStatistics]:
        """Like __call__, but also return the running statistics for the steps that follow."""
        if self.kind == "StdMeanScaler":
            fixed = self._fixed(series, observed, prefix_length)
            return fixed, CausalStatistics(self, None, None, fixed)
        values, weight = _to_float64(series, observed)
        bounds = self._bounds(values[:, :prefix_length], weight[:, :prefix_length]) if self.stabilize else None
        zero = values.new_zeros(len(values), 1)
        running = CausalStatistics(self, RunningSums(zero, zero, zero), bounds, None)
        return running.extend(series, observed), running

    def _bounds(self, values: Tensor, weight: Tensor) -> Bounds:
        count = weight.sum(-1, keepdim=True).clamp(min=1.0)
        mean = (weight * values).sum(-1, keepdim=True) / count
        spread = self.scale(mean, ((values - mean) * weight).square().sum(-1, keepdim=True) / count)
        factor = 10.0**self.exponent
        low = torch.zeros_like(spread) if self.relative else (spread / factor).clamp(min=MINIMUM)
        return Bounds(low, spread * factor)

    def _fixed(self, series: Tensor, observed: Tensor, prefix_length: int | None) -> Statistics:
        values, weight = _to_float64(series[:, :prefix_length], observed[:, :prefix_length])
        count = weight.sum(-1, keepdim=True).clamp(min=1.0)
        mean = (weight * values).sum(-1, keepdim=True) / count
        variance = ((values - mean) * weight).square().sum(-1, keepdim=True) / count
        return Statistics(mean.to(series.dtype), self.scale(mean, variance).to(series.dtype))


class CausalStatistics:
    """Running statistics of rows: each call continues from the sums of the calls before."""

    def __init__(
        self, scaler: Scaler, sums: RunningSums | None, bounds: Bounds | None, fixed: Statistics | None
    ) -> None:
        self.scaler, self.sums, self.bounds, self.fixed = scaler, sums, bounds, fixed

    @torch.no_grad()
    def extend(self, series: Tensor, observed: Tensor) -> Statistics:
        """Return statistics of the next n steps (R, n); n is a multiple of the patch size for the patch scaler."""
        if self.fixed is not None:
            return self.fixed
        assert self.sums is not None
        values, weight = _to_float64(series, observed)
        count = self.sums.count + weight.cumsum(-1)
        total = self.sums.total + (weight * values).cumsum(-1)
        mean = total / count.clamp(min=1.0)
        first = self.sums.total / self.sums.count.clamp(min=1.0)
        before = torch.cat((first, mean[:, :-1]), 1)
        squares = self.sums.squares + (weight * (values - before) * (values - mean)).cumsum(-1)
        self.sums = RunningSums(count[:, -1:], total[:, -1:], squares[:, -1:])
        if self.scaler.kind == "CausalPatchStdMeanScaler":
            size = self.scaler.patch_size
            count, mean, squares = (x[:, size - 1 :: size] for x in (count, mean, squares))
        scale = self.scaler.scale(mean, squares / (count - 1.0).clamp(min=1.0))
        if self.bounds is not None:
            scale = torch.minimum(torch.maximum(scale, self.bounds.low), self.bounds.high)
        if self.scaler.kind == "CausalPatchStdMeanScaler":
            mean, scale = (x.repeat_interleave(size, 1) for x in (mean, scale))
        return Statistics(mean.to(series.dtype), scale.to(series.dtype))

    def select(self, rows: Tensor) -> CausalStatistics:
        """Return an independent copy for these rows (indices, repeats allowed)."""
        sums = None if self.sums is None else RunningSums(*(x[rows] for x in self.sums))
        bounds = None if self.bounds is None else Bounds(self.bounds.low[rows], self.bounds.high[rows])
        fixed = None if self.fixed is None else Statistics(*(x[rows] for x in self.fixed))
        return CausalStatistics(self.scaler, sums, bounds, fixed)


def _to_float64(series: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Return values with 0 where not observed, and weights of 0 and 1."""
    dtype = torch.float32 if series.device.type == "mps" else torch.float64
    return torch.where(observed, series, 0.0).to(dtype), observed.to(dtype)
