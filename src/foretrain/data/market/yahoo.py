"""Bars of Yahoo Finance by the package yfinance (extra `yfinance`).

Prices are not adjusted for dividends (auto_adjust=False); Yahoo always adjusts them, volumes and dividends for splits
up to the day of the fetch. Facts on the package are those of yfinance 1.7.0.

# T bars
"""

from __future__ import annotations

import importlib.util
import json
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from foretrain.data.market.bars import ACTIONS, CANDLE, DAY, LENGTHS, Bars
from foretrain.data.market.sources import Fetched, Patience, SymbolError, reason
from foretrain.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

INSTALL = "pip install 'foretrain[yfinance]'"
HOST = "query2.finance.yahoo.com"
INTERVALS = ("1m", "2m", "5m", "15m", "30m", "1h", "1d")  # Yahoo's weeks and months are adjusted in a way of their own
PAUSE = 0.5  # seconds between symbols; Yahoo says no rate, and refuses those who ask too often
DELAY = 30 * 60_000  # milliseconds by which quotes of some exchanges are late
_CLASSES = {"equity": "stock", "cryptocurrency": "crypto"}  # other classes are called as Yahoo calls them
_COLUMNS = {"Open": "open", "High": "high", "Low": "low", "Close": "close", "Volume": "volume",
            "Dividends": "dividends", "Stock Splits": "stock_splits"}  # fmt: skip


def open_yahoo(interval: str, patience: Patience) -> YahooSource:
    """Return the source for bars of an interval. Raises ConfigError without the package, or for another interval."""
    if interval not in INTERVALS:
        raise ConfigError(f"--interval {interval}: Yahoo has {', '.join(INTERVALS)}.")
    if importlib.util.find_spec("yfinance") is None:
        raise ConfigError(f"--source yfinance needs the package yfinance, which is not installed: {INSTALL}.")
    try:
        import yfinance  # type: ignore[import-not-found]  # an extra
    except ImportError as error:
        said = reason(error)
        raise ConfigError(f"--source yfinance needs yfinance, which cannot be imported ({said}): {INSTALL}.") from error
    return YahooSource(yfinance, interval, patience)


