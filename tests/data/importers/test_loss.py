"""Rows whose values an import would lose: counted, named with what tells them apart, and refused if they are many."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from foretrain.data.importers import import_corpus
from foretrain.data.store import Corpus
from foretrain.errors import DataError
from foretrain.notes import codes


def write(path: Path, header: str, rows: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def days(count: int) -> list[str]:
    return [str(np.datetime64("2024-01-01") + k) for k in range(count)]


def one_series(path: Path, count: int = 400, repeated: int = 0, *, other: bool = True, first: int = 50) -> Path:
    """Daily values 0, 1, 2, ...; `repeated` stamps from the row `first` on occur again, with 1000 added if other."""
    rows = [f"{day},{k}" for k, day in enumerate(days(count))]
    again = [f"{days(count)[k]},{k + 1000 * other}" for k in range(first, first + repeated)]
    return write(path, "Date,Load", rows + again)


def sales(path: Path, stores: list[str], departments: list[str], header: str = "Store,Dept,Date,Sales") -> Path:
    rows = [
        f"{store},{dept},{day},{1000 * s + 100 * d + k}.5"
        for s, store in enumerate(stores)
        for d, dept in enumerate(departments)
        for k, day in enumerate(days(40))
    ]
    return write(path, header, rows)


def quality(out: Path) -> dict:
    return json.loads((out / "quality.json").read_text(encoding="utf-8"))


def values(out: Path, item: str) -> np.ndarray:
    corpus = Corpus.open(out)
    return np.array(corpus.values(corpus.item_ids().index(item)))


# What is a loss


def test_up_to_three_conflicting_rows_go_with_a_warning_that_counts_them(tmp_path: Path) -> None:
    report = import_corpus([one_series(tmp_path / "load.csv", 100, 3)], tmp_path / "out")
    assert report.lost == {"rows": 3, "of": 103, "conflicting": 3, "unstamped": 0, "gone": 0}
    assert "lost: 3 of 103 rows (3 conflicting with another row of their item and stamp)" in report.text()
    assert quality(tmp_path / "out")["lost"]["conflicting"] == 3
    assert values(tmp_path / "out", "load")[0, 50] == 1050  # the last row of the file
    example = report.rules["duplicate_timestamp"]["examples"][0]
    assert (example["line"], example["detail"]) == (102, "Load 1050, but 50 in line 52")


def test_more_conflicting_rows_than_three_and_one_percent_stop_the_import(tmp_path: Path) -> None:
    path = one_series(tmp_path / "load.csv", 300, 4)
    with pytest.raises(DataError, match=r"load\.csv: 4 of 304 rows \(1\.3%\) would be lost: 4 conflicting") as refused:
        import_corpus([path], tmp_path / "out")
    text = str(refused.value)
    assert "file load.csv line 302 time 2024-02-20 Load 1050, but 50 in line 52" in text
    assert "--duplicates last, first or mean" in text
    assert "--allow-loss 0.02" in text
    assert not (tmp_path / "out").exists()
    assert import_corpus([one_series(tmp_path / "long.csv", 900, 4)], tmp_path / "long").lost["rows"] == 4  # below 1 %


def test_the_loss_of_one_item_stops_the_import_of_many(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for k in range(9):
        one_series(folder / f"good{k}.csv", 400)
    one_series(folder / "bad.csv", 100, 20)
    with pytest.raises(DataError, match=r"(?s)bad\.csv: 20 of 3,720 rows \(0\.5%\).*20 rows of 120, first: item 'bad'"):
        import_corpus([folder], tmp_path / "out")


def test_small_losses_of_many_items_stop_the_import_together(tmp_path: Path) -> None:
    for k in range(5):
        one_series(tmp_path / "in" / f"s{k}.csv", 100, 3)
    with pytest.raises(DataError, match=r"15 of 515 rows"):
        import_corpus([tmp_path / "in"], tmp_path / "out")


def test_equal_rows_are_no_loss_however_many(tmp_path: Path) -> None:
    report = import_corpus([one_series(tmp_path / "load.csv", 100, 50, other=False)], tmp_path / "out")
    assert report.lost["rows"] == 0
    assert report.rules["identical_rows"]["rows"] == 50
    assert values(tmp_path / "out", "load").shape == (1, 100)


def test_rows_that_complement_each_other_are_joined(tmp_path: Path) -> None:
    rows = [f"{day},{k}," for k, day in enumerate(days(40))] + [f"{day},,{k + 0.5}" for k, day in enumerate(days(40))]
    report = import_corpus([write(tmp_path / "x.csv", "Date,Load,Wind", rows)], tmp_path / "out")
    assert report.lost["rows"] == 0
    assert report.rules["complementary_rows"]["rows"] == 40
    assert np.array_equal(values(tmp_path / "out", "x"), [np.arange(40), np.arange(40) + 0.5])


def test_two_halves_of_a_table_in_two_files_are_joined(tmp_path: Path) -> None:
    write(tmp_path / "in/a.csv", "item_id,Date,Load", [f"A,{day},{k}" for k, day in enumerate(days(40))])
    write(tmp_path / "in/b.csv", "item_id,Date,Wind", [f"A,{day},{k}" for k, day in enumerate(days(40))])
    assert import_corpus([tmp_path / "in"], tmp_path / "out").lost["rows"] == 0
    assert not np.isnan(values(tmp_path / "out", "A")).any()


def test_many_rows_without_a_stamp_are_a_loss_unless_they_are_empty(tmp_path: Path) -> None:
    rows = [f"{day},{k}" for k, day in enumerate(days(100))]
    with pytest.raises(DataError, match=r"(?s)5 without a time stamp.*line 102.*--on-bad drop"):
        import_corpus([write(tmp_path / "x.csv", "Date,Load", rows + [",7"] * 5)], tmp_path / "out")
    assert import_corpus([write(tmp_path / "y.csv", "Date,Load", rows + [",NA"] * 5)], tmp_path / "y").lost["rows"] == 0
    report = import_corpus([tmp_path / "x.csv"], tmp_path / "drop", on_bad="drop")
    assert report.lost["rows"] == 0  # what the mode leaves out was asked for


def test_an_item_of_which_nothing_is_left_is_a_loss_unless_it_was_empty(tmp_path: Path) -> None:
    for price, name in ((100, "A"), (200, "B")):
        rows = [",".join([day, *[str(price + k)] * 4]) for k, day in enumerate(days(60))]
        write(tmp_path / "in" / f"{name}.csv", "Date,Open,High,Low,Close", rows)
    zeros = write(tmp_path / "in/Z.csv", "Date,Open,High,Low,Close", [f"{day},0,0,0,0" for day in days(60)])
    with pytest.raises(DataError, match=r"(?s)Z\.csv: 60 of 180 rows .* 60 of items with no value left.*--on-bad drop"):
        import_corpus([tmp_path / "in"], tmp_path / "out")
    assert import_corpus([tmp_path / "in"], tmp_path / "drop", on_bad="drop").dropped == {
        "Z": "no row is left after cleaning"
    }
    write(zeros, "Date,Open,High,Low,Close", [f"{day},,,," for day in days(60)])
    report = import_corpus([tmp_path / "in"], tmp_path / "empty")
    assert (report.lost["rows"], list(report.dropped)) == (0, ["Z"])


def test_stored_bars_met_again_by_an_update_are_no_loss(tmp_path: Path) -> None:
    import_corpus([one_series(tmp_path / "load.csv", 100)], tmp_path / "out")
    one_series(tmp_path / "load.csv", 120, 30)  # rows that conflict, all older than the last bar of the corpus
    report = import_corpus([tmp_path / "load.csv"], tmp_path / "out", update=True)
    assert (report.lost["rows"], report.rows) == (0, 120)
    one_series(tmp_path / "load.csv", 200, 20, first=150)
    with pytest.raises(DataError, match="20 of 220 rows"):
        import_corpus([tmp_path / "load.csv"], tmp_path / "out", update=True)


def test_short_items_that_min_rows_leaves_out_are_asked_for(tmp_path: Path) -> None:
    one_series(tmp_path / "in/long.csv", 100)
    one_series(tmp_path / "in/short.csv", 10)
    report = import_corpus([tmp_path / "in"], tmp_path / "out", min_rows=50)
    assert (list(report.dropped), report.lost["rows"]) == (["short"], 0)


@pytest.mark.parametrize("seed", range(12))
def test_every_row_is_in_the_corpus_or_counted_as_lost(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, stamps = 120, days(40)
    ids, at = rng.choice(["A", "B", "C"], count), rng.integers(0, 40, count)
    cells = rng.integers(0, 1 + seed % 4, (count, 2)).astype(float)
    cells[rng.random(cells.shape) < 0.2] = np.nan
    dated = rng.random(count) > 0.05
    lines = [
        ",".join([item, stamps[k] if known else "", *("" if np.isnan(v) else f"{v:g}" for v in row)])
        for item, k, known, row in zip(ids, at, dated, cells, strict=True)
    ]
    path = write(tmp_path / "x.csv", "item_id,Date,a,b", lines)
    report = import_corpus([path], tmp_path / "out", allow_loss=1, columns="a,b")
    corpus = Corpus.open(tmp_path / "out")
    held = {
        (corpus.item_id(k), str(stamp.astype("M8[us]").astype("M8[D]"))): row
        for k in range(corpus.num_series)
        for stamp, row in zip(np.asarray(corpus.times(k)), np.array(corpus.values(k)).T, strict=True)
    }

    def disappears(item: str, k: int, known: bool, row: np.ndarray) -> bool:
        seen = ~np.isnan(row)
        return bool(seen.any()) and not (known and (held[item, stamps[k]] == row)[seen].all())

    assert report.lost["rows"] == sum(map(disappears, ids, at, dated, cells))


# What settles it


@pytest.mark.parametrize(("rule", "kept"), [("last", 1050), ("first", 50), ("mean", 550)])
def test_a_rule_for_duplicates_is_applied_and_reported(tmp_path: Path, rule: str, kept: float) -> None:
    report = import_corpus([one_series(tmp_path / "load.csv", 100, 20)], tmp_path / "out", duplicates=rule)
    assert values(tmp_path / "out", "load")[0, 50] == kept
    assert report.lost["rows"] == 0
    found = report.rules["duplicate_timestamp"]
    assert found["rows"] == 20
    assert "as --duplicates says" in found["action"]


def test_the_mean_ignores_missing_cells_and_takes_the_last_category(tmp_path: Path) -> None:
    rows = [f"{day},{k},a" for k, day in enumerate(days(40))]
    again = [f"{day},{'' if k % 2 else k + 2},b" for k, day in enumerate(days(40))]
    import_corpus([write(tmp_path / "x.csv", "Date,Load,Kind", rows + again)], tmp_path / "out", duplicates="mean")
    load, kind = values(tmp_path / "out", "x")
    assert np.array_equal(load, [k if k % 2 else k + 1 for k in range(40)])
    assert (kind == 1).all()


def test_duplicates_error_refuses_a_single_conflict_but_no_equal_rows(tmp_path: Path) -> None:
    import_corpus([one_series(tmp_path / "same.csv", 100, 9, other=False)], tmp_path / "same", duplicates="error")
    with pytest.raises(DataError, match=r"1 of 101 rows .* refused by --duplicates error") as refused:
        import_corpus([one_series(tmp_path / "load.csv", 100, 1)], tmp_path / "out", duplicates="error")
    assert "--allow-loss" not in str(refused.value)


def test_a_loss_can_be_allowed_up_to_a_share_and_forbidden_altogether(tmp_path: Path) -> None:
    path = one_series(tmp_path / "load.csv", 100, 20)
    report = import_corpus([path], tmp_path / "out", allow_loss=0.2)
    assert report.lost["rows"] == 20
    with pytest.raises(DataError, match=r"--allow-loss 0\.17"):
        import_corpus([path], tmp_path / "no", allow_loss=0.1)
    with pytest.raises(DataError, match="1 of 101 rows"):
        import_corpus([one_series(tmp_path / "one.csv", 100, 1)], tmp_path / "no", allow_loss=0)


def test_dropping_bad_rows_does_not_drop_many_conflicting_ones_unasked(tmp_path: Path) -> None:
    path = sales(tmp_path / "sales.csv", ["1", "2"], ["A", "B"])  # whose later items step back in time
    with pytest.raises(DataError, match=r"(?s)160 of 160 rows.*--id-column Store,Dept"):
        import_corpus([path], tmp_path / "out", on_bad="drop")
    report = import_corpus([one_series(tmp_path / "load.csv", 100, 1)], tmp_path / "few", on_bad="drop")
    assert report.lost["rows"] == 2
    assert np.isnan(values(tmp_path / "few", "load")[0, 50])  # none of the two rows stays
    assert import_corpus([one_series(tmp_path / "x.csv", 99, 9)], tmp_path / "l", on_bad="drop", duplicates="last").rows


@pytest.mark.parametrize(
    "option", [{"duplicates": "best"}, {"allow_loss": 1.5}, {"allow_loss": -1}, {"allow_loss": float("nan")}]
)
def test_unknown_rules_and_shares_are_refused(tmp_path: Path, option: dict) -> None:
    with pytest.raises(DataError, match=next(iter(option))):
        import_corpus([one_series(tmp_path / "load.csv")], tmp_path / "out", **option)


# Which columns tell the rows apart


def advice(path: Path, **options: object) -> str:
    with pytest.raises(DataError, match="would be lost") as refused:
        import_corpus([path], path.parent / "out", **options)
    return str(refused.value)


def test_two_columns_that_name_the_items_together_are_found(tmp_path: Path) -> None:
    path = sales(tmp_path / "sales.csv", ["1", "2"], ["1", "2"])
    assert "--id-column Store,Dept" in advice(path)
    report = import_corpus([path], tmp_path / "read", id_column="Store,Dept")
    assert (report.items, report.rows) == (4, 160)


@pytest.mark.parametrize("header", ["Filiale,Dept,Date,Sales", "item_id,Abteilung,Date,Sales"])
def test_a_column_of_any_name_is_found_beside_recognised_ids(tmp_path: Path, header: str) -> None:
    path = sales(tmp_path / "sales.csv", ["N", "S"], ["x", "y"], header)
    assert f"--id-column {','.join(header.split(',')[:2])}" in advice(path)


def test_measurements_and_dates_are_no_ids(tmp_path: Path) -> None:
    rows = [f"{day},{k % 7},{k * 0.5 + n},{day}" for n in range(3) for k, day in enumerate(days(60))]
    text = advice(write(tmp_path / "x.csv", "Date,Weekday,Load,Updated", rows))
    assert "--id-column" not in text
    assert "--duplicates last" in text


def test_a_part_of_the_time_beside_its_column_is_named_as_such(tmp_path: Path) -> None:
    weeks = [(age, year, week) for age in ("young", "old") for year in range(2015, 2021) for week in range(1, 53)]
    rows = [f"{age},{year},{week},{year + week / 60}" for age, year, week in weeks]
    text = advice(write(tmp_path / "flu.csv", "Age group,Year,Week,Rate", rows), timestamp_column="Year")
    assert "The time was read from 'Year' alone, and 'Week' is a part of it" in text
    assert '--id-column "Age group"' in text


def test_parts_of_the_time_are_known_in_other_languages_and_a_tag_may_be_a_sensor(tmp_path: Path) -> None:
    weeks = [(age, year, week) for age in ("jung", "alt") for year in range(2015, 2021) for week in range(1, 53)]
    rows = [f"{age},{year},{week},{year + week / 60}" for age, year, week in weeks]
    text = advice(write(tmp_path / "grippe.csv", "Alter,Jahr,Woche,Rate", rows), timestamp_column="Jahr")
    assert "The time was read from 'Jahr' alone, and 'Woche' is a part of it" in text
    rows = [f"{day},{tag},{k + 0.5 * tag}" for k, day in enumerate(days(60)) for tag in (3, 4, 5)]
    assert "--id-column Tag" in advice(write(tmp_path / "plant.csv", "Date,Tag,Reading", rows))


def test_rows_that_differ_in_text_alone_may_be_one_observation_in_several_words(tmp_path: Path) -> None:
    rows = [f"{day},{k},{word}" for k, day in enumerate(days(60)) for word in ("rain", "mist")[: 1 + k % 2]]
    path = write(tmp_path / "x.csv", "Date,Load,Weather", rows)
    assert "differ in little but text (column 'Weather')" in advice(path)
    assert import_corpus([path], tmp_path / "read", columns="Load").lost["rows"] == 0


def test_conflicts_between_files_name_no_column(tmp_path: Path) -> None:
    for k in range(2):
        rows = [f"A,{day},{j + 100 * k}" for j, day in enumerate(days(40))]
        write(tmp_path / "in" / f"{k}.csv", "item_id,Date,Load", rows)
    with pytest.raises(DataError, match=r"(?s)40 of 80 rows.*import them apart"):
        import_corpus([tmp_path / "in"], tmp_path / "out")


# The hour that clocks repeat


def local_hours(path: Path, start: str, count: int, step: str, zone: str) -> Path:
    stamps = pd.date_range(start, periods=count, freq=step, tz=zone).tz_localize(None)
    return write(path, "time,load", [f"{stamp},{k}.5" for k, stamp in enumerate(stamps)])


@pytest.mark.parametrize(
    ("start", "zone"),
    [("2023-01-01", "Europe/Berlin"), ("2022-06-01", "America/New_York"), ("2023-01-01", "Australia/Sydney")],
)
def test_the_repeated_hour_of_a_year_is_noted_and_a_zone_keeps_both(tmp_path: Path, start: str, zone: str) -> None:
    path = local_hours(tmp_path / "x.csv", start, 8700, "h", zone)
    report = import_corpus([path], tmp_path / "out")
    assert report.lost["rows"] == 1
    assert "hour_repeated" in codes(report.notes)
    assert import_corpus([path], tmp_path / "zone", timezone=zone).lost["rows"] == 0


def test_many_rows_of_the_repeated_hour_stop_with_the_zone_as_advice(tmp_path: Path) -> None:
    text = advice(local_hours(tmp_path / "x.csv", "2023-10-28", 600, "5min", "Europe/Berlin"))
    assert "--timezone" in text
    assert "--duplicates" not in text


def test_another_repeated_hour_is_no_change_of_clocks(tmp_path: Path) -> None:
    stamps = pd.date_range("2023-01-01", periods=500, freq="h")
    rows = [f"{stamp},{k}" for k, stamp in enumerate([*stamps, stamps[77]])]
    report = import_corpus([write(tmp_path / "x.csv", "time,load", rows)], tmp_path / "out")
    assert report.lost["rows"] == 1
    assert "hour_repeated" not in codes(report.notes)


def test_three_columns_that_name_the_items_together_are_found(tmp_path: Path) -> None:
    keys = [f"{a},{b},{c}" for a in ("put", "call") for b in (90, 100) for c in ("Mar", "Jun")]
    rows = [f"{key},{day},{100 * n + k}.5" for n, key in enumerate(keys) for k, day in enumerate(days(40))]
    text = advice(write(tmp_path / "x.csv", "Type,Strike,Expiry,Date,Settlement", rows))
    assert "--id-column Type,Strike,Expiry" in text


def test_whole_numbers_that_happen_to_differ_are_no_ids(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [f"{day},{','.join(map(str, rng.integers(0, 40, 4)))}" for day in days(400) for _ in range(4)]
    assert "--id-column" not in advice(write(tmp_path / "x.csv", "Date,Ones,Twos,Threes,Fours", rows))
