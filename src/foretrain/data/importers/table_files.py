"""Tables in files that are no text: Parquet, Feather, JSON; members of archives; tables that describe others."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from foretrain.data.importers.columns import FINE_STAMPS, ID_NAMES, market_name, plain
from foretrain.data.importers.content import decompress, is_bomb, refuse_message
from foretrain.data.importers.monash import ENDINGS
from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.raw_table import RawTable
from foretrain.data.importers.records import read_records, unfold_lists
from foretrain.data.windows import IntArray
from foretrain.errors import DataError
from foretrain.notes import Code, Note
from foretrain.reading import Unreadable, unpacking

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see

TEXTS = (".csv", ".txt", ".tsv", ".csv.gz", ".txt.gz", ".tsv.gz")
COLUMNAR = (".parquet", ".pq", ".feather")
RECORDS = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".ndjson.gz")
WORKBOOKS = (".xlsx", ".xlsm")
SUFFIXES = TEXTS + COLUMNAR + RECORDS + WORKBOOKS + ENDINGS
IGNORED = {"data_summary.csv", "manifest.csv", "readme.txt", "readme.csv", "requirements.txt", "license.txt"}
_TIME_KEYS = (*FINE_STAMPS, "year", "month", "day", "hour", "week", "quarter", "dt")
_NO_KEY = "__HIVE_DEFAULT_PARTITION__"


def suffix_of(name: str, known: Iterable[str]) -> str:
    """Return the known suffix of a file name, "" without one."""
    lower = name.lower()
    return next((suffix for suffix in known if lower.endswith(suffix)), "")


def read_bytes(path: Path, member: str | None = None) -> bytes:
    """Return the content of a file, or of a member of a zip archive. Raises DataError if it cannot be read."""
    try:
        if member is None:
            return path.read_bytes()
        with unpacking(), zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(member)
            if is_bomb(entry.file_size, entry.compress_size):
                raise Unreadable(f"{entry.compress_size:,} bytes unpack to {entry.file_size:,}")
            return archive.read(member)
    except Unreadable as error:
        raise DataError(f"{path}: {member} cannot be unpacked ({error}). Fetch the archive again.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from None


def members_of(path: Path) -> list[str]:
    """Return the table files in a zip archive. Raises DataError if it is damaged or holds none."""
    try:
        with unpacking(), zipfile.ZipFile(path) as archive:
            names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    except (Unreadable, OSError) as error:
        raise DataError(f"{path}: not a zip archive that can be read ({error}). Fetch it again.") from None
    kept = sorted(name for name in names if not _hidden(name) and suffix_of(name, SUFFIXES))
    kept = [name for name in kept if name.rsplit("/", 1)[-1].lower() not in IGNORED] or kept
    if not kept:
        held = ", ".join(names[:3]) or "nothing"
        raise DataError(f"{path}: no table in the archive (it holds {held}). Known: {', '.join(SUFFIXES)}.")
    return kept


def _hidden(name: str) -> bool:
    parts = name.split("/")
    return parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts)


def read_columns(path: Path, raw: bytes, options: ImportOptions, notes: list[Note]) -> tuple[pa.Table, IntArray | None]:
    """Return the cells of a Parquet, Feather or JSON file, and the row of each if lists were unfolded.

    path: its name, for messages. Raises DataError naming the file.
    """
    suffix = suffix_of(path.name, SUFFIXES)
    cells = _columnar(path, raw, suffix) if suffix in COLUMNAR else read_records(path, _json_text(path, raw, options))
    if not cells.num_rows:
        raise DataError(f"{path}: no rows.")
    cells, lines = unfold_lists(path, cells, options, notes)
    _refuse_names(path, cells)
    return cells, lines


def _columnar(path: Path, raw: bytes, suffix: str) -> pa.Table:
    try:
        if suffix == ".feather":
            from pyarrow.feather import read_table

            cells = read_table(pa.BufferReader(raw))
            cells.validate(full=True)  # a wrong offset would be followed out of the buffer
            return cells
        return pyarrow.parquet.ParquetFile(pa.BufferReader(raw)).read()  # read_table loads pyarrow.dataset: 3 MiB
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are no UTF-8
        why = " ".join(str(error).split())[:150].rstrip(".")
        raise DataError(f"{path}: damaged or not of its kind ({why}). Fetch or write it again.") from None


def _json_text(path: Path, raw: bytes, options: ImportOptions) -> str:
    try:
        text = decompress(path, raw).decode(options.encoding or "utf-8-sig")
    except (UnicodeDecodeError, LookupError):
        raise DataError(f"{path}: not {options.encoding or 'UTF-8'} text; name its encoding with --encoding.") from None
    if text.lstrip()[:1] not in ("{", "[", ""):
        refuse_message(path, text)
    return text


def _refuse_names(path: Path, cells: pa.Table) -> None:
    """Raise DataError for names of columns that occur twice, which Parquet and Feather allow."""
    names = cells.column_names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: column {twice!r} appears twice. Rename one.")


def with_keys(cells: pa.Table, keys: Mapping[str, str], options: ImportOptions) -> pa.Table:
    """Add the columns of the folders' names. Parts of the date repeat the stamps; other keys name the item if no
    column does."""
    new = {key: text for key, text in keys.items() if key not in cells.column_names}
    stamped = any(plain(name) in FINE_STAMPS for name in cells.column_names)
    new = {key: text for key, text in new.items() if not (stamped and plain(key) in _TIME_KEYS)}
    named = options.id_column is not None or any(plain(name) in ID_NAMES for name in (*cells.column_names, *new))
    naming = [key for key in new if plain(key) not in _TIME_KEYS]
    if naming and not named:
        text = "/".join("" if new[key] == _NO_KEY else new[key] for key in naming)
        new = {"item_id": text} | {key: value for key, value in new.items() if key not in naming}
    for key, text in new.items():
        value = None if text == _NO_KEY else text
        cells = cells.append_column(key, pa.array([value] * cells.num_rows, pa.string()))
    return cells


def is_metadata(table: RawTable, siblings: frozenset[str]) -> bool:
    """Return True if a table has one row for each of the files beside it: it describes them, and is none of them.

    siblings: item ids of the files of the import, its own included.
    """
    for name in table.cells.column_names if siblings else ():
        if market_name(name) is not None or plain(name) in FINE_STAMPS:
            continue
        column = table.cells.column(name)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            continue
        own, middle = {table.options.found_id(table.path)}, table.cells.num_rows // 2
        if not {column[0].as_py(), column[middle].as_py(), column[-1].as_py()} & siblings - own:
            continue
        found = siblings.intersection(column.to_pylist()) - own
        distinct = pc.count_distinct(column).as_py() == table.cells.num_rows
        if distinct and 2 * len(found) >= min(len(siblings) - 1, table.cells.num_rows):
            table.notes.append(Note(
                Code.METADATA_LEFT_OUT,
                f"{table.path.name}: one row a file beside it (column {name!r}): metadata, no series; left out",
                {"rows": table.cells.num_rows},
            ))  # fmt: skip
            return True
    return False
