"""What the first cells of a column tell is no more than a shortcut: later cells decide as if they had come first."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.importers.importing import DAYS, first_stamp, imported, items, written

from foretrain.errors import DataError


def test_text_after_many_numbers_is_refused_with_its_line(tmp_path: Path):
    rows = [f"{day},{k}" for k, day in enumerate(DAYS)]
    written(tmp_path / "in" / "load.csv", ["date,load", *rows[:30], f"{DAYS[30]},broken", *rows[31:]])
    with pytest.raises(DataError, match="line 32, column 'load': 'broken'"):
        imported(tmp_path)


def test_stamps_whose_first_cells_are_blank_or_padded_are_read(tmp_path: Path):
    rows = [f" {day} ,{k}" for k, day in enumerate(DAYS)]
    corpus, _ = imported(tmp_path, written(tmp_path / "load.csv", ["date,load", *rows]))
    assert first_stamp(corpus) == "2024-01-01T00:00:00" and len(items(corpus)["load"][0]) == 40


def test_a_preamble_is_found_in_lines_longer_than_the_first_block(tmp_path: Path):
    names = [f"load_{k}" for k in range(200)]
    rows = [",".join([day, *map(str, range(200))]) for day in DAYS]
    path = written(tmp_path / "load.csv", ["a title", ",".join(["date", *names]), *rows])
    corpus, _ = imported(tmp_path, path)
    assert corpus.num_rows == 40 and len(corpus.columns) == 200
