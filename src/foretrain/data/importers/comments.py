"""Comments at the top of a text file: lines that begin with #, of which the last may be the header."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from foretrain.notes import Code, Note, counted

_COMMENTS = re.compile(rb"\s*(?:#[^\n]*(?:\n|$)\s*)+")
_NUMBER = re.compile(r"\s*[-+]?\d[\d.,:/\- ]*")  # of a date or a time as well
_SEPARATORS = ",;\t|"


def skip_comments(path: Path, data: bytes, notes: list[Note], *, header: bool) -> tuple[bytes, int]:
    """Return the text and how many of its first lines are no part of the table.

    header: the table has one. It is a comment itself if a comment has as many cells as the first other line, which
    holds data; the text then has it, without its #, right before the data.
    """
    found = _COMMENTS.match(data)
    if found is None:
        return data, 0
    above = found[0].decode("utf-8").splitlines()
    below = data[found.end() :].decode("utf-8", errors="replace").split("\n", 1)[0]
    names = _header_among(above, below) if header else None
    count = len(above) - (names is not None)
    if count:
        first = above[0].strip()[:80]
        text = f"{path.name}: {counted(count, 'line')} of comments before the header skipped, first {first!r}"
        notes.append(Note(Code.LINES_SKIPPED, text, {"lines": count}))
    if names is None:
        return data, count
    return "\n".join([*above[:-1], names, ""]).encode() + data[found.end() :], count


def _header_among(above: list[str], below: str) -> str | None:
    """Return the last comment that can name the cells of the line below, most of which must be numbers."""
    for separator in _SEPARATORS:
        cells = next(csv.reader([below], delimiter=separator), [])
        if len(cells) < 2 or 2 * sum(map(bool, map(_NUMBER.fullmatch, cells))) <= len(cells):
            continue
        for line in reversed(above):
            names = line.strip().removeprefix("#")
            if len(next(csv.reader([names], delimiter=separator), [])) == len(cells):
                return names.strip(" ")
    return None
