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
STALE_TRADED = 10  # of bars with volume that span a tick at most: trades at one price
SPIKE_SIGMAS = 5.5  # least mean of the moves to and from a bad print; one of 8 passes with 2.5 of noise against it
_CHANCE = 1e-3  # runs of equal or of empty bars that chance may give a whole series
_LASTING = 10  # repeats around a run from which they say how long prices stand still there
_NEAR = 50  # bars on each side whose moves give the local scale
_AROUND = 250  # bars on each side whose repeats give the local share of repeats
_BESIDE = 20  # bars on each side of a hole that tell whether longer bars may be empty there
_SPLITS = np.log([1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50, 100])
_TOLERANCE = (0.06, 0.1)  # of the logarithm of a split's ratio, by the usual overnight moves
_NEWS = 8.0  # times the usual turnover
_UNREST = 40.0  # product of turnover and range, of the bar and of five bars, over the usual ones
_RISEN = 0.5  # of the highest close of a year, below which a price is not split in two or less
_YEAR = 250  # bars
_NO_TRADE = 1 / 50  # of the usual turnover, below which trading ended
_THIN = 0.3  # share of bars around without a range, from which they are single trades
_TAIL_THIN = 2.0  # times the largest of a hundred moves, that a bad print is there
_LEVELS = 6  # different closes around a split, below which one tick of the price can look like it
_NARROW = 2.5  # ticks that a bar must span for its repetition to say something
_TICKS = 3.5  # a move of fewer is one between bid and ask
_BOUNCES = 0.004  # share of bars at most that leave the level and return: thin markets trade at bid and ask in turn
_ZONES = (None, "America/New_York", "Europe/Berlin")  # clocks that changes of summer time keep constant
_SHIFT = HOUR // 2  # smallest step between time zones that is looked for
_STEADY_SHARE = 0.7  # of days that open at the usual time, for a series to have one


def stale(prices: FloatArray, volume: FloatArray | None = None) -> Mask:
    """Return the bars of (P, T) prices in a run that equals the bar before it, too long to be chance.

    Chance is judged by the share of repeated bars in the series, and near the run, without the run: a stock without
    trades for days or a coarse tick repeats itself often. Where prices of bars that span a tick at most, which are
    trades at one price, stood still for long, they may do so again. Where not all prices of a bar are known, a run must
    be longer: old closes stand still for weeks. A bar of which the volume (T,) is 0 had no trade: it is zero_volume and
    not stale.
    """
    same: Mask = np.zeros(prices.shape[1], bool)
    missing: Mask = np.isnan(prices)
    both_missing = missing[:, 1:] & missing[:, :-1]
    equal = np.asarray(prices[:, 1:] == prices[:, :-1]) | both_missing
    same[1:] = equal.all(axis=0) & ~missing[:, 1:].all(axis=0)
    part = np.asarray(missing.any(axis=0)) if len(prices) > 1 else np.zeros_like(same)
    narrow = one_price(prices)
    traded = np.zeros_like(same) if volume is None else np.asarray(volume > 0)
    result = np.zeros_like(same)
    starts, lengths = _runs(same)
    least = np.where(part[starts], STALE_IN_PART, np.where(narrow[starts] & traded[starts], STALE_TRADED, STALE_BARS))
    repeats, lasting = (_before(mask) for mask in (same, same & np.append(same[1:], False)))
    total = len(same)
    for first, length in zip(starts[lengths >= least], lengths[lengths >= least], strict=True):
        low, high = max(0, first - _AROUND), min(total, first + length + _AROUND)
        near = (high - low) - length
        nearby = repeats[high] - repeats[low] - length
        share = max((repeats[-1] - length) / max(total - length, 1), nearby / max(near, 1), 1e-3)
        if nearby >= _LASTING and (narrow[first] or part[first]):
            share = max(share, (lasting[high] - lasting[low] - length + 1) / nearby)
        if total * min(share, 0.999) ** length < _CHANCE:
            result[first : first + length] = True
    return result if volume is None else result & ~np.asarray(volume == 0)


def one_price(prices: FloatArray) -> Mask:
    """Return the bars of (4, T) open, high, low, close that span a tick at most: trades at one price, or bid and ask.

    Of (1, T) closes, those that equal the one before.
    """
    if len(prices) == 1:
        return np.append(False, prices[0, 1:] == prices[0, :-1])
    span = prices[1].astype(np.float64) - prices[2]
    return np.asarray(np.isfinite(span) & (span <= 1.5 * _tick(prices[3])))


