from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from typing import Any

import pandas as pd
import pytest
from tests.fake_market import FakeTicker, FakeYahoo, YahooSymbol, YFDataException, YFRateLimitError, at, yahoo_daily

from foretrain.data.market.bars import ACTIONS, CANDLE, csv_text
from foretrain.data.market.sources import NoAnswerError, Patience, SymbolError
from foretrain.data.market.yahoo import YahooSource, bar_end, open_yahoo
from foretrain.errors import ConfigError

DATES = pd.bdate_range("2024-03-01", "2024-03-15")


def source(
    symbols: dict[str, YahooSymbol], now: str = "2024-03-20", interval: str = "1d", retries: int = 2
) -> tuple[YahooSource, FakeYahoo, list[float]]:
    package, waits = FakeYahoo(symbols), []
    clock = lambda: at(now) / 1000  # noqa: E731
    return YahooSource(package, interval, Patience(retries, sleep=waits.append), clock), package, waits


def dates(symbol: YahooSymbol, now: str, interval: str = "1d") -> list[str]:
    """The stamps of the finished bars at a time."""
    fetched = source({"A": symbol}, now, interval)[0].fetch("A", None, None)
    return [line.split(",")[0] for line in csv_text(fetched.bars).splitlines()[1:]]


def test_bars_are_those_of_the_table_by_the_date_of_the_session():
    held = yahoo_daily(DATES)
    held.table.iloc[3, held.table.columns.get_loc("Dividends")] = 0.24
    held.table.iloc[5, held.table.columns.get_loc("Stock Splits")] = 4.0
    asked, package, _ = source({"AAPL": held})
    fetched = asked.fetch("AAPL", None, None)
    assert fetched.bars.columns == (*CANDLE, *ACTIONS)
    assert csv_text(fetched.bars).splitlines()[4].startswith("2024-03-06,")
    assert fetched.bars.column("close").tolist() == held.table["Close"].tolist(), "not the adjusted close"
    assert fetched.bars.column("dividends")[3] == 0.24 and fetched.bars.column("stock_splits")[5] == 4
    assert fetched.facts == {"currency": "USD", "class": "stock", "exchange": "NMS", "timezone": "America/New_York"}
    (question,) = package.asked
    assert (question["auto_adjust"], question["actions"], question["period"]) == (False, True, "max")


def test_bounds_are_dates_of_the_exchange():
    asked, package, _ = source({"A": yahoo_daily(DATES)})
    bars = asked.fetch("A", at("2024-03-05"), at("2024-03-08")).bars
    assert csv_text(bars).count("\n") == 4 and bars.stamp(0) == "2024-03-05" and bars.stamp(-1) == "2024-03-07"
    assert (package.asked[0]["start"], package.asked[0]["end"]) == ("2024-03-05", "2024-03-08")


@pytest.mark.parametrize(
    ("now", "last"),
    [
        ("2024-03-15 15:00", "2024-03-14"),  # 11:00 in New York, which has summer time by then
        ("2024-03-15 20:29", "2024-03-14"),  # 16:29, and quotes may be half an hour late
        ("2024-03-15 20:30", "2024-03-15"),
        ("2024-03-16 01:00", "2024-03-15"),  # another date in UTC
    ],
)
def test_the_bar_of_a_session_is_left_out_until_it_is_over(now, last):
    assert dates(yahoo_daily(DATES), now)[-1] == last


@pytest.mark.parametrize(
    ("zone", "now", "last"),
    [
        ("Asia/Tokyo", "2024-03-15 05:00", "2024-03-14"),  # 14:00 in Tokyo, before 16:00
        ("Asia/Tokyo", "2024-03-15 07:30", "2024-03-15"),
        ("UTC", "2024-03-15 23:50", "2024-03-14"),
    ],
)
def test_a_session_is_that_of_its_own_time_zone(zone, now, last):
    held = yahoo_daily(DATES, zone=zone)
    if zone == "UTC":  # a coin's day
        held.about["currentTradingPeriod"]["regular"]["end"] = pd.Timestamp("2024-03-15 23:59", tz="UTC")
    assert dates(held, now)[-1] == last


@pytest.mark.parametrize("period", [{}, {"regular": {}}, {"regular": {"start": None, "end": None}}, None])
def test_a_day_ends_at_midnight_of_the_exchange_where_no_session_is_known(period):
    held = yahoo_daily(DATES, currentTradingPeriod=period)
    assert dates(held, "2024-03-16 04:29")[-1] == "2024-03-14"
    assert dates(held, "2024-03-16 04:30")[-1] == "2024-03-15"


