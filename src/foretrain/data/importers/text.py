"""Read delimited text files into tables of text cells: encodings, separators, preambles, headers, ragged lines.

Cells are not converted here: they remain text, so that ids such as "007" or "1e5" survive.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from foretrain.data.importers.options import ImportOptions
from foretrain.errors import DataError
from foretrain.notes import Code, Note

_SEPARATORS = (",", ";", "\t", "|")
_HEAD_LINES = 40
_MAX_PREAMBLE = 10
_NUMBER = re.compile(r"\s*[-+]?(\d+([., ]\d*)*|[.,]\d+)([eE][-+]?\d+)?\s*")


@dataclass(frozen=True)
class TextTable:
    """Cells of a file as strings. first_line: line number of the first row."""

    table: pa.Table
    first_line: int
    truncated: int | None = None  # number of the last line if it had too few fields
    notes: list[Note] = field(default_factory=list)


def read_text(path: Path, raw: bytes, options: ImportOptions) -> TextTable:
    """Read the cells of a text file from its bytes (gzip or plain). DataError names the malformed line and a remedy."""
    data = _decode(path, _decompress(path, raw), options.encoding)
    lines = _head(data)
    if not lines:
        raise DataError(f"{path}: the file is empty.")
    skip = options.skip_rows or 0
    separator = separator_of(lines[skip:])
    cells = list(csv.reader(lines, delimiter=separator))[skip:]
    if not cells:
        raise DataError(f"{path}: nothing is left after skipping {skip} lines.")
    notes = list[Note]()
    if not options.header:
        names = list(options.names) or [f"column_{i}" for i in range(len(cells[0]))]
        start = skip
        if len(names) != len(cells[0]):
            raise DataError(f"{path}: {len(names)} names given, but line {skip + 1} has {len(cells[0])} fields.")
    else:
        preamble = _preamble(path, cells, skip, known=bool(skip))
        if preamble:
            about = f"{path.name}: {preamble} line(s) before the header skipped, first {lines[skip][:80]!r}"
            notes.append(Note(Code.LINES_SKIPPED, about, {"lines": preamble}))
        names = _header(path, cells[preamble], skip + preamble + 1)
        start = skip + preamble + 1
    table, truncated = _parse(path, data, names, separator, start)
    if not table.num_rows:
        raise DataError(f"{path}: no rows below the header.")
    return TextTable(table, start + 1, truncated, notes)


def _decompress(path: Path, raw: bytes) -> bytes:
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file ({error}). Fetch it again.") from None


def _decode(path: Path, data: bytes, encoding: str | None) -> bytes:
    """Return the text as UTF-8 without a byte order mark."""
    if encoding is None and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    try:
        if encoding is None:
            data.decode("utf-8")
            return data.removeprefix(b"\xef\xbb\xbf")
        return data.decode(encoding).removeprefix("\ufeff").encode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        way = (
            "name its encoding, for example --encoding latin-1 or gbk" if encoding is None else "name another encoding"
        )
        raise DataError(f"{path}: line {line} is not {encoding or 'UTF-8'} text; {way}.") from None
    except LookupError:
        raise DataError(f"{path}: encoding {encoding!r} is not known to Python.") from None


def _head(data: bytes) -> list[str]:
    text = data[: 1 << 16].decode("utf-8", errors="ignore")
    if b"\x00" in data[:4096]:
        return ["\x00"]
    lines = text.splitlines()[: _HEAD_LINES + 1]
    return lines[:-1] if len(data) > 1 << 16 and len(lines) <= _HEAD_LINES else lines[:_HEAD_LINES]


def separator_of(lines: list[str]) -> str:
    """Return the separator that splits most lines into the same number (two or more) of fields, a comma by default."""
    best, best_score = ",", 0.0
    for candidate in _SEPARATORS:
        counts = Counter(len(row) for row in csv.reader(lines, delimiter=candidate) if row)
        wide = {width: n for width, n in counts.items() if width > 1}
        if wide:
            width, lines_of_it = max(wide.items(), key=lambda pair: (pair[1], pair[0]))
            score = lines_of_it + width / 1000
            if score > best_score:
                best, best_score = candidate, score
    return best


def _preamble(path: Path, cells: list[list[str]], skip: int, *, known: bool) -> int:
    """Return the number of lines before the header: those with fewer fields than the rest, if a header follows."""
    widths = Counter(len(row) for row in cells[1:] if row)
    if not widths:
        return 0
    width = widths.most_common(1)[0][0]
    if len(cells[0]) == width:
        return 0
    for at, row in enumerate(cells[: _MAX_PREAMBLE + 1]):
        if len(row) == width and at and not known and not any(map(looks_like_data, row)):
            return at
    raise DataError(
        f"{path}: line {skip + 1} has {len(cells[0])} fields, the lines below {width}. If these lines are no header, "
        "skip them with --skip-rows, and say --no-header (with names) if no header follows."
    )


def looks_like_data(cell: str) -> bool:
    """Return True if a cell is a number or starts like a date, so that it is unlikely to be a column name."""
    return bool(_NUMBER.fullmatch(cell)) or bool(re.match(r"\s*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}", cell))


def _header(path: Path, row: list[str], line: int) -> list[str]:
    names = [name.strip().strip("\ufeff") for name in row]
    given = [name for name in names if name]
    if given and 2 * sum(map(looks_like_data, given)) > len(given):
        raise DataError(
            f"{path}: line {line} looks like data ({', '.join(names[:3])}...), not like column names. "
            "Say --no-header, and give names if the columns have any."
        )
    duplicates = sorted(name for name, count in Counter(names).items() if count > 1 and name)
    if duplicates:
        raise DataError(f"{path}: column {duplicates[0]!r} appears twice in the header. Rename one.")
    blank = 0
    for i, name in enumerate(names):
        if not name:
            names[i] = "" if not blank else f"unnamed_{i}"
            blank += 1
    return names


def _parse(path: Path, data: bytes, names: list[str], separator: str, start: int) -> tuple[pa.Table, int | None]:
    ragged: list[tuple[int, int]] = []

    def note(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append((row.number or 0, row.actual_columns))
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            read_options=pyarrow.csv.ReadOptions(
                skip_rows=start, column_names=names, use_threads=False, block_size=max(len(data) + 1, 1 << 12)
            ),
            parse_options=pyarrow.csv.ParseOptions(delimiter=separator, invalid_row_handler=note),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in names}, strings_can_be_null=False, null_values=[]
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            raise DataError(f"{path}: no rows below the header.") from None
        raise DataError(f"{path}: cannot be read as text with {separator!r}: {_one_line(error)}") from None
    if not ragged:
        return table, None
    line, found = ragged[0]
    if len(ragged) == 1 and line == start + table.num_rows + 1 and found < len(names):
        return table, line  # a file cut off while it was written, or a footer
    raise DataError(
        f"{path}: line {line} has {found} fields, the header {len(names)}. Repair the line"
        + (f" (and {len(ragged) - 1:,} more like it)." if len(ragged) > 1 else ".")
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
