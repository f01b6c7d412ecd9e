"""Importing Excel workbooks."""

from __future__ import annotations

import datetime
import sys
import zipfile
from pathlib import Path

import pytest
from tests.data.importers.importing import first_stamp, imported, items

from foretrain.data.importers import workbook as reader
from foretrain.errors import DataError
from foretrain.notes import Code, codes

openpyxl = pytest.importorskip("openpyxl", reason="the extra `excel` is not installed")


def workbook(path: Path, sheets: dict[str, list[list[str]]], *, date1904: bool = False) -> Path:
    """Write a workbook by hand.

    Cells: s:shared text, i:inline text, d:serial of a date, j:such a serial in a format of Japan, f:the stored result
    of a formula, g:a formula whose stored result is empty, b:1, e:#N/A, or numbers.
    """
    strings = list(dict.fromkeys(c[2:] for rows in sheets.values() for row in rows for c in row if c.startswith("s:")))
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"

    def cell(text: str, row: int, column: int) -> str:
        where = f'r="{chr(65 + column)}{row}"'
        kind, rest = text[:2], text[2:]
        if not text:
            return ""
        if kind == "s:":
            return f'<c {where} t="s"><v>{strings.index(rest)}</v></c>'
        if kind == "i:":
            return f'<c {where} t="inlineStr"><is><t>{rest}</t></is></c>'
        if kind in ("d:", "j:"):
            return f'<c {where} s="{"-dj".index(kind[0])}"><v>{rest}</v></c>'
        if kind == "f:":
            return f"<c {where}><f>1+1</f>{f'<v>{rest}</v>' if rest else ''}</c>"
        if kind == "g:":
            return f"<c {where}><f>{rest}</f><v></v></c>"
        if kind in ("b:", "e:"):
            return f'<c {where} t="{kind[0]}"><v>{rest}</v></c>'
        return f"<c {where}><v>{text}</v></c>"

    kinds = "http://schemas.openxmlformats.org/package/2006"
    sheet_ml = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = "".join(
        f'<Override PartName="/xl/{name}.xml" ContentType="{sheet_ml}.{kind}+xml"/>'
        for name, kind in (("workbook", "sheet.main"), ("sharedStrings", "sharedStrings"), ("styles", "styles"))
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{kinds}/content-types"><Default Extension="xml" ContentType="application/xml"/>'
            f"{parts}</Types>",
        )
        names = "".join(f'<sheet name="{n}" sheetId="{k}" r:id="rId{k}"/>' for k, n in enumerate(sheets, 1))
        flag = '<workbookPr date1904="1"/>' if date1904 else ""
        archive.writestr(
            "xl/workbook.xml", f'<workbook {space} xmlns:r="{relation}">{flag}<sheets>{names}</sheets></workbook>'
        )
        links = "".join(
            f'<Relationship Id="rId{k}" Type="{relation}/worksheet" Target="worksheets/sheet{k}.xml"/>'
            for k in range(1, len(sheets) + 1)
        )
        archive.writestr(
            "xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{kinds}/relationships">{links}</Relationships>'
        )
        items = "".join(f"<si><t>{text}</t></si>" for text in strings)
        archive.writestr("xl/sharedStrings.xml", f"<sst {space}>{items}</sst>")
        formats = '<numFmts><numFmt numFmtId="164" formatCode="yyyy\\-mm\\-dd hh:mm"/></numFmts>'
        looks = "<fonts><font/></fonts><fills><fill><patternFill/></fill></fills><borders><border/></borders>"
        styles = '<cellXfs><xf numFmtId="0"/><xf numFmtId="164"/><xf numFmtId="31"/></cellXfs>'
        archive.writestr("xl/styles.xml", f"<styleSheet {space}>{formats}{looks}{styles}</styleSheet>")
        for k, rows in enumerate(sheets.values(), 1):
            body = "".join(
                f'<row r="{i}">{"".join(cell(text, i, j) for j, text in enumerate(row))}</row>'
                for i, row in enumerate(rows, 1)
            )
            archive.writestr(
                f"xl/worksheets/sheet{k}.xml", f"<worksheet {space}><sheetData>{body}</sheetData></worksheet>"
            )
    return path


def test_the_first_sheet_of_a_workbook_is_read_with_its_dates(tmp_path: Path) -> None:
    rows = [["s:Date", "i:Umsatz", "s:on"], *([f"d:{45292 + k}", f"{k}.5", "b:1"] for k in range(40))]
    path = workbook(tmp_path / "x.xlsx", {"Leer": [], "Daten": rows, "Notizen": [["s:Quelle"]]})
    corpus, report = imported(tmp_path, path)
    assert (corpus.item_id(0), corpus.columns) == ("x", ("Umsatz", "on"))
    assert (first_stamp(corpus), corpus.manifest.freq) == ("2024-01-01T00:00:00", "D")
    assert corpus.values(0)[:, 3].tolist() == [3.5, 1]
    assert Code.SHEETS_LEFT_OUT in codes(report.notes)
    hours = [["s:time", "s:x"], *([f"d:{43830 + k / 24:.10f}", str(k), ""] for k in range(40))]
    corpus, _ = imported(tmp_path, workbook(tmp_path / "y.xlsx", {"a": hours}, date1904=True))
    assert (first_stamp(corpus), corpus.manifest.freq) == ("2024-01-01T00:00:00", "h")


