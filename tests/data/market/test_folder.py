from __future__ import annotations

import json
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fake_market import exchange_bars

from foretrain import atomic
from foretrain.data.market import folder as module
from foretrain.data.market.folder import NAME, MarketFolder, check_names, file_stem
from foretrain.errors import ConfigError, DataError

BARS = exchange_bars("2024-01-01", 5)
MORE = exchange_bars("2024-01-01", 8)


def stored(path, symbol="BTC/USDT", bars=BARS) -> None:
    with MarketFolder(path) as library:
        library.settings = {"source": "ccxt", "exchange": "binance", "interval": "1h", "start": None}
        library.store(symbol, bars, {"currency": "USDT"})


def test_a_symbol_is_there_with_its_record_when_the_folder_is_opened_again(tmp_path):
    stored(tmp_path / "library")
    record = json.loads((tmp_path / "library" / NAME).read_text())["symbols"]["BTC/USDT"]
    assert record["file"] == "BTC-USDT.csv" and record["rows"] == 5 and record["currency"] == "USDT"
    assert (record["first"], record["last"]) == ("2024-01-01T00:00:00Z", "2024-01-01T04:00:00Z")
    with MarketFolder(tmp_path / "library") as library:
        np.testing.assert_array_equal(library.bars("BTC/USDT").values, BARS.values)
    assert sorted(path.name for path in (tmp_path / "library").iterdir()) == ["BTC-USDT.csv", NAME]


@pytest.mark.parametrize("kill_at", range(1, 4))
@pytest.mark.parametrize("old", [True, False])
def test_a_kill_at_any_write_leaves_records_that_fit_their_files(tmp_path, monkeypatch, kill_at, old):
    path = tmp_path / "library"
    stored(path, "OTHER")
    if old:
        stored(path)
    count = 0

    def replacing(target, **how):
        nonlocal count
        count += 1
        if count == kill_at:
            raise KeyboardInterrupt
        return atomic.replacing_file(target, **how)

    monkeypatch.setattr(module, "replacing_file", replacing)
    with pytest.raises(KeyboardInterrupt):
        stored(path, bars=MORE)
    monkeypatch.undo()
    with MarketFolder(path) as library:
        if kill_at == 3:  # the file was written
            assert len(library.bars("BTC/USDT")) == 8
        elif old:
            assert len(library.bars("BTC/USDT")) == 5
        else:
            assert "BTC/USDT" not in library.symbols
        assert len(library.bars("OTHER")) == 5


def test_a_file_that_was_changed_is_not_read(tmp_path):
    stored(tmp_path)
    (tmp_path / "BTC-USDT.csv").write_text("timestamp,open\n2024-01-01,1\n")
    with MarketFolder(tmp_path) as library, pytest.raises(DataError, match="is not the file that was downloaded"):
        library.bars("BTC/USDT")


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds 'notes.txt' and no provenance.json. Choose a new folder."):
        MarketFolder(tmp_path).__enter__()


def test_one_process_writes_at_a_time(tmp_path):
    with MarketFolder(tmp_path / "a") as _, pytest.raises(DataError, match="is downloading into this folder"):
        MarketFolder(tmp_path / "a").__enter__()


def test_a_folder_into_which_nothing_was_downloaded_is_not_left(tmp_path):
    with MarketFolder(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a").exists()
    (tmp_path / "mine").mkdir()
    with MarketFolder(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree | {"format": "another"},
        lambda tree: tree | {"symbols": {"A": {"file": "../../etc/passwd", "sha256": "0"}}},
        lambda tree: tree | {"symbols": {"A": {"file": "A.csv", "sha256": 5}}},
        lambda tree: tree | {"symbols": [1]},
        lambda tree: tree | {"settings": {"source": "yfinance"}},
        lambda tree: tree | {"settings": tree["settings"] | {"source": 5}},
        lambda tree: {"format": tree["format"]},
    ],
)
def test_records_of_another_make_are_refused_in_a_line(tmp_path, change):
    stored(tmp_path)
    tree = json.loads((tmp_path / NAME).read_text())
    (tmp_path / NAME).write_text(json.dumps(change(tree)))
    with pytest.raises(DataError, match=r"provenance\.json: .* Download the library anew into another folder\."):
        MarketFolder(tmp_path).__enter__()


@pytest.mark.parametrize(
    ("symbol", "stem"),
    [
        ("BTC/USDT", "BTC-USDT"), ("BTC/USDT:USDT", "BTC-USDT_USDT"), ("BRK-B", "BRK-B"), ("^GSPC", "_GSPC"),
        ("EURUSD=X", "EURUSD_X"), (".DJI", "_DJI"), ("0700.HK", "0700.HK"), ("CON", "CON_"), ("prn", "prn_"),
        ("COM1.X", "COM1.X_"), ("-X", "_X"), ("A.", "A_"), ("../../x", "_.-..-x"),
    ],
)  # fmt: skip
def test_files_have_names_that_every_file_system_takes(symbol, stem):
    assert file_stem(symbol) == stem


@settings(max_examples=50)
@given(st.text(alphabet=[*string.printable, "é", "\u202e"], min_size=1, max_size=30))
def test_no_symbol_names_a_file_elsewhere(symbol):
    stem = file_stem(symbol)
    assert stem and not set(stem) & set('/\\:*?"<>|\0 ') and stem[0] not in ".-" and stem[-1] != "."


def test_two_symbols_of_one_file_are_refused_also_where_case_is_one():
    check_names(["BTC/USDT", "BTC/USDT", "ETH/USDT"])
    for pair in (["BTC/USDT", "BTC-USDT"], ["ABC", "abc"]):
        with pytest.raises(ConfigError, match="would both be written to"):
            check_names(pair)
    with pytest.raises(ConfigError, match="is no symbol"):
        check_names([""])
