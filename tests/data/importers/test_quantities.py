"""Cells that hold numbers in other scripts, with units, in 32nds or with too many digits, and names that look alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.data.importers.importing import DAYS, imported, items, written

from foretrain.errors import DataError
from foretrain.notes import Code, codes


def table(tmp_path: Path, cells: list[str], name: str = "x") -> None:
    """Write a column of numbers y, and one of other cells."""
    rows = [f"{day};{k + 0.5};{cell}" for k, (day, cell) in enumerate(zip(DAYS, cells, strict=True))]
    written(tmp_path / "in" / "a.csv", [f"date;y;{name}", *rows])


@pytest.mark.parametrize("zero", ["\u0660", "\u06f0", "\u0966", "\uff10"])
def test_digits_of_other_scripts_are_digits(tmp_path: Path, zero: str) -> None:
    digits = str.maketrans({str(k): chr(ord(zero) + k) for k in range(10)})
    table(tmp_path, [str(10 * k).translate(digits) for k in range(40)])
    assert items(imported(tmp_path)[0])["a"][1] == [10 * k for k in range(40)]


def test_arabic_marks_are_marks(tmp_path: Path) -> None:
    table(tmp_path, ["\u0661\u066c\u0662\u0663\u0664\u066b\u0665"] * 40)  # 1,234.5
    assert items(imported(tmp_path)[0])["a"][1] == [1234.5] * 40


def test_full_width_currency_signs_are_those_of_half_width(tmp_path: Path) -> None:
    table(tmp_path, ["\uffe5500" if k % 2 else "\N{YEN SIGN}600" for k in range(40)])
    assert items(imported(tmp_path)[0])["a"][1][:2] == [600, 500]


@pytest.mark.parametrize("unit", ["{} kWh", "{}°C", "{} MB", "<{}", "~{} mg/l", "{}x"])
def test_many_numbers_with_a_unit_are_left_out_rather_than_categories(tmp_path: Path, unit: str) -> None:
    table(tmp_path, [unit.format(k % 20 + 0.25) for k in range(40)])
    corpus, report = imported(tmp_path)
    assert [column.name for column in corpus.manifest.columns] == ["y"]
    assert codes(report.notes) == {Code.TEXT_LEFT_OUT}
    corpus, _ = imported(tmp_path, categorical="x")
    assert len(corpus.manifest.columns[1].categories or ()) == 20


def test_numbers_with_a_unit_alone_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "in" / "a.csv", ["date,x", *(f"{day},{k}.5 kWh" for k, day in enumerate(DAYS))])
    with pytest.raises(DataError, match=r"no column holds a number. Line 2, column 'x', is '0.5 kWh'"):
        imported(tmp_path)


@pytest.mark.parametrize("cell", ["0{}:15", "{}th", "Q{}", "A{}.5", "{}-1", "{} of 20"])
def test_texts_with_digits_are_no_numbers_with_a_unit(tmp_path: Path, cell: str) -> None:
    table(tmp_path, [cell.format(k % 12 + 1) for k in range(40)])
    corpus, report = imported(tmp_path)
    assert corpus.manifest.columns[0].categories is None
    assert codes(report.notes) <= {Code.TEXT_AS_CATEGORIES, Code.TEXT_LEFT_OUT}


def test_prices_in_32nds_are_refused_and_thousands_are_read(tmp_path: Path) -> None:
    table(tmp_path, [f"{110 + k // 16}'{2 * k % 32:02d}{'0257'[k % 4]}" for k in range(40)])
    with pytest.raises(DataError, match=r"110'000.* may part thousands or 32nds.*--decimal \."):
        imported(tmp_path)
    assert imported(tmp_path, decimal=".")[0].values(0)[1, 1] == 110022
    table(tmp_path, [f"{110 + k}'{37 * k % 1000:03d}" for k in range(40)])
    assert imported(tmp_path)[0].values(0)[1, 1] == 111037


@pytest.mark.parametrize("first", [9_007_199_254_740_993, 16_777_217])
def test_changes_below_the_last_digit_of_a_value_are_told(tmp_path: Path, first: int) -> None:
    table(tmp_path, [str(first + 1 * k) for k in range(40)])
    assert Code.DIGITS_LOST in codes(imported(tmp_path)[1].notes)


def test_equal_neighbours_and_usual_decimals_lose_no_digits(tmp_path: Path) -> None:
    prices = np.round(100 + np.random.default_rng(0).normal(size=40).cumsum(), 2)
    table(tmp_path, [str(prices[k // 2]) for k in range(40)])
    assert not imported(tmp_path)[1].notes


def test_the_note_on_categories_shows_some_and_those_that_look_alike(tmp_path: Path) -> None:
    table(tmp_path, ["Rain" if k % 2 else "rain" for k in range(40)])
    (note,) = imported(tmp_path)[1].notes
    assert (
        note.text == "column 'x': text, 2 categories ('rain', 'Rain'); 'rain' and 'Rain' differ only in case or blanks"
    )


@pytest.mark.parametrize("pair", [("a", "A"), ("shop 1", "Shop  1")])
def test_items_that_look_alike_are_told(tmp_path: Path, pair: tuple[str, str]) -> None:
    written(tmp_path / "in" / "a.csv", ["item_id,date,x", *(f"{pair[k % 2]},{DAYS[k // 2]},{k}" for k in range(40))])
    corpus, report = imported(tmp_path)
    assert corpus.num_series == 2
    assert codes(report.notes) == {Code.ITEMS_ALIKE}


@pytest.mark.parametrize("cell", ["{}.8m", "{}.25 m"])
def test_a_small_m_alone_is_no_million(tmp_path: Path, cell: str) -> None:
    table(tmp_path, [cell.format(k) for k in range(40)])
    assert codes(imported(tmp_path)[1].notes) == {Code.TEXT_LEFT_OUT}
    table(tmp_path, [cell.format(k) if k % 2 else "0.5" for k in range(40)])
    with pytest.raises(DataError, match="is text in a number column"):
        imported(tmp_path)


@pytest.mark.parametrize("cells", [["1.5k", "2.5m"], ["1.5M", "2.5M"], ["$1.5m", "$2.5m"], ["1.5 Mio.", "2.5 Mio."]])
def test_a_million_beside_thousands_a_currency_or_in_capitals_is_a_million(tmp_path: Path, cells: list[str]) -> None:
    table(tmp_path, [cells[k % 2] for k in range(40)])
    assert items(imported(tmp_path)[0])["a"][1][1] == 2.5e6


def test_codes_with_leading_zeros_that_become_numbers_are_told(tmp_path: Path) -> None:
    table(tmp_path, [f"{k % 3:04d}" for k in range(40)])
    corpus, report = imported(tmp_path)
    assert items(corpus)["a"][1][:3] == [0, 1, 2]
    assert codes(report.notes) == {Code.LEADING_ZEROS}
    corpus, _ = imported(tmp_path, categorical="x")
    assert corpus.manifest.columns[1].categories == ("0000", "0001", "0002")
    table(tmp_path, [f"{k % 3:02d}" for k in range(40)])
    assert not imported(tmp_path)[1].notes


def test_a_column_with_percent_signs_in_one_file_alone_is_told(tmp_path: Path) -> None:
    for name, sign, part in (("a", "%", 1), ("b", "", 100)):
        rows = [f"{day},{k / part}{sign},1" for k, day in enumerate(DAYS)]
        written(tmp_path / "in" / f"{name}.csv", ["date,x,y", *rows])
    corpus, report = imported(tmp_path)
    assert codes(report.notes) == {Code.PERCENT_IN_SOME_FILES}
    assert items(corpus)["a"][0][:3] == [0, 1, 2]


def test_a_blank_item_id_is_refused(tmp_path: Path) -> None:
    written(
        tmp_path / "in" / "a.csv", ["item_id,date,x", *(f"{'  ' if k else 'A'},{day},1" for k, day in enumerate(DAYS))]
    )
    with pytest.raises(DataError, match="line 3: column 'item_id' has no item id"):
        imported(tmp_path)
