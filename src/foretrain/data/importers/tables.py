"""Split a table into parts: the rows of one item each, as numbers, with stamps or step numbers and line numbers.

# V columns, T rows of a part
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from foretrain.data.importers.cells import BadCell, to_numbers, without
from foretrain.data.importers.columns import FINE_STAMPS, Roles, keep, plain, recognise
from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.stamps import Stamps, arrow_stamps, localise, number_stamps, parse_stamps
from foretrain.data.windows import IntArray
from foretrain.errors import DataError
from foretrain.notes import Code, Note

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see

_MAX_CATEGORIES = 10_000
_NO_CATEGORY = ("", "nan", "<na>", "null", "#n/a")
_CLOCK_TEXT = r"^\s*(\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?(\s*[AaPp][Mm])?|\d{3,6})\s*$"


@dataclass(frozen=True)
class Part:
    """Rows of one item in one file. texts: categories of text columns; empty: columns without any value."""

    item_id: str
    columns: tuple[str, ...]
    values: npt.NDArray[np.float32]  # (V, T); categorical columns hold indices into texts[column]
    times: IntArray | None  # stamps (microseconds) or step numbers
    lines: IntArray  # (T,)
    clock: str  # dates, naive, utc, steps or none
    offsets: tuple[int, ...] = ()
    texts: dict[str, tuple[str, ...]] | None = None
    empty: frozenset[str] = frozenset()
    market: bool = False


@dataclass(frozen=True)
class _Time:
    times: IntArray | None
    clock: str
    offsets: tuple[int, ...] = ()
    used: tuple[str, ...] = ()


def table_parts(
    path: Path, table: pa.Table, options: ImportOptions, notes: list[Note], *, first_line: int = 0
) -> Iterator[Part]:
    """Yield the parts of a table in order of first appearance. first_line: line of the first row, 0 if not a text."""
    table = table.combine_chunks()
    roles = recognise(path, table.column_names, options)
    lines = np.arange(table.num_rows, dtype=np.int64) + (first_line or 1)
    time = _time(path, table, roles, options, lines, notes)
    pairs = [pair for pair in roles.values if pair[0] not in time.used]
    pairs = [pair for pair in pairs if not _is_row_number(table, pair[0], notes, path)]
    columns, values, texts, empty = _values(path, table, keep(pairs, options), options, lines, notes)
    if not columns:
        raise DataError(f"{path}: no value column (has {', '.join(map(repr, table.column_names))}).")
    whole = Part("", columns, values, time.times, lines, time.clock, time.offsets, texts, empty, roles.market)
    if options.format == "panel":
        yield from _panel(whole, path)
        return
    if roles.item is None:
        yield from _quoted_items(replace(whole, item_id=options.item_id(path)))
        return
    ids = _texts_of(table.column(roles.item))
    if pc.any(pc.equal(pc.fill_null(ids, ""), "")).as_py():
        row = int(np.asarray(pc.equal(pc.fill_null(ids, ""), "")).argmax())
        raise DataError(
            f"{path}: line {lines[row]}: column {roles.item!r} has no item id. Name the item, or drop the row."
        )
    yield from _by_item(whole, ids)


def _texts_of(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a column as text; integers in decimal."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(pa.string())


def _by_item(whole: Part, ids: pa.Array) -> Iterator[Part]:
    """Yield one part for each id, with its rows in order."""
    encoded = pc.dictionary_encode(ids)
    codes = np.asarray(encoded.indices)
    names = encoded.dictionary.to_pylist()
    order = np.argsort(codes, kind="stable")
    edges = np.searchsorted(codes[order], np.arange(len(names) + 1))
    values = whole.values if (np.diff(order) == 1).all() else whole.values[:, order]
    times = None if whole.times is None else whole.times[order]
    lines = whole.lines[order]
    for k, name in enumerate(names):
        rows = slice(edges[k], edges[k + 1])
        yield replace(
            whole,
            item_id=name,
            values=values[:, rows],
            times=None if times is None else times[rows],
            lines=lines[rows],
        )


def _panel(whole: Part, path: Path) -> Iterator[Part]:
    if whole.texts:
        raise DataError(f"{path}: text column {next(iter(whole.texts))!r} in a panel. Leave it out with --columns.")
    for k, name in enumerate(whole.columns):
        empty = frozenset(["target"]) if name in whole.empty else frozenset()
        yield replace(
            whole, item_id=name, columns=("target",), values=whole.values[k : k + 1], empty=empty, market=False
        )


def _quoted_items(whole: Part) -> Iterator[Part]:
    """Yield an item for each prefix if columns are named BTC:open, BTC:close, ETH:open, ..., else one item."""
    heads = [name.split(":") for name in whole.columns]
    names = list(dict.fromkeys(head[0] for head in heads if len(head) == 2))
    sides = [tuple(plain(h[1]) for h in heads if len(h) == 2 and h[0] == name) for name in names]
    if any(len(head) != 2 for head in heads) or len(set(sides)) != 1 or "close" not in sides[0]:
        yield whole
        return
    for name in names:
        rows = [i for i, head in enumerate(heads) if head[0] == name]
        yield replace(
            whole,
            item_id=name,
            columns=sides[0],
            values=whole.values[rows],
            empty=frozenset(plain(c.split(":")[1]) for c in whole.empty if c.startswith(name + ":")),
            market=True,
        )


# Time


def _time(
    path: Path, table: pa.Table, roles: Roles, options: ImportOptions, lines: IntArray, notes: list[Note]
) -> _Time:
    """Return the table's times from its stamp columns or its step column, if it has any."""
    if options.timestamp_column is not None:
        name = roles.stamps[0]
        stamps = _read_stamps(path, table, name, options, lines, strict=True)
        if stamps is None:
            return _steps(path, table, name)
        return _finish(stamps, (name,), options, path, notes)
    joined = _joined(path, table, roles.stamps, options, lines)
    if joined is not None:
        return _finish(joined[0], joined[1], options, path, notes)
    found = {}
    for name in roles.stamps:
        stamps = _read_stamps(path, table, name, options, lines, strict=plain(name) in FINE_STAMPS)
        if stamps is not None:
            found[name] = stamps
    if found:
        names = list(found)
        first = max(names, key=lambda name: found[name].clock == "utc")
        differing = [name for name in names if not np.array_equal(found[name].times, found[first].times)]
        if differing:
            raise DataError(
                f"{path}: columns {first!r} and {differing[0]!r} both look like the time stamp; choose with "
                "--timestamp-column."
            )
        return _finish(found[first], tuple(names), options, path, notes)
    if roles.step is not None:
        return _steps(path, table, roles.step)
    counts = [name for name in roles.stamps if plain(name) in ("time", "index") and _is_count(table, name)]
    return _steps(path, table, counts[0]) if counts else _Time(None, "none")


