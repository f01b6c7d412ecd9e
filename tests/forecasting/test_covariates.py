"""Categorical encodings against a plain loop."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from foretrain.data.splits import cut, select
from foretrain.data.store import Column, Corpus
from foretrain.errors import DataError
from foretrain.forecasting.covariates import RowItems, encode, is_numeric
from foretrain.forecasting.frame import read_frame
from foretrain.forecasting.rows import Names
from foretrain.notes import Code, codes


@pytest.fixture
def rows() -> RowItems:
    return RowItems(past=np.array([0, 0, 0, 0, 1, 1, 1]), future=np.array([0, 0, 1, 1]), num_items=2)


PAST = pd.Series(["a", "b", "a", None, "b", "b", "c"])
FUTURE = pd.Series(["a", "c", "b", "new"])
TARGET = np.array([1.0, 2.0, 5.0, 7.0, np.nan, 4.0, 6.0], np.float32)


def test_target_means_are_shrunk_towards_the_items_mean(rows):
    past, future = encode(PAST, FUTURE, rows, TARGET, use_ordinal=False)
    means = {0: (1 + 2 + 5 + 7) / 4, 1: (4 + 6) / 2}
    cells = {(0, "a"): (6, 2), (0, "b"): (2, 1), (0, None): (7, 1), (1, "b"): (4, 1), (1, "c"): (6, 1)}

    def value(item, category):
        total, count = cells.get((item, None if pd.isna(category) else category), (0, 0))
        return (means[item] + total) / (1 + count)

    np.testing.assert_allclose(past, [value(i, c) for i, c in zip(rows.past, PAST, strict=True)], rtol=1e-6)
    np.testing.assert_allclose(future, [value(i, c) for i, c in zip(rows.future, FUTURE, strict=True)], rtol=1e-6)


def test_ordinal_codes_follow_the_sorted_categories_of_the_history(rows):
    past, future = encode(PAST, FUTURE, rows, TARGET, use_ordinal=True)
    np.testing.assert_array_equal(past, [0, 1, 0, 3, 1, 1, 2])
    np.testing.assert_array_equal(future, [0, 2, 1, np.nan])


def test_a_missing_future_value_is_the_missing_category(rows):
    future = pd.Series(["a", None, "b", np.nan], dtype=object)
    _, encoded = encode(PAST, future, rows, TARGET, use_ordinal=True)
    np.testing.assert_array_equal(encoded, [0, 3, 1, 3])


def test_an_item_without_finite_targets_is_encoded_as_zero():
    rows = RowItems(past=np.array([0, 0]), future=np.array([0]), num_items=1)
    past, future = encode(
        pd.Series(["a", "b"]), pd.Series(["a"]), rows, np.full(2, np.nan, np.float32), use_ordinal=False
    )
    np.testing.assert_array_equal(np.append(past, future), [0, 0, 0])


@pytest.mark.parametrize(
    ("values", "dtype", "numeric"),
    [([1, 2], "Int64", True), ([1.0, None], "float32", True), ([True, False], "bool", False),
     (["1", "2"], object, False), (["a", "b"], "category", False)],
)  # fmt: skip
def test_text_booleans_and_categories_are_not_numbers(values, dtype, numeric):
    assert is_numeric(pd.Series(values, dtype=dtype)) is numeric


def test_text_categories_and_objects_are_encoded_alike(rows):
    as_text = encode(PAST, FUTURE, rows, TARGET, use_ordinal=False)
    as_category = encode(PAST.astype("category"), FUTURE.astype("category"), rows, TARGET, use_ordinal=False)
    np.testing.assert_array_equal(as_text[0], as_category[0])
    np.testing.assert_array_equal(as_text[1], as_category[1])


def coded(past, future) -> list[float]:
    """The ordinal codes of future values; the history is one item's."""
    rows = RowItems(np.zeros(len(past), int), np.zeros(len(future), int), 1)
    target = np.zeros(len(past), np.float32)
    return encode(pd.Series(past, name="x"), pd.Series(future), rows, target, use_ordinal=True)[1].tolist()


@pytest.mark.parametrize(
    "future",
    [
        [True, False],
        [1, 0],
        [1.0, 0.0],
        ["True", "False"],
        ["TRUE", "false"],
        ["1", "0"],
        pd.array([True, False], dtype="boolean"),
        pd.Categorical([1, 0]),
        np.array([1, 0], object),
    ],
)
@pytest.mark.parametrize("past", [[False, True], ["False", "True"], ["FALSE", "TRUE"], ["0", "1"], [False, True, None]])
def test_spellings_of_true_and_false_match(past, future):
    assert coded(pd.Series(past, dtype=object), future) == [1, 0]


