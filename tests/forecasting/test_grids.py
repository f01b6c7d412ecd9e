"""Frames with holes, other days of the month, or a given frequency: forecasts never take rows around a hole as next."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from foretrain.errors import DataError
from foretrain.forecasting.frame import read_frame
from foretrain.notes import Code, codes


def series(stamps, **columns) -> pd.DataFrame:
    steps = len(stamps)
    values = 50 + 10 * np.sin(np.arange(steps) * 2 * np.pi / 24)
    return pd.DataFrame({"item_id": "a", "timestamp": stamps, "target": values}).assign(**columns)


HOURS = pd.date_range("2024-01-01", periods=96, freq="h")


def test_freq_fills_a_hole_as_rows_of_missing_values_do(predictor, logged_notes):
    cut = series(HOURS, wet=np.arange(96) % 3 == 0, sky=["clear", "cloudy"] * 48).drop(index=range(60, 66))
    empty = cut.set_index("timestamp").asfreq("h").reset_index().assign(item_id="a")
    found = predictor.forecast_df(cut, 6, freq="h")
    (note,) = logged_notes()
    assert (note.code, note.counts) == (Code.GRID_ROWS_ADDED, {"rows": 6, "items": 1})
    pd.testing.assert_frame_equal(found, predictor.forecast_df(empty, 6))
    (window,) = read_frame(cut, 6, freq="h").windows
    assert np.isnan(window.context[0, 60:66]).all() and len(window.context_times) == 96


def test_without_freq_a_hole_is_refused_in_words_that_are_true(predictor):
    cut = series(HOURS).drop(index=range(60, 66))
    with pytest.raises(DataError, match=r"item 'a': rows are .* Give freq='h', which puts the rows on that grid"):
        predictor.forecast_df(cut, 6)


def test_bars_missing_in_a_market_that_never_closes_become_missing_values(logged_notes):
    minutes = pd.date_range("2024-03-01", periods=500, freq="5min")
    (window,) = read_frame(series(minutes).drop(index=[7, 300]), 2).windows
    assert codes(logged_notes()) == {Code.BARS_MISSING}
    assert window.context.shape[1] == 500 and np.flatnonzero(np.isnan(window.context[0])).tolist() == [7, 300]


def test_only_items_with_holes_get_rows(logged_notes):
    two = pd.concat([series(HOURS).drop(index=5), series(HOURS[:50]).assign(item_id="b")])
    windows = read_frame(two, 2, freq="h").windows
    assert [window.context.shape[1] for window in windows] == [96, 50]
    assert logged_notes()[0].counts == {"rows": 1, "items": 1}


@pytest.mark.parametrize(
    ("rows", "freq", "fits"), [("MS", "ME", "MS"), ("W-MON", "W", "W-MON"), ("D", "B", "D"), ("QS", "QE", "QS")]
)
def test_a_freq_that_would_shift_the_stamps_is_refused(predictor, rows, freq, fits):
    stamps = pd.date_range("2021-01-01", periods=40, freq=rows)
    with pytest.raises(DataError, match=f"not on the grid of freq='{freq}'.*freq='{fits}'"):
        predictor.forecast_df(series(stamps), 3, freq=freq)


@pytest.mark.parametrize(("old", "new"), [("H", "h"), ("60T", "h"), ("3600S", "h")])
def test_older_spellings_are_frequencies(predictor, old, new):
    found, expected = (predictor.forecast_df(series(HOURS), 3, freq=freq) for freq in (old, new))
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("day", [15, 28])
def test_a_month_that_keeps_its_day_goes_on_there_and_is_refused_as_a_month_start(predictor, day):
    whole = [pd.Timestamp(year, month, day) for year in (2022, 2023, 2024) for month in range(1, 13)]
    found = predictor.forecast_df(series(whole[:24]), 3)
    assert found["timestamp"].tolist() == whole[24:27]
    with pytest.raises(DataError, match=r"not on the grid of freq='MS'. The rows fit freq='M'"):
        predictor.forecast_df(series(whole[:24]), 3, freq="MS")


def test_periods_are_their_first_instants_at_their_frequency(predictor, logged_notes):
    months = pd.period_range("2020-01", periods=30, freq="M")
    starts = series(pd.date_range("2020-01-01", periods=30, freq="MS"))
    for stamps in (months, pd.Series(list(months), dtype=object)):
        pd.testing.assert_frame_equal(predictor.forecast_df(series(stamps), 3), predictor.forecast_df(starts, 3))
    assert not logged_notes()
    holed = predictor.forecast_df(series(months).drop(index=4), 3)
    assert codes(logged_notes()) == {Code.GRID_ROWS_ADDED}
    assert holed["timestamp"].iloc[0] == pd.Timestamp("2022-07-01")


@pytest.mark.parametrize(("freq", "expected"), [("W", "2024-03-11"), ("Q", "2026-07-01"), ("Y", "2034-01-01")])
def test_periods_of_weeks_quarters_and_years_go_on_at_their_starts(freq, expected):
    task = read_frame(series(pd.period_range("2024-01-01", periods=10, freq=freq)), 1)
    assert task.stamps[0] == pd.Timestamp(expected)


def test_newest_rows_without_a_target_are_history_and_are_reported(predictor, logged_notes):
    history = series(HOURS[:40])
    coming = series(HOURS[40:46]).assign(target=np.nan)
    found = predictor.forecast_df(pd.concat([history, coming]), 3)
    assert found["timestamp"].iloc[0] == HOURS[46]
    (note,) = logged_notes()
    assert (note.code, note.counts) == (Code.NEWEST_ROWS_WITHOUT_TARGET, {"rows": 6, "items": 1})
    assert "the newest rows of item 'a' (6) have no target" in note.text and "future_df" in note.text
