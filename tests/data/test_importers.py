"""Importing: every kind of file, every defect that files have, nothing half written."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from foretrain.data.importers import import_corpus
from foretrain.data.store import Corpus
from foretrain.errors import DataError
from foretrain.notes import Code

HEX = "6e3760778598fdee5208213d3fce122637307eec"


def dates(count: int, start: str = "2021-01-04", business: bool = True) -> list[str]:
    first = np.datetime64(start)
    days = np.busday_offset(first, np.arange(count), roll="forward") if business else first + np.arange(count)
    return [str(day) for day in days]


def ohlcv(count: int, seed: int = 0) -> np.ndarray:
    """(T, 5) consistent open, high, low, close, volume."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, count)))
    opened = close * np.exp(rng.normal(0, 0.002, count))
    high, low = np.maximum(opened, close) * 1.01, np.minimum(opened, close) * 0.99
    return np.round(np.stack([opened, high, low, close, rng.uniform(1e5, 2e5, count)], axis=1), 4)


def write_csv(
    path: Path, header: str, stamps: Sequence[str], values: np.ndarray, separator: str = ",", head: str = ""
) -> Path:
    rows = [separator.join([stamp, *map(repr, row)]) for stamp, row in zip(stamps, values.tolist(), strict=True)]
    text = head + "\n".join([header, *rows]) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def bars_csv(path: Path, count: int = 60, seed: int = 0, **options: Any) -> Path:
    return write_csv(path, "Date,Open,High,Low,Close,Volume", dates(count), ohlcv(count, seed), **options)


def load(path: Path) -> tuple[Corpus, dict[str, Any]]:
    return Corpus.open(path), json.loads((path / "quality.json").read_text())["rules"]


def values_of(corpus: Corpus, item: str) -> np.ndarray:
    return np.asarray(corpus.values(list(corpus.item_ids(range(corpus.num_series))).index(item)))


# Kinds of input


def test_a_folder_of_symbol_files_becomes_one_item_a_file(tmp_path: Path) -> None:
    for k, symbol in enumerate(["AAPL", "007", "1e5", "nan", "True", HEX]):
        bars_csv(tmp_path / "in" / f"{symbol}.csv", seed=k)
    (tmp_path / "in" / "data_summary.csv").write_text("symbol,total_rows\nAAPL,60\n")
    (tmp_path / "in" / "notes.md").write_text("not data")
    seen: list[tuple[int, int, str]] = []
    report = import_corpus([tmp_path / "in"], tmp_path / "out", progress=lambda *step: seen.append(step), command="cmd")
    corpus, rules = load(tmp_path / "out")
    assert set(corpus.item_ids(range(6))) == {"AAPL", "007", "1e5", "nan", "True", HEX}
    assert corpus.columns == ("open", "high", "low", "close", "volume")
    np.testing.assert_allclose(values_of(corpus, "007"), ohlcv(60, 1).T, rtol=1e-6)
    manifest = corpus.manifest
    assert (manifest.time, manifest.freq, manifest.seasonality, manifest.timezone) == ("regular", "B", 5, None)
    assert manifest.price_columns == ("open", "high", "low", "close")
    assert manifest.provenance["command"] == "cmd"
    assert len(manifest.provenance["sources"]) == 6
    assert all(rule["items"] == 0 for rule in rules.values())
    assert report.items == 6
    assert report.rows == 360
    assert seen[0][2].endswith(".csv")
    assert seen[-1] == (6, 6, "written")
    summary = (tmp_path / "out" / "data_summary.csv").read_text().splitlines()
    assert summary[0].startswith("symbol,latest_date,total_rows,first_date,missing_share")
    assert f"{HEX},2021-03-26,60,2021-01-04,0.0000,B,60,{HEX}.csv" in summary


@pytest.mark.parametrize(
    "header",
    [
        "date,open,high,low,close,volume",
        "DATE,OPEN,HIGH,LOW,CLOSE,VOLUME",
        "timestamps,o,h,l,c,v",
        "Datetime,Open Price,High_Price,low.price,Close/Last,Vol.",
        "ds,Opening,HIGH,Low,Price,Volume USD",
        ",Open,High,Low,Close,Volume",
        "Unnamed: 0,Open,High,Low,Close,Volume",
    ],
)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_headers_of_any_case_alias_and_separator_are_recognised(tmp_path: Path, header: str, separator: str) -> None:
    path = write_csv(tmp_path / "X.txt.gz", header.replace(",", separator), dates(40), ohlcv(40), separator)
    import_corpus([path], tmp_path / "out")
    corpus, _ = load(tmp_path / "out")
    assert corpus.columns == ("open", "high", "low", "close", "volume")
    assert corpus.item_id(0) == "X"
    np.testing.assert_allclose(corpus.values(0), ohlcv(40).T, rtol=1e-6)


