"""Read delimited text files into tables of text cells: encodings, separators, preambles, headers, ragged lines.

Cells are not converted here: they remain text, so that ids such as "007" or "1e5" survive.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from foretrain.data.importers.columns import plain
from foretrain.data.importers.comments import skip_comments
from foretrain.data.importers.content import decompress, refuse_binary, refuse_message
from foretrain.data.importers.headers import Levels, find_levels, looks_like_data, name_columns
from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.time_names import FINE_STAMPS
from foretrain.data.importers.wide import header_span
from foretrain.data.windows import IntArray
from foretrain.errors import DataError
from foretrain.notes import Code, Note, counted

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see

_SEPARATORS = (",", ";", "\t", "|")
_DATA = re.compile(r"\s*[-+]?\d[\d.:/ T+-]*(,\d+)?\s*")  # numbers and stamps
_SEP_LINE = re.compile(r'"?sep=(\\t|[^"])"?\1*\s*', re.IGNORECASE)  # Excel's way to name the separator
_HEAD_LINES = 40
_HEAD_BYTES = 1 << 16  # in which the header ends
_MAX_PREAMBLE = 10


@dataclass(frozen=True)
class TextTable:
    """Cells of a file as strings. lines: (T,) line number of each row."""

    table: pa.Table
    lines: IntArray
    truncated: tuple[int, str] | None = None  # number and text of the last line if it had too few fields
    notes: list[Note] = field(default_factory=list)


@dataclass(frozen=True)
class _Header:
    """names: unique, a column each; kept: those to read; start: lines above the first row."""

    names: list[str]
    kept: list[str]
    start: int
    levels: Levels | None = None


def read_text(path: Path, raw: bytes, options: ImportOptions, *, any_header: bool = False) -> TextTable:
    """Read the cells of a text file from its bytes (gzip or plain). DataError names the malformed line and a remedy.

    any_header: the first line is the header even if its cells look like data, as quantile levels do.
    """
    raw = decompress(path, raw)
    refuse_binary(path, raw)
    data = _decode(path, raw, options.encoding)
    lines = _head(data)
    if not lines and len(data) > _HEAD_BYTES:
        raise DataError(
            f"{path}: the first line is longer than {_HEAD_BYTES:,} characters: no table, or one of thousands of "
            "columns. Write it as Parquet, or with a row for each item and time."
        )
    if not lines:
        raise DataError(f"{path}: the file is empty.")
    refuse_message(path, "\n".join(lines))
    notes = list[Note]()
    skip = options.skip_rows or 0
    if not skip:
        given = data
        data, skip = skip_comments(path, data, notes, header=options.header)
        if skip or data is not given:
            lines = _head(data, skip)
    named = _SEP_LINE.fullmatch(lines[0]) if not skip else None
    skip += named is not None
    separator = {"\\t": "\t"}.get(named[1], named[1]) if named else separator_of(lines[skip:])
    if named is None and separator == "," and not any("," in line for line in lines[skip:]):
        split = _split_at_blanks(path, data, lines[skip:])
        if split is not None:
            data, separator = split, "\t"
            lines = _head(data, skip)
    cells, ends = _rows(lines[skip:], separator, '"')
    if not cells:
        raise DataError(f"{path}: nothing is left after skipping {skip} lines.")
    quote = "'" if len(cells[0]) > 1 and all(re.fullmatch("'[^']+'", cell.strip()) for cell in cells[0]) else '"'
    cells, ends = _rows(lines[skip:], separator, quote) if quote == "'" else (cells, ends)
    header = _header(path, lines, cells, skip, options, notes, any_header=any_header)
    further = ends[min(header.start - skip, len(ends)) - 1] - (header.start - skip) if header.start > skip else 0
    header = replace(header, start=header.start + max(further, 0))  # names with line breaks take several lines
    table, truncated = _parse(path, data, header, separator, quote)
    if not table.num_rows:
        raise DataError(f"{path}: no rows below the header{_shown(header)}.")
    numbers = _line_numbers(data, header.start, table.num_rows)
    _refuse_repeated_header(path, table, numbers)
    if header.levels is not None:
        table, numbers = header.levels.unfold(table, numbers)
        notes.append(header.levels.note(path))
    else:
        table = _without_empty(path, table, notes)
    return TextTable(table, numbers, truncated, notes)


def _shown(header: _Header) -> str:
    """Return which line was taken for the header, where that is not the first one."""
    names = ", ".join(repr(name) for name in header.names[:4])
    return f", which line {header.start} seems to be ({names})" if header.start > 1 else ""


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
        if encoding is None and b"\0" in data:  # in no text, but for UTF-16 and UTF-32
            what = "holds zero bytes, so it is no text but a file of another kind"
            raise DataError(f"{path}: {what} (or --encoding utf-16-le). Export it as CSV.") from None
        line = data.count(b"\n", 0, error.start) + 1
        way = (
            "name its encoding, for example --encoding latin-1 or gbk" if encoding is None else "name another encoding"
        )
        raise DataError(f"{path}: line {line} is not {encoding or 'UTF-8'} text; {way}.") from None
    except UnicodeError as error:  # of codecs that are for other things than files, such as punycode
        raise DataError(f"{path}: is not {encoding} text ({error}); name another encoding.") from None
    except LookupError:
        raise DataError(f"{path}: encoding {encoding!r} is not known to Python.") from None


def _head(data: bytes, skip: int = 0) -> list[str]:
    """Return the first `skip` lines and as many more as tell the form of the file."""
    most = skip + _HEAD_LINES
    lines = list[str]()
    for size in (1 << 12, _HEAD_BYTES):  # most files need the smaller one, and splitting all of the larger takes longer
        lines = data[:size].decode("utf-8", errors="ignore").splitlines()
        if len(lines) > most or len(data) <= size:
            return lines[:most]
    return lines[:-1]  # the last one is cut


def _rows(lines: list[str], separator: str, quote: str) -> tuple[list[list[str]], list[int]]:
    """Return the cells of each row, and the number of lines up to its end; quoted cells may have line breaks."""
    reader = csv.reader((line + "\n" for line in lines), delimiter=separator, quotechar=quote)
    rows, ends = [], []
    for row in reader:
        rows.append(row)
        ends.append(reader.line_num)
    return rows, ends


def separator_of(lines: list[str]) -> str:
    """Return the separator that splits most lines into the same number (two or more) of fields, a comma by default.

    Of two that split alike, as in 2024-01-01;1,5;2,5, the one whose cells are numbers and stamps.
    """
    found = list[tuple[float, str, list[list[str]]]]()
    for candidate in _SEPARATORS:
        rows = [row for row in csv.reader(lines, delimiter=candidate) if row]
        wide = {width: n for width, n in Counter(map(len, rows)).items() if width > 1}
        if wide:
            width, lines_of_it = max(wide.items(), key=lambda pair: (pair[1], pair[0]))
            found.append((lines_of_it + width / 1e3, candidate, rows))
    if len(found) < 2:  # nearly every file
        return found[0][1] if found else ","

    def score(choice: tuple[float, str, list[list[str]]]) -> float:
        data = [bool(_DATA.fullmatch(cell)) for row in choice[2] for cell in row]
        return choice[0] + sum(data) / len(data) / 1e4  # of two that split alike, by the cells

    return max(found, key=score)[1]


def _split_at_blanks(path: Path, data: bytes, head: list[str]) -> bytes | None:
    """Return the text with tabs between its words, None for a single column. DataError if the lines do not split alike.

    A column of numbers such as 1 234 has blanks too: lines are split only if the header has several words as well.
    """
    rows = [line.split() for line in head if line.strip()]
    if len(rows) < 2 or len(rows[0]) < 2 or max(map(len, rows[1:])) < 2:
        return None
    widths = [len(line.split()) for line in data.decode("utf-8").splitlines() if line.strip()]
    odd = next((k for k, width in enumerate(widths) if width != widths[0]), None)
    way = "Write the table with a comma or a tab between the columns."
    if odd is not None:
        raise DataError(
            f"{path}: columns seem to be separated by blanks, but line {odd + 1} has {widths[odd]} words and the "
            f"header {widths[0]}, so cells hold blanks too. {way}"
        )
    if _may_be_thousands(rows[1:]):
        raise DataError(f"{path}: {head[1].strip()!r} may be one number or {len(rows[1])}. {way}")
    return b"\n".join(b"\t".join(line.split()) for line in data.splitlines())


def _may_be_thousands(rows: list[list[str]]) -> bool:
    """Return True if lines could be numbers such as 1 234; False for many lines whose first words count the rows."""
    firsts, others = [row[0].lstrip("+-") for row in rows], [cell for row in rows for cell in row[1:]]
    if not all(re.fullmatch(r"\d{1,3}", cell) for cell in firsts) or not all(re.fullmatch(r"\d{3}", c) for c in others):
        return False
    return len(rows) < 8 or any(int(b) - int(a) != 1 for a, b in itertools.pairwise(firsts))


def _header(
    path: Path,
    lines: list[str],
    cells: list[list[str]],
    skip: int,
    options: ImportOptions,
    notes: list[Note],
    *,
    any_header: bool,
) -> _Header:
    """Return the columns' names and the first row's place, after a preamble and one or more lines of names."""
    if not options.header:
        names = list(options.names) or [f"column_{i}" for i in range(len(cells[0]))]
        if len(names) != len(cells[0]):
            raise DataError(f"{path}: {len(names)} names given, but line {skip + 1} has {len(cells[0])} fields.")
        return _Header(names, names, skip)
    preamble = _preamble(path, cells, skip, known=bool(skip))
    if preamble:
        about = f"{path.name}: {counted(preamble, 'line')} before the header skipped, first {lines[skip][:80]!r}"
        notes.append(Note(Code.LINES_SKIPPED, about, {"lines": preamble}))
    levels = find_levels(path, cells[preamble : preamble + 3])
    if levels is not None:
        return _Header(levels.columns, levels.columns, skip + preamble + levels.rows, levels)
    vendor = _binance_names(cells[preamble])
    if vendor:
        text = (f"{path.name}: no header; the {len(vendor)} columns are those of Binance's files of klines. Months of "
                "one symbol are joined by --id-pattern '^([A-Z0-9]+)-'")  # fmt: skip
        notes.append(Note(Code.COLUMNS_NAMED, text))
        return _Header(vendor, vendor[:6] + vendor[7:-1], skip + preamble)
    row = _fitted(cells[preamble], cells[preamble + 1 :])
    names, kept = name_columns(path, row, skip + preamble + 1, options, notes, any_header=any_header)
    return _Header(names, kept, skip + preamble + 1)


def _preamble(path: Path, cells: list[list[str]], skip: int, *, known: bool) -> int:
    """Return the number of lines before the header: those with fewer fields than the rest, if a header follows."""
    widths = Counter(len(row) for row in cells[1:] if row)
    if not widths:
        return 0
    width = widths.most_common(1)[0][0]
    if len(_fitted(cells[0], cells[1:])) == width:
        return 0
    for at, row in enumerate(cells[: _MAX_PREAMBLE + 1]):
        named = not any(map(looks_like_data, row)) or header_span(row) or plain(row[0]) in FINE_STAMPS
        if len(row) == width and at and not known and named:
            return at
    raise DataError(
        f"{path}: line {skip + 1} has {len(cells[0])} fields, the lines below {width}. If these lines are no header, "
        "skip them with --skip-rows, and say --no-header (with names) if no header follows."
    )


def _fitted(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return the header as wide as the rows, where the surplus of either is empty: lines that end with a separator."""
    if all(len(row) == len(header) for row in rows if row):
        return header
    widths = Counter(len(row) for row in rows if row)
    width = widths.most_common(1)[0][0]
    if len(header) + 1 == width and len(rows) > 2 and all(row[:1] == [str(k)] for k, row in enumerate(rows, 1)):
        return ["", *header]  # R numbers the rows in a column without a name
    if len(header) > width and not any(cell.strip() for cell in header[width:]):
        return header[:width]
    surplus = [cell for row in rows if len(row) == width for cell in row[len(header) :]]
    return header + [""] * (width - len(header)) if surplus and not any(map(str.strip, surplus)) else header


