"""Columns of a table: which become numbers, which categories, which are left out, and which are refused."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from foretrain.data.importers import import_corpus
from foretrain.data.importers.report import ImportReport
from foretrain.data.store import Corpus
from foretrain.errors import DataError
from foretrain.notes import Code, codes


def days(count: int, start: str = "2021-01-01") -> list[str]:
    return [str(day) for day in np.datetime64(start) + np.arange(count)]


def write(path: Path, **columns: list[Any]) -> Path:
    """Write columns to a CSV file with quotes around every cell, below dates."""
    rows = zip(days(len(next(iter(columns.values())))), *columns.values(), strict=True)
    lines = [",".join(f'"{cell}"' for cell in row) for row in [("date", *columns), *rows]]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def read(tmp_path: Path, *paths: Path, **options: Any) -> tuple[Corpus, ImportReport]:
    report = import_corpus(list(paths), tmp_path / "corpus", **options)
    return Corpus.open(tmp_path / "corpus"), report


def kinds(corpus: Corpus) -> dict[str, tuple[str, ...] | None]:
    """Return column -> its categories, None for numbers."""
    return {column.name: column.categories for column in corpus.manifest.columns}


# numbers


def test_prices_with_a_dollar_sign_are_prices(tmp_path: Path) -> None:
    close = [f"${1600 + k:,}.11" for k in range(40)]
    write(tmp_path / "a.csv", Close=close, Open=close, High=close, Low=close, Volume=[f"{k},500" for k in range(1, 41)])
    with pytest.raises(DataError, match=r"column 'Volume': '1,500' is a number with a comma"):
        read(tmp_path, tmp_path / "a.csv")
    corpus, _ = read(tmp_path, tmp_path / "a.csv", decimal=".")
    assert kinds(corpus) == dict.fromkeys(("open", "high", "low", "close", "volume"))
    np.testing.assert_array_equal(corpus.values(0)[3], np.float32(1600.11) + np.arange(40, dtype=np.float32))
    np.testing.assert_array_equal(corpus.values(0)[4], np.arange(1, 41) * 1000 + 500)


def test_a_column_of_missing_values_is_missing_and_not_constant(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", x=list(range(40)), price=["n.a."] * 40)
    corpus, _ = read(tmp_path, tmp_path / "a.csv")
    assert kinds(corpus) == {"x": None, "price": None}
    assert np.isnan(corpus.values(0)[1]).all()


def test_decimals_and_dictionaries_of_parquet_are_numbers(tmp_path: Path) -> None:
    table = pa.table(
        {
            "date": pa.array(np.arange(40) * 86_400_000_000, pa.timestamp("us")),
            "amount": pa.array([Decimal(k) / 4 for k in range(40)], pa.decimal128(12, 2)),
            "coded": pa.array(np.arange(40.0)).dictionary_encode(),
            "written": pa.array([f"{k},5" for k in range(40)]).dictionary_encode(),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    corpus, _ = read(tmp_path, tmp_path / "a.parquet")
    np.testing.assert_array_equal(corpus.values(0), [np.arange(40) / 4, np.arange(40), np.arange(40) + 0.5])


@pytest.mark.parametrize("cells", [[[1.0, 2.0]] * 40, [{"a": 1, "b": 2}] * 40, [b"xy"] * 40])
def test_cells_that_are_neither_numbers_nor_text_are_refused_by_column(tmp_path: Path, cells: list[Any]) -> None:
    times = pa.array(np.arange(40) * 86_400_000_000, pa.timestamp("us"))
    pyarrow.parquet.write_table(pa.table({"date": times, "x": np.arange(40.0), "odd": cells}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"column 'odd': .* neither number nor text; leave it out with --columns"):
        read(tmp_path, tmp_path / "a.parquet")
    if isinstance(cells[0], list | dict):
        with pytest.raises(DataError, match="column 'odd'"):
            read(tmp_path, tmp_path / "a.parquet", categorical=("odd",))
    corpus, _ = read(tmp_path, tmp_path / "a.parquet", columns=("x",))
    assert corpus.columns == ("x",)


# refusals


@pytest.mark.parametrize("name", ["target", "y", "value", "price", "Close", "Volume"])
def test_text_where_numbers_belong_is_refused_with_its_cell(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a.csv", x=list(range(40)), **{name: ["low", "high"] * 20})
    with pytest.raises(DataError, match=f"a.csv: line 2, column '{name}': 'low' is text in a column of numbers") as why:
        read(tmp_path, tmp_path / "a.csv")
    assert "--na-values 'low'" in str(why.value) and f"--categorical '{name}'" in str(why.value)
    corpus, _ = read(tmp_path, tmp_path / "a.csv", categorical=(name,))
    assert kinds(corpus)[name] == ("low", "high")


def test_text_in_a_market_column_or_a_named_target_is_refused(tmp_path: Path) -> None:
    numbers = list(range(1, 41))
    write(tmp_path / "a.csv", open=["up", "down"] * 20, high=numbers, low=numbers, close=numbers)
    with pytest.raises(DataError, match="column 'open': 'up' is text in a column of numbers"):
        read(tmp_path, tmp_path / "a.csv")
    write(tmp_path / "b.csv", load=["up", "down"] * 20, x=numbers)
    with pytest.raises(DataError, match="column 'load': 'up' is text in a column of numbers"):
        read(tmp_path, tmp_path / "b.csv", target=("load",))


def test_a_true_or_false_target_is_refused_with_its_remedy(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", x=list(range(40)), target=["True", "False"] * 20)
    with pytest.raises(DataError, match="'True' is true and false are categories; write 1 and 0"):
        read(tmp_path, tmp_path / "a.csv")


def test_text_among_numbers_is_refused_with_what_settles_it(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", x=[*range(39), "broken"])
    with pytest.raises(DataError, match=r"line 41, column 'x': 'broken' is text in a number column.*--na-values"):
        read(tmp_path, tmp_path / "a.csv")
    corpus, _ = read(tmp_path, tmp_path / "a.csv", na_values=("broken",))
    assert corpus.values(0)[0, :39].tolist() == list(range(39))


def test_a_table_without_a_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("date,comment\n2021-01-01,closed\n2021-01-02,closed\n2021-01-03,open\n")
    with pytest.raises(DataError, match=r"no column holds a number\. Line 2, column"):
        read(tmp_path, tmp_path / "a.csv")


def test_columns_that_blanks_separate_are_not_thousands(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\n".join(["t load", *(f"{k} {100 + k}" for k in range(1, 40))]))
    corpus, _ = read(tmp_path, tmp_path / "a.csv")
    assert (corpus.columns, corpus.values(0)[0, :3].tolist()) == (("load",), [101, 102, 103])


# categories


def test_words_that_come_back_are_categories_with_a_note(tmp_path: Path) -> None:
    weather, contract = ["sunny", "", "rain", "n/a"] * 10, ["ESZ19"] * 20 + ["ESH20"] * 20
    write(tmp_path / "a.csv", x=list(range(40)), weather=weather, contract=contract)
    corpus, report = read(tmp_path, tmp_path / "a.csv")
    assert kinds(corpus) == {"x": None, "weather": ("sunny", "rain"), "contract": ("ESZ19", "ESH20")}
    np.testing.assert_array_equal(corpus.values(0)[1, :4], [0, np.nan, 1, np.nan])
    found = [(note.text, note.counts) for note in report.notes if note.code == Code.TEXT_AS_CATEGORIES]
    assert found == [
        ("column 'weather': text, 2 categories ('sunny', 'rain')", {"categories": 2, "cells": 20}),
        ("column 'contract': text, 2 categories ('ESZ19', 'ESH20')", {"categories": 2, "cells": 40}),
    ]


def test_text_that_does_not_come_back_is_left_out_unless_it_is_called_categorical(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", x=list(range(40)), comment=[f"trade {k}" for k in range(40)])
    corpus, report = read(tmp_path, tmp_path / "a.csv")
    assert corpus.columns == ("x",)
    note = next(note for note in report.notes if note.code == Code.TEXT_LEFT_OUT)
    assert note.text == "column 'comment': text, 40 different of 40 cells; left out; --categorical comment keeps it"
    report = import_corpus([tmp_path / "a.csv"], tmp_path / "kept", categorical=("comment",))
    assert len(kinds(Corpus.open(tmp_path / "kept"))["comment"] or ()) == 40
    assert Code.TEXT_AS_CATEGORIES in codes(report.notes)


def test_too_many_categories_are_left_out_unless_they_are_called_categorical(tmp_path: Path) -> None:
    names = [f"shop {k % 1500}" for k in range(4500)]
    write(tmp_path / "a.csv", x=list(range(4500)), shop=names)
    corpus, report = read(tmp_path, tmp_path / "a.csv")
    assert corpus.columns == ("x",)
    assert any("column 'shop': text, more than 1,000 different cells; left out" in note.text for note in report.notes)
    import_corpus([tmp_path / "a.csv"], tmp_path / "kept", categorical=("shop",))
    kept = Corpus.open(tmp_path / "kept")
    assert [(kinds(kept)["shop"] or ())[int(code)] for code in kept.values(0)[1]] == names


def test_whether_texts_come_back_is_decided_over_all_files(tmp_path: Path) -> None:
    for k in range(30):
        write(tmp_path / "in" / f"s{k}.csv", x=list(range(40)), sector=[f"sector {k % 15}"] * 40)
        write(tmp_path / "notes" / f"s{k}.csv", x=list(range(40)), seen=["once", f"on {k}"] * 20)
    corpus, _ = read(tmp_path, tmp_path / "in")
    assert len(kinds(corpus)["sector"] or ()) == 15
    assert [float(corpus.values(k)[1, 0]) for k in (0, 1)] != [0, 0]
    import_corpus([tmp_path / "notes"], tmp_path / "out")
    assert len(kinds(Corpus.open(tmp_path / "out"))["seen"] or ()) == 31


def test_an_update_keeps_the_categories_and_leaves_out_what_was_left_out(tmp_path: Path) -> None:
    x, names = list(range(4500)), [f"shop {k % 1500}" for k in range(4500)]
    unique = [f"trade {k}" for k in x]
    write(tmp_path / "a.csv", x=x[:4000], shop=names[:4000], comment=unique[:4000])
    read(tmp_path, tmp_path / "a.csv", categorical=("shop",))
    write(tmp_path / "a.csv", x=x, shop=[*names[:4499], "new shop"], comment=unique)
    corpus, report = read(tmp_path, tmp_path / "a.csv", categorical=("shop",), update=True)
    assert corpus.columns == ("x", "shop") and corpus.length(0) == 4500
    shops = kinds(corpus)["shop"] or ()
    assert [shops[int(code)] for code in corpus.values(0)[1]] == [*names[:4499], "new shop"]
    assert any("column 'comment': text that the corpus lacks; left out" in note.text for note in report.notes)


def test_texts_of_quoted_items_are_their_categories(tmp_path: Path) -> None:
    numbers, venues = list(range(1, 41)), ["north", "south"] * 20
    write(tmp_path / "a.csv", **{"A:close": numbers, "A:venue": venues, "B:close": numbers[::-1], "B:venue": venues})
    corpus, _ = read(tmp_path, tmp_path / "a.csv")
    assert kinds(corpus) == {"close": None, "venue": ("north", "south")}


def test_cells_that_pandas_reads_as_missing_are_missing_in_text_too(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", x=list(range(40)), holiday=["None", "Labor Day", "NA", "none", "gone"] * 8)
    corpus, _ = read(tmp_path, tmp_path / "a.csv", na_values=("gone",))
    assert kinds(corpus)["holiday"] == ("Labor Day", "none")


# true and false


@pytest.mark.parametrize("words", [("True", "False"), ("TRUE", "FALSE"), ("true", "false")])
def test_true_and_false_are_categories_in_fixed_order(tmp_path: Path, words: tuple[str, str]) -> None:
    write(tmp_path / "a.csv", x=list(range(40)), on=[words[0], words[1], "", words[1]] * 10)
    corpus, report = read(tmp_path, tmp_path / "a.csv")
    assert kinds(corpus)["on"] == ("False", "True")
    np.testing.assert_array_equal(corpus.values(0)[1, :4], [1, 0, np.nan, 0])
    assert "column 'on': true and false, 2 categories" in [note.text for note in report.notes]


def test_booleans_of_parquet_are_the_same_categories(tmp_path: Path) -> None:
    times = pa.array(np.arange(40) * 86_400_000_000, pa.timestamp("us"))
    table = pa.table({"date": times, "x": np.arange(40.0), "on": [True, None, False, True] * 10})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    corpus, _ = read(tmp_path, tmp_path / "a.parquet")
    assert kinds(corpus)["on"] == ("False", "True")
    np.testing.assert_array_equal(corpus.values(0)[1, :4], [1, np.nan, 0, 1])


def test_yes_and_t_remain_text(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", x=list(range(40)), open=["yes", "no"] * 20, holiday=["t", "f"] * 20)
    corpus, _ = read(tmp_path, tmp_path / "a.csv")
    assert kinds(corpus) == {"x": None, "open": ("yes", "no"), "holiday": ("t", "f")}


@pytest.mark.parametrize("first", ["words", "numbers"])
def test_true_and_false_beside_the_numbers_0_and_1_are_numbers(tmp_path: Path, first: str) -> None:
    words, numbers = ["True", "False", "", "False"] * 10, ["1", "0", "", "0"] * 10
    write(tmp_path / "in" / "a.csv", x=list(range(40)), on=words if first == "words" else numbers)
    write(tmp_path / "in" / "b.csv", x=list(range(40, 80)), on=numbers if first == "words" else words)
    corpus, _ = read(tmp_path, tmp_path / "in")
    assert kinds(corpus) == {"x": None, "on": None}
    for item in range(2):
        np.testing.assert_array_equal(corpus.values(item)[1, :4], [1, 0, np.nan, 0])


@pytest.mark.parametrize("first", ["words", "numbers"])
def test_true_and_false_beside_other_numbers_are_refused(tmp_path: Path, first: str) -> None:
    words, numbers = ["True", "False"] * 20, ["1", "2"] * 20
    write(tmp_path / "in" / "a.csv", x=list(range(40)), on=words if first == "words" else numbers)
    write(tmp_path / "in" / "b.csv", x=list(range(40, 80)), on=numbers if first == "words" else words)
    numeric, textual = ("b", "a") if first == "words" else ("a", "b")
    with pytest.raises(DataError, match=rf"column 'on' holds numbers in {numeric}\.csv and text in {textual}\.csv"):
        read(tmp_path, tmp_path / "in")


@pytest.mark.parametrize("first", ["words", "numbers"])
def test_an_update_joins_true_and_false_with_0_and_1(tmp_path: Path, first: str) -> None:
    words, numbers = ["True", "False"] * 20, ["1", "0"] * 20
    old, new = (words, numbers) if first == "words" else (numbers, words)
    write(tmp_path / "a.csv", x=list(range(36)), on=old[:36])
    read(tmp_path, tmp_path / "a.csv")
    write(tmp_path / "a.csv", x=list(range(40)), on=new)
    corpus, _ = read(tmp_path, tmp_path / "a.csv", update=True)
    assert kinds(corpus)["on"] is None
    np.testing.assert_array_equal(corpus.values(0)[1], [1, 0] * 20)
