"""Dots that may part thousands: 1.234 is a plain number, but not beside 5 and 12, nor in a table with decimal commas.

# T cells of a column
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from foretrain.data.importers.spellings import BadCell, matches

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see

_DOTTED = r"^\s*[-+]?[1-9]\d{0,2}\.\d{3}\s*$"
_WHOLE = r"^\s*[-+]?\d{1,3}(?:[\p{Zs},'\x{2019}]\d{3})*\s*$"  # thousands with another mark are a second format
_COMMA = r"^[^,]*\d,(\d{1,2}|\d{4,})(\D[^,]*)?$"  # a comma that can only be a decimal mark
_OTHER_DOT = re.compile(rf"(?!{_DOTTED}).*\d\.", re.ASCII)
_FIRST = 8  # cells that decide for nearly all columns, at least cost
_SAMPLE = 64  # cells that decide for most columns
_FEWEST = 3  # cells such as 1.234, of which fewer say nothing


def dotted_row(cells: pa.Array) -> int | None:
    """Return the first row like 1.234 if every cell with a dot is like it, so that dots may part thousands."""
    first = (cells[row].as_py() for row in range(min(_FIRST, len(cells))))
    if any(cell and _OTHER_DOT.match(cell) for cell in first) or not holds(cells, "."):
        return None
    for part in (cells[:_SAMPLE], cells[: _SAMPLE**2], cells):
        dots, like = matches(part, r"\d\."), matches(part, _DOTTED)
        if (dots & ~like).any():
            return None
    return int(like.argmax()) if like.sum() >= _FEWEST else None


def comma_row(cells: pa.Array) -> int | None:
    """Return the first row in which a comma can only be a decimal mark, as in 1,5."""
    if not holds(cells, ","):
        return None
    found = matches(cells, _COMMA)
    return int(found.argmax()) if found.any() else None


def holds(cells: pa.Array, mark: str) -> bool:
    """Return False if no cell holds a mark of one byte; looks at the bytes of all cells at once, which is fast."""
    data = cells.buffers()[2]
    return data is not None and bool((np.frombuffer(data, np.uint8) == ord(mark)).any())


def leads(cells: pa.Array, marks: str) -> bool:
    """Return False if no cell (of type string) begins with one of the marks of one byte."""
    _, places, data = cells.buffers()
    if data is None or not len(cells):
        return False
    starts = np.frombuffer(places, np.int32)[cells.offset : cells.offset + len(cells)]
    text = np.frombuffer(data, np.uint8)
    first = text[starts[starts < len(text)]]
    return any(bool((first == ord(mark)).any()) for mark in marks)


def refuse_thousands(cells: pa.Array, decimal: str | None) -> None:
    """Raise BadCell if a column that reads as decimals has 1.234 and 12.345 beside 5, 12 and 1 234, but never 1.5.

    Programs that write three decimals write 5.000, and those that drop zeros write 1.5 as well.
    """
    if decimal is not None or (row := dotted_row(cells)) is None:
        return
    whole = matches(cells, _WHOLE)
    other = matches(cells, r"\d") & ~whole & ~matches(cells, _DOTTED)
    small = whole & matches(cells, "[1-9]")
    if small.any() and not other.any():
        example = str(cells[int(small.argmax())]).strip()
        raise thousands_or_decimals(cells, row, f"since {example!r} has no decimals")


def thousands_or_decimals(cells: pa.Array, row: int, why: str) -> BadCell:
    """Return the error of a cell whose dot is either mark."""
    text = str(cells[row]).strip()
    number = np.float64(text)
    return BadCell(
        row,
        text,
        f"a number with a dot that may part thousands ({number * 1000:.15g}) or decimals ({number:.15g}), {why}; say "
        "--decimal . or --decimal ,",
    )
