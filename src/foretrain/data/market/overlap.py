"""What a second fetch says of bars that are stored: whether they are still on the same price base.

Sources give prices on the base of the day of the fetch: a split afterwards divides all older prices. Bars of two
fetches are one series only if bars that both hold are the same.

# T bars
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from foretrain.data.market.bars import PRICES, Bars

OVERLAP = 10  # newest stored bars that are fetched again
SAME = 1e-5  # relative; Yahoo's prices are float32, other sources give decimal digits
_CONSTANT = 2e-3  # relative spread of ratios that still are one factor: prices of cents are rounded after a split
_SMALLEST_SPLIT = 1.2  # of which the jump can be told from a session's usual move


@dataclass(frozen=True)
class OverlapCheck:
    """How stored bars differ from the same bars fetched again.

    rebased: the oldest of them has other prices, or is gone, so nothing says how far back the difference reaches.
    factor: new prices over stored ones, where all prices that differ do so by one factor; else None.
    revised, gone, added: numbers of bars with other values, no longer there, and there now between stored ones.
    """

    rebased: bool
    factor: float | None
    revised: int
    gone: int
    added: int

    def text(self) -> str:
        """Return what differs, in words; "" if nothing does."""
        counts = ((self.revised, "revised"), (self.gone, "no longer there"), (self.added, "added between"))
        return ", ".join(f"{count} stored bar{'s' * (count != 1)} {what}" for count, what in counts if count)


def compare(stored: Bars, fresh: Bars) -> OverlapCheck | None:
    """Compare stored bars with what a new fetch from their first stamp on gave; None if it gave none of them."""
    fresh = fresh.where((fresh.times >= stored.times[0]) & (fresh.times <= stored.times[-1]))
    common, old, new = np.intersect1d(stored.times, fresh.times, return_indices=True)
    if not len(common):
        return None
    before, after = stored.where(old), fresh.where(new)
    differing: np.ndarray = ~_same(before.values, after.values)
    prices = [stored.columns.index(name) for name in PRICES]
    price_differs: Any = differing[:, prices].any(axis=1)
    return OverlapCheck(
        rebased=bool(common[0] != stored.times[0] or price_differs[0]),
        factor=_factor(before.values[:, prices], after.values[:, prices], differing[:, prices]),
        revised=int(differing.any(axis=1).sum()),
        gone=len(stored) - len(common),
        added=len(fresh) - len(common),
    )


def unadjusted_splits(bars: Bars, after: int | None = None) -> list[tuple[int, float]]:
    """Return (row, ratio) of splits that prices before them are not adjusted for: the price jumps by the split's ratio.

    Splits of a ratio between 1 / 1.2 and 1.2 are not looked at. after: only of bars later than this time.
    """
    if "stock_splits" not in bars.columns:
        return []
    ratios, opens, closes = bars.column("stock_splits"), bars.column("open"), bars.column("close")
    found = []
    for row in np.flatnonzero(ratios > 0):
        ratio, first = float(ratios[row]), opens[row] if opens[row] > 0 else closes[row]
        before = closes[:row][closes[:row] > 0]
        if not len(before) or not first > 0 or max(ratio, 1 / ratio) < _SMALLEST_SPLIT:
            continue
        move = np.log(first / before[-1])
        if abs(move + np.log(ratio)) < abs(move) and (after is None or bars.times[row] > after):
            found.append((int(row), ratio))
    return found


def _same(old: np.ndarray, new: np.ndarray) -> Any:
    """Return where numbers are the same but for rounding; a missing one is the same as a missing one."""
    close = np.abs(new - old) <= SAME * np.maximum(np.abs(old), np.abs(new))
    return close | (np.isnan(old) & np.isnan(new))


def _factor(old: np.ndarray, new: np.ndarray, differing: np.ndarray) -> float | None:
    usable = differing & (old > 0) & (new > 0)
    if not usable.any() or (differing & ~usable).any():
        return None
    ratios = new[usable] / old[usable]
    middle = float(np.median(ratios))
    return middle if np.abs(ratios / middle - 1).max() <= _CONSTANT else None