def unexplained(after: IntArray, missing: IntArray, flat: Mask, *, brief: bool) -> Mask:
    """Return which holes (G,) of a series are longer than its own empty bars make likely: bars that the source lost.

    after (G,) are the rows after the holes, missing (G,) their lengths; flat (T,) are the bars without a move, which
    are of one trade or few. Bars are empty in places where others nearly are: the share of flat bars and of other
    holes, in the series and nearby, is that of empty ones. Bars that are not brief (a quarter of an hour and longer)
    are empty where others nearby are flat, and nowhere else. Holes over twice as long say nothing about shorter ones.
    """
    result = np.zeros(len(after), bool)
    few = _before(flat)
    total = len(flat) + int(missing.sum())
    near = _AROUND if brief else _BESIDE
    low, high = np.maximum(after - near, 0), np.minimum(after + near, len(flat))
    spans = ((np.zeros_like(low), np.full_like(high, len(flat))), (low, high)) if brief else ((low, high),)
    for length in np.unique(missing).tolist():
        mine, alike = missing == length, missing <= 2 * length
        lost = np.zeros(len(flat), np.int64)
        lost[after[alike]] = missing[alike]
        sums = _before(lost)
        share = np.zeros(int(mine.sum()))
        for first, last in spans:
            bars, empty = (table[last[mine]] - table[first[mine]] for table in (few, sums))
            empty = empty - length  # without the hole itself
            slots = np.maximum(last[mine] - first[mine] + empty, 1)
            share = np.maximum(share, (bars + empty) / slots) if brief else (bars + np.minimum(empty, bars)) / slots
        result[mine] = total * np.minimum(share, 1.0) ** length < _CHANCE
    return result


def _runs(mask: Mask) -> tuple[IntArray, IntArray]:
    """Return the first bars of the runs in a mask, and their lengths."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return edges[::2], edges[1::2] - edges[::2]


def _before(counts: npt.NDArray[np.bool_] | IntArray) -> IntArray:
    """Return (T + 1,) the sum of the counts (T,) before each bar, and of all."""
    return np.concatenate([[0], np.cumsum(counts)])


def repeated(prices: FloatArray, volume: FloatArray) -> Mask:
    """Return the bars with all (P, T) prices and the volume of the bar before, which moved and traded.

    Bars that span two ticks or less are no evidence, nor are repeats in a series that has many of them, nor those that
    are likely where the prices of bars as wide repeat with other volumes, and the volume is a usual one.
    """
    result = np.zeros(len(volume), bool)
    alike = np.append(False, (prices[:, 1:] == prices[:, :-1]).all(axis=0))
    span = prices.max(axis=0).astype(np.float64) - prices.min(axis=0)
    moved = (span > _NARROW * _tick(prices[-1])) & (volume > 0)
    result[1:] = alike[1:] & (volume[1:] == volume[:-1]) & moved[1:]
    if result.sum() > 0.01 * len(result) + 1:
        return np.zeros_like(result)
    others = alike & ~result
    for bar in np.flatnonzero(result):
        near = slice(max(0, bar - _AROUND), bar + _AROUND)
        as_wide = span >= 0.99 * span[bar]
        prices_repeat = max(float(np.mean(others[part][as_wide[part]])) for part in (slice(None), near))
        volume_repeats = (np.count_nonzero(volume[near] == volume[bar]) - 2) / len(volume[near])
        result[bar] = len(volume) * prices_repeat * volume_repeats < _CHANCE
    return result


def moves(close: FloatArray) -> Doubles:
    """Return (T,) the logarithm of each close over the last positive one before it, NaN without one."""
    result = np.full(len(close), np.nan)
    held = np.flatnonzero(close > 0)
    level = np.log(close[held].astype(np.float64))
    result[held[1:]] = np.diff(level)
    return result


def local_scale(moved: Doubles) -> Doubles:
    """Return (T,) the robust standard deviation of the moves around each bar, that of all moves at least by half.

    Bars that do not move are left out: in thin hours most do not, and those that do are trades apart.
    """
    known = np.flatnonzero(np.isfinite(moved) & (moved != 0))
    result = np.full(len(moved), np.nan)
    if len(known) < 3:
        return np.where(np.isfinite(moved), 0.0, np.nan) if np.isfinite(moved).sum() >= 3 else result
    from scipy import ndimage  # a slow import, which few commands need

    size = np.abs(moved[known])
    near = min(_NEAR, len(size) - 1)
    local = ndimage.median_filter(size, 2 * near + 1, mode="mirror")
    scale = 1.4826 * np.maximum(local, 0.5 * float(np.median(size)))
    every = np.flatnonzero(np.isfinite(moved))
    result[every] = scale[np.minimum(np.searchsorted(known, every), len(known) - 1)]
    return result


def spikes(close: FloatArray, opened: FloatArray | None, scale: Doubles, flat: Mask | None = None) -> Mask:
    """Return the bars whose close leaves the level around it and is back with the next bar's open: bad prints.

    A crash does not come back; a rebound of the next day starts near the close before it; and where many bars return
    from moves nearly as large, as between bid and ask, none is a fault. A bad print is also larger than the largest
    moves in a hundred around it, in thin hours by twice: single trades are far off. scale: local_scale of the moves
    (T,); flat (T,): bars without a range.
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
    for bar in np.flatnonzero(hit):
        around = np.abs(np.diff(level[max(0, bar + 1 - _AROUND) : bar + 2 + _AROUND]))
        thin = flat is not None and np.mean(flat[held][max(0, bar + 1 - _NEAR) : bar + 2 + _NEAR]) >= _THIN
        hit[bar] = mean[bar] > (_TAIL_THIN if thin else 1.0) * np.quantile(around, 0.99)
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


