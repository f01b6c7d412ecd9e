"""Comments at the top of a file are skipped; the last one may be the header."""

from __future__ import annotations

from pathlib import Path

import pytest

from foretrain.data.importers.comments import skip_comments
from foretrain.notes import Code, Note

ROWS = "2024-01-01,1.5\n2024-01-02,2.5\n"


@pytest.mark.parametrize(
    ("text", "table", "skipped"),
    [
        ("date,v\n" + ROWS, "date,v\n" + ROWS, 0),
        ("# measured\ndate,v\n" + ROWS, "date,v\n" + ROWS, 1),
        ("# a, b\n\n  # c\n\ndate,v\n" + ROWS, "date,v\n" + ROWS, 4),
        ("#date,v\n" + ROWS, "date,v\n" + ROWS, 0),
        ("# measured, twice, here\n# date,v\n" + ROWS, "date,v\n" + ROWS, 1),
        ("# measured\n# date,v\n#\n" + ROWS, "date,v\n" + ROWS, 2),  # the header moves to the line before the data
        ("#,date,v\n1,2024-01-01,1.5\n", ",date,v\n1,2024-01-01,1.5\n", 0),
        ("# measured\nitem,2024-01-01,2024-01-02\nA,1,2\n", "item,2024-01-01,2024-01-02\nA,1,2\n", 1),
        ("# measured\n", "", 1),
    ],
)
def test_the_table_begins_after_the_comments(text: str, table: str, skipped: int) -> None:
    notes = list[Note]()
    data, skip = skip_comments(Path("a.csv"), text.encode(), notes, header=True)
    assert skip == skipped
    assert "".join(data.decode().splitlines(keepends=True)[skip:]) == table
    assert [note.code for note in notes] == [Code.LINES_SKIPPED] * bool(skipped)
    assert data.count(b"\n") == text.count("\n")  # errors name the lines of the file


def test_no_comment_becomes_the_header_of_a_file_that_has_none() -> None:
    data, skip = skip_comments(Path("a.csv"), ("# date,v\n" + ROWS).encode(), [], header=False)
    assert data.decode().splitlines(keepends=True)[skip:] == ROWS.splitlines(keepends=True)
