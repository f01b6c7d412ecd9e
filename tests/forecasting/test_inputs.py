"""Windows of arrays and dicts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from foretrain.errors import DataError
from foretrain.forecasting.inputs import read_inputs


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, lambda x: np.asarray(x).tolist()])
def test_arrays_tensors_and_lists_give_the_same_windows(make):
    values = np.arange(12.0).reshape(2, 6)
    one, two = read_inputs([make(values[0]), make(values)], 3)
    np.testing.assert_array_equal(one.context, values[:1])
    np.testing.assert_array_equal(two.context, values)
    assert (one.num_targets, two.num_targets, two.num_past) == (1, 2, 0)


def test_a_three_dimensional_array_is_a_list_of_its_items():
    windows = read_inputs(np.arange(24.0).reshape(2, 3, 4), 2)
    assert [w.context.shape for w in windows] == [(3, 4), (3, 4)]


def item(steps=5, **more):
    return {"target": np.arange(float(steps)), **more}


def test_covariates_are_ordered_past_only_first_then_by_name():
    columns = {name: np.full(5, value) for name, value in zip("dcba", (4.0, 3.0, 2.0, 1.0), strict=True)}
    ahead = {"c": np.array([30.0, 31.0]), "a": None}
    (window,) = read_inputs([item(past_covariates=columns, future_covariates=ahead)], 2)
    np.testing.assert_array_equal(window.context[:, 0], [0, 2, 4, 1, 3])
    assert (window.num_targets, window.num_past) == (1, 2)
    np.testing.assert_array_equal(window.future[4], [30, 31])
    assert np.isnan(window.future[:4]).all()


def test_items_may_have_different_covariates():
    first, second = read_inputs([item(past_covariates={"a": np.ones(5)}), item(3)], 2)
    assert (len(first.context), len(second.context)) == (2, 1)


def test_text_covariates_are_encoded_over_all_items():
    items = [
        item(past_covariates={"k": list("ababc")}, future_covariates={"k": ["b", "new"]}),
        item(4, past_covariates={"k": list("cccc")}, future_covariates={"k": ["c", "a"]}),
    ]
    first, second = read_inputs(items, 2, ordinal=True)
    np.testing.assert_array_equal(first.context[1], [0, 1, 0, 1, 2])
    np.testing.assert_array_equal(first.future[1], [1, np.nan])
    np.testing.assert_array_equal(second.context[1], [2, 2, 2, 2])
    np.testing.assert_array_equal(second.future[1], [2, 0])
    encoded, _ = read_inputs(items, 2)
    np.testing.assert_allclose(encoded.context[1, :2], [(2 + 0 + 2) / 3, (2 + 1 + 3) / 3])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "holds no series"),
        (np.zeros((2, 5)), "3 dimensions"),
        ([np.zeros((2, 2, 2))], "item 0"),
        ([np.zeros(0)], "item 0"),
        ([["a", "b"]], "not an array of numbers"),
        ({"target": [1.0]}, "single dict"),
        (pd.DataFrame({"target": [1.0]}), "give it to forecast_df"),
        ([{"past_covariates": {}}], "no 'target'"),
        ([item(), np.zeros(3)], "among dicts"),
        ([item(futures={})], "unknown key 'futures'"),
        ([item(past_covariates={"a": np.zeros(4)})], "4 steps, target 5"),
        ([item(past_covariates={"a": np.zeros((1, 5))})], "one row"),
        ([item(past_covariates=[1])], "list"),
        ([item(future_covariates={"a": np.zeros(2)})], "no history"),
        (
            [item(past_covariates={"a": np.arange(5)}, future_covariates={"a": [True, False]})],
            "column 'a' holds numbers in past_covariates but True in future_covariates",
        ),
        ([item(past_covariates={"a": np.zeros(5)}, future_covariates={"a": np.zeros(3)})], "prediction_length = 2"),
    ],
)
def test_malformed_inputs_get_one_clear_line(inputs, message):
    with pytest.raises(DataError, match=message) as caught:
        read_inputs(inputs, 2)
    assert "\n" not in str(caught.value)