def _finish(stamps: Stamps, used: tuple[str, ...], options: ImportOptions, path: Path, notes: list[Note]) -> _Time:
    if options.timezone is not None:
        try:
            stamps = localise(stamps, options.timezone)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
    return _Time(stamps.times, stamps.clock, stamps.offsets, used)


def _read_stamps(
    path: Path, table: pa.Table, name: str, options: ImportOptions, lines: IntArray, *, strict: bool
) -> Stamps | None:
    """Parse the stamps of a column; None if it holds counts or, unless strict, anything else but stamps."""
    column = table.column(name).combine_chunks()
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return arrow_stamps(column)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return number_stamps(column.drop_null().to_numpy()) and number_stamps(pc.fill_null(column, 0).to_numpy())
    if _is_count(table, name) and not (plain(name) == "year" or options.timestamp_column == name):
        return None
    try:
        return parse_stamps(_texts_of(column), dayfirst=options.dayfirst, na_values=options.na_values)
    except BadCell as bad:
        if options.timestamp_column == name and _is_count(table, name):
            return None
        if not strict:
            return None
        raise _at(path, name, bad, lines) from None
    except DataError as error:
        raise DataError(f"{path}: column {name!r}: {error}") from None


def _is_count(table: pa.Table, name: str) -> bool:
    """Return True if a column holds small whole numbers: it then counts rows, steps or hours and has no stamps."""
    column = table.column(name).combine_chunks()
    if pa.types.is_integer(column.type):
        return bool((abs(pc.max(column).as_py() or 0)) < 1e7)
    if not pa.types.is_string(column.type):
        return False
    return bool(pc.all(pc.match_substring_regex(column, pattern=r"^\s*\d{1,7}(\.0*)?\s*$")).as_py())


def _joined(
    path: Path, table: pa.Table, names: tuple[str, ...], options: ImportOptions, lines: IntArray
) -> tuple[Stamps, tuple[str, ...]] | None:
    """Parse a date column together with a column of the time of day; None if the table has no such pair."""
    by_plain = {plain(name): name for name in names}
    day = next((by_plain[n] for n in ("date", "trade_date", "trading_date") if n in by_plain), None)
    clock = by_plain.get("time")
    if day is None or clock is None:
        return None
    columns = [table.column(name).combine_chunks() for name in (day, clock)]
    if not all(pa.types.is_string(c.type) for c in columns):
        return None
    if not pc.all(pc.match_substring_regex(columns[1], pattern=_CLOCK_TEXT)).as_py():
        return None
    times = pc.utf8_trim_whitespace(columns[1])
    bare = pc.match_substring_regex(times, pattern=r"^\d+$")
    if pc.any(bare).as_py():  # 93000 is 09:30:00, 930 is 09:30
        width = 4 if pc.max(pc.utf8_length(times)).as_py() <= 4 else 6
        padded = pc.utf8_lpad(times, width=width, padding="0")
        times = pc.replace_substring_regex(padded, pattern=r"^(\d\d)(\d\d)(\d\d)?$", replacement=r"\1:\2:\3")
        times = pc.replace_substring_regex(times, pattern=":$", replacement="")
    dashed = pc.replace_substring_regex(
        pc.utf8_trim_whitespace(columns[0]), pattern=r"^(\d{4})(\d\d)(\d\d)$", replacement=r"\1-\2-\3"
    )
    try:
        text = pc.binary_join_element_wise(dashed, times, " ")
        return parse_stamps(text, dayfirst=options.dayfirst, na_values=options.na_values), (day, clock)
    except BadCell as bad:
        raise _at(path, f"{day} + {clock}", bad, lines) from None
    except DataError as error:
        raise DataError(f"{path}: columns {day!r} and {clock!r}: {error}") from None


