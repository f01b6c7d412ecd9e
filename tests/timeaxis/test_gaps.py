"""Gaps, and the closed hours and days that are none."""

from __future__ import annotations

import numpy as np
from tests.timeaxis.axes import HOUR, MINUTE, axis, sessions

from foretrain.timeaxis.frequency import DAY
from foretrain.timeaxis.gaps import DayVotes, Week, find_gaps, session_length


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


def test_a_single_item_reports_only_long_closures() -> None:
    days = axis("2021-01-04", "B", 120)
    assert len(find_gaps(np.delete(days, [30, 31, 32]), "B")[0]) == 0  # may be a holiday
    assert find_gaps(np.delete(days, np.arange(30, 45)), "B")[1].tolist() == [15]


def test_days_that_a_short_item_never_reaches_are_not_called_closed() -> None:
    three_days = axis("2021-01-06", "min", 3 * 1440)
    assert not Week.of(three_days, "min").has_closures


def test_a_date_that_is_a_hole_every_year_is_a_holiday() -> None:
    hours = (
        np.arange(np.datetime64("2007-01-01", "h"), np.datetime64("2012-01-01", "h")).astype("M8[us]").astype(np.int64)
    )
    week = hours[(hours // DAY + 3) % 7 < 5]
    noon = (week % DAY >= 10 * HOUR) & (week % DAY < 22 * HOUR)  # 12 hours of the day of Christmas, and of a May day
    dates = week.astype("M8[us]").astype("M8[D]").astype(str)
    christmas = np.array([date.endswith("12-25") for date in dates])
    assert len(find_gaps(week[~(christmas & noon)], "h")[0]) == 0
    once = dates == "2009-05-13"
    at, missing = find_gaps(week[~(christmas & noon) & ~(once & noon)], "h")
    assert missing.tolist() == [12] and str(week[~(christmas & noon) & ~(once & noon)][at[0]].astype("M8[us]")) == (
        "2009-05-13T22:00:00.000000"
    )


def test_a_hole_in_a_week_of_history_is_a_gap_and_thin_minutes_are_no_closure() -> None:
    minutes = np.arange(0, 5 * DAY, 15 * 60_000_000, dtype=np.int64)
    at, missing = find_gaps(np.delete(minutes, np.arange(100, 110)), "15min")
    assert (at.tolist(), missing.tolist()) == ([100], [10])
    one_day = np.arange(0, DAY // 3, 60_000_000, dtype=np.int64)
    assert find_gaps(np.delete(one_day, np.arange(100, 110)), "min")[1].tolist() == [10]
    every = np.arange(0, 21 * DAY, 60_000_000, dtype=np.int64)
    thin = every[np.random.default_rng(0).random(len(every)) < 0.6]
    week = Week.of(thin, "min")
    assert week is not None and not week.has_closures


def test_an_outage_in_three_weeks_of_hours_is_a_gap_and_no_closed_time() -> None:
    times = np.delete(axis("2018-03-25", "h", 499), np.arange(487, 497))
    times = np.delete(times, np.arange(300, 310))
    assert find_gaps(times, "h")[1].tolist() == [10, 10]


def test_minutes_without_a_bar_here_and_there_are_no_edge_of_a_session() -> None:
    every = np.arange(0, 28 * DAY, MINUTE, dtype=np.int64)
    slot = every % DAY // MINUTE
    lonely = np.isin(slot, np.random.default_rng(0).choice(1440, 100, replace=False))  # never a bar
    night = slot >= 1380
    week = Week.of(every[~lonely & ~night], "min")
    assert week is not None and week.open.mean() == 1380 / 1440
    hole = (every >= 20 * DAY + 595 * MINUTE) & (every < 20 * DAY + 700 * MINUTE)
    kept = every[~lonely & ~night & ~hole]
    at, missing = find_gaps(kept, "min")
    assert np.diff(kept)[at - 1].max() >= 105 * MINUTE and missing.max() >= 105


def test_a_hole_that_is_not_mostly_closed_time_is_no_night() -> None:
    times = sessions("2021-01-04", 60, "00:00", 23 * 4, 15 * MINUTE)  # an hour is closed
    hole = (times // DAY == times[4000] // DAY) & (times % DAY >= 20 * HOUR)
    hole |= (times // DAY == times[4000] // DAY + 1) & (times % DAY < 3 * HOUR)
    assert find_gaps(times[~hole], "15min")[1].tolist() == [24]
