"""Metadata of symbols as a build uses it: calendars that bars are compared with, faults in it, and rules of markets."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.data.market.folders import bars, days, overview, write

from foretrain.data.importers import ImportOptions
from foretrain.data.market.assets import read_assets, read_own_assets
from foretrain.data.market.calendars import bars_per_year, calendar_of
from foretrain.data.market.library import build, update
from foretrain.data.market.library_report import part_lines
from foretrain.data.store import Corpus
from foretrain.errors import DataError

sessions = pytest.importorskip("exchange_calendars", reason="needs the extra market: exchange_calendars")
DAY = 86400 * 10**6


def new_york(count: int) -> list[str]:
    """Return the dates of `count` sessions of New York."""
    found = sessions.get_calendar("XNYS", start="2022-01-03", end="2023-12-29").sessions[:count]
    return [day.date().isoformat() for day in found]


def say(folder: Path, **entries: Mapping[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "asset_metadata.json").write_text(json.dumps(entries))


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"exchange": "XNYZ"}, r"AAPL: exchange 'XNYZ' is none that exchange_calendars knows. .*say its calendar"),
        ({"calendar": "NYSEE"}, r"AAPL: calendar 'NYSEE' is none that exchange_calendars knows\. .*NYSE"),
        ({"precision": 200}, r"AAPL: precision is 200; it is a number of decimal places, 0 to 18"),
        ({"precision": 0.5}, r"AAPL: precision is 0\.5; it is a number of decimal places"),
        ({"precision": -1}, r"AAPL: precision is '-1', no number from 0"),
        (
            {"default_trading_fee": 5},
            r"AAPL: default_trading_fee is 5; it is a share of the value traded, at most 0\.1",
        ),
        ({"default_trading_fee": float("nan")}, r"cannot be read: the number NaN is not finite"),
    ],
)
def test_metadata_that_cannot_be_is_refused_in_one_line(tmp_path, entry, message):
    write(tmp_path / "in" / "AAPL.csv", bars(days(100), 1))
    say(tmp_path / "in", AAPL=entry)
    with pytest.raises(DataError, match=message) as error:
        build(tmp_path / "in", tmp_path / "lib")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "lib").exists()


def test_bars_that_contradict_their_calendar_go_to_quarantine(tmp_path):
    """A coin said to trade in New York, and a stock said to trade always; one whose calendar is right is built."""
    write(tmp_path / "in" / "BTC-USD.csv", bars(days(120, business=False), 1))
    write(tmp_path / "in" / "AAPL.csv", bars(new_york(120), 2))
    write(tmp_path / "in" / "MSFT.csv", bars(new_york(120), 3))
    say(
        tmp_path / "in", **{"BTC-USD": {"calendar": "XNYS"}, "AAPL": {"calendar": "24/7"}, "MSFT": {"exchange": "XNAS"}}
    )
    report = build(tmp_path / "in", tmp_path / "lib")
    assert list(report.entries) == ["MSFT"]
    assert "of its 120 stamps fit no session of XNYS" in report.quarantined["BTC-USD"]
    assert "AAPL: the calendar 24/7 has 365 bars a year, and its bars come" in report.quarantined["AAPL"]
    reasons = {line["symbol"]: line["reason"] for line in lines_of(tmp_path / "lib" / "quarantine" / "reasons.csv")}
    assert set(reasons) == {"AAPL", "BTC-USD"}


def test_each_symbol_is_judged_by_the_calendar_of_its_exchange(tmp_path):
    """A bar on Christmas Monday is no session of New York; another symbol, of which nothing is known, keeps its own."""
    dates = new_york(250)
    at = dates.index("2022-12-27")
    write(tmp_path / "in" / "AAPL.csv", bars([*dates[:at], "2022-12-26", *dates[at:]], 1))
    write(tmp_path / "in" / "MSFT.csv", bars([*dates[:at], "2022-12-26", *dates[at:]], 2))
    write(tmp_path / "in" / "BTC-USD.csv", bars(days(300, business=False), 3))
    say(tmp_path / "in", AAPL={"exchange": "XNAS"})
    build(tmp_path / "in", tmp_path / "lib", options=ImportOptions(on_bad="drop"))
    hidden = lines_of(tmp_path / "lib" / "quarantine" / "bars.csv")
    assert ("AAPL", "2022-12-26", "closed_session") in {tuple(line.values()) for line in hidden}
    assert "MSFT" not in {line["symbol"] for line in hidden if line["rule"] == "closed_session"}
    corpus = Corpus.open(tmp_path / "lib" / "B")
    times = corpus.times(0)
    assert times is not None
    christmas = int(np.searchsorted(times, np.datetime64("2022-12-26", "us").astype(np.int64)))
    assert np.isnan(corpus.values(0)[3, christmas]) and not np.isnan(corpus.values(1)[3, christmas])
    rules = {(line["corpus"], line["rule"]): line for line in lines_of(tmp_path / "lib" / "quality.csv")}
    assert rules["B", "closed_session"]["symbols"] == "1"


def test_a_symbol_that_the_rules_leave_out_is_in_quarantine_with_its_files_and_the_reason(tmp_path):
    lines = bars(new_york(150), 1)
    halved = []
    for line in lines[75:]:
        day, *prices, volume = line.split(",")
        halved.append(",".join([day, *(str(float(price) / 4) for price in prices), volume]))
    write(tmp_path / "in" / "SPLIT.csv", [*lines[:75], *halved])
    for seed, name in enumerate(("A", "B", "C")):
        write(tmp_path / "in" / f"{name}.csv", bars(new_york(150), 10 + seed))
    kept = build(tmp_path / "in", tmp_path / "kept")
    assert "SPLIT" in kept.entries and not kept.quarantined
    report = build(tmp_path / "in", tmp_path / "lib", options=ImportOptions(on_bad="drop"))
    assert list(report.quarantined) == ["SPLIT"] and "SPLIT" not in report.entries
    assert report.quarantined["SPLIT"].startswith("split_like_jump")
    assert (tmp_path / "lib" / "quarantine" / "SPLIT.csv").is_file()
    assert lines_of(tmp_path / "lib" / "quarantine" / "reasons.csv")[0]["symbol"] == "SPLIT"
    again = update(tmp_path / "in", tmp_path / "lib", options=ImportOptions(on_bad="drop"))
    assert list(again.quarantined) == ["SPLIT"]


def test_an_update_keeps_what_was_told_apart_from_what_was_given(tmp_path):
    overview(tmp_path / "in")
    say(tmp_path / "in", AAPL={"default_trading_fee": 0.0002, "currency": "USD"})
    build(tmp_path / "in", tmp_path / "lib")
    first = read_assets(tmp_path / "lib" / "asset_metadata.json")
    assert first["AAPL"]["from_default"] == ["precision"]
    assert first["MSFT"]["from_default"] == ["default_trading_fee", "precision"]
    assert first["BTC-USD"]["from_name"] == ["asset_class", "currency", "calendar"]
    (tmp_path / "in" / "asset_metadata.json").unlink()
    update(tmp_path / "in", tmp_path / "lib")
    assert read_assets(tmp_path / "lib" / "asset_metadata.json") == first
    own = read_own_assets(tmp_path / "lib" / "asset_metadata.json")
    assert own["AAPL"]["default_trading_fee"] == 0.0002 and "default_trading_fee" not in own["MSFT"]
    say(tmp_path / "more", AAPL={"currency": "EUR"})
    update(tmp_path / "in", tmp_path / "lib", metadata=tmp_path / "more" / "asset_metadata.json")
    assert read_assets(tmp_path / "lib" / "asset_metadata.json")["AAPL"]["currency"] == "EUR"


def test_the_summary_equals_a_count_by_hand(tmp_path):
    """By pandas, from the folder alone: the columns of the layout that is read."""
    folder = tmp_path / "in"
    overview(folder)
    build(folder, tmp_path / "lib")
    found = pd.read_csv(tmp_path / "lib" / "data_summary.csv").set_index("symbol")
    for place in (folder, folder / "unseen15"):
        for train in sorted((place / "train").glob("*.csv")):
            parts = {part: place / part / train.name for part in ("train", "val", "test")}
            rows = {part: pd.read_csv(path) for part, path in parts.items() if path.exists()}
            line = found.loc[train.stem]
            assert line["total_rows"] == sum(map(len, rows.values()))
            assert line["test_rows"] == len(rows["test"])
            assert line["train_rows"] == len(rows["train"]) + len(rows.get("val", ()))
            assert line["latest_date"] == rows["test"]["timestamp"].max()
            assert line["first_date"] == rows["train"]["timestamp"].min()
            assert line["test_from"] == rows["test"]["timestamp"].min()
            assert (folder / line["train_file"], folder / line["test_file"]) == (parts["train"], parts["test"])
    assert len(found) == 6


def test_a_year_has_the_bars_of_the_calendar():
    daily = np.arange(0, 730) * DAY
    stocks = np.array(new_york(480), "datetime64[us]").astype(np.int64)
    year = bars_per_year("BTC-USD", daily, "24/7")
    assert year is not None and year.count == pytest.approx(365.25) and year.source == "calendar 24/7"
    year = bars_per_year("AAPL", stocks, "XNYS")
    assert year is not None and year.count == pytest.approx(251.4, abs=1) and year.source == "calendar XNYS"
    holes = bars_per_year("AAPL", stocks[np.arange(480) % 10 > 0], "XNYS")  # they are sessions all the same
    assert holes is not None and holes.count == pytest.approx(year.count, abs=1)
    year = bars_per_year("AAPL", stocks, None)
    assert year is not None and year.count == pytest.approx(251.4, abs=2) and year.source == "its bars"
    with pytest.raises(DataError, match=r"24/7 has 365 bars a year, and its bars come 25. times a year"):
        bars_per_year("AAPL", stocks, "24/7")
    year = bars_per_year("AAPL", stocks, "24/7", given=False)
    assert year is not None and year.source == "its bars"
    assert bars_per_year("AAPL", daily[:5], None) is None
    hourly = np.concatenate([day + np.arange(14, 21) * 3600 * 10**6 for day in stocks])
    year = bars_per_year("AAPL", hourly, None)
    assert year is not None and year.count == pytest.approx(7 * 251.4, rel=0.02)


def test_the_calendar_is_that_of_the_exchange_and_of_coins_always():
    assert calendar_of("A", {"asset_class": "equity", "exchange": "XNAS", "calendar": None}) == "XNAS"
    assert calendar_of("A", {"asset_class": "equity", "exchange": "XNAS", "calendar": "XLON"}) == "XLON"
    assert calendar_of("BTC-USDT", {"asset_class": "crypto", "exchange": "binance"}) == "24/7"
    assert calendar_of("A", {"asset_class": "equity"}) is None


def test_the_report_says_how_many_origins_a_test_part_holds():
    lines = part_lines({"A": 30, "B": 30, "C": 12}, {"five": 5, "kronos": 30, "long": 64})
    assert lines[1:4] == [
        "  five, 5 steps ahead: 2 to 6 origins a symbol",
        "  kronos, 30 steps ahead: 1 origin a symbol, none in 1 of 3",
        "  long, 64 steps ahead: no origin in any symbol",
    ]
    assert "nor for an interval over origins" in lines[4]


def test_mode_error_quarantines_a_symbol_with_an_error_in_its_own_rows(tmp_path):
    lines = bars(new_york(100), 1)
    day, first, _, low, last, volume = lines[50].split(",")
    lines[50] = ",".join([day, first, str(float(low) / 2), low, last, volume])  # a high below the low
    write(tmp_path / "in" / "BAD.csv", lines)
    write(tmp_path / "in" / "GOOD.csv", bars(new_york(100), 2))
    report = build(tmp_path / "in", tmp_path / "lib", options=ImportOptions(on_bad="error"))
    assert list(report.entries) == ["GOOD"] and "ohlc_inconsistent" in report.quarantined["BAD"]


def test_without_the_package_a_note_says_that_no_calendar_was_compared(tmp_path, monkeypatch):
    monkeypatch.setattr("foretrain.data.market.library.has_calendars", lambda: False)
    monkeypatch.setattr("foretrain.data.market.calendars.has_calendars", lambda: False)
    write(tmp_path / "in" / "AAPL.csv", bars(new_york(100), 1))
    say(tmp_path / "in", AAPL={"calendar": "XNYS"})
    report = build(tmp_path / "in", tmp_path / "lib")
    assert list(report.entries) == ["AAPL"]
    assert any("first AAPL, are not compared with their bars" in note for note in report.notes)
    year = bars_per_year("AAPL", np.arange(0, 100) * DAY, "XNYS")
    assert year is not None and year.source == "its bars"
