"""TableValues of a table: its columns as numbers, and the categories of text columns.

# V columns, T rows
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from foretrain.data.importers.cells import BadCell, to_numbers, without
from foretrain.data.importers.columns import plain
from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.raw_table import RawTable
from foretrain.data.importers.stamps import parse_stamps
from foretrain.errors import DataError
from foretrain.notes import Code

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see

_MAX_CATEGORIES = 10_000
_NO_CATEGORY = ("", "nan", "<na>", "null", "#n/a")


@dataclass(frozen=True)
class TableValues:
    """Value columns of a table. texts: categories of text columns; empty: columns without any value."""

    columns: tuple[str, ...]  # names in the corpus
    values: npt.NDArray[np.float32]  # (V, T); text columns hold indices into texts[column]
    texts: dict[str, tuple[str, ...]]
    empty: frozenset[str]


def is_row_number(table: RawTable, name: str) -> bool:
    """Return True, with a note, for an unnamed column that counts rows: a saved index, not data."""
    if plain(name) not in ("", "index") and not plain(name).startswith("unnamed"):
        return False
    if not table.is_count(name):
        return False
    table.note(Code.ROW_NUMBERS_LEFT_OUT, f"column {name or 'without name'!r} only counts rows; left out")
    return True


def read_values(table: RawTable, pairs: list[tuple[str, str]]) -> TableValues:
    """Read the columns `pairs` of (name in the file, name in the corpus). Raises DataError naming line and column."""
    arrays: list[npt.NDArray[np.float32]] = []
    columns: list[str] = []
    texts: dict[str, tuple[str, ...]] = {}
    empty = set()
    categorical = table.options.categorical
    for name, final in pairs:
        try:
            numbers = (
                None if name in categorical or final in categorical else _numbers(table.column(name), table.options)
            )
        except BadCell as bad:
            raise table.error(name, bad) from None
        if numbers is not None:
            with np.errstate(over="ignore"):
                values = numbers.astype(np.float32)
            if np.isnan(values).all():
                empty.add(final)
        else:
            if _is_dates(table, name):
                table.note(Code.DATES_LEFT_OUT, f"column {name!r} holds dates; a date is no value, so it is left out")
                continue
            values, texts[final] = _codes(table, name)
        arrays.append(values)
        columns.append(final)
    duplicates = sorted({name for name in columns if columns.count(name) > 1})
    if duplicates:
        raise DataError(f"{table.path}: two columns would be called {duplicates[0]!r}. Keep one with --columns.")
    stacked = np.stack(arrays) if arrays else np.empty((0, table.cells.num_rows), np.float32)
    return TableValues(tuple(columns), stacked, texts, frozenset(empty))


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


def _is_dates(table: RawTable, name: str) -> bool:
    if pa.types.is_temporal(table.column(name).type):
        return True
    try:
        parse_stamps(table.texts(name), dayfirst=True)
    except BadCell:
        return False
    return True


def _codes(table: RawTable, name: str) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Return the (T,) category code of each cell, NaN where blank, and the categories by first appearance."""
    cells = pc.utf8_trim_whitespace(table.texts(name))
    missing = pc.is_in(pc.utf8_lower(cells), value_set=pa.array(_NO_CATEGORY), skip_nulls=True)
    cells = pc.if_else(missing, pa.scalar(None, pa.string()), cells)
    encoded = pc.dictionary_encode(cells)
    if len(encoded.dictionary) > _MAX_CATEGORIES:
        raise DataError(
            f"{table.path}: text column {name!r} has {len(encoded.dictionary):,} different texts; as a covariate it "
            "says nothing. Leave it out with --columns, or name it as --id-column."
        )
    return np.asarray(encoded.indices.cast(pa.float32()).fill_null(np.nan)), tuple(encoded.dictionary.to_pylist())
