"""Text columns of an import: codes that are common to all files, and which columns are worth keeping.

A text column is a covariate only if its texts come back: a model knows a category by the values that it saw with it
before, and windows hold at most some thousand rows. Columns of names, comments and links are left out.

# V columns of a part, T rows
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import numpy.typing as npt

from foretrain.errors import DataError
from foretrain.notes import Code, Note

BOOLEAN = ("False", "True")  # in this order, so that the codes are the numbers 0 and 1
MANY_CATEGORIES = 1_000  # each occurs eight times in a context of 8,192 rows, which are long ones
_FEW_CATEGORIES = 10  # a category each in the shortest tables, where nothing can be said about repetition


class Categories:
    """Codes of the categories of each text column, numbered by first appearance over all files."""

    def __init__(self) -> None:
        self._codes: dict[str, dict[str, int]] = {}
        self._cells: Counter[str] = Counter()  # column -> cells that are not blank
        self._numeric: dict[str, str] = {}  # column -> file that holds numbers in it
        self._textual: dict[str, str] = {}
        self._beyond_one: dict[str, str] = {}  # column -> file that holds other numbers than 0 and 1 in it
        self._explicit: set[str] = set()

    @property
    def codes(self) -> Mapping[str, dict[str, int]]:
        """Column -> category -> its code, for the columns that hold text."""
        return self._codes

    def keep(self, names: Iterable[str]) -> None:
        """Keep these columns, however many categories they have."""
        self._explicit.update(names)

    def recode(
        self, values: npt.NDArray[np.float32], columns: Mapping[str, tuple[str, ...] | None], file: str
    ) -> npt.NDArray[np.float32]:
        """Return the values (V, T) of a file with codes that are common to all files.

        columns: name of each column -> the categories that its values count, () if it is empty, None for numbers.
        Raises DataError if a column has text here and numbers in another file. True and false beside the numbers 0 and
        1 are those numbers.
        """
        given = values
        for v, (name, texts) in enumerate(columns.items()):
            if texts is None:
                self._add_numbers(name, values[v], file)
            elif texts and name not in self._numeric:
                values = values.copy() if values is given else values
                values[v] = self._add_texts(name, texts, values[v], file)
            elif texts and (texts != BOOLEAN or name in self._beyond_one):
                raise _mixed(name, self._beyond_one.get(name, self._numeric[name]), file)
        return values

    def _add_numbers(self, name: str, values: npt.NDArray[np.float32], file: str) -> None:
        self._numeric.setdefault(name, file)
        if name not in self._beyond_one and not _zero_or_one(values):
            self._beyond_one[name] = file
        if name not in self._textual:
            return
        if tuple(self._codes[name]) != BOOLEAN or name in self._beyond_one:
            raise _mixed(name, file, self._textual[name])
        del self._codes[name], self._textual[name]

    def _add_texts(
        self, name: str, texts: tuple[str, ...], values: npt.NDArray[np.float32], file: str
    ) -> npt.NDArray[np.float32]:
        self._textual.setdefault(name, file)
        known = self._codes.setdefault(name, {})
        if len(known) > MANY_CATEGORIES and name not in self._explicit:
            return values  # the column will be left out; collecting texts would cost memory
        present = ~np.isnan(values)
        self._cells[name] += int(present.sum())
        codes = np.array([known.setdefault(text, len(known)) for text in texts], np.float32)
        values[present] = codes[values[present].astype(np.int64)]
        return values

    def settle(self, old: Collection[str] | None) -> tuple[set[str], list[Note]]:
        """Return the text columns to leave out, and a note on every text column.

        old: columns of the corpus that is updated, which all stay and of which there are no others; None without one.
        """
        left_out, notes = set[str](), list[Note]()
        for name, known in self._codes.items():
            count, cells = len(known), self._cells[name]
            counts = {"categories": count, "cells": cells}
            if name in (old or ()) or (old is None and (name in self._explicit or recurs(count, cells))):
                kind = "true and false" if tuple(known) == BOOLEAN else "text"
                text = f"column {name!r}: {kind}, {count:,} categor{'y' if count == 1 else 'ies'}{_examples(known)}"
                notes.append(Note(Code.TEXT_AS_CATEGORIES, text, counts))
                continue
            left_out.add(name)
            why = (
                "text that the corpus lacks"
                if old is not None
                else f"text, more than {MANY_CATEGORIES:,} different cells"
                if count > MANY_CATEGORIES
                else f"text, {count:,} different of {cells:,} cells"
            )
            way = "" if old is not None else f"; --categorical {name} keeps it"
            notes.append(Note(Code.TEXT_LEFT_OUT, f"column {name!r}: {why}; left out{way}", counts))
        return left_out, notes


def recurs(count: int, cells: int) -> bool:
    """Return True if categories come back: on average each occurs twice, and there are not too many for a context."""
    return count <= MANY_CATEGORIES and count <= max(_FEW_CATEGORIES, cells // 2)


def _examples(known: Iterable[str]) -> str:
    """Return the first categories, and two that differ only in case or blanks, for a note."""
    names = list(known)
    if tuple(names) == BOOLEAN:
        return ""
    shown = ", ".join(repr(name if len(name) <= 24 else name[:21] + "...") for name in names[:3])
    pair = alike(names)
    return f" ({shown}{', ...' if len(names) > 3 else ''})" + (
        f"; {pair[0]!r} and {pair[1]!r} differ only in case or blanks" if pair else ""
    )


def alike(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two texts that differ only in case and blanks, None without any."""
    seen: dict[str, str] = {}
    for name in names:
        before = seen.setdefault(" ".join(name.casefold().split()), name)
        if before != name:
            return before, name
    return None


def _zero_or_one(values: npt.NDArray[np.float32]) -> bool:
    """Return True if all values are 0, 1 or NaN; the first ones decide for most columns."""
    return all(bool(((v == 0) | (v == 1) | np.isnan(v)).all()) for v in (values[:16], values))


def _mixed(name: str, numbers: str, words: str) -> DataError:
    return DataError(
        f"column {name!r} holds numbers in {numbers} and text in {words}. Leave it out with --columns, or say that it "
        "is --categorical."
    )
