"""The newest rows of a frame without a target: the steps to forecast, history, or refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from foretrain.errors import ConfigError, DataError
from foretrain.forecasting.frame import read_frame
from foretrain.forecasting.request import FrameRequest
from foretrain.forecasting.rows import Names
from foretrain.notes import Code, codes

HOURS = pd.date_range("2024-01-01", periods=60, freq="h")
H = 6


def item(name: str, observed: int, coming: int = H, **columns) -> pd.DataFrame:
    """Rows of one item, of which the newest `coming` have no target."""
    rows = observed + coming
    target = np.where(np.arange(rows) < observed, np.arange(rows, dtype=float) % 7, np.nan)
    values = {key: value(np.arange(rows)) if callable(value) else value for key, value in columns.items()}
    return pd.DataFrame({"item_id": name, "timestamp": HOURS[:rows], "target": target, **values})


def two_items(coming: int = H, other: int = H) -> pd.DataFrame:
    temp, promo = (lambda k: k % 5 * 1.0), (lambda k: k % 4 == 0)
    parts = [item(name, n, c, temp=temp, promo=promo) for name, n, c in (("a", 40, coming), ("b", 30, other))]
    return pd.concat(parts).sample(frac=1, random_state=0)


def split(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frame as history and future_df."""
    missing = frame["target"].isna()
    return frame[~missing], frame[missing].drop(columns="target")


def same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(a.reset_index(drop=True), b.reset_index(drop=True), check_exact=True)


def test_rows_of_exactly_the_horizon_in_every_item_are_the_known_future(predictor, logged_notes):
    frame = two_items()
    found = predictor.forecast_df(frame, H)
    (note,) = logged_notes()
    assert (note.code, note.counts) == (Code.NEWEST_ROWS_AS_FUTURE, {"rows": 12, "items": 2, "columns": 2})
    history, future = split(frame)
    same(found, predictor.forecast_df(history, H, future_df=future))
    assert found.groupby("item_id")["timestamp"].min().tolist() == [HOURS[40], HOURS[30]]


def test_a_column_without_a_value_in_these_rows_is_not_known_ahead(logged_notes):
    frame = two_items().assign(load=lambda df: df["target"] * 2)
    window = read_frame(frame, H).windows[0]
    assert (window.num_past, window.names) == (1, ("target", "load", "temp", "promo"))
    assert [note.counts["columns"] for note in logged_notes()] == [2]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (two_items(other=H - 1), "item 'b' has 5 such rows"),
        (two_items(other=0), "1 of 2 items have no target, but covariates .*; item 'b' has 0 such rows"),
        (two_items(H + 1, H + 1), "item '.' has 7 such rows"),
        (two_items(1, 1), "has 1 such row"),
        (
            pd.concat([item("a", 40, temp=lambda k: np.where(k == 44, np.nan, 1.0)), item("b", 30, temp=1.0)]),
            "item 'a' has 6 such rows, 1 of them without a covariate",
        ),
    ],
)
def test_another_number_of_rows_with_covariates_is_refused_with_the_options_that_settle_it(frame, message):
    with pytest.raises(DataError, match=message) as caught:
        read_frame(frame, H)
    assert "trailing_rows='history' (--trailing-rows history)" in str(caught.value)
    assert "future_df (--future)" in str(caught.value) and "\n" not in str(caught.value)


def test_an_option_says_what_such_rows_are(predictor, logged_notes):
    frame = two_items(other=H - 1)
    history, _ = split(frame)
    after = predictor.forecast_df(frame, H, trailing_rows="history")
    assert after.groupby("item_id")["timestamp"].min().tolist() == [HOURS[46], HOURS[35]]
    assert codes(logged_notes()) == {Code.NEWEST_ROWS_WITHOUT_TARGET}
    same(predictor.forecast_df(frame, H, trailing_rows="drop"), predictor.forecast_df(history, H))
    assert not logged_notes()
    with pytest.raises(DataError, match="item 'b' has 5 such rows"):
        predictor.forecast_df(frame, H, trailing_rows="future")
    rare = two_items().assign(temp=np.nan, promo=lambda df: np.where(df["timestamp"] == HOURS[41], "fair", None))
    with pytest.raises(DataError, match="of them without a covariate"):
        predictor.forecast_df(pd.concat([rare, item("c", 20, promo="fair")]), H)
    read_frame(rare.drop(columns="temp"), H, trailing_rows="future")
    with pytest.raises(ConfigError, match="trailing_rows='later': choose future, history, drop"):
        FrameRequest(prediction_length=H, trailing_rows="later")


