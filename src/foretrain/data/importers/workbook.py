"""Read an Excel workbook (.xlsx) as comma-separated text: the first sheet with cells, dates in ISO form.

openpyxl (the extra `excel`) reads the cells. Values are those that Excel stored: formulas are not computed, macros not
run, links to other files not followed.

# R rows of a sheet
"""

from __future__ import annotations

import csv
import datetime
import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

from foretrain.data.importers.content import is_bomb
from foretrain.errors import DataError
from foretrain.notes import Code, Note
from foretrain.reading import Unreadable, unpacking

MOST_UNPACKED = 2 * 1024**3  # bytes of all parts of a workbook; archives that unpack without bound stop here
_MOST_ROWS = 1_048_576  # of an Excel sheet
_MOST_CELLS = 100_000_000  # of the rectangle from A1 to the last row and column
_EAST_ASIAN_DATES = frozenset([*range(27, 37), *range(50, 59)])  # built-in formats that openpyxl takes for numbers


def sheet_as_csv(path: Path, raw: bytes, notes: list[Note]) -> bytes:
    """Return the first sheet with cells as CSV in UTF-8; line n is row n. Raises DataError if it cannot be read."""
    try:
        import openpyxl  # noqa: F401
    except ImportError:
        raise DataError(
            f"{path}: Excel workbooks need the package openpyxl; pip install 'foretrain[excel]', or save the sheet as "
            "CSV."
        ) from None
    _refuse_size(path, raw)
    try:
        _refuse_unreadable(raw)
        found = _first_sheet(raw)
    except MemoryError:
        raise
    except Exception as error:  # openpyxl raises errors of many kinds for damaged parts
        what = " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split())[:150].rstrip(".")
        raise DataError(f"{path}: not an Excel workbook that can be read ({what}). Save the sheet as CSV.") from None
    if found is None:
        raise DataError(f"{path}: no sheet holds a cell.")
    name, rows, others = found
    if others:
        text = f"{path.name}: sheet {name!r} read; not read: {', '.join(map(repr, others[:5]))}"
        notes.append(Note(Code.SHEETS_LEFT_OUT, text, {"sheets": len(others)}))
    return _csv(path, rows)


def _refuse_size(path: Path, raw: bytes) -> None:
    """Raise DataError if the parts would unpack to more than MOST_UNPACKED; zipfile reads no more than they declare."""
    try:
        with unpacking(), zipfile.ZipFile(io.BytesIO(raw)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if any(is_bomb(entry.file_size, entry.compress_size) for entry in archive.infolist()):
                size = MOST_UNPACKED + 1
    except Unreadable:
        return  # not a workbook, which the reader says
    if size > MOST_UNPACKED:
        raise DataError(
            f"{path}: unpacks to {size / 1024**3:.1f} GiB, more than the {MOST_UNPACKED / 1024**3:g} GiB that are read "
            "of a workbook. Save the sheet as CSV."
        )


def _refuse_unreadable(raw: bytes) -> None:
    """Raise ValueError for parts that openpyxl must not or cannot read.

    Excel writes no document types, whose entities can grow without bound. Of a workbook of the kind Strict Open XML
    openpyxl sees no sheet.
    """
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        for name in archive.namelist():
            if name.endswith((".xml", ".rels")):
                with archive.open(name) as part:
                    start = part.read(1000)
                if b"<!DOCTYPE" in start:
                    raise ValueError(f"{name} declares a document type")
                if b"http://purl.oclc.org/ooxml/spreadsheetml/" in start:
                    raise ValueError("it is a Strict Open XML Spreadsheet; the usual kind of .xlsx is known")


def _first_sheet(raw: bytes) -> tuple[str, list[list[str]], list[str]] | None:
    """Return the name and rows of the first visible sheet with cells, and the names of the others; None without one."""
    import openpyxl

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about parts that are not read: styles, lists to choose from, extensions
        warnings.filterwarnings("error", message="Cell .* is marked as a date")
        book = openpyxl.load_workbook(io.BytesIO(raw), read_only=True, data_only=True, keep_links=False)
        try:
            sheets = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
            for sheet in sheets:
                rows, unsure = _rows(sheet, book.epoch)
                if unsure:
                    _refuse_formulas(raw, sheet.title, unsure)
                if any(any(row) for row in rows):
                    return sheet.title, rows, [other.title for other in sheets if other is not sheet]
        finally:
            book.close()
    return None


def _rows(sheet: Any, epoch: datetime.datetime) -> tuple[list[list[str]], set[tuple[int, int]]]:
    """Return the text of each row's cells, and (row, column) of cells without a value, which may be formulas."""
    from openpyxl.cell.read_only import EMPTY_CELL

    sheet.reset_dimensions()  # programs write wrong ones, which would cut rows off
    rows: list[list[str]] = []
    unsure: set[tuple[int, int]] = set()
    for cells in sheet.iter_rows():
        if len(rows) == _MOST_ROWS:
            raise ValueError(f"sheet {sheet.title!r} has more than {_MOST_ROWS:,} rows")
        rows.append([_text(cell, epoch) for cell in cells])
        unsure |= {(cell.row, cell.column) for cell in cells
                   if cell is not EMPTY_CELL and cell.value is None and cell.data_type == "n"}  # fmt: skip
    return rows, unsure


def _refuse_formulas(raw: bytes, title: str, unsure: set[tuple[int, int]]) -> None:
    """Raise ValueError if one of the cells without a value holds a formula."""
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(raw), read_only=True, keep_links=False)
    try:
        sheet = book[title]
        sheet.reset_dimensions()
        for cells in sheet.iter_rows():
            for cell in cells:
                if cell.data_type == "f" and (cell.row, cell.column) in unsure:
                    raise ValueError(
                        f"cell {cell.coordinate} is a formula without a stored result; save the file in Excel once"
                    )
    finally:
        book.close()


def _text(cell: Any, epoch: datetime.datetime) -> str:
    """Return a cell as text on one line, "" for blanks: dates in ISO form, without a time of day at midnight."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, str):
        return " ".join(value.splitlines()) if value.strip() else ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        if cell.style_array.numFmtId in _EAST_ASIAN_DATES:
            from openpyxl.utils.datetime import from_excel

            value = from_excel(value, epoch)
        else:
            return str(int(value)) if value == value // 1 and abs(value) < 1e16 else repr(value)
    if isinstance(value, datetime.timedelta):
        return _duration(value)
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(" ")
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)


def _duration(value: datetime.timedelta) -> str:
    """Return a length of time as Excel shows it: 25:30:00."""
    seconds = round(value.total_seconds())
    minutes, second = divmod(abs(seconds), 60)
    return f"{'-' if seconds < 0 else ''}{minutes // 60:02}:{minutes % 60:02}:{second:02}"


def _csv(path: Path, rows: list[list[str]]) -> bytes:
    """Return rows of one width, but for lines above the table, which hold one cell."""
    while not any(rows[-1]):
        rows.pop()
    width = max(max((column for column, cell in enumerate(row, 1) if cell), default=0) for row in rows)
    if len(rows) * width > _MOST_CELLS:
        raise DataError(
            f"{path}: cells are spread over {len(rows):,} rows and {width:,} columns; remove those far from the table."
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    titled = True
    for row in rows:
        held = sum(map(bool, row))
        titled = titled and held < 2
        cells = row[: held if titled and width > 1 else width]
        writer.writerow(cells + [""] * (0 if titled and width > 1 else width - len(cells)))
    return text.getvalue().encode()
