"""The record of a library, library.json: where each symbol is, of which files, and where its parts begin."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from foretrain.data.cuts import OwnCuts
from foretrain.data.market.prepare import Prepared
from foretrain.data.windows import IntArray
from foretrain.errors import DataError
from foretrain.reading import read_object

FORMAT_VERSION = 1
NAME = "library.json"
UNSEEN = "unseen"
_CORPUS = re.compile(r"(unseen/)?[A-Za-z0-9][A-Za-z0-9._-]{0,60}")


@dataclass(frozen=True)
class Cuts:
    """Where the parts of a symbol without files of its own for them begin: the newest rows, or a date for all.

    The test part has `test_rows` rows, at most a quarter of the series, and the validation part before it likewise.
    """

    test_rows: int = 30
    validation_rows: int = 30
    test_from: int | None = None  # microseconds

    @classmethod
    def read(cls, tree: dict[str, Any]) -> Cuts:
        """Return the rule in library.json. Raises ValueError for what is none."""
        for key, value in tree.items():
            number = isinstance(value, int) and not isinstance(value, bool) and 0 <= abs(value) < 2**62
            if not (number or (key == "test_from" and value is None)):
                raise ValueError(f"{key} {str(value)[:100]}")
        return cls(**tree)

    def of(self, prepared: Prepared, times: IntArray) -> OwnCuts:
        """Return where validation and test begin in a series with these (T,) stamps."""
        test, validation = prepared.test_from, prepared.validation_from
        if test is None and self.test_from is not None:
            test = self.test_from if times[0] < self.test_from <= times[-1] else None
        elif test is None:
            rows = min(self.test_rows, len(times) // 4)
            test = int(times[-rows]) if rows else None
        if validation is None:
            before = len(times) if test is None else int(np.searchsorted(times, test))
            rows = min(self.validation_rows, len(times) // 4, before)
            validation = int(times[before - rows]) if rows else None
        return OwnCuts(validation, test)


@dataclass(frozen=True)
class LibraryEntry:
    """A symbol of a library."""

    set: Literal["trained", "unseen"]
    corpus: str  # folder in the library
    files: dict[str, str]  # file -> sha256

    @classmethod
    def of(cls, tree: dict[str, Any]) -> LibraryEntry:
        """Return the entry in library.json. Raises ValueError for what is none, as a folder elsewhere."""
        found = cls(**tree)
        names = [*found.files, *found.files.values()]
        if found.set not in ("trained", UNSEEN) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"an entry {str(tree)[:100]}")
        if not _CORPUS.fullmatch(found.corpus) or found.corpus.startswith(f"{UNSEEN}/") != (found.set == UNSEEN):
            raise ValueError(f"the corpus {found.corpus[:100]!r} of {found.set} symbols")
        return found


def read_library(out: Path) -> dict[str, Any]:
    """Return the record of a library. Raises DataError if it is missing, or of another format."""
    path = out / NAME
    try:
        tree = read_object(path)
    except FileNotFoundError:
        raise DataError(f"{out}: no library to update ({NAME} is missing). Leave --update out to build one.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}. Build the library anew.") from None
    if tree.get("format_version") != FORMAT_VERSION:
        raise DataError(f"{path}: of another format than {FORMAT_VERSION}. Build the library anew.")
    return tree
