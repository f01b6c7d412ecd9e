"""Frequencies found and stamps continued, against pandas' own ranges."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from foretrain.errors import DataError
from foretrain.forecasting import stamps

FREQS = ["h", "15min", "D", "B", "W-WED", "MS", "ME", "QS", "YS", "2D", "90min"]


def layout(*series: pd.DatetimeIndex):
    """Series end to end, where each starts, and names."""
    joined = series[0].append(list(series[1:])) if len(series) > 1 else series[0]
    starts = np.cumsum([0, *(len(s) for s in series[:-1])])
    return joined, starts, [f"item {i}" for i in range(len(series))]


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
@pytest.mark.parametrize("freq", FREQS)
def test_stamps_continue_as_pandas_would(freq, zone):
    whole = pd.date_range("2023-12-28 00:00", periods=30, freq=freq, tz=zone)
    past = [whole[:20], whole[3:20], whole[19:20]]
    offset = stamps.infer_offset(*layout(*past))
    found = stamps.following(pd.DatetimeIndex([p[-1] for p in past]), offset, 10)
    assert list(found) == list(whole[20:]) * 3


def test_three_months_of_31_days_are_months():
    past = pd.DatetimeIndex(["2024-07-01", "2024-08-01", "2024-09-01"])
    offset = stamps.infer_offset(*layout(past))
    assert list(stamps.following(past[-1:], offset, 2)) == [pd.Timestamp("2024-10-01"), pd.Timestamp("2024-11-01")]


def test_daily_stamps_keep_local_midnight_over_a_clock_change():
    whole = pd.date_range("2024-03-05", periods=12, freq="D", tz="America/New_York")  # clocks change on March 10
    offset = stamps.infer_offset(*layout(whole[:4]))
    assert list(stamps.following(whole[3:4], offset, 8)) == list(whole[4:])


def test_irregular_stamps_name_the_item_and_the_way_out():
    regular = pd.date_range("2024-01-01", periods=10, freq="D")
    with pytest.raises(DataError, match=r"item 'item 1'.*freq="):
        stamps.infer_offset(*layout(regular[:5], regular[[0, 1, 5, 6]]))


def test_items_of_different_frequency_are_refused():
    days, months = (pd.date_range("2024-01-01", periods=6, freq=f) for f in ("D", "MS"))
    with pytest.raises(DataError, match="one frequency"):
        stamps.infer_offset(*layout(months, days[:5]))


def test_two_rows_do_not_tell_a_frequency():
    with pytest.raises(DataError, match="no item has 3 rows"):
        stamps.infer_offset(*layout(pd.date_range("2024-01-01", periods=2, freq="D")))


@pytest.mark.parametrize("freq", ["nonsense", "-1D"])
def test_an_impossible_freq_is_refused(freq):
    with pytest.raises(DataError, match="freq="):
        stamps.parse_freq(freq)


def test_integer_steps_must_be_equally_far_apart():
    assert stamps.infer_step(np.array([0, 2, 4, 10, 12]), np.array([0, 3]), ["a", "b"]) == 2
    with pytest.raises(DataError, match="item 'b'"):
        stamps.infer_step(np.array([0, 1, 2, 0, 2]), np.array([0, 3]), ["a", "b"])
