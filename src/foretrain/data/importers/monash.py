"""Files of the Monash forecasting archive (.tsf): a header of @ lines, then lines such as T1:2020-01-31 00-00-00:3,?,5.

The fields of a line are the attributes that the header declares, in its order, and the values, with a colon between
them; ? is a missing value. Comments begin with #. They, and they alone, may be in any encoding: those of the archive
are in that of Windows.

# S series, N values of all of them together
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from foretrain.data.importers.columns import id_columns
from foretrain.data.importers.content import decompress, refuse_binary, refuse_message
from foretrain.data.importers.options import ImportOptions
from foretrain.data.windows import IntArray
from foretrain.errors import DataError
from foretrain.timeaxis.frequency import DAY, Frequency

Doubles = npt.NDArray[np.float64]
ENDINGS = (".tsf", ".tsf.gz")
LAST_YEAR = 9999
_KINDS = ("string", "numeric", "date")
_WORDS = {"yearly": "Y", "quarterly": "Q", "monthly": "M", "weekly": "W", "daily": "D", "hourly": "h",
          "half_hourly": "30min", "minutely": "min", "secondly": "s"}  # fmt: skip
_UNITS = {"year": "Y", "quarter": "Q", "month": "M", "week": "W", "day": "D", "hour": "h", "minute": "min",
          "second": "s"}  # fmt: skip
_MANY = re.compile(r"(\d{1,6})_(year|quarter|month|week|day|hour|minute|second)s?")
_START = re.compile(r"(\d{4}-\d{2}-\d{2}) (\d{2})-(\d{2})-(\d{2})")
_OWN = ("item_id", "start", "freq", "target")  # columns of the table
_WAY = "Fetch the file again."


@dataclass(frozen=True)
class MonashFile:
    """Series of a file. attributes: those that are no start, name -> (S,) texts."""

    attributes: dict[str, list[str]]
    id_attribute: str | None  # the one that names the series
    freq: str | None  # an alias without an edge ("M"); None: the header names none
    starts: IntArray | None  # (S,) microseconds; None: no attribute is a date
    values: Doubles  # (N,) NaN = missing
    counts: IntArray  # (S,) values of each series
    lines: IntArray  # (S,) line numbers in the file


@dataclass(frozen=True)
class _Declared:
    attributes: tuple[tuple[str, str], ...]  # name, kind
    freq: str | None
    equal: bool  # all series have one length
    end: int  # lines up to @data


def read_monash(path: Path, raw: bytes, *, encoding: str | None = None, freq: str | None = None) -> MonashFile:
    """Return the series of a file from its bytes, gzip or plain.

    encoding: of the attributes, None = UTF-8; freq: in place of the header's. Raises DataError naming the line.
    """
    data = decompress(path, raw)
    refuse_binary(path, data)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = encoding or "utf-16"
    lines = _split(path, data, encoding)
    if not any(lines):
        raise DataError(f"{path}: the file is empty.")
    refuse_message(path, b"\n".join(lines[:50])[:4096].decode("utf-8", errors="replace"))
    header = _header(path, lines, freq)
    rows = [(at, line) for at, line in enumerate(lines[header.end :], header.end + 1) if line and line[:1] != b"#"]
    if not rows:
        raise DataError(f"{path}: no series below @data. {_WAY}")
    numbers = np.array([at for at, _ in rows], np.int64)
    fields, cells = _fields(path, rows, header)
    counts = np.array([cell.count(b",") + 1 for cell in cells], np.int64)
    _refuse_cut(path, header, numbers, counts)
    attributes = {name: fields[place] for place, (name, kind) in enumerate(header.attributes) if kind != "date"}
    starts = _starts(path, header, fields, numbers)
    if starts is not None and header.freq is not None:
        _refuse_late(path, starts, header.freq, counts, numbers)
    texts = [name for name, kind in header.attributes if kind == "string"]
    named = "series_name" if "series_name" in texts else next(iter(texts), None)
    return MonashFile(attributes, named, header.freq, starts, _numbers(path, cells, numbers), counts, numbers)


def monash_table(path: Path, found: MonashFile, options: ImportOptions) -> pa.Table:
    """Return a table of a row a series: its id, start and freq where there are any, and the list `target`.

    Raises DataError if two series have one id.
    """
    chosen = id_columns(path, list(found.attributes), options)
    ids = chosen or ((found.id_attribute,) if found.id_attribute is not None else ())
    _refuse_twice(path, found, ids)
    columns: dict[str, pa.Array] = {}
    if not chosen and ids:
        columns["item_id"] = pa.array(found.attributes[ids[0]], pa.string())
    for name, texts in found.attributes.items():
        if name in chosen or name not in ids:
            columns[f"attribute {name}" if name in _OWN and name not in chosen else name] = pa.array(texts, pa.string())
    if found.starts is not None:
        columns["start"] = pa.array(found.starts, pa.int64()).cast(pa.timestamp("us"))
    if found.starts is not None and found.freq is not None:
        columns["freq"] = pa.array([found.freq] * len(found.counts), pa.string())
    ends = np.concatenate([[0], np.cumsum(found.counts)])
    columns["target"] = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), pa.array(found.values))
    return pa.table(columns)


def _split(path: Path, data: bytes, encoding: str | None) -> list[bytes]:
    """Return the lines, stripped, in UTF-8 but for comments."""
    if encoding is not None:
        try:
            data = data.decode(encoding).encode("utf-8")
        except (UnicodeError, LookupError) as error:
            what = " ".join(str(error).split())[:100]
            raise DataError(f"{path}: is not {encoding} text ({what}); name another encoding.") from None
    lines = [line.strip() for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    for number, line in enumerate(lines, 1):
        if line.isascii() or line[:1] == b"#":
            continue
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            text = f"{path}: line {number} is not UTF-8 text; name its encoding, for example --encoding cp1252."
            raise DataError(text) from None
    return lines


def _header(path: Path, lines: Sequence[bytes], freq: str | None) -> _Declared:
    attributes: list[tuple[str, str]] = []
    stated: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line or line[:1] == b"#":
            continue
        words = line.decode("utf-8").split()
        tag = words[0].lower()
        if tag == "@data":
            if not attributes:
                raise DataError(f"{path}: line {number}: @data comes before any @attribute. {_WAY}")
            wanted = freq or _alias(path, stated.get("@frequency"))
            return _Declared(tuple(attributes), wanted, stated.get("@equallength", "").lower() == "true", number)
        if tag == "@attribute":
            if len(words) != 3 or words[2].lower() not in _KINDS:
                raise DataError(f"{path}: line {number}: an attribute is `@attribute NAME {'|'.join(_KINDS)}`.")
            if words[1] in dict(attributes):
                raise DataError(f"{path}: line {number}: attribute {words[1]!r} appears twice. Rename one.")
            attributes.append((words[1], words[2].lower()))
        elif tag in ("@frequency", "@equallength"):
            if len(words) != 2 or tag in stated:
                raise DataError(f"{path}: line {number}: {tag} has one value and one line. Correct the header.")
            stated[tag] = words[1]
        elif not tag.startswith("@"):
            shown = line[:40].decode("utf-8", errors="replace")
            raise DataError(f"{path}: line {number} ({shown!r}) stands before @data and is no line of a header. {_WAY}")
    raise DataError(f"{path}: has no line @data, so it is cut off or no .tsf file. {_WAY}")


def _alias(path: Path, word: str | None) -> str | None:
    """Return the alias of a frequency of the archive: half_hourly, 10_minutes, weekly, ..."""
    if word is None:
        return None
    if (known := _WORDS.get(word.lower())) is not None:
        return known
    found = _MANY.fullmatch(word.lower())
    if found is None or not int(found[1]):
        words = ", ".join(_WORDS)
        raise DataError(
            f"{path}: @frequency {word[:40]!r} is not known ({words}, 10_minutes, ...). Say it with --freq."
        )
    return f"{int(found[1])}{_UNITS[found[2]]}"


def _fields(path: Path, rows: Sequence[tuple[int, bytes]], header: _Declared) -> tuple[list[list[str]], list[bytes]]:
    """Return the texts of each attribute, and the text of the values, of each line."""
    fields: list[list[str]] = [[] for _ in header.attributes]
    cells = []
    for number, line in rows:
        parts = line.split(b":")
        if len(parts) != len(fields) + 1:
            raise DataError(
                f"{path}: line {number} has {len(parts) - 1} attributes, the header {len(fields)}: one for each "
                f"@attribute, then the values, with a colon between them. {_WAY}"
            )
        for texts, part in zip(fields, parts, strict=False):
            texts.append(part.decode("utf-8"))
        cells.append(parts[-1])
    return fields, cells


def _refuse_cut(path: Path, header: _Declared, lines: IntArray, counts: IntArray) -> None:
    """Raise DataError if the last series alone is shorter than the others, which the header says have one length."""
    if header.equal and len(counts) > 1 and (counts[:-1] == counts[0]).all() and counts[-1] < counts[0]:
        raise DataError(
            f"{path}: line {lines[-1]}, the last, has {counts[-1]:,} values and all others {counts[0]:,}, of one "
            "length by @equallength: the file is cut off. Fetch it again, or correct @equallength."
        )


def _starts(path: Path, header: _Declared, fields: list[list[str]], lines: IntArray) -> IntArray | None:
    dates = [place for place, (_, kind) in enumerate(header.attributes) if kind == "date"]
    names = [header.attributes[place][0] for place in dates]
    if len(dates) > 1:
        dates = [place for place, name in zip(dates, names, strict=True) if name == "start_timestamp"]
    if not names:
        return None
    if not dates:
        raise DataError(f"{path}: attributes {', '.join(names)} are dates; call the start of series start_timestamp.")
    found = []
    for text, number in zip(fields[dates[0]], lines.tolist(), strict=True):
        match = _START.fullmatch(text.strip())
        try:
            if match is None:
                raise ValueError
            found.append(np.datetime64(f"{match[1]}T{match[2]}:{match[3]}:{match[4]}", "us").astype(np.int64))
        except ValueError:
            text = f"line {number}: {text[:40]!r} is no start of a series, such as 2020-01-31 00-00-00"
            raise DataError(f"{path}: {text}.") from None
    return np.array(found, np.int64)


def _refuse_late(path: Path, starts: IntArray, freq: str, counts: IntArray, lines: IntArray) -> None:
    """Raise DataError for a series that reaches beyond LAST_YEAR."""
    step = Frequency.parse(freq, edge="S")
    days = (step.micros or 0) / DAY if step.months is None else step.months * 30.4
    years = 1970 + (starts / DAY + counts * days) / 365.25
    if (late := years > LAST_YEAR).any():
        row = int(late.argmax())
        text = f"line {lines[row]}: {counts[row]:,} values from its start on reach beyond the year {LAST_YEAR:,}"
        raise DataError(f"{path}: {text}. Correct the start or @frequency.")


def _numbers(path: Path, cells: Sequence[bytes], lines: IntArray) -> Doubles:
    """Return all values (N,)."""
    text = b"\n".join(cells).replace(b",", b"\n")
    try:
        column = pyarrow.csv.read_csv(
            io.BytesIO(text),
            pyarrow.csv.ReadOptions(column_names=["v"]),
            pyarrow.csv.ParseOptions(delimiter="\x1f", quote_char=False, ignore_empty_lines=False),
            pyarrow.csv.ConvertOptions(column_types={"v": pa.float64()}, null_values=["?", " ?", "? ", " ? "]),
        ).column(0)
        values = column.to_numpy(zero_copy_only=False)
        missing = int((~np.isfinite(values)).sum())  # words such as nan and inf are read as numbers
        if len(values) == text.count(b"\n") + 1 and missing == column.null_count:
            return values
    except pa.ArrowException:
        pass
    raise _bad_value(path, cells, lines)


def _bad_value(path: Path, cells: Sequence[bytes], lines: IntArray) -> DataError:
    """Return the error of the first value that is no number."""
    for number, cell in zip(lines.tolist(), cells, strict=True):
        for place, word in enumerate(cell.split(b","), 1):
            shown = word.decode("utf-8", errors="replace").strip()
            if shown == "?" or _is_number(shown):
                continue
            what = f"{shown[:40]!r} is no number; a missing one is ?" if shown else "is empty; a missing one is ?"
            return DataError(f"{path}: line {number}: value {place:,} {what}. {_WAY}")
    return DataError(f"{path}: holds values that are no numbers. {_WAY}")


def _is_number(text: str) -> bool:
    try:
        return "_" not in text and math.isfinite(float(text))
    except ValueError:
        return False


def _refuse_twice(path: Path, found: MonashFile, names: Sequence[str]) -> None:
    """Raise DataError if two series have one id."""
    first: dict[tuple[str, ...], int] = {}
    for row, key in enumerate(zip(*(found.attributes[name] for name in names), strict=True)):
        if (other := first.setdefault(key, row)) != row:
            more = [name for name in found.attributes if name not in names]
            way = f"--id-column {','.join([*names, *more[:1]])} joins attributes" if more else "Rename one"
            raise DataError(
                f"{path}: lines {found.lines[other]} and {found.lines[row]} are both series "
                f"{'/'.join(key)[:60]!r}. {way}."
            )