class YahooSource:
    """Bars of Yahoo Finance. package: yfinance; clock: seconds since 1970."""

    host = HOST

    def __init__(self, package: Any, interval: str, patience: Patience, clock: Callable[[], float] = time.time) -> None:
        self._package, self._patience, self._clock = package, patience, clock
        self.interval, self._asked = interval, 0.0
        self.version = str(package.__version__)
        package.config.debug.hide_exceptions = False  # else a failure is an empty table
        logging.getLogger("yfinance").setLevel(logging.CRITICAL)  # it logs what it raises

    def fetch(self, symbol: str, start: int | None, end: int | None, *, again: bool = False) -> Fetched:
        """Return finished bars, with dividends and splits. Raises SymbolError and NoAnswerError."""
        if (since := self._clock() - self._asked) < PAUSE:
            self._patience.sleep(PAUSE - since)
        try:
            frame, about = self._patience.ask(
                symbol,
                lambda: self._history(symbol, start, end, again),
                self._is_passing,
                self._package.exceptions.YFException,
            )
        finally:
            self._asked = self._clock()
        bars, gains = self._bars(frame, about)
        kind = str(about.get("instrumentType") or "").lower()
        facts = {
            "currency": about.get("currency"),
            "class": _CLASSES.get(kind, kind) or None,
            "exchange": about.get("exchangeName"),
            "timezone": about.get("exchangeTimezoneName"),
        }
        if gains:
            facts["capital_gains"] = gains
        return Fetched(bars, facts)

    def _history(
        self, symbol: str, start: int | None, end: int | None, again: bool
    ) -> tuple[pd.DataFrame, Mapping[str, Any]]:
        """Ask for the table of a symbol, and for what Yahoo says of it.

        Bounds are midnights of the exchange; but of bars shorter than a day, that were fetched before, instants.
        """
        ticker = self._package.Ticker(symbol)
        asked: dict[str, Any] = {}
        for name, value in (("start", start), ("end", end)):
            if value is not None:
                moment = datetime.fromtimestamp(value / 1000, tz=UTC)
                instant = name == "start" and again and LENGTHS[self.interval] < DAY
                asked[name] = moment if instant else moment.date().isoformat()
        if start is None:
            asked["period"] = "max"  # else a month before the end
        frame = ticker.history(
            interval=self.interval,
            auto_adjust=False,
            actions=True,
            repair=False,
            keepna=False,
            prepost=False,
            timeout=30,
            **asked,
        )
        return frame, ticker.get_history_metadata()

    def _is_passing(self, error: Exception) -> bool:
        """Return whether an error may be gone later: a rate limit, Yahoo's or the network's failure, no JSON."""
        own, status = self._package.exceptions, getattr(getattr(error, "response", None), "status_code", None)
        if status is not None and 400 <= status < 500 and status != 429:
            return False  # of an unknown symbol
        return isinstance(error, (own.YFRateLimitError, own.YFDataException, json.JSONDecodeError, OSError))

    def _bars(self, frame: Any, about: Mapping[str, Any]) -> tuple[Bars, dict[str, float]]:
        """Return the finished bars of a table, and distributed capital gains of funds by date."""
        if missing := [name for name in _COLUMNS if name not in frame.columns and len(frame)]:
            raise SymbolError(f"yfinance gave a table without {', '.join(missing)}")
        columns = (*CANDLE, *ACTIONS)
        if not len(frame):
            return Bars.of(np.array([], dtype=np.int64), columns, np.zeros((0, len(columns)))), {}
        if frame.index.tz is None:
            raise SymbolError("yfinance gave stamps without a time zone")
        frame = frame[~frame.index.duplicated(keep="last")].sort_index()
        frame = frame[: self._finished(frame.index, about)]
        times = session_times(frame.index) if LENGTHS[self.interval] >= DAY else _instants(frame.index)
        values = frame[list(_COLUMNS)].to_numpy(dtype=np.float64)
        bars = Bars.of(times, columns, values)
        gains = frame["Capital Gains"] if "Capital Gains" in frame.columns else None
        paid = {} if gains is None else {str(stamp)[:10]: float(gain) for stamp, gain in gains.items() if gain > 0}
        return bars, paid

    def _finished(self, index: Any, about: Mapping[str, Any]) -> int:
        """Return how many bars of a sorted index are finished."""
        import pandas as pd

        now, count = pd.Timestamp(self._clock(), unit="s", tz="UTC"), len(index)
        session = session_of(about)
        while count and now < bar_end(index[count - 1], self.interval, session) + pd.Timedelta(DELAY, "ms"):
            count -= 1
        return count


def bar_end(start: Any, interval: str, session: tuple[Any, Any] | None) -> Any:
    """Return when a bar of Yahoo's ends: a day's with its session, if Yahoo says it, or with the exchange's day.

    Stamps are those of pandas. start: in the exchange's time zone. session: start and end of the present or next one.
    """
    import pandas as pd

    if LENGTHS[interval] < DAY:
        return start + pd.Timedelta(LENGTHS[interval], "ms")
    if session is not None and session[0].tz_convert(start.tz).date() == start.date():
        return session[1]
    following = start.tz_localize(None).normalize() + pd.Timedelta(1, "D")
    return following.tz_localize(start.tz, ambiguous=False, nonexistent="shift_forward")


def session_of(about: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """Return start and end of the session that Yahoo calls the current one; None if it names none."""
    import pandas as pd

    regular = (about.get("currentTradingPeriod") or {}).get("regular") or {}
    try:
        start, end = (
            pd.Timestamp(value, unit="s", tz="UTC") if isinstance(value, (int, float)) else pd.Timestamp(value)
            for value in (regular["start"], regular["end"])
        )
    except (KeyError, ValueError, TypeError):
        return None
    return (start, end) if start.tz is not None and end.tz is not None and start < end else None


def session_times(index: Any) -> np.ndarray:
    """Return the dates (T,) of stamps in their own time zone, as milliseconds of those midnights in UTC."""
    return index.tz_localize(None).normalize().as_unit("ms").asi8


def _instants(index: Any) -> np.ndarray:
    return index.tz_convert("UTC").as_unit("ms").asi8