def test_workbooks_with_titles_wide_tables_and_bad_cells(tmp_path: Path) -> None:
    titled = [["s:Sales of 2024"], [], ["s:date", "s:x"], *([f"d:{45292 + k}", str(k)] for k in range(40))]
    corpus, report = imported(tmp_path, workbook(tmp_path / "a.xlsx", {"a": titled}))
    assert (corpus.columns, corpus.lengths.tolist()) == (("x",), [40])
    assert Code.LINES_SKIPPED in codes(report.notes)
    wide = [["s:Country", *(str(year) for year in range(1990, 2020))], ["s:DE", *map(str, range(30))]]
    corpus, _ = imported(tmp_path, workbook(tmp_path / "b.xlsx", {"a": [row[:25] for row in wide]}))
    assert items(corpus) == {"DE": [[float(k) for k in range(24)]]}
    bad = [["s:date", "s:x"], *([f"d:{45292 + k}", "s:oops" if k == 5 else str(k)] for k in range(40))]
    with pytest.raises(DataError, match=r"c\.xlsx: line 7, column 'x': 'oops'"):
        imported(tmp_path, workbook(tmp_path / "c.xlsx", {"a": bad}))


def test_workbooks_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sheet holds a cell"):
        imported(tmp_path, workbook(tmp_path / "a.xlsx", {"a": []}))
    (tmp_path / "b.xlsx").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"b\.xlsx: not an Excel workbook that can be read .* Save the sheet as CSV"):
        imported(tmp_path, tmp_path / "b.xlsx")
    with zipfile.ZipFile(tmp_path / "c.xlsx", "w") as archive:
        archive.writestr("xl/workbook.xml", '<!DOCTYPE a [<!ENTITY x "y">]><workbook/>')
    with pytest.raises(DataError, match="declares a document type"):
        imported(tmp_path, tmp_path / "c.xlsx")


def test_formulas_count_with_the_result_that_excel_stored(tmp_path: Path) -> None:
    rows = [["s:date", "s:x"], *([f"d:{45292 + k}", f"f:{k}.5"] for k in range(40))]
    corpus, _ = imported(tmp_path, workbook(tmp_path / "a.xlsx", {"a": rows}))
    assert items(corpus) == {"a": [[k + 0.5 for k in range(40)]]}
    rows[6][1] = "f:"
    with pytest.raises(DataError, match=r"cell B7 is a formula without a stored result; save the file in Excel once"):
        imported(tmp_path, workbook(tmp_path / "b.xlsx", {"a": rows}))


def test_dates_in_the_formats_of_east_asia_are_dates(tmp_path: Path) -> None:
    rows = [["s:when", "s:x"], *([f"j:{45292 + k}", str(k)] for k in range(40))]
    corpus, _ = imported(tmp_path, workbook(tmp_path / "a.xlsx", {"a": rows}))
    assert (first_stamp(corpus), corpus.manifest.freq) == ("2024-01-01T00:00:00", "D")


