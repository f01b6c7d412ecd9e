"""Categorical encodings against a plain loop."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from foretrain.forecasting.covariates import RowItems, encode, is_numeric


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
