"""Importing archives and folders."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from tests.data.importers.importing import DAYS, first_stamp, imported, items, written

from foretrain.errors import DataError
from foretrain.notes import Code, codes

# Archives


def zipped(path: Path, members: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def bars(level: int) -> str:
    return "\n".join(
        ["date,open,high,low,close", *(f"{day},{level},{level + 2},{level - 1},{level + 1}" for day in DAYS)]
    )


def test_each_table_of_an_archive_is_an_item_named_by_its_member(tmp_path: Path) -> None:
    path = zipped(tmp_path / "in" / "all.zip", {"d/": "", "d/A.csv": bars(10), "d/B.csv": bars(20), "README.md": "x",
                                                "__MACOSX/d/._A.csv": "x"})  # fmt: skip
    corpus, _ = imported(tmp_path, path)
    assert {name: values[0][0] for name, values in items(corpus).items()} == {"A": 10, "B": 20}
    assert [source["name"] for source in corpus.manifest.provenance["sources"]] == [
        "all.zip/d/A.csv",
        "all.zip/d/B.csv",
    ]
    zipped(tmp_path / "in" / "more.zip", {"C.csv": bars(30)})
    corpus, _ = imported(tmp_path)
    assert list(items(corpus)) == ["A", "B", "C"]
    with pytest.raises(DataError, match=r"both give the item 'A'"):
        imported(tmp_path, path, zipped(tmp_path / "again.zip", {"A.csv": bars(11)}))


def test_a_readme_in_an_archive_is_no_table(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("data/x.csv", "\n".join(["date,x", *(f"{day},1" for day in DAYS)]))
        archive.writestr("data/README.txt", "All values, in kWh\nsee x\n")
    assert list(items(imported(tmp_path, tmp_path / "a.zip")[0])) == ["x"]


def test_errors_in_an_archive_name_the_member(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {"a.csv": "date,x\n2024-01-01,1\n2024-01-02,oops\n"})
    with pytest.raises(DataError, match=r"x\.zip/a\.csv: line 3, column 'x': 'oops'"):
        imported(tmp_path, path)
    with pytest.raises(DataError, match=r"no table in the archive \(it holds notes\.md\)"):
        imported(tmp_path, zipped(tmp_path / "y.zip", {"notes.md": "x"}))
    (tmp_path / "z.zip").write_bytes(b"PK\x03\x04 nonsense")
    with pytest.raises(DataError, match="not a zip archive that can be read"):
        imported(tmp_path, tmp_path / "z.zip")


def stored(method: int) -> bytes:
    """Return an archive of one member, packed by a method of zipfile."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr("a.csv", "date,x\n2024-01-01,1\n")
    return packed.getvalue()