@pytest.mark.parametrize("future", [[3, 1], [3.0, 1.0], ["3", "1"], ["3.0", " 1"], pd.array([3, 1], dtype="Int64")])
@pytest.mark.parametrize("past", [["1", "3"], pd.Categorical([1, 3]), pd.Categorical([1.0, 3.0]), ["1.0", "3.0"]])
def test_spellings_of_a_number_match_where_the_history_has_categories(past, future):
    assert coded(past, future) == [1, 0]


def test_a_spelling_of_two_categories_matches_neither(logged_notes):
    assert np.isnan(coded(["1", "1.0", "b"], [1, "b"])[0])
    assert codes(logged_notes()) == {Code.FUTURE_VALUES_UNSEEN}


def test_future_values_that_the_history_lacks_are_named(logged_notes):
    found = coded(["a", "b"], ["b", "c", "d", None])
    assert found[0] == 1 and np.isnan(found[1:3]).all() and found[3] == 2
    (note,) = logged_notes()
    assert (note.code, note.counts) == (Code.FUTURE_VALUES_UNSEEN, {"values": 2, "of": 3})
    assert "'x'" in note.text and "'c', 'd'" in note.text


def test_a_column_whose_future_values_are_all_unknown_is_refused():
    with pytest.raises(DataError, match=r"column 'x': its history has none of its .* .'yes', 'no'; .* False"):
        coded([True, False], ["yes", "no"])
    assert coded([None, "a"], [None, None]) == [1, 1]  # nothing is known ahead


@pytest.mark.parametrize("past", [[False, False], ["False", "False"], ["false", "false"]])
@pytest.mark.parametrize("future", [[True], ["True"], [1], ["TRUE"], [1.0], ["1"]])
def test_a_flag_may_be_set_for_the_first_time(past, future, logged_notes):
    assert np.isnan(coded(past, future)).all()
    assert codes(logged_notes()) == {Code.FUTURE_VALUES_UNSEEN}
    with pytest.raises(DataError, match="none of its future values"):
        coded(past, [2])


@pytest.mark.parametrize(
    "ahead", [[True, False], ["true", "FALSE"], [1, 0], np.array([1.0, 0.0], object), ["1.0", "0"]]
)
def test_true_and_false_ahead_are_one_and_zero_where_the_history_is(ahead):
    days = pd.date_range("2024-01-01", periods=12)
    history = pd.DataFrame({"item_id": "a", "timestamp": days[:10], "target": 1.0, "x": np.arange(10) % 2})
    coming = pd.DataFrame({"item_id": "a", "timestamp": days[10:], "x": ahead})
    assert read_frame(history, 2, future_df=coming).windows[0].future[1].tolist() == [1, 0]
    if isinstance(ahead[0], bool):
        with pytest.raises(DataError, match="column 'x' holds numbers in df but True in future_df"):
            read_frame(history.assign(x=np.arange(10)), 2, future_df=coming)


@pytest.mark.parametrize("targets", [["target"], ["target", "other"]])
def test_a_category_that_the_history_lacks_says_the_same_in_windows_of_a_corpus_and_of_a_frame(targets):
    """Of one target its mean, of several nothing: as an evaluation and training see held-out steps."""
    codes_of_k = np.r_[np.arange(30) % 2, 2, 1, 0, 2]
    values = np.array([np.arange(34) % 7, np.arange(34) % 3, codes_of_k], np.float32)
    names = ["target", "other", Column(name="k", kind="categorical", categories=("x", "y", "z"))]
    corpus = Corpus.from_arrays("c", [("a", values, None)], names)
    of_corpus = cut(corpus, select(corpus, targets, (), ["k"]), 0, 30, prediction_length=4, with_future=False)
    frame = pd.DataFrame({"item_id": "a", "timestamp": np.arange(34), "target": values[0], "other": values[1]})
    frame = frame[["item_id", "timestamp", *targets]].assign(k=np.array(["x", "y", "z"])[codes_of_k])
    ahead = frame[30:].drop(columns=targets)
    of_frame = read_frame(frame[:30], 4, names=Names(target=tuple(targets)), future_df=ahead).windows[0]
    np.testing.assert_array_equal(of_corpus.context, of_frame.context)
    np.testing.assert_array_equal(of_corpus.future, of_frame.future)
    assert np.isnan(of_frame.future[-1][[0, 3]]).all() == (len(targets) > 1)
