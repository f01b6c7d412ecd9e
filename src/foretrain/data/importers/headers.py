"""Names of a text table's columns: one line of names, or the two or three lines that pandas writes for two levels.

# V columns, T rows
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from foretrain.data.importers.columns import ID_NAMES, has_role, is_market, market_name, plain
from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.time_names import FINE_STAMPS
from foretrain.data.importers.wide import header_span
from foretrain.data.windows import IntArray
from foretrain.errors import DataError
from foretrain.notes import Code, Note, counted

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see

_NUMBER = re.compile(r"\s*[-+]?(\d+([., ]\d*)*|[.,]\d+)([eE][-+]?\d+)?\s*")
_BESIDE_PRICES = ("dividends", "stock_splits", "capital_gains", "splits", "repaired")  # yfinance's further columns
_UNITS = ("usd", "eur", "gbp", "jpy", "cny", "chf", "hkd", "cad", "aud", "inr", "krw", "usdt", "shares", "lots")


def looks_like_data(cell: str) -> bool:
    """Return True if a cell is a number or starts like a date, so that it is unlikely to be a column name."""
    return bool(_NUMBER.fullmatch(cell)) or bool(re.match(r"\s*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}", cell))


def looks_like_row(cells: list[str]) -> bool:
    """Return True if most cells of a line look like data and none names the time, as `date` does before 1, 2, 3."""
    return 2 * sum(map(looks_like_data, cells)) > len(cells) and not any(plain(cell) in FINE_STAMPS for cell in cells)


def name_columns(
    path: Path, row: list[str], line: int, options: ImportOptions, notes: list[Note], *, any_header: bool = False
) -> tuple[list[str], list[str]]:
    """Return a unique name for each column of a header line, and the names of the columns to read.

    A name that occurs twice is an error where the column has a role, is asked for, or is data like any other; beside
    chosen columns and beside prices it is left out.
    """
    names = [" ".join(name.split()) if "\n" in name else name.strip().strip("\ufeff") for name in row]
    given = [name for name in names if name]
    if (
        given
        and not any_header
        and looks_like_row(given)
        and options.format != "wide"
        and header_span(row, options.date_format) is None
    ):
        raise DataError(
            f"{path}: line {line} looks like data ({', '.join(names[:3])}...), not like column names. "
            f"Say --no-header, and give the {len(names)} columns names with --names if they have any."
        )
    bracketed = bool(given) and all(re.fullmatch(r"<[^<>]+>", name) for name in given)  # MetaTrader, Stooq
    names = [name[1:-1] if bracketed and name else name for name in names]
    left_out = _repeated(path, names, options, notes)
    if bracketed and "per" in map(plain, names):
        left_out |= {k for k, name in enumerate(names) if plain(name) == "per"}
        notes.append(Note(Code.COLUMNS_LEFT_OUT, f"{path.name}: column 'PER' is the length of a bar; left out"))
    blank = 0
    for k, name in enumerate(names):
        if k in left_out:
            names[k] = f"{name}\x00{k}"
        elif not name:
            names[k] = "" if not blank else f"unnamed_{k}"
            blank += 1
    return names, [name for k, name in enumerate(names) if k not in left_out]


def _repeated(path: Path, names: list[str], options: ImportOptions, notes: list[Note]) -> set[int]:
    """Return the places of columns whose name occurs twice and that nobody needs. DataError if one is needed."""
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if not twice:
        return set()
    ids = (options.id_column,) if isinstance(options.id_column, str) else (options.id_column or ())
    chosen = (*options.columns, *options.target, *options.categorical, *ids, *dict(options.column).values())
    apart = bool(options.columns) or is_market([name for name in names if name])
    for name in twice:
        if not apart or has_role(name) or name in (*chosen, options.timestamp_column):
            raise DataError(f"{path}: column {name!r} appears twice in the header. Rename one, or choose others with "
                            "--columns.")  # fmt: skip
    text = f"{path.name}: columns named twice left out: {', '.join(twice)}"
    notes.append(Note(Code.COLUMNS_LEFT_OUT, text, {"columns": sum(map(names.count, twice))}))
    return {k for k, name in enumerate(names) if name in twice}


@dataclass(frozen=True)
class Levels:
    """Columns with two names each, an item and a value, as pandas writes a frame with two levels of columns.

    columns: unique names of the file's columns; shared: name in the result of each column that all items have;
    items: item -> value name -> column; rows: lines of the header.
    """

    columns: list[str]
    shared: dict[str, str]
    items: dict[str, dict[str, str]]
    id_name: str
    rows: int

    def unfold(self, table: pa.Table, lines: IntArray) -> tuple[pa.Table, IntArray]:
        """Return the long table, (T,) line of each row. Rows in which an item has no cell are those of other items."""
        names = list(dict.fromkeys(name for held in self.items.values() for name in held))
        parts, numbers = [], []
        for item, held in self.items.items():
            filled = np.zeros(table.num_rows, bool)
            for column in held.values():
                filled |= np.asarray(pc.not_equal(pc.utf8_trim_whitespace(table.column(column)), ""))
            rows = table.filter(pa.array(filled))
            count = rows.num_rows
            blank = pa.array([""] * count, pa.string())
            cells = {self.id_name: pa.array([item] * count, pa.string())}
            cells |= {final: rows.column(name) for name, final in self.shared.items()}
            cells |= {name: rows.column(held[name]) if name in held else blank for name in names}
            parts.append(pa.table(cells))
            numbers.append(lines[filled])
        return pa.concat_tables(parts), np.concatenate(numbers)

    def note(self, path: Path) -> Note:
        """Return the note that says what the header was taken for."""
        names = ", ".join(list(self.items)[:4])
        text = (
            f"{path.name}: {self.rows} header lines name values and items: {counted(len(self.items), 'item')} ({names})"
        )
        return Note(Code.HEADER_LEVELS, text, {"lines": self.rows, "items": len(self.items)})


def find_levels(path: Path, rows: list[list[str]]) -> Levels | None:
    """Return the levels if the first lines are a header of two levels: values and items, in either order, else None.

    A third line may name the rows' own column (Date) and is empty otherwise. DataError if the levels are there, but
    not which one names the items.
    """
    if len(rows) < 2 or len(rows[0]) < 2 or len(rows[0]) != len(rows[1]):
        return None
    if len(rows) > 2 and any(rows[2][1:]) and any(map(looks_like_data, rows[1])):
        return None
    upper, lower = ([cell.strip() for cell in row] for row in rows[:2])
    upper = _filled(upper, lower)
    third = [cell.strip() for cell in rows[2]] if len(rows) > 2 and len(rows[2]) == len(upper) else []
    named = bool(third) and bool(third[0]) and not any(third[1:]) and not looks_like_data(third[0])
    own = {k: a or b for k, (a, b) in enumerate(zip(upper, lower, strict=True)) if k and not (a and b)}
    body = [k for k in range(1, len(upper)) if k not in own]
    if not body or any(not name for name in own.values()):
        return None
    values, items = _which(path, upper, lower, body, named=named)
    if values is None or not (named or _is_header(upper, lower, [items[k] for k in body])):
        return None
    own[0] = third[0] if named else _corner(upper[0], lower[0])
    found: dict[str, dict[str, str]] = {}
    columns = [f"{k}\x00{name}" for k, name in enumerate(upper)]
    for k in body:
        held = found.setdefault(items[k], {})
        if values[k] in held:
            raise DataError(f"{path}: column {values[k]!r} of {items[k]!r} appears twice in the header. Remove one.")
        held[values[k]] = columns[k]
    if not named and not _items_alike(found):
        return None
    id_name = items[0] if plain(items[0]) in ID_NAMES else "item_id"
    shared = {columns[k]: own[k] for k in sorted(own)}
    return Levels(columns, shared, found, id_name, 2 + named)


def _filled(upper: list[str], lower: list[str]) -> list[str]:
    """Return the upper names with merged cells filled: Excel writes a name above several columns once."""
    filled = upper[:1]
    for above, below in zip(upper[1:], lower[1:], strict=True):
        filled.append(above or (filled[-1] if below and len(filled) > 1 else ""))
    return filled


def _which(
    path: Path, upper: list[str], lower: list[str], body: list[int], *, named: bool
) -> tuple[list[str] | None, list[str]]:
    """Return (the line that names values, the line that names items); (None, ...) if the header has one level."""
    for values, items in ((upper, lower), (lower, upper)):
        known = [market_name(values[k]) or plain(values[k]) in _BESIDE_PRICES for k in body]
        if all(known) and any(market_name(values[k]) in ("close", "adj_close") for k in body):
            return values, items
    if not named:
        return None, []
    if any(plain(name) in ID_NAMES for name in (upper[0], lower[0])):
        return (lower, upper) if plain(upper[0]) in ID_NAMES else (upper, lower)
    for values, items in ((upper, lower), (lower, upper)):
        if len({values[k] for k in body}) == 1:
            return values, items
    raise DataError(f"{path}: the header has two levels of names ({upper[body[0]]!r} above {lower[body[0]]!r}), and "
                    "neither says which one names the items. Write one row an item and time (DataFrame.stack), or one "
                    "header line.")  # fmt: skip


def _is_header(upper: list[str], lower: list[str], items: list[str]) -> bool:
    """Return True if two lines without a third are a header: their first cells name levels or the time, or nothing."""
    known = ("", "price", "prices", "field", "fields", "attributes", "variable", *ID_NAMES, *FINE_STAMPS)
    corners = plain(upper[0]) == plain(lower[0]) or {plain(upper[0]), plain(lower[0])} <= set(known)
    return corners and not any(map(looks_like_data, items))


def _corner(upper: str, lower: str) -> str:
    """Return the name of the first column where two lines name it: the one name, or none if they name the levels."""
    if not upper or not lower or upper == lower:
        return upper or lower
    return next((name for name in (upper, lower) if plain(name) in FINE_STAMPS), "")


def _items_alike(items: dict[str, dict[str, str]]) -> bool:
    """Return True if all items have a close, and the only item is not a unit: a second line may hold units."""
    if len(items) == 1 and next(iter(items)).lower() in _UNITS:
        return False
    return all(any(market_name(name) in ("close", "adj_close") for name in held) for held in items.values())
