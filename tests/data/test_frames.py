"""Files as frames: what an import reads, with its ids, times and names, and nothing left behind."""

from __future__ import annotations

import gc
import gzip
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import foretrain
from foretrain.data.frames import corpus_frame, open_data, open_input, read_future, read_table
from foretrain.data.importers import import_corpus
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError, DataError
from foretrain.notes import Code, codes

DAYS = pd.date_range("2024-01-01", periods=40, freq="D")


@pytest.fixture
def write(tmp_path: Path):
    """Write text, bytes or a frame to a file."""

    def save(content, name: str = "f.csv") -> Path:
        path = tmp_path / name
        if isinstance(content, pd.DataFrame):
            content.to_parquet(path) if path.suffix == ".parquet" else content.to_csv(path, index=False)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return save


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory, monkeypatch) -> Path:
    """The folder of scratch files of a test."""
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def load(rows: int = 40) -> pd.DataFrame:
    return pd.DataFrame({"timestamp": DAYS[:rows], "load": np.arange(rows) % 7.0})


def test_the_package_offers_it():
    assert foretrain.read_table is read_table


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.CSV"])
def test_ids_are_text_in_every_kind_of_file(write, name):
    ids = ["007", "NA", "1e5"]
    frame = read_table(write(pd.DataFrame({"item_id": ids, "timestamp": DAYS[:3], "value": [1.0, 2.0, 3.5]}), name))
    assert frame["item_id"].tolist() == ids and frame["value"].tolist() == [1.0, 2.0, 3.5]


def test_columns_are_ids_stamps_and_the_corpus_columns_in_order(write):
    frame = read_table(write(load().assign(kind=["a", "b"] * 20), "ACME.csv"))
    assert frame.columns.tolist() == ["item_id", "timestamp", "load", "kind"]
    assert frame["timestamp"].dtype == "M8[us]" and frame["load"].dtype == np.float32
    assert set(frame["item_id"]) == {"ACME"} and frame["kind"].tolist() == ["a", "b"] * 20


def test_market_columns_have_their_standard_names(write):
    text = "Date,Close/Last,Volume,Open,High,Low\n2024-01-02,2.5,10,2,3,1\n2024-01-03,2.25,10,2,3,1\n"
    frame = read_table(write(text, "bars.csv"))
    assert frame.columns.tolist() == ["item_id", "timestamp", "open", "high", "low", "close", "volume"]
    assert frame["close"].tolist() == [2.5, 2.25]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("timestamp;close\n2024-02-01 09:30;1,5\n2024-02-02 09:30;1.234,5\n", {}),  # decimal commas
        ("Date\tclose\n01.02.2024 09:30\t1.5\n02.02.2024 09:30\t1,234.5\n", {}),  # day first, thousands
        (",close\n2024-02-01 09:30,1.5\n2024-02-02 09:30,1234.5\n", {}),  # a saved index
        ("date,time,close\n20240201,09:30,1.5\n20240202,09:30,1234.5\n", {}),
        ("\ufeffdate,close\n2024-02-01T09:30:00,1.5\n2024-02-02T09:30:00,1234.5\n", {}),
        ("Date,close\n01/02/2024 09:30,1.5\n02/02/2024 09:30,1234.5\n", {"dayfirst": True}),
        ("when,close\n2024-02-01 09:30,1.5\n2024-02-02 09:30,1234.5\n", {"timestamp_column": "when"}),
    ],
)
def test_stamps_and_numbers_of_text_files(write, text, options):
    frame = read_table(write(text), **options)
    assert frame.columns.tolist() == ["item_id", "timestamp", "close"]
    assert frame["timestamp"].tolist() == [pd.Timestamp("2024-02-01 09:30"), pd.Timestamp("2024-02-02 09:30")]
    assert frame["close"].tolist() == [1.5, 1234.5]


