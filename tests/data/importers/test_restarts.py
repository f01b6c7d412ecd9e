"""Items whose stamps hardly meet, one below the other in a column that is only called like an id."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.importers.importing import DAYS, imported, written


def rows(blocks: dict[str, list[str]]) -> list[str]:
    return ["id,date,v", *(f"{item},{day},{k}" for item, days in blocks.items() for k, day in enumerate(days))]


@pytest.mark.parametrize(
    "blocks",
    [
        {"a": DAYS[:30], "b": DAYS[:1]},
        {"a": DAYS[10:30], "b": DAYS[:9]},
        {"a": DAYS[20:], "b": DAYS[:5], "c": DAYS[3:12]},
        {"a": DAYS[20:35][::-1], "b": DAYS[34:][::-1]},
    ],
)
def test_time_that_starts_anew_with_an_id_makes_items(tmp_path: Path, blocks: dict[str, list[str]]) -> None:
    written(tmp_path / "in" / "a.csv", rows(blocks))
    corpus, report = imported(tmp_path)
    assert corpus.item_ids() == list(blocks) and report.lost["rows"] == 0
    assert corpus.lengths.tolist() == [len(days) for days in blocks.values()]
    assert "item_column_found" in {note.code for note in report.notes}


@pytest.mark.parametrize(
    "blocks",
    [
        {"a": DAYS[:20], "b": DAYS[20:]},  # one series, whose label changes on a day
        {"a": [*DAYS[:20], DAYS[5], *DAYS[20:30]], "b": DAYS[30:]},  # goes back within a label
    ],
)
def test_a_label_along_one_series_makes_no_items(tmp_path: Path, blocks: dict[str, list[str]]) -> None:
    written(tmp_path / "in" / "a.csv", rows(blocks))
    corpus, _ = imported(tmp_path)
    assert corpus.num_series == 1
