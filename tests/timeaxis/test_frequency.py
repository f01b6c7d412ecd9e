"""Frequencies: names, inference, trading weeks, gaps."""

from __future__ import annotations

import numpy as np
import pytest

from foretrain.errors import DataError
from foretrain.timeaxis import grid as calendar
from foretrain.timeaxis.frequency import (
    DAY,
    SECOND,
    DayVotes,
    Freq,
    Pattern,
    Week,
    agree,
    find_gaps,
    infer,
    ordinals,
    seasonality,
    session_length,
)

HOUR, MINUTE = 3600 * SECOND, 60 * SECOND


def micros(text: str) -> int:
    return int(np.datetime64(text, "us").astype(np.int64))


def axis(start: str, freq: str, count: int) -> np.ndarray:
    return calendar.stamps(micros(start), freq, np.arange(count, dtype=np.int64))


def sessions(first_day: str, days: int, opening: str, bars: int, step: int) -> np.ndarray:
    """Stamps of `bars` bars from the opening on each business day."""
    dates = (
        np.busday_offset(np.datetime64(first_day), np.arange(days), roll="forward").astype("M8[us]").astype(np.int64)
    )
    hours, minutes = map(int, opening.split(":"))
    return (dates[:, None] + hours * HOUR + minutes * MINUTE + np.arange(bars) * step).ravel()


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


def test_stamps_off_the_grid_are_told() -> None:
    assert not ordinals(np.array([0, HOUR, 2 * HOUR + 1]), "h")[1]
    assert not ordinals(axis("2020-01-15", "MS", 4), "MS")[1]  # mid-month days are no month starts
    assert not ordinals(axis("2020-02-01", "QS-FEB", 4), "QS")[1]
    assert not ordinals(axis("2020-01-04", "D", 3), "B")[1]  # a Saturday


# what gluonts.time_feature.get_seasonality answers (0.16)
GLUONTS = {
    "s": 3600, "10s": 360, "min": 1440, "5min": 288, "10min": 144, "15min": 96, "30min": 48, "7min": 1, "h": 24,
    "2h": 12, "5h": 1, "D": 1, "2D": 1, "B": 5, "W": 1, "W-TUE": 1, "MS": 12, "ME": 12, "2MS": 6, "3MS": 4, "6MS": 2,
    "12MS": 1, "QS": 4, "QE": 4, "QS-FEB": 4, "2QS": 2, "YS": 1, "YE": 1, "YS-JUL": 1, "ms": 1,
}  # fmt: skip


@pytest.mark.parametrize("freq", GLUONTS)
def test_seasonality_is_what_gluonts_says(freq: str) -> None:
    assert seasonality(freq) == GLUONTS[freq]


@pytest.mark.parity
def test_the_table_of_seasonalities_is_gluonts_own() -> None:
    get_seasonality = pytest.importorskip("gluonts.time_feature").get_seasonality
    assert {freq: get_seasonality(freq) for freq in GLUONTS} == GLUONTS


def test_a_session_has_its_own_season() -> None:
    assert seasonality("min", bars_per_session=390) == 390
    assert seasonality(None) is None


def test_old_spellings_are_understood_and_nonsense_is_not() -> None:
    assert [Freq.parse(text).alias for text in ("H", "15T", "M", "A-DEC", "w-sun")] == [
        "h",
        "15min",
        "MS",
        "YS-DEC",
        "W-SUN",
    ]
    with pytest.raises(DataError, match="'fortnight' is not known"):
        Freq.parse("fortnight")


def test_every_missing_hour_is_a_gap_when_nothing_ever_closes() -> None:
    times = np.delete(axis("2020-01-01", "h", 24 * 30), [100, 101, 300])
    at, missing = find_gaps(times, "h")
    np.testing.assert_array_equal(missing, [2, 1])
    np.testing.assert_array_equal(at, [100, 298])


def test_nights_weekends_half_days_and_holidays_are_no_gaps() -> None:
    times = sessions("2021-01-04", 60, "09:30", 78, 5 * MINUTE)
    days = np.unique(times // DAY)
    holiday = times // DAY == days[17]
    early_close = (times // DAY == days[31]) & (times % DAY >= 13 * HOUR)
    times = times[~holiday & ~early_close]
    assert Week.of(times, "5min").has_closures
    assert len(find_gaps(times, "5min")[0]) == 0
    assert session_length(times)[0] == 78


def test_a_hole_inside_a_session_is_a_gap() -> None:
    times = np.delete(sessions("2021-01-04", 60, "09:30", 78, 5 * MINUTE), np.arange(1000, 1007))
    at, missing = find_gaps(times, "5min")
    assert at.tolist() == [1000]
    assert missing.tolist() == [7]


def test_sessions_in_utc_that_shift_with_the_clock_have_no_gaps() -> None:
    winter, summer = sessions("2021-01-04", 50, "14:30", 7, HOUR), sessions("2021-03-15", 90, "13:30", 7, HOUR)
    times = np.concatenate([winter, summer])
    half_day = (times // DAY == np.unique(times // DAY)[20]) & (times % DAY >= 17 * HOUR)
    assert len(find_gaps(times[~half_day], "h")[0]) == 0


def test_a_day_that_others_traded_is_a_gap_and_a_common_holiday_is_not() -> None:
    days = axis("2021-01-04", "B", 120)
    common = np.delete(days, 40)
    mine = np.delete(days, [40, 70])
    votes = DayVotes()
    for times in (common, common, mine):
        votes.add(times)
    at, missing = find_gaps(mine, "B", votes)
    assert at.tolist() == [69]
    assert missing.tolist() == [1]
    assert len(find_gaps(common, "B", votes)[0]) == 0


def test_a_lone_item_reports_only_long_closures() -> None:
    days = axis("2021-01-04", "B", 120)
    assert len(find_gaps(np.delete(days, [30, 31, 32]), "B")[0]) == 0  # may be a holiday
    assert find_gaps(np.delete(days, np.arange(30, 45)), "B")[1].tolist() == [15]


def test_days_that_a_short_item_never_reaches_are_not_called_closed() -> None:
    three_days = axis("2021-01-06", "min", 3 * 1440)
    assert not Week.of(three_days, "min").has_closures
