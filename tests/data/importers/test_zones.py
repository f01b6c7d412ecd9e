"""The hour that a clock change repeats: the order of an item's rows says which row precedes the change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.data.importers.importing import imported, written

BERLIN = "Europe/Berlin"


def autumn(step: str = "h", rows: int = 60, start: str = "2024-10-26 20:00") -> tuple[list[str], np.ndarray]:
    """Texts of local stamps over the end of summer time, and the microseconds of the instants."""
    instants = pd.date_range(start, periods=rows, freq=step, tz="UTC")
    walls = instants.tz_convert(BERLIN).strftime("%Y-%m-%d %H:%M").tolist()
    return walls, instants.tz_localize(None).to_numpy().astype("M8[us]").astype(np.int64)


def table(walls: list[str], values: list[int], *ids: str) -> list[str]:
    """Lines of a table whose rows hold each item's value; the items' rows alternate."""
    if not ids:
        return ["date,v", *(f"{wall},{value}" for wall, value in zip(walls, values, strict=True))]
    rows = zip(walls, values, strict=True)
    return ["id,date,v", *(f"{item},{wall},{value}" for wall, value in rows for item in ids)]


@pytest.mark.parametrize("step", ["h", "30min", "15min"])
@pytest.mark.parametrize("newest_first", [False, True])
def test_rows_in_either_order_keep_their_values(tmp_path: Path, step: str, newest_first: bool) -> None:
    walls, instants = autumn(step)
    values = list(range(len(walls)))
    lines = table(walls, values)
    written(tmp_path / "in" / "a.csv", [lines[0], *lines[:0:-1]] if newest_first else lines)
    corpus, _ = imported(tmp_path, timezone=BERLIN)
    assert corpus.times(0).tolist() == instants.tolist()  # type: ignore[union-attr]
    assert corpus.values(0)[0].tolist() == values


@pytest.mark.parametrize("options", [{}, {"id_column": "id"}])
def test_items_whose_rows_alternate_keep_both_hours(tmp_path: Path, options: dict[str, str]) -> None:
    walls, instants = autumn("15min", 200)
    written(tmp_path / "in" / "a.csv", table(walls, list(range(200)), "x", "y"))
    corpus, report = imported(tmp_path, timezone=BERLIN, **options)
    assert corpus.num_series == 2 and report.lost["rows"] == 0
    for k in range(2):
        assert corpus.times(k).tolist() == instants.tolist()  # type: ignore[union-attr]
        assert corpus.values(k)[0].tolist() == list(range(200))


def test_items_one_after_the_other_keep_both_hours_without_a_named_id(tmp_path: Path) -> None:
    walls, instants = autumn()
    block = [f"{wall},{k}" for k, wall in enumerate(walls)]
    written(tmp_path / "in" / "a.csv", ["id,date,v", *(f"{item},{row}" for item in "xy" for row in block)])
    corpus, _ = imported(tmp_path, timezone=BERLIN)
    assert corpus.num_series == 2
    assert all(corpus.times(k).tolist() == instants.tolist() for k in range(2))  # type: ignore[union-attr]


def test_a_year_without_the_hour_does_not_spoil_that_of_the_next_year(tmp_path: Path) -> None:
    walls, _ = autumn(rows=24 * 380, start="2022-10-20")
    first = walls.index("2022-10-30 02:00")
    kept = walls[:first] + walls[first + 1 :]
    written(tmp_path / "in" / "a.csv", table(kept, list(range(len(kept)))))
    corpus, report = imported(tmp_path, timezone=BERLIN)
    assert report.lost["rows"] == 0
    assert corpus.length(0) == len(walls)  # with the missing hour as a row of NaN
    note = next(note for note in report.notes if note.code == "hour_repeated")
    assert "1 stamps, first 2022-10-30 02:00:00" in note.text


def test_rows_in_no_order_are_read_as_following_the_change_with_a_note(tmp_path: Path) -> None:
    walls, _ = autumn("15min", 120)
    order = np.random.default_rng(0).permutation(len(walls))
    written(tmp_path / "in" / "a.csv", table([walls[k] for k in order], order.tolist()))
    _, report = imported(tmp_path, timezone=BERLIN, duplicates="last")
    assert "hour_repeated" in {note.code for note in report.notes}


@pytest.mark.parametrize("step", ["h", "15min"])
@pytest.mark.parametrize("newest_first", [False, True])
def test_files_that_meet_within_the_repeated_hour_lose_no_row(tmp_path: Path, step: str, newest_first: bool) -> None:
    walls, instants = autumn(step, 80)
    last = walls.index("2024-10-27 02:00" if step == "h" else "2024-10-27 02:45")
    lines = table(walls, list(range(80)))
    halves = lines[1 : last + 2], lines[last + 2 :]
    for k, half in enumerate(halves):
        rows = half[::-1] if newest_first else half
        written(tmp_path / "in" / f"X-{k}.csv", [lines[0], *rows])
    corpus, report = imported(tmp_path, timezone=BERLIN, id_pattern="^(X)")
    assert corpus.times(0).tolist() == instants.tolist()  # type: ignore[union-attr]
    assert corpus.values(0)[0].tolist() == list(range(80))
    assert "hour_repeated" not in {note.code for note in report.notes}