def test_a_session_that_is_still_to_come_says_nothing_of_the_bar_before_it():
    held = yahoo_daily(DATES)
    seconds = {name: at(f"2024-03-18 {hour}") // 1000 for name, hour in (("start", "13:30"), ("end", "20:00"))}
    held.about["currentTradingPeriod"] = {"regular": seconds}
    assert dates(held, "2024-03-18 12:00")[-1] == "2024-03-15"


@pytest.mark.parametrize(
    ("interval", "start", "end"),
    [
        ("1d", "2024-03-10", "2024-03-11"),  # of 23 hours
        ("1d", "2024-11-03", "2024-11-04"),
        ("1h", "2024-03-08 15:30", "2024-03-08 16:30"),
    ],
)
def test_days_and_hours_end_by_the_clock_of_the_exchange(interval, start, end):
    zone = "America/New_York"
    assert bar_end(pd.Timestamp(start, tz=zone), interval, None) == pd.Timestamp(end, tz=zone)


def hourly() -> YahooSymbol:
    index = pd.date_range("2024-03-14 09:30", periods=7, freq="h", tz="America/New_York")
    held = yahoo_daily(pd.bdate_range("2024-03-01", periods=7))
    held.table.index = index
    return held


def test_hours_are_instants_and_the_running_one_is_left_out():
    found = dates(hourly(), "2024-03-14 19:45", "1h")
    assert (found[0], found[-1]) == ("2024-03-14T13:30:00Z", "2024-03-14T17:30:00Z")
    assert len(dates(hourly(), "2024-03-14 20:59", "1h")) == 6 and len(dates(hourly(), "2024-03-14 21:00", "1h")) == 7


def test_hours_that_are_fetched_again_begin_at_their_instant():
    asked, package, _ = source({"A": hourly()}, interval="1h")
    assert len(asked.fetch("A", at("2024-03-14 15:30"), None, again=True).bars) == 5
    assert package.asked[0]["start"] == pd.Timestamp("2024-03-14 15:30", tz="UTC")


def test_capital_gains_of_funds_are_facts():
    held = yahoo_daily(DATES)
    held.table["Capital Gains"] = [0.0] * 10 + [1.5]
    assert source({"A": held})[0].fetch("A", None, None).facts["capital_gains"] == {"2024-03-15": 1.5}


def test_rate_limits_and_failures_of_the_network_are_waited_for():
    errors = [YFRateLimitError(), YFDataException("down"), OSError("reset"), json.JSONDecodeError("", "", 0)]
    held = yahoo_daily(DATES)
    held.errors = [*errors]
    asked, package, waits = source({"A": held, "B": yahoo_daily(DATES)}, retries=4)
    assert len(asked.fetch("A", None, None).bars) == len(DATES) and len(package.asked) == 5
    assert waits == [5, 15, 45, 90]
    asked.fetch("B", None, None)
    assert waits[4:] == [0.5], "the next symbol waits a little"
    held.errors = [YFRateLimitError()] * 9
    with pytest.raises(NoAnswerError, match=r"no answer in 5 tries \(Too Many Requests. Rate limited. Try after a wh"):
        asked.fetch("A", None, None)


class HTTPError(OSError):
    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP Error {status}")
        self.response = type("Response", (), {"status_code": status})


def test_symbols_that_there_are_not_are_not_asked_for_again():
    held = yahoo_daily(DATES)
    asked, _, waits = source({"A": held})
    with pytest.raises(SymbolError, match="possibly delisted"):
        asked.fetch("GONE", None, None)
    held.errors = [HTTPError(404), HTTPError(503)]
    with pytest.raises(SymbolError, match="HTTP Error 404"):
        asked.fetch("A", None, None)
    assert set(waits) == {0.5}
    assert len(asked.fetch("A", None, None).bars) and 5 in waits


def test_tables_of_another_form_are_refused():
    for change in (lambda t: t.drop(columns="Dividends"), lambda t: t.set_axis(t.index.tz_localize(None))):
        held = yahoo_daily(DATES)
        held.table = change(held.table)
        with pytest.raises(SymbolError, match=r"a table without Dividends|stamps without a time zone"):
            source({"A": held})[0].fetch("A", None, None)
    held = yahoo_daily(DATES)
    held.table = held.table.iloc[:0]
    assert len(source({"A": held})[0].fetch("A", None, None).bars) == 0


def test_other_intervals_and_a_missing_package_are_said_in_a_line(monkeypatch):
    with pytest.raises(ConfigError, match=r"--interval 4h: Yahoo has 1m, 2m, 5m, 15m, 30m, 1h, 1d\."):
        open_yahoo("4h", Patience())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"which is not installed: pip install 'foretrain\[yfinance\]'\."):
        open_yahoo("1d", Patience())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "yfinance", None)
    with pytest.raises(ConfigError, match=r"cannot be imported .*: pip install 'foretrain\[yfinance\]'\."):
        open_yahoo("1d", Patience())
    monkeypatch.setitem(sys.modules, "yfinance", FakeYahoo({}))
    assert open_yahoo("1d", Patience()).version == "1.7.0"


def test_the_package_is_asked_by_the_signatures_it_has():
    """With yfinance installed, those of the package itself."""
    history: Any = FakeTicker.history
    if importlib.util.find_spec("yfinance") is not None:
        import yfinance
        from yfinance.scrapers.history import PriceHistory

        real, fake = (inspect.signature(f).parameters for f in (PriceHistory.history, history))
        assert real.keys() == fake.keys()
        defaults = {name: (real[name].default, fake[name].default) for name in real}
        assert not {name: pair for name, pair in defaults.items() if pair[0] != pair[1] and name != "period"}
        assert isinstance(yfinance.exceptions.YFRateLimitError(), yfinance.exceptions.YFException)
        assert issubclass(yfinance.exceptions.YFDataException, yfinance.exceptions.YFException)
        assert yfinance.config.debug.hide_exceptions in (True, False)
    inspect.signature(history).bind(None, interval="1d", auto_adjust=False, actions=True, repair=False, keepna=False,
                                    prepost=False, timeout=30, period="max", start="", end="")  # fmt: skip
