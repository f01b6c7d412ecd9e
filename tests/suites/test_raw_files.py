"""Files as their publishers offer them, hub folders and corpora become the same series."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.test_app import foretrain
from tests.suites.rda_files import competition, matrix, named_list, rda, reals

from foretrain.errors import DataError
from foretrain.suites.definition import RawSource, RawUse
from foretrain.suites.raw_files import missing_files, read_corpus, read_hub_parquet, read_raw

TABLE = "date,load,temp\n2024-01-01 00:00:00,1.5,20\n2024-01-01 01:00:00,2.5,\n"


def source(reader: str, *files: str, **more: Any) -> RawSource:
    facts = {"reader": reader, "files": files, "origin": "github.com/someone/data", "licence": "MIT"}
    return RawSource.model_validate(facts | more)


def use(**keys) -> RawUse:
    return RawUse(source="x", **keys)


def pack(path: Path, **members: str) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        for name, text in members.items():
            packed.writestr(f"folder/{name}.csv", text)


def write_parquet(path: Path, columns: dict) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.mark.parametrize("packing", ["plain", "gz", "zip"])
def test_a_table_is_found_plain_compressed_or_in_its_archive(tmp_path, packing):
    wanted = source("table", "load.csv", archive="all.zip")
    assert missing_files(tmp_path, wanted) == ["load.csv"]
    if packing == "plain":
        (tmp_path / "load.csv").write_text(TABLE)
    elif packing == "gz":
        (tmp_path / "load.csv.gz").write_bytes(gzip.compress(TABLE.encode()))
    else:
        pack(tmp_path / "all.zip", load=TABLE, other="a,b\n")
    assert missing_files(tmp_path, wanted) == []
    (found,) = read_raw(tmp_path, wanted, use())
    assert (found.item_id, found.variates) == ("load", ("load", "temp"))
    np.testing.assert_array_equal(found.values, [[1.5, 2.5], [20.0, np.nan]])
    assert found.stamps is not None and str(found.stamps[1]) == "2024-01-01T01:00:00.000000"


def test_a_table_in_its_publisher_s_dialect_is_read(tmp_path):
    (tmp_path / "air.csv").write_text("Date;Time; CO ;T\n31/12/2004;23.00.00;2.5;-200\n01/01/2005;00.00.00;-200;7\n")
    dialect = {"separator": ";", "missing": -200, "stamp_columns": 2, "stamp_format": "%d/%m/%Y %H.%M.%S"}
    (found,) = read_raw(tmp_path, source("table", "air.csv", rename={"CO": "target"}, **dialect), use())
    assert found.variates == ("target", "T")
    np.testing.assert_array_equal(found.values, [[2.5, np.nan], [np.nan, 7.0]])
    assert found.stamps is not None and str(found.stamps[0]) == "2004-12-31T23:00:00.000000"


def test_columns_may_have_a_header(tmp_path):
    (tmp_path / "regions.csv").write_text("North, South\n1,2\n3,4\n")
    found = read_raw(tmp_path, source("columns", "regions.csv", header=True), use(split=True))
    assert [(one.item_id, one.values.tolist()) for one in found] == [
        ("regions_North", [[1.0, 3.0]]),
        ("regions_South", [[2.0, 4.0]]),
    ]


def test_columns_without_stamps_are_items_if_split(tmp_path):
    (tmp_path / "rates.txt").write_text("1.0,2.0\n3.0,4.0\n")
    found = read_raw(tmp_path, source("columns", "rates.txt"), use(split=True))
    assert [(one.item_id, one.values.tolist()) for one in found] == [
        ("rates_0", [[1.0, 3.0]]),
        ("rates_1", [[2.0, 4.0]]),
    ]
    assert found[0].stamps is None


def test_training_and_test_rows_of_the_m4_competition_are_joined(tmp_path):
    (tmp_path / "train.csv").write_text('"V1","V2","V3","V4"\n"H1",1,2,\n"H2",4,5,6\n')
    (tmp_path / "test.csv").write_text('"V1","V2"\n"H2",7\n"H1",3\n')
    found = read_raw(tmp_path, source("m4", "train.csv", "test.csv"), use())
    assert {one.item_id: one.values.tolist() for one in found} == {"H1": [[1, 2, 3]], "H2": [[4, 5, 6, 7]]}
    (tmp_path / "test.csv").write_text('"V1","V2"\n"H2",7\n')
    with pytest.raises(DataError, match="H1 has training values and no test values"):
        read_raw(tmp_path, source("m4", "train.csv", "test.csv"), use())


def test_a_competition_is_read_by_period(tmp_path):
    items = {"Y1": ("YEARLY", [1.0, 2.0], [3.0]), "M1": ("MONTHLY", [4.0], [5.0])}
    (tmp_path / "M1.rda.gz").write_bytes(gzip.compress(gzip.compress(rda("M1", competition(items)))))
    (found,) = read_raw(tmp_path, source("competition", "M1.rda"), use(period="YEARLY"))
    assert (found.item_id, found.values.tolist()) == ("Y1", [[1, 2, 3]])
    with pytest.raises(DataError, match="no series of period WEEKLY"):
        read_raw(tmp_path, source("competition", "M1.rda"), use(period="WEEKLY"))


def test_r_data_of_another_form_are_named(tmp_path):
    (tmp_path / "M1.rda").write_bytes(rda("M1", named_list({"Y1": named_list({"x": reals([1.0])})})))
    with pytest.raises(DataError, match=r"M1\.rda: holds values that cannot be used \(no 'period'\)"):
        read_raw(tmp_path, source("competition", "M1.rda"), use(period="YEARLY"))


def test_columns_of_a_matrix_may_be_kept_only_if_complete(tmp_path):
    (tmp_path / "parts.rda").write_bytes(rda("parts", matrix(np.array([[1.0, 2.0], [np.nan, 3.0]]))))
    assert len(read_raw(tmp_path, source("matrix", "parts.rda"), use())) == 2
    (found,) = read_raw(tmp_path, source("matrix", "parts.rda"), use(complete=True))
    assert found.values.tolist() == [[1.0, 2.0]]
    (tmp_path / "parts.rda").write_bytes(rda("parts", reals([1.0])))
    with pytest.raises(DataError, match="no matrix"):
        read_raw(tmp_path, source("matrix", "parts.rda"), use())


MONASH = (
    "# 822\u2013844\n@relation Tourism\n@attribute series_name string\n@attribute start_timestamp date\n"
    "@frequency quarterly\n@data\nT1:1979-01-01 00-00-00:1.25,?,3\nT2:1980-04-01 00-00-00:4,5\n"
).encode("cp1252")


@pytest.mark.parametrize("packing", ["plain", "gz", "zip"])
def test_series_of_the_monash_archive_have_stamps_and_missing_values(tmp_path, packing):
    wanted = source("monash", "t.tsf", archive="t.zip")
    if packing == "zip":
        with zipfile.ZipFile(tmp_path / "t.zip", "w") as packed:
            packed.writestr("t.tsf", MONASH)
    else:
        name = "t.tsf" if packing == "plain" else "t.tsf.gz"
        (tmp_path / name).write_bytes(MONASH if packing == "plain" else gzip.compress(MONASH))
    first, second = read_raw(tmp_path, wanted, use())
    assert (first.item_id, first.variates, second.item_id) == ("T1", ("target",), "T2")
    np.testing.assert_array_equal(first.values, [[1.25, np.nan, 3.0]])
    assert first.stamps is not None and second.stamps is not None
    assert first.stamps.astype("M8[D]").astype(str).tolist() == ["1979-01-01", "1979-04-01", "1979-07-01"]
    assert str(second.stamps[1]) == "1980-07-01T00:00:00.000000"
    (complete,) = read_raw(tmp_path, wanted, use(complete=True))
    assert complete.values.tolist() == [[4.0, 5.0]]


def test_series_of_the_monash_archive_without_starts_or_names_have_steps(tmp_path):
    (tmp_path / "t.tsf").write_text("@attribute horizon numeric\n@frequency monthly\n@data\n6:1,2\n12:3\n")
    found = read_raw(tmp_path, source("monash", "t.tsf"), use())
    assert [(one.item_id, one.values.tolist()) for one in found] == [("0", [[1, 2]]), ("1", [[3]])]
    assert found[0].stamps is None
    (tmp_path / "t.tsf").write_text("@attribute horizon numeric\n@data\n6:1,x\n")
    with pytest.raises(DataError, match=r"t\.tsf: line 3: value 2 'x' is no number"):
        read_raw(tmp_path, source("monash", "t.tsf"), use())


def test_rows_of_a_hub_data_set_are_items(tmp_path):
    stamps = [np.array(["2024-01-01", "2024-01-02"], "datetime64[ms]"), np.array(["2024-01-05"], "datetime64[ms]")]
    columns = {"id": ["b", "a"], "timestamp": stamps, "x": [[1.0, 2.0], [3.0]], "y": [[4, 5], [6]], "group": ["g", "h"]}
    write_parquet(tmp_path / "set" / "data" / "train-0.parquet", columns)
    both = read_hub_parquet(tmp_path / "set", ("y", "x"))
    assert [(one.item_id, one.values.tolist()) for one in both] == [("a", [[6], [3]]), ("b", [[4, 5], [1, 2]])]
    assert both[0].stamps is not None and str(both[0].stamps[0]) == "2024-01-05T00:00:00.000000"
    every = read_hub_parquet(tmp_path / "set", None)
    assert [one.item_id for one in every] == ["b_x", "b_y", "a_x", "a_y"]


@pytest.mark.parametrize("column", ["timestamp", "target"])
def test_a_hub_data_set_of_another_form_is_refused(tmp_path, column):
    stamps = [np.array(["2024-01-01"], "datetime64[ms]")]
    columns = {"id": ["a"], "timestamp": stamps, "target": [[1.0]]} | {column: [1.0]}
    write_parquet(tmp_path / "a.parquet", columns)
    with pytest.raises(DataError, match=f"no column '{column}' of lists"):
        read_hub_parquet(tmp_path, ("target",))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"y": [[1.0]]}, "holds values that cannot be used"),
        ({"x": [[1.0]], "y": [[1.0]]}, "item 0: 2 stamps and 1 values"),
        ({"x": [None]}, "holds values that cannot be used"),
    ],
)
def test_columns_of_unequal_length_are_refused(tmp_path, change, reason):
    stamps = [np.array(["2024-01-01", "2024-01-02"], "datetime64[ms]")]
    columns = {"id": ["a"], "timestamp": stamps, "x": [[1.0, 2.0]], "y": [[1.0, 2.0]]} | change
    if change.get("x") == [None]:
        import pyarrow as pa

        columns["x"] = pa.array([None], pa.list_(pa.float64()))
    write_parquet(tmp_path / "a.parquet", columns)
    with pytest.raises(DataError, match=reason):
        read_hub_parquet(tmp_path, ("x", "y"))


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and more")
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read"):
        read_hub_parquet(tmp_path, None)


def test_an_imported_corpus_is_read_with_its_stamps(tmp_path):
    (tmp_path / "sales.csv").write_text(
        "item_id,timestamp,x,y\n" + "".join(f"a,2024-01-{d:02},{d},{-d}\n" for d in range(1, 9))
    )
    foretrain("data", "import", tmp_path / "sales.csv", "--out", tmp_path / "corpus")
    (found,) = read_corpus(tmp_path / "corpus", ("y",))
    assert found.values.tolist() == [[-d for d in range(1, 9)]]
    assert found.stamps is not None and str(found.stamps[7]) == "2024-01-08T00:00:00.000000"
    with pytest.raises(DataError, match="no column 'z'"):
        read_corpus(tmp_path / "corpus", ("z",))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("load.csv", b"a,b\n1,2\n1,2,3\n", "no table of text"),
        ("load.csv", b"", "no table of text"),
        ("load.csv", b"date,x\nnever,1\n", "no time stamps"),
        ("load.csv", b"date,x\n2024-01-01,much\n", "no numbers"),
        ("load.csv.gz", b"\x1f\x8b\x08\x00cut", "cannot be read"),
        ("all.zip", b"PK\x03\x04", "cannot be read"),
    ],
)
def test_damaged_files_are_named_in_one_line(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reason) as error:
        read_raw(tmp_path, source("table", "load.csv", archive="all.zip"), use())
    assert "\n" not in str(error.value) and "load" in str(error.value)


def test_an_archive_without_the_file_says_so(tmp_path):
    pack(tmp_path / "all.zip", other=TABLE)
    with pytest.raises(DataError, match=r"all\.zip: holds no file load\.csv"):
        read_raw(tmp_path, source("table", "load.csv", archive="all.zip"), use())
