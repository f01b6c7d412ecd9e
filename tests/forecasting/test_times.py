"""Time columns of frames: text as an import reads it, zones, dates of any year, step numbers."""

from __future__ import annotations

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from foretrain.errors import DataError
from foretrain.forecasting.frame import read_frame, with_item_column
from foretrain.forecasting.rows import Names
from foretrain.forecasting.times import read_times

DAYS = pd.date_range("2024-01-01", periods=40)


def frame(stamps, **columns) -> pd.DataFrame:
    return pd.DataFrame({"item_id": "a", "timestamp": stamps, "target": np.arange(len(stamps)) * 1.0}).assign(**columns)


def stamps_of(stamps, horizon=2, **how) -> list:
    return list(read_frame(frame(stamps), horizon, **how).stamps)


def text(days, form="%d/%m/%Y") -> list[str]:
    return [f"{day:{form}}" for day in days]


def test_days_first_are_read_if_a_row_decides_and_refused_otherwise():
    assert stamps_of(text(DAYS[:20])) == [pd.Timestamp("2024-01-21"), pd.Timestamp("2024-01-22")]
    with pytest.raises(DataError, match=r"column 'timestamp'.*day first or month first.*read_table\(FILE, dayfirst="):
        stamps_of(text(DAYS[:10]))


def test_text_of_future_df_is_read_as_that_of_the_history():
    history, coming = frame(text(DAYS[:31]), x=1.0), pd.DataFrame({"timestamp": text(DAYS[31:33]), "x": 1.0})
    task = read_frame(history, 2, future_df=coming.assign(item_id="a"))
    assert list(task.stamps) == list(DAYS[31:33])
    written = coming.assign(item_id="a", timestamp=text(DAYS[31:33], "%Y-%m-%d"))  # another layout, not ambiguous
    assert list(read_frame(history, 2, future_df=written).stamps) == list(DAYS[31:33])


@pytest.mark.parametrize("freq", ["h", "15min"])
def test_text_with_offsets_across_a_clock_change_is_utc(freq):
    whole = pd.date_range("2024-10-26", "2024-10-28", freq=freq, tz="Europe/Berlin")
    found = stamps_of([str(stamp) for stamp in whole[:-2]])
    assert found == list(whole[-2:]) and str(found[0].tz) == "UTC"
    objects = pd.Series([stamp.to_pydatetime() for stamp in whole[:-2]], dtype=object)
    assert stamps_of(objects) == list(whole[-2:])


def test_local_midnights_are_dates_to_the_model_as_in_an_import():
    zoned = DAYS.tz_localize("America/New_York")
    (window,) = read_frame(frame(zoned), 2).windows
    (plain,) = read_frame(frame(DAYS), 2).windows
    assert window.context_times.tolist() == plain.context_times.tolist()
    assert window.future_times.tolist() == plain.future_times.tolist()
    assert str(read_frame(frame(zoned), 2).stamps.tz) == "America/New_York"
    (hourly,) = read_frame(frame(pd.date_range("2024-01-01", periods=9, freq="h", tz="America/New_York")), 2).windows
    assert hourly.context_times[0] == 1_000_000 * int(pd.Timestamp("2024-01-01 05:00Z").timestamp())


@pytest.mark.parametrize("year", [1600, 2250])
def test_dates_of_any_year_are_stamps(year):
    dates = [datetime.date(year + k, 1, 1) for k in range(20)]
    for column in (pd.Series(dates, dtype=object), [str(date) for date in dates], np.array(dates, "M8[s]")):
        assert [str(stamp.date()) for stamp in stamps_of(column)] == [f"{year + 20}-01-01", f"{year + 21}-01-01"]


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(range(9), dtype=object),
        pd.Series(range(9), dtype="Int64"),
        pd.Series([Decimal(k) for k in range(9)], dtype=object),
        np.arange(9.0),
    ],
)
def test_whole_numbers_of_any_type_count_steps(column):
    assert stamps_of(column) == [9, 10]