def written(path: Path, *sheets: list[list]) -> openpyxl.Workbook:
    """Write a workbook by openpyxl, and return it."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for rows in sheets:
        sheet = book.create_sheet()
        for row in rows:
            sheet.append(row)
    book.save(path)
    return book


def days(values: list[list]) -> list[list]:
    return [[datetime.datetime(2024, 1, 1) + datetime.timedelta(k), *row] for k, row in enumerate(values)]


def test_merged_names_above_the_columns_hold_for_all_of_them(tmp_path: Path) -> None:
    rows = [["Date", "A", None, "B", None], [None, "open", "close", "open", "close"],
            *days([[k + 1, k + 2, k + 11, k + 12] for k in range(40)])]  # fmt: skip
    book = written(tmp_path / "a.xlsx", rows)
    for cells in ("B1:C1", "D1:E1"):
        book.active.merge_cells(cells)
    book.save(tmp_path / "a.xlsx")
    corpus, _ = imported(tmp_path, tmp_path / "a.xlsx")
    assert (list(items(corpus)), corpus.columns) == (["A", "B"], ("open", "close"))
    assert corpus.values(1)[:, 2].tolist() == [13, 14]


def test_hidden_sheets_and_blank_cells_are_no_data(tmp_path: Path) -> None:
    book = written(tmp_path / "a.xlsx", [["x"], [1]], [["date", "x"], *days([[k] for k in range(40)])])
    book.worksheets[0].sheet_state = "hidden"
    book.worksheets[1]["D60"].number_format = "0.00"  # a format without a value
    book.active = 1
    book.save(tmp_path / "a.xlsx")
    corpus, report = imported(tmp_path, tmp_path / "a.xlsx")
    assert items(corpus) == {"a": [list(range(40))]}
    assert Code.SHEETS_LEFT_OUT not in codes(report.notes)


def test_numbers_keep_every_digit_and_lengths_of_time_are_no_dates(tmp_path: Path) -> None:
    rows = [["date", "x", "y"], *days([[1e-7, 1234567.125], [0.1, 1e22], [12.0, -3]])]
    written(tmp_path / "a.xlsx", rows)
    lines = reader.sheet_as_csv(tmp_path / "a.xlsx", (tmp_path / "a.xlsx").read_bytes(), []).decode().splitlines()
    assert lines[1:] == ["2024-01-01,1e-07,1234567.125", "2024-01-02,0.1,1e+22", "2024-01-03,12,-3"]
    rows = [["t", "x"], [datetime.timedelta(hours=25, minutes=30), datetime.time(9, 30)]]
    written(tmp_path / "b.xlsx", rows)
    text = reader.sheet_as_csv(tmp_path / "b.xlsx", (tmp_path / "b.xlsx").read_bytes(), [])
    assert text == b"t,x\n25:30:00,09:30:00\n"


def rewritten(path: Path, old: str, new: str) -> Path:
    """Replace a text in every part of a workbook."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part.replace(old.encode(), new.encode()))
    return path


def test_a_sheet_is_read_beyond_the_size_that_it_states(tmp_path: Path) -> None:
    written(tmp_path / "a.xlsx", [["date", "x"], *days([[k] for k in range(40)])])
    corpus, _ = imported(tmp_path, rewritten(tmp_path / "a.xlsx", 'ref="A1:B41"', 'ref="A1:A2"'))
    assert items(corpus) == {"a": [list(range(40))]}


def test_a_formula_whose_stored_result_is_empty_is_refused_and_not_missing(tmp_path: Path) -> None:
    rows = [[f"i:2024-01-{day:02}", str(day), "g:2*B1"] for day in range(1, 29)]
    book = workbook(tmp_path / "a.xlsx", {"S": [["s:date", "s:x", "s:twice"], *rows]})
    with pytest.raises(DataError, match="cell C2 is a formula without a stored result"):
        imported(tmp_path, book)


def test_what_openpyxl_would_misread_is_refused(tmp_path: Path) -> None:
    table = [["date", "x"], *days([[k] for k in range(40)])]
    written(tmp_path / "strict.xlsx", table)
    old = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    with pytest.raises(DataError, match=r"strict\.xlsx: .*Strict Open XML.* Save the sheet as CSV"):
        imported(tmp_path, rewritten(tmp_path / "strict.xlsx", old, "http://purl.oclc.org/ooxml/spreadsheetml/main"))
    rows = [["s:date", "s:x"], *([f"d:{45292 + k}", str(k)] for k in range(40))]
    rows[8][0] = "d:1e9"
    with pytest.raises(DataError, match=r"Cell A9 is marked as a date but the serial value .* is outside the limits"):
        imported(tmp_path, workbook(tmp_path / "late.xlsx", {"a": rows}))
    written(tmp_path / "half.xlsx", table)
    (tmp_path / "half.xlsx").write_bytes((tmp_path / "half.xlsx").read_bytes()[:-400])
    with pytest.raises(DataError, match=r"half\.xlsx: not an Excel workbook that can be read"):
        imported(tmp_path, tmp_path / "half.xlsx")


def test_a_workbook_that_unpacks_without_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = written(tmp_path / "a.xlsx", [["date", "x"], *days([[k] for k in range(40)])])
    monkeypatch.setattr(reader, "MOST_UNPACKED", 1000)
    with pytest.raises(DataError, match=r"a\.xlsx: unpacks to .* GiB, more than .* are read of a workbook"):
        imported(tmp_path, tmp_path / "a.xlsx")
    monkeypatch.undo()
    book.active["XFD9000"] = "far"
    book.save(tmp_path / "b.xlsx")
    with pytest.raises(DataError, match=r"b\.xlsx: cells are spread over 9,000 rows and 16,384 columns"):
        imported(tmp_path, tmp_path / "b.xlsx")


def test_without_openpyxl_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a.xlsx", [["date", "x"], *days([[k] for k in range(40)])])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(DataError, match=r"a\.xlsx: .* openpyxl; pip install 'foretrain\[excel\]'"):
        imported(tmp_path, tmp_path / "a.xlsx")
