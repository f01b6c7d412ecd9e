"""Numbers in the spellings that people and programs use, and texts that are no numbers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from foretrain.data.importers.cells import BadCell, to_numbers

NBSP, NARROW, MINUS, EN_DASH, RAISED = "\N{NO-BREAK SPACE}", "\N{NARROW NO-BREAK SPACE}", "\u2212", "\u2013", "\u2019"


def numbers(*cells: str, decimal: str | None = None, na_values: tuple[str, ...] = ()) -> list[float] | None:
    found = to_numbers(pa.array(cells, pa.string()), na_values, decimal)
    return None if found is None else found.tolist()


def wide(text: str) -> str:
    """Return the full-width form of a text, as East Asian keyboards write it."""
    return "".join(chr(ord(character) + 0xFEE0) for character in text)


SPELLINGS = {
    "a dollar sign": (["$1,632.11", "$0.5"], [1632.11, 0.5]),
    "a minus before a dollar sign": (["-$1,234.50", "$-3", "$ -4"], [-1234.5, -3, -4]),
    "accounting parentheses": (["(1.00)", "2"], [-1, 2]),
    "parentheses around a currency": (["($1,234.50)", "$2"], [-1234.5, 2]),
    "a currency before parentheses": (["$(1,234.50)", "$ (2.00)"], [-1234.5, -2]),
    "a currency after parentheses": (["(1,234.50) USD", "2 USD"], [-1234.5, 2]),
    "a code before": (["EUR 1 234,56", "EUR 3"], [1234.56, 3]),
    "a code after": (["100.50 EUR", "7.25EUR"], [100.5, 7.25]),
    "a sign and the code of one currency": (["$5.10 USD", "US$ 7"], [5.1, 7]),
    "a dollar sign with the code of its country": (["$5.10 CAD", "$7 CAD"], [5.1, 7]),
    "a euro sign behind a decimal comma": (["1.234,56 €", "12,5 €"], [1234.56, 12.5]),
    "pounds": (["£1,000.00", "£2"], [1000, 2]),
    "yen": (["¥1,000,000", "¥950"], [1e6, 950]),
    "reais": (["R$ 1.234,50", "R$ 3,00"], [1234.5, 3]),
    "kroner": (["kr 1 234,50", "12,00 kr."], [1234.5, 12]),
    "zloty": ([f"1{NBSP}234,50 zł", "3,20 zł"], [1234.5, 3.2]),
    "some cells without the currency": (["$1,234.50", "17.00"], [1234.5, 17]),
    "coins": (["0.125 BTC", "2 BTC"], [0.125, 2]),
    "an apostrophe": (["1'100.50", "7"], [1100.5, 7]),
    "a typographic apostrophe": ([f"1{RAISED}100.50", "1'000'000"], [1100.5, 1e6]),
    "a blank": (["1 100,50", "3"], [1100.5, 3]),
    "a no-break space": ([f"1{NBSP}100,50", f"1{NBSP}000{NBSP}000"], [1100.5, 1e6]),
    "a narrow no-break space": ([f"1{NARROW}100"], [1100]),
    "Indian groups": (["1,10,10,500.00", "2,000.00"], [11010500, 2000]),
    "rupees": (["₹ 1,10,500", "Rs. 2,500.50"], [110500, 2500.5]),
    "dots between thousands": (["1.234.567", "3"], [1234567, 3]),
    "percent": (["4.12%", "-0.5%"], [4.12, -0.5]),
    "percent after a blank": (["4.12 %", "0"], [4.12, 0]),
    "percent with a decimal comma": (["4,12 %", f"{MINUS}0,5 %"], [4.12, -0.5]),
    "percent in parentheses": (["(4.12%)", "(3.00)%", "1%"], [-4.12, -3, 1]),
    "a unicode minus": ([f"{MINUS}5", "3"], [-5, 3]),
    "a dash for a minus": ([f"{EN_DASH}5.25", "3"], [-5.25, 3]),
    "a trailing minus": (["12-", "3"], [-12, 3]),
    "a trailing minus with marks": (["1.234,56-", "3,00"], [-1234.56, 3]),
    "a plus": (["+5", "+1,234.5"], [5, 1234.5]),
    "K, M and B": (["1.5K", "2M", "3.25B", "900"], [1500, 2e6, 3.25e9, 900]),
    "units of a currency": (["US$1.2bn", "$5M"], [1.2e9, 5e6]),
    "German units": (["12,5 Mio. €", "3 Mrd. €"], [12.5e6, 3e9]),
    "Chinese units": (["1.5万", "3亿"], [15000, 3e8]),
    "round sums": (["1.234,-", "5,50"], [1234, 5.5]),
    "text of Excel": (["'12.5", "3"], [12.5, 3]),
    "formulas of Excel": (['="12.50"', '="3"'], [12.5, 3]),
    "full-width digits": ([wide("1,234.5"), wide("3")], [1234.5, 3]),
    "invisible marks": (["\u200e5", "3"], [5, 3]),
    "exponents with a decimal comma": (["1,5E+03", "2,5"], [1500, 2.5]),
    "a decimal comma after a zero": (["0,125", "0,250"], [0.125, 0.25]),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_column_is_read_in_the_spelling_that_people_use(name: str) -> None:
    cells, expected = SPELLINGS[name]
    assert numbers(*cells) == expected


@pytest.mark.parametrize(
    "cells",
    [
        ("A1", "A2"), ("2020-01", "2020-02"), ("1-2", "3-4"), ("1.2.3", "1.2.4"), ("v1.2", "v1.3"),
        ("10.0.0.1", "192.168.1.20"), ("1,2,3", "4,5,6"), ("eth0", "eth1"), ("usd1", "usd2"), ("(1)", "(2)"),
        ("60-", "70-"), ("5m", "15m"), ("3M", "3M"), ("273.15 K", "274 K"), ("1.8 m", "1.9 m"), ("555 1234", "55 123"),
        ("5 kg", "6 kg"), ("12:30", "12:45"), ("101-16", "101-17"), ("425'6", "425'4"), ("sunny", "rain"),
        ("ESZ19", "ESH20"), ("$5 off", "free"),
    ],
)  # fmt: skip
def test_text_with_digits_is_no_number(cells: tuple[str, ...]) -> None:
    assert numbers(*cells) is None


MISSING = ["n.a.", "N.A.", "n/a", "#N/A N/A", "#VALUE!", "#DIV/0!", "#REF!", "ND", "n/d", "(null)", "---",
           "\N{HORIZONTAL ELLIPSIS}", "k.A.", "s/d", "\\N", EN_DASH, "\N{EM DASH}", MINUS, "1.#QNAN", ":"]  # fmt: skip


@pytest.mark.parametrize("cell", MISSING)
def test_spellings_of_a_missing_value_are_nan_beside_numbers_and_alone(cell: str) -> None:
    assert np.isnan(numbers("1", cell) or []).tolist() == [False, True]
    assert np.isnan(numbers("$1,000.50", cell) or []).tolist() == [False, True]
    assert np.isnan(numbers(cell, cell) or []).tolist() == [True, True]


REFUSED = {
    "several currencies": (["$5", "€6"], 1, r"in another currency than '\$5'"),
    "currencies of one sign": (["$5 CAD", "$6 AUD"], 1, r"in another currency than '\$5 CAD'"),
    "percent and fractions": (["4.12%", "0.05"], 1, r"without the sign of '4\.12%'"),
    "percent and per mille": (["5‰", "3%"], 1, "without the sign of '5‰'"),
    "several formats": (["1,234.5", "1.234,5"], 1, r"another format than '1,234\.5'"),
    "a comma of two meanings": (["1,234", "5"], 0, r"thousands \(1234\) or decimals \(1\.234\); say --decimal"),
    "a dot of two meanings": (["1.234 €", "950 €"], 0, r"a dot that may part thousands \(1234\) or dec"),
    "text among numbers": (["12", "sunny"], 1, "text in a number column"),
    "text among prices": (["$12", "$13", "free"], 2, "text in a number column"),
    "bounds": (["<0.01", "5"], 0, "text in a number column"),
    "a power": (["5²", "3"], 0, "text in a number column"),
    "a minus in parentheses": (["(-5)", "3"], 0, "text in a number column"),
    "true among numbers": (["true", "1"], 0, "text in a number column"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_column_without_one_clear_meaning_is_refused_with_its_cell(name: str) -> None:
    cells, row, why = REFUSED[name]
    with pytest.raises(BadCell, match=why) as caught:
        numbers(*cells)
    assert (caught.value.row, caught.value.text) == (row, cells[row])


def test_the_decimal_mark_settles_an_ambiguous_column() -> None:
    assert numbers("1,234", "5", decimal=",") == [1.234, 5]
    assert numbers("1,234", "5", decimal=".") == [1234, 5]
    assert numbers("1.234", "5", decimal=",") == [1234, 5]
    assert numbers("1.234 €", "950 €", decimal=",") == [1234, 950]
    with pytest.raises(BadCell, match="',' is no decimal mark"):
        numbers("1.5", "5", decimal=",")


def test_values_named_missing_are_nan_among_spelled_numbers() -> None:
    assert np.isnan(numbers("-9999", "$5", na_values=("-9999",)) or []).tolist() == [True, False]
    assert np.isnan(numbers("free", "$5", na_values=("free",)) or []).tolist() == [True, False]


def test_true_and_false_are_no_numbers() -> None:
    assert numbers("True", "false") is None


def test_a_written_number_is_read_back_in_every_format() -> None:
    rng = np.random.default_rng(7)
    values = np.append(rng.normal(0, 10 ** rng.uniform(0, 7, 200)).round(2), 1234567.25)
    plain = [f"{value:,.2f}" for value in values]
    formats = {
        "thousands": plain,
        "decimal comma": [cell.translate(str.maketrans(",.", ".,")) for cell in plain],
        "apostrophe": [cell.replace(",", "'") for cell in plain],
        "blank": [cell.replace(",", NARROW).replace(".", ",") for cell in plain],
        "currency": [f"{cell[:1]}${cell[1:]}" if cell[0] == "-" else f"${cell}" for cell in plain],
        "accounting": [f"({cell[1:]})" if cell[0] == "-" else cell for cell in plain],
        "trailing minus": [f"{cell[1:]}-" if cell[0] == "-" else cell for cell in plain],
        "euro": [cell.translate(str.maketrans(",.", ".,")) + " €" for cell in plain],
        "percent": [f"{cell} %" for cell in plain],
    }
    for name, cells in formats.items():
        assert numbers(*cells) == values.tolist(), name
