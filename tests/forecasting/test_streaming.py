"""Streams of frames: their forecasts, and the rows that append accepts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from foretrain.errors import ConfigError, DataError, ModelError
from foretrain.notes import Code, codes

FIRST = {"ACME": 200, "7": 150}  # rows of each item before any are appended


def parts(candles: pd.DataFrame, rows: dict[str, int]) -> pd.DataFrame:
    """The first rows of each item."""
    return pd.concat([candles[candles["item_id"] == name].iloc[:count] for name, count in rows.items()])


def between(candles: pd.DataFrame, first: dict[str, int], last: dict[str, int]) -> pd.DataFrame:
    """The rows of each item from one number to another."""
    found = [candles[candles["item_id"] == name].iloc[first[name] : count] for name, count in last.items()]
    return pd.concat(found)


@pytest.mark.parametrize("output", ["long", "candles", "paths"])
def test_a_stream_opens_with_the_forecast_of_its_frame(candle_predictor, candles, output):
    df = parts(candles, FIRST)
    how = {"output": output, "num_samples": 3, "seed": 2}
    expected = candle_predictor.forecast_df(df, 5, [0.1, 0.9], mode="rolling", **how)
    pd.testing.assert_frame_equal(candle_predictor.stream(df).forecast_df(5, [0.1, 0.9], **how), expected, rtol=1e-4)


def test_appended_rows_move_the_forecast_and_its_stamps(candle_predictor, candles):
    """The last rows of item 7 are those before the night; the stamps that follow are the next morning's."""
    stream, whole = candle_predictor.stream(parts(candles, FIRST)), {"ACME": 203, "7": 154}
    stream.append(between(candles, FIRST, whole).sample(frac=1, random_state=0))
    stream.append(between(candles, whole, {"7": 156}))
    found = stream.forecast_df(4, num_samples=2, output="candles")
    expected = candle_predictor.forecast_df(parts(candles, {"ACME": 203, "7": 156}), 4, num_samples=2, output="candles")
    assert found["item_id"].tolist() == expected["item_id"].tolist()
    assert found["timestamp"].tolist() == expected["timestamp"].tolist()
    assert found["timestamp"].iloc[4] == pd.Timestamp("2024-03-06 09:30")
    assert list(found.columns) == list(expected.columns) and np.isfinite(found["Close"]).all()


def test_a_stream_re_anchored_at_every_row_forecasts_as_the_frame_of_its_newest_rows(candle_predictor, candles):
    longest, later = candle_predictor.model.max_context_length, {"ACME": 202, "7": 153}
    stream = candle_predictor.stream(parts(candles, FIRST), re_anchor_every=1)
    stream.append(between(candles, FIRST, later))
    newest = parts(candles, later).groupby("item_id", sort=False).tail(longest)
    found = stream.forecast_df(3, output="candles", top_k=1)
    expected = candle_predictor.forecast_df(newest, 3, output="candles", top_k=1, mode="rolling", freq="5min")
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4)


def test_forecasts_leave_the_stream_as_it_is(candle_predictor, candles):
    stream = candle_predictor.stream(parts(candles, FIRST))
    first = stream.forecast_df(3, num_samples=2)
    stream.forecast_df(30, num_samples=3, mode="exact")
    pd.testing.assert_frame_equal(stream.forecast_df(3, num_samples=2), first)


def test_only_the_target_is_forecast_and_the_other_columns_grow_too(candle_predictor, candles):
    stream = candle_predictor.stream(parts(candles, FIRST), target="Close")
    stream.append(between(candles, FIRST, {"ACME": 201, "7": 151}))
    found = stream.forecast_df(3, [0.5], num_samples=4, sort_quantiles=True)
    assert found["target_name"].unique().tolist() == ["Close"]
    with pytest.raises(DataError, match="no column 'Open'"):
        stream.append(between(candles, {"ACME": 201}, {"ACME": 202}).drop(columns="Open"))


def test_a_frame_of_one_series_needs_no_ids_and_its_stamps_may_be_text(candle_predictor, candles):
    single = candles[candles["item_id"] == "ACME"].drop(columns="item_id").astype({"timestamp": str})
    stream = candle_predictor.stream(single.iloc[:200])
    stream.append(single.iloc[200:202])
    found = stream.forecast_df(2, num_samples=2)
    assert found["item_id"].unique().tolist() == ["item"]
    assert found["timestamp"].iloc[0] == pd.Timestamp(single["timestamp"].iloc[202])


def test_a_stream_may_count_steps(candle_predictor, candles):
    df = candles.assign(timestamp=candles.groupby("item_id").cumcount())
    stream = candle_predictor.stream(parts(df, FIRST))
    stream.append(between(df, FIRST, {"ACME": 202, "7": 151}))
    assert stream.forecast_df(2, [0.5], num_samples=2, output="candles")["timestamp"].tolist() == [202, 203, 151, 152]
    with pytest.raises(DataError, match="201 is not later than 201"):
        stream.append(between(df, {"ACME": 201}, {"ACME": 203}))


