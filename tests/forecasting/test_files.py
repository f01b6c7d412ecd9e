"""Frames in files: ids, names of columns, and files that appear whole or not at all."""

from __future__ import annotations

import pandas as pd
import pytest

from foretrain.errors import DataError
from foretrain.forecasting.files import appearing, check_columns, read_file, recognised_target, write_file


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        {"item_id": ["007", "NA", "1e5"], "timestamp": pd.date_range("2024-01-01", periods=3), "value": [1.0, 2.0, 3.5]}
    )


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
        with appearing(first, second) as places:
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
