"""Prices adjusted as of a date, by the splits and dividends up to that date and by none after it.

The cumulative factor F of a bar is the product over all events with an ex-date up to that bar: the ratio of a split
(2 for 2:1), and 1 / (1 - d / p) for a dividend d after a last close p. A price of bar t as of bar c is
price[t] * F[t] / F[c]: the price of bar c itself is the price as traded, and earlier ones are comparable with it. F[t]
depends on bars up to t alone, so nothing that happens after c can change what was known at c. Volumes are divided by
the same ratio of splits alone.

Some sources (Yahoo) have divided prices by all later splits already; `as_traded` multiplies them back.

# T bars of one series in order of time, V columns
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foretrain.data.windows import FloatArray, Mask

Doubles = npt.NDArray[np.float64]

PRICE_FACTOR, VOLUME_FACTOR = "price_factor", "volume_factor"
DIVIDENDS, SPLITS = "dividends", "stock_splits"
_CLEAR = np.log(1.4)  # ratio from which the prices beside a split say whether they have been adjusted for it


@dataclass(frozen=True)
class Events:
    """The corporate actions of one series: at each bar (T,) the ratio of a split, 1 without, and a dividend or 0."""

    splits: Doubles
    dividends: Doubles

    @classmethod
    def of(cls, splits: FloatArray | None, dividends: FloatArray | None, length: int) -> Events:
        """Return the events in the columns of a file: a split of 0, 1 or NaN is none, as is a dividend of 0 or NaN."""
        ratio = np.ones(length) if splits is None else splits.astype(np.float64)
        paid = np.zeros(length) if dividends is None else dividends.astype(np.float64)
        return cls(np.where((ratio == 0) | np.isnan(ratio), 1.0, ratio), np.where(np.isnan(paid), 0.0, paid))

    def impossible(self, close: FloatArray) -> Mask:
        """Return the bars (T,) whose events cannot be: a ratio of no split, a dividend as large as the last close."""
        before = last_close(close)
        wrong = ~(np.isfinite(self.splits) & (self.splits > 0) & (self.splits < 1e4))
        wrong |= ~np.isfinite(self.dividends) | (self.dividends < 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return wrong | (self.dividends * np.where(wrong, 1.0, self.splits) >= 0.9 * before)


def last_close(close: FloatArray) -> Doubles:
    """Return (T,) the newest positive close before each bar, NaN before the first."""
    known = np.where(close > 0, np.arange(len(close)), -1)
    at = np.concatenate([[-1], np.maximum.accumulate(known)[:-1]])
    return np.where(at >= 0, close.astype(np.float64)[at], np.nan)


def factors(close: FloatArray, events: Events) -> tuple[FloatArray, FloatArray]:
    """Return (T,) cumulative factors of prices and of volumes, from closes as traded; 1 at the first bar.

    An impossible event counts as none.
    """
    wrong = events.impossible(close)
    ratio = np.where(wrong, 1.0, events.splits)
    share = np.where(wrong, 0.0, events.dividends) * ratio / last_close(close)  # of the close before, per old share
    paid = 1 / (1 - np.where(np.isfinite(share), share, 0.0))
    ratio[:1] = 1.0
    return np.cumprod(ratio * paid).astype(np.float32), np.cumprod(ratio).astype(np.float32)


def adjusted(prices: FloatArray, factor: FloatArray, at: int) -> FloatArray:
    """Return prices (..., T) as of bar `at`: those up to it depend on no event after it, and its own are unchanged."""
    return prices * (factor / factor[at])


def evidence(close: FloatArray, opened: FloatArray | None, events: Events) -> tuple[Mask, Mask]:
    """Return the splits (T,) at which prices jump, as traded prices do, and those at which they do not.

    Splits below 7:5 are within what prices do in a day, and are in neither.
    """
    before = last_close(close)
    here = close if opened is None else np.where(opened > 0, opened, close)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.log(events.splits)
        jump = np.log(before) - np.log(here.astype(np.float64))
    clear = np.isfinite(jump) & np.isfinite(ratio) & (np.abs(ratio) >= _CLEAR)
    return clear & (np.abs(jump - ratio) < np.abs(ratio) / 3), clear & (np.abs(jump) < np.abs(ratio) / 3)


def later_splits(events: Events) -> Doubles:
    """Return (T,) the product of the ratios of all splits after each bar."""
    ratio = np.where(np.isfinite(events.splits) & (events.splits > 0), events.splits, 1.0)
    return np.append(np.cumprod(ratio[::-1])[::-1][1:], 1.0)
