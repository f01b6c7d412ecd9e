"""The linear network: decomposition, one patch projection per component, one quantile head.

DLinear (Zeng et al. 2022, arXiv 2205.13504) maps trend and remainder of a context to the horizon, each by one linear
layer. Here each layer projects one patch at a time, and the head maps the projections of all patches to the quantiles.

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

    values: Tensor  # (R, C), 0 where not observed
    observed: Tensor  # (R, C) bool
    loc: Tensor  # (R, 1), 0 if nothing is observed
    scale: Tensor  # (R, 1) > 0


class LinearNetwork(Network):
    """Maps scaled contexts to scaled quantiles."""

    architecture = LinearConfig

    def __init__(self, config: LinearConfig) -> None:
        super().__init__()
        self.config: LinearConfig = config
        patch, width = config.patch_size, config.d_model
        self.components = nn.ModuleDict({name: nn.Linear(patch, width) for name in ("trend", "remainder")})
        self.head = nn.Linear(config.patches * width, config.prediction_length * len(LEVELS))

    def initialise(self, seed: int) -> None:
        """Initialise weights from N(0, 1 / fan-in) and biases to 0."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
                else:
                    parameter.zero_()

    def forward(self, values: Tensor, observed: Tensor) -> Tensor:
        """Return unsorted quantiles (R, H, Q) of scaled contexts (R, C); `values` are 0 where not observed."""
        trend = moving_average(values, observed, self.config.trend_kernel)
        parts = {"trend": trend, "remainder": torch.where(observed, values - trend, 0.0)}
        patches = {
            name: part.to(self.head.weight.dtype).unflatten(1, (-1, self.config.patch_size))
            for name, part in parts.items()
        }
        hidden = self.components["trend"](patches["trend"]) + self.components["remainder"](patches["remainder"])
        return self.head(hidden.flatten(1)).unflatten(1, (-1, len(LEVELS)))


def scale(context: Tensor) -> ScaledContext:
    """Scale contexts (R, C) by the mean and standard deviation of their observed (not NaN) values.

    A constant row is scaled by its absolute value, a row of zeros or without values by 1.
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
    """Return the mean (R, C) of observed values among the `kernel` steps centred on each step; 0 if there is none.

    `values` (R, C) are 0 where not observed. At the ends the kernel is cut off.
    """
    total, count = (
        F.avg_pool1d(x.to(values.dtype)[:, None], kernel, stride=1, padding=kernel // 2)[:, 0]
        for x in (values, observed)
    )
    return total / count.clamp(min=0.5 / kernel)
