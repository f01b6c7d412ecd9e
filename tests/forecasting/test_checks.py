"""Frames of unusual types: read as the plain frame of the same values, or refused with the column and a way out."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from foretrain.errors import DataError
from foretrain.forecasting.frame import one_series
from foretrain.notes import Code

DAYS = pd.date_range("2024-01-01", periods=40)
NUMBERS = np.arange(40.0)


def frame(**columns) -> pd.DataFrame:
    return pd.DataFrame({"timestamp": DAYS, "target": NUMBERS}).assign(**columns)


SAME = {
    "unsorted": lambda: frame().sample(frac=1, random_state=0),
    "a filtered index": lambda: frame().set_index(np.arange(40) * 3),
    "nullable integers": lambda: frame().astype({"target": "Int64"}),
    "objects of integers": lambda: frame(target=pd.Series(range(40), dtype=object)),
    "objects of floats": lambda: frame(target=NUMBERS.astype(object)),
    "decimals": lambda: frame(target=[Decimal(k) for k in range(40)]),
    "arrow": lambda: frame().convert_dtypes(dtype_backend="pyarrow"),
    "arrow decimals": lambda: frame(
        target=pd.array([Decimal(k) for k in range(40)], dtype=pd.ArrowDtype(pa.decimal128(10, 2)))
    ),
    "sparse": lambda: frame(target=pd.arrays.SparseArray(NUMBERS)),
    "small types": lambda: frame().astype({"target": "uint8"}),
    "text stamps": lambda: frame().astype({"timestamp": str}),
    "a saved index": lambda: frame(**{"Unnamed: 0": range(40), "Unnamed: 3": np.nan, "index": range(40)}),
}


@pytest.mark.parametrize("case", list(SAME))
def test_a_frame_forecasts_the_same_whatever_types_hold_its_values(predictor, case):
    pd.testing.assert_frame_equal(
        predictor.forecast_df(SAME[case](), 3), predictor.forecast_df(frame(), 3), check_dtype=False
    )


def test_decimals_of_a_covariate_are_numbers(predictor):
    found, expected = (
        predictor.forecast_df(frame(x=x), 3) for x in ([Decimal(k % 5) / 2 for k in range(40)], np.arange(40) % 5 / 2)
    )
    pd.testing.assert_frame_equal(found, expected)


def test_levels_of_a_category_that_do_not_occur_change_nothing(predictor):
    words = ["lo", "hi"] * 20
    more = pd.Categorical(words, categories=["unused", "hi", "never", "lo"])
    target = ["target", "second"]  # several targets: categories become ordinal codes
    found, expected = (predictor.forecast_df(frame(x=x, second=1.0), 3, target=target) for x in (more, words))
    pd.testing.assert_frame_equal(found, expected)


def test_columns_that_only_count_rows_are_left_out_with_a_note(predictor, logged_notes):
    predictor.forecast_df(frame(**{"Unnamed: 0": range(40)}), 3)
    (note,) = logged_notes()
    assert note.code == Code.ROW_NUMBERS_LEFT_OUT and "'Unnamed: 0'" in note.text
    predictor.forecast_df(frame(**{"index": np.arange(40) % 7}), 3)  # an index of something, not of rows
    assert not logged_notes()


BAD = {
    "a number as a name": (lambda: frame().rename(columns={"target": 0}), r"a column named 0, .*map\(str\)"),
    "several levels": (lambda: pd.concat({"MSFT": frame()}, axis=1), "names of 2 levels.*read_table"),
    "two of one name": (lambda: pd.concat([frame(), frame()], axis=1), "two columns named 'timestamp'"),
    "an index of ids and stamps": (
        lambda: frame(item_id="a").set_index(["item_id", "timestamp"]),
        r"df.reset_index\(\)",
    ),
    "an index without names": (
        lambda: frame(item_id="a").set_index(["item_id", "timestamp"]).rename_axis([None, None]),
        r"rename_axis\(\['item_id', 'timestamp'\]\)",
    ),
    "ids in the index": (lambda: frame(item_id="a").set_index("item_id"), r"level of that name.*reset_index\(\)"),
    "periods in the index": (
        lambda: frame().set_index(pd.period_range("2024-01-01", periods=40, freq="D")).drop(columns="timestamp"),
        r"rename_axis\('timestamp'\)",
    ),
    "ids of several types": (
        lambda: pd.concat([frame(item_id=1), frame(item_id="1")]),
        r"ids 1 and '1', which only differ in type.*astype\(str\)",
    ),
    "lists as ids": (lambda: frame(item_id=[["a"]] * 40), "column 'item_id' holds a list"),
    "lists in a covariate": (lambda: frame(x=[[1, 2]] * 40), "column 'x' holds a list"),
    "a series in each row": (lambda: frame(target=[[1.0, 2.0]] * 40), "holds a list.*whole series.*read_table"),
    "complex numbers": (lambda: frame(target=NUMBERS * 1j), "column 'target' holds complex numbers"),
    "currency in the target": (lambda: frame(target=[f"${k}" for k in range(40)]), r"'\$0'.*read_table"),
    "blanks in the target": (lambda: frame(target=[f" {k} " for k in range(40)]), "pandas.to_numeric.*read_table"),
    "stamps in the target": (lambda: frame(target=DAYS), "target 'target' is not a column of numbers"),
    "thousands in a covariate": (lambda: frame(x=[f"{k},000.5" for k in range(40)]), "'0,000.5'.*read_table"),
    "ambiguous commas": (lambda: frame(x=[f"1,{k + 100}" for k in range(40)]), "looks like numbers.*read_table"),
    "a word among numbers": (lambda: frame(x=[*map(str, range(39)), "closed"]), "'closed'.*read_table"),
    "dates as text": (lambda: frame(x=["2024-01-31", "2024-02-29"] * 20), "dates as text.*astype.*read_table"),
    "comments": (lambda: frame(x=[f"note {k}" for k in range(40)]), "40 different of 40 cells.*read_table"),
    "two rows at a stamp": (lambda: pd.concat([frame(), frame()[-1:]]), "two rows at 2024-02-09.*no column 'item_id'"),
    "several series": (lambda: pd.concat([frame(store="a"), frame(store="b")]), "id_column='store'"),
    "several symbols": (lambda: frame(symbol=["A", "B"] * 20), "'symbol' with several values.*id_column='symbol'"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_an_odd_frame_gets_one_line_that_says_what_to_do(predictor, case):
    make, message = BAD[case]
    with pytest.raises(DataError, match=message) as caught:
        predictor.forecast_df(make(), 3)
    assert "\n" not in str(caught.value) and "np." not in str(caught.value)


def test_prices_of_zero_and_negative_volumes_stay_and_are_reported(candle_predictor, candles, logged_notes):
    bars = candles[candles["item_id"] == "ACME"].drop(columns="exchange").reset_index(drop=True)
    candle_predictor.forecast_df(bars, 2, num_samples=1)
    assert not logged_notes()
    bars.loc[5, "Low"], bars.loc[7, "Volume"] = 0.0, -1.0
    candle_predictor.forecast_df(bars, 2, num_samples=1)
    (note,) = logged_notes()
    assert (note.code, note.counts) == (Code.QUOTES_IMPOSSIBLE, {"rows": 2})


def test_text_that_is_asked_for_stays_a_category(predictor):
    """Plain digits, true and false, and anything made a category."""
    digits = [str(k % 3) for k in range(40)]
    pd.testing.assert_frame_equal(
        predictor.forecast_df(frame(x=digits), 3), predictor.forecast_df(frame(x=pd.Categorical(digits)), 3)
    )
    for words in (["True", "false"] * 20, pd.Categorical([f"{k},000.5" for k in range(40)])):
        assert len(predictor.forecast_df(frame(x=words), 3)) == 3


def test_names_of_the_forecasts_own_columns_are_refused(predictor, candle_predictor, candles):
    for name in ("predictions", "target_name", "0.5"):
        with pytest.raises(DataError, match=f"id_column='{name}': the forecast has a column of that name"):
            predictor.forecast_df(frame(**{name: "a"}), 2, [0.5], id_column=name)
    with pytest.raises(DataError, match="timestamp_column='mean'"):
        predictor.forecast_df(frame().rename(columns={"timestamp": "mean"}), 2, timestamp_column="mean")
    with pytest.raises(DataError, match="id_column='sample'"):
        candle_predictor.forecast_df(
            candles.rename(columns={"item_id": "sample"}), 2, id_column="sample", output="paths"
        )


def test_one_series_on_both_sides_is_one_series_whatever_it_is_called(predictor):
    coming = pd.DataFrame({"timestamp": pd.date_range("2024-02-10", periods=3), "x": 1.0})
    history = frame(x=1.0)
    expected = predictor.forecast_df(history, 3, future_df=coming)
    assert set(expected["item_id"]) == {"item"}
    values = [str(k / 10) for k in range(1, 10)]
    for df, ahead in (
        (history, coming.assign(item_id="covariates")),
        (history.assign(item_id="sales"), coming),
        (history.assign(item_id="sales"), one_series(history.assign(item_id="sales"), coming.assign(item_id="other"))),
    ):
        pd.testing.assert_frame_equal(predictor.forecast_df(df, 3, future_df=ahead)[values], expected[values])
    with pytest.raises(DataError, match="'other' that df lacks"):
        predictor.forecast_df(history.assign(item_id="sales"), 3, future_df=coming.assign(item_id="other"))
    two = pd.concat([history.assign(item_id="a"), history.assign(item_id="b")])
    assert one_series(two, coming.assign(item_id="c"))["item_id"].unique().tolist() == ["c"]


def test_an_id_of_another_type_in_future_df_is_shown(predictor):
    coming = pd.DataFrame({"item_id": "1", "timestamp": pd.date_range("2024-02-10", periods=3), "x": 1.0})
    with pytest.raises(DataError, match=r"an item '1' that df lacks \(it has 1\)"):
        predictor.forecast_df(frame(x=1.0, item_id=1), 3, future_df=coming)
