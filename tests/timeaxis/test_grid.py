from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from foretrain.data.store import Corpus
from foretrain.errors import DataError
from foretrain.timeaxis.grid import continue_stamps, parse_freq, stamps

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


def micros(axis: pd.DatetimeIndex) -> np.ndarray:
    return axis.to_numpy().astype("M8[us]").astype(np.int64)


@pytest.mark.parametrize(("start", "freq"), CASES)
def test_stamps_equal_pandas_where_the_start_lies_on_the_frequency(start, freq):
    axis = pd.date_range(start, periods=50, freq=freq)
    expected = micros(axis)
    assert axis[0] == (pd.Timestamp(start) if freq != "BMS" else axis[0])
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


@pytest.mark.parametrize("old", ["H", "T", "S", "M", "A"])
def test_old_aliases_are_understood_without_pandas(old):
    assert parse_freq(old).kind in ("fixed", "months")


@pytest.mark.parametrize("bad", ["fortnight", "0h", "-1D"])
def test_an_unknown_alias_is_an_error(bad):
    with pytest.raises(DataError, match="not a forward pandas frequency alias"):
        parse_freq(bad)


def test_uneven_series_continue_by_their_median_spacing_or_their_freq():
    uneven = np.array([0, 10, 20, 35, 45])
    assert continue_stamps(uneven, None, 3).tolist() == [55, 65, 75]
    friday = int(np.datetime64("2020-01-03", "us").astype(np.int64))
    monday = int(np.datetime64("2020-01-06", "us").astype(np.int64))
    assert continue_stamps(np.array([friday]), "B", 1).tolist() == [monday]
    with pytest.raises(DataError, match="no spacing"):
        continue_stamps(np.array([5]), None, 1)


def test_a_corpus_continues_its_time_axis():
    hours = np.arange(5) * 3_600_000_000
    regular = Corpus.from_arrays("m", [("a", np.ones((1, 5)), hours)], ["x"], time="regular", freq="h")
    uneven = Corpus.from_arrays("m", [("a", np.ones((1, 5)), np.cumsum(hours) + np.arange(5))], ["x"], time="stamps")
    without = Corpus.from_arrays("m", [("a", np.ones((1, 5)), None)], ["x"])
    assert regular.future_times(0, 2).tolist() == [5 * 3_600_000_000, 6 * 3_600_000_000]
    assert uneven.future_times(0, 1)[0] > uneven.times(0)[-1]
    assert without.future_times(0, 2) is None
