"""The linear network: decomposition, one projection of patches for each component, one quantile head.

DLinear (Zeng et al. 2022, arXiv 2205.13504) maps trend and remainder of a context to the horizon, each by one linear
layer. Here each layer sees one patch at a time, and the head maps what all patches give to every quantile.

# R rows, C context steps in whole patches, P patch size, N = C / P patches, D width, H horizon steps, Q levels
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrain.models.linear.config import LEVELS, LinearConfig
from foretrain.models.release import Network


class ScaledContext(NamedTuple):
    """A context in standard deviations from its mean; value = scaled * scale + loc."""

    values: Tensor  # (R, C) 0 where not observed
    observed: Tensor  # (R, C) bool
    loc: Tensor  # (R, 1) 0 where nothing is observed
    scale: Tensor  # (R, 1) > 0


class LinearNetwork(Network):
    """ScaledContext contexts in, scaled quantiles out."""

    architecture = LinearConfig

    def __init__(self, config: LinearConfig) -> None:
        super().__init__()
        self.config: LinearConfig = config
        patch, width = config.patch_size, config.d_model
        self.components = nn.ModuleDict({name: nn.Linear(patch, width) for name in ("trend", "remainder")})
        self.head = nn.Linear(config.patches * width, config.prediction_length * len(LEVELS))

    def initialise(self, seed: int) -> None:
        """Weights N(0, 1 / fan-in), biases 0."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
                else:
                    parameter.zero_()

    def forward(self, values: Tensor, observed: Tensor) -> Tensor:
        """Quantiles (R, H, Q), unsorted, of scaled contexts (R, C), which are 0 where not observed (R, C)."""
        trend = moving_average(values, observed, self.config.trend_kernel)
        parts = {"trend": trend, "remainder": torch.where(observed, values - trend, 0.0)}
        patches = {
            name: part.to(self.head.weight.dtype).unflatten(1, (-1, self.config.patch_size))
            for name, part in parts.items()
        }
        hidden = self.components["trend"](patches["trend"]) + self.components["remainder"](patches["remainder"])
        return self.head(hidden.flatten(1)).unflatten(1, (-1, len(LEVELS)))


def scale(context: Tensor) -> ScaledContext:
    """Contexts (R, C) scaled by mean and standard deviation of what is observed in them, so not NaN.

    A row without variation is scaled by its size, a row of zeros or of nothing by 1.
    """
    observed = ~context.isnan()
    count = observed.sum(1, keepdim=True).clamp(min=1)
    loc = context.nan_to_num(0.0).sum(1, keepdim=True) / count
    centred = torch.where(observed, context - loc, 0.0)
    deviation = (centred.square().sum(1, keepdim=True) / count).sqrt()
    size = torch.where(loc == 0, 1.0, loc.abs())
    spread = torch.where(deviation > 1e-5 * loc.abs(), deviation, size)
    return ScaledContext(centred / spread, observed, loc, spread)


def moving_average(values: Tensor, observed: Tensor, kernel: int) -> Tensor:
    """(R, C) mean of the observed among the `kernel` steps around each step, fewer at the ends; 0 where none is.

    values (R, C) are 0 where not observed (R, C).
    """
    total, count = (
        F.avg_pool1d(x.to(values.dtype)[:, None], kernel, stride=1, padding=kernel // 2)[:, 0]
        for x in (values, observed)
    )
    return total / count.clamp(min=0.5 / kernel)


def newest(context: Tensor) -> Tensor:
    """(R, 1) the newest observed value of contexts (R, C); NaN where there is none."""
    steps = torch.arange(context.shape[1], device=context.device)
    return context.gather(1, torch.where(context.isnan(), -1, steps).amax(1, keepdim=True).clamp(min=0))
