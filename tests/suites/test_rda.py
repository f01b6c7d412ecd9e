from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from pathlib import Path

import numpy as np
import pytest
from tests.suites.rda_files import NIL, integers, matrix, named_list, rda, reals, texts

from foretrain.errors import DataError
from foretrain.suites import rda as module
from foretrain.suites.rda import read_rda

PLACE = Path("data/a.rda")


@pytest.mark.parametrize("packed", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("version", [2, 3])
def test_numbers_texts_and_named_lists_are_read(packed, version):
    value = named_list({"x": reals([1.5, -2.0]), "period": texts(["YEARLY", "é"]), "n": integers([3, None])})
    content = packed(rda("M1", value, version))
    found = read_rda(content, PLACE)["M1"].named()
    assert found["x"].values.tolist() == [1.5, -2.0]
    assert found["period"].values == ["YEARLY", "é"]
    np.testing.assert_array_equal(found["n"].values, [3.0, np.nan])


def test_attributes_of_a_matrix_are_read():
    content = rda("hospital", matrix(np.arange(6.0).reshape(2, 3)))
    found = read_rda(content, PLACE)["hospital"]
    assert found.attributes["dim"].values.tolist() == [3.0, 2.0] and found.values.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_symbol_that_comes_again_is_a_reference():
    second = struct.pack(">ii", 2 | 0x400, 255 | 1 << 8) + reals([2.0])
    content = rda("x", reals([1.0]))[: -len(NIL)] + second + NIL
    assert read_rda(content, PLACE)["x"].values.tolist() == [2.0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PK\x03\x04", "no R data file"),
        (rda("x", reals([1.0, 2.0]))[:-9], "ends within a value"),
        (rda("x", struct.pack(">i", 3)), "type 3, which is no data"),  # a function
        (rda("x", struct.pack(">i", 4)), "type 4, which is no data"),  # an environment
        (rda("x", struct.pack(">ii", 14, 2**31 - 1)), "ends within a value"),
        (rda("x", struct.pack(">ii", 19, 1) + NIL)[:-8], "ends within a value"),
        (gzip.compress(rda("x", reals([1.0])), mtime=0)[:-12], "cannot be read"),
        (b"", "no R data file"),
    ],
)
def test_what_is_no_data_is_refused_in_one_line(content, reason):
    with pytest.raises(DataError, match=reason) as error:
        read_rda(content, PLACE)
    assert "\n" not in str(error.value) and "a.rda" in str(error.value)


def test_deep_nesting_is_refused():
    content = rda("x", struct.pack(">ii", 19, 1) * 100_000)
    with pytest.raises(DataError, match="damaged"):
        read_rda(content, PLACE)


def test_a_file_that_unpacks_to_more_than_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 1000)
    content = gzip.compress(rda("x", reals(np.zeros(500))))
    with pytest.raises(DataError, match="more than 1,000 bytes"):
        read_rda(content, PLACE)
