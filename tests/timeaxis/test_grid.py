from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tests.timeaxis.axes import HOUR, axis

from foretrain.errors import DataError
from foretrain.timeaxis.grid import grid_numbers, grid_stamps, ordinals, stamps

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


@pytest.mark.parametrize(
    ("rows", "freq", "fitting"),
    [
        ("MS", "ME", "MS"),
        ("ME", "MS", "ME"),
        ("BME", "ME", "BME"),
        ("W-MON", "W", "W-MON"),
        ("2W-MON", "2W", "2W-MON"),
        ("QS-FEB", "QS", "QS-FEB"),
        ("QE-JAN", "Q", "QE-JAN"),
        ("YE-JUN", "Y", "YE-JUN"),
        ("D", "B", "D"),
        ("30min", "H", "30min"),
    ],
)
def test_rows_off_a_given_grid_are_refused_with_the_alias_that_fits(rows: str, freq: str, fitting: str) -> None:
    times = micros(pd.date_range("2021-01-02", periods=9, freq=rows))
    with pytest.raises(DataError, match=f"item 'A': the row of .* is not on the grid of freq='{freq}'.*'{fitting}'"):
        grid_numbers(times, freq, "item 'A'")
    assert grid_numbers(times, fitting, "item 'A'").tolist() == list(range(9))


@pytest.mark.parametrize("freq", ["D", "B", "W-WED", "MS", "ME", "QS-FEB", "YE-JUN", "15min", "BME", "WOM-3FRI", "2MS"])
def test_a_hole_leaves_its_numbers_free(freq: str) -> None:
    index = pd.date_range("2021-01-02", periods=12, freq=freq)
    assert grid_numbers(micros(index.delete([3, 4])), freq, "rows").tolist() == [0, 1, 2, *range(5, 12)]
    assert grid_stamps(micros(index.delete([3, 4])), freq, np.arange(12)).tolist() == micros(index).tolist()


@pytest.mark.parametrize("rows", ["MS", "ME"])
def test_a_spelling_without_an_edge_takes_that_of_the_rows(rows: str) -> None:
    assert grid_numbers(micros(pd.date_range("2021-01-02", periods=3, freq=rows)), "M", "rows").tolist() == [0, 1, 2]


@pytest.mark.parametrize("day", [15, 28, 30])
def test_months_without_an_edge_may_keep_any_day(day: int) -> None:
    month = pd.date_range("2022-02-01", periods=14, freq="MS")  # February first: its 28th is also its end
    kept = month + pd.to_timedelta(np.minimum(day, month.days_in_month) - 1, unit="D")
    assert grid_numbers(micros(kept), "M", "rows").tolist() == list(range(14))
    assert grid_stamps(micros(kept[:13]), "M", np.arange(14)).tolist() == micros(kept).tolist()
    for freq in ("MS", "ME"):
        with pytest.raises(DataError, match=f"not on the grid of freq='{freq}'. The rows fit freq='M'"):
            grid_numbers(micros(kept), freq, "rows")


def test_rows_at_uneven_distances_fit_no_alias() -> None:
    uneven = np.array([0, HOUR, HOUR + 7_000_001, 5 * HOUR])
    with pytest.raises(DataError, match="uneven distances"):
        grid_numbers(uneven, "h", "rows")


def test_a_step_of_several_months_excludes_the_months_between() -> None:
    with pytest.raises(DataError, match="2022-02-15"):
        grid_numbers(micros(pd.DatetimeIndex(["2022-01-15", "2022-02-15", "2022-03-15"])), "2M", "rows")


def test_years_outside_the_range_of_nanoseconds_have_grids() -> None:
    for year in (1600, 2290):
        for freq in ("YS", "BME"):
            steps = stamps(int(np.datetime64(f"{year}-01-01", "us").astype(np.int64)), freq, np.arange(4))
            assert grid_numbers(np.delete(steps, 1), freq, "rows").tolist() == [0, 2, 3]


def test_quarters_and_years_keep_a_day_too() -> None:
    quarters = pd.DatetimeIndex(["2022-02-15", "2022-05-15", "2022-11-15"])
    with pytest.raises(DataError, match="The rows fit freq='Q-JAN'"):
        grid_numbers(micros(quarters), "QS", "rows")
    assert grid_numbers(micros(quarters), "Q-JAN", "rows").tolist() == [0, 1, 3]
    assert grid_numbers(micros(pd.DatetimeIndex(["2020-06-15", "2021-06-15"])), "A-MAY", "rows").tolist() == [0, 1]


def test_a_stamp_of_a_wrong_year_is_told_before_a_million_months_are_made(monkeypatch) -> None:
    monkeypatch.setattr("foretrain.timeaxis.grid._pandas_range", lambda *_, **__: pytest.fail("made"))
    monkeypatch.setattr("foretrain.timeaxis.grid.typical_step", lambda freq: 30.0 * 86_400e6)
    times = np.array(["2024-01-31", "2024-02-29", "148162-07-31"], "M8[us]").astype(np.int64)
    with pytest.raises(DataError, match=r"148162-07-31 are more than 200,000 steps of freq='BME'"):
        ordinals(times, "BME")
    times[-1] += 27_387_904
    with pytest.raises(DataError, match=r"148162-07-31 00:00:27\.387904 is not on the grid"):
        grid_numbers(times, "h", "rows")
