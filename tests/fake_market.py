"""Sources of market bars on this machine: yfinance, ccxt and a source of our own, as far as downloads ask them.

The fakes have the signatures of yfinance 1.7.0 and ccxt 4.5.90 for what is called; tests/data/market/test_packages.py
compares them with the packages where those are installed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from foretrain.data.market.bars import CANDLE, DAY, LENGTHS, Bars
from foretrain.data.market.sources import Fetched

HOUR = 3_600_000


def at(text: str) -> int:
    """Milliseconds since 1970 of a stamp in UTC."""
    return pd.Timestamp(text, tz="UTC").value // 10**6


def candles(times: np.ndarray, seed: int = 0, start: float = 100.0) -> np.ndarray:
    """Values (T, 5) of a random walk of prices with two digits, and volumes."""
    close = start * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.01, len(times))))
    open_ = np.append(start, close[:-1])
    high, low = np.maximum(open_, close) * 1.002, np.minimum(open_, close) * 0.998
    return np.column_stack([*(np.round(x, 2) for x in (open_, high, low, close)), np.round(1e4 * close)])


class OwnSource:
    """A source whose bars are a function of nothing but `truth`, which a test replaces."""

    version, host = "1", "here"

    def __init__(self, truth: dict[str, Bars]) -> None:
        self.truth, self.asked = truth, []
        self.errors: dict[str, Exception] = {}

    def fetch(self, symbol: str, start: int | None, end: int | None, *, again: bool = False) -> Fetched:
        self.asked.append((symbol, start))
        if symbol in self.errors:
            raise self.errors[symbol]
        bars = self.truth[symbol]
        kept = (bars.times >= (start or -(10**15))) & (bars.times < (end or 10**15))
        return Fetched(bars.where(kept), {"currency": "USD"})


# --- yfinance


class YFException(Exception):
    pass


class YFRateLimitError(YFException):
    def __init__(self) -> None:
        super().__init__("Too Many Requests. Rate limited. Try after a while.")


class YFDataException(YFException):
    pass


class YFPricesMissingError(YFException):
    pass


@dataclass
class YahooSymbol:
    """A symbol of FakeYahoo: its table, what Yahoo says of it, and errors that its next questions raise."""

    table: pd.DataFrame
    about: dict[str, Any]
    errors: list[Exception] = field(default_factory=list)


class FakeYahoo:
    """The package yfinance; asked: the arguments of each question."""

    __version__ = "1.7.0"

    def __init__(self, symbols: dict[str, YahooSymbol]) -> None:
        self.config = SimpleNamespace(debug=SimpleNamespace(hide_exceptions=True))
        self.exceptions = SimpleNamespace(
            YFException=YFException, YFRateLimitError=YFRateLimitError, YFDataException=YFDataException
        )
        self.asked: list[dict[str, Any]] = []
        self.symbols = symbols

    def Ticker(self, ticker, session=None):  # the package's name
        return FakeTicker(self, ticker)


class FakeTicker:
    """yfinance.Ticker of a symbol."""

    def __init__(self, package: FakeYahoo, symbol: str) -> None:
        self._package, self._symbol = package, symbol

    def history(
        self, period="1mo if start & end None", interval="1d", start=None, end=None, prepost=False, actions=True,
        auto_adjust=True, back_adjust=False, repair=False, keepna=False, rounding=False, timeout=10, raise_errors=False,
    ):  # fmt: skip
        self._package.asked.append({"symbol": self._symbol, "period": period, "interval": interval, "start": start,
                                    "end": end, "auto_adjust": auto_adjust, "actions": actions})  # fmt: skip
        assert not self._package.config.debug.hide_exceptions, "failures would be empty tables"
        if self._symbol not in self._package.symbols:
            raise YFPricesMissingError(f"${self._symbol}: possibly delisted; no timezone found")
        held = self._package.symbols[self._symbol]
        if held.errors:
            raise held.errors.pop(0)
        table, zone = held.table, held.about["exchangeTimezoneName"]
        if start is not None:
            table = table[table.index >= _bound(start, zone)]
        if end is not None:
            table = table[table.index < _bound(end, zone)]
        return table.copy()

    def get_history_metadata(self, repair=None):
        return self._package.symbols[self._symbol].about


def _bound(value: Any, zone: str) -> pd.Timestamp:
    stamp = pd.Timestamp(value)
    return stamp.tz_localize(zone) if stamp.tz is None else stamp.tz_convert(zone)


def yahoo_daily(dates: pd.DatetimeIndex, seed: int = 0, zone: str = "America/New_York", **about: Any) -> YahooSymbol:
    """A symbol with a bar on each date, without dividends and splits; its session of the last date ends at 16:00."""
    index = pd.DatetimeIndex([pd.Timestamp(date).tz_localize(zone) for date in dates], name="Date")
    values = candles(np.arange(len(dates)), seed)
    names = ["Open", "High", "Low", "Close", "Volume"]
    table = pd.DataFrame(values, index=index, columns=pd.Index(names))
    table["Adj Close"] = table["Close"] * 0.9
    table["Dividends"], table["Stock Splits"] = 0.0, 0.0
    last = index[-1]
    regular = {"start": last + pd.Timedelta("9h30min"), "end": last + pd.Timedelta("16h")}
    facts = {"currency": "USD", "instrumentType": "EQUITY", "exchangeName": "NMS", "exchangeTimezoneName": zone,
             "currentTradingPeriod": {"regular": regular}}  # fmt: skip
    return YahooSymbol(table, {**facts, **about})


# --- ccxt


class BaseError(Exception):
    pass


class ExchangeError(BaseError):
    pass


class OperationFailed(BaseError):
    pass


class NetworkError(OperationFailed):
    pass


class DDoSProtection(NetworkError):
    pass


class RateLimitExceeded(NetworkError):
    pass


class FakeCcxt:
    """The package ccxt, with one exchange."""

    __version__ = "4.5.90"
    BaseError, OperationFailed = BaseError, OperationFailed

    def __init__(self, client: FakeExchange) -> None:
        self.exchanges = [client.id]
        setattr(self, client.id, lambda config: client.configured(config))


STYLES = ("from", "span", "short", "overlapping")  # that reach every bar


class FakeExchange:
    """An exchange of ccxt. bars: of each symbol and interval; style: what it takes for a page.

    from: the bars from a time on, wherever they are; span: those of as many intervals; short: half of them;
    overlapping: with bars before and repeated ones; newest: of all, whatever is asked for. errors: of the next
    questions.
    """

    id = "fake"
    hostname = "fake.example"

    def __init__(self, bars: dict[str, dict[str, Bars]], now: int, *, style: str = "from", size: int = 7) -> None:
        self.has = {"fetchOHLCV": True, "fetchTime": True}
        self.bars, self.now, self.style, self.size = bars, now, style, size
        self.timeframes = {"1M" if word == "1mo" else word: word for held in bars.values() for word in held}
        self.asked: list[tuple[str, str, int, int]] = []
        self.errors: list[Exception] = []
        self.config: dict[str, Any] = {}
        self.urls = {"api": {"private": "https://else", "public": "https://api.{hostname}/v1"}}

    def configured(self, config: dict[str, Any]) -> FakeExchange:
        self.config = config
        return self

    def load_markets(self, reload=False, params={}):  # noqa: B006  # the package's signature
        market = {"quote": "USDT", "type": "spot", "precision": {"price": 0.01, "amount": 1e-5}, "maker": 0.001,
                  "taker": 0.001}  # fmt: skip
        return dict.fromkeys(self.bars, market)

    def fetch_time(self, params={}):  # noqa: B006
        return self.now

    def feature_value(self, symbol, methodName=None, paramName=None, defaultValue=None):
        return self.size

    def implode_hostname(self, url):
        return url.replace("{hostname}", self.hostname)

    def fetch_ohlcv(self, symbol, timeframe="1m", since=None, limit=None, params={}):  # noqa: B006
        self.asked.append((symbol, timeframe, since, limit))
        if self.errors:
            raise self.errors.pop(0)
        word = "1mo" if timeframe == "1M" else timeframe
        return self.page(self.bars[symbol][word], LENGTHS[word], since, min(limit, self.size))

    def page(self, bars: Bars, length: int, since: int, count: int) -> list[list[float]]:
        begun = bars.times <= self.now
        span = (bars.times >= since) & begun & (bars.times < since + length * count)
        if self.style == "newest":
            rows = np.flatnonzero(begun)[-self.size :]
            rows = rows[bars.times[rows] >= since]
        elif self.style == "span":
            rows = np.flatnonzero(span)
        elif self.style == "overlapping":
            rows = np.flatnonzero((bars.times >= since - 3 * length) & begun)[: count + 3]
            rows = np.concatenate([rows, rows[-1:]])
        else:
            rows = np.flatnonzero((bars.times >= since) & begun)[: count if self.style == "from" else count // 2]
        return [[int(bars.times[row]), *bars.values[row].tolist()] for row in rows]


def exchange_bars(start: str, count: int, interval: str = "1h", seed: int = 0) -> Bars:
    """Bars of an exchange that follow each other without holes."""
    times = at(start) + LENGTHS[interval] * np.arange(count)
    return Bars.of(times, CANDLE, candles(times, seed))


def coarse(bars: Bars) -> Bars:
    """A day's bar for each day with a bar; its values do not matter."""
    days = np.unique(bars.times // DAY * DAY)
    return Bars.of(days, CANDLE, np.ones((len(days), 5)))