def test_an_empty_row_is_filled_and_counted(candle_predictor, candles):
    df = candles.assign(timestamp=candles.groupby("item_id").cumcount())
    stream = candle_predictor.stream(parts(df, FIRST))
    empty = between(df, FIRST, {"ACME": 201})
    empty[["Open", "High", "Low", "Close", "Volume"]] = np.nan
    stream.append(empty)
    found = stream.forecast_df(2, num_samples=2)
    assert found["timestamp"].iloc[0] == 201 and np.isfinite(found["predictions"]).all()


def test_rows_that_do_not_follow_the_series_are_refused(candle_predictor, candles):
    stream = candle_predictor.stream(parts(candles, FIRST))
    later = between(candles, FIRST, {"ACME": 202})
    with pytest.raises(DataError, match=r"item 'ACME': a row at .* is not later"):
        stream.append(between(candles, {"ACME": 199}, {"ACME": 201}))
    with pytest.raises(DataError, match="item 'other' is not in the first frame"):
        stream.append(later.assign(item_id="other"))
    with pytest.raises(DataError, match="of another kind"):
        stream.append(later.assign(timestamp=later["timestamp"].dt.tz_localize("UTC")))
    with pytest.raises(DataError, match="two rows at"):
        stream.append(pd.concat([later, later]))
    before = stream.forecast_df(2, num_samples=2)
    stream.append(later.iloc[:0])
    pd.testing.assert_frame_equal(stream.forecast_df(2, num_samples=2), before)


def test_options_are_the_familys_and_repairs_are_reported(candle_predictor, candles, logged_notes):
    stream = candle_predictor.stream(parts(candles, FIRST), max_context=16)
    with pytest.raises(ConfigError, match="no forecast option 'top_q'"):
        stream.forecast_df(2, top_q=1)
    with pytest.raises(ConfigError, match="output='wide'"):
        stream.forecast_df(2, output="wide")
    flat = parts(candles, FIRST).assign(**dict.fromkeys(("Open", "High", "Low"), candles["Close"]))
    candle_predictor.stream(flat).forecast_df(4, num_samples=4, repair_candles=False)
    assert Code.CANDLES_REPAIRED not in codes(logged_notes())
    candle_predictor.stream(flat).forecast_df(4, num_samples=4)
    assert Code.CANDLES_REPAIRED in codes(logged_notes())


def test_a_family_without_streams_is_refused(predictor, frame):
    with pytest.raises(ModelError, match="chronos2 has no streams"):
        predictor.stream(frame)


def test_rows_after_a_hole_are_refused_and_the_missing_ones_can_still_be_appended(candle_predictor, candles):
    hours = candles.assign(
        timestamp=pd.Timestamp("2024-01-01") + pd.to_timedelta(candles.groupby("item_id").cumcount(), "h")
    )
    first, whole = {"ACME": 60}, {"ACME": 66}
    stream = candle_predictor.stream(parts(hours, first))
    with pytest.raises(DataError, match="rows are missing between the stream and the appended rows: item 'ACME'"):
        stream.append(between(hours, {"ACME": 63}, whole))
    stream.append(between(hours, first, whole))
    expected = candle_predictor.stream(parts(hours, first))
    expected.append(between(hours, first, whole))
    how = {"num_samples": 2, "output": "candles"}
    pd.testing.assert_frame_equal(stream.forecast_df(3, **how), expected.forecast_df(3, **how))


def test_a_bar_missing_in_a_market_that_never_closes_is_a_row_of_missing_values(
    candle_predictor, candles, logged_notes
):
    hours = candles.assign(
        timestamp=pd.Timestamp("2024-01-01") + pd.to_timedelta(candles.groupby("item_id").cumcount(), "h")
    )
    first, whole = {"ACME": 200}, {"ACME": 206}
    stream, expected = (candle_predictor.stream(parts(hours, first)) for _ in range(2))
    stream.append(between(hours, first, whole).drop(index=202))
    assert codes(logged_notes()) == {Code.BARS_MISSING, Code.COLUMNS_LEFT_OUT}
    empty = between(hours, first, whole)
    empty.loc[202, ["Open", "High", "Low", "Close", "Volume"]] = np.nan
    expected.append(empty)
    how = {"num_samples": 2, "output": "candles"}
    pd.testing.assert_frame_equal(stream.forecast_df(3, **how), expected.forecast_df(3, **how))