def test_extra_columns_and_adjusted_close_keep_their_place(tmp_path: Path) -> None:
    values = np.column_stack([ohlcv(40), np.arange(1.0, 41), np.arange(40.0) + 0.5, np.ones(40)])
    write_csv(tmp_path / "X.csv", "Date,Open,High,Low,Close,Volume,Adj. Close,VWAP,trade_count", dates(40), values)
    import_corpus([tmp_path / "X.csv"], tmp_path / "out")
    corpus, _ = load(tmp_path / "out")
    assert corpus.columns == ("open", "high", "low", "close", "adj_close", "volume", "vwap", "trade_count")
    assert corpus.manifest.price_columns == ("open", "high", "low", "close", "adj_close", "vwap")
    np.testing.assert_array_equal(values_of(corpus, "X")[4], np.arange(1, 41))


def test_a_long_table_keeps_ids_as_text_and_text_columns_as_categories(tmp_path: Path) -> None:
    ids = ["007", "1e5", "nan", "NA", HEX]
    lines = ["unique_id,ds,y,weather,holiday"]
    for k, item in enumerate(ids):
        lines += [f"{item},{day},{k + t / 10},{['sunny', 'rain', ''][t % 3]},{t % 2 == 0}" for t, day in
                  enumerate(dates(50, business=False))]  # fmt: skip
    (tmp_path / "long.csv").write_text("\n".join(lines))
    import_corpus([tmp_path / "long.csv"], tmp_path / "out")
    corpus, _ = load(tmp_path / "out")
    assert list(corpus.item_ids(range(5))) == ids
    assert [column.kind for column in corpus.manifest.columns] == ["numeric", "categorical", "categorical"]
    assert corpus.manifest.columns[1].categories == ("sunny", "rain")
    assert corpus.manifest.columns[2].categories == ("False", "True")
    np.testing.assert_array_equal(corpus.values(2)[1, :6], [0, 1, np.nan, 0, 1, np.nan])
    np.testing.assert_array_equal(corpus.values(0)[2, :3], [1, 0, 1])
    assert (corpus.manifest.time, corpus.manifest.freq) == ("regular", "D")


@pytest.mark.parametrize("suffix", ["parquet", "feather"])
def test_columnar_files_read_integer_ids_and_zoned_stamps(tmp_path: Path, suffix: str) -> None:
    times = pa.array(np.tile(np.arange(48) * 3_600_000_000, 2), pa.timestamp("us", "America/New_York"))
    table = pa.table(
        {"symbol": np.repeat([7, 12], 48), "time": times, "load": np.arange(96.0), "on": [True, False] * 48}
    )
    path = tmp_path / f"long.{suffix}"
    (pyarrow.parquet.write_table if suffix == "parquet" else pyarrow.feather.write_feather)(table, path)
    import_corpus([path], tmp_path / "out")
    corpus, _ = load(tmp_path / "out")
    assert list(corpus.item_ids(range(2))) == ["7", "12"]
    assert corpus.manifest.timezone == "UTC"
    np.testing.assert_array_equal(corpus.times(0), np.arange(48) * 3_600_000_000)
    np.testing.assert_array_equal(corpus.values(1)[0], np.arange(48, 96))


def test_one_item_in_several_long_files_is_joined(tmp_path: Path) -> None:
    stamps, values = dates(60), ohlcv(60)
    for name, part in (("b", slice(30, 60)), ("a", slice(0, 30))):
        rows = [f"X,{d}," + ",".join(map(repr, v)) for d, v in zip(stamps[part], values[part].tolist(), strict=True)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["ticker,date,open,high,low,close,volume", *rows]))
    import_corpus([tmp_path / "b.csv", tmp_path / "a.csv"], tmp_path / "out")
    corpus, rules = load(tmp_path / "out")
    np.testing.assert_allclose(values_of(corpus, "X"), values.T, rtol=1e-6)
    assert rules["backward_timestamps"]["rows"] == 1