def _steps(path: Path, table: pa.Table, name: str) -> _Time:
    try:
        numbers = to_numbers(_texts_of(table.column(name)))
    except BadCell:
        numbers = None
    if numbers is None or np.isnan(numbers).any() or (numbers % 1 != 0).any():
        raise DataError(f"{path}: column {name!r} is taken for step numbers, but holds other cells; --timestamp-column "
                        "names the time.")  # fmt: skip
    return _Time(numbers.astype(np.int64), "steps", (), (name,))


# Values


def _is_row_number(table: pa.Table, name: str, notes: list[Note], path: Path) -> bool:
    """Return True for an unnamed column that counts rows: a saved index, not data."""
    if plain(name) not in ("", "index") and not plain(name).startswith("unnamed"):
        return False
    if not _is_count(table, name):
        return False
    text = f"{path.name}: column {name or 'without name'!r} only counts rows; left out"
    notes.append(Note(Code.ROW_NUMBERS_LEFT_OUT, text))
    return True


def _values(
    path: Path,
    table: pa.Table,
    pairs: list[tuple[str, str]],
    options: ImportOptions,
    lines: IntArray,
    notes: list[Note],
) -> tuple[tuple[str, ...], npt.NDArray[np.float32], dict[str, tuple[str, ...]], frozenset[str]]:
    """Return corpus names, (V, T) values, categories of text columns, and the columns without any value."""
    arrays: list[npt.NDArray[np.float32]] = []
    columns: list[str] = []
    texts: dict[str, tuple[str, ...]] = {}
    empty = set()
    for name, final in pairs:
        column = table.column(name).combine_chunks()
        try:
            numbers = None if name in options.categorical or final in options.categorical else _numbers(column, options)
        except BadCell as bad:
            raise _at(path, name, bad, lines) from None
        if numbers is not None:
            with np.errstate(over="ignore"):
                values = numbers.astype(np.float32)
            if np.isnan(values).all():
                empty.add(final)
        else:
            if _is_dates(column):
                text = f"{path.name}: column {name!r} holds dates; a date is no value, so it is left out"
                notes.append(Note(Code.DATES_LEFT_OUT, text))
                continue
            values, texts[final] = _codes(path, name, column)
        arrays.append(values)
        columns.append(final)
    duplicates = sorted({name for name in columns if columns.count(name) > 1})
    if duplicates:
        raise DataError(f"{path}: two columns would be called {duplicates[0]!r}. Keep one with --columns.")
    stacked = np.stack(arrays) if arrays else np.empty((0, table.num_rows), np.float32)
    return tuple(columns), stacked, texts, frozenset(empty)


def _numbers(column: pa.Array, options: ImportOptions) -> npt.NDArray[np.float64] | None:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return to_numbers(column.cast(pa.string()), options.na_values)
    if pa.types.is_temporal(kind):
        return None
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type)):
        raise BadCell(0, str(column[0])[:60], f"a value of type {kind}, which is neither number nor text")
    values = np.array(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    return without(values, options.na_values)


def _is_dates(column: pa.Array) -> bool:
    if pa.types.is_temporal(column.type):
        return True
    try:
        parse_stamps(_texts_of(column), dayfirst=True)
    except BadCell:
        return False
    return True


def _codes(path: Path, name: str, column: pa.Array) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Return the (T,) category code of each cell, NaN where blank, and the categories by first appearance."""
    cells = pc.utf8_trim_whitespace(_texts_of(column))
    missing = pc.is_in(pc.utf8_lower(cells), value_set=pa.array(_NO_CATEGORY), skip_nulls=True)
    cells = pc.if_else(missing, pa.scalar(None, pa.string()), cells)
    encoded = pc.dictionary_encode(cells)
    if len(encoded.dictionary) > _MAX_CATEGORIES:
        raise DataError(
            f"{path}: text column {name!r} has {len(encoded.dictionary):,} different texts; as a covariate it says "
            "nothing. Leave it out with --columns, or name it as --id-column."
        )
    return np.asarray(encoded.indices.cast(pa.float32()).fill_null(np.nan)), tuple(encoded.dictionary.to_pylist())


def _at(path: Path, column: str, bad: BadCell, lines: IntArray) -> DataError:
    return DataError(f"{path}: line {lines[bad.row]}, column {column!r}: {bad.text!r} is {bad.why}.")
