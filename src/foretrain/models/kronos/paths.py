"""Convert sampled candles to a forecast: repair, quantiles, mean and sample paths of the target rows.

# N series, S samples, H horizon, Q levels, M target rows
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foretrain.models.kronos.config import COLUMNS, PRICES
from foretrain.models.types import Forecast
from foretrain.notes import Code, Tally

HIGH, LOW = COLUMNS.index("high"), COLUMNS.index("low")
NUM_PRICES = len(PRICES)  # the first columns; volume and amount follow


def summarise(
    candles: Tensor,
    rows: tuple[Tensor, Tensor],
    quantile_levels: Sequence[float],
    *,
    repairs: bool,
    positive: Tensor | None = None,
) -> Forecast:
    """Return the forecast of target rows from sampled candles (N, S, H, 6).

    rows: window (M,) and column (M,) of each target row. repairs: call `repair` first, with positive, and note in how
    many candles it changed a target.
    """
    notes: tuple[Tally, ...] = ()
    if repairs:
        fixed = repair(candles, positive)
        changed = (fixed != candles) & ~candles.isnan()
        asked = torch.zeros(len(candles), candles.shape[-1], dtype=torch.bool, device=candles.device)
        asked[rows] = True
        count = int((changed & asked[:, None, None]).any(-1).sum())
        counts = {"repaired candles": count, "candles": candles[..., 0].numel()}
        notes = (Tally(Code.CANDLES_REPAIRED, "{repaired candles:,} of {candles:,} candles repaired", counts),)
        candles = fixed
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


def repair(candles: Tensor, positive: Tensor | None = None) -> Tensor:
    """Return candles (N, S, H, 6) whose high and low enclose open and close, without negative volumes and amounts.

    positive: (N,) True for items whose prices were always above 0; their prices are not below 0 either.
    """
    fixed = candles.clone()
    fixed[..., NUM_PRICES:] = candles[..., NUM_PRICES:].clamp(min=0.0)
    prices = candles[..., :NUM_PRICES]
    if positive is not None:
        prices = torch.where(positive[:, None, None, None], prices.clamp(min=0.0), prices)
    fixed[..., :NUM_PRICES] = prices
    fixed[..., HIGH], fixed[..., LOW] = prices.amax(-1), prices.amin(-1)
    return fixed