def test_a_wide_table_is_one_multivariate_item_or_a_panel_of_items(tmp_path: Path) -> None:
    values = np.column_stack([np.arange(40.0), np.arange(40.0) * 2, np.full(40, np.nan)])
    values[30:, 2] = 5
    path = write_csv(tmp_path / "panel.csv", "date,AAPL,T,C", dates(40, business=False), values)
    import_corpus([path], tmp_path / "one")
    one, _ = load(tmp_path / "one")
    assert (one.num_series, one.columns) == (1, ("AAPL", "T", "C"))
    import_corpus([path], tmp_path / "many", format="panel")
    many, rules = load(tmp_path / "many")
    assert list(many.item_ids(range(3))) == ["AAPL", "T", "C"]
    assert many.columns == ("target",)
    assert many.lengths.tolist() == [40, 40, 10]
    assert rules["empty_rows"]["rows"] == 30


def test_columns_of_several_assets_side_by_side_become_items(tmp_path: Path) -> None:
    header = ",BTC:open,BTC:high,BTC:low,BTC:close,BTC:volume,ETH:open,ETH:high,ETH:low,ETH:close,ETH:volume"
    values = np.column_stack([ohlcv(40, 1), ohlcv(40, 2)])
    write_csv(tmp_path / "both.csv", header, dates(40, business=False), values)
    import_corpus([tmp_path / "both.csv"], tmp_path / "out")
    corpus, _ = load(tmp_path / "out")
    assert list(corpus.item_ids(range(2))) == ["BTC", "ETH"]
    np.testing.assert_allclose(corpus.values(1), ohlcv(40, 2).T, rtol=1e-6)


def test_tables_without_a_calendar_have_steps(tmp_path: Path) -> None:
    (tmp_path / "heart.csv").write_text("Heart rate\n" + "\n".join(map(str, range(50))))
    import_corpus([tmp_path / "heart.csv"], tmp_path / "rate")
    assert Corpus.open(tmp_path / "rate").manifest.time == "steps"
    steps = [*range(20), *range(22, 50)]
    (tmp_path / "m4.csv").write_text("item_id,t,target\n" + "\n".join(f"H1,{t},{t * 2}" for t in reversed(steps)))
    import_corpus([tmp_path / "m4.csv"], tmp_path / "m4", freq="h")
    corpus, rules = load(tmp_path / "m4")
    assert (corpus.manifest.time, corpus.manifest.freq, corpus.manifest.seasonality) == ("steps", "h", 24)
    np.testing.assert_array_equal(corpus.values(0)[0, 18:24], [36, 38, np.nan, np.nan, 44, 46])
    assert rules["gap"]["rows"] == 2


@pytest.mark.parametrize(("shape", "items", "columns"), [((50,), 1, 1), ((3, 50), 3, 1), ((3, 2, 50), 3, 2)])
def test_arrays_of_one_two_or_three_dimensions(
    tmp_path: Path, shape: tuple[int, ...], items: int, columns: int
) -> None:
    array = np.random.default_rng(0).normal(size=shape)
    np.save(tmp_path / "x.npy", array)
    import_corpus([tmp_path / "x.npy"], tmp_path / "out")
    corpus, _ = load(tmp_path / "out")
    assert (corpus.num_series, len(corpus.columns)) == (items, columns)
    np.testing.assert_allclose(corpus.values(items - 1), array.reshape(items, columns, 50)[-1], rtol=1e-6)