@pytest.mark.parametrize(
    "stamps",
    [("1706779800", "1706866200"), ("1706779800000", "1706866200000"),
     ("2024-02-01 17:30+08:00", "2024-02-02 17:30+08:00"), ("2024-02-01T09:30Z", "2024-02-02T09:30Z")],
)  # fmt: skip
def test_instants_are_in_utc(write, stamps):
    frame = read_table(write(f"ts,close\n{stamps[0]},1.5\n{stamps[1]},2\n"))
    assert frame["timestamp"].tolist() == [pd.Timestamp(f"2024-02-0{k} 09:30Z") for k in (1, 2)]


def test_compressed_and_encoded_files_are_read(write):
    text = "Datum;Größe\n2024-02-01;1,5\n2024-02-02;2,5\n"
    for content, name, options in (
        (gzip.compress(text.encode()), "f.csv.gz", {}),
        (text.encode("latin-1"), "l.csv", {"encoding": "latin-1"}),
        (text.encode("utf-16"), "u.csv", {}),
    ):
        frame = read_table(write(content, name), timestamp_column="Datum", **options)
        assert frame["Größe"].tolist() == [1.5, 2.5] and frame["timestamp"].iloc[0] == pd.Timestamp("2024-02-01")


def test_the_index_of_a_parquet_file_is_the_time(write):
    for name in ("timestamp", None):
        frame = read_table(write(load().set_index("timestamp").rename_axis(name), "i.parquet"))
        assert frame["timestamp"].tolist() == DAYS.tolist()


def test_step_numbers_go_on_from_those_of_the_file(write, tmp_path):
    frame = read_table(write("t,close\n7,1\n8,2\n"))
    assert frame["timestamp"].tolist() == [7, 8]
    frame = read_table(write("item_id,t,close\na,3,1\na,4,2\nb,10,1\nb,11,5\n"))
    assert frame["timestamp"].tolist() == [3, 4, 10, 11]
    frame = read_table(write("t,close\n1,1\n2,2\n9,5\n10,2\n"))  # too many holes to fill: the last step is the file's
    assert frame["timestamp"].tolist() == [7, 8, 9, 10]
    import_corpus([write("t,close\n7,1\n8,2\n")], tmp_path / "first")
    import_corpus([tmp_path / "first"], tmp_path / "again")
    assert read_table(tmp_path / "again")["timestamp"].tolist() == [7, 8]
    assert read_table(write("close\n1\n2\n"))["timestamp"].tolist() == [0, 1]


def test_missing_cells_are_nan_and_missing_words_too(write):
    frame = read_table(write("date,close,kind\n2024-01-01,1,a\n2024-01-02,,\n2024-01-03,n/a,b\n2024-01-04,4,b\n"))
    assert frame["close"].isna().tolist() == [False, True, True, False]
    assert frame["kind"].isna().tolist() == [False, True, False, False]


def test_a_frame_equals_that_of_the_imported_corpus(write, tmp_path):
    path = write(pd.concat([load().assign(item_id=k, kind=k * 2) for k in "ab"]))
    import_corpus([path], tmp_path / "corpus")
    pd.testing.assert_frame_equal(read_table(path), corpus_frame(Corpus.open(tmp_path / "corpus")))
    pd.testing.assert_frame_equal(read_table(path), read_table(tmp_path / "corpus"))


def test_folders_of_files_are_read_file_by_file(tmp_path):
    (tmp_path / "raw").mkdir()
    for name in ("A", "B"):
        load().to_csv(tmp_path / "raw" / f"{name}.csv", index=False)
    assert read_table(tmp_path / "raw")["item_id"].unique().tolist() == ["A", "B"]


def test_what_the_import_decided_is_logged(write, logged_notes):
    table = load().drop(index=[20, 21])
    path = write(pd.concat([table, table.tail(1).assign(load=9.0)]))
    frame = read_table(path)
    assert len(frame) == 40 and frame["load"].isna().sum() == 2 and frame["load"].iloc[-1] == 9.0
    notes = logged_notes()
    assert codes(notes) == {Code.IMPORT_QUALITY, Code.ROWS_ADDED}
    texts = {note.code: note.text for note in notes}
    assert len(notes) == 2 and "rule duplicate_timestamp;" in texts[Code.IMPORT_QUALITY]
    assert "2 rows of NaN were added" in texts[Code.ROWS_ADDED] and "(first " in texts[Code.ROWS_ADDED]
    assert all(note.text.startswith("f.csv: ") for note in notes)
    read_table(write(load()))
    assert not logged_notes()


