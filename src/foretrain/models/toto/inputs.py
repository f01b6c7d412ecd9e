"""Prepare rows for the network: statistics, scaled values, and the empty patches before a row starts.

# R rows (variates of all windows), T steps, P patch size, S = T / P patches
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foretrain.models.toto.scaler import CausalStatistics, Scaler, Statistics
from foretrain.nn.observed import forward_fill


@dataclass(frozen=True)
class TotoInputs:
    """Scaled rows and the statistics that scaled them."""

    scaled: Tensor  # (R, T), all finite
    statistics: Statistics
    running: CausalStatistics  # for the steps that follow
    empty: Tensor | None = None  # (R, S) patches before a row's first observation; None = none, or compat


def prepare(
    scaler: Scaler,
    series: Tensor,
    observed: Tensor | None,
    *,
    prefix_length: int | None = None,
    compat: bool = False,
    whole: bool = False,
) -> TotoInputs:
    """Scale rows (R, T) for the network.

    Values of series that were not observed have no effect: the previous observed value replaces them, and the running
    mean (0 when scaled) before the first one. With compat they are used as stored, as upstream does.

    Args:
        scaler: the network's.
        series: (R, T) in data units, T a multiple of the patch size.
        observed: (R, T) bool; None = all values are observed.
        prefix_length: steps that determine the limits of the scale; None = all.
        compat: use values that were not observed, and empty patches, as upstream does.
        whole: the caller guarantees that every row has an observation in its first patch.
    """
    seen = torch.ones_like(series, dtype=torch.bool) if observed is None else observed
    statistics, running = scaler.start(series, seen, prefix_length)
    loc, scale = statistics
    if compat or observed is None:
        return TotoInputs((series - loc) / scale, statistics, running)
    scaled = ((forward_fill(series, seen) - loc) / scale).nan_to_num(nan=0.0)
    empty = None if whole else ~seen.unflatten(1, (-1, scaler.patch_size)).any(-1).cummax(1).values
    return TotoInputs(scaled, statistics, running, empty)