def test_an_archive_has_one_item_a_key_and_pickles_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.arange(40.0), b=np.arange(60.0))
    import_corpus([tmp_path / "x.npz"], tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    assert list(corpus.item_ids(range(2))) == ["a", "b"]
    assert corpus.lengths.tolist() == [40, 60]
    np.save(tmp_path / "bad.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(
        DataError, match=r"bad\.npy: no arrays of numbers .* \(it holds objects, which only pickle reads"
    ):
        import_corpus([tmp_path / "bad.npy"], tmp_path / "never")


def test_a_datasets_folder_is_imported_with_its_covariates(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {
        "item_id": ["a", "b"],
        "start": [np.datetime64("2021-01-01", "us").item()] * 2,
        "freq": ["D", "D"],
        "target": [np.arange(40.0).tolist(), np.arange(50.0).tolist()],
        "past_feat_dynamic_real": [[np.arange(40.0).tolist()], [np.arange(50.0).tolist()]],
    }
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "hf")
    import_corpus([tmp_path / "hf"], tmp_path / "out")
    corpus, _ = load(tmp_path / "out")
    assert list(corpus.item_ids(range(2))) == ["a", "b"]
    assert len(corpus.columns) == 2
    assert (corpus.manifest.time, corpus.manifest.freq) == ("regular", "D")
    np.testing.assert_array_equal(corpus.values(1)[0], np.arange(50))
    reopened = datasets.load_from_disk(str(tmp_path / "out"))
    assert reopened[1]["target"][0][:3] == [0.0, 1.0, 2.0]


# Text


def test_comment_lines_byte_order_marks_and_encodings_are_handled(tmp_path: Path) -> None:
    bars_csv(tmp_path / "a.csv", head="Created on 10-17-2019,https://example.org\n")
    report = import_corpus([tmp_path / "a.csv"], tmp_path / "a")
    assert (report.notes[0].code, report.notes[0].counts) == (Code.LINES_SKIPPED, {"lines": 1})
    bars_csv(tmp_path / "b.csv", head="\ufeff")
    import_corpus([tmp_path / "b.csv"], tmp_path / "b")
    assert Corpus.open(tmp_path / "b").fingerprint == Corpus.open(tmp_path / "b").fingerprint
    text = "date,Temperatur (°C)\n" + "\n".join(f"{d},{k}" for k, d in enumerate(dates(40)))
    (tmp_path / "c.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"c\.csv: line 1 is not UTF-8 text; name its encoding"):
        import_corpus([tmp_path / "c.csv"], tmp_path / "c")
    import_corpus([tmp_path / "c.csv"], tmp_path / "c", encoding="latin-1")
    assert Corpus.open(tmp_path / "c").columns == ("Temperatur (°C)",)


def test_a_file_without_header_needs_the_option(tmp_path: Path) -> None:
    rows = [
        f"{d.replace('-', '')} 093000;" + ";".join(map(repr, v))
        for d, v in zip(dates(40), ohlcv(40).tolist(), strict=True)
    ]
    (tmp_path / "nt.csv").write_text("\n".join(rows))
    with pytest.raises(DataError, match=r"line 1 looks like data .* Say --no-header"):
        import_corpus([tmp_path / "nt.csv"], tmp_path / "out")
    names = ("time", "open", "high", "low", "close", "volume")
    import_corpus([tmp_path / "nt.csv"], tmp_path / "out", header=False, names=names)
    corpus, _ = load(tmp_path / "out")
    assert corpus.columns == names[1:]
    assert corpus.manifest.first_time == "2021-01-04T09:30:00.000000"


def test_a_footer_or_truncated_last_line_is_left_out_and_reported(tmp_path: Path) -> None:
    path = bars_csv(tmp_path / "a.csv")
    path.write_text(path.read_text() + "2021-03-29,100.1,1")
    import_corpus([path], tmp_path / "out")
    corpus, rules = load(tmp_path / "out")
    assert corpus.lengths.tolist() == [60]
    assert rules["truncated_row"]["examples"][0]["line"] == 62


def test_numbers_in_the_usual_national_spellings_are_read(tmp_path: Path) -> None:
    rows = [f'"Jan {d + 1:02d}, 2021",{d}.5,"1,234.{d:02d}",{d}.5M,{d}%' for d in range(31)]
    (tmp_path / "a.csv").write_text("\n".join(["Date,x,y,z,Change %", *rows]))
    import_corpus([tmp_path / "a.csv"], tmp_path / "a")
    np.testing.assert_allclose(Corpus.open(tmp_path / "a").values(0)[:, 3], [3.5, 1234.03, 3.5e6, 3], rtol=1e-6)
    (tmp_path / "b.csv").write_text("\n".join(["Datum;x", *[f"{d + 1:02d}.01.2021;1.234,{d}" for d in range(31)]]))
    import_corpus([tmp_path / "b.csv"], tmp_path / "b", timestamp_column="Datum")
    np.testing.assert_allclose(Corpus.open(tmp_path / "b").values(0)[0, 7], 1234.7, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "the file is empty"),
        ("date,x\n", {}, "no rows below the header"),
        ("Just text.\nNothing, really.\nBye.\n", {}, r"no rows below the header, which line 2 seems to be \('Nothing'"),
        ("date,x\n2021-01-04,1\n2021-01-05,abc\n", {}, r"line 3, column 'x': 'abc' is text in a number column"),
        ("date,x\n2021-01-04,1\n2021-13-05,2\n", {}, r"line 3, column 'date': '2021-13-05' is not a"),
        ("date,x\n2021-01-04,1\noops,2\n", {}, r"'oops' is not a time stamp like the first .*; repair or remove it"),
        ("date,x\n01/02/2021,1\n02/02/2021,2\n", {}, "dates like 01/02/2021 could be day first or month"),
        ("date,x\n2021-01-04 10:00,1\n2021-01-05 10:00+01:00,2\n", {},
         "line 2, .* without offset among stamps with one; give all an offset, or none"),
        ("date,x\n2021-01-04,1\n2021-01-05,1,2\n2021-01-06,3\n", {}, "line 3 has 3 fields, the header 2"),
        ("date,x,x\n2021-01-04,1,2\n", {}, "column 'x' appears twice"),
        ("a,b\n1,2,3\n2,3,4\n", {}, "line 1 has 2 fields, the lines below 3"),
        ("date,x\n2021-01-04,\"1,234\"\n", {}, r"a comma that may part thousands \(1234\) or decimals \(1\.234\)"),
        ("date,day,x\n2021-01-04,a,1\n", {"columns": ("y",)}, "no column 'y'. It has 'date', 'day', 'x'"),
        ("date,price\n2021-01-04,1\n", {"target": ("prize",)}, "no column 'prize'. Did you mean 'price'"),
        ("item_id,unique_id,x\na,b,1\n", {}, "both look like the item id; choose with --id-column"),
        ("item_id,date,x\na,2021-01-04,1\n,2021-01-05,1\n", {}, "line 3: column 'item_id' has no item id"),
        ("time,date,x\n2021-01-04 10:00,2021-01-03,1\n", {}, "both look like the time stamp; choose with --time"),
        ("date,x\n2021-01-04,1\n", {"freq": "fortnight"}, "freq='fortnight' is not a forward pandas frequency alias"),
        ("date,x\n2021-01-04,1\n", {"timezone": "Mars/Olympus"}, "timezone 'Mars/Olympus' is not known"),
        ("date,x\n2021-01-04,1\n", {"adjust": True}, "--adjust needs columns close and adj_close"),
    ],
)  # fmt: skip
def test_unreadable_text_fails_with_one_clear_line_and_leaves_nothing(
    tmp_path: Path, text: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        import_corpus([tmp_path / "bad.csv"], tmp_path / "out", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.csv"]


def test_missing_and_unknown_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        import_corpus([tmp_path / "nowhere"], tmp_path / "out")
    (tmp_path / "x.xls").write_text("")
    with pytest.raises(DataError, match=r"x\.xls: not a kind of file"):
        import_corpus([tmp_path / "x.xls"], tmp_path / "out")
    bars_csv(tmp_path / "mixed" / "a.csv")
    np.save(tmp_path / "mixed" / "b.npy", np.arange(40.0))
    with pytest.raises(DataError, match=r"found 1 table input\(s\), 1 array input\(s\).*--format"):
        import_corpus([tmp_path / "mixed"], tmp_path / "out")
    import_corpus([tmp_path / "mixed"], tmp_path / "out", format="array")
    assert Corpus.open(tmp_path / "out").item_id(0) == "b"
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match=r"bad\.parquet: damaged"):
        import_corpus([tmp_path / "bad.parquet"], tmp_path / "never")
    (tmp_path / "bad.csv.gz").write_bytes(gzip.compress(b"date,x\n" * 1000)[:40])
    with pytest.raises(DataError, match=r"bad\.csv\.gz: damaged gzip"):
        import_corpus([tmp_path / "bad.csv.gz"], tmp_path / "never")


def test_two_files_of_one_name_are_not_silently_joined(tmp_path: Path) -> None:
    bars_csv(tmp_path / "in" / "old" / "GOOG.csv")
    bars_csv(tmp_path / "in" / "new" / "GOOG.csv", seed=1)
    with pytest.raises(DataError, match="both give the item 'GOOG'"):
        import_corpus([tmp_path / "in"], tmp_path / "out")


def test_parts_of_a_series_in_several_files_are_joined_by_a_pattern(tmp_path: Path) -> None:
    stamps, values = dates(80), ohlcv(80)
    for year, part in ((2021, slice(0, 40)), (2022, slice(40, 80))):
        write_csv(tmp_path / "in" / f"SPY-{year}.csv", "date,open,high,low,close,volume", stamps[part], values[part])
    with pytest.raises(DataError, match=r"the name without folder and ending, 'SPY-2021', does not match id_pattern"):
        import_corpus([tmp_path / "in"], tmp_path / "out", id_pattern=r"^([A-Z]+)-\d+\.csv$")
    import_corpus([tmp_path / "in"], tmp_path / "out", id_pattern="^([A-Z]+)-")
    corpus, _ = load(tmp_path / "out")
    assert corpus.item_id(0) == "SPY"
    np.testing.assert_allclose(corpus.values(0), values.T, rtol=1e-6)


# Time


@pytest.mark.parametrize(
    ("stamps", "options", "first", "timezone"),
    [
        (["{}-01-2021".format(f"{d:02d}") for d in range(1, 31)], {}, "2021-01-01", None),
        ([f"1/{d}/2021 9:30" for d in range(1, 31)], {}, "2021-01-01T09:30", None),
        ([f"1/{d}/2021" for d in range(1, 11)], {"dayfirst": False}, "2021-01-01", None),
        ([f"{d}/1/2021" for d in range(1, 11)], {"dayfirst": True}, "2021-01-01", None),
        ([f"202101{d:02d}.0" for d in range(1, 31)], {}, "2021-01-01", None),
        ([str(1609459200 + 3600 * k + 60) for k in range(30)], {}, "2021-01-01T00:01", "UTC"),
        ([str(1609459200000 + 3600000 * k + 60000) for k in range(30)], {}, "2021-01-01T00:01", "UTC"),
        ([f"2021-01-01 {k:02d}-AM" for k in range(1, 12)], {}, "2021-01-01T01:00", None),
        ([f"2021-01-01T{k:02d}:00:00Z" for k in range(1, 24)], {}, "2021-01-01T01:00", "UTC"),
        ([f"2021-01-01T{k:02d}:00:00+05:30" for k in range(6, 24)], {}, "2021-01-01T00:30", "UTC"),
        ([f"2021-01-{d:02d} 00:00:00-05:00" for d in range(1, 31)], {}, "2021-01-01", None),
        ([f"2021-07-01 {k:02d}:30" for k in range(1, 24)], {"timezone": "America/New_York"}, "2021-07-01T05:30", "UTC"),
    ],
)  # fmt: skip
def test_stamps_of_many_layouts_and_zones(
    tmp_path: Path, stamps: list[str], options: dict[str, Any], first: str, timezone: str | None
) -> None:
    write_csv(tmp_path / "x.csv", "time,x", stamps, np.arange(len(stamps), dtype=float)[:, None])
    import_corpus([tmp_path / "x.csv"], tmp_path / "out", **options)
    manifest = Corpus.open(tmp_path / "out").manifest
    assert manifest.timezone == timezone
    assert np.datetime64(manifest.first_time) == np.datetime64(first)
    assert manifest.time == "regular"


def test_a_date_and_a_time_of_day_are_read_together(tmp_path: Path) -> None:
    rows = [f"{d},{t},1.5" for d in dates(10) for t in ("0930", "1030", "1130")]
    (tmp_path / "x.csv").write_text("\n".join(["Date,Time,x", *rows]))
    import_corpus([tmp_path / "x.csv"], tmp_path / "out")
    manifest = Corpus.open(tmp_path / "out").manifest
    assert (manifest.freq, manifest.bars_per_session, manifest.seasonality) == ("h", 3, 3)
    assert manifest.first_time == "2021-01-04T09:30:00.000000"


def test_naive_beside_zoned_stamps_are_refused_dropped_or_localised(tmp_path: Path) -> None:
    for name, tail in (("a", ""), ("b", "+00:00"), ("c", "+00:00")):
        stamps = [f"2021-01-{1 + k // 24:02d} {k % 24:02d}:00{tail}" for k in range(72)]
        write_csv(
            tmp_path / "in" / f"{name}.csv", "time,x", stamps, np.random.default_rng(ord(name)).normal(size=(72, 1))
        )
    with pytest.raises(DataError, match=r"item 'a' has stamps without offset, item 'b' has an offset .*--timezone"):
        import_corpus([tmp_path / "in"], tmp_path / "fix")
    report = import_corpus([tmp_path / "in"], tmp_path / "drop", on_bad="drop")
    assert (report.items, list(report.dropped)) == (2, ["a"])
    import_corpus([tmp_path / "in"], tmp_path / "zone", timezone="Asia/Tokyo")
    corpus = Corpus.open(tmp_path / "zone")
    assert corpus.num_series == 3
    assert corpus.times(0)[0] == corpus.times(1)[0] - 9 * 3_600_000_000


def test_gaps_become_missing_rows_on_a_regular_axis_and_a_big_hole_does_not(tmp_path: Path) -> None:
    stamps = [str(np.datetime64("2021-01-01T00:00") + np.timedelta64(h, "h")) for h in range(24 * 20)]
    values = np.arange(len(stamps), dtype=float)[:, None]
    kept = np.delete(np.arange(len(stamps)), [50, 51, 200])
    write_csv(tmp_path / "x.csv", "time,x", [stamps[k] for k in kept], values[kept])
    report = import_corpus([tmp_path / "x.csv"], tmp_path / "out")
    corpus, rules = load(tmp_path / "out")
    assert (corpus.manifest.time, corpus.lengths.tolist()) == ("regular", [480])
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(corpus.values(0)[0])), [50, 51, 200])
    assert (rules["gap"]["rows"], rules["gap"]["action"]) == (3, "NaN rows added")
    assert [note.counts for note in report.notes if note.code == Code.ROWS_ADDED] == [{"rows": 3}]
    kept = np.r_[0:100, 300:480]
    write_csv(tmp_path / "y.csv", "time,x", [stamps[k] for k in kept], values[kept])
    import_corpus([tmp_path / "y.csv"], tmp_path / "hole")
    corpus, rules = load(tmp_path / "hole")
    assert (corpus.manifest.time, corpus.manifest.freq, corpus.lengths.tolist()) == ("stamps", "h", [280])
    assert (rules["gap"]["rows"], rules["gap"]["action"]) == (200, "reported")


