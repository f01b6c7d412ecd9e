"""Numbers in the place of a time: steps keep their numbers, and years with a part of them are dates."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.importers.importing import first_stamp, imported, written

from foretrain import read_table


def column(name: str, stamps: list[object]) -> list[str]:
    return [f"{name},load", *(f"{stamp},{10 + k % 7}" for k, stamp in enumerate(stamps))]


@pytest.mark.parametrize("numbers", [range(0, 150, 5), range(-20, 40, 2), range(7, 300, 100)])
def test_steps_that_are_several_apart_keep_their_numbers(tmp_path: Path, numbers: range) -> None:
    path = written(tmp_path / "a.csv", column("t", list(numbers)))
    assert read_table(path)["timestamp"].tolist() == list(numbers)
    corpus, report = imported(tmp_path, path)
    assert read_table(tmp_path / "out0")["timestamp"].tolist() == list(numbers)
    assert corpus.manifest.step == numbers.step and "gap" not in {rule for rule, e in report.rules.items() if e["rows"]}


def test_a_hole_in_steps_that_are_several_apart_is_filled(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", column("t", [n for n in range(0, 100, 5) if n != 50]))
    frame = read_table(path)
    assert frame["timestamp"].tolist() == list(range(0, 100, 5)) and frame["load"].isna().sum() == 1


def test_items_of_several_distances_share_the_common_one(tmp_path: Path) -> None:
    written(tmp_path / "in" / "a.csv", column("t", list(range(0, 40, 2))))
    written(tmp_path / "in" / "b.csv", column("t", [*range(1, 31, 2), 33, 35, 37, 41]))
    corpus, _ = imported(tmp_path)
    frame = read_table(tmp_path / "out0")
    assert corpus.manifest.step == 2 and frame.loc[frame["item_id"] == "b", "timestamp"].tolist()[0] == 1


def test_steps_with_too_many_holes_are_said_to_lose_their_numbers(tmp_path: Path) -> None:
    written(tmp_path / "in" / "a.csv", column("t", [n * n for n in range(1, 12)]))
    _, report = imported(tmp_path)
    assert "steps_renumbered" in {note.code for note in report.notes}


@pytest.mark.parametrize(
    ("name", "numbers", "freq", "first"),
    [
        ("date", [y * 100 + w for y in (2022, 2023) for w in range(1, 53)], "W-MON", "2022-01-03"),
        ("yearweek", [y * 100 + w for y in (2020, 2021) for w in range(1, 54 if y == 2020 else 53)], "W-MON",
         "2019-12-30"),
        ("week", [202000 + w for w in range(1, 13)], "W-MON", "2019-12-30"),
        ("YYYYQ", [y * 10 + q for y in range(2015, 2020) for q in range(1, 5)], "QS", "2015-01-01"),
        ("Quarter", [y * 10 + q for y in range(2015, 2020) for q in range(1, 5)], "QS", "2015-01-01"),
        ("ym", [y * 100 + m for y in (2018, 2019) for m in range(1, 13)], "MS", "2018-01-01"),
    ],
)  # fmt: skip
def test_numbers_of_a_year_and_its_part_are_dates(
    tmp_path: Path, name: str, numbers: list[int], freq: str, first: str
) -> None:
    written(tmp_path / "in" / "a.csv", column(name, list(numbers)))
    corpus, report = imported(tmp_path)
    assert (corpus.manifest.freq, first_stamp(corpus)) == (freq, f"{first}T00:00:00")
    assert corpus.columns == ("load",) and corpus.length(0) == len(numbers)
    assert ("time_of_parts" in {note.code for note in report.notes}) == (freq != "MS")