def test_scratch_files_last_as_long_as_the_corpus(write, scratch):
    corpus = open_data(write(load()))
    assert list(scratch.iterdir()) and corpus.name == "f" and corpus.origin.name == "f.csv"
    assert corpus.values(0).shape == (1, 40)
    del corpus
    gc.collect()
    assert not list(scratch.iterdir())
    read_table(write(load()))
    with pytest.raises(DataError):
        read_table(write("a,b\n1,x\n", "bad.csv"), timestamp_column="c")
    gc.collect()
    assert not list(scratch.iterdir())


def test_a_corpus_takes_no_reading_options(write, tmp_path):
    import_corpus([write(load())], tmp_path / "corpus")
    with pytest.raises(ConfigError, match="is a corpus; encoding applies to files only"):
        open_data(tmp_path / "corpus", encoding="latin-1")


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "the file is empty"),
        ("timestamp,load\n", {}, "no rows"),
        (b"PAR1" * 10, {}, "f.csv"),
        ("date,v\n01/02/2024,2\n02/02/2024,3\n", {}, "day first or month first.*--dayfirst"),
        ("timestamp,名\n1,2\n".encode("gbk"), {}, "is not UTF-8 text; name its encoding, for example --encoding"),
        ("timestamp,close\n1,2\n", {"id_column": "symbol"}, "no column 'symbol'"),
        ("timestamp,close\n1,2\n", {"timestamp_column": "tmestamp"}, "Did you mean 'timestamp'"),
        ("date,item_id ,v,timestamp\n2024-01-01,a,2,5\n", {"timestamp_column": "date"}, "called 'timestamp'"),
    ],
)
def test_errors_name_the_file_and_never_the_scratch_folder(write, scratch, content, options, message):
    with pytest.raises(DataError, match=message) as error:
        read_table(write(content), **options)
    assert "f.csv" in str(error.value) and str(scratch) not in str(error.value)


def test_a_missing_file_is_named():
    with pytest.raises(DataError, match=r"none.csv: no such file"):
        read_table("none.csv")


def test_columns_are_known_by_the_spelling_of_the_file(write):
    opened = open_input(write("Date,Close/Last,Vol.,Open,High,Low\n2024-01-02,2.5,10,2,3,1\n2024-01-03,2,1,2,3,1\n"))
    assert opened.columns_meant(["Close/Last", "vol", "high", "OPEN"]) == ("close", "volume", "high", "open")
    with pytest.raises(DataError, match=r"no column 'clsoe'. Did you mean 'close'\?"):
        opened.columns_meant(["clsoe"])


def test_the_target_is_found_by_name_or_as_the_only_number(write):
    assert open_input(write(load().assign(kind="a"))).usual_target() == "load"
    assert open_input(write(load().assign(target=1.0))).usual_target() == "target"
    with pytest.raises(DataError, match=r"name what to forecast with --target \(load, other\)"):
        open_input(write(load().assign(other=1.0))).usual_target()


# -- rows known ahead


def test_rows_known_ahead_stay_as_they_are(write):
    history = open_input(write(load().assign(promo=1.0, word="a"), "history.csv"))
    rows = pd.DataFrame(
        {"timestamp": DAYS[-1] + pd.to_timedelta([2, 5, 1], "D"), "promo": [np.nan, 1, 0], "word": ["a", "b", None]}
    )
    future = read_future(write(rows, "future.csv"), history)
    assert future.columns.tolist() == ["item_id", "timestamp", "promo", "word"]
    assert future["item_id"].tolist() == ["history"] * 3, "a single series without an id is that of the history"
    assert future["timestamp"].tolist() == rows["timestamp"].tolist()
    assert future["promo"].isna().tolist() == [True, False, False]
    assert future["word"].tolist()[:2] == ["a", "b"] and future["word"].isna().tolist() == [False, False, True]


