"""Dots that may part thousands: where a table shows it, a cell like 1.234 is not read as a decimal in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.data.importers.importing import DAYS, imported, items, written

from foretrain.errors import DataError


def table(tmp_path: Path, header: str, *columns: list[str]) -> Path:
    rows = [";".join(cells) for cells in zip(DAYS, *columns, strict=False)]
    return written(tmp_path / "in" / "a.csv", [header, *rows])


THOUSANDS = [f"1.{k:03d}" for k in range(40)]


def test_dots_alone_beside_decimal_commas_are_refused(tmp_path: Path) -> None:
    table(tmp_path, "date;price;pieces", [f"{k},5" for k in range(40)], THOUSANDS)
    with pytest.raises(DataError, match=r"'pieces': '1.000' is .* thousands \(1000\).*'price' has decimal comm"):
        imported(tmp_path)
    corpus, _ = imported(tmp_path, decimal=",")
    assert items(corpus)["a"][1][:3] == [1000, 1001, 1002]


@pytest.mark.parametrize("small", ["5", "12", "999", "1 234", "1'234"])
def test_dots_beside_whole_numbers_below_a_thousand_are_refused(tmp_path: Path, small: str) -> None:
    table(tmp_path, "date;pieces", [small if k % 2 else THOUSANDS[k] for k in range(40)])
    with pytest.raises(DataError, match=rf"'1.000' is a number .*since .{small}. has no decimals.*--decimal"):
        imported(tmp_path)
    corpus, _ = imported(tmp_path, decimal=".")
    number = float(small.replace(" ", "").replace("'", ""))
    np.testing.assert_allclose(items(corpus)["a"][0][:3], [1, number, 1.002], rtol=1e-6)


@pytest.mark.parametrize("other", ["1.5", "0.125", "1234", "0", "0.000", "1e3"])
def test_a_column_with_other_decimals_or_longer_numbers_has_decimal_dots(tmp_path: Path, other: str) -> None:
    table(tmp_path, "date;x", [other, *THOUSANDS[1:]])
    np.testing.assert_allclose(items(imported(tmp_path)[0])["a"][0][:2], [float(other), 1.001], rtol=1e-6)


def test_a_wide_table_with_dots_beside_small_whole_numbers_is_refused(tmp_path: Path) -> None:
    lines = ["id," + ",".join(DAYS), "a," + ",".join(["5", *THOUSANDS[1:]])]
    written(tmp_path / "in" / "a.csv", lines)
    with pytest.raises(DataError, match=r"column '2024-01-02': '1.001' is a number with a dot"):
        imported(tmp_path)
