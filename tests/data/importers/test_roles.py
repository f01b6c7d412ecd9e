"""Roles of columns: several id columns, roles that the user names, ids that a long table needs."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foretrain.data.importers import ImportOptions, import_corpus
from foretrain.data.store import Corpus
from foretrain.errors import DataError
from foretrain.notes import codes

DAYS = [str(np.datetime64("2024-01-01") + k) for k in range(40)]


def write(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def keyed(path: Path, header: str, keys: list[str]) -> Path:
    """Rows of key, day, value; a key may be several cells."""
    rows = [f"{key},{day},{100 * n + k}.5" for n, key in enumerate(keys) for k, day in enumerate(DAYS)]
    return write(path, header, rows)


def read(path: Path, **options: Any) -> Corpus:
    out = path.parent / f"corpus-{len(list(path.parent.iterdir()))}"
    import_corpus([path], out, **options)
    return Corpus.open(out)


# Several id columns


@pytest.mark.parametrize("ids", ["Store,Dept", "Store, Dept", ("Store", "Dept"), ["store", "dept"]])
def test_several_columns_are_joined_to_one_id(tmp_path: Path, ids: Any) -> None:
    path = keyed(tmp_path / "x.csv", "Store,Dept,Date,Sales", ["007,a", "007,b", "8,a"])
    corpus = read(path, id_column=ids)
    assert corpus.item_ids() == ["007/a", "007/b", "8/a"]
    assert corpus.columns == ("Sales",)


def test_a_column_whose_own_name_has_a_comma_comes_first(tmp_path: Path) -> None:
    path = keyed(tmp_path / "x.csv", '"a,b",a,b,Date,Sales', ["k,1,2", "l,1,2"])
    assert read(path, id_column="a,b").item_ids() == ["k", "l"]
    assert read(path, id_column=("a,b", "a")).item_ids() == ["k/1", "l/1"]


def test_joined_ids_that_collide_are_refused_and_slashes_alone_are_not(tmp_path: Path) -> None:
    path = keyed(tmp_path / "x.csv", "A,B,Date,Sales", ["a/b,c", "a,b/c"])
    with pytest.raises(DataError, match=r"'A' and 'B' give the item id 'a/b/c' for both .*Replace the slash"):
        read(path, id_column="A,B")
    path = keyed(tmp_path / "y.csv", "A,B,Date,Sales", ["a/b,c", "a,d/c"])
    assert read(path, id_column="A,B").item_ids() == ["a/b/c", "a/d/c"]


def test_unknown_and_blank_id_columns_are_named(tmp_path: Path) -> None:
    path = keyed(tmp_path / "x.csv", "Store,Dept,Date,Sales", ["1,a", "1,"])
    with pytest.raises(DataError, match="no column 'Depot'"):
        read(path, id_column="Store,Depot")
    with pytest.raises(DataError, match="line 42: column 'Dept' has no item id"):
        read(path, id_column="Store,Dept")


# Roles that the user names


def bars(path: Path, header: str) -> Path:
    return write(path, header, [f"{day},{k + 100},{k + 102},{k + 99},{k + 101},{k}" for k, day in enumerate(DAYS)])


NAMED = {"open": "Eroeffnung", "high": "Hoch", "low": "Tief", "close": "Kurs", "volume": "Umsatz", "timestamp": "Tag"}
TEXTS = [f"{role}={name}" for role, name in NAMED.items()]


@pytest.mark.parametrize("column", [NAMED, TEXTS, ",".join(TEXTS)])
def test_named_market_roles_make_a_market_table(tmp_path: Path, column: Any) -> None:
    corpus = read(bars(tmp_path / "x.csv", "Tag,Eroeffnung,Hoch,Tief,Kurs,Umsatz"), column=column)
    assert corpus.columns == ("open", "high", "low", "close", "volume")
    assert corpus.manifest.price_columns == ("open", "high", "low", "close")
    assert corpus.manifest.time == "regular"


def test_a_named_close_lets_the_other_prices_be_known_by_their_names(tmp_path: Path) -> None:
    corpus = read(bars(tmp_path / "x.csv", "Date,Open,High,Low,Settle,Volume"), column="close=Settle")
    assert corpus.columns == ("open", "high", "low", "close", "volume")


def test_a_role_that_two_columns_claim_is_settled_by_the_columns_to_keep(tmp_path: Path) -> None:
    path = bars(tmp_path / "x.csv", "Date,Open,High,Low,Close,Adj Close")
    with pytest.raises(DataError, match=r"two columns would be called 'close'. Keep one with --columns"):
        read(path, column={"close": "Adj Close"})
    corpus = read(path, column={"close": "Adj Close"}, columns="open,high,low,close")
    assert np.array(corpus.values(0))[3, 5] == 5  # the adjusted one


def test_the_target_is_called_so_and_comes_first(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "Date,Price,Sold", [f"{day},{k},{k * 2}" for k, day in enumerate(DAYS)])
    corpus = read(path, column=["target=Sold"])
    assert corpus.columns == ("target", "Price")
    assert np.array(corpus.values(0))[0, 7] == 14


def test_ids_can_be_named_as_a_role(tmp_path: Path) -> None:
    path = keyed(tmp_path / "x.csv", "A,B,Date,Sales", ["a,b", "a,c"])
    assert read(path, column=["item_id=A,B", "target=Sales"]).item_ids() == ["a/b", "a/c"]
    assert read(path, column={"item_id": ["A", "B"]}).item_ids() == ["a/b", "a/c"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"column": "clsoe=X"}, r"no role 'clsoe'.*close"),
        ({"column": "close"}, "say ROLE=NAME"),
        ({"column": "close="}, "say ROLE=NAME"),
        ({"column": ["close=A", "close=B"]}, "close is 'A' already"),
        ({"column": ["close=A", "open=A"]}, "'A' has another role already"),
        ({"column": {"item_id": "A"}, "id_column": "B"}, "id_column says 'B'"),
        ({"column": {"timestamp": "A"}, "timestamp_column": "B"}, "timestamp_column says 'B'"),
    ],
)
def test_roles_that_say_nothing_or_two_things_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ImportOptions.of(**options)


def test_a_role_of_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'Settel'.*Settle"):
        read(bars(tmp_path / "x.csv", "Date,Open,High,Low,Settle,Volume"), column="close=Settel")


def test_lists_may_be_written_as_text() -> None:
    options = ImportOptions.of(columns="a, b", header=False, names=["x,y"], na_values="-9,-99")
    assert (options.columns, options.names, options.na_values) == (("a", "b"), ("x,y",), ("-9", "-99"))


# Ids by their usual name


@pytest.mark.parametrize("name", ["store", "Station ID", "sku", "Country", "meter_id", "Region", "SystemCodeNumber"])
def test_a_usual_name_of_ids_is_taken_where_stamps_repeat_without_it(tmp_path: Path, name: str) -> None:
    path = keyed(tmp_path / "x.csv", f"{name},Date,Sales", ["3", "1", "2"])
    out = tmp_path / "out"
    report = import_corpus([path], out)
    assert Corpus.open(out).item_ids() == ["3", "1", "2"]
    assert "item_column_found" in codes(report.notes)


def test_the_same_name_is_a_value_or_a_category_where_stamps_are_unique(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.csv", "Date,Region,Store,Load", [f"{d},{'NS'[k % 2]},{k % 3},1" for k, d in enumerate(DAYS)]
    )
    assert read(path).columns == ("Region", "Store", "Load")


def test_a_few_repeated_stamps_make_no_items_of_a_category(tmp_path: Path) -> None:
    rows = [f"{day},{'N' if k < 20 else 'S'},{k}" for k, day in enumerate(DAYS)] + [f"{DAYS[5]},S,7"]
    corpus = read(write(tmp_path / "x.csv", "Date,Region,Load", rows))
    assert (corpus.num_series, corpus.columns) == (1, ("Region", "Load"))


def test_a_code_and_the_name_of_the_same_items_are_no_choice_but_two_divisions_are(tmp_path: Path) -> None:
    same = keyed(tmp_path / "same.csv", "Country Code,Country,Date,Sales", ["1,Chile", "2,Peru"])
    assert read(same).item_ids() == ["1", "2"]
    rows = [f"{a},{b},{day},{k}" for k, day in enumerate(DAYS) for a, b in (("x", "qp"[k % 2]), ("y", "pq"[k % 2]))]
    with pytest.raises(DataError, match="--id-column"):
        read(write(tmp_path / "two.csv", "Store,Region,Date,Sales", rows))


def test_a_column_that_the_user_keeps_as_a_value_names_no_items(tmp_path: Path) -> None:
    path = keyed(tmp_path / "x.csv", "Store,Date,Sales", ["1", "2"])
    with pytest.raises(DataError, match="would be lost"):
        read(path, columns="Store,Sales")


def test_two_usual_names_are_advised_not_taken(tmp_path: Path) -> None:
    path = keyed(tmp_path / "x.csv", "Store,Dept,Date,Sales", [f"{a},{b}" for a, b in product("12", "ab")])
    with pytest.raises(DataError, match="--id-column Store,Dept"):
        read(path)


def test_files_of_one_day_each_are_joined_by_their_ids(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for k, day in enumerate(DAYS):
        rows = [f"{day},{store},{10 * k + n}" for n, store in enumerate("ABC")]
        write(tmp_path / "in" / f"{day}.csv", "Date,Store,Sales", rows)
    import_corpus([tmp_path / "in"], tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.item_ids() == ["A", "B", "C"]
    assert np.array(corpus.values(1))[0].tolist() == [10 * k + 1 for k in range(40)]


def test_a_number_of_the_row_is_no_id(tmp_path: Path) -> None:
    rows = [f"{k},{DAYS[0]},{k * 7}" for k in range(40)]
    with pytest.raises(DataError, match="would be lost") as refused:
        read(write(tmp_path / "x.csv", "id,Date,Sales", rows))
    assert "--id-column" not in str(refused.value)


def test_values_that_differ_at_every_stamp_name_no_items(tmp_path: Path) -> None:
    rows = [f"{day},{(31 * k + 17 * n) % 97},{n}" for k, day in enumerate(3 * DAYS) for n in range(2)]
    with pytest.raises(DataError, match="would be lost"):
        read(write(tmp_path / "x.csv", "Date,Pair,Load", rows))
