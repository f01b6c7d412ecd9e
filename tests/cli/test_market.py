from __future__ import annotations

import json
import sys
from importlib import util

import pandas as pd
import pytest
from tests.fake_market import (
    FakeCcxt,
    FakeExchange,
    FakeYahoo,
    YFRateLimitError,
    at,
    coarse,
    exchange_bars,
    yahoo_daily,
)

from foretrain.cli import main
from foretrain.data.market import sources

DATES = pd.bdate_range("2024-03-01", "2024-03-15")


@pytest.fixture
def foretrain(monkeypatch, capsys):
    """Run `data market download` and return its exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["foretrain", "data", "market", "download", *map(str, words)])
        with pytest.raises(SystemExit) as leave:
            main()
        return int(leave.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture
def yahoo(monkeypatch):
    package = FakeYahoo({name: yahoo_daily(DATES, seed) for seed, name in enumerate(["AAPL", "MSFT", "SPY"])})
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *more: True if name == "yfinance" else find(name, *more))
    monkeypatch.setitem(sys.modules, "yfinance", package)
    monkeypatch.setattr(sources.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(sources.Patience.__init__, "__kwdefaults__", {"sleep": lambda s: None, "say": lambda t: None})
    return package


@pytest.fixture
def exchange(monkeypatch):
    bars = exchange_bars("2024-01-05 03:00", 40)
    client = FakeExchange({"BTC/USDT": {"1h": bars, "1d": coarse(bars)}}, at("2024-02-01"))
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *more: True if name == "ccxt" else find(name, *more))
    monkeypatch.setitem(sys.modules, "ccxt", FakeCcxt(client))
    return client


def test_symbols_are_downloaded_then_kept_then_updated(foretrain, yahoo, tmp_path):
    out = tmp_path / "library"
    code, said, _ = foretrain("aapl", "MSFT", "--source", "yfinance", "--out", out)
    assert code == 0
    assert said.splitlines() == [
        "  fetched  AAPL  11 bars, 2024-03-01 .. 2024-03-15",
        "  fetched  MSFT  11 bars, 2024-03-01 .. 2024-03-15",
        f"2 of 2 symbols done in {out}: 2 fetched.",
    ]
    assert sorted(path.name for path in out.iterdir()) == ["AAPL.csv", "MSFT.csv", "provenance.json"]
    code, said, _ = foretrain("AAPL", "SPY", "--source", "yfinance", "--out", out)
    assert code == 0 and said.endswith("2 of 2 symbols done in " + f"{out}: 1 fetched, 1 kept.\n")
    yahoo.symbols["AAPL"] = yahoo_daily(pd.bdate_range("2024-03-01", "2024-03-20"))
    code, said, _ = foretrain("--update", "--out", out)
    assert code == 0 and "  updated  AAPL  3 new bars, up to 2024-03-20\n" in said
    assert said.endswith(f"3 of 3 symbols done in {out}: 1 updated, 2 kept.\n")


def test_the_record_says_where_bars_come_from(foretrain, yahoo, tmp_path):
    words = ("--source", "yfinance", "--start", "2024-03-05", "--end", "2024-03-12", "--out", tmp_path / "x")
    assert foretrain("AAPL", *words)[0] == 0
    tree = json.loads((tmp_path / "x" / "provenance.json").read_text())
    settings = {"source": "yfinance", "exchange": None, "interval": "1d", "start": "2024-03-05"}
    assert tree["settings"] == settings
    record = tree["symbols"]["AAPL"]
    assert record.keys() == {"file", "sha256", "rows", "first", "last", "fetched_at", "version", "host", "currency",
                             "class", "exchange", "timezone"}  # fmt: skip
    assert (record["first"], record["last"], record["rows"]) == ("2024-03-05", "2024-03-11", 5)
    assert (record["version"], record["host"]) == ("1.7.0", "query2.finance.yahoo.com")


def test_symbols_that_fail_are_the_last_rows_and_the_exit_code(foretrain, yahoo, tmp_path):
    yahoo.symbols["MSFT"].errors = [YFRateLimitError()] * 9
    code, said, warned = foretrain(
        "MSFT", "GONE", "SPY", "--source", "yfinance", "--retries", 1, "--out", tmp_path / "x"
    )
    assert code == 1
    assert [line.split()[:2] for line in said.splitlines()[:-1]] == [
        ["fetched", "SPY"], ["FAILED", "MSFT"], ["FAILED", "GONE"]
    ]  # fmt: skip
    assert "no answer in 2 tries (Too Many Requests" in said and "possibly delisted" in said
    assert said.splitlines()[-1] == f"1 of 3 symbols done in {tmp_path / 'x'}: 1 fetched."
    assert "  MSFT: Too Many Requests. Rate limited. Try after a while; asked again in 5 s" in warned
    code, said, _ = foretrain("GONE", "--source", "yfinance", "--out", tmp_path / "y")
    assert code == 2 and said.splitlines()[-1] == f"0 of 1 symbols done in {tmp_path / 'y'}."
    assert not (tmp_path / "y").exists()


def test_pairs_of_an_exchange_by_a_file_of_symbols(foretrain, exchange, tmp_path):
    (tmp_path / "pairs.txt").write_text("BTC/USDT\n")
    words = ("--source", "ccxt", "--exchange", "fake", "--interval", "1h", "--out", tmp_path / "x")
    code, said, _ = foretrain("--symbols", tmp_path / "pairs.txt", *words)
    assert code == 0
    assert said.splitlines()[0] == "  fetched  BTC/USDT  40 bars, 2024-01-05T03:00:00Z .. 2024-01-06T18:00:00Z"
    assert (tmp_path / "x" / "BTC-USDT.csv").exists()
    tree = json.loads((tmp_path / "x" / "provenance.json").read_text())
    assert tree["settings"]["exchange"] == "fake" and tree["symbols"]["BTC/USDT"]["fees"]["taker"] == 0.001


def test_a_sample_names_symbols_of_the_source(foretrain, yahoo, tmp_path):
    code, said, _ = foretrain("--sample", "etf", "--source", "yfinance", "--retries", 0, "--out", tmp_path / "x")
    assert code == 1 and said.splitlines()[-1] == f"1 of 25 symbols done in {tmp_path / 'x'}: 1 fetched."
    assert [asked["symbol"] for asked in yahoo.asked[:3]] == ["SPY", "DIA", "IWM"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["AAPL"], "give --out, the folder of the library"),
        (["AAPL", "--out", "{new}"], "--source: give yfinance or ccxt"),
        (["--source", "yfinance", "--out", "{new}"], "name symbols, or give --symbols FILE or --sample LIST"),
        (["A", "--sample", "all", "--source", "yfinance", "--out", "{new}"], "SYMBOL and --sample: name the"),
        (["A", "--source", "yfinance", "--exchange", "x", "--out", "{new}"], "--exchange: has no effect"),
        (["A", "--source", "yfinance", "--start", "1.2.2024", "--out", "{new}"], "--start 1.2.2024: is no date"),
        (["A", "--source", "yfinance", "--start", "2999-01-01", "--out", "{new}"], "lies in the future"),
        (["A", "--source", "yfinance", "--start", "2024-02-02", "--end", "2024-02-01", "--out", "{new}"], "not after"),
        (["A", "--source", "yfinance", "--interval", "4h", "--out", "{new}"], "--interval 4h: Yahoo has"),
        (["--update", "--out", "{new}"], "holds no library to update"),
        (["A.B", "A_B", "--source", "yfinance", "--out", "{new}"], None),
        (["A/B", "A-B", "--source", "yfinance", "--out", "{new}"], "would both be written to A-B.csv"),
    ],
)  # fmt: skip
def test_words_that_cannot_take_effect_are_refused_and_leave_nothing(foretrain, yahoo, tmp_path, words, why):
    code, _, warned = foretrain(*(word.format(new=tmp_path / "a" / "new") for word in words))
    assert code == 2 and (why is None or (why in warned and warned.count("\n") == 1))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(("source", "extra"), [("yfinance", "yfinance"), ("ccxt", "ccxt")])
def test_without_the_package_a_line_says_how_to_install_it(foretrain, monkeypatch, tmp_path, source, extra):
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *more: None if name == source else find(name, *more))
    code, _, warned = foretrain("A", "--source", source, "--out", tmp_path / "x")
    assert code == 2 and not (tmp_path / "x").exists()
    assert warned == (
        f"error: --source {source} needs the package {source}, which is not installed: "
        f"pip install 'foretrain[{extra}]'.\n"
    )
