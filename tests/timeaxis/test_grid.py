from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tests.timeaxis.axes import HOUR, axis

from foretrain.timeaxis.grid import ordinals, stamps

CASES = [
    ("2020-02-28 23:30", "h"),
    ("2020-02-28 23:30", "15min"),
    ("2020-02-28", "2D"),
    ("2020-02-23", "W-SUN"),
    ("2020-02-28 09:30", "B"),
    ("2020-02-28", "3B"),
    ("2020-01-01", "MS"),
    ("2020-01-31", "ME"),
    ("2019-02-28", "ME"),
    ("2020-01-01", "QS"),
    ("2020-03-31", "QE"),
    ("2020-01-01", "YS"),
    ("2019-12-31", "YE"),
    ("2020-01-02", "BMS"),
    ("2020-01-01 00:00:00", "s"),
]


def micros(index: pd.DatetimeIndex) -> np.ndarray:
    return index.to_numpy().astype("M8[us]").astype(np.int64)


@pytest.mark.parametrize(("start", "freq"), CASES)
def test_stamps_equal_pandas_where_the_start_lies_on_the_frequency(start, freq):
    index = pd.date_range(start, periods=50, freq=freq)
    expected = micros(index)
    assert index[0] == (pd.Timestamp(start) if freq != "BMS" else index[0])
    assert stamps(int(expected[0]), freq, np.arange(50)).tolist() == expected.tolist()


def test_months_keep_the_day_and_are_cut_to_the_month():
    start = int(np.datetime64("2020-01-31T12:00", "us").astype(np.int64))
    days = stamps(start, "MS", np.arange(4)).astype("M8[us]")
    assert [str(day)[:16] for day in days] == [
        "2020-01-31T12:00",
        "2020-02-29T12:00",
        "2020-03-31T12:00",
        "2020-04-30T12:00",
    ]


def test_starts_and_steps_broadcast():
    starts = np.array([[0], [3_600_000_000]])
    assert stamps(starts, "h", np.arange(3)).tolist() == [[k * 3_600_000_000 for k in range(s, s + 3)] for s in (0, 1)]


def test_stamps_off_the_grid_are_detected() -> None:
    assert not ordinals(np.array([0, HOUR, 2 * HOUR + 1]), "h")[1]
    assert not ordinals(axis("2020-01-15", "MS", 4), "MS")[1]  # mid-month days are no month starts
    assert not ordinals(axis("2020-02-01", "QS-FEB", 4), "QS")[1]
    assert not ordinals(axis("2020-01-04", "D", 3), "B")[1]  # a Saturday
