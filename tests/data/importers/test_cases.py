"""Tables that people report: each is read right or refused, and what is printed about it is true."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.data.importers.importing import DAYS, first_stamp, imported, items, written

from foretrain.data.importers import import_corpus, preview_text
from foretrain.errors import DataError
from foretrain.notes import Code, codes


def test_a_table_whose_every_value_is_missing_is_refused_and_says_so(tmp_path: Path) -> None:
    written(tmp_path / "in" / "a.csv", ["date,price", *(f"{day},n.a." for day in DAYS)])
    with pytest.raises(DataError, match="every value of every row is missing; nothing to write"):
        imported(tmp_path)


def test_damage_in_several_columns_of_one_item_is_counted_as_one_item(tmp_path: Path) -> None:
    rows = [f"{day},{k % 7},{k % 5 + 1},{k}" for k, day in enumerate(DAYS)]
    rows[20], rows[30] = f"{DAYS[20]},-9999,-9999,20", f"{DAYS[30]},3,-9999,30"
    written(tmp_path / "in" / "a.csv", ["date,wind,gust,load", *rows])
    _, report = imported(tmp_path)
    found = report.rules["missing_code"]
    assert (found["items"], found["rows"]) == (1, 2)
    assert [example["detail"] for example in found["examples"]] == [
        "wind = -9999, others 0 to 6",
        "gust = -9999, others 1 to 5",
    ]
    assert "missing_code (warning): 1 item, 2 rows" in report.text()


def test_counts_of_one_are_written_in_the_singular(tmp_path: Path) -> None:
    rows = [f"{day},{k}" for k, day in enumerate(DAYS) if k != 9]
    path = written(tmp_path / "a.csv", ["date,x", *rows])
    _, report = imported(tmp_path, path)
    assert report.rules["gap"]["examples"][0]["detail"] == "1 step missing"
    with pytest.raises(DataError, match=r"--freq h, but the stamps look like D \(1 item\)"):
        imported(tmp_path, path, freq="h")
    long = written(tmp_path / "long.csv", ["item_id,t,x", *(f"{item},{t},{t}" for item in "AB" for t in range(12))])
    assert "2 items (12 rows each): A, B" in preview_text([long])


def test_a_preview_numbers_the_steps_as_the_file_does(tmp_path: Path) -> None:
    rows = [f"{item},{t},{t * 1.5}" for item in "AB" for t in range(40, 0, -1)]
    text = preview_text([written(tmp_path / "a.csv", ["unique_id,ds,y", *rows])])
    steps = [line.split() for line in text.partition("step ")[2].splitlines()[1:8]]
    assert steps == [["1", "1.5"], ["2", "3"], ["3", "4.5"], ["..."], ["38", "57"], ["39", "58.5"], ["40", "60"]]


@pytest.mark.parametrize("mark", ["release.json", "model.safetensors", "release/release.json"])
def test_the_folder_of_a_model_is_not_read_as_data(tmp_path: Path, mark: str) -> None:
    for name in (mark, "config.json"):
        written(tmp_path / "model" / name, ['{"d_model": 4, "options": {"rope": {}}}'])
    with pytest.raises(DataError, match=r"model: holds a model, not data\."):
        import_corpus([tmp_path / "model"], tmp_path / "out")


@pytest.mark.parametrize("as_date", [False, True])
def test_a_datasets_folder_may_give_its_starts_as_text_or_dates(tmp_path: Path, as_date: bool) -> None:
    datasets = pytest.importorskip("datasets", reason="writes the folder")
    starts = ["2024-01-01", "2024-02-01"] if as_date else ["2024-01-01 06:00", "2024-02-01 06:00"]
    rows = {
        "item_id": ["a", "b"],
        "start": [pd.Timestamp(start).date() if as_date else start for start in starts],
        "target": [np.arange(40.0).tolist()] * 2,
    }
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "hf")
    corpus, _ = imported(tmp_path, tmp_path / "hf", freq="h")
    assert (corpus.manifest.time, corpus.manifest.freq) == ("regular", "h")
    assert first_stamp(corpus, 1) == ("2024-02-01T00:00:00" if as_date else "2024-02-01T06:00:00")
    corpus, report = imported(tmp_path, tmp_path / "hf")
    assert corpus.manifest.time == "steps"
    assert Code.START_WITHOUT_FREQ in codes(report.notes)


def test_a_start_that_is_no_stamp_is_refused(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="writes the folder")
    rows = {"start": ["tomorrow"], "target": [np.arange(40.0).tolist()]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "hf")
    with pytest.raises(DataError, match="column 'start': 'tomorrow' and the others are not all plain ISO stamps"):
        imported(tmp_path, tmp_path / "hf", freq="h")


def test_the_index_of_a_filtered_frame_is_no_column(tmp_path: Path) -> None:
    frame = pd.DataFrame({"timestamp": pd.date_range("2024-01-01", periods=80, freq="h"), "target": np.arange(80.0)})
    frame[frame.target > 20].to_parquet(tmp_path / "filtered.parquet")
    corpus, _ = imported(tmp_path, tmp_path / "filtered.parquet")
    assert (corpus.columns, corpus.num_rows, corpus.manifest.freq) == (("target",), 59, "h")


def hourly(count: int) -> list[str]:
    stamps = pd.date_range("2010-01-01", periods=count, freq="h")
    return [f"{k + 1},{s.year},{s.month},{s.day},{s.hour},{k % 97}" for k, s in enumerate(stamps)]


READ = {
    "an hourly station with parts of the time": (
        ["No,year,month,day,hour,pm2.5", *hourly(100)], ["a"], 100, "2010-01-01T00:00:00", "h"),
    "seasons of the flu by week": (
        ["REGION TYPE,YEAR,WEEK,ILITOTAL",
         *(f"National,{2015 + (k + 39) // 52},{(k + 39) % 52 + 1},{k * 7}" for k in range(60))],
        ["a"], 60, "2015-10-04T00:00:00", "W-SUN"),
    "exchange rates of countries below each other": (
        ["Date,Country,Exchange rate",
         *(f"{2000 + k // 12}-{k % 12 + 1:02d}-01,{c},{k + 0.5}" for c in ("Austria", "Norway") for k in range(36))],
        ["Austria", "Norway"], 36, "2000-01-01T00:00:00", "MS"),
    "car parks under a name that is no usual id": (
        ["SystemCodeNumber,Capacity,Occupancy,LastUpdated",
         *(f"{c},500,{k * 3},2016-10-{4 + k // 24:02d} {k % 24:02d}:00:00" for c in ("N1", "N2") for k in range(40))],
        ["N1", "N2"], 40, "2016-10-04T00:00:00", "h"),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_a_long_table_of_an_agency_keeps_every_row(tmp_path: Path, name: str) -> None:
    lines, ids, rows, start, freq = READ[name]
    corpus, report = imported(tmp_path, written(tmp_path / "a.csv", lines))
    assert list(items(corpus)) == ids
    assert corpus.lengths.tolist() == [rows] * len(ids)
    assert (first_stamp(corpus), corpus.manifest.freq) == (start, freq)
    assert report.rules["duplicate_timestamp"]["rows"] == 0


def test_series_that_two_columns_name_stop_the_import_with_both(tmp_path: Path) -> None:
    quarters = [f"{2000 + k // 4} Q{k % 4 + 1}" for k in range(20)]
    lines = [
        f"{q},{r},{p},{k + len(r + p)}"
        for r in ("Coast", "Hills")
        for p in ("Work", "Fun")
        for k, q in enumerate(quarters)
    ]
    path = written(tmp_path / "a.csv", ["Quarter,Region,Purpose,Trips", *lines])
    with pytest.raises(DataError, match=r"(?s)60 of 80 rows.*--id-column Region,Purpose"):
        imported(tmp_path, path)
    corpus, _ = imported(tmp_path, path, id_column=("Region", "Purpose"))
    assert corpus.lengths.tolist() == [20] * 4
    assert corpus.manifest.freq == "QS"