def encrypted() -> bytes:
    raw = bytearray(stored(zipfile.ZIP_STORED))
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(header) + flags] |= 1
    return bytes(raw)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(stored(zipfile.ZIP_DEFLATED).replace(b"a.csv", bytes(5)), id="no name"),
        pytest.param(stored(zipfile.ZIP_LZMA).replace(b"\x05\x00\x5d", b"\x05\x00\xff"), id="lzma"),
        pytest.param(encrypted(), id="encrypted"),
        pytest.param(stored(zipfile.ZIP_STORED).replace(b"a.csv", b"\xff.csv", 1), id="two names"),
    ],
)
def test_a_damaged_archive_is_refused_whatever_zipfile_raises(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(raw)
    with pytest.raises(DataError, match=r"x\.zip: (not a zip archive|a\.csv cannot be unpacked|no table in)"):
        imported(tmp_path, tmp_path / "x.zip")


def klines(start: int, count: int, *, unit: int = 1000) -> str:
    rows = []
    for k in range(count):
        opened = (start + 60 * k) * unit
        rows.append(f"{opened},2.0,4.0,1.0,3.0,{k},{opened + 60 * unit - 1},7.5,10,0.5,1.5,0")
    return "\n".join(rows)


@pytest.mark.parametrize("unit", [1000, 1_000_000])
def test_binance_months_without_a_header_are_known_by_their_columns(tmp_path: Path, unit: int) -> None:
    for month, start in (("2024-01", 1704067200), ("2024-02", 1704067200 + 60 * 60)):
        zipped(tmp_path / "in" / f"BTCUSDT-1m-{month}.zip", {f"BTCUSDT-1m-{month}.csv": klines(start, 60, unit=unit)})
    corpus, report = imported(tmp_path, id_pattern="^([A-Z0-9]+)-")
    assert (corpus.item_id(0), corpus.lengths.tolist(), corpus.manifest.freq) == ("BTCUSDT", [120], "min")
    assert corpus.columns == ("open", "high", "low", "close", "volume", "amount", "count", "taker_buy_volume",
                              "taker_buy_quote_volume")  # fmt: skip
    assert corpus.values(0)[:5, 1].tolist() == [2, 4, 1, 3, 1]
    assert Code.COLUMNS_NAMED in codes(report.notes)


# Folders


def test_folders_named_key_value_become_columns(tmp_path: Path) -> None:
    for k, symbol in enumerate(["AAPL", "BRK%2FB"]):
        for half in (0, 1):
            folder = tmp_path / "in" / f"symbol={symbol}" / f"year={2023 + half}"
            folder.mkdir(parents=True)
            days = DAYS[20 * half : 20 * half + 20]
            table = pa.table({"date": days, "close": np.arange(20.0) + k + 2, "open": np.arange(20.0) + 2})
            pyarrow.parquet.write_table(table, folder / "part-0.parquet")
    corpus, _ = imported(tmp_path)
    assert (list(items(corpus)), corpus.columns, corpus.lengths.tolist()) == (
        ["AAPL", "BRK/B"],
        ("open", "close"),
        [40, 40],
    )
    assert corpus.values(1)[1, 0] == 3


def test_keys_that_are_no_known_id_name_the_item_together(tmp_path: Path) -> None:
    for region in ("EU", "US"):
        for k, product in enumerate("xy"):
            path = tmp_path / "in" / f"region={region}" / f"product={product}" / "data.csv"
            written(path, ["date,sales", *(f"{day},{k}" for day in DAYS)])
    corpus, _ = imported(tmp_path)
    assert list(items(corpus)) == ["EU/x", "EU/y", "US/x", "US/y"]
    assert corpus.columns == ("sales",)


def test_months_in_folders_are_parts_of_one_series(tmp_path: Path) -> None:
    for half in (0, 1):
        path = tmp_path / "in" / "year=2024" / f"month={half + 1}" / "part-0.csv"
        written(path, ["date,sales", *(f"{day},{k}" for k, day in enumerate(DAYS[20 * half : 20 * half + 20]))])
    corpus, _ = imported(tmp_path)
    assert (corpus.item_id(0), corpus.columns, corpus.lengths.tolist()) == ("in", ("sales",), [40])


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("symbols.csv", ["symbol,name,exchange", "A,Alpha,N", "B,Beta,N", "C,Gamma,Q"]),
        ("summary.csv", ["Ticker Symbol,rows,mean", "A,40,1.5", "B,40,2.5", "C,40,2.5"]),
        ("overview.csv", ["file,first,last,size", "A,2024-01-01,2024-02-09,5", "B,2024-01-01,2024-02-09,5"]),
        ("data_summary.csv", ["symbol,total_rows", "A,40"]),
        ("README.csv", ["x", "y"]),
    ],
)
def test_a_table_about_the_files_beside_it_is_no_series(tmp_path: Path, name: str, lines: list[str]) -> None:
    for k, symbol in enumerate("ABC"):
        written(tmp_path / "in" / f"{symbol}.csv", bars(10 + k).splitlines())
    written(tmp_path / "in" / name, lines)
    (tmp_path / "in" / "asset_metadata.json").write_text('{"A": {"sector": "x"}}')
    (tmp_path / "in" / "notes.xlsx").write_bytes(b"")
    corpus, report = imported(tmp_path)
    assert list(items(corpus)) == ["A", "B", "C"]
    assert corpus.columns == ("open", "high", "low", "close")
    assert [note.counts for note in report.notes if note.code == Code.FILES_LEFT_OUT] == [{"files": 2}]
    assert (Code.METADATA_LEFT_OUT in codes(report.notes)) == (name not in ("data_summary.csv", "README.csv"))


def test_a_table_about_the_files_is_known_by_the_names_that_a_pattern_finds(tmp_path: Path) -> None:
    for symbol in ("A", "B"):
        written(tmp_path / "in" / f"{symbol}-2024.csv", bars(10).splitlines())
    written(tmp_path / "in" / "symbols.csv", ["symbol,name", "A,Alpha", "B,Beta"])
    corpus, report = imported(tmp_path, id_pattern="^([A-Z]+)-")
    assert (list(items(corpus)), corpus.columns) == (["A", "B"], ("open", "high", "low", "close"))
    assert Code.METADATA_LEFT_OUT in codes(report.notes)


def test_datasets_folders_take_a_freq_and_their_features_and_say_what_is_left_out(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="writes the folder")
    series = [np.arange(40.0).tolist()] * 2
    rows = {
        "item_id": ["a", "b"],
        "start": [np.datetime64("2021-01-01", "us").item()] * 2,
        "target": series,
        "past_feat_dynamic_real": [[s] for s in series],
        "feat_dynamic_real": [[s, (np.array(s) + k).tolist()] for k, s in enumerate(series)],
        "feat_static_cat": [[1], [2]],
    }
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "hf")
    corpus, report = imported(tmp_path, tmp_path / "hf", freq="h")
    assert corpus.columns == ("target", "past_feat_0", "feat_0", "feat_1")
    assert corpus.manifest.past_covariates == ("past_feat_0",)
    assert corpus.manifest.known_covariates == ("feat_0", "feat_1")
    (note,) = [note for note in report.notes if note.code == Code.COVARIATES_BY_NAME]
    assert note.counts == {"past": 1, "known": 2}
    assert corpus.values(1)[3, 0] == 1
    assert (first_stamp(corpus), corpus.manifest.freq) == ("2021-01-01T00:00:00", "h")
    assert any("left out: feat_static_cat" in note.text for note in report.notes)
    corpus, report = imported(tmp_path, tmp_path / "hf")
    assert corpus.manifest.time == "steps"
    rows["feat_dynamic_real"] = [[[*s, 1.0, 2.0]] for s in series]
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "longer")
    corpus, report = imported(tmp_path, tmp_path / "longer", freq="h")
    assert corpus.columns == ("target", "past_feat_0")
    assert any("feat_dynamic_real" in note.text for note in report.notes if note.code == Code.STATIC_LEFT_OUT)
