"""Rows put on the grid of a frequency."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from foretrain.errors import DataError
from foretrain.timeaxis.filling import on_grids


def placed(stamps: pd.DatetimeIndex, freq):
    return on_grids(stamps, np.zeros(1, np.int64), ["a"], [freq])


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
@pytest.mark.parametrize(
    "freq", ["h", "H", "15min", "5T", "D", "B", "W-MON", "MS", "ME", "M", "QS", "Q", "YE", "BME", "WOM-3FRI", "2D"]
)
def test_missing_steps_become_rows_where_pandas_has_them(freq, zone):
    new = {"H": "h", "5T": "5min", "M": "MS", "Q": "QE"}.get(freq, freq)
    whole = pd.date_range("2024-01-01", periods=40, freq=new, tz=zone)
    found = placed(whole.delete([3, 4, 20]), freq)
    assert found is not None and list(found.stamps) == list(whole)
    assert np.flatnonzero(found.rows < 0).tolist() == [3, 4, 20]
    assert (found.added, found.items, found.first) == (3, 1, "a")
    assert placed(whole, freq) is None


def test_hours_are_filled_across_both_clock_changes():
    whole = pd.date_range("2024-03-30", "2024-11-01", freq="h", tz="Europe/Berlin")
    holes = [whole.get_loc(pd.Timestamp(t)) for t in ("2024-03-31 01:00Z", "2024-10-27 00:00Z", "2024-10-27 01:00Z")]
    found = placed(whole.delete(holes), "h")
    assert found is not None and list(found.stamps) == list(whole)


def test_days_of_a_zone_are_local_midnights_or_days_of_utc():
    local = pd.date_range("2024-03-05", periods=12, freq="D", tz="America/New_York")
    utc = pd.date_range("2024-03-05", periods=12, freq="D", tz="UTC").tz_convert("America/New_York")
    for whole in (local, utc):
        found = placed(whole.delete(5), "D")
        assert found is not None and list(found.stamps) == list(whole)


def test_items_have_their_own_grids_or_none():
    days, hours = (pd.date_range("2024-01-01", periods=6, freq=freq) for freq in ("D", "h"))
    joined = days.delete(2).append([hours.delete(1), days.delete(3)])
    found = on_grids(joined, np.array([0, 5, 10]), ["a", "b", "c"], ["D", "h", None])
    assert found is not None and found.starts.tolist() == [0, 6, 12]
    assert list(found.stamps) == [*days, *hours, *days.delete(3)]
    assert (found.added, found.items) == (2, 2)


@pytest.mark.parametrize(
    ("rows", "freq", "fits"),
    [
        ("MS", "ME", "'MS'"),
        ("ME", "MS", "'ME'"),
        ("W-MON", "W", "'W-MON'"),
        ("D", "B", "'D'"),
    ],
)
def test_rows_off_the_grid_are_refused_with_the_alias_that_fits(rows, freq, fits):
    with pytest.raises(DataError, match=f"item 'a': the row of .* is not on the grid of freq='{freq}'.*{fits}"):
        placed(pd.date_range("2024-01-01", periods=12, freq=rows), freq)


@pytest.mark.parametrize("day", [15, 28])
def test_months_of_another_day_are_on_no_edge_but_on_a_grid_of_months(day):
    whole = pd.DatetimeIndex([f"2024-{month:02d}-{day}" for month in range(1, 13)])
    with pytest.raises(DataError, match=r"not on the grid of freq='MS'. The rows fit freq='M'"):
        placed(whole, "MS")
    found = placed(whole.delete(4), "M")
    assert found is not None and list(found.stamps) == list(whole)


def test_an_offset_fills_all_but_its_holidays():
    offset = pd.offsets.CustomBusinessDay(holidays=["2024-12-25"])
    whole = pd.date_range("2024-12-16", "2024-12-31", freq=offset)
    found = placed(whole.delete(3), offset)
    assert found is not None and list(found.stamps) == list(whole)
    with pytest.raises(DataError, match=r"2024-12-25 .* not on the grid"):
        placed(pd.bdate_range("2024-12-16", "2024-12-31"), offset)


def test_a_frequency_that_would_leave_nearly_all_rows_empty_is_refused():
    days = pd.date_range("2000-01-01", periods=100, freq="30D")
    for freq in ("s", pd.offsets.Second(1)):
        with pytest.raises(DataError, match=r"would put .* rows of missing values between 100 rows"):
            placed(days, freq)


@pytest.mark.parametrize("start", ["1600-01-01", "2260-01-01"])
def test_years_that_nanoseconds_do_not_hold_have_a_grid_too(start):
    whole = pd.DatetimeIndex(np.datetime64(start, "Y") + np.arange(20).astype("m8[Y]")).as_unit("s")
    found = placed(whole.delete(7), "YS")
    assert found is not None and list(found.stamps) == list(whole)