_BINANCE = ("open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count",
            "taker_buy_volume", "taker_buy_quote_volume", "ignore")  # fmt: skip


def _binance_names(row: list[str]) -> list[str]:
    """Return the columns of Binance's klines, which come without a header, [] if the first row is no such bar."""
    if len(row) != len(_BINANCE) or not all(map(looks_like_data, row)):
        return []
    opened, closed = row[0].strip(), row[6].strip()
    instants = all(text.isdecimal() and len(text) in (13, 16) for text in (opened, closed))
    return list(_BINANCE) if instants and len(opened) == len(closed) and int(closed) > int(opened) else []


def _parse(
    path: Path, data: bytes, header: _Header, separator: str, quote: str
) -> tuple[pa.Table, tuple[int, str] | None]:
    ragged: list[tuple[int, int, str]] = []
    names, start = header.names, header.start

    def note(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append((row.number or 0, row.actual_columns, row.text))
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            read_options=pyarrow.csv.ReadOptions(
                skip_rows=start, column_names=names, use_threads=False, block_size=max(len(data) + 1, 1 << 12)
            ),
            parse_options=pyarrow.csv.ParseOptions(delimiter=separator, quote_char=quote, invalid_row_handler=note),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in names},
                strings_can_be_null=False,
                null_values=[],
                include_columns=header.kept if len(header.kept) < len(names) else [],
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            raise DataError(f"{path}: no rows below the header.") from None
        raise DataError(f"{path}: cannot be read as text with {separator!r}: {_one_line(error)}") from None
    if b'"' in data and _count(data, '"') % 2:
        _refuse_open_quote(path, table, names[-1])
    if not ragged:
        return table, None
    row, found, text = ragged[0]
    line = int(_line_numbers(data, start, row - start)[-1]) if row > start else row
    if "\n" in text.strip():
        raise DataError(
            f"{path}: line {line} opens a quote that it does not close, so {text.strip().count(chr(10)):,} more lines "
            f"would be one cell ({text[:40]!r}). Repair the quote."
        )
    if len(ragged) == 1 and row == start + table.num_rows + 1 and found < len(names):
        return table, (line, text)  # a file cut off while it was written, or a footer
    raise DataError(
        f"{path}: line {line} has {found} fields, the header {len(names)}. Repair the line"
        + (f" (and {len(ragged) - 1:,} more like it)" if len(ragged) > 1 else "")
        + ", or, if another table begins there, give it a file of its own."
    )


