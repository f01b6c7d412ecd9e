"""Convert text cells to numbers: a cell that is neither a number nor a spelling of "missing" is an error with its row.

# T cells of a column
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from foretrain.data.importers.spellings import BadCell, DoubleArray, Spelled, cast, matches

__all__ = ["BadCell", "blank_as_null", "is_boolean", "is_number_text", "to_numbers", "without"]

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see

MISSING = (
    "", "na", "n/a", "nan", "null", "none", "-", "--", ".", "?", "#n/a", "<na>", "nat", "nil", "missing",
    "n.a.", "n.a", "n. a.", "n.d.", "n.d", "nd", "n/d", "k.a.", "k. a.", "s/d", "s.d.", "n.v.",
    "(null)", "<null>", "(blank)", "\\n", "undefined", "unknown", "no data", "not available",
    "---", "----", "\N{EN DASH}", "\N{EM DASH}", "\N{MINUS SIGN}", "..", "...", "\N{HORIZONTAL ELLIPSIS}", ":",
    "-nan", "nan(ind)", "-nan(ind)", "1.#qnan", "-1.#qnan", "1.#ind", "-1.#ind",
    "#n/a n/a", "#n/a invalid security", "#n/a field not applicable", "#n/a requesting data...",
    "#na", "#nv", "#value!", "#div/0!", "#ref!", "#name?", "#num!", "#null!", "#error!", "#wert!", "#bezug!",
)  # fmt: skip
_DIGIT = r"(?i)\p{Nd}|inf"
_NUMBER = r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$|^[-+]?(inf|infinity)$"


def blank_as_null(cells: pa.Array, na_values: tuple[str, ...] = ()) -> pa.Array:
    """Strip whitespace around cells, and replace every spelling of a missing value by null."""
    cells = pc.utf8_trim_whitespace(cells)
    spellings = pa.array([*MISSING, *(value.strip().lower() for value in na_values)])
    return pc.if_else(pc.is_in(pc.utf8_lower(cells), value_set=spellings), pa.scalar(None, pa.string()), cells)


def to_numbers(cells: pa.Array, na_values: tuple[str, ...] = (), decimal: str | None = None) -> DoubleArray | None:
    """Return (T,) float64 with NaN where missing, or None if the cells are text.

    One currency, percent signs, K/M/B, thousands marks, decimal commas and the usual spellings of a minus are accepted
    if the whole column has one format (spellings.py); decimal ("." or ",") settles one that is ambiguous.
    Raises BadCell if numbers and text are mixed, or currencies or formats, or if a comma is ambiguous.
    """
    numbers = _to_numbers(cells, na_values, decimal)
    return numbers if numbers is None else without(numbers, na_values)


def without(numbers: DoubleArray, na_values: tuple[str, ...]) -> DoubleArray:
    """Replace numbers that the user named in na_values by NaN."""
    for text in na_values:
        if is_number_text(text):
            numbers = np.where(numbers == float(text), np.nan, numbers)
    return numbers


def _to_numbers(cells: pa.Array, na_values: tuple[str, ...], decimal: str | None) -> DoubleArray | None:
    plain = decimal != "," or not pc.any(pc.match_substring(cells, ".")).as_py()
    if plain:
        try:
            return cast(cells)
        except pa.ArrowInvalid:
            pass
    cells = blank_as_null(cells, na_values)
    if plain:
        try:
            return cast(cells)
        except pa.ArrowInvalid:
            pass
    present = np.asarray(pc.is_valid(cells))
    numeric = matches(cells, "(?i)" + _NUMBER)
    if plain and (numeric == present).all():
        return cast(pc.replace_substring_regex(cells, pattern=r"^\+", replacement=""))
    if not numeric.any() and (is_boolean(cells) or 2 * matches(cells, _DIGIT).sum() <= present.sum()):
        return None
    spelled = Spelled.of(cells)
    if (spelled.reads == present).all():
        return spelled.numbers(decimal)
    if not numeric.any() and 2 * spelled.reads.sum() <= present.sum():
        return None
    row = int((present & ~spelled.reads).argmax())
    raise BadCell(row, str(cells[row]))


def is_boolean(cells: pa.Array) -> bool:
    """Return True if the cells are true and false, in any case, and at least one is not null."""
    known = pc.is_in(pc.utf8_lower(cells), value_set=pa.array(["true", "false"]))
    return bool(pc.all(pc.or_(known, pc.is_null(cells))).as_py() and pc.any(known).as_py())


def is_number_text(text: str) -> bool:
    """Return True if a cell is a plain number."""
    return bool(re.match("(?i)" + _NUMBER, text.strip()))
