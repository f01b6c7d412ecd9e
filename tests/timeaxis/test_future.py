"""Frequencies found and stamps continued, against pandas' own ranges."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from foretrain.data.store import Corpus
from foretrain.errors import ConfigError, DataError
from foretrain.notes import Code
from foretrain.timeaxis import future

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
    offset = future.shared_offset(*layout(*past)[:2])
    found = future.following(pd.DatetimeIndex([p[-1] for p in past]), offset, 10)
    assert list(found) == list(whole[20:]) * 3


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York", "Australia/Lord_Howe"])
@pytest.mark.parametrize("unit", ["s", "us", "ns"])
@pytest.mark.parametrize(
    "offset",
    [
        pd.offsets.Day(1), pd.offsets.Day(7), pd.offsets.Hour(1), pd.offsets.Minute(15), pd.offsets.Milli(1500),
        pd.offsets.Week(2), pd.offsets.Week(1, weekday=2), pd.offsets.Week(3, weekday=5), pd.offsets.BusinessDay(1),
        pd.offsets.BusinessDay(3), pd.offsets.BusinessDay(1, offset=pd.Timedelta("2h")), pd.offsets.MonthEnd(1),
    ],
)  # fmt: skip
def test_steps_at_once_are_those_that_are_added_one_by_one(offset, unit, zone):
    """Over both clock changes of a year, at which days have local midnights and hours do not repeat."""
    stamps = ["2024-03-09 02:30", "2024-11-02 01:15", "2024-03-06", "2024-03-09 02:30"]
    last = pd.DatetimeIndex(stamps).tz_localize(zone).as_unit(unit)
    steps = [future.add(last, offset, k) for k in range(1, 41)]
    expected = np.stack([step.as_unit("ns").asi8 for step in steps], axis=1).ravel()
    found = future.following(last, offset, 40)
    assert found.tz == last.tz and found.unit == steps[0].unit
    assert found.as_unit("ns").asi8.tolist() == expected.tolist()


def test_three_months_of_31_days_are_months():
    past = pd.DatetimeIndex(["2024-07-01", "2024-08-01", "2024-09-01"])
    offset = future.shared_offset(*layout(past)[:2])
    assert list(future.following(past[-1:], offset, 2)) == [pd.Timestamp("2024-10-01"), pd.Timestamp("2024-11-01")]


def test_daily_stamps_keep_local_midnight_over_a_clock_change():
    whole = pd.date_range("2024-03-05", periods=12, freq="D", tz="America/New_York")  # clocks change on March 10
    offset = future.shared_offset(*layout(whole[:4])[:2])
    assert list(future.following(whole[3:4], offset, 8)) == list(whole[4:])


def test_irregular_stamps_name_the_item_and_the_ways_out():
    regular = pd.date_range("2024-01-01", periods=10, freq="D")
    with pytest.raises(DataError, match=r"item 'item 1'.* 1 day to 4 days apart.*freq=.*calendar="):
        future.next_stamps(*layout(regular[:5], regular[[0, 1, 5, 6]]), 3)


def bars(days, opens="9h30min", closes="16h", step="30min") -> pd.DatetimeIndex:
    """Bars of a market that trades between two times of the given days."""
    parts = [
        pd.date_range(day + pd.Timedelta(opens), day + pd.Timedelta(closes), freq=step, inclusive="left")
        for day in days
    ]
    return parts[0].append(parts[1:])


def test_every_item_continues_by_its_own_frequency_or_week():
    """Market bars, days of a market with a holiday, months, and a market that never closes, all in one call."""
    days = pd.bdate_range("2024-03-01", "2024-05-31").drop("2024-03-29")
    session = bars(days)
    hours = pd.date_range("2024-03-01", periods=300, freq="h")
    months = pd.date_range("2020-01-01", periods=20, freq="MS")
    ends = (400, 45, 290, 15)
    every = (session, days, hours, months)
    past = [whole[:end] for whole, end in zip(every, ends, strict=True)]
    found = future.next_stamps(*layout(*past), 5)
    for k, (whole, end) in enumerate(zip(every, ends, strict=True)):
        assert list(found[5 * k : 5 * k + 5]) == list(whole[end : end + 5]), k


@pytest.mark.parametrize("rows", [1, 2, 14])
def test_an_item_of_a_few_rows_keeps_the_hours_of_the_longest(rows):
    session = bars(pd.bdate_range("2024-03-01", "2024-03-28"))
    late = session[session <= pd.Timestamp("2024-03-20 15:30")]
    found = future.next_stamps(*layout(session[:150], late[-rows:]), 2)
    assert list(found[2:]) == [pd.Timestamp("2024-03-21 09:30"), pd.Timestamp("2024-03-21 10:00")]


def test_an_item_of_a_few_rows_has_the_frequency_of_the_longest():
    hours, days = (pd.date_range("2024-01-01", periods=9, freq=f) for f in ("h", "D"))
    found = future.next_stamps(*layout(hours, days[:4], days[:1]), 1)
    assert list(found) == [pd.Timestamp("2024-01-01 09:00"), days[4], pd.Timestamp("2024-01-01 01:00")]


def test_bars_with_a_zone_keep_local_hours_over_a_clock_change():
    session = bars(pd.bdate_range("2024-02-20", "2024-03-28")).tz_localize("America/New_York")
    cut = int(session.searchsorted(pd.Timestamp("2024-03-08 15:00", tz="America/New_York")))
    found = future.next_stamps(*layout(session[:cut]), 20)
    assert list(found) == list(session[cut : cut + 20])


def test_round_the_clock_bars_work_across_the_repeated_hour(logged_notes):
    whole = pd.date_range("2024-10-28", periods=400, freq="h", tz="America/New_York")  # clocks change on November 3
    found = future.next_stamps(*layout(whole.delete([100, 250])), 3)
    (note,) = logged_notes()
    assert (note.code, note.counts["bars"]) == (Code.BARS_MISSING, 2)
    assert list(found) == list(pd.date_range(whole[-1], periods=4, freq="h")[1:])


def test_missing_bars_of_a_market_that_never_closes_are_reported(logged_notes):
    minutes = pd.date_range("2024-03-01", periods=500, freq="5min")
    found = future.next_stamps(*layout(minutes.delete([7, 8, 300]), minutes.delete([9])), 2)
    (note,) = logged_notes()
    assert (note.code, note.counts) == (Code.BARS_MISSING, {"items": 2, "bars": 4}) and "'item 0'" in note.text
    assert list(found) == [minutes[-1] + pd.Timedelta("5min"), minutes[-1] + pd.Timedelta("10min")] * 2


def test_a_freq_and_a_calendar_exclude_each_other():
    with pytest.raises(ConfigError, match="give one of them"):
        future.next_stamps(*layout(pd.date_range("2024-03-01", periods=5)), 2, "D", "XNYS")


def test_two_rows_do_not_determine_a_frequency():
    with pytest.raises(DataError, match="no item has 3 rows"):
        future.next_stamps(*layout(pd.date_range("2024-01-01", periods=2, freq="D")), 3)


@pytest.mark.parametrize("freq", ["nonsense", "-1D"])
def test_an_impossible_freq_is_refused(freq):
    with pytest.raises(DataError, match="freq="):
        future.next_stamps(*layout(pd.date_range("2024-01-01", periods=5)), 3, freq)


def test_an_offset_keeps_its_holidays():
    days = pd.bdate_range("2024-12-16", "2024-12-24")
    found = future.next_stamps(*layout(days), 2, freq=pd.offsets.CustomBusinessDay(holidays=["2024-12-25"]))
    assert list(found) == [pd.Timestamp("2024-12-26"), pd.Timestamp("2024-12-27")]


def test_integer_steps_must_be_equally_far_apart():
    assert future.infer_step(np.array([0, 2, 4, 10, 12]), np.array([0, 3]), ["a", "b"]) == 2
    with pytest.raises(DataError, match="item 'b'"):
        future.infer_step(np.array([0, 1, 2, 0, 2]), np.array([0, 3]), ["a", "b"])


def test_a_freq_that_differs_from_that_of_the_rows_is_reported(logged_notes):
    minutes = pd.date_range("2024-03-01", periods=50, freq="5min")
    days, months = pd.bdate_range("2024-01-01", periods=60), pd.date_range("2020-01-31", periods=20, freq="ME")
    for whole, freq in ((minutes, "5min"), (days, "B"), (days, "D"), (months, "ME")):
        future.next_stamps(*layout(whole), 24, freq=freq)
        future.next_stamps(*layout(whole[:5]), 1, freq=freq)  # a Friday, and one step over the weekend
    assert not logged_notes()
    future.next_stamps(*layout(minutes), 3, freq="D")
    (note,) = logged_notes()
    assert note.code == Code.FREQ_UNLIKE_ROWS and "1 day" in note.text and "00:05:00" in note.text


def test_an_unknown_freq_is_one_short_line():
    with pytest.raises(DataError, match="banana") as error:
        future.next_stamps(*layout(pd.date_range("2024-01-01", periods=5)), 3, "banana")
    assert str(error.value).count("banana") == 1 and "Failed" not in str(error.value)


def test_uneven_series_continue_by_their_median_spacing_or_their_freq():
    uneven = np.array([0, 10, 20, 35, 45])
    assert future.continue_stamps(uneven, None, 3).tolist() == [55, 65, 75]
    friday = int(np.datetime64("2020-01-03", "us").astype(np.int64))
    monday = int(np.datetime64("2020-01-06", "us").astype(np.int64))
    assert future.continue_stamps(np.array([friday]), "B", 1).tolist() == [monday]
    with pytest.raises(DataError, match="no spacing"):
        future.continue_stamps(np.array([5]), None, 1)


def test_a_corpus_continues_its_time_axis():
    hours = np.arange(5) * 3_600_000_000
    regular = Corpus.from_arrays("m", [("a", np.ones((1, 5)), hours)], ["x"], time="regular", freq="h")
    uneven = Corpus.from_arrays("m", [("a", np.ones((1, 5)), np.cumsum(hours) + np.arange(5))], ["x"], time="stamps")
    without = Corpus.from_arrays("m", [("a", np.ones((1, 5)), None)], ["x"])
    assert regular.future_times(0, 2).tolist() == [5 * 3_600_000_000, 6 * 3_600_000_000]
    assert uneven.future_times(0, 1)[0] > uneven.times(0)[-1]
    assert without.future_times(0, 2) is None


@pytest.mark.parametrize("zone", [None, "America/New_York"])
@pytest.mark.parametrize(("day", "months"), [(15, 1), (28, 1), (30, 1), (15, 3), (20, 12)])
def test_months_continue_on_the_day_that_they_keep(day, months, zone):
    starts = np.datetime64("2020-01", "M") + months * np.arange(40)
    ends = (starts + 1).astype("M8[D]") - 1
    whole = pd.DatetimeIndex(np.minimum(starts.astype("M8[D]") + day - 1, ends)).tz_localize(zone)
    for cut in (26, 30):  # in January 2022 and later, so that short months are among the last and the next
        assert list(future.next_stamps(*layout(whole[:cut]), 8)) == list(whole[cut : cut + 8])


@pytest.mark.parametrize("start", ["1600-01-01", "2250-01-01"])
@pytest.mark.parametrize("freq", ["D", "W-MON", "MS", "YS", "h"])
def test_stamps_beyond_the_years_of_nanoseconds_continue(start, freq):
    first = pd.Timestamp(np.datetime64(start, "s"))
    whole = pd.date_range(first, periods=30, freq=freq, unit="s")
    assert list(future.next_stamps(*layout(whole[:20]), 10)) == list(whole[20:])


def test_a_spelling_without_an_edge_keeps_that_of_the_rows():
    for rows in ("MS", "ME"):
        whole = pd.date_range("2021-01-01", periods=20, freq=rows)
        assert list(future.next_stamps(*layout(whole[:15]), 5, "M")) == list(whole[15:])


def test_the_refusal_of_a_hole_names_the_frequency_that_fills_it():
    hours = pd.date_range("2024-01-01", periods=96, freq="h").delete(range(60, 66))
    months = pd.DatetimeIndex([f"2024-{month:02d}-15" for month in (1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12)])
    for stamps, alias in ((hours, "h"), (months, "M")):
        with pytest.raises(DataError, match=f"Give freq='{alias}', which puts .* missing values .*read_table"):
            future.next_stamps(*layout(stamps), 3)


@pytest.mark.parametrize(("start", "freq"), [("2250-12-31", "YE"), ("2262-04-01", "D"), ("2262-04-01", "h")])
def test_a_forecast_may_leave_the_years_of_nanoseconds(start, freq):
    whole = pd.date_range(start, periods=300, freq=freq, unit="us")
    found = future.next_stamps(*layout(whole[:10].as_unit("ns")), 290)
    assert list(found) == list(whole[10:])


def test_a_freq_of_another_type_is_refused():
    with pytest.raises(DataError, match="freq=7 is neither"):
        future.checked(7)
    assert future.checked(pd.Timedelta("1h")) == pd.offsets.Hour(1)


def on_day(day: int, first: str, count: int) -> pd.DatetimeIndex:
    months = pd.period_range(first, periods=count, freq="M")
    return pd.DatetimeIndex([pd.Timestamp(p.year, p.month, min(day, p.days_in_month)) for p in months])


@pytest.mark.parametrize("day", [2, 15, 28, 29, 30])
@pytest.mark.parametrize("last", ["2023-02", "2024-02", "2024-06"])
def test_a_stored_history_of_months_goes_on_on_its_day_after_a_short_month(day, last):
    stamps = on_day(day, str(pd.Period(last) - 23), 24)
    coming = on_day(day, str(pd.Period(last) + 1), 5)
    micros = stamps.to_numpy().astype("M8[us]").astype(np.int64)
    found = future.continue_stamps(micros, "MS", 5)
    assert pd.DatetimeIndex(found.astype("M8[us]")).tolist() == coming.tolist()


@pytest.mark.parametrize("first", ["2024-07", "2023-12"])
def test_three_rows_on_the_15th_are_months_where_months_have_31_days(first):
    stamps = on_day(15, first, 3)
    found = future.next_stamps(stamps, np.zeros(1, np.int64), ["a"], 4)
    assert found.tolist() == on_day(15, str(pd.Period(first) + 3), 4).tolist()


def test_three_years_without_a_leap_day_are_years():
    stamps = pd.DatetimeIndex(["2021-06-15", "2022-06-15", "2023-06-15"])
    found = future.next_stamps(stamps, np.zeros(1, np.int64), ["a"], 2)
    assert found.tolist() == pd.DatetimeIndex(["2024-06-15", "2025-06-15"]).tolist()


def test_a_refusal_names_the_clock_change_that_sets_rows_apart():
    hours = pd.date_range("2024-03-30 20:00", periods=60, freq="h", tz="UTC").tz_convert("Europe/Berlin")
    with pytest.raises(DataError, match=r"A clock change seems to leave an hour out: .*timezone=ZONE"):
        future.next_stamps(hours.tz_localize(None), np.zeros(1, np.int64), ["a"], 2)
    closes = pd.date_range("2024-03-01 17:00", periods=60, freq="D", tz="America/New_York").tz_convert("UTC")
    with pytest.raises(DataError, match=r"keep a local time through clock changes: .*tz_convert\(ZONE\)"):
        future.next_stamps(closes, np.zeros(1, np.int64), ["a"], 2)
    days = pd.date_range("2024-01-01 09:00", periods=30)
    with pytest.raises(DataError) as error:
        future.next_stamps(days[[*range(5), *range(7, 20)]], np.zeros(1, np.int64), ["a"], 2)
    assert "clock change" not in str(error.value)
