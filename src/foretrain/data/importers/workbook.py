"""Read an Excel workbook (.xlsx) as comma-separated text: the first sheet with cells, dates in ISO form.

The format is ECMA-376: a zip archive of XML files. Values are those that Excel stored; formulas are not computed.
"""

from __future__ import annotations

import csv
import datetime
import io
import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

from foretrain.errors import DataError
from foretrain.notes import Code, Note

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_STRICT = "{http://purl.oclc.org/ooxml/spreadsheetml/main}"
_DATE_FORMATS = {
    *range(14, 23),
    *range(27, 37),
    *range(45, 48),
    *range(50, 59),
}  # built in, those of East Asia included


def sheet_as_csv(path: Path, raw: bytes, notes: list[Note]) -> bytes:
    """Return the first sheet with cells as CSV in UTF-8; line n is row n. Raises DataError if it cannot be read."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            book = _Workbook(archive)
            for name, member in book.sheets:
                rows = book.rows(member)
                if rows:
                    others = [other for other, _ in book.sheets if other != name]
                    if others:
                        text = f"{path.name}: sheet {name!r} read; not read: {', '.join(map(repr, others[:5]))}"
                        notes.append(Note(Code.SHEETS_LEFT_OUT, text, {"sheets": len(others)}))
                    return _csv(rows)
    except (zipfile.BadZipFile, KeyError, ValueError, IndexError, ElementTree.ParseError, NotImplementedError,
            RuntimeError, EOFError, OverflowError) as error:  # fmt: skip
        what = " ".join(str(error).split())[:100]
        raise DataError(f"{path}: not an Excel workbook that can be read ({what}). Save the sheet as CSV.") from None
    raise DataError(f"{path}: no sheet holds a cell.")


def _csv(rows: dict[int, dict[int, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    width = max(max(cells) for cells in rows.values()) + 1
    titled = True  # lines above the table hold one cell
    for number in range(1, max(rows) + 1):
        cells = rows.get(number, {})
        titled = titled and len(cells) < 2
        writer.writerow([cells.get(column, "") for column in range(len(cells) if titled and width > 1 else width)])
    return text.getvalue().encode()


class _Workbook:
    """The parts of a workbook that say what its cells mean."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        root = self._xml("xl/workbook.xml")
        properties = _all(root, "workbookPr")
        self.epoch = datetime.datetime(1899, 12, 30)
        if properties and properties[0].get("date1904") in ("1", "true"):
            self.epoch = datetime.datetime(1904, 1, 1)
        targets = {entry.get("Id"): str(entry.get("Target")) for entry in self._xml("xl/_rels/workbook.xml.rels")}
        self.sheets: list[tuple[str, str]] = []
        for sheet in _all(root, "sheet"):
            reference = next((value for key, value in sheet.attrib.items() if key.endswith("}id")), None)
            target = targets.get(reference, "")
            if sheet.get("state", "visible") == "visible" and target:
                member = target.lstrip("/") if target.startswith("/") else f"xl/{target}"
                self.sheets.append((str(sheet.get("name")), member))
        self.strings = self._strings()
        self.dated = self._dated()

    def _xml(self, member: str) -> ElementTree.Element:
        text = self.archive.read(member)
        if b"<!DOCTYPE" in text[:1000]:  # Excel writes none; entities could make the text grow without bound
            raise ValueError(f"{member} declares a document type")
        return ElementTree.fromstring(text)

    def _strings(self) -> list[str]:
        if "xl/sharedStrings.xml" not in self.archive.namelist():
            return []
        return [_text(entry) for entry in _all(self._xml("xl/sharedStrings.xml"), "si")]

    def _dated(self) -> list[bool]:
        """Return for each cell style whether its number is a date."""
        if "xl/styles.xml" not in self.archive.namelist():
            return []
        root = self._xml("xl/styles.xml")
        own = {int(entry.get("numFmtId", 0)): str(entry.get("formatCode")) for entry in _all(root, "numFmt")}
        styles = [entry for group in _all(root, "cellXfs") for entry in group]
        numbers = [int(entry.get("numFmtId", 0)) for entry in styles]
        return [number in _DATE_FORMATS or (number in own and _is_date_format(own[number])) for number in numbers]

    def rows(self, member: str) -> dict[int, dict[int, str]]:
        """Return row number -> column -> text of the cells that hold something."""
        found: dict[int, dict[int, str]] = {}
        number = 0
        for row in _all(self._xml(member), "row"):
            number = int(row.get("r", number + 1))
            column, cells = -1, {}
            for cell in row:
                reference = re.match(r"[A-Z]+", cell.get("r", ""))
                column = _column(reference[0]) if reference else column + 1
                text = self._cell(cell)
                if text.strip():
                    cells[column] = " ".join(text.splitlines())
            if cells:
                found[number] = cells
        return found

    def _cell(self, cell: ElementTree.Element) -> str:
        kind = cell.get("t", "n")
        if kind == "inlineStr":
            return _text(cell)
        values = _all(cell, "v")
        if not values and _all(cell, "f"):
            raise ValueError(f"cell {cell.get('r')} is a formula without a stored result; save the file in Excel once")
        text = values[0].text or "" if values else ""
        if not text:
            return ""
        if kind == "s":
            return self.strings[int(text)]
        if kind == "b":
            return "TRUE" if text == "1" else "FALSE"
        style = int(cell.get("s", 0))
        if kind == "n" and style < len(self.dated) and self.dated[style]:
            return self._stamp(float(text))
        return text

    def _stamp(self, serial: float) -> str:
        """Return days since the workbook's epoch as a date, with the time of day if there is one."""
        moment = self.epoch + datetime.timedelta(milliseconds=round(serial * 86_400_000))
        if 0 <= serial < 1:
            return moment.time().isoformat()
        return moment.date().isoformat() if moment.time() == datetime.time() else moment.isoformat(" ")


def _all(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [*root.iter(_MAIN + name), *root.iter(_STRICT + name)]


def _text(entry: ElementTree.Element) -> str:
    """Return the text of a string in pieces; the pronunciation that East Asian texts carry is no part of it."""
    pieces = [run for child in entry for run in ([child] if child.tag.endswith("}t") else
              [] if child.tag.endswith("}rPh") else _all(child, "t"))]  # fmt: skip
    return "".join(piece.text or "" for piece in pieces)


def _is_date_format(code: str) -> bool:
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]|\\.|_.|\*.', "", code.split(";")[0])
    return bool(re.search(r"[ymdhs]", bare, re.IGNORECASE)) and "general" not in bare.lower()


def _column(letters: str) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + ord(letter) - ord("A") + 1
    return number - 1