def test_session_bars_are_never_filled(tmp_path: Path) -> None:
    days = dates(30)
    stamps = [f"{day} {9 + (30 + 5 * k) // 60:02d}:{(30 + 5 * k) % 60:02d}" for day in days for k in range(78)]
    kept = np.delete(np.arange(len(stamps)), [500, 501])
    write_csv(tmp_path / "x.csv", "time,open,high,low,close,volume", [stamps[k] for k in kept], ohlcv(len(kept)))
    import_corpus([tmp_path / "x.csv"], tmp_path / "out")
    corpus, rules = load(tmp_path / "out")
    manifest = corpus.manifest
    assert (manifest.time, manifest.freq, manifest.bars_per_session, manifest.seasonality) == ("stamps", "5min", 78, 78)
    assert (rules["gap"]["items"], rules["gap"]["rows"]) == (1, 2)
    assert corpus.lengths.tolist() == [len(kept)]


def test_mixed_frequencies_are_kept_with_a_warning_or_the_rarer_dropped(tmp_path: Path) -> None:
    for k in range(3):
        write_csv(tmp_path / "in" / f"d{k}.csv", "date,x", dates(60, business=False), ohlcv(60, k)[:, :1])
    months = [f"{2000 + k // 12}-{1 + k % 12:02d}-01" for k in range(60)]
    write_csv(tmp_path / "in" / "m.csv", "date,x", months, ohlcv(60, 9)[:, :1])
    report = import_corpus([tmp_path / "in"], tmp_path / "fix")
    assert (report.items, report.time, report.freq) == (4, "stamps", None)
    assert report.rules["mixed_frequencies"]["items"] == 1
    report = import_corpus([tmp_path / "in"], tmp_path / "drop", on_bad="drop")
    assert (report.items, report.time, report.freq, list(report.dropped)) == (3, "regular", "D", ["m"])
    with pytest.raises(DataError, match="--freq h, but the stamps look like D"):
        import_corpus([tmp_path / "in"], tmp_path / "never", freq="h")


