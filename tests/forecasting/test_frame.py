"""Frames to windows and back: layout, errors, and no use of values after the cutoff."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from foretrain.errors import DataError
from foretrain.forecasting.frame import read_frame, with_item_column
from foretrain.forecasting.rows import Names
from foretrain.notes import Code, codes

H = 4


def test_windows_follow_the_first_appearance_of_ids_and_ascend_in_time(frame, future):
    task = read_frame(frame, H, future_df=future)
    assert [w.item_id for w in task.windows] == list(pd.unique(frame["item_id"]))
    for window in task.windows:
        own = frame[frame["item_id"] == window.item_id].sort_values("timestamp")
        np.testing.assert_array_equal(window.context[0], own["target"].astype(np.float32))
        micros = own["timestamp"].astype("datetime64[us]").astype(np.int64)
        np.testing.assert_array_equal(window.context_times, micros)
        np.testing.assert_array_equal(window.future_times, micros.iloc[-1] + 3_600_000_000 * np.arange(1, H + 1))


def test_columns_of_future_df_are_known_ahead_and_the_others_are_past_only(frame, future):
    task = read_frame(frame, H, future_df=future.drop(columns="kind"))
    window, name = task.windows[0], task.item_ids[0]
    assert (window.num_targets, window.num_past, len(window.context)) == (1, 1, 3)
    np.testing.assert_array_equal(window.future[2], future[future["item_id"] == name]["temp"].astype(np.float32))
    assert np.isnan(window.future[:2]).all()


def test_a_windows_key_is_its_items_and_cutoffs_alone(frame):
    """It seeds the draws of sampling families, so order and other items must not change it."""
    keys = {w.item_id: w.key for w in read_frame(frame, H).windows}
    alone = read_frame(frame[frame["item_id"] == "1e5"], 2).windows[0].key
    assert keys["1e5"] == alone
    assert len(set(keys.values())) == 3


def test_the_order_of_rows_and_of_future_rows_does_not_matter(frame, future):
    first = frame.drop_duplicates("item_id")
    shuffled = pd.concat([first, frame.drop(first.index).sample(frac=1, random_state=5)])
    a = read_frame(frame, H, future_df=future)
    b = read_frame(shuffled, H, future_df=future.sample(frac=1, random_state=6))
    for x, y in zip(a.windows, b.windows, strict=True):
        np.testing.assert_array_equal(x.context, y.context)
        np.testing.assert_array_equal(x.future, y.future)


@pytest.mark.parametrize("targets", [("target",), ("target", "temp")])
def test_values_after_the_cutoff_change_nothing_that_a_model_sees(frame, targets):
    """A frame cut at a time gives the same windows for any rows after that time."""
    names = Names(target=targets)
    frame = frame.sort_values(["item_id", "timestamp"])
    cutoff = frame.groupby("item_id")["timestamp"].transform("max") - pd.Timedelta(hours=H)
    changed = frame.copy()
    later = changed["timestamp"] > cutoff
    changed.loc[later, ["target", "temp"]] = 1e6
    changed.loc[later, "kind"] = "never seen"

    def seen(df):
        past = df[df["timestamp"] <= cutoff]
        return read_frame(past, H, names=names)

    for a, b in zip(seen(frame).windows, seen(changed).windows, strict=True):
        np.testing.assert_array_equal(a.context, b.context)
        np.testing.assert_array_equal(a.future, b.future)


def test_known_covariates_do_not_change_the_history(frame, future):
    changed = future.assign(temp=1e6, kind=["a", *["never seen"] * (len(future) - 1)])
    a, b = (read_frame(frame, H, future_df=f) for f in (future, changed))
    for x, y in zip(a.windows, b.windows, strict=True):
        np.testing.assert_array_equal(x.context, y.context)


def test_infinite_and_missing_numbers_are_missing(frame):
    frame.loc[frame.index[0], "target"] = np.inf
    frame["target"] = frame["target"].astype("Float64")
    frame.loc[frame.index[1], "target"] = pd.NA
    values = np.concatenate([w.context[0] for w in read_frame(frame, H).windows])
    assert np.isnan(values).sum() == 2 and np.isfinite(values).sum() == len(frame) - 2


def test_integer_time_counts_steps(frame):
    frame = frame.sort_values(["item_id", "timestamp"])
    frame["timestamp"] = frame.groupby("item_id").cumcount() * 2
    task = read_frame(frame, 3)
    lengths = [w.context.shape[1] for w in task.windows]
    np.testing.assert_array_equal(task.stamps.reshape(3, 3), [[2 * n, 2 * n + 2, 2 * n + 4] for n in lengths])
    assert task.windows[0].context_times is None


def test_steps_that_look_like_unix_times_give_a_warning(frame, logged_notes):
    counted = frame.assign(timestamp=frame.groupby("item_id").cumcount())
    read_frame(counted, 2)
    assert not logged_notes()
    read_frame(counted.assign(timestamp=1_706_779_800 + 300 * counted.timestamp), 2)
    assert codes(logged_notes()) == {Code.STEPS_LOOK_LIKE_TIMES}


def test_steps_that_look_like_months_give_a_warning(frame, logged_notes):
    one = frame[frame["item_id"] == frame["item_id"].iloc[0]].head(9)
    read_frame(one.assign(timestamp=np.arange(202001, 202001 + len(one))), 2)
    assert codes(logged_notes()) == {Code.STEPS_LOOK_LIKE_TIMES}


def test_whole_floats_count_steps_and_fractions_are_refused(frame):
    """pandas would read 3.0 as three nanoseconds after 1970-01-01."""
    one = frame[frame.item_id == "nan"].sort_values("timestamp")
    task = read_frame(one.assign(timestamp=np.arange(float(len(one)))), 3)
    assert task.stamps.tolist() == [30, 31, 32]
    with pytest.raises(DataError, match="has fractions; count steps in whole numbers"):
        read_frame(one.assign(timestamp=np.arange(len(one)) / 2), 3)
    with pytest.raises(DataError, match="is boolean"):
        read_frame(one.assign(timestamp=True), 3)


def test_a_zone_survives(frame):
    frame["timestamp"] = frame["timestamp"].dt.tz_localize("America/New_York")
    assert str(read_frame(frame, H).stamps.tz) == "America/New_York"


def test_windows_name_their_rows(frame, future):
    window = read_frame(frame, H, future_df=future.drop(columns="temp")).windows[0]
    assert window.names == ("target", "temp", "kind")
    assert read_frame(frame, H, names=Names(target=("temp",)), future_df=future.drop(columns="temp")).windows[
        0
    ].names == (
        "temp",
        "target",
        "kind",
    )


def test_a_single_series_needs_no_ids(frame, future):
    one, ahead = (f[f.item_id == "nan"].drop(columns="item_id") for f in (frame, future))
    named, named_ahead = with_item_column(one, ahead, Names())
    assert set(named["item_id"]) == set(named_ahead["item_id"]) == {"item"}
    unlike = Names(item_id="symbol")
    assert with_item_column(one, None, unlike)[0] is one  # a column that was asked for must be there
    with pytest.raises(DataError, match=r"two rows at .* and no column 'item_id'"):
        with_item_column(frame.drop(columns="item_id"), None, Names())


def test_number_ids_come_back_as_numbers():
    frame = pd.DataFrame({"item_id": [7] * 5, "timestamp": pd.date_range("2024", periods=5, freq="D"), "target": 1.0})
    task = read_frame(frame, 2)
    assert task.windows[0].item_id == "7"
    assert list(task.item_ids) == [7]


def with_text(column, row, text):
    def change(df):
        df = df.astype({column: object})
        df.loc[row, column] = text
        return df

    return change


def same(df):
    return df


def without(column, row):
    return lambda df: df.assign(**{column: df[column].where(df.index != row)})


def with_gap(df):
    return df.drop(df[df["item_id"] == "007"].sort_values("timestamp").index[5])


# What is wrong: change of the frame, change of the future frame (None = no future frame), what the message must say.
FLAWS = {
    "missing column": (lambda df: df.drop(columns="target"), None, "no column 'target'"),
    "text in the target": (with_text("target", 3, "1,5"), None, "row 3.*'1,5'"),
    "boolean target": (lambda df: df.assign(target=True), None, "boolean"),
    "no rows": (lambda df: df[:0], None, "no rows"),
    "two columns of one name": (lambda df: pd.concat([df, df["temp"]], axis=1), None, "two columns named 'temp'"),
    "two equal rows": (lambda df: pd.concat([df, df[:1]]), None, "two rows at"),
    "no id": (without("item_id", 1), None, "without item_id"),
    "no time": (without("timestamp", 1), None, "without timestamp"),
    "not a time": (with_text("timestamp", 2, "yesterday-ish"), None, "does not hold time stamps"),
    "a gap": (with_gap, None, "'007'.*apart"),
    "future without ids": (same, lambda df: df.drop(columns="item_id"), "future_df has no column 'item_id'"),
    "target in the future": (same, lambda df: df.assign(target=1.0), "drop that column"),
    "unknown covariate": (same, lambda df: df.assign(rain=1.0), "'rain' that df lacks"),
    "unknown item": (same, lambda df: df.replace({"item_id": {"007": "008"}}), "'008' that df lacks"),
    "item without future": (same, lambda df: df[df["item_id"] != "nan"], "'nan' has 0 rows"),
    "wrong horizon": (same, lambda df: df[1:], "has 3 rows"),
    "wrong stamps": (same, lambda df: df.assign(timestamp=df["timestamp"] + pd.Timedelta("5min")), "the forecast has"),
    "numbers for stamps": (same, lambda df: df.assign(timestamp=range(len(df))), "time stamps"),
    "text among future numbers": (same, with_text("temp", 0, "warm"), "'warm' in future_df"),
}


@pytest.mark.parametrize("flaw", list(FLAWS))
def test_a_flawed_frame_gets_one_clear_line(frame, future, flaw):
    change, change_future, message = FLAWS[flaw]
    ahead = None if change_future is None else change_future(future)
    with pytest.raises(DataError, match=message) as caught:
        read_frame(change(frame), H, future_df=ahead)
    assert "\n" not in str(caught.value)


def test_stamps_of_future_df_replace_inferred_trading_hours():
    days = pd.bdate_range("2024-02-01", "2024-03-28").drop("2024-02-19")
    bars = pd.DataFrame({"item_id": "a", "timestamp": days, "target": 1.0})
    ahead = pd.DataFrame({"item_id": "a", "timestamp": pd.to_datetime(["2024-04-01", "2024-04-02"])})
    assert read_frame(bars, 2).stamps.tolist() == [pd.Timestamp("2024-03-29"), pd.Timestamp("2024-04-01")]
    task = read_frame(bars, 2, future_df=ahead)
    assert task.stamps.tolist() == ahead["timestamp"].tolist()
    assert task.windows[0].future_times.tolist() == ahead["timestamp"].astype("datetime64[us]").astype(int).tolist()
    with pytest.raises(DataError, match="the forecast has"):
        read_frame(bars, 2, future_df=ahead, freq="B")
    early = ahead.assign(timestamp=pd.to_datetime(["2024-03-28", "2024-04-01"]))
    with pytest.raises(DataError, match="not after its history"):
        read_frame(bars, 2, future_df=early)


def test_a_given_freq_accepts_irregular_stamps(frame):
    gap = frame.drop(frame[frame["item_id"] == "007"].sort_values("timestamp").index[5])
    task = read_frame(gap, H, freq="h")
    own = frame[frame["item_id"] == task.item_ids[0]]["timestamp"].max()
    assert task.stamps[0] == own + pd.Timedelta(hours=1)


def test_ten_thousand_items_keep_their_values():
    count, steps = 10_000, 30
    values = np.random.default_rng(0).standard_normal((count, steps)).astype(np.float32)
    frame = pd.DataFrame(
        {
            "item_id": np.repeat([f"item-{i}" for i in range(count)], steps),
            "timestamp": np.tile(pd.date_range("2024-01-01", periods=steps, freq="B").to_numpy(), count),
            "target": values.ravel(),
        }
    ).sample(frac=1, random_state=0)
    task = read_frame(frame, 5)
    for window in task.windows[::97]:
        np.testing.assert_array_equal(window.context[0], values[int(window.item_id.removeprefix("item-"))])
