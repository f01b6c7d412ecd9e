"""Frames in files: ids, names of columns, and atomic writing of several files."""

from __future__ import annotations

import pandas as pd
import pytest

from foretrain.errors import DataError
from foretrain.forecasting.files import check_columns, read_file, recognised_target, save_table, scratch_files


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        {"item_id": ["007", "NA", "1e5"], "timestamp": pd.date_range("2024-01-01", periods=3), "value": [1.0, 2.0, 3.5]}
    )


def write_file(table: pd.DataFrame, path) -> None:
    """Write a table as the command line does."""
    with scratch_files(path) as places:
        save_table(table, places[path])


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.CSV"])
def test_ids_are_text_in_every_kind_of_file(table, tmp_path, name):
    write_file(table, tmp_path / name)
    frame, stamp = read_file(tmp_path / name)
    assert frame["item_id"].tolist() == ["007", "NA", "1e5"] and stamp == "timestamp"
    assert frame["value"].tolist() == [1.0, 2.0, 3.5]


def test_a_file_without_ids_is_one_item_named_after_it(table, tmp_path):
    table.drop(columns="item_id").rename(columns={"timestamp": "Date"}).to_csv(tmp_path / "ACME.5min.csv", index=False)
    frame, stamp = read_file(tmp_path / "ACME.5min.csv")
    assert set(frame["item_id"]) == {"ACME"} and stamp == "Date"


def test_the_target_is_found_by_name_or_as_the_only_number(table, tmp_path):
    taken = {"item_id", "timestamp"}
    assert recognised_target(tmp_path, table, taken) == "value"
    assert recognised_target(tmp_path, table.assign(target=1.0), taken) == "target"
    with pytest.raises(DataError, match=r"name what to forecast with --target \(value, other\)"):
        recognised_target(tmp_path, table.assign(other=1.0), taken)


def test_unknown_columns_name_the_nearest(table, tmp_path):
    write_file(table, tmp_path / "t.csv")
    with pytest.raises(DataError, match=r"no column 'valeu'. Did you mean 'value'\?"):
        check_columns(tmp_path / "t.csv", table, ("valeu",))
    with pytest.raises(DataError, match="no column 'when'"):
        read_file(tmp_path / "t.csv", timestamp_column="when")
    with pytest.raises(DataError, match="no column looks like a time stamp"):
        read_file(_saved(table.drop(columns="timestamp"), tmp_path / "n.csv"))


def _saved(frame: pd.DataFrame, path):
    frame.to_csv(path, index=False)
    return path


def test_files_that_cannot_be_read_or_written_are_named(table, tmp_path):
    with pytest.raises(DataError, match=r"none.csv: no such file"):
        read_file(tmp_path / "none.csv")
    with pytest.raises(DataError, match="holds no rows"):
        read_file(_saved(table[:0], tmp_path / "empty.csv"))
    (tmp_path / "noise.parquet").write_bytes(b"\0" * 40)
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_file(tmp_path / "noise.parquet")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_file(table, tmp_path / "file" / "t.csv")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_files_appear_together_or_not_at_all(tmp_path):
    first, second = tmp_path / "new" / "deep" / "a.csv", tmp_path / "b.png"

    def write(fail: bool) -> None:
        with scratch_files(first, second) as places:
            for path in (first, second):
                assert places[path].suffix == path.suffix and not path.exists()
                places[path].write_text("x")
            if fail:
                raise ValueError

    with pytest.raises(ValueError):
        write(fail=True)
    assert not list(tmp_path.iterdir())
    write(fail=False)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["a.csv", "b.png"]


def read(path, text: str, **how) -> tuple[pd.DataFrame, str]:
    path.write_text(text, encoding="utf-8")
    return read_file(path, **how)


@pytest.mark.parametrize(
    ("text", "stamp"),
    [
        ("timestamp;close\n2024-02-01 09:30;1,5\n2024-02-02 09:30;1.234,5\n", "timestamp"),  # decimal commas
        ("Date\tclose\n01.02.2024 09:30\t1.5\n02.02.2024 09:30\t1,234.5\n", "Date"),  # day first, thousands
        ("ts,close\n1706779800,1.5\n1706866200,1234.5\n", "ts"),  # unix seconds
        ("ts,close\n1706779800000,1.5\n1706866200000,1234.5\n", "ts"),
        (",close\n2024-02-01 09:30,1.5\n2024-02-02 09:30,1234.5\n", "timestamp"),  # a saved index
        ("date,time,close\n20240201,09:30,1.5\n20240202,09:30,1234.5\n", "date"),
        ("\ufeffdate,close\n2024-02-01T09:30:00,1.5\n2024-02-02T09:30:00,1234.5\n", "date"),
    ],
)
def test_text_files_are_read_as_an_import_reads_them(tmp_path, text, stamp):
    frame, found = read(tmp_path / "f.csv", text)
    assert found == stamp and list(frame.columns) == ["item_id", stamp, "close"]
    assert pd.to_datetime(frame[stamp]).tolist() == [pd.Timestamp("2024-02-01 09:30"), pd.Timestamp("2024-02-02 09:30")]
    assert frame["close"].tolist() == [1.5, 1234.5]


def test_counts_of_steps_zones_and_categories_stay_as_they_are(tmp_path):
    frame, _ = read(tmp_path / "f.csv", "timestamp,kind,close\n7,a,1\n8,1,2\n")
    assert frame["timestamp"].tolist() == [7, 8] and frame["kind"].tolist() == ["a", "1"]
    frame, _ = read(tmp_path / "f.csv", "timestamp,close\n2024-02-01 09:30+08:00,1\n2024-02-02 09:30+08:00,2\n")
    assert str(pd.to_datetime(frame["timestamp"]).dt.tz) == "UTC+08:00"


def test_the_index_of_a_parquet_file_is_a_column(table, tmp_path):
    table.drop(columns="item_id").set_index("timestamp").to_parquet(tmp_path / "i.parquet")
    frame, stamp = read_file(tmp_path / "i.parquet")
    assert stamp == "timestamp" and frame["timestamp"].tolist() == table["timestamp"].tolist()
    table.drop(columns="item_id").set_index("timestamp").rename_axis(None).to_parquet(tmp_path / "i.parquet")
    frame, stamp = read_file(tmp_path / "i.parquet")
    assert frame[stamp].tolist() == table["timestamp"].tolist()


@pytest.mark.parametrize(
    ("content", "how", "message"),
    [
        (b"", {}, "cannot be read as CSV"),
        (b"PK\0\0", {}, "is not UTF-8 text; give a CSV file"),
        ("timestamp,名\n1,2\n".encode("gbk"), {}, "is not UTF-8 text; save it"),
        (b"timestamp,close\n1,2\n", {"id_column": "symbol"}, "no column 'symbol'"),
        (b"date,close\n01/02/2024,2\n02/02/2024,3\n", {}, "day first or month first.*Write them like 2024-01-31"),
    ],
)
def test_errors_of_files_are_one_line(tmp_path, content, how, message):
    (tmp_path / "f.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_file(tmp_path / "f.csv", **how)
    assert "f.csv" in str(error.value) and "item_id" not in str(error.value)
