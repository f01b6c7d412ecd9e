"""The packages themselves against servers of this machine that speak Binance's and Yahoo's protocols.

Both packages are extras: where one is not installed, its tests are skipped and say so, and the fakes of
tests/fake_market.py stand for it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pandas as pd
import pytest
from tests.fake_market import HOUR, at, exchange_bars, yahoo_daily

from foretrain.data.market.bars import csv_text
from foretrain.data.market.exchanges import ExchangeSource
from foretrain.data.market.sources import NoAnswerError, Patience, SymbolError
from foretrain.data.market.yahoo import YahooSource

pytestmark = pytest.mark.processes

NOW = at("2024-02-01 12:30")
FIRST = "2024-01-05 03:00"
Answer = Callable[[str, dict[str, str]], tuple[int, Any]]


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """The address of a server whose JSON and status a function of path and query gives."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            status, tree = answer(parts.path, dict(parse_qsl(parts.query)))
            body = json.dumps(tree).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class Binance:
    """The public interface of the exchange, with one market; busy: how many questions for bars are refused first."""

    def __init__(self, page: int = 17) -> None:
        self.bars, self.page, self.busy = exchange_bars(FIRST, 200), page, 0
        self.asked: list[dict[str, str]] = []

    def __call__(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        if path.endswith("/time"):
            return 200, {"serverTime": NOW}
        if path == "/api/v3/exchangeInfo":
            filters = [
                {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000", "tickSize": "0.01"},
                {"filterType": "LOT_SIZE", "minQty": "0.00001", "maxQty": "9000", "stepSize": "0.00001"},
            ]
            market = {"symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "baseAssetPrecision": 8,
                      "quoteAsset": "USDT", "quotePrecision": 8, "quoteAssetPrecision": 8, "orderTypes": ["LIMIT"],
                      "isSpotTradingAllowed": True, "isMarginTradingAllowed": False, "permissions": ["SPOT"],
                      "filters": filters}  # fmt: skip
            return 200, {"timezone": "UTC", "serverTime": NOW, "rateLimits": [], "symbols": [market]}
        if path.endswith("/exchangeInfo"):
            return 200, {"symbols": []}
        assert path == "/api/v3/klines", path
        self.asked.append(query)
        if self.busy:
            self.busy -= 1
            return 429, {"code": -1003, "msg": "Too many requests; current limit is 6000 request weight per 1 MINUTE."}
        if query["interval"] == "1h":
            times, values, length = self.bars.times, self.bars.values, HOUR
        else:  # longer bars, one of them
            times, values, length = self.bars.times[:1] // (24 * HOUR) * (24 * HOUR), self.bars.values[:1], 24 * HOUR
        rows = np.flatnonzero(times >= int(query["startTime"]))[: min(self.page, int(query["limit"]))]
        rest = ["0", 1, "0", "0", "0"]
        return 200, [[int(times[r]), *(f"{v:.8f}" for v in values[r]), int(times[r]) + length - 1, *rest] for r in rows]


@contextmanager
def exchange(answer: Answer, retries: int = 2) -> Iterator[tuple[ExchangeSource, list[float]]]:
    ccxt = pytest.importorskip("ccxt", reason="ccxt (extra `ccxt`) is not installed")
    with serving(answer) as address:
        client = ccxt.binance({"enableRateLimit": True, "rateLimit": 1, "options": {"fetchCurrencies": False}})
        client.urls["api"] = {name: address + urlsplit(url).path for name, url in client.urls["api"].items()}
        waits: list[float] = []
        yield ExchangeSource(ccxt, client, "1h", Patience(retries, sleep=waits.append)), waits


def test_ccxt_gives_all_pages_of_an_exchange():
    answer = Binance()
    with exchange(answer) as (source, _):
        fetched = source.fetch("BTC/USDT", None, None)
        assert source.host.startswith("127.0.0.1:") and source.exchange == "binance"
    assert fetched.bars.times.tolist() == answer.bars.times.tolist()
    np.testing.assert_allclose(fetched.bars.values, answer.bars.values, rtol=1e-12)
    assert fetched.facts["currency"] == "USDT" and fetched.facts["precision"]["price"] == 0.01
    assert fetched.notes == ()
    hours = [query for query in answer.asked if query["interval"] == "1h"]
    assert len(hours) >= 12 and {query["limit"] for query in hours} >= {"1000"}


def test_ccxt_leaves_out_the_running_bar_by_the_exchange_s_clock():
    answer = Binance(page=1000)
    answer.bars = exchange_bars("2024-02-01", 13)
    with exchange(answer) as (source, _):
        assert source.fetch("BTC/USDT", None, None).bars.stamp(-1) == "2024-02-01T11:00:00Z"


def test_ccxt_s_rate_limits_are_waited_for():
    answer = Binance(page=1000)
    with exchange(answer) as (source, waits):
        answer.busy = 2
        assert len(source.fetch("BTC/USDT", at(FIRST), None, again=True).bars) == 200
        assert waits == [5, 15]
        answer.busy = 99
        with pytest.raises(NoAnswerError, match=r"no answer in 3 tries \(binance .*Too many requests"):
            source.fetch("BTC/USDT", at(FIRST), None, again=True)
        with pytest.raises(SymbolError, match=r"binance has no such symbol"):
            source.fetch("NOPE/USDT", None, None)


class Yahoo:
    """Yahoo's chart interface, with the symbol AAPL; status: of the next answers in place of 200."""

    def __init__(self) -> None:
        self.held = yahoo_daily(pd.bdate_range("2024-03-01", "2024-03-15"))
        self.asked: list[dict[str, str]] = []
        self.status: list[int] = []

    def __call__(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        if path != "/v8/finance/chart/AAPL":
            why = {"code": "Not Found", "description": "No data found, symbol may be delisted"}
            return 404, {"chart": {"result": None, "error": why}}
        self.asked.append(query)
        if self.status:
            return self.status.pop(0), {}
        table = self.held.table
        opens = [int((stamp + pd.Timedelta("9h30min")).timestamp()) for stamp in table.index]
        regular = self.held.about["currentTradingPeriod"]["regular"]
        session = {name: int(stamp.timestamp()) for name, stamp in regular.items()}
        session |= {"timezone": "EDT", "gmtoffset": -14400}
        periods = {name: dict(session) for name in ("pre", "regular", "post")}
        meta = {"currency": "USD", "symbol": "AAPL", "exchangeName": "NMS", "instrumentType": "EQUITY",
                "exchangeTimezoneName": "America/New_York", "timezone": "EDT", "gmtoffset": -14400, "priceHint": 2,
                "currentTradingPeriod": periods, "dataGranularity": "1d", "validRanges": ["1d", "max"]}  # fmt: skip
        quote = {name.lower(): table[name].tolist() for name in ("Open", "High", "Low", "Close", "Volume")}
        events = {"dividends": {str(opens[3]): {"amount": 0.24, "date": opens[3]}},
                  "splits": {str(opens[5]): {"date": opens[5], "numerator": 4, "denominator": 1,
                                             "splitRatio": "4:1"}}}  # fmt: skip
        indicators = {"quote": [quote], "adjclose": [{"adjclose": table["Adj Close"].tolist()}]}
        result = {"meta": meta, "timestamp": opens, "events": events, "indicators": indicators}
        return 200, {"chart": {"result": [result], "error": None}}


@contextmanager
def yahoo(answer: Answer, monkeypatch, tmp_path, now: str) -> Iterator[tuple[YahooSource, list[float]]]:
    yfinance = pytest.importorskip("yfinance", reason="yfinance (extra `yfinance`) is not installed")
    from yfinance import base, data
    from yfinance.scrapers import history

    yfinance.set_tz_cache_location(str(tmp_path))
    with serving(answer) as address:
        for module in (base, history):
            monkeypatch.setattr(module, "_BASE_URL_", address)
        monkeypatch.setattr(data.YfData, "_get_cookie_and_crumb", lambda self, timeout=30: (None, "basic"))
        monkeypatch.setattr(data.YfData, "_set_cookie_strategy", lambda *words, **more: None)
        monkeypatch.setattr(yfinance.Ticker, "info", {})
        waits: list[float] = []
        patience = Patience(2, sleep=waits.append)
        clock = datetime.fromisoformat(now).replace(tzinfo=UTC).timestamp
        yield YahooSource(yfinance, "1d", patience, clock), waits


def test_yfinance_gives_the_bars_of_sessions_with_dividends_and_splits(monkeypatch, tmp_path):
    answer = Yahoo()
    with yahoo(answer, monkeypatch, tmp_path, "2024-03-15 20:00") as (source, _):
        fetched = source.fetch("AAPL", None, None)
    lines = csv_text(fetched.bars).splitlines()
    assert lines[0] == "timestamp,open,high,low,close,volume,dividends,stock_splits"
    assert (len(lines), lines[1][:11], lines[-1][:11]) == (11, "2024-03-01,", "2024-03-14,"), "New York closes later"
    assert lines[4].startswith("2024-03-06,") and lines[4].endswith(",0.24,0") and lines[6].endswith(",0,4")
    np.testing.assert_array_equal(fetched.bars.column("close"), answer.held.table["Close"].to_numpy()[:-1])
    assert fetched.facts == {"currency": "USD", "class": "stock", "exchange": "NMS", "timezone": "America/New_York"}
    assert source.version.count(".") == 2


def test_yfinance_s_refusals_are_told_apart(monkeypatch, tmp_path):
    answer = Yahoo()
    with yahoo(answer, monkeypatch, tmp_path, "2024-03-20 20:00") as (source, waits):
        with pytest.raises(SymbolError, match=r"GONE|delisted"):
            source.fetch("GONE", None, None)
        assert 5 not in waits
        answer.status = [429, 429]
        assert len(source.fetch("AAPL", at("2024-03-04"), None).bars) == 11
        assert 5 in waits
        answer.status = [429] * 20
        with pytest.raises(NoAnswerError, match="Too Many Requests"):
            source.fetch("AAPL", None, None)
    assert answer.asked[-1]["interval"] == "1d"