def _refuse_open_quote(path: Path, table: pa.Table, last: str) -> None:
    """Raise DataError if the last cell holds the rest of the file, since its quote is not closed."""
    if last not in table.column_names or not table.num_rows:
        return
    cell = str(table.column(last)[table.num_rows - 1])
    if "\n" in cell:
        raise DataError(
            f"{path}: a quote is opened and not closed before {cell[:40]!r}, so {cell.count(chr(10)):,} more lines "
            "would be one cell. Repair the quote."
        )


def _line_numbers(data: bytes, start: int, count: int) -> IntArray:
    """Return the line number (count,) of each row; blank lines are no rows."""
    plain = np.arange(count, dtype=np.int64) + start + 1
    if _count(data, "\n") + (not data.endswith(b"\n")) <= start + count:
        return plain
    lengths = np.array([len(line.strip(b"\r")) for line in data.split(b"\n")[start:]])
    filled = np.flatnonzero(lengths)[:count] + start + 1
    return filled if len(filled) == count else plain  # cells with line breaks make rows of several lines


def _count(data: bytes, mark: str) -> int:
    """Return how often an ASCII character occurs, in blocks, since bytes.count takes five times as long."""
    codes, block = np.frombuffer(data, np.uint8), 1 << 18
    return sum(int(np.count_nonzero(codes[at : at + block] == ord(mark))) for at in range(0, len(codes), block))


