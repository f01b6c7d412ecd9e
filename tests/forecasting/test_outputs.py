"""Forecasts in files: atomic writing of several at once."""

from __future__ import annotations

import pandas as pd
import pytest

from foretrain.data.frames import read_table
from foretrain.errors import DataError
from foretrain.forecasting.outputs import save_table, scratch_files


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
    frame = read_table(tmp_path / name)
    assert frame["item_id"].tolist() == ["007", "NA", "1e5"] and frame.columns[1] == "timestamp"
    assert frame["value"].tolist() == [1.0, 2.0, 3.5]


def test_files_that_cannot_be_written_are_named(table, tmp_path):
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


def test_texts_that_a_spreadsheet_would_run_get_an_apostrophe_if_asked_for(tmp_path):
    ids = ["=cmd|'/C calc'!A0", "+1+cmd", "-2+3", "@SUM(A1)", "\tx", "\rx", "-5", "+1.5e3", "plain", "a=b"]
    table = pd.DataFrame({"item_id": ids, "=name": -1.5, "timestamp": pd.Timestamp("2024-01-01")})
    save_table(table, tmp_path / "safe.csv", csv_safe=True)
    safe = pd.read_csv(tmp_path / "safe.csv", lineterminator="\n")
    assert safe["item_id"].tolist() == [*(f"'{text}" for text in ids[:6]), *ids[6:]]
    assert safe.columns.tolist() == ["item_id", "'=name", "timestamp"]
    assert safe["'=name"].tolist() == [-1.5] * len(ids) and set(safe["timestamp"]) == {"2024-01-01"}
    save_table(table, tmp_path / "exact.csv")
    assert pd.read_csv(tmp_path / "exact.csv", lineterminator="\n")["item_id"].tolist() == ids
