"""Tables with times across: dates among other columns, parts of a year or a day, two columns of times."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.importers.importing import DAYS, first_stamp, imported, items, written

from foretrain.errors import DataError
from foretrain.notes import Code, codes

MONTHS = [f"2023-{month:02d}" for month in range(1, 13)]
NAMES = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def wide(tmp_path: Path, header: list[str], *rows: str) -> Path:
    """Write rows of a name followed by the numbers 0, 1, 2, ..., which are the places of the columns."""
    lines = [",".join([row, *map(str, range(1, len(header)))]) for row in rows]
    return written(tmp_path / "in" / "w.csv", [",".join(header), *lines])


@pytest.mark.parametrize("times", [MONTHS, [str(year) for year in range(2000, 2012)]])
def test_a_total_beside_the_dates_is_no_time(tmp_path: Path, times: list[str]) -> None:
    wide(tmp_path, ["shop", *times, "Total"], "a", "b")
    corpus, report = imported(tmp_path)
    assert items(corpus) == {"a": [list(range(1, 13))], "b": [list(range(1, 13))]}
    assert any("left out: Total" in note.text for note in report.notes)


def test_flags_between_the_years_are_left_out(tmp_path: Path) -> None:
    wide(tmp_path, ["geo", *(name for year in range(2000, 2006) for name in (f"{year}", f"{year} flag"))], "a", "b")
    corpus, report = imported(tmp_path)
    assert items(corpus)["a"] == [[1, 3, 5, 7, 9, 11]]
    assert any("2000 flag, 2001 flag" in note.text for note in report.notes)


@pytest.mark.parametrize(
    ("times", "first"),
    [
        ([f"Q{q} {year}" for year in (2021, 2022) for q in range(1, 5)], "2021-01-01"),
        ([f"{q}Q{year}" for year in (2021, 2022) for q in range(1, 5)], "2021-01-01"),
        ([f"{month:02d}/2022" for month in range(1, 13)], "2022-01-01"),
        ([f"{day:02d}-Mar-2022" for day in range(1, 13)], "2022-03-01"),
        ([f"March {day}, 2022" for day in range(1, 13)], "2022-03-01"),
    ],
)
def test_dates_in_many_spellings_head_a_wide_table(tmp_path: Path, times: list[str], first: str) -> None:
    wide(tmp_path, ["shop", *(f'"{time}"' for time in times)], "a", "b")
    corpus, _ = imported(tmp_path)
    assert first_stamp(corpus).startswith(first)
    assert corpus.num_series == 2


def test_a_header_of_dates_alone_names_no_row(tmp_path: Path) -> None:
    wide(tmp_path, [str(year) for year in range(2000, 2012)], "5")
    with pytest.raises(DataError, match="columns '2000' to '2011' are all times, so no column names the row"):
        imported(tmp_path)


@pytest.mark.parametrize("first", ["Year", "shop"])
@pytest.mark.parametrize(
    "names", [NAMES, [*NAMES, "Annual"], ["Q1", "Q2", "Q3", "Q4"], ["Qtr 1", "Qtr 2", "Qtr 3", "Qtr 4"]]
)
def test_months_and_quarters_of_a_year_are_no_columns_of_values(tmp_path: Path, first: str, names: list[str]) -> None:
    wide(tmp_path, [first, *names], "2001", "2002", "2003") if first == "Year" else wide(
        tmp_path, [first, *names], "a", "b"
    )
    with pytest.raises(DataError, match=r"are the (months|quarters) of a year.*--format table reads each column"):
        imported(tmp_path)
    corpus, _ = imported(tmp_path, format="table")
    assert [column.name for column in corpus.manifest.columns if column.categories is None] == names


def test_months_beside_a_date_are_columns(tmp_path: Path) -> None:
    written(tmp_path / "in" / "a.csv", [",".join(["date", *NAMES]), *(f"{day}," + ",".join("1" * 12) for day in DAYS)])
    assert len(imported(tmp_path)[0].manifest.columns) == 12


@pytest.mark.parametrize("names", [[f"H{h}" for h in range(1, 25)], [f"{h:02d}:00" for h in range(24)]])
def test_hours_as_columns_are_told(tmp_path: Path, names: list[str]) -> None:
    written(tmp_path / "in" / "a.csv", [",".join(["date", *names]), *(f"{day}," + ",".join("1" * 24) for day in DAYS)])
    corpus, report = imported(tmp_path)
    assert codes(report.notes) == {Code.HOURS_AS_COLUMNS}
    assert len(corpus.manifest.columns) == 24
    assert not imported(tmp_path, format="table")[1].notes


def test_two_tables_side_by_side_are_refused(tmp_path: Path) -> None:
    rows = [f"{DAYS[k]},{k},{DAYS[k + 5]},{k}" for k in range(30)]
    written(tmp_path / "in" / "a.csv", ["date,x,date.1,y", *rows])
    with pytest.raises(DataError, match=r"columns 'date' and 'date.1' hold different times.*side by side"):
        imported(tmp_path)
    corpus, _ = imported(tmp_path, columns="x", timestamp_column="date")
    assert [column.name for column in corpus.manifest.columns] == ["x"]
