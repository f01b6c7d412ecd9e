"""Convert sampled candles to a forecast: repair, quantiles, mean and sample paths of the target rows.

# N series, S samples, H horizon, Q levels, M target rows
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foretrain.models.types import Forecast
from foretrain.notes import Code, Tally

HIGH, LOW = 1, 2


def summarise(
    candles: Tensor, rows: tuple[Tensor, Tensor], quantile_levels: Sequence[float], *, repair_candles: bool
) -> Forecast:
    """Return the forecast of target rows from sampled candles (N, S, H, 6).

    rows: window (M,) and column (M,) of each target row. repair_candles: call `repair` first and note the count.
    """
    notes: tuple[Tally, ...] = ()
    if repair_candles:
        candles, repaired = repair(candles)
        counts = {"repaired candles": repaired, "candles": candles[..., 0].numel()}
        notes = (Tally(Code.CANDLES_REPAIRED, "{repaired candles:,} of {candles:,} candles repaired", counts),)
    paths = candles[rows[0], :, :, rows[1]]  # (M, S, H)
    return Forecast(
        quantiles=sample_quantiles(paths, quantile_levels),
        levels=tuple(quantile_levels),
        samples=paths,
        mean=paths.mean(1),
        notes=notes,
    )


def sample_quantiles(paths: Tensor, levels: Sequence[float]) -> Tensor:
    """Return quantiles (M, H, Q) of sample paths (M, S, H), with numpy's default linear interpolation."""
    ordered = paths.sort(1).values
    index = torch.tensor([level * (paths.shape[1] - 1) for level in levels], dtype=torch.float64)
    low = index.floor().long()
    high = (low + 1).clamp(max=paths.shape[1] - 1)
    fraction = (index - low).to(device=paths.device, dtype=paths.dtype)[None, :, None]
    below, above = ordered[:, low.to(paths.device)], ordered[:, high.to(paths.device)]
    return (below + (above - below) * fraction).transpose(1, 2)


def repair(candles: Tensor) -> tuple[Tensor, int]:
    """Raise high and lower low to enclose open and close, and clamp negative volume and amount to 0.

    Returns the repaired candles (..., 6) and the number of candles that changed.
    """
    body = candles[..., :4]
    high, low = body.amax(-1), body.amin(-1)
    changed = (high > candles[..., HIGH]) | (low < candles[..., LOW]) | (candles[..., 4:] < 0).any(-1)
    fixed = candles.clone()
    fixed[..., HIGH], fixed[..., LOW] = high, low
    fixed[..., 4:] = candles[..., 4:].clamp(min=0.0)
    return fixed, int(changed.sum())
