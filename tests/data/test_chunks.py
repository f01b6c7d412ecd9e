"""Views of Arrow list columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from foretrain.data.chunks import compact, flatten, starts, timestamps
from foretrain.errors import DataError

ROWS = [[1.0, 2.0, 3.0], [4.0, 5.0], [6.0], [7.0, 8.0, 9.0, 10.0]]
STACKED = [[row, [value + 0.5 for value in row]] for row in ROWS]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.list_(pa.float32())), pa.large_list(pa.large_list(pa.float64()))], ids=str
)
def test_slices_of_arrow_arrays_keep_their_offsets(kind):
    whole = pa.array(STACKED, kind)
    nested = flatten(whole.slice(1, 3), "here")
    for row in range(3):
        assert nested.block(row, 0, int(nested.length[row])).tolist() == STACKED[row + 1]


def test_fixed_size_lists_are_read():
    nested = flatten(pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)).slice(1), "here")
    assert nested.block(0, 0, 2).tolist() == [[3, 4]]


def test_float32_without_nulls_is_a_view_and_other_numbers_are_copies():
    rows = [[1.0, 2.0, 3.0], [4.0]]
    nested = flatten(pa.array(rows, pa.list_(pa.float32())), "here")
    assert np.shares_memory(nested.block(0, 0, 3), nested.floats)
    for kind, given in ((pa.int16(), [[1, 2, 3], [4]]), (pa.float64(), rows), (pa.float32(), [[1, None, 3], [4]])):
        nested = flatten(pa.array(given, pa.list_(kind)), "here")
        assert nested.floats is None
        expected = [np.nan if value is None else value for value in given[0]]
        assert np.array_equal(nested.block(0, 0, 3), [expected], equal_nan=True)
        assert nested.block(0, 0, 3).dtype == np.float32


def test_a_null_row_has_no_steps_and_no_variates():
    nested = flatten(pa.array([[[1.0]], None, [[2.0, 3.0]]], pa.list_(pa.list_(pa.float32()))), "here")
    assert nested.length.tolist() == [1, 0, 2]
    assert nested.variates.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["a"]], "is not a list of numbers"),
        ([1.0], "is not a list of numbers"),
        ([[[[1.0]]]], "is not a list of numbers"),
        ([[[1.0]], [[1.0, 2.0], [1.0]]], "series 8 has variates of different lengths"),
    ],
)
def test_a_column_that_holds_no_series_is_named(rows, message):
    with pytest.raises(DataError, match=f"here: .*{message}"):
        flatten(pa.array(rows), "here", first=7)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_stamps_of_any_unit_are_microseconds(unit):
    day = np.array(["2020-01-02"], f"M8[{unit}]")
    assert starts(pa.array(day), "here").tolist() == [1_577_923_200_000_000]
    values, first, length = timestamps(pa.array([[day[0]]] * 2, pa.list_(pa.timestamp(unit))), "here")
    assert (values.tolist(), first.tolist(), length.tolist()) == ([1_577_923_200_000_000] * 2, [0, 1], [1, 1])


def test_missing_stamps_are_refused():
    with pytest.raises(DataError, match="here: a series has no start"):
        starts(pa.array([None], pa.timestamp("us")), "here")
    with pytest.raises(DataError, match="here: a timestamp is missing"):
        timestamps(pa.array([[None]], pa.list_(pa.timestamp("us"))), "here")


@pytest.mark.parametrize(("most", "kind"), [(2**31 - 1, np.int32), (2**31, np.int64)])
def test_counts_that_fit_into_32_bits_take_them(most, kind):
    found = compact(np.array([0, most]))
    assert found.dtype == kind and found.tolist() == [0, most]


def test_an_equal_number_of_variates_is_stored_once():
    uneven = pa.array([[[1.0], [2.0]], [[3.0]]], pa.list_(pa.list_(pa.float32())))
    assert flatten(pa.array(STACKED, pa.list_(pa.list_(pa.float32()))), "here").variates.strides == (0,)
    assert flatten(uneven, "here").variates.tolist() == [2, 1]
