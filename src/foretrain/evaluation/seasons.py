"""Seasons found in data: lags at which the changes of a corpus' series repeat, from values before the first origin.

The season of MASE is a convention of the frequency (1 for daily data, whatever their week looks like). A baseline that
knows the data's own season is the harder test, so one is looked for among the natural cycles of the frequency.

Plain autocorrelation calls every random walk weekly, as it is near 1 at each lag. So the test is on one-step changes,
and asks for a local peak: the autocorrelation at the season, and at its double, must exceed those a little before and
after it. Each of these four differences is a sum over stretches of time, divided by the root of the sum of their
squares: if a stretch is as likely to be positive as negative (no season, whatever the volatility and the tails),
P(statistic > x) <= exp(-x^2 / 2), for any number of stretches (Efron 1969, "Student's t-test under symmetry
conditions"). Sums over items come first, so items that move together count as one.

# T steps of an item, L lags, B stretches of time
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from foretrain.evaluation.scored import Array, Ints

MAX_ITEMS = 64  # series of one column; of a larger corpus items are drawn
MAX_ROWS = 10_000  # newest rows of an item that are read, or as many as eight of its longest candidates
LONGEST = 10_080  # a week of minutes
LONGEST_SEARCHED = 400  # without a frequency: two days of quarter hours, a week of half hours, a year of days
# Of each statistic: for a season and for one that holds a shorter one, among the cycles of a frequency and all lags.
KNOWN_LIMITS, SEARCH_LIMITS = (2.0, 1.5), (2.5, 2.0)
MIN_RISE = 0.05  # of the autocorrelation, at the season above its surroundings
MIN_STRETCH, STRETCHES = 4, 80  # steps of a stretch, at least; stretches, about
CLIP = 4.0  # deviations of an item's changes, so that single jumps do not decide


@dataclass(frozen=True)
class History:
    """The values of one item before the first origin, and their position in time, in steps of any common origin."""

    values: Array  # (T,) NaN = not observed
    position: Ints  # (T,) ascending


class Seasons(NamedTuple):
    """Seasons found, in steps."""

    all: tuple[int, ...] = ()
    main: int | None = None  # the one to repeat: it holds the shorter ones that divide it


def find_seasons(items: Sequence[History], candidates: Sequence[int] | None) -> Seasons:
    """Return the seasons of items that chance does not explain.

    candidates: seasons to consider; None = every lag from 2 to a third of the longest item, at most LONGEST_SEARCHED.
    A multiple of a season that is found (a week of days) must be a peak among the multiples too, in one-step changes or
    in those over the shorter season: of one-step changes a smooth week is too small a part.
    """
    longest = max((len(item.values) for item in items), default=0)
    limits = SEARCH_LIMITS if candidates is None else KNOWN_LIMITS
    lags = range(2, min(longest // 3, LONGEST_SEARCHED) + 1) if candidates is None else sorted(candidates)
    lags = [lag for lag in lags if lag > 1 and 2 * lag + _reach(lag) < longest]
    sides = {lag: {_reach(lag), *(base for base in lags if base < lag and lag % base == 0)} for lag in lags}
    needed = {k * lag + side for lag in lags for k in (1, 2) for reach in sides[lag] for side in (-reach, 0, reach)}
    if candidates is None:
        needed = set(range(1, 2 * lags[-1] + lags[-1] // 2 + 1)) if lags else set()
    table = _Table.of(items, sorted(needed))
    found: list[int] = []
    for lag in lags:
        reach, bases = _reach(lag), [base for base in found if lag % base == 0]
        if candidates is None and not table.is_highest(lag, reach):
            continue
        if not table.peaks(lag, reach, limits[0]):
            continue
        if not bases or table.peaks(lag, bases[-1], limits[1]) or _is_slow(items, lag, bases[-1], limits[1]):
            found.append(lag)
    outer = [lag for lag in found if not any(other > lag and other % lag == 0 for other in found)]
    return Seasons(tuple(found), max(outer, key=lambda lag: table.shares(lag).sum()) if outer else None)


def _is_slow(items: Sequence[History], lag: int, base: int, limit: float) -> bool:
    """Return whether a multiple of a season is a peak among the multiples in the changes over that season."""
    table = _Table.of(items, [k * lag + side for k in (1, 2) for side in (-base, 0, base)], base)
    return table.peaks(lag, base, limit)


def _reach(lag: int) -> int:
    """Return how far from a lag its surroundings are: a quarter, where a smooth cycle is at 0."""
    return max(1, lag // 4)


def _changes(item: History, over: int) -> tuple[Array, Ints] | None:
    """Return an item's changes over some steps, centred, clipped and of unit mean square, and their positions."""
    changes = item.values[over:] - item.values[:-over]
    observed = changes[np.isfinite(changes)]
    if len(observed) < 4:
        return None
    changes = changes - np.median(observed)
    size = np.abs(changes[np.isfinite(changes)])
    # The median change is 0 where a value mostly stays; their mean then is the scale.
    scale = np.median(size) / 0.6745 or size.mean()
    if not 0 < scale < np.inf:
        return None
    changes = np.clip(changes / scale, -CLIP, CLIP)
    changes -= np.nanmean(changes)
    power = np.nanmean(changes**2)
    return (changes / np.sqrt(power), item.position[over:]) if power > 0 else None


@dataclass(frozen=True)
class _Table:
    """Sums of products of changes that are a lag apart, by lag and stretch of time."""

    row: dict[int, int]  # of each lag
    sums: Array  # (L, B)
    counts: Array  # (L,) products

    @classmethod
    def of(cls, items: Sequence[History], lags: Sequence[int], over: int = 1) -> _Table:
        """Return the table of the items' changes over some steps. Neighbours among these overlap in all but one."""
        parts = [part for item in items if (part := _changes(item, over)) is not None]
        first = min((int(position[0]) for _, position in parts), default=0)
        steps = max((int(position[-1]) for _, position in parts), default=0) - first + 1
        width = max(MIN_STRETCH, 2 * over, -(-steps // STRETCHES))
        stretches = -(-steps // width)
        sums, counts = np.zeros((len(lags), stretches)), np.zeros(len(lags))
        for changes, position in parts:
            stretch = (position - first) // width
            observed = np.isfinite(changes)
            filled = np.where(observed, changes, 0.0)
            for row, lag in enumerate(lags):
                if lag >= len(filled):
                    break
                sums[row] += np.bincount(stretch[lag:], filled[lag:] * filled[:-lag], stretches)
                counts[row] += np.count_nonzero(observed[lag:] & observed[:-lag])
        return cls({lag: row for row, lag in enumerate(lags)}, sums, counts)

    def shares(self, lag: int) -> Array:
        """Return each stretch's share of the autocorrelation at a lag (B,); NaN if nothing is so far apart."""
        row = self.row[lag]
        return self.sums[row] / self.counts[row] if self.counts[row] else np.full(self.sums.shape[1], np.nan)

    def peaks(self, lag: int, reach: int, limit: float) -> bool:
        """Return whether the autocorrelation at a lag and at its double exceeds that `reach` before and after it."""
        for top in (lag, 2 * lag):
            for side in (top - reach, top + reach):
                rise = self.shares(top) - self.shares(side)
                spread = np.sqrt((rise**2).sum())
                if not (rise.sum() >= MIN_RISE and rise.sum() > limit * spread):
                    return False
        return True

    def is_highest(self, lag: int, reach: int) -> bool:
        """Return whether no lag within `reach` has a higher autocorrelation."""
        own = self.shares(lag).sum()
        around = range(max(1, lag - reach), lag + reach + 1)
        return all(not self.shares(other).sum() > own for other in around)
