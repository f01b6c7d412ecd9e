"""From rows of numbers to what the network reads: statistics, scaled values, and where a row begins.

# R rows (variates of all windows), T steps, P patch size, S = T / P patches
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foretrain.models.toto.scaler import CausalStatistics, Scaler, Statistics


@dataclass(frozen=True)
class TotoInputs:
    """Scaled rows."""

    scaled: Tensor  # (R, T) finite
    statistics: Statistics
    stream: CausalStatistics  # goes on with the statistics of what follows
    empty: Tensor | None = None  # (R, S) patches in front of a row's first observation; None = none, or upstream's way


def prepare(
    scaler: Scaler,
    series: Tensor,
    observed: Tensor | None,
    *,
    prefix_length: int | None = None,
    compat: bool = False,
    whole: bool = False,
) -> TotoInputs:
    """Rows (R, T) ready for the network.

    What stands in series where it was not observed plays no part: the value observed before it stands in, and in
    front of the first one the running mean, 0 when scaled. With compat it is read as it stands, as upstream does.

    Args:
        scaler: the network's.
        series: (R, T) in the units of the data, T a multiple of the patch size.
        observed: (R, T) bool; None promises that everything is.
        prefix_length: steps that the limits of the scale rest on; None = all.
        compat: read values that were not observed, and empty patches, as upstream does.
        whole: promises that every row has an observation in its first patch.
    """
    seen = torch.ones_like(series, dtype=torch.bool) if observed is None else observed
    statistics, stream = scaler.start(series, seen, prefix_length)
    loc, scale = statistics
    if compat or observed is None:
        return TotoInputs((series - loc) / scale, statistics, stream)
    scaled = ((forward_fill(series, seen) - loc) / scale).nan_to_num(nan=0.0)
    empty = None if whole else ~seen.unflatten(1, (-1, scaler.patch_size)).any(-1).cummax(1).values
    return TotoInputs(scaled, statistics, stream, empty)


def forward_fill(series: Tensor, observed: Tensor, before: Tensor | None = None) -> Tensor:
    """(R, T) the newest value observed up to each step; `before` (R, 1), NaN if none given, where there is none yet."""
    steps = torch.arange(series.shape[1], device=series.device)
    index = torch.where(observed, steps, -1).cummax(1).values
    found = series.gather(1, index.clamp(min=0))
    return torch.where(index >= 0, found, torch.nan if before is None else before)