def test_categories_and_arrow_columns_are_what_they_hold():
    for column in (
        pd.Categorical([str(day) for day in DAYS]),
        pd.Series(DAYS).convert_dtypes(dtype_backend="pyarrow"),
        pd.Series([day.date() for day in DAYS], dtype="date32[pyarrow]"),
        pd.Series(DAYS.astype(str), dtype="string[pyarrow]"),
    ):
        assert stamps_of(column) == [pd.Timestamp("2024-02-10"), pd.Timestamp("2024-02-11")]


BAD = {
    "lists": ([[1, 2]] * 9, r"row 0 has \[1, 2\]"),
    "text and stamps": ([*DAYS[:8], "2024-01-09"], "row 8 has '2024-01-09' and row 0 has Timestamp"),
    "naive and aware": ([*DAYS[:8], DAYS[8].tz_localize("UTC")], "mixes stamps with and without a time zone"),
    "counts as text": ([str(k) for k in range(9)], "row 0 has '0'.*pandas.to_numeric"),
    "infinite": ([*range(8), np.inf], "row 8 has inf"),
    "fractions": (np.arange(9) / 2, "has fractions"),
    "huge": (np.arange(9, dtype=np.uint64) + 2**63, "counts no steps"),
    "booleans": (pd.Series([True] * 9, dtype=object), "is boolean"),
    "durations": (pd.to_timedelta(range(9), unit="h"), "does not hold time stamps"),
    "a blank cell": ([*(str(day) for day in DAYS[:8]), " "], "row 8 has ' '"),
    "unknown text": ([*(str(day) for day in DAYS[:8]), "soon"], "row 8 has 'soon'.*read_table"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_a_column_that_is_no_time_is_named_with_its_first_wrong_row(case):
    column, message = BAD[case]
    with pytest.raises(DataError, match=message) as caught:
        read_times(pd.Series(column, name="timestamp"), "df")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_an_hour_that_occurs_twice_hints_at_the_time_zone():
    hours = pd.date_range("2024-10-26", periods=48, freq="h", tz="Europe/Berlin").tz_localize(None)
    for given in (frame(hours), frame(hours).drop(columns="item_id")):
        with pytest.raises(DataError, match=r"two rows at 2024-10-27 02:00:00.*tz_localize.*timezone=ZONE"):
            named, _ = with_item_column(given, None, Names())
            read_frame(named, 2)
    with pytest.raises(DataError, match="two rows at") as caught:
        read_frame(frame([*DAYS, DAYS[-1]]), 2)
    assert "time zone" not in str(caught.value)


def test_zones_of_history_and_future_must_both_be_known():
    history = frame(DAYS[:38].tz_localize("UTC"), x=1.0)
    coming = pd.DataFrame({"item_id": "a", "timestamp": DAYS[38:], "x": 1.0})
    with pytest.raises(DataError, match="has a time zone in df and none in future_df"):
        read_frame(history, 2, future_df=coming)
    tokyo = coming.assign(timestamp=DAYS[38:].tz_localize("UTC").tz_convert("Asia/Tokyo"))
    assert str(read_frame(history, 2, future_df=tokyo).stamps.tz) == "UTC"


def test_an_unnamed_id_at_whose_changes_time_starts_anew_is_refused_by_name():
    blocks = {"a": DAYS[20:], "b": DAYS[:9], "c": DAYS[10:15]}
    parts = [pd.DataFrame({"id": name, "timestamp": days, "target": 1.0}) for name, days in blocks.items()]
    for stamps in (lambda days: days, lambda days: days.dt.strftime("%Y-%m-%d"), lambda days: days.dt.day_of_year):
        table = pd.concat(parts).assign(timestamp=lambda df, stamps=stamps: stamps(df["timestamp"]))
        with pytest.raises(DataError, match=r"'id' with several values.* id_column='id'.*read_table"):
            with_item_column(table, None, Names())
        with_item_column(table.sort_values("timestamp"), None, Names())  # a label along one series
