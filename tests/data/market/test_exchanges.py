from __future__ import annotations

import importlib.util
import inspect
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fake_market import (
    HOUR,
    STYLES,
    BaseError,
    DDoSProtection,
    ExchangeError,
    FakeCcxt,
    FakeExchange,
    NetworkError,
    RateLimitExceeded,
    at,
    coarse,
    exchange_bars,
)

from foretrain.data.market import exchanges
from foretrain.data.market.bars import CANDLE, DAY, Bars, csv_text
from foretrain.data.market.exchanges import ExchangeSource, open_exchange
from foretrain.data.market.sources import NoAnswerError, Patience, SymbolError
from foretrain.errors import ConfigError

FIRST = "2024-01-05 03:00"


@pytest.fixture(autouse=True, scope="module")
def few_years():
    """Pages of two days each since 2009 would take a while."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchanges, "EARLIEST", at("2023-06-01"))
        yield


def source(
    bars: Bars, *, retries: int = 2, now: str = "2024-02-01 12:30", **style
) -> tuple[ExchangeSource, FakeExchange, list]:
    client = FakeExchange({"BTC/USDT": {"1h": bars, "1d": coarse(bars)}}, at(now), **style)
    waits: list[float] = []
    return ExchangeSource(FakeCcxt(client), client, "1h", Patience(retries, sleep=waits.append)), client, waits


def with_holes(bars: Bars, holes: list[tuple[int, int]]) -> Bars:
    kept = np.ones(len(bars), dtype=bool)
    for start, length in holes:
        kept[start : start + length] = False
    kept[[0, -1]] = True
    return bars.where(kept)


@settings(max_examples=40, deadline=None)
@given(
    style=st.sampled_from(STYLES),
    size=st.integers(2, 30),
    count=st.integers(2, 150),
    holes=st.lists(st.tuples(st.integers(1, 120), st.integers(1, 40)), max_size=4),
    start=st.one_of(st.none(), st.integers(-100, 100)),
)
def test_pages_give_every_bar_once_whatever_an_exchange_takes_for_a_page(style, size, count, holes, start):
    bars = with_holes(exchange_bars(FIRST, count), holes)
    since = None if start is None else at(FIRST) + start * HOUR
    fetched = source(bars, style=style, size=size)[0].fetch("BTC/USDT", since, None)
    expected = bars if since is None else bars.where(bars.times >= since)
    assert fetched.bars.times.tolist() == expected.times.tolist()
    np.testing.assert_array_equal(fetched.bars.values, expected.values)


def test_a_first_page_that_is_empty_is_no_end():
    asked, client, _ = source(exchange_bars(FIRST, 50), style="span", size=7)
    client.timeframes = {"1h": "1h"}  # so that the start is not looked up by longer bars
    asked = ExchangeSource(FakeCcxt(client), client, "1h", Patience())
    fetched = asked.fetch("BTC/USDT", at("2023-12-20"), None)
    assert len(fetched.bars) == 50 and len(client.page(client.bars["BTC/USDT"]["1h"], HOUR, at("2023-12-20"), 7)) == 0


def test_the_start_is_looked_up_by_longer_bars():
    _, client, _ = source(exchange_bars(FIRST, 50), style="span", size=100)
    asked = ExchangeSource(FakeCcxt(client), client, "1h", Patience())
    asked.fetch("BTC/USDT", None, None)
    words = [word for _, word, _, _ in client.asked]
    assert words.count("1d") < 5 and words.count("1h") < 10, "3 pages of 100 days"
    client.asked.clear()
    asked.fetch("BTC/USDT", at(FIRST) + HOUR, None, again=True)
    assert {word for _, word, _, _ in client.asked} == {"1h"}


def test_the_running_bar_is_left_out_by_the_clock_of_the_exchange():
    bars = exchange_bars("2024-01-01", 13)
    for now, last in (("2024-01-01 12:59:59", "11:00"), ("2024-01-01 13:00", "12:00")):
        fetched = source(bars, now=now)[0].fetch("BTC/USDT", None, None)
        assert fetched.bars.stamp(-1) == f"2024-01-01T{last}:00Z"


def test_an_exchange_without_a_clock_has_that_of_this_machine():
    bars = exchange_bars("2024-01-01", 13)
    _, client, _ = source(bars)
    client.has["fetchTime"] = False
    asked = ExchangeSource(FakeCcxt(client), client, "1h", Patience(), lambda: at("2024-01-01 05:30") / 1000)
    assert len(asked.fetch("BTC/USDT", None, None).bars) == 5


def test_months_end_by_the_calendar():
    times = np.array([at(f"2024-{month:02}-01") for month in range(1, 13)])
    bars = Bars.of(times, CANDLE, np.ones((12, 5)))
    client = FakeExchange({"BTC/USDT": {"1mo": bars}}, at("2024-06-30 23:59"), size=5)
    asked = ExchangeSource(FakeCcxt(client), client, "1mo", Patience())
    assert csv_text(asked.fetch("BTC/USDT", None, None).bars).splitlines()[-1].startswith("2024-05-01,")
    assert client.asked[0][1] == "1M"


def test_a_day_that_begins_at_another_hour_keeps_its_hour():
    bars = Bars.of(at("2024-01-01 16:00") + DAY * np.arange(5), CANDLE, np.ones((5, 5)))
    client = FakeExchange({"BTC/USDT": {"1d": bars}}, at("2024-01-10"))
    fetched = ExchangeSource(FakeCcxt(client), client, "1d", Patience()).fetch("BTC/USDT", at("2024-01-01"), None)
    assert fetched.bars.stamp(0) == "2024-01-01T16:00:00Z"


def test_bars_that_an_exchange_no_longer_gives_are_said():
    bars = exchange_bars(FIRST, 300)
    fetched = source(bars, style="newest", size=20, now="2024-01-17 15:30")[0].fetch("BTC/USDT", None, None)
    assert len(fetched.bars) == 20
    assert fetched.notes == ("no bars were given of 1 spans: 2024-01-05T00:00:00Z .. 2024-01-16T19:00:00Z",)
    assert source(bars)[0].fetch("BTC/USDT", None, None).notes == ()


def test_an_outage_between_pages_is_said():
    bars = with_holes(exchange_bars(FIRST, 60), [(7, 20)])
    assert source(bars, size=7)[0].fetch("BTC/USDT", None, None).notes == (
        "no bars were given of 1 spans: 2024-01-05T10:00:00Z .. 2024-01-06T06:00:00Z",
    )


def test_what_the_exchange_says_of_a_market_is_kept():
    asked, _, _ = source(exchange_bars(FIRST, 5))
    facts = asked.fetch("BTC/USDT", None, None).facts
    assert facts == {
        "currency": "USDT",
        "class": "crypto",
        "market": "spot",
        "exchange": "fake",
        "timezone": "UTC",
        "precision": {"price": 0.01, "amount": 1e-5},
        "fees": {"maker": 0.001, "taker": 0.001},
    }
    assert (asked.host, asked.version, asked.exchange) == ("api.fake.example", "4.5.90", "fake")


def test_rate_limits_and_failures_of_the_network_are_waited_for():
    asked, client, waits = source(exchange_bars(FIRST, 30), retries=3)
    client.errors = [RateLimitExceeded("slow down"), DDoSProtection("x"), NetworkError("y")]
    assert len(asked.fetch("BTC/USDT", None, None).bars) == 30 and waits == [5, 15, 45]
    client.errors = [NetworkError("no route")] * 9
    with pytest.raises(NoAnswerError, match=r"no answer in 4 tries \(no route\)"):
        asked.fetch("BTC/USDT", None, None)


def test_what_the_exchange_refuses_is_a_reason():
    asked, client, waits = source(exchange_bars(FIRST, 30))
    with pytest.raises(SymbolError, match=r"fake has no such symbol. Did you mean 'BTC/USDT'\?"):
        asked.fetch("BTC/USD", None, None)
    client.errors = [ExchangeError("fake GET https://... parameter 'startTime' is too old")]
    with pytest.raises(SymbolError, match="parameter 'startTime' is too old"):
        asked.fetch("BTC/USDT", None, None)
    with pytest.raises(SymbolError, match="no bars of it"):
        source(exchange_bars("2030-01-01", 3))[0].fetch("BTC/USDT", None, None)
    assert waits == []


def test_missing_values_are_missing():
    asked, client, _ = source(exchange_bars(FIRST, 3))
    client.page = lambda *a: [[at(FIRST), 1, 2, 1, None], [None, 1, 1, 1, 1, 1]] if a[2] <= at(FIRST) else []
    bars = asked.fetch("BTC/USDT", None, None).bars
    assert csv_text(bars).splitlines()[1:] == ["2024-01-05T03:00:00Z,1,2,1,,"]


def test_what_an_exchange_has_not_is_said_before_anything_is_asked(monkeypatch):
    _, client, _ = source(exchange_bars(FIRST, 3))
    monkeypatch.setitem(sys.modules, "ccxt", FakeCcxt(client))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with pytest.raises(ConfigError, match=r"--exchange fke: is none that ccxt 4.5.90 knows. Did you mean 'fake'\?"):
        open_exchange("fke", "1h", Patience())
    with pytest.raises(ConfigError, match=r"--interval 2h: fake has 1h, 1d\."):
        open_exchange("fake", "2h", Patience())
    assert open_exchange("fake", "1h", Patience()).exchange == "fake" and client.config == {"enableRateLimit": True}
    client.has["fetchOHLCV"] = "emulated"
    with pytest.raises(ConfigError, match="--exchange fake: gives no bars"):
        open_exchange("fake", "1h", Patience())
    monkeypatch.setitem(sys.modules, "ccxt", None)
    with pytest.raises(ConfigError, match=r"cannot be imported .*: pip install 'foretrain\[ccxt\]'\."):
        open_exchange("fake", "1h", Patience())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"which is not installed: pip install 'foretrain\[ccxt\]'\."):
        open_exchange("fake", "1h", Patience())


def test_the_package_is_asked_by_the_signatures_it_has():
    """With ccxt installed, those of the package itself."""
    calls = {"fetch_ohlcv": ("BTC/USDT", "1h"), "load_markets": (), "fetch_time": (), "feature_value": ("BTC/USDT",),
             "implode_hostname": ("",)}  # fmt: skip
    for name, arguments in calls.items():
        fake = inspect.signature(getattr(FakeExchange, name)).parameters
        if importlib.util.find_spec("ccxt") is not None:
            import ccxt

            real = inspect.signature(getattr(ccxt.binance, name)).parameters
            assert list(real) == list(fake) and [p.default for p in real.values()] == [p.default for p in fake.values()]
            for error in (ccxt.RateLimitExceeded, ccxt.DDoSProtection, ccxt.NetworkError):
                assert issubclass(error, ccxt.OperationFailed) and issubclass(error, ccxt.BaseError)
            assert not issubclass(ccxt.BadSymbol, ccxt.OperationFailed)
        inspect.signature(getattr(FakeExchange, name)).bind(None, *arguments)
    assert issubclass(RateLimitExceeded, BaseError)
