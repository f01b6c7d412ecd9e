"""Bars of crypto exchanges by the package ccxt (extra `ccxt`).

Pages are asked for one after the other, each from the end of the one before. Exchanges differ in what a page is: those
from a time on, or those of a span, which may be empty; fewer than asked for, also in the middle; or the newest of a
span. So a page ends nothing: questions go on until the present. Facts on the package are those of ccxt 4.5.90.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from foretrain.data.market.bars import CANDLE, DAY, LENGTHS, Bars, ends, stamps
from foretrain.data.market.sources import Fetched, Patience, SymbolError, reason
from foretrain.errors import ConfigError
from foretrain.hints import did_you_mean

INSTALL = "pip install 'foretrain[ccxt]'"
EARLIEST = 1_230_768_000_000  # 2009-01-01, before the first coin, in milliseconds
_COARSE = ("1mo", "1w", "1d")
_EXAMPLE = "Symbols are like BTC/USDT."
_SHORTEST_MONTH = 28 * DAY
_PAGE, _LARGEST_PAGE = 100, 1000  # bars of a page: where ccxt does not say how many an exchange gives, and at most


def open_exchange(exchange: str, interval: str, patience: Patience) -> ExchangeSource:
    """Return the source for bars of an exchange. Raises ConfigError without the package, or if it has no such bars."""
    if importlib.util.find_spec("ccxt") is None:
        raise ConfigError(f"--source ccxt needs the package ccxt, which is not installed: {INSTALL}.")
    try:
        import ccxt  # type: ignore[import-not-found]  # an extra
    except ImportError as error:
        raise ConfigError(
            f"--source ccxt needs ccxt, which cannot be imported ({reason(error)}): {INSTALL}."
        ) from error
    if exchange not in ccxt.exchanges:
        hint = did_you_mean(exchange, ccxt.exchanges, "ccxt.exchanges lists them.")
        raise ConfigError(f"--exchange {exchange}: is none that ccxt {ccxt.__version__} knows. {hint}")
    return ExchangeSource(ccxt, getattr(ccxt, exchange)({"enableRateLimit": True}), interval, patience)


class ExchangeSource:
    """Bars of one exchange. package: ccxt; client: its object of the exchange; clock: seconds since 1970."""

    def __init__(
        self, package: Any, client: Any, interval: str, patience: Patience, clock: Callable[[], float] = time.time
    ) -> None:
        self._package, self._client, self._patience, self._clock = package, client, patience, clock
        self.interval, self.version, self.exchange = interval, package.__version__, str(client.id)
        self.host = host_of(client)
        self._markets: dict[str, Any] | None = None
        if client.has.get("fetchOHLCV") is not True:  # "emulated": made from single trades
            raise ConfigError(f"--exchange {self.exchange}: gives no bars. Choose another one.")
        self._words = {_word(word): word for word in client.timeframes or {} if _word(word) in LENGTHS}
        if interval not in self._words:
            known = ", ".join(word for word in LENGTHS if word in self._words)
            raise ConfigError(f"--interval {interval}: {self.exchange} has {known}.")

    def fetch(self, symbol: str, start: int | None, end: int | None, *, again: bool = False) -> Fetched:
        """Return finished bars from the first page to the last. Raises SymbolError and NoAnswerError."""
        market = self._market(symbol)
        now = self._now()
        until = now if end is None else min(end, now)
        since, unsure, notes = start or EARLIEST, 0, []
        if not again:
            listed, unsure = self._listing(symbol, until)
            since = max(since, listed)
        rows, holes = self._rows(symbol, self.interval, since, until)
        times = np.array(sorted(rows), dtype=np.int64)
        values = np.array([rows[time] for time in times.tolist()], dtype=np.float64)
        bars = Bars.of(times, CANDLE, values)
        bars = bars.where(ends(bars.times, self.interval) <= now)
        if unsure and len(bars) and bars.times[0] - since > unsure:  # only the newest, whatever is asked for
            holes.insert(0, (since, int(bars.times[0])))
        if holes:
            spans = ", ".join(" .. ".join(stamps(np.array(hole))) for hole in holes[:3])
            notes.append(f"no bars were given of {len(holes)} spans: {spans}{', ...' if len(holes) > 3 else ''}")
        return Fetched(bars, facts_of(market, self.exchange), tuple(notes))

    def _market(self, symbol: str) -> Mapping[str, Any]:
        """Return what the exchange says of a symbol. Raises SymbolError if it has none of the name."""
        markets = self._markets
        if markets is None:
            markets = self._markets = self._ask(f"markets of {self.exchange}", lambda: self._client.load_markets())
        if symbol not in markets:
            raise SymbolError(f"{self.exchange} has no such symbol. {did_you_mean(symbol, markets, _EXAMPLE)}")
        return markets[symbol]

    def _now(self) -> int:
        """Return the exchange's clock in milliseconds, or that of this machine if it tells none."""
        if self._client.has.get("fetchTime") is True:
            told = self._ask(f"clock of {self.exchange}", lambda: self._client.fetch_time())
            if told:
                return int(told)
        return int(self._clock() * 1000)

    def _listing(self, symbol: str, until: int) -> tuple[int, int]:
        """Return a time before a symbol's first bar, and how much later that may be; 0 if this is not known.

        By the longest bars that the exchange has, of which few pages cover all years. Raises SymbolError without a bar.
        """
        coarse = next((word for word in _COARSE if word in self._words), self.interval)
        if LENGTHS[coarse] <= LENGTHS[self.interval]:
            return EARLIEST, 0
        rows, _ = self._rows(symbol, coarse, EARLIEST, until, first_only=True)
        if not rows:
            raise SymbolError("the exchange has no bars of it")
        return min(rows), 2 * LENGTHS[coarse]

    def _rows(
        self, symbol: str, interval: str, since: int, until: int, *, first_only: bool = False
    ) -> tuple[dict[int, list[float]], list[tuple[int, int]]]:
        """Return the values of bars by their time, of all pages, or of the first one that holds any.

        And the spans between pages for which no bars were given.
        """
        size = self._page_size(symbol)
        length = _SHORTEST_MONTH if interval == "1mo" else LENGTHS[interval]
        span = size * length
        found: dict[int, list[float]] = {}
        holes: list[tuple[int, int]] = []
        while since < until:
            page = self._page(symbol, interval, since, until, size)
            if not page:  # a span without bars, as before the listing or in an outage
                since += span
                continue
            while (first := min(page)) >= since + length:  # is it a hole, or were only the newest of a span given?
                begin = max(since, first - span)
                earlier = self._page(symbol, interval, begin, first, -(-(first - begin) // length))
                if not earlier:
                    break
                page = earlier
            if found and min(page) >= (begun := int(ends(np.array([max(found)]), interval)[0])) + length:
                holes.append((begun, min(page)))
            found |= page
            if first_only:
                break
            since = int(ends(np.array([max(page)]), interval)[0])
        return found, holes

    def _page(self, symbol: str, interval: str, since: int, until: int, size: int) -> dict[int, list[float]]:
        """Return the bars of a page that begin in a span, by their time."""
        word = self._words[interval]
        rows = self._ask(symbol, lambda: self._client.fetch_ohlcv(symbol, word, since=since, limit=size))
        kept = {}
        for row in rows or []:
            if row[0] is not None and since <= int(row[0]) < until:
                cells = (*row[1:6], *[None] * (6 - len(row)))
                kept[int(row[0])] = [float("nan") if cell is None else float(cell) for cell in cells]
        return kept

    def _page_size(self, symbol: str) -> int:
        """Return how many bars to ask for at once: a page of the exchange, as far as ccxt knows it."""
        told = self._ask(symbol, lambda: self._client.feature_value(symbol, "fetchOHLCV", "limit"))
        return min(int(told), _LARGEST_PAGE) if told else _PAGE

    def _ask(self, what: str, question: Callable[[], Any]) -> Any:
        """Ask the exchange. Raises NoAnswerError, and SymbolError with what it says."""
        passing, refusal = self._package.OperationFailed, self._package.BaseError
        return self._patience.ask(what, question, lambda error: isinstance(error, passing), refusal)


def facts_of(market: Mapping[str, Any], exchange: str) -> dict[str, Any]:
    """Return what a market's record says that a library keeps; fees are fractions of the value traded."""
    precision = market.get("precision") or {}
    return {
        "currency": market.get("quote"),
        "class": "crypto",
        "market": market.get("type"),
        "exchange": exchange,
        "timezone": "UTC",
        "precision": {name: _finite(precision.get(name)) for name in ("price", "amount")},
        "fees": {name: _finite(market.get(name)) for name in ("maker", "taker")},
    }


def host_of(client: Any) -> str:
    """Return the host of an exchange's public interface; "" if ccxt does not say it."""
    api = (client.urls or {}).get("api")
    while isinstance(api, Mapping):
        api = next((api[name] for name in ("public", "spot", "rest") if name in api), next(iter(api.values()), None))
    return urlsplit(client.implode_hostname(api)).netloc if isinstance(api, str) else ""


def _word(word: str) -> str:
    """Return the interval that ccxt calls `word`."""
    return "1mo" if word == "1M" else word


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and np.isfinite(value) else None
