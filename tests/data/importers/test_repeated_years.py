"""Years that repeat, ids that are blank, and ordinal days."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.data.importers.importing import DAYS, first_stamp, imported, written

from foretrain.errors import DataError


def test_years_of_items_that_two_columns_name_are_refused_with_those_columns(tmp_path: Path) -> None:
    rows = [f"{year},{sex},{age},{year + age}" for year in range(2000, 2010) for sex in "mf" for age in (0, 10, 20)]
    path = written(tmp_path / "in" / "a.csv", ["Year,sex,age,people", *rows])
    with pytest.raises(DataError, match="--id-column sex,age"):
        imported(tmp_path)
    corpus, report = imported(tmp_path, path, id_column="sex,age")
    assert corpus.num_series == 6 and corpus.manifest.freq == "YS" and report.lost["rows"] == 0


def test_years_of_a_table_without_items_are_no_time(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    cars = [f"{draw.choice(list('abc'))},{draw.integers(2000, 2020)},{draw.integers(1000, 9000)}" for _ in range(300)]
    written(tmp_path / "in" / "a.csv", ["make,year,price", *cars])
    corpus, report = imported(tmp_path)
    assert corpus.manifest.time == "steps" and corpus.length(0) == 300
    assert "time_repeats" in {note.code for note in report.notes}


def test_an_id_of_blanks_is_no_id(tmp_path: Path) -> None:
    rows = [f"{'  ' if k == 3 else 'a'},{day},{k}" for k, day in enumerate(DAYS)]
    written(tmp_path / "in" / "a.csv", ["item_id,date,v", *rows])
    with pytest.raises(DataError, match=r"line 5: column 'item_id' has no item id"):
        imported(tmp_path)


@pytest.mark.parametrize(
    "form",
    ["{d}{th} March 2020", '"March {d}{th}, 2020"', "{d} de marzo de 2020", "{d} de março de 2020",
     "{d}{th} Mar 2020 00:00"],
)  # fmt: skip
def test_days_are_written_as_ordinals_or_with_de(tmp_path: Path, form: str) -> None:
    ends = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd"}
    rows = [f"{form.format(d=d, th=ends.get(d, 'th'))},{d}" for d in range(1, 29)]
    written(tmp_path / "in" / "a.csv", ["date,v", *rows])
    corpus, _ = imported(tmp_path)
    assert first_stamp(corpus) == "2020-03-01T00:00:00" and corpus.manifest.freq == "D" and corpus.length(0) == 28
