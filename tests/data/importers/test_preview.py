"""A preview says what an import would read, and writes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foretrain.data.importers import import_corpus, import_preview, preview_text
from foretrain.errors import DataError

DAYS = [str(np.datetime64("2024-01-01") + k) for k in range(40)]


def shops(path: Path, days: list[str] = DAYS) -> Path:
    rows = [f"{shop},{day},{k}.5,{'sun' if k % 2 else 'rain'},{day}" for shop in "AB" for k, day in enumerate(days)]
    path.write_text("\n".join(["shop,Date,Sales,Weather,Updated", *rows]) + "\n", encoding="utf-8")
    return path


def bars(path: Path, count: int = 40) -> Path:
    rows = [f"{day},{k + 100},{k + 102},{k + 99},{k + 101},{k}" for k, day in enumerate(DAYS[:count])]
    path.write_text("\n".join(["Date,Open,High,Low,Close/Last,Vol", *rows]) + "\n", encoding="utf-8")
    return path


def test_roles_items_time_rows_and_losses_are_told(tmp_path: Path) -> None:
    text = preview_text([shops(tmp_path / "shops.csv")])
    lines = text.splitlines()
    assert lines[:2] == ["1 file:", "  shops.csv"]
    for line in (
        "    item id: shop",
        "    time: Date",
        "    numbers: Sales",
        "    categories: Weather",
        "    left out: Updated",
        "2 items (40 rows each): A, B",
        "lost: 0 of 80 rows",
    ):
        assert line in lines
    assert "time: regular, frequency D, 2024-01-01 .. 2024-02-09" in text
    head = lines.index("first item 'A':")
    assert lines[head + 1].split() == ["time", "Sales", "Weather"]
    assert lines[head + 2].split() == ["2024-01-01", "0.5", "rain"]
    assert lines[head + 5].split() == ["..."]
    assert lines[head + 8].split() == ["2024-02-09", "39.5", "sun"]
    assert "column 'shop' names the items" in text


def test_renamed_market_columns_show_where_they_come_from(tmp_path: Path) -> None:
    text = preview_text([bars(tmp_path / "ACME.csv")])
    assert "    item id: name of the file" in text
    assert "    numbers: open, high, low, close (from Close/Last), volume (from Vol)" in text


def test_files_with_the_same_columns_share_their_lines(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "ABCDEFG":
        bars(tmp_path / "in" / f"{name}.csv", 30 + ord(name) % 5)
    text = preview_text([tmp_path / "in"])
    assert text.count("time: Date") == 1
    assert "A.csv, B.csv, C.csv, D.csv, E.csv and 2 more" in text


def test_inputs_that_are_no_tables_have_no_roles(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(12.0).reshape(2, 6))
    text = preview_text([tmp_path / "x.npy"])
    assert "2 items (6 rows each): x_0, x_1" in text
    assert "time: steps, no calendar" in text
    assert "item id" not in text


def test_nothing_is_written_and_the_report_is_that_of_the_import(tmp_path: Path) -> None:
    path, out = shops(tmp_path / "shops.csv"), tmp_path / "out"
    preview = import_preview([path], out=out)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["shops.csv"]
    report = import_corpus([path], out)
    assert preview.report == report


def test_a_preview_refuses_what_the_import_refuses_in_the_same_words(tmp_path: Path) -> None:
    path, out = shops(tmp_path / "shops.csv"), tmp_path / "out"
    (tmp_path / "short").mkdir()
    for options in ({"columns": "Sales,shop"}, {"timestamp_column": "Day"}, {"min_rows": 99}, {"on_bad": "all"}):
        with pytest.raises(DataError) as refused:
            import_corpus([path], out, **options)
        with pytest.raises(DataError) as previewed:
            import_preview([path], out=out, **options)
        assert str(previewed.value) == str(refused.value)
    import_corpus([path], out)
    with pytest.raises(DataError, match="exists already"):
        import_preview([path], out=out)
    with pytest.raises(DataError, match="no corpus to update"):
        import_preview([path], out=tmp_path / "none", update=True)


def test_an_update_is_previewed_on_a_copy(tmp_path: Path) -> None:
    out = tmp_path / "out"
    import_corpus([shops(tmp_path / "shops.csv", DAYS[:35])], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    preview = import_preview([shops(tmp_path / "shops.csv")], out=out, update=True, id_column="shop")
    assert (preview.report.rows, preview.report.out) == (80, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_columns_that_are_items_keep_their_names(tmp_path: Path) -> None:
    rows = [f"{day},{k},{k + 1}" for k, day in enumerate(DAYS)]
    (tmp_path / "x.csv").write_text("\n".join(["Date,North,South", *rows]) + "\n", encoding="utf-8")
    text = preview_text([tmp_path / "x.csv"], format="panel")
    assert "    item id: name of the column" in text
    assert "    numbers: North, South" in text
    assert "left out" not in text


def test_text_that_hardly_comes_back_is_shown_as_left_out(tmp_path: Path) -> None:
    rows = [f"{day},{k},remark number {k}" for k, day in enumerate(DAYS)]
    (tmp_path / "x.csv").write_text("\n".join(["Date,Load,Remark", *rows]) + "\n", encoding="utf-8")
    assert "    left out: Remark" in preview_text([tmp_path / "x.csv"])