def split_like(bars: FloatArray, volume: FloatArray | None = None) -> Mask:
    """Return the bars at which close and open leave the last close by the ratio of a usual split, for good.

    bars: (4, T) open, high, low, close, or (1, T) closes alone. The jump is a multiple of the usual moves and of those
    of the twenty bars around it, and the level stays. A split leaves range and turnover as they were, the volume grows
    as the price falls: up to a ratio of four, which real news can cause, both together must not be those of news, and
    prices without volumes (T,) tell nothing; beyond, the turnover must not be that of a stock whose trading ends.
    Shares are split after a rise: a fall by half or less of a price under half of the year's highest is none.
    """
    close = bars[-1]
    result = np.zeros(len(close), bool)
    held = np.flatnonzero(close > 0)
    if len(held) < 8:
        return result
    level = np.log(close[held].astype(np.float64))
    jump = np.diff(level)
    opened = bars[0, held] if len(bars) > 1 else close[held]
    gap = np.log(np.where(opened > 0, opened, close[held]).astype(np.float64))[1:] - level[:-1]
    scale, usual = local_scale(gap), local_scale(jump)
    off = np.abs(np.abs(gap)[:, None] - _SPLITS)
    nearest = _SPLITS[off.argmin(axis=1)]
    tolerance = np.clip(3 * scale, *_TOLERANCE)
    match = (off.min(axis=1) <= tolerance) & (nearest >= np.maximum(6 * scale, 4 * usual))
    match &= np.abs(jump - gap) <= np.minimum(np.maximum(4 * usual, 0.06), 0.4 * nearest)
    spans = None if len(bars) == 1 else _spans(bars[1, held], bars[2, held])
    turnover = None if volume is None else close[held].astype(np.float64) * volume[held]
    for at in (np.flatnonzero(match) + 1).tolist():
        ratio = nearest[at - 1]
        before, after = np.median(level[max(0, at - 5) : at]), np.median(level[at : at + 5])
        stays = abs((after - before) * np.sign(gap[at - 1]) - ratio) <= 0.3 * ratio + 3 * usual[at - 1]
        ticks = len(np.unique(close[held][max(0, at - 20) : at + 20])) < _LEVELS
        around = np.abs(np.concatenate([jump[max(0, at - 11) : at - 1], jump[at : at + 10]]))
        restless = ratio < 4 * 1.4826 * np.median(around)
        fallen = level[at - 1] - level[max(0, at - _YEAR) : at].max() < np.log(_RISEN)
        if not stays or ticks or restless or (fallen and ratio <= np.log(2.0) and gap[at - 1] < 0):
            continue
        if ratio > np.log(4.5):
            result[held[at]] = turnover is None or _goes_on(turnover, at)
        else:
            result[held[at]] = turnover is not None and not _news(turnover, spans, at)
    return result


def _spans(high: FloatArray, low: FloatArray) -> Doubles:
    """Return the logarithm of high over low, NaN where one of them is not positive."""
    known = (high > 0) & (low > 0)
    result = np.full(len(high), np.nan)
    result[known] = np.log(high[known].astype(np.float64) / low[known])
    return result


def _news(turnover: Doubles, spans: Doubles | None, at: int) -> bool:
    """Return True if the turnover of a bar, or turnover and range of it and of the five bars from it, are of news."""
    traded = _over(turnover, at, 1)
    if traded >= _NEWS:
        return True
    unrest = traded * _over(turnover, at, 5)
    if spans is not None:
        unrest *= _over(spans, at, 1) * _over(spans, at, 5)
    return unrest >= _UNREST


def _goes_on(turnover: Doubles, at: int) -> bool:
    """Return False if the best of the five bars from `at` has next to nothing of the turnover before: trading ended."""
    before = turnover[max(0, at - 20) : at]
    return bool(np.nanmax(turnover[at : at + 5]) >= _NO_TRADE * np.nanmedian(before))


def _over(values: Doubles, at: int, bars: int) -> float:
    """Return the median of some bars over that of the twenty bars before them, of those known; 1 without a usual."""
    before, here = values[max(0, at - 20) : at], values[at : at + bars]
    before, here = before[before > 0], here[np.isfinite(here)]
    return float(np.median(here) / np.median(before)) if len(before) and len(here) else 1.0


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
