from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fake_market import OwnSource, candles

from foretrain.data.market.bars import ACTIONS, CANDLE, DAY, Bars, csv_text
from foretrain.data.market.download import Downloader, settle
from foretrain.data.market.folder import MarketFolder
from foretrain.data.market.sources import NoAnswerError, SymbolError
from foretrain.errors import ConfigError

COLUMNS = (*CANDLE, *ACTIONS)
ASKED = {"source": "yfinance", "exchange": None, "interval": "1d", "start": None}


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk():
    """What a power cut leaves is a matter of tests/test_atomic.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def truth(count: int, splits: dict[int, float] = {}, *, late: int = 0, seed: int = 0) -> Bars:  # noqa: B006
    """What a source has after `count` days: prices of all days before a split are divided by it, `late` days after."""
    times = DAY * np.arange(count)
    values = np.column_stack([candles(np.arange(400), seed)[:count], np.zeros((count, 2))])
    for day, ratio in splits.items():
        if day < count:
            values[day, COLUMNS.index("stock_splits")] = ratio
            values[day:, :4] /= ratio
            if day + late < count:
                values[:day, :4] /= ratio
    return Bars.of(times, COLUMNS, values)


def run(path, source: OwnSource, *symbols: str, update: bool = False, **bounds):
    """Download symbols into a library; return the outcomes."""
    with MarketFolder(path) as library:
        library.settings = settle(library, ASKED, update=update)
        return Downloader(library, source, update=update, **bounds).run(symbols or ["A"])


def held(path, symbol: str = "A") -> Bars:
    with MarketFolder(path) as library:
        return library.bars(symbol)


def assert_same(found: Bars, expected: Bars) -> None:
    assert csv_text(found) == csv_text(expected)


def test_a_symbol_is_fetched_kept_and_updated(tmp_path):
    source = OwnSource({"A": truth(30)})
    assert [(o.state, o.text) for o in run(tmp_path, source)] == [("fetched", "30 bars, 1970-01-01 .. 1970-01-30")]
    assert [o.state for o in run(tmp_path, source)] == ["kept"] and len(source.asked) == 1
    source.truth["A"] = truth(33)
    assert [(o.state, o.text) for o in run(tmp_path, source, update=True)] == [
        ("updated", "3 new bars, up to 1970-02-02")
    ]
    assert source.asked[-1] == ("A", 20 * DAY), "the ten newest are compared"
    assert_same(held(tmp_path), truth(33))
    assert [o.text for o in run(tmp_path, source, update=True)] == ["no new bars after 1970-02-02"]


def test_a_split_after_the_last_fetch_has_the_whole_symbol_fetched_again(tmp_path):
    source = OwnSource({"A": truth(30)})
    run(tmp_path, source)
    source.truth["A"] = truth(40, {35: 4.0})
    (outcome,) = run(tmp_path, source, update=True)
    assert outcome.state == "rebased" and "by a factor of 0.25: all fetched again, 40 bars" in outcome.text
    assert_same(held(tmp_path), truth(40, {35: 4.0}))


@settings(max_examples=20, deadline=None)
@given(
    fetches=st.lists(st.integers(12, 120), min_size=2, max_size=4, unique=True).map(sorted),
    splits=st.dictionaries(st.integers(1, 119), st.sampled_from([2.0, 3.0, 0.1, 1.25, 20.0]), max_size=3),
    revised=st.integers(0, 8),
    seed=st.integers(0, 20),
)
def test_after_any_updates_a_library_is_what_one_fetch_gives(tmp_path_factory, fetches, splits, revised, seed):
    """Whenever splits fall between fetches, and if the newest bars are revised by each fetch."""
    path = tmp_path_factory.mktemp("library")
    source = OwnSource({})
    for number, count in enumerate(fetches):
        bars = truth(count, splits, seed=seed)
        if number:
            bars.values[-1 - (revised + count - fetches[number - 1]) : -1, :5] *= 1.001
        source.truth["A"] = bars
        (outcome,) = run(path, source, update=bool(number))
        assert outcome.state != "failed", outcome.text
        assert_same(held(path), bars)


@settings(max_examples=20, deadline=None)
@given(
    fetches=st.lists(st.integers(12, 80), min_size=3, max_size=5, unique=True).map(sorted),
    day=st.integers(1, 79),
    ratio=st.sampled_from([2.0, 4.0, 0.1]),
    late=st.integers(1, 20),
)
def test_a_source_that_adjusts_late_never_has_two_bases_in_an_updated_library(
    tmp_path_factory, fetches, day, ratio, late
):
    path = tmp_path_factory.mktemp("library")
    source = OwnSource({"A": truth(fetches[0])})
    run(path, source)
    for count in fetches[1:]:
        source.truth["A"] = truth(count, {max(day, fetches[0]): ratio}, late=late)
        before = held(path)
        (outcome,) = run(path, source, update=True)
        now = held(path)
        assert np.abs(np.diff(np.log(now.column("close")))).max() < 0.1, outcome.text
        assert_same(now, before if outcome.state == "failed" else source.truth["A"])
    source.truth["A"] = truth(200, {max(day, fetches[0]): ratio}, late=late)
    run(path, source, update=True)
    assert_same(held(path), source.truth["A"])


def test_a_first_fetch_says_which_splits_are_not_in_the_prices(tmp_path):
    (outcome,) = run(tmp_path, OwnSource({"A": truth(40, {35: 4.0}, late=10)}))
    assert outcome.state == "fetched"
    assert outcome.text.endswith("prices before 1970-02-05 are not adjusted for its split of 4")


def test_revised_bars_are_said_and_taken(tmp_path):
    source = OwnSource({"A": truth(30)})
    run(tmp_path, source)
    source.truth["A"] = truth(31)
    source.truth["A"].values[27, :] *= 1.01
    (outcome,) = run(tmp_path, source, update=True)
    assert (outcome.state, outcome.text) == ("updated", "1 new bars, up to 1970-01-31; 1 stored bar revised")
    assert_same(held(tmp_path), source.truth["A"])


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (lambda bars: bars.where(bars.times < 0), "none of the bars 1970-01-21 .. 1970-01-30 was given again"),
        (lambda bars: bars.where(slice(0, 25)), "the source ends at 1970-01-25 now, before the stored 1970-01-30"),
        (lambda bars: Bars(bars.times, CANDLE, bars.values[:, :5]), "the source gives other columns now"),
        (
            lambda bars: Bars(bars.times, COLUMNS, bars.values * 2).where(slice(5, None)),
            "by a factor of 2, and the source now has 1970-01-06 .. 1970-02-04 only",
        ),
    ],
)
def test_bars_that_cannot_be_joined_leave_the_file_as_it_was(tmp_path, after, why):
    source = OwnSource({"A": truth(30)})
    run(tmp_path, source)
    source.truth["A"] = after(truth(35))
    (outcome,) = run(tmp_path, source, update=True)
    assert outcome.state == "failed" and why in outcome.text and "unchanged" in outcome.text
    assert_same(held(tmp_path), truth(30))


def test_symbols_that_fail_are_rows_and_the_others_are_kept(tmp_path):
    source = OwnSource({name: truth(20) for name in "ABC"})
    source.errors = {"B": SymbolError("no such symbol.")}
    outcomes = run(tmp_path, source, "A", "B", "C")
    assert [(o.symbol, o.state) for o in outcomes] == [("A", "fetched"), ("B", "failed"), ("C", "fetched")]
    assert outcomes[1].text == "no such symbol"
    source.errors = {}
    assert [o.state for o in run(tmp_path, source, "A", "B", "C")] == ["kept", "fetched", "kept"]
    assert [symbol for symbol, _ in source.asked] == ["A", "B", "C", "B"]


def test_a_source_that_is_silent_is_not_asked_for_all(tmp_path):
    source = OwnSource({name: truth(20) for name in "ABCDEFGH"})
    source.errors = {name: NoAnswerError("no answer") for name in "BDEF"}
    outcomes = run(tmp_path, source, *"ABCDEFGH")
    assert [o.state for o in outcomes] == ["fetched", "failed", "fetched", *["failed"] * 5]
    assert outcomes[-1].text == "not asked for: the source gives no answer"
    assert [symbol for symbol, _ in source.asked] == list("ABCDEF")


def test_a_file_that_was_changed_or_deleted(tmp_path):
    source = OwnSource({"A": truth(20), "B": truth(20)})
    run(tmp_path, source, "A", "B")
    (tmp_path / "A.csv").write_text("mine")
    (tmp_path / "B.csv").unlink()
    for update in (False, True):
        outcomes = run(tmp_path, source, "A", "B", update=update)
        assert outcomes[0].text.endswith("is not the file that was downloaded. Delete it to have it anew")
        assert outcomes[1].state == ("kept" if update else "fetched") and (tmp_path / "A.csv").read_text() == "mine"


def test_bounds_of_time(tmp_path):
    source = OwnSource({"A": truth(60)})
    run(tmp_path, source, start=10 * DAY, end=30 * DAY)
    assert_same(held(tmp_path), truth(60).where(slice(10, 30)))
    (outcome,) = run(tmp_path, source, update=True, end=20 * DAY)
    assert (outcome.state, outcome.text) == ("kept", "reaches 1970-01-30 already")
    run(tmp_path, source, update=True, end=40 * DAY)
    assert_same(held(tmp_path), truth(60).where(slice(10, 40)))
    (outcome,) = run(tmp_path, source, "B", end=-DAY) if source.truth.setdefault("B", truth(5)) else ()
    assert outcome.text == "no finished bars in the span asked for"


def test_a_library_has_one_source_and_interval(tmp_path):
    with MarketFolder(tmp_path) as library:
        assert settle(library, ASKED | {"interval": None}, update=False)["interval"] == "1d"
        assert settle(library, ASKED | {"source": "ccxt"}, update=False)["exchange"] == "binance"
        for asked, why in (
            ({"source": None}, "--source: give yfinance or ccxt"),
            ({"exchange": "kraken"}, "--exchange: has no effect with --source yfinance"),
        ):
            with pytest.raises(ConfigError, match=why):
                settle(library, ASKED | asked, update=False)
        with pytest.raises(ConfigError, match=r"holds no library to update\. Leave --update out"):
            settle(library, ASKED, update=True)
        library.settings = ASKED | {"start": "2020-01-01"}
        assert settle(library, dict.fromkeys(ASKED), update=True) == library.settings
        for asked in ({"source": "ccxt"}, {"interval": "1h"}, {"start": "2021-01-01"}, {"exchange": "kraken"}):
            with pytest.raises(ConfigError, match=rf"--{next(iter(asked))} .*: the library in .* has "):
                settle(library, dict.fromkeys(ASKED) | asked, update=False)
