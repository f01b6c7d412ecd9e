"""Importing tables whose rows are series: columns of times, lists in cells, JSON."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from tests.data.importers.importing import DAYS, first_stamp, imported, items, written

from foretrain.errors import DataError
from foretrain.notes import Code, codes

# Rows that are series


def test_features_over_time_of_gluonts_are_covariates_unless_they_are_named_as_targets(tmp_path: Path) -> None:
    values = [float(k) for k in range(40)]
    rows = [
        {"item_id": name, "start": "2024-01-01", "target": values, "feat_dynamic_real": [values, values[::-1]]}
        | {"past_feat_dynamic_real": [values], "feat_static_cat": [1, 2]}
        for name in ("a", "b")
    ]
    path = written(tmp_path / "x.jsonl", [json.dumps(row) for row in rows])
    corpus, report = imported(tmp_path, path, freq="h")
    manifest = corpus.manifest
    assert manifest.past_covariates == ("past_feat_dynamic_real",)
    assert manifest.known_covariates == ("feat_dynamic_real_0", "feat_dynamic_real_1")
    assert (first_stamp(corpus), manifest.freq, manifest.default_targets) == ("2024-01-01T00:00:00", "h", ("target",))
    assert {Code.COVARIATES_BY_NAME, Code.STATIC_LEFT_OUT} <= codes(report.notes)
    for row in rows:
        row["feat_dynamic_real"] = [[*values, 50.0, 51.0], [*values, 60.0, 61.0]]  # over a horizon of two steps
    ahead, _ = imported(tmp_path, written(tmp_path / "ahead.jsonl", [json.dumps(row) for row in rows]), freq="h")
    assert ahead.lengths.tolist() == [42, 42]
    tails = dict(zip(ahead.columns, ahead.values(1)[:, 39:].tolist(), strict=True))
    assert [tails[f"feat_dynamic_real_{k}"] for k in (0, 1)] == [[39, 50, 51], [39, 60, 61]]
    for name in ("target", "past_feat_dynamic_real"):
        assert tails[name][0] == 39 and np.isnan(tails[name][1:]).all()
    corpus, _ = imported(tmp_path, path, freq="h", target="target,past_feat_dynamic_real")
    assert corpus.manifest.default_targets == ("target", "past_feat_dynamic_real")


@pytest.mark.parametrize(
    ("header", "first", "freq"),
    [
        ([f"2020-{m:02d}" for m in range(1, 13)], "2020-01-01T00:00:00", "MS"),
        ([str(year) for year in range(1990, 2002)], "1990-01-01T00:00:00", "YS"),
        ([f"{year} [YR{year}]" for year in range(1990, 2002)], "1990-01-01T00:00:00", "YS"),
        ([f"X{year}" for year in range(1990, 2002)], "1990-01-01T00:00:00", "YS"),
        ([f"1/{day}/2020" for day in range(10, 22)], "2020-01-10T00:00:00", "D"),
        ([f"2020-01-{day:02d} 00:00:00" for day in range(1, 13)], "2020-01-01T00:00:00", "D"),
        ([f"2020-01-{day:02d}" for day in range(12, 0, -1)], "2020-01-01T00:00:00", "D"),
    ],
)
def test_a_header_of_dates_makes_each_row_a_series(tmp_path: Path, header: list[str], first: str, freq: str) -> None:
    rows = [f"{name},{','.join(str(k + 10 * j) for k in range(12))}" for j, name in enumerate(["DE", "FR", "IT"])]
    path = written(tmp_path / "x.csv", [f"Country,{','.join(header)}", *rows])
    corpus, report = imported(tmp_path, path)
    assert (corpus.columns, corpus.lengths.tolist()) == (("target",), [12, 12, 12])
    values = [k + 10.0 for k in range(12)]
    assert items(corpus)["FR"] == [values if header[0] < header[-1] or "/" in header[0] else values[::-1]]
    assert (first_stamp(corpus), corpus.manifest.freq) == (first, freq)
    assert Code.ROWS_ARE_SERIES in codes(report.notes)


@pytest.mark.parametrize("prefix", ["V", "d_", "t", "week "])
def test_numbered_columns_beside_names_of_series_are_steps(tmp_path: Path, prefix: str) -> None:
    header = ",".join(f"{prefix}{k}" for k in range(1, 42)) if prefix == "V" else ",".join(
        ["id", *(f"{prefix}{k}" for k in range(1, 41))])  # fmt: skip
    rows = [
        f"{name},{','.join(map(str, range(j, j + 40 - 5 * j)))}{',' * 5 * j}" for j, name in enumerate(["H1", "H2"])
    ]
    path = written(tmp_path / "x.csv", [header, *rows])
    corpus, _ = imported(tmp_path, path)
    assert corpus.manifest.time == "steps"
    assert corpus.lengths.tolist() == [40, 35]
    assert items(corpus)["H2"][0][:3] == [1, 2, 3]


def test_names_of_rows_are_the_column_that_differs_or_all_joined(tmp_path: Path) -> None:
    years = [str(year) for year in range(1990, 2030)]
    cells = ",".join(map(str, range(40)))
    other = ",".join(map(str, range(1, 41)))
    bank = ['"Data Source","World Development Indicators",', "", '"Last Updated Date","2024-06-28",', "",
            '"Country Name","Country Code","Indicator Name",' + ",".join(years) + ",",
            f'"Korea, Rep.","KOR","GDP",{cells},', f'"Italy","ITA","GDP",{other},']  # fmt: skip
    corpus, report = imported(tmp_path, written(tmp_path / "bank.csv", bank))
    assert list(items(corpus)) == ["Korea, Rep.", "Italy"]
    assert any("left out: Country Code, Indicator Name" in note.text for note in report.notes)
    joined = ["Province,Country,Lat," + ",".join(years), f"Hubei,China,30.1,{cells}", f"Hebei,China,39.5,{other}",
              f",Italy,41.8,{other.replace('1', '7')}", f",Spain,41.8,{other.replace('1', '8')}"]  # fmt: skip
    path = written(tmp_path / "covid.csv", joined)
    corpus, _ = imported(tmp_path, path)
    assert list(items(corpus)) == ["Hubei/China", "Hebei/China", "Italy", "Spain"]
    with pytest.raises(DataError, match=r"lines 2 and 3 both give the item 'China'.*--id-column"):
        imported(tmp_path, path, id_column="Country")
    path = written(tmp_path / "stores.csv", ["store," + ",".join(years), f"1,{cells}", f"2,{other}"])
    corpus, _ = imported(tmp_path, path)
    assert list(items(corpus)) == ["1", "2"]


def test_format_wide_takes_any_columns_after_the_names_for_times(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", ["site,kind,mon,tue,wed,thu", "a,k,1,2,3,4", "b,k,5,6,7,8"])
    corpus, _ = imported(tmp_path, path, format="wide")
    assert items(corpus) == {"a": [[1, 2, 3, 4]], "b": [[5, 6, 7, 8]]}
    assert corpus.manifest.time == "steps"
    with pytest.raises(DataError, match="no column 'plant'"):
        imported(tmp_path, path, format="wide", id_column="plant")
    for options in ({"target": ("mon",)}, {"columns": ("mon",)}, {"timestamp_column": "mon"}):
        with pytest.raises(DataError, match=r"the only value column is 'target'.*'mon' cannot be chosen"):
            imported(tmp_path, path, format="wide", **options)


def test_numbers_of_a_wide_table_are_read_in_one_spelling(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", ["id;2020;2021;2022", "a;1.234;2,5;3", "b;2.345;1.234,5;4"])
    corpus, _ = imported(tmp_path, path)
    assert items(corpus) == {"a": [[1234, 2.5, 3]], "b": [[2345, 1234.5, 4]]}
    path = written(tmp_path / "y.csv", ["id,2020,2021,2022", "a,1,2,3", "b,4,many,6"])
    with pytest.raises(DataError, match="line 3, column '2021': 'many'"):
        imported(tmp_path, path)


def test_tables_whose_rows_are_times_stay_as_they_are(tmp_path: Path) -> None:
    years = ",".join(str(year) for year in range(2019, 2024))
    months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    path = written(tmp_path / "x.csv", [f"Month,{years}", *(f"{month},1,2,3,4,5" for month in months)])
    with pytest.raises(DataError, match=r"rows are parts of a year .* columns are years"):
        imported(tmp_path, path)
    path = written(tmp_path / "y.csv", ["date,s1,s2,s3,s4,s5", *(f"{day},1,2,3,4,{k}" for k, day in enumerate(DAYS))])
    corpus, _ = imported(tmp_path, path)
    assert (corpus.num_series, corpus.columns) == (1, ("s1", "s2", "s3", "s4", "s5"))
    path = written(tmp_path / "v.csv", ["V1,V2,V3,V4,V5", *(f"{day},1,2,3,{k}" for k, day in enumerate(DAYS))])
    corpus, _ = imported(tmp_path, path, timestamp_column="V1")
    assert corpus.columns == ("V2", "V3", "V4", "V5")
    corpus, _ = imported(tmp_path, path, columns=("V2", "V3", "V4", "V5"))
    assert corpus.num_series == 1


@pytest.mark.parametrize(
    "months",
    [
        "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
        "janv. févr. mars avril mai juin juil. août sept. oct. nov. déc.",
    ],
)
def test_months_of_other_languages_above_years_are_no_items(tmp_path: Path, months: str) -> None:
    lines = ["Name,2019,2020,2021,2022,2023", *(f"{month},1,2,3,4,5" for month in months.split())]
    with pytest.raises(DataError, match=r"rows are parts of a year .* columns are years"):
        imported(tmp_path, written(tmp_path / "x.csv", lines))


# Lists


def chronos_table(**extra: Any) -> pa.Table:
    times = [np.arange(n) * 3_600_000 for n in (40, 50)]
    return pa.table({
        "id": ["T1", "T2"],
        "timestamp": pa.array([t.tolist() for t in times], pa.list_(pa.timestamp("ms"))),
        "target": pa.array([np.arange(n, dtype=float).tolist() for n in (40, 50)], pa.list_(pa.float64())),
        **extra,
    })  # fmt: skip


@pytest.mark.parametrize("suffix", ["parquet", "feather"])
def test_a_series_in_each_row_as_chronos_datasets_are_published(tmp_path: Path, suffix: str) -> None:
    table = chronos_table(temp=[list(range(40)), list(range(50))], category=["a", "b"])
    path = tmp_path / f"x.{suffix}"
    (pyarrow.parquet.write_table if suffix == "parquet" else pyarrow.feather.write_feather)(table, path)
    corpus, report = imported(tmp_path, path)
    assert (list(items(corpus)), corpus.columns, corpus.lengths.tolist()) == (
        ["T1", "T2"],
        ("target", "temp"),
        [40, 50],
    )
    assert (corpus.manifest.freq, first_stamp(corpus, 1)) == ("h", "1970-01-01T00:00:00")
    assert [note.counts for note in report.notes if note.code == Code.STATIC_LEFT_OUT] == [{"columns": 1}]
    corpus, _ = imported(tmp_path, path, columns=("target",))
    assert corpus.columns == ("target",)


def test_lists_of_lists_are_several_columns_and_start_and_freq_make_stamps(tmp_path: Path) -> None:
    target = [[list(range(40)), list(range(1, 41))], [list(range(2, 42)), list(range(3, 43))]]
    table = pa.table(
        {"item_id": ["a", "b"], "start": ["2024-01-01", "2024-02-01"], "freq": ["D", "D"], "target": target}
    )
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    corpus, _ = imported(tmp_path, tmp_path / "x.parquet")
    assert corpus.columns == ("target_0", "target_1")
    assert corpus.values(1)[:, 0].tolist() == [2, 3]
    assert (first_stamp(corpus, 1), corpus.manifest.freq) == ("2024-02-01T00:00:00", "D")
    pyarrow.parquet.write_table(table.drop_columns(["freq"]), tmp_path / "y.parquet")
    corpus, report = imported(tmp_path, tmp_path / "y.parquet")
    assert corpus.manifest.time == "steps"
    assert Code.START_WITHOUT_FREQ in codes(report.notes)
    corpus, _ = imported(tmp_path, tmp_path / "y.parquet", freq="MS")
    assert (first_stamp(corpus), corpus.manifest.freq) == ("2024-01-01T00:00:00", "MS")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"temp": [list(range(40)), list(range(49))]}, "row 2: the list 'temp' has 49 values, others of the row 50"),
        ({"temp": [None, list(range(50))]}, "row 1: the list 'temp' has 0 values"),
    ],
)
def test_lists_of_different_lengths_are_refused(tmp_path: Path, extra: dict[str, Any], message: str) -> None:
    pyarrow.parquet.write_table(chronos_table(**extra), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=message):
        imported(tmp_path, tmp_path / "x.parquet")


def test_series_with_empty_lists_are_left_out_with_a_note(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"id": ["a", "b"], "target": [[1.0] * 40, []]}), tmp_path / "x.parquet")
    corpus, report = imported(tmp_path, tmp_path / "x.parquet")
    assert list(items(corpus)) == ["a"]
    assert Code.EMPTY_SERIES_LEFT_OUT in codes(report.notes)
    empty = pa.table({"id": ["a"], "target": pa.array([[]], pa.list_(pa.float64()))})
    pyarrow.parquet.write_table(empty, tmp_path / "y.parquet")
    with pytest.raises(DataError, match="every list 'target' is empty"):
        imported(tmp_path, tmp_path / "y.parquet")


@pytest.mark.parametrize("name", ["x", "item_id", "date"])
def test_lists_in_single_cells_of_a_long_table_are_refused(tmp_path: Path, name: str) -> None:
    days = pa.array(DAYS)
    columns = {"date": days, "y": np.arange(40.0), name: [[1, 2]] * 40}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=rf"'{name}'"):
        imported(tmp_path, tmp_path / "x.parquet")


@pytest.mark.parametrize(
    "column",
    [[{"a": 1}] * 40, [b"\xff"] * 40, pa.array([[(1, 2)]] * 40, pa.map_(pa.int64(), pa.int64()))],
)
@pytest.mark.parametrize("name", ["x", "item_id", "timestamp", "t"])
def test_cells_that_are_neither_number_nor_text_are_refused_wherever_they_stand(
    tmp_path: Path, column: Any, name: str
) -> None:
    pyarrow.parquet.write_table(pa.table({"y": np.arange(40.0), name: column}), tmp_path / "x.parquet")
    with pytest.raises(DataError):
        imported(tmp_path, tmp_path / "x.parquet")


# JSON


def test_records_are_read_from_an_array_and_from_lines(tmp_path: Path) -> None:
    records = [{"item_id": "007", "date": day, "y": k, "note": None} for k, day in enumerate(DAYS)]
    (tmp_path / "a.json").write_text(json.dumps(records))
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "c.ndjson.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
    for name in ("a.json", "b.jsonl", "c.ndjson.gz"):
        corpus, _ = imported(tmp_path, tmp_path / name, columns=("y",))
        assert items(corpus) == {"007": [[float(k) for k in range(40)]]}
        assert first_stamp(corpus) == "2024-01-01T00:00:00"


def test_json_lines_with_a_series_each_are_unfolded(tmp_path: Path) -> None:
    lines = [{"item_id": f"s{k}", "start": "2024-01-01 00:00:00", "target": list(range(k, k + 40))} for k in range(2)]
    (tmp_path / "x.json").write_text("\n".join(map(json.dumps, lines)))
    corpus, _ = imported(tmp_path, tmp_path / "x.json", freq="h")
    assert (list(items(corpus)), corpus.manifest.freq) == (["s0", "s1"], "h")
    assert corpus.values(1)[0, 0] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("[]", "no rows"),
        ('{"Note": "limit reached"}', "one JSON object with the keys 'Note', not a table"),
        ('{"Time Series (Daily)": {"2024-01-01": {"close": 1}}}', "one JSON object with the keys 'Time Series"),
        ("[[1, 2], [3, 4]]", "JSON, but not of objects"),
        ('{"a": 1}\n{"a": ', "line 2 is not JSON"),
        ('[{"a": {"b": 1}}]', "key 'a' holds objects in objects"),
        ('[{"a": [1]}, {"a": 1}]', "key 'a' holds values of several kinds"),
        ("<html><body>Busy</body></html>", "looks like an HTML page"),
        ('{"a": 99999999999999999999999999}\n{"a": 1}', "key 'a' holds values"),
    ],
)
def test_json_that_is_no_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=message):
        imported(tmp_path, tmp_path / "x.json")