# Rules through the whole import


def dirty_folder(folder: Path) -> Path:
    """Three clean symbols and one with every row defect."""
    for k in range(3):
        bars_csv(folder / f"OK{k}.csv", 80, k)
    values, stamps = ohlcv(80, 7), dates(80)
    values[10, 3] = -1
    values[11, 4] = -5
    values[12, 1] = 1
    values[13, 4] = 0
    values[20, 2] = np.inf
    values[30, 0] = 0
    order = [*range(40), 39, *range(40, 80)]
    stamps[50], stamps[51] = stamps[51], stamps[50]
    write_csv(folder / "BAD.csv", "Date,Open,High,Low,Close,Volume", [stamps[k] for k in order], values[order])
    return folder


def test_fix_repairs_what_is_certain_and_reports_the_rest(tmp_path: Path) -> None:
    report = import_corpus([dirty_folder(tmp_path / "in")], tmp_path / "out")
    corpus, rules = load(tmp_path / "out")
    found = {name: rule["rows"] for name, rule in rules.items() if rule["rows"]}
    assert found == {
        "backward_timestamps": 1, "identical_rows": 1, "non_finite": 1, "negative_price": 1, "zero_price": 1,
        "ohlc_inconsistent": 2, "negative_volume": 1, "zero_volume": 1, "missing": 3,
    }  # fmt: skip
    bad = values_of(corpus, "BAD")
    assert bad.shape == (5, 80)
    assert bad[3, 10] == -1
    assert np.isnan([bad[4, 11], bad[2, 20], bad[0, 30]]).all()
    assert rules["negative_price"]["examples"][0] == {
        "item": "BAD", "file": "BAD.csv", "line": 12, "time": "2021-01-18", "detail": "close = -1"
    }  # fmt: skip
    assert "negative_price (warning): 1 item, 1 row -> reported" in report.text()


