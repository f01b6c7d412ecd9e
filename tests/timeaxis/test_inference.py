"""Frequencies read off stamps."""

from __future__ import annotations

import numpy as np
import pytest
from tests.timeaxis.axes import axis

from foretrain.timeaxis.grid import ordinals
from foretrain.timeaxis.inference import Pattern, agree, infer


@pytest.mark.parametrize(
    ("start", "freq"),
    [
        ("2020-01-05 13:00", "h"),
        ("2020-01-05 13:10", "15min"),
        ("2020-01-05", "3h"),
        ("2020-01-05 00:00:07", "10s"),
        ("2020-01-05", "500ms"),
        ("2020-01-05", "D"),
        ("2020-01-06 16:00", "B"),
        ("2020-01-05", "W-SUN"),
        ("2020-01-07", "W-TUE"),
        ("2020-01-05", "2W-SUN"),
        ("2020-01-05", "3D"),
        ("2020-02-01", "MS"),
        ("2020-02-29", "ME"),
        ("2020-01-01", "6MS"),
        ("2020-04-01", "QS"),
        ("2020-02-01", "QS-FEB"),
        ("2020-06-30", "QE"),
        ("2020-01-31", "QE-JAN"),
        ("1990-01-01", "YS"),
        ("1990-07-01", "YS-JUL"),
        ("1990-12-31", "YE"),
    ],
)
def test_a_regular_axis_gives_its_own_alias_and_ordinals(start: str, freq: str) -> None:
    times = axis(start, freq, 60)
    assert infer(times) == Pattern(freq)
    number, on_grid = ordinals(times, freq)
    assert on_grid
    np.testing.assert_array_equal(number, np.arange(60))
    holes = np.delete(times, [20, 21, 40])
    assert infer(holes) == Pattern(freq)
    np.testing.assert_array_equal(ordinals(holes, freq)[0], np.delete(np.arange(60), [20, 21, 40]))


@pytest.mark.parametrize("day", [15, 28, 30])
def test_months_that_keep_a_day_step_like_starts_of_months(day: int) -> None:
    month = np.arange("2022-02", "2024-02", dtype="M8[M]")
    last = (month + 1).astype("M8[D]") - 1
    days = np.minimum(month.astype("M8[D]") + day - 1, last)
    assert infer(days.astype("M8[us]").astype(np.int64)) == Pattern("MS")


def test_irregular_stamps_have_no_frequency() -> None:
    rng = np.random.default_rng(0)
    assert infer(np.sort(rng.choice(10**15, 300, replace=False))).freq is None


def test_few_rows_follow_the_others() -> None:
    short = infer(axis("2020-01-06", "D", 5))
    assert short.weak
    assert agree([short, Pattern("B"), Pattern("B")]) == ("B", {"B": 2})
    assert agree([short])[0] == "D"


def test_items_agree_on_one_frequency_or_none() -> None:
    assert agree([Pattern("B"), Pattern("D"), Pattern("B")])[0] == "D"
    assert agree([Pattern("YS"), Pattern("YS-JUL")])[0] == "12MS"
    assert agree([Pattern("QE"), Pattern("QE-JAN")])[0] == "3ME"
    assert agree([Pattern("h"), Pattern("D")]) == (None, {"h": 1, "D": 1})
    assert agree([Pattern("h"), Pattern(None)])[0] is None
