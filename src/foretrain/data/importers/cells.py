"""Convert text cells to numbers: a cell that is neither a number nor a spelling of "missing" is an error with its row.

# T cells of a column
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see
DoubleArray = npt.NDArray[np.float64]

MISSING = ("", "na", "n/a", "nan", "null", "none", "-", "--", ".", "?", "#n/a", "<na>", "nat", "nil", "missing")
_NUMBER = r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$|^[-+]?(inf|infinity)$"
_THOUSANDS = r"^[-+]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?$"
_DECIMAL_COMMA = r"^[-+]?([0-9]+|[0-9]{1,3}(\.[0-9]{3})+)(,[0-9]+)?$"
_SCALED = r"^[-+]?[0-9]+(\.[0-9]+)?[KMBkmb%]$"
_SCALES = {"k": 1e3, "m": 1e6, "b": 1e9, "%": 1.0}


class BadCell(Exception):
    """A cell that no interpretation of its column allows. row counts from 0."""

    def __init__(self, row: int, text: str, why: str = "text in a number column") -> None:
        super().__init__(why)
        self.row, self.text, self.why = row, text, why


def blank_as_null(cells: pa.Array, na_values: tuple[str, ...] = ()) -> pa.Array:
    """Strip whitespace around cells, and replace every spelling of a missing value by null."""
    cells = pc.utf8_trim_whitespace(cells)
    spellings = pa.array([*MISSING, *(value.strip().lower() for value in na_values)])
    return pc.if_else(pc.is_in(pc.utf8_lower(cells), value_set=spellings), pa.scalar(None, pa.string()), cells)


def to_numbers(cells: pa.Array, na_values: tuple[str, ...] = ()) -> DoubleArray | None:
    """Return (T,) float64 with NaN where missing, or None if no cell is a number, so that the column is text.

    Thousands separators, decimal commas, K/M/B and percent suffixes are accepted if the whole column has one format.
    Raises BadCell if numbers and text are mixed, or if a comma is ambiguous.
    """
    numbers = _to_numbers(cells, na_values)
    return numbers if numbers is None else without(numbers, na_values)


def without(numbers: DoubleArray, na_values: tuple[str, ...]) -> DoubleArray:
    """Replace numbers that the user named in na_values by NaN."""
    for text in na_values:
        if is_number_text(text):
            numbers = np.where(numbers == float(text), np.nan, numbers)
    return numbers


def _to_numbers(cells: pa.Array, na_values: tuple[str, ...]) -> DoubleArray | None:
    try:
        return _cast(cells)
    except pa.ArrowInvalid:
        pass
    cells = blank_as_null(cells, na_values)
    try:
        return _cast(cells)
    except pa.ArrowInvalid:
        pass
    cells = pc.replace_substring_regex(cells, pattern=r"^\+", replacement="")
    numeric = _matches(cells, "(?i)" + _NUMBER)
    present = np.asarray(pc.is_valid(cells))
    if (numeric == present).all():
        return _cast(cells)
    special = _booleans(cells) if not numeric.any() else None
    if special is None:
        special = _commas(cells, numeric, present)
    if special is None and (numeric | _matches(cells, _SCALED))[present].all():
        special = _scaled(cells)
    if special is not None:
        return special
    if not numeric.any():
        return None
    row = int((present & ~numeric).argmax())
    raise BadCell(row, str(cells[row]))


def _cast(cells: pa.Array) -> DoubleArray:
    return np.asarray(pc.cast(cells, pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _matches(cells: pa.Array, pattern: str) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.fill_null(pc.match_substring_regex(cells, pattern=pattern), False))


def _booleans(cells: pa.Array) -> DoubleArray | None:
    lower = pc.utf8_lower(cells)
    known = pc.is_in(lower, value_set=pa.array(["true", "false"]), skip_nulls=True)
    if not np.asarray(pc.or_(known, pc.is_null(cells))).all():
        return None
    return _cast(pc.cast(pc.equal(lower, "true"), pa.int8()))


def _commas(cells: pa.Array, numeric: npt.NDArray[np.bool_], present: npt.NDArray[np.bool_]) -> DoubleArray | None:
    """Read 1,234.50 or 1.234,50 or 1,5 by the format that fits every cell; BadCell if both do."""
    if not pc.any(pc.match_substring(cells, ",")).as_py():
        return None
    thousands = (numeric | _matches(cells, _THOUSANDS))[present].all()
    decimal = _matches(cells, _DECIMAL_COMMA)[present].all()
    if thousands and decimal:
        row = int(_matches(cells, ",").argmax())
        raise BadCell(row, str(cells[row]), "a comma that may part thousands or decimals; write the numbers without it")
    if thousands:
        return _cast(pc.replace_substring(cells, ",", ""))
    if decimal:
        return _cast(pc.replace_substring(pc.replace_substring(cells, ".", ""), ",", "."))
    return None


def _scaled(cells: pa.Array) -> DoubleArray:
    """Read 12.5M, 3K, 0.5%; the percent sign is dropped without scaling."""
    factors = [_SCALES.get(str(text)[-1:].lower(), 1.0) for text in cells.to_pylist()]
    return _cast(pc.replace_substring_regex(cells, pattern="[KMBkmb%]$", replacement="")) * np.array(factors)


def is_number_text(text: str) -> bool:
    """Return True if a cell is a plain number."""
    return bool(re.match("(?i)" + _NUMBER, text.strip()))