def test_columns_known_ahead_that_the_history_s_import_left_out_are_left_out(write):
    rows = load().assign(day=DAYS + pd.Timedelta("1D"), x=1.0)  # a column of dates besides the time is no value
    history = open_input(write(rows))
    future = read_future(write("timestamp,day,x,new\n2024-02-10,2024-02-11,1,5\n", "n.csv"), history)
    assert future.columns.tolist() == ["item_id", "timestamp", "x", "new"]  # the forecast refuses the last by name


def test_rows_known_ahead_with_several_columns_of_ids(write):
    rows = pd.concat([load().assign(shop=s, dept=d, x=1.0) for s in "ab" for d in (1, 2)])
    history = open_input(write(rows), id_column="shop,dept")
    future = read_future(write("timestamp,dept,shop,x\n2024-02-10,2,a,5\n", "n.csv"), history, id_column="shop,dept")
    assert future["item_id"].tolist() == ["a/2"] and "x" in future


def test_rows_known_ahead_may_hold_text_alone(write):
    history = open_input(write(load().assign(word=["x", "y"] * 20)))
    future = read_future(write("timestamp,word\n2024-02-10,y\n2024-02-11,z\n", "n.csv"), history)
    assert future["word"].tolist() == ["y", "z"]


def test_rows_known_ahead_have_the_names_and_roles_of_the_history(write):
    bars = "Name,Date,Open,High,Low,Close,Volume,code\nX,2024-01-02,2,3,1,2,9,7a\nX,2024-01-03,2,3,1,2,9,8\n"
    history = open_input(write(bars.replace("Volume", "Vol."), "bars.csv"), categorical=("code",))
    future = read_future(write("Name,Date,Vol.,code\nX,2024-01-04,5,8\nX,2024-01-05,6,8\n", "next.csv"), history)
    assert future.columns.tolist() == ["item_id", "timestamp", "volume", "code"]
    assert future["item_id"].tolist() == ["X", "X"] and future["code"].tolist() == ["8", "8"]


def test_rows_known_ahead_are_in_the_clock_of_the_history(write):
    hours = pd.date_range("2024-01-01 01:00", periods=40, freq="h", tz="Asia/Shanghai")
    history = open_input(write(pd.DataFrame({"time": hours, "v": 1.0, "x": 2.0})))
    midnight = pd.DataFrame({"time": pd.to_datetime(["2024-01-03 00:00+08:00"]), "x": [1.0]})
    assert read_future(write(midnight, "n.csv"), history)["timestamp"].tolist() == [pd.Timestamp("2024-01-02 16:00Z")]
    naive = open_input(write("time,v\n2024-01-01 09:00,1\n2024-01-01 10:00,2\n"), timezone="Asia/Shanghai")
    future = read_future(write("time,v\n2024-01-02,1\n", "n.csv"), naive, timezone="Asia/Shanghai")
    assert future["timestamp"].tolist() == [pd.Timestamp("2024-01-01 16:00Z")]


def test_rows_known_ahead_of_steps_are_numbered_on(write):
    history = open_input(write("t,v,x\n7,1,2\n8,1,3\n"))
    assert read_future(write("t,x\n9,1\n10,2\n", "n.csv"), history)["timestamp"].tolist() == [9, 10]
    assert read_future(write("x\n1\n2\n", "n.csv"), history)["timestamp"].tolist() == [9, 10]
    with pytest.raises(DataError, match=r"has time stamps, but .* has step numbers"):
        read_future(write("date,x\n2024-01-01,1\n", "n.csv"), history)


def test_rows_known_ahead_of_several_items_need_ids(write):
    history = open_input(write(pd.concat([load().assign(sku=k, x=1.0) for k in "ab"])), id_column="sku")
    with pytest.raises(
        DataError, match=r"n.csv: has no column of item ids, and .*f.csv has 2 items. Add the column 'sku'"
    ):
        read_future(write("timestamp,x\n2024-02-10,1\n", "n.csv"), history, id_column="sku")