def test_drop_leaves_out_bad_rows_and_error_refuses_everything(tmp_path: Path) -> None:
    folder = dirty_folder(tmp_path / "in")
    import_corpus([folder], tmp_path / "drop", on_bad="drop")
    assert values_of(Corpus.open(tmp_path / "drop"), "BAD").shape[1] < 75
    with pytest.raises(
        DataError, match=r"(?s)refused.*backward_timestamps.*negative_price.*item 'BAD' file BAD\.csv line 12"
    ):
        import_corpus([folder], tmp_path / "never", on_bad="error")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drop", "in"]


def test_short_identical_and_incomplete_items_follow_the_mode(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for k in range(3):
        bars_csv(folder / f"OK{k}.csv", 80, k)
    bars_csv(folder / "TWIN.csv", 80, 0)
    bars_csv(folder / "SHORT.csv", 10, 5)
    write_csv(folder / "THIN.csv", "Date,Open,High,Low,Close", dates(80), ohlcv(80, 8)[:, :4])
    report = import_corpus([folder], tmp_path / "fix", min_rows=20)
    assert report.dropped == {"SHORT": "too_short (10 rows)"}
    assert {name for name, rule in report.rules.items() if rule["items"]} == {
        "missing", "too_short", "missing_column", "identical_items"
    }  # fmt: skip
    assert np.isnan(values_of(Corpus.open(tmp_path / "fix"), "THIN")[4]).all()
    report = import_corpus([folder], tmp_path / "drop", on_bad="drop")
    assert set(report.dropped) == {"TWIN", "THIN"}


def test_files_that_have_nothing_in_common_are_refused(tmp_path: Path) -> None:
    bars_csv(tmp_path / "in" / "A.csv")
    write_csv(tmp_path / "in" / "weather.csv", "date,rain", dates(60), ohlcv(60)[:, :1])
    with pytest.raises(DataError, match="shares no column with the other 1 item "):
        import_corpus([tmp_path / "in"], tmp_path / "out")


def test_a_column_of_text_in_one_file_and_numbers_in_another_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "in" / "a.csv", "date,x,z", dates(40), ohlcv(40)[:, :2])
    (tmp_path / "in" / "b.csv").write_text("date,x,z\n2021-01-04,1,sun\n2021-01-05,2,rain\n")
    with pytest.raises(DataError, match=r"column 'z' holds numbers in a\.csv and text in b\.csv"):
        import_corpus([tmp_path / "in"], tmp_path / "out")
    import_corpus([tmp_path / "in"], tmp_path / "out", categorical=("z",))
    assert Corpus.open(tmp_path / "out").manifest.columns[1].kind == "categorical"


def test_adjusting_scales_the_bar_and_says_so(tmp_path: Path) -> None:
    values = ohlcv(60)
    adjusted = values[:, 3] * np.where(np.arange(60) < 30, 0.5, 1.0)
    write_csv(
        tmp_path / "X.csv", "Date,Open,High,Low,Close,Volume,Adj Close", dates(60), np.column_stack([values, adjusted])
    )
    import_corpus([tmp_path / "X.csv"], tmp_path / "out", adjust=True)
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.manifest.adjusted
    np.testing.assert_allclose(corpus.values(0)[:4, :30], values[:30, :4].T / 2, rtol=1e-5)
    np.testing.assert_allclose(corpus.values(0)[5], values[:, 4], rtol=1e-6)


# Updating


def test_bytes_that_are_no_text_are_told_from_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\x89\xff\x00\x01" * 20)
    with pytest.raises(DataError, match=r"a\.csv: holds zero bytes, so it is no text .* Export it as CSV"):
        import_corpus([tmp_path / "a.csv"], tmp_path / "out")
