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
