"""Bars of one series that are probably faults of the source: stuck feeds, bad prints, unrecorded splits, moved clocks.

Each function returns a mask of bars and decides nothing. Scales are robust and local, so that a crisis is judged by its
own volatility. Thresholds were set on one half of the series of tests/proofs/market_rules.py and are measured there on
the other half.

# T bars of one series in order of time, D days with a bar
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from foretrain.data.windows import FloatArray, IntArray, Mask
from foretrain.timeaxis.frequency import DAY, HOUR

Doubles = npt.NDArray[np.float64]

STALE_BARS = 5  # a week of daily bars without a change
STALE_IN_PART = 25  # of bars of which not all prices are known
SPIKE_SIGMAS = 5.5  # least mean of the moves to and from a bad print; one of 8 passes with 2.5 of noise against it
_CHANCE = 1e-3  # runs of equal bars that chance may give a whole series
_NEAR = 50  # bars on each side whose moves give the local scale
_AROUND = 250  # bars on each side whose repeats give the local share of repeats
_SPLITS = np.log([1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50, 100])
_TOLERANCE = (0.06, 0.1)  # of the logarithm of a split's ratio, by the usual overnight moves
_NEWS = 8.0  # times the usual turnover
_LEVELS = 6  # different closes around a split, below which one tick of the price can look like it
_BLOCK = 1 << 14
_TICKS = 3.5  # a move of fewer is one between bid and ask
_BOUNCES = 0.004  # share of bars at most that leave the level and return: thin markets trade at bid and ask in turn
_ZONES = (None, "America/New_York", "Europe/Berlin")  # clocks that changes of summer time keep constant
_SHIFT = HOUR // 2  # smallest step between time zones that is looked for
_STEADY_SHARE = 0.7  # of days that open at the usual time, for a series to have one


def stale(prices: FloatArray) -> Mask:
    """Return the bars of (P, T) prices in a run that equals the bar before it, too long to be chance.

    Chance is judged by the share of repeated bars in the series, and near the run, without the run: a stock without
    trades for days or a coarse tick repeats itself often. Where not all prices of a bar are known, a run must be
    longer: old closes stand still for weeks.
    """
    same: Mask = np.zeros(prices.shape[1], bool)
    missing: Mask = np.isnan(prices)
    both_missing = missing[:, 1:] & missing[:, :-1]
    equal = np.asarray(prices[:, 1:] == prices[:, :-1]) | both_missing
    same[1:] = equal.all(axis=0) & ~missing[:, 1:].all(axis=0)
    part = np.asarray(missing.any(axis=0)) if len(prices) > 1 else np.zeros_like(same)
    result = np.zeros_like(same)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    least = np.where(part[starts], STALE_IN_PART, STALE_BARS)
    before = np.concatenate([[0], np.cumsum(same)])
    total = len(same)
    for first, length in zip(starts[lengths >= least], lengths[lengths >= least], strict=True):
        low, high = max(0, first - _AROUND), min(total, first + length + _AROUND)
        overall = (before[-1] - length) / max(total - length, 1)
        nearby = (before[high] - before[low] - length) / max(high - low - length, 1)
        share = min(max(overall, nearby, 1e-3), 0.999)
        if total * share**length < _CHANCE:
            result[first : first + length] = True
    return result


def repeated(prices: FloatArray, volume: FloatArray) -> Mask:
    """Return the bars with all (P, T) prices and the volume of the bar before, which moved and traded.

    Bars of one price are no evidence, nor are repeats in a series that has many of them.
    """
    result = np.zeros(len(volume), bool)
    same = (prices[:, 1:] == prices[:, :-1]).all(axis=0) & (volume[1:] == volume[:-1])
    moved = (prices.max(axis=0) > prices.min(axis=0)) & (volume > 0)
    result[1:] = same & moved[1:]
    return result if result.sum() <= 0.01 * len(result) + 1 else np.zeros_like(result)


def moves(close: FloatArray) -> Doubles:
    """Return (T,) the logarithm of each close over the last positive one before it, NaN without one."""
    result = np.full(len(close), np.nan)
    held = np.flatnonzero(close > 0)
    level = np.log(close[held].astype(np.float64))
    result[held[1:]] = np.diff(level)
    return result


def local_scale(moved: Doubles) -> Doubles:
    """Return (T,) the robust standard deviation of the moves around each bar, that of all moves at least by half."""
    known = np.flatnonzero(np.isfinite(moved))
    result = np.full(len(moved), np.nan)
    if len(known) < 3:
        return result
    size = np.abs(moved[known])
    near = min(_NEAR, len(size) - 1)
    padded = np.pad(size, near, mode="reflect")
    view = np.lib.stride_tricks.sliding_window_view(padded, 2 * near + 1)
    local = np.concatenate([np.median(view[k : k + _BLOCK], axis=1) for k in range(0, len(size), _BLOCK)])
    steady = size[size > 0]
    usual = float(np.median(steady)) if len(steady) else 0.0
    result[known] = 1.4826 * np.maximum(local, 0.5 * usual)
    return result


def spikes(close: FloatArray, opened: FloatArray | None, scale: Doubles) -> Mask:
    """Return the bars whose close leaves the level around it and is back with the next bar's open: bad prints.

    A crash does not come back; a rebound of the next day starts near the close before it; and where many bars return
    from moves nearly as large, as between bid and ask, none is a fault. scale: local_scale of the moves (T,).
    """
    result = np.zeros(len(close), bool)
    held = np.flatnonzero(close > 0)
    if len(held) < 4:
        return result
    level = np.log(close[held].astype(np.float64))
    out, back = level[1:-1] - level[:-2], level[2:] - level[1:-1]
    mean = (np.abs(out) + np.abs(back)) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.where((out * back < 0) & (np.abs(out + back) <= 0.75 * mean), mean / scale[held[1:-1]], 0.0)
    bounces = np.sort(size)
    larger = len(size) - np.searchsorted(bounces, 0.7 * size)
    hit = (size >= SPIKE_SIGMAS) & (larger <= _BOUNCES * len(size) + 2)
    hit &= np.abs(np.diff(close[held].astype(np.float64)))[:-1] > _TICKS * _tick(close[held])[1:-1]
    if opened is not None:
        start = opened[held]
        with np.errstate(divide="ignore", invalid="ignore"):
            gap = np.log(start[2:].astype(np.float64)) - level[1:-1]
        apart = gap * np.sign(back) >= 0.6 * mean
        hit &= np.where(start[2:] > 0, apart, True)
    result[held[1:-1][hit]] = True
    return result


def _tick(close: FloatArray) -> Doubles:
    """Return (T,) the smallest change of the close around each bar, 0 without one: the tick of coarse prices."""
    change = np.abs(np.diff(close.astype(np.float64), prepend=close[0]))
    change[change == 0] = np.inf
    near = min(_NEAR, len(change) - 1)
    view = np.lib.stride_tricks.sliding_window_view(np.pad(change, near, constant_values=np.inf), 2 * near + 1)
    smallest = view.min(axis=1)
    return np.where(np.isfinite(smallest), smallest, 0.0)


def split_like(close: FloatArray, opened: FloatArray | None = None, volume: FloatArray | None = None) -> Mask:
    """Return the bars at which close and open leave the last close by the ratio of a usual split, for good.

    The jump is a multiple of the usual moves, the level stays, and up to a ratio of four, which real news can cause,
    the turnover has not risen as it does on news: in a split, the volume grows as the price falls. Up to that ratio
    closes alone tell nothing.
    """
    result = np.zeros(len(close), bool)
    held = np.flatnonzero(close > 0)
    if len(held) < 8:
        return result
    level = np.log(close[held].astype(np.float64))
    jump = np.diff(level)
    opening = level[1:] if opened is None else np.log(np.where(opened[held] > 0, opened[held], np.nan))[1:]
    opening = np.where(np.isfinite(opening), opening, level[1:])
    gap = opening - level[:-1]
    scale, usual = local_scale(gap), local_scale(jump)
    off = np.abs(np.abs(gap)[:, None] - _SPLITS)
    nearest = _SPLITS[off.argmin(axis=1)]
    tolerance = np.clip(3 * scale, *_TOLERANCE)
    match = (off.min(axis=1) <= tolerance) & (nearest >= np.maximum(6 * scale, 4 * usual))
    match &= np.abs(jump - gap) <= np.minimum(np.maximum(4 * usual, 0.06), 0.4 * nearest)
    told = volume is not None or (opened is not None and bool(np.isfinite(opened[held]).any()))  # from news
    for at in (np.flatnonzero(match) + 1).tolist():
        before, after = np.median(level[max(0, at - 5) : at]), np.median(level[at : at + 5])
        stays = (
            abs((after - before) * np.sign(gap[at - 1]) - nearest[at - 1]) <= 0.3 * nearest[at - 1] + 3 * usual[at - 1]
        )
        ticks = len(np.unique(close[held][max(0, at - 20) : at + 20])) < _LEVELS
        if (
            stays
            and not ticks
            and (nearest[at - 1] > np.log(4.5) or (told and not _news(close[held], volume, held, at)))
        ):
            result[held[at]] = True
    return result


def _news(close: FloatArray, volume: FloatArray | None, held: IntArray, at: int) -> bool:
    """Return True if the turnover of a bar is that of news: a multiple of the median of the twenty bars before it."""
    if volume is None:
        return False
    turnover = close.astype(np.float64) * volume[held]
    before = turnover[max(0, at - 20) : at]
    before = before[before > 0]
    return bool(len(before)) and bool(turnover[at] >= _NEWS * np.median(before))


def shifted(times: IntArray) -> Mask:
    """Return the bars of the days that open and close earlier or later than usual, both by the same time.

    Half days move one end only, and a change of summer time moves both until the next one; neither is found, nor is a
    shift in a series that trades day and night.
    """
    result = np.zeros(len(times), bool)
    best: tuple[float, Mask] = (0.0, result)
    for zone in _ZONES:
        found = _off_clock(times if zone is None else _local(times, zone))
        if found is not None and found[0] > best[0]:
            best = found
    return best[1]


def _off_clock(times: IntArray) -> tuple[float, Mask] | None:
    """Return the share of days that open at the usual time, and the bars of days moved by it; None without a usual."""
    if len(times) < 3:
        return None
    day = times // DAY
    firsts = np.flatnonzero(np.diff(day, prepend=day[0] - 1))
    opens, closes = times[firsts] % DAY, times[np.append(firsts[1:], len(times)) - 1] % DAY
    counts = np.diff(np.append(firsts, len(times)))
    values, seen = np.unique(opens, return_counts=True)
    usual_open, share = values[seen.argmax()], float(seen.max() / len(opens))
    ends, ended = np.unique(closes, return_counts=True)
    usual_close = ends[ended.argmax()]
    if share < _STEADY_SHARE or ended.max() < _STEADY_SHARE * len(closes) or len(opens) < 3:
        return None
    shift = opens - usual_open
    bars = float(np.median(counts))
    moved = (
        (shift != 0) & (shift % _SHIFT == 0) & (closes - usual_close == shift) & (np.abs(counts - bars) <= 0.2 * bars)
    )
    return share, np.repeat(moved, counts)


def _local(times: IntArray, zone: str) -> IntArray:
    """Return the wall clock of a zone at instants of UTC."""
    import pandas as pd

    known = pd.DatetimeIndex(times.view("datetime64[us]")).tz_localize("UTC")
    return known.tz_convert(zone).tz_localize(None).as_unit("us").asi8
