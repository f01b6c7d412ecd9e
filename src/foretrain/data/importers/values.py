"""Values of a table: its columns as numbers, and the categories of text columns.

# V columns, T rows
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from foretrain.data.importers.categories import BOOLEAN, MANY_CATEGORIES
from foretrain.data.importers.cells import BadCell, blank_as_null, is_boolean, to_numbers, without
from foretrain.data.importers.columns import USUAL_ORDER, plain
from foretrain.data.importers.marks import comma_row, dotted_row, holds, leads, refuse_thousands, thousands_or_decimals
from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.raw_table import RawTable, is_text
from foretrain.data.importers.spellings import matches
from foretrain.data.importers.stamps import parse_stamps
from foretrain.data.importers.time_names import is_saved_index
from foretrain.errors import DataError
from foretrain.notes import Code

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see

_NO_CATEGORY = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
# As pandas.read_csv has it, so that frames and files agree.
_CODE = r"^\s*0\d{3,}\s*$"
_CODES = 256  # cells among which codes such as 0012 show
_LEAST_LOST, _LOST_SHARE = 3, 0.1
_QUANTITY = r"^[-+]?[<>~≈≤≥▲▼]?\s?[-+]?(?:\d+(?:[.,]\d+)?|[.,]\d+)\s?([^\d\s.,:/'_-][^\d]{0,15})?$"
_MANY_QUANTITIES, _FEW_UNITS = 10, 8
_TARGETS = ("target", "y", "value", "price", "close", "adj_close", "volume")  # names of numbers in any table


@dataclass(frozen=True)
class TableValues:
    """Value columns of a table. texts: categories of text columns; empty: columns without any value.

    explicit: text columns that the user calls categorical.
    """

    columns: tuple[str, ...]  # names in the corpus
    values: npt.NDArray[np.float32]  # (V, T); text columns hold indices into texts[column]
    texts: dict[str, tuple[str, ...]]
    empty: frozenset[str]
    explicit: frozenset[str] = frozenset()
    marks: dict[str, str] = field(default_factory=dict)  # column -> "%" if its numbers have it, "" if not


def is_row_number(table: RawTable, name: str) -> bool:
    """Return True, with a note, for an unnamed column that counts rows: a saved index, not data."""
    if not is_saved_index(plain(name)) or not table.is_count(name) or not _is_index(table, name):
        return False
    table.note(Code.ROW_NUMBERS_LEFT_OUT, f"column {name or 'without name'!r} only counts rows; left out")
    return True


def _is_index(table: RawTable, name: str) -> bool:
    """Return True for whole numbers that count rows, of the table or of each item; under "index" they must ascend."""
    numbers = to_numbers(table.texts(name))
    if numbers is None:
        return True
    steps = np.diff(numbers)
    if plain(name) == "index":  # which may be that of prices
        return bool((steps > 0).all())
    counts = np.unique(numbers, return_counts=True)[1]
    return bool((counts == counts[0]).all() or (steps == 1).mean() > 0.5)


def read_values(table: RawTable, pairs: list[tuple[str, str]], *, text_alone: bool = False) -> TableValues:
    """Read the columns `pairs` of (name in the file, name in the corpus). Raises DataError naming line and column.

    text_alone: a table without one number is no error.
    """
    reader = _ColumnReader(table, [final for _, final in pairs])
    for name, final in pairs:
        reader.add(name, final)
    return reader.result(text_alone=text_alone)


class _ColumnReader:
    """Reads the columns of a table one after the other."""

    def __init__(self, table: RawTable, finals: list[str]) -> None:
        self.table = table
        names = (*_TARGETS, *(USUAL_ORDER if "close" in finals else ()), *table.options.target)
        self.numbers_expected = {plain(name) for name in names}
        self.arrays: list[npt.NDArray[np.float32]] = []
        self.columns: list[str] = []
        self.texts: dict[str, tuple[str, ...]] = {}
        self.empty, self.explicit = set[str](), set[str]()
        self.first_text: str | None = None  # a column, for the message about a table without numbers
        self.numbers = False  # a column holds numbers, or true and false
        self.marks = dict[str, str]()
        self.dotted: tuple[str, int] | None = None  # a column and row like 1.234 without other decimals
        self.comma: tuple[str, int] | None = None  # a column and row with a decimal comma

    def add(self, name: str, final: str) -> None:
        """Read one column: numbers, categories, or a note that it is left out."""
        column, categorical = self.table.column(name), self.table.options.categorical
        if (name in categorical or final in categorical) and not pa.types.is_nested(column.type):
            self.explicit.add(final)
            self._add_text(name, final)
            return
        try:
            numbers = _numbers(column, self.table.options)
        except BadCell as bad:
            raise self._error(name, bad) from None
        if numbers is None and _is_dates(self.table, name):
            text = f"column {name!r} holds dates; a date is no value, so it is left out"
            self.table.note(Code.DATES_LEFT_OUT, text)
            return
        if numbers is None:
            self._add_text(name, final)
            return
        self._note_marks(name, column)
        if not np.isnan(numbers).all():
            text = pa.types.is_string(column.type) and holds(column, "%")
            percent = text and matches(column[:_CODES], r"%\s*$").any()
            self.marks[final] = "%" if percent else ""
        first = column[:_CODES]
        if pa.types.is_string(column.type) and leads(first, "0 ") and matches(first, _CODE).any():
            row = int(matches(column, _CODE).argmax())
            self.table.note(
                Code.LEADING_ZEROS,
                f"column {name!r}: cells like {str(column[row]).strip()!r} are read as numbers; --categorical {name} "
                "keeps them as codes",
            )
        with np.errstate(over="ignore"):
            values = numbers.astype(np.float32)
        self._tell_lost_digits(name, numbers, values)
        if np.isnan(values).all():
            self.empty.add(final)
        else:
            self.numbers = True
        self._append(final, values)

    def _tell_lost_digits(self, name: str, numbers: npt.NDArray[np.float64], values: npt.NDArray[np.float32]) -> None:
        """Note a column in which neighbours that differ are equal as float32, in more than one of ten places."""
        same = values[1:] == values[:-1]
        if not same.any():
            return
        changes = numbers[1:] != numbers[:-1]
        changes &= ~(np.isnan(numbers[1:]) | np.isnan(numbers[:-1]))
        lost = int((changes & same).sum())
        if lost >= _LEAST_LOST and lost > _LOST_SHARE * changes.sum():
            row = int((changes & same).argmax())
            self.table.note(
                Code.DIGITS_LOST,
                f"column {name!r}: {lost:,} of {int(changes.sum()):,} changes from row to row vanish, since values "
                f"have 24 bits (about 7 digits): {numbers[row]:.17g} and {numbers[row + 1]:.17g} become "
                f"{values[row]:.9g}. Subtract a constant, or store the changes",
            )

    def _note_marks(self, name: str, column: pa.Array) -> None:
        """Remember the first columns whose cells show decimal commas, or dots that may part thousands."""
        text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        if not text or self.table.options.decimal is not None or self.table.path.suffix.lower() in (".xlsx", ".xlsm"):
            return  # numbers of a workbook have dots beside any text
        if self.comma is None and (row := comma_row(column)) is not None:
            self.comma = (name, row)
        elif self.dotted is None and (row := dotted_row(column)) is not None:
            self.dotted = (name, row)

    def _refuse_marks(self) -> None:
        """Raise DataError if a table has decimal commas in one column and cells like 1.234 alone in another."""
        if self.dotted is None or self.comma is None:
            return
        (name, row), (other, at) = self.dotted, self.comma
        cells = self.table.texts(name)
        why = f"and column {other!r} has decimal commas ({str(self.table.texts(other)[at]).strip()})"
        raise self.table.error(name, thousands_or_decimals(cells, row, why))

    def _add_text(self, name: str, final: str) -> None:
        cells = _text_cells(self.table, name)
        filled = blank_as_null(cells, self.table.options.na_values)
        boolean = is_boolean(filled)
        if final not in self.explicit and self.numbers_expected & {plain(name), plain(final)}:
            row = int(np.asarray(pc.is_valid(cells)).argmax())
            kind = "true and false are categories; write 1 and 0" if boolean else "text in a column of numbers"
            raise self._error(name, BadCell(row, str(cells[row]), kind), text=not boolean)
        if boolean:
            self.numbers = True
            self.texts[final] = BOOLEAN
            numbers = pc.cast(pc.equal(pc.utf8_lower(filled), "true"), pa.int8())
            self._append(final, np.asarray(numbers.cast(pa.float32()).fill_null(np.nan)))
            return
        self.first_text = self.first_text or name
        if final not in self.explicit and (row := _quantity_row(filled)) is not None:
            text = f"column {name!r}: numbers with a unit or a mark ({str(cells[row])!r}); left out. Write the numbers"
            self.table.note(Code.TEXT_LEFT_OUT, f"{text} alone, or keep the texts with --categorical {name}")
            return
        encoded = pc.dictionary_encode(cells)
        found, values = encoded.dictionary, np.asarray(encoded.indices.cast(pa.float32()).fill_null(np.nan))
        if final not in self.explicit and len(found) > MANY_CATEGORIES:
            found = found[: MANY_CATEGORIES + 1]  # enough for the column to be left out
            values = np.where(values < len(found), values, np.float32(np.nan))
        self.texts[final] = tuple(found.to_pylist())
        self._append(final, values)

    def _append(self, final: str, values: npt.NDArray[np.float32]) -> None:
        if final in self.columns:
            raise DataError(f"{self.table.path}: two columns would be called {final!r}. Keep one with --columns.")
        self.arrays.append(values)
        self.columns.append(final)

    def _error(self, name: str, bad: BadCell, *, text: bool = True) -> DataError:
        error = str(self.table.error(name, bad))
        if not text or not bad.why.startswith("text"):
            return DataError(error)
        return DataError(
            f"{error} If it says that a value is missing, give --na-values {bad.text!r}; if the whole column is text, "
            f"--categorical {name!r}; --columns leaves it out."
        )

    def result(self, *, text_alone: bool) -> TableValues:
        """Return all columns. Raises DataError if there is text, but not one number, unless text_alone."""
        table = self.table
        self._refuse_marks()
        if not text_alone and self.first_text is not None and not self.numbers and not self.empty:
            cells = _text_cells(table, self.first_text)
            row = int(np.asarray(pc.is_valid(cells)).argmax())
            raise DataError(
                f"{table.path}: no column holds a number. Line {table.lines[row]}, column {self.first_text!r}, is "
                f"{_short(cells[row])}. If this is the right file, --skip-rows says where its table begins."
            )
        stacked = np.stack(self.arrays) if self.arrays else np.empty((0, table.cells.num_rows), np.float32)
        empty, explicit = frozenset(self.empty), frozenset(self.explicit)
        return TableValues(tuple(self.columns), stacked, self.texts, empty, explicit, self.marks)


def _quantity_row(cells: pa.Array) -> int | None:
    """Return the first row like 12.5 kWh if all cells are such numbers, some with decimals, and many are different."""
    present = cells.drop_null()
    if len(present) <= _MANY_QUANTITIES or not pc.all(pc.match_substring_regex(present[:64], _QUANTITY)).as_py():
        return None
    different = pc.unique(present)
    if len(different) <= _MANY_QUANTITIES or not pc.all(pc.match_substring_regex(different, _QUANTITY)).as_py():
        return None
    units = pc.unique(pc.replace_substring_regex(different, pattern=r"[-+\d.,\s]", replacement=""))
    decimals = pc.any(pc.match_substring_regex(different, r"\d[.,]\d")).as_py()
    return int(np.asarray(pc.is_valid(cells)).argmax()) if decimals and len(units) <= _FEW_UNITS else None


def _short(cell: Any) -> str:
    text = str(cell)
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _text_cells(table: RawTable, name: str) -> pa.Array:
    """Return the cells (T,) of a text column, null where a value is missing."""
    cells = pc.utf8_trim_whitespace(table.texts(name))
    missing = pa.array([*_NO_CATEGORY, *(value.strip() for value in table.options.na_values)])
    return pc.if_else(pc.is_in(cells, value_set=missing, skip_nulls=True), pa.scalar(None, pa.string()), cells)


def _numbers(column: pa.Array, options: ImportOptions) -> npt.NDArray[np.float64] | None:
    """Return the numbers (T,) of a column, None if it holds text, dates, or true and false."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if pa.types.is_null(kind) or is_text(kind):
        cells = column.cast(pa.string())
        numbers = to_numbers(cells, options.na_values, options.decimal)
        if numbers is not None:
            refuse_thousands(cells, options.decimal)
        return numbers
    if pa.types.is_temporal(kind) or pa.types.is_boolean(kind):
        return None
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        row = int(np.asarray(pc.is_valid(column)).argmax())
        raise BadCell(
            row,
            str(column[row])[:60],
            f"a value of type {str(kind)[:60]}, neither number nor text; leave it out with --columns",
        )
    values = np.array(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    return without(values, options.na_values)


def read_numbers(table: RawTable, name: str) -> npt.NDArray[np.float64]:
    """Return a column (T,) that must hold numbers, NaN where missing. Raises DataError naming line and cell."""
    try:
        numbers = _numbers(table.column(name), table.options)
        if numbers is None:
            texts = table.texts(name)
            row = int(np.asarray(pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(texts), ""), False)).argmax())
            raise BadCell(row, str(texts[row]))
    except BadCell as bad:
        raise table.error(name, bad) from None
    return numbers


def _is_dates(table: RawTable, name: str) -> bool:
    if pa.types.is_temporal(table.column(name).type):
        return True
    try:
        parse_stamps(table.texts(name), dayfirst=True)
    except BadCell:
        return False
    except DataError:  # dates in an order that no row decides
        return True
    return True
