"""Importing damaged tables: what certainly is damage is refused, what could be real is imported with a warning.

DETECTABLE and AMBIGUOUS are the two lists; docs/data-format.md prints them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.data.importers.importing import imported, written

from foretrain.data.importers import import_corpus
from foretrain.data.store import Corpus
from foretrain.errors import DataError

COUNT = 60
DATES = [str(np.datetime64("2024-01-01") + k) for k in range(COUNT)]
_noise = np.random.default_rng(0)
LOAD = np.round(100 + 5 * np.sin(np.arange(COUNT) / 7) + _noise.normal(size=COUNT), 2)
TEMP = np.round(20 + _noise.normal(size=COUNT), 2)
TABLE = ["date,load,temp", *(f"{d},{a},{b}" for d, a, b in zip(DATES, LOAD, TEMP, strict=True))]


def rows_of(load: np.ndarray, temp: np.ndarray) -> list[str]:
    return ["date,load,temp", *(f"{d},{a},{b}" for d, a, b in zip(DATES, load, temp, strict=True))]


def replaced(line: int, *new: str) -> list[str]:
    """Return the table with other lines in the place of one; lines count from 1."""
    return TABLE[: line - 1] + list(new) + TABLE[line:]


def inserted(line: int, *new: str) -> list[str]:
    return TABLE[: line - 1] + list(new) + TABLE[line - 1 :]


DETECTABLE: dict[str, tuple[list[str], str]] = {
    "the header repeated inside": (inserted(31, TABLE[0]), r"line 31 is a header again \(date, load, temp\)"),
    "two files glued, other columns": (inserted(31, "date,wind,rain"), r"line 31 is a header again \(date, wind, rain"),
    "two files glued, fewer columns": ([*TABLE[:31], "date,wind", *(f"{d},1" for d in DATES[30:])], "line 32 has 2"),
    "a second table below": ([*TABLE, "", "Means", "name,value", "load,3"], "line 63 has 1 fields, .* another table"),
    "a second table of as many columns": ([*TABLE, "", "name,mean,max", "load,3,4"], r"line 63, column 'date': 'name'"),
    "an HTML page": (["<!DOCTYPE html>", "<html><body>Busy</body></html>"], "looks like an HTML page"),
    "an HTML message above the table": (["<br />", "<b>Warning</b>: timeout", *TABLE], "looks like an HTML page"),
    "an HTML message below the table": ([*TABLE, "<br>,timeout,x"], "line 62, column 'date': '<br>'"),
    "a message of a server in JSON": (['{"Information": "rate limit"}', "{}"], "holds JSON, not a table.*rate limit"),
    "a separator missing": (replaced(21, TABLE[20].replace(",", "", 1)), "line 21 has 2 fields, the header 3"),
    "a separator too many": (replaced(21, TABLE[20].replace(",", ",,", 1)), "line 21 has 4 fields, the header 3"),
    "cells shifted by one": (replaced(21, f",{DATES[19]},20.1"), rf"line 21, column 'load': '{DATES[19]}'"),
    "a quote that is not closed": (replaced(21, f'{DATES[19]},"100.1,20'), "line 21 opens a quote"),
    "a quote not closed in the last column": (replaced(21, f'{DATES[19]},100.1,"20'), "quote is opened and not closed"),
    "a header that is data": (TABLE[1:], "line 1 looks like data .* --no-header"),
    "a total under the dates": ([*TABLE, "Total,6000,1200"], "line 62, column 'date': 'Total'"),
    "a comment inside": (inserted(21, "# source: x"), "line 21 has 1 fields"),
    "text among numbers below blank lines": ([*TABLE, "", "", "2024-03-01,n.b.,1"], "line 64, column 'load': 'n.b.'"),
    "binary content": (["\x00\x01\x02", "\x00\x01"], "binary data, not text"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DETECTABLE)
def test_certain_damage_is_refused_with_its_place(tmp_path: Path, kind: str) -> None:
    lines, message = DETECTABLE[kind]
    path = written(tmp_path / "x.csv", lines)
    with pytest.raises(DataError, match=rf"(?s)x\.csv: .*{message}"):
        import_corpus([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def changed(values: np.ndarray, change: Callable[[np.ndarray], None]) -> np.ndarray:
    values = values.copy()
    change(values)
    return values


def set_tail(values: np.ndarray) -> None:
    values[40:] = 101.5


def in_thousands(values: np.ndarray) -> None:
    values[30:] = np.round(values[30:] * 1000, 1)


AMBIGUOUS: dict[str, tuple[list[str], str, int, str]] = {
    "a last line cut off": ([*TABLE, "2024-03-01,1"], "truncated_row", 62, "last line '2024-03-01,1'"),
    "a total in a row of its own date": (
        [*TABLE, f"2024-03-01,{LOAD.sum():.2f},{TEMP.sum():.2f}"], "totals_row", 62, "load = 6.*sum of the rows"),
    "a total without a date": ([*TABLE, ",6000,1200"], "missing_timestamp", 62, "values 6000, 1200"),
    "another unit from a row": (rows_of(changed(LOAD, in_thousands), TEMP), "unit_change", 32, r"load \S+ -> 9\d{4}"),
    "a decimal point lost": (replaced(31, f"{DATES[29]},10250,20"), "unit_change", 31, r"load \S+ -> 10250"),
    "a constant tail": (rows_of(changed(LOAD, set_tail), TEMP), "constant_tail", 42, "load = 101.5 to the end"),
    "values copied from another column": (
        rows_of(np.append(LOAD[:40], TEMP[40:]), TEMP), "copied_values", 42, "load and temp are equal for 20 rows"),
    "columns that change places": (
        rows_of(np.append(LOAD[:40], TEMP[40:]), np.append(TEMP[:40], LOAD[40:])), "swapped_columns", 42, "load"),
    "a code for missing": (replaced(31, f"{DATES[29]},-9999,20"), "missing_code", 31, "load = -9999, others 9"),
}  # fmt: skip


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_possible_damage_is_imported_with_a_warning_that_names_row_and_values(tmp_path: Path, kind: str) -> None:
    lines, rule, line, detail = AMBIGUOUS[kind]
    corpus, report = imported(tmp_path, written(tmp_path / "x.csv", lines))
    assert corpus.num_series == 1
    found = report.rules[rule]
    assert found["severity"] in ("warning", "error")
    assert found["examples"][0]["line"] == line
    assert re.search(detail, found["examples"][0]["detail"])
    printed = next(text for text in report.text().splitlines() if rule in text)
    assert f"line {line}" in printed
    assert re.search(detail, printed)


def test_a_single_row_of_an_item_named_total_is_reported(tmp_path: Path) -> None:
    rows = [f"{store},{d},{a}" for store in "ab" for d, a in zip(DATES, LOAD, strict=True)]
    path = written(tmp_path / "x.csv", ["item_id,date,sales", *rows, "Total,2024-03-01,9999"])
    corpus, report = imported(tmp_path, path)
    assert corpus.num_series == 3
    assert report.rules["totals_row"]["examples"][0]["line"] == 122


def test_a_clean_table_has_no_such_warning(tmp_path: Path) -> None:
    _, report = imported(tmp_path, written(tmp_path / "x.csv", TABLE))
    assert report.table() == []


@pytest.mark.parametrize(
    "load",
    [
        np.where(np.arange(COUNT) % 7 == 0, 5.0, 0.0),  # intermittent
        np.repeat([0.0, 1.0, 0.0], 20),  # a flag
        np.exp(np.arange(COUNT) / 5),  # growth over five orders of magnitude
        np.full(COUNT, 3.0),  # constant
        np.append(np.full(40, np.nan), LOAD[40:]),  # begins late
        np.cumsum(np.r_[1.0, 2.0, np.zeros(COUNT - 2)]),
        np.r_[LOAD[:30] * 100, 3 * LOAD[30:]],  # a fall to 3 %, no unit
        np.tile([1.0, 60.0, 1.0, 100.0, 2.0], 12),
        np.r_[np.zeros(COUNT - 1), 7.0],
    ],
)
def test_ordinary_series_of_difficult_kinds_are_not_suspected(tmp_path: Path, load: np.ndarray) -> None:
    _, report = imported(tmp_path, written(tmp_path / "x.csv", rows_of(load, TEMP)))
    doubts = {"totals_row", "unit_change", "missing_code", "constant_tail", "copied_values", "swapped_columns"}
    assert not doubts & {name for name, *_ in report.table()}


def test_suspected_values_are_kept_as_they_are_unless_warnings_are_errors(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", replaced(31, f"{DATES[29]},-9999,20"))
    for mode in ("fix", "drop"):
        corpus, _ = imported(tmp_path, path, on_bad=mode)
        assert corpus.values(0)[0, 29] == -9999
    with pytest.raises(DataError, match=r"(?s)missing_code: 1 item.*load = -9999"):
        imported(tmp_path, path, on_bad="error")
    corpus, report = imported(tmp_path, path, na_values=("-9999",))
    assert np.isnan(corpus.values(0)[0, 29])
    assert report.rules["missing_code"]["items"] == 0


def test_documents_saved_as_csv_are_refused_by_what_they_are(tmp_path: Path) -> None:
    kinds = {
        b"%PDF-1.7": "a PDF document",
        b"\xd0\xcf\x11\xe0": "of the old kind",
        b"PK\x03\x04": "a zip archive",
        b"PAR1": "a Parquet file",
        b"\x89PNG": "a picture",
        b"BZh9": "bzip2",
    }
    for head, what in kinds.items():
        (tmp_path / "x.csv").write_bytes(head + b"\x00\x01 rest\n" * 3)
        with pytest.raises(DataError, match=rf"x\.csv: this is no table of text but .*{what}"):
            import_corpus([tmp_path / "x.csv"], tmp_path / "out")
    (tmp_path / "x.csv").write_bytes("date,x\n2024-01-01,1\n".encode("utf-16-le"))
    with pytest.raises(DataError, match=r"--encoding utf-16-le"):
        import_corpus([tmp_path / "x.csv"], tmp_path / "out")
    import_corpus([tmp_path / "x.csv"], tmp_path / "out", encoding="utf-16-le")
    assert Corpus.open(tmp_path / "out").num_rows == 1
