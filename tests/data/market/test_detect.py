"""Faults of single series, on small bars made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from foretrain.data.market import detect
from foretrain.timeaxis.frequency import DAY, HOUR


def test_a_bounce_between_bid_and_ask_is_no_bad_print() -> None:
    close = np.full(400, 1.0, np.float32)
    close[::2] += np.float32(0.01)
    close[200] += np.float32(0.02)
    assert not detect.spikes(close, None, detect.local_scale(detect.moves(close))).any()


def test_changes_of_summer_time_and_half_days_are_no_moved_clock() -> None:
    pandas = pytest.importorskip("pandas")
    days = pandas.bdate_range("2024-01-02", "2024-12-30", tz="America/New_York")
    bars = np.concatenate([(day + pandas.to_timedelta(9.5 + np.arange(7), "h")).tz_convert("UTC") for day in days])
    times = pandas.DatetimeIndex(bars).tz_localize(None).as_unit("us").asi8
    half = (times // DAY == times[700] // DAY) & (times % DAY > times[700] % DAY)
    assert not detect.shifted(times[~half]).any()
    moved = np.where(times // DAY == times[1000] // DAY, times + HOUR, times)
    assert detect.shifted(moved).sum() == 7


def test_four_equal_bars_are_not_stale_and_five_are_unless_repeats_are_usual() -> None:
    close = np.arange(20, dtype=np.float32)[None]
    close[0, 5:9] = close[0, 4]
    assert not detect.stale(close).any()
    close[0, 9] = close[0, 4]
    np.testing.assert_array_equal(np.flatnonzero(detect.stale(close)), np.arange(5, 10))
    idle = np.repeat(np.arange(40, dtype=np.float32), 4)[None]
    idle[0, 80:86] = idle[0, 79]
    assert not detect.stale(idle).any()


def test_a_bar_without_trades_and_one_of_a_single_tick_are_not_stale() -> None:
    rng = np.random.default_rng(0)
    close = np.cumsum(rng.normal(size=400)).astype(np.float32) + 100
    prices = np.stack([close, close + 1, close - 1, close])
    volume = rng.uniform(100, 200, 400).astype(np.float32)
    prices[:, 200:208] = prices[:, 199:200]
    assert detect.stale(prices, volume).sum() == 8
    volume[200:208] = 0
    assert not detect.stale(prices, volume).any()
    volume[200:208] = 5
    prices[:, 199:208] = prices[3, 199]  # trades at one price, fewer than ten bars
    assert not detect.stale(prices, volume).any()


def test_a_hole_is_lost_bars_unless_flat_bars_make_it_likely() -> None:
    flat = np.zeros(2000, bool)
    after, missing = np.array([500, 1200]), np.array([1, 12])
    assert detect.unexplained(after, missing, flat, brief=True).tolist() == [True, True]
    flat[::5] = True  # a fifth of the minutes are single trades
    assert detect.unexplained(after, missing, flat, brief=True).tolist() == [False, True]
    assert detect.unexplained(after, missing, flat, brief=False).tolist() == [False, True]
    quiet = np.arange(50, 2000, 50)  # a market whose minutes of no quotes are left out
    assert not detect.unexplained(quiet, np.ones(len(quiet), int), np.zeros(2000, bool), brief=True).any()
    assert detect.unexplained(quiet, np.ones(len(quiet), int), np.zeros(2000, bool), brief=False).all()


def falling(ratio: float, *, range_after: float = 1.0, turnover_after: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Bars (4, T) and volume (T,) of a stock that opens 1 / ratio lower at bar 200 and stays."""
    rng = np.random.default_rng(1)
    close = 50 * np.exp(np.cumsum(rng.normal(0, 0.01, 400)))
    close[200:] /= ratio
    span = np.where(np.arange(400) < 200, 0.01, 0.01 * range_after)
    opened = close * (1 + 0.1 * span)
    volume = rng.uniform(1e5, 2e5, 400)
    volume[200:] *= ratio * turnover_after
    return np.stack([opened, close * (1 + span), close * (1 - span), close]).astype(np.float32), volume