@pytest.mark.parametrize("columns", [{}, {"unit": "MWh"}, {"temp": lambda k: np.where(k < 30, 1.0, np.nan)}])
def test_rows_without_a_covariate_that_changes_are_history(columns, logged_notes):
    task = read_frame(pd.concat([item("a", 40, **columns), item("b", 30, 2, **columns)]), H)
    assert [stamps[-1] for stamps in task.history()] == [HOURS[45], HOURS[31]]
    assert task.stamps[0] == HOURS[46]
    (note,) = logged_notes()
    assert (note.code, note.counts) == (Code.NEWEST_ROWS_WITHOUT_TARGET, {"rows": 8, "items": 2})


def test_beside_a_future_df_they_are_history_or_dropped_by_the_option(predictor, logged_notes):
    frame = two_items()
    _, future = split(frame)
    with pytest.raises(DataError, match=r"has a row at .* where the forecast has"):
        predictor.forecast_df(frame, H, future_df=future)
    assert codes(logged_notes()) == {Code.NEWEST_ROWS_WITHOUT_TARGET}
    found = predictor.forecast_df(frame, H, future_df=future, trailing_rows="drop")
    same(found, predictor.forecast_df(frame, H))
    later = future.assign(timestamp=future["timestamp"] + pd.Timedelta(hours=H))
    assert predictor.forecast_df(frame, H, future_df=later)["timestamp"].iloc[0] in (HOURS[46], HOURS[36])
    with pytest.raises(ConfigError, match="give one of them"):
        predictor.forecast_df(frame, H, future_df=later, trailing_rows="future")


def test_a_row_with_one_of_two_targets_is_observed():
    frame = item("a", 39, 1, second=1.0)
    with pytest.raises(DataError, match="item 'a' has 1 such rows"):
        read_frame(frame, 2)
    task = read_frame(frame, 2, names=Names(target=("target", "second")))
    assert task.stamps[0] == HOURS[40]


def test_their_stamps_must_follow_and_rows_that_a_grid_adds_are_not_among_them():
    frame = item("a", 40, temp=1.0)
    with pytest.raises(DataError, match=r"the newest rows without a target: item 'a' has a row at .* the forecast has"):
        read_frame(frame.drop(index=[39, 38]), H)
    task = read_frame(frame.drop(index=[20]), H, freq="h")
    assert (len(task.times), task.stamps[0]) == (40, HOURS[40])


def test_an_item_without_any_target_has_its_newest_rows_as_the_future():
    silent = item("b", 0, 30, temp=1.0)
    task = read_frame(pd.concat([item("a", 40, temp=1.0), silent]), H)
    assert [len(stamps) for stamps in task.history()] == [40, 24]
    with pytest.raises(DataError, match="item 'b' has no target in any row; leave it out"):
        read_frame(pd.concat([item("a", 40, temp=1.0), silent.head(H)]), H)


def test_steps_and_categories_of_a_flag_set_for_the_first_time_are_known_too(logged_notes):
    frame = item("a", 40, flag=lambda k: k >= 42).assign(timestamp=np.arange(46))
    task = read_frame(frame, H)
    assert task.stamps.tolist() == list(range(40, 46))
    assert codes(logged_notes()) == {Code.NEWEST_ROWS_AS_FUTURE, Code.FUTURE_VALUES_UNSEEN}


def test_the_note_names_only_what_is_read_ahead(logged_notes):
    read_frame(two_items(), H, names=Names(known=("promo",)))
    (note,) = (note for note in logged_notes() if note.code == Code.NEWEST_ROWS_AS_FUTURE)
    assert note.counts["columns"] == 1
    assert "known ahead are promo (not read there: temp," in note.text