def test_a_hole_in_counted_steps_is_refused(candle_predictor, candles):
    df = candles.assign(timestamp=candles.groupby("item_id").cumcount())
    stream = candle_predictor.stream(parts(df, FIRST))
    with pytest.raises(DataError, match="rows are missing"):
        stream.append(between(df, {"ACME": 203}, {"ACME": 206}))


def test_with_freq_the_steps_of_a_hole_are_rows_of_missing_values(candle_predictor, candles):
    day = candles[candles["item_id"] == "ACME"].iloc[:70]
    stream = candle_predictor.stream(day.iloc[:50].drop(index=day.index[20]), freq="5min")
    stream.append(day.iloc[53:60])
    filled = day.iloc[:60].copy()
    numbers = ["Open", "High", "Low", "Close", "Volume"]
    filled.loc[filled.index[[20, 50, 51, 52]], numbers] = np.nan
    expected = candle_predictor.stream(filled.iloc[:50])
    expected.append(filled.iloc[50:])
    how = {"num_samples": 2, "output": "candles"}
    pd.testing.assert_frame_equal(stream.forecast_df(3, **how), expected.forecast_df(3, **how))


def test_text_of_appended_rows_is_read_as_that_of_the_first_frame(candle_predictor, candles):
    """3/4 alone could be the third of April; the first frame has a day beyond the twelfth."""
    days = pd.bdate_range("2024-02-01", periods=60)
    text = candles[candles["item_id"] == "ACME"].iloc[:60].assign(timestamp=[f"{day:%d/%m/%Y}" for day in days])
    stream = candle_predictor.stream(text.iloc[:44])
    stream.append(text.iloc[44:46])
    assert stream.forecast_df(1, num_samples=2)["timestamp"].iloc[0] == days[46]


def test_rows_that_skip_bars_of_a_calendar_are_refused_until_these_are_appended(candle_predictor, candles):
    """A row without values stands for a bar without trades. Thanksgiving is no hole."""
    calendar = pytest.importorskip("exchange_calendars", reason="knows the sessions").get_calendar("XNYS")
    days = pd.DatetimeIndex(calendar.sessions_in_range("2023-08-01", "2023-12-29"))[:90]
    daily = candles[candles["item_id"] == "ACME"].iloc[:90].assign(timestamp=days)
    stream, expected = (candle_predictor.stream(daily.iloc[:70], calendar="XNYS") for _ in range(2))
    with pytest.raises(DataError, match=r"item 'ACME': 2 bars from 2023-11-08 .* by the calendar XNYS"):
        stream.append(daily.iloc[72:75])
    empty = daily.copy()
    empty.loc[empty.index[70:72], ["Open", "High", "Low", "Close", "Volume"]] = np.nan
    stream.append(empty.iloc[70:90])
    expected.append(empty.iloc[70:72])
    expected.append(daily.iloc[72:90])
    how = {"num_samples": 2, "output": "candles"}
    pd.testing.assert_frame_equal(stream.forecast_df(3, **how), expected.forecast_df(3, **how), rtol=1e-4)


def test_rows_that_skip_bars_of_inferred_trading_hours_are_taken_and_reported(candle_predictor, candles, logged_notes):
    """They may be a holiday's. The item whose rows go on is not named, nor is a night."""
    stream, whole = candle_predictor.stream(parts(candles, FIRST)), {"ACME": 240, "7": 160}
    logged_notes()
    rows = between(candles, FIRST, whole)
    acme = rows[rows["item_id"] == "ACME"]
    stream.append(rows.drop(index=acme.index[4:7]))
    (note,) = logged_notes()
    assert (note.code, note.counts) == (Code.BARS_MISSING, {"items": 1, "bars": 3})
    same = candle_predictor.stream(parts(candles, whole).drop(index=acme.index[4:7]))
    found, expected = (s.forecast_df(4, num_samples=2, output="candles") for s in (stream, same))
    assert found["timestamp"].tolist() == expected["timestamp"].tolist()
    with pytest.raises(DataError, match="is not later than"):
        stream.append(acme.iloc[4:7])


def test_an_item_that_skips_bars_of_its_calendar_may_go_on_so(candle_predictor, candles, logged_notes):
    calendar = pytest.importorskip("exchange_calendars", reason="knows the sessions").get_calendar("XNYS")
    days = pd.DatetimeIndex(calendar.sessions_in_range("2023-08-01", "2023-12-29"))[:90]
    daily = candles[candles["item_id"] == "ACME"].iloc[:90].assign(timestamp=days)
    stream = candle_predictor.stream(daily.iloc[:70].drop(index=daily.index[[60, 65]]), calendar="XNYS")
    logged_notes()
    stream.append(daily.iloc[72:75])
    assert [(note.code, note.counts["bars"]) for note in logged_notes()] == [(Code.BARS_MISSING, 2)]
    assert stream.forecast_df(1, num_samples=2)["timestamp"].iloc[0] == days[75]