def _refuse_repeated_header(path: Path, table: pa.Table, lines: IntArray) -> None:
    """Raise DataError if a row begins with the name of its column and holds more names, as where files were glued."""
    name = table.column_names[0]
    if not name or pc.index(table.column(0), name).as_py() < 0:
        return
    for row in np.flatnonzero(np.asarray(pc.equal(table.column(0), name))):
        cells = [str(table.column(k)[int(row)]) for k in range(min(table.num_columns, 8))]
        if not any(looks_like_data(cell) for cell in cells) and (len(cells) == 1 or any(cells[1:])):
            raise DataError(
                f"{path}: line {lines[row]} is a header again ({', '.join(cells[:3])}), so files were glued together "
                "here. Give each a file of its own, or remove the line."
            )


def _without_empty(path: Path, table: pa.Table, notes: list[Note]) -> pa.Table:
    """Return the table without columns that have neither a name nor a value: lines that end with separators."""
    empty = [
        k
        for k, name in enumerate(table.column_names)
        if (not name or name.startswith("unnamed_"))
        and pc.all(pc.equal(pc.utf8_trim_whitespace(table.column(k)), "")).as_py()
    ]
    if not empty:
        return table
    text = f"{path.name}: {counted(len(empty), 'column')} without a name and a value left out"
    notes.append(Note(Code.EMPTY_COLUMNS_LEFT_OUT, text, {"columns": len(empty)}))
    return table.select([k for k in range(table.num_columns) if k not in empty])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