def test_a_split_leaves_range_and_turnover_and_a_crash_does_not() -> None:
    assert np.flatnonzero(detect.split_like(*falling(1.5))).tolist() == [200]
    assert np.flatnonzero(detect.split_like(*falling(12.0))).tolist() == [200]
    # twice the range and four times the turnover for days, each of which a split may have by chance
    assert not detect.split_like(*falling(1.5, range_after=2.0, turnover_after=4.0)).any()
    assert not detect.split_like(*falling(12.0, turnover_after=1e-3)).any()  # trading ended
    assert not detect.split_like(falling(1.5)[0]).any()  # without volumes a third off is no evidence
    assert np.flatnonzero(detect.split_like(falling(12.0)[0])).tolist() == [200]
    bars, volume = falling(1.5)
    bars[:, 190:215] *= np.where(np.arange(25) % 2, 1.15, 1.0).astype(np.float32)  # days of 15 % around it
    assert not detect.split_like(bars, volume)[200]


def test_a_price_far_below_its_highest_of_the_year_is_not_split_in_two() -> None:
    for ratio, wanted in ((2.0, []), (4.0, [200])):
        bars, volume = falling(ratio)
        bars[:, :150] *= np.linspace(3, 1, 150)
        assert np.flatnonzero(detect.split_like(bars, volume)).tolist() == wanted
    bars, volume = falling(0.5)  # a reverse split
    bars[:, :150] *= np.linspace(3, 1, 150)
    assert np.flatnonzero(detect.split_like(bars, volume)).tolist() == [200]


def test_bars_of_two_ticks_may_repeat_and_wider_ones_may_not() -> None:
    rng = np.random.default_rng(2)
    close = (100 + np.cumsum(rng.integers(-1, 2, 3000)) / 4).astype(np.float32)
    narrow = np.stack([close, close + np.float32(0.25), close, close])
    volume = rng.integers(1, 40, 3000).astype(np.float32)
    assert not detect.repeated(narrow, volume).any()
    volume = rng.uniform(1e4, 2e4, 3000).astype(np.float32)
    for prices, wanted in ((narrow, []), (narrow + np.float32([[0], [0.75], [0], [0]]), [1500])):
        prices[:, 1500], volume[1500] = prices[:, 1499], volume[1499]
        assert np.flatnonzero(detect.repeated(prices, volume)).tolist() == wanted


def test_repeats_of_narrow_bars_do_not_excuse_those_of_wide_ones() -> None:
    rng = np.random.default_rng(4)
    close = (100 + np.cumsum(rng.integers(-9, 10, 3000)) / 4).astype(np.float32)
    close[1::2] = close[::2]  # half of the bars stand still
    prices = np.stack([close, close, close, close])
    volume = rng.integers(1, 30, 3000).astype(np.float32)
    prices[1, 1499] += 3
    prices[:, 1500], volume[1500] = prices[:, 1499], volume[1499]
    assert np.flatnonzero(detect.repeated(prices, volume)).tolist() == [1500]


def test_bars_of_one_tick_that_trade_are_stale_after_a_long_time() -> None:
    rng = np.random.default_rng(5)
    close = (1500 + np.cumsum(rng.integers(-1, 2, 2000)) / 4).astype(np.float32)
    prices = np.stack([close, close + np.float32(0.25), close, close])
    volume = rng.integers(5, 500, 2000).astype(np.float32)
    assert not detect.stale(prices, volume).any()
    prices[:, 1000:1030] = prices[:, 999:1000]
    assert 30 <= detect.stale(prices, volume).sum() <= 33  # bars beside them may be equal by chance


def test_a_print_off_in_thin_hours_must_be_far_off() -> None:
    close = 100 * np.exp(np.cumsum(np.random.default_rng(3).normal(0, 0.001, 600))).astype(np.float32)
    close[300] *= np.float32(1.008)
    scale = detect.local_scale(detect.moves(close))
    assert np.flatnonzero(detect.spikes(close, None, scale, np.zeros(600, bool))).tolist() == [300]
    close[[150, 220, 380, 450]] *= np.float32(1.006)  # others nearby
    scale = detect.local_scale(detect.moves(close))
    assert not detect.spikes(close, None, scale, np.ones(600, bool)).any()
