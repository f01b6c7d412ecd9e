"""A table of a file before its columns are read: cells, line numbers, and where notes about it go.

# T rows
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from foretrain.data.importers.cells import BadCell
from foretrain.data.importers.facts import TableFacts
from foretrain.data.importers.options import ImportOptions
from foretrain.data.windows import IntArray
from foretrain.errors import DataError
from foretrain.notes import Code, Note

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see

_COUNT = r"^\s*\d{1,7}(\.0*)?\s*$"
_FEW = 16  # cells that tell most columns of other things


def is_text(kind: pa.DataType) -> bool:
    """Return True for the types of text cells."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


@dataclass(frozen=True)
class RawTable:
    """Cells of one table. given_lines: (T,) line of each row, None where rows count from 1.

    folder: the folder whose files, in subfolders named key=value, are one table; facts: what becomes of the columns,
    filled in while they are read.
    """

    path: Path
    cells: pa.Table
    options: ImportOptions
    notes: list[Note]
    given_lines: IntArray | None = None
    facts: TableFacts = field(default_factory=TableFacts)
    folder: str | None = None

    @property
    def item_id(self) -> str:
        """The item of a table without an id column: the name of its file, or of the folder that it is a part of."""
        if self.folder is not None and self.options.id_pattern is None:
            return self.folder
        return self.options.item_id(self.path)

    @cached_property
    def lines(self) -> IntArray:
        """Line number (T,) of each row, for messages; rows count from 1 where a file has no lines."""
        if self.given_lines is not None:
            return self.given_lines
        return np.arange(self.cells.num_rows, dtype=np.int64) + 1

    def column(self, name: str) -> pa.Array:
        """Return the cells (T,) of a column in the type of the file."""
        column = self.cells.column(name)
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which copies even one chunk

    def texts(self, name: str) -> pa.Array:
        """Return the cells (T,) of a column as text; integers in decimal."""
        array = self.column(name)
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        try:
            return array.cast(pa.string())
        except pa.ArrowException:
            raise DataError(
                f"{self.path}: column {name!r} holds {array.type}, which is no text. Leave it out with --columns."
            ) from None

    def is_count(self, name: str) -> bool:
        """Return True if a column holds small whole numbers: it then counts rows, steps or hours and has no stamps."""
        column = self.column(name)
        if pa.types.is_integer(column.type):
            return bool((abs(pc.max(column).as_py() or 0)) < 1e7)
        if not is_text(column.type):
            return False
        few = pc.match_substring_regex(column[:_FEW], pattern=_COUNT)
        if pc.all(few).as_py() is False:
            return False
        return bool(pc.all(pc.match_substring_regex(column, pattern=_COUNT)).as_py())

    def note(self, code: Code, text: str) -> None:
        """Add a note that begins with the file's name."""
        self.notes.append(Note(code, f"{self.path.name}: {text}"))

    def error(self, column: str, bad: BadCell) -> DataError:
        """Return the error of a cell."""
        return DataError(f"{self.path}: line {self.lines[bad.row]}, column {column!r}: {bad.text!r} is {bad.why}.")
