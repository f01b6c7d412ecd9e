"""Metadata of a library in its evaluations: sessions, fees, currencies, and what one origin cannot say."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.market.folders import bars, days, write

from foretrain.data.market.library import build
from foretrain.data.splits import select
from foretrain.data.store import Corpus
from foretrain.errors import DataError
from foretrain.evaluation.market_report import amount
from foretrain.evaluation.report import format_table, render
from foretrain.evaluation.tasks import evaluate
from foretrain.notes import Code, codes

sessions = pytest.importorskip("exchange_calendars", reason="needs the extra market: exchange_calendars")
KNOWN = {
    "AAPL": {"asset_class": "equity", "currency": "USD", "calendar": "XNYS", "precision": 2},
    "MSFT": {"asset_class": "equity", "currency": "USD", "calendar": "XNYS", "default_trading_fee": 0.0002},
    "7203": {"asset_class": "equity", "currency": "JPY"},
}


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("markets")
    dates = [f"{day.date()}" for day in sessions.get_calendar("XNYS", start="2022-01-03", end="2023-12-29").sessions]
    for seed, symbol in enumerate(("AAPL", "MSFT", "7203", "NONE")):
        write(place / "in" / f"{symbol}.csv", bars(dates[:200], seed))
    write(place / "in" / "BTC-USD.csv", bars(days(200, business=False), 9))
    (place / "in" / "asset_metadata.json").write_text(json.dumps(KNOWN))
    build(place / "in", place / "lib")
    return place / "lib"


def scored(persistence, library: Path, *names: str, bias=1.0, **settings: Any):
    corpora = [Corpus.open(library / name) for name in names]
    settings = {"prediction_length": 5, "num_windows": 4, **settings}
    return evaluate(persistence(bias), corpora, selection=[select(c, ["close"]) for c in corpora], **settings)


def test_each_market_has_its_own_line_and_no_currencies_are_averaged(persistence, library):
    found = scored(persistence, library, "B", "D")
    lines = {(row["asset_class"], row["currency"]): row for row in found.markets}
    assert {key: row["symbols"] for key, row in lines.items()} == {
        ("crypto", "USD"): 1, ("equity", "JPY"): 1, ("equity", "USD"): 2, ("equity", "unknown"): 1,
    }  # fmt: skip
    crypto, dollars, yen = lines["crypto", "USD"], lines["equity", "USD"], lines["equity", "JPY"]
    assert crypto["bars_per_year"] == pytest.approx(365.25) and crypto["bars_per_year_from"] == "calendar 24/7"
    assert dollars["bars_per_year"] == pytest.approx(251.5, abs=1.5)
    assert dollars["bars_per_year_from"] == "calendar XNYS" and yen["bars_per_year_from"] == "its bars"
    assert dollars["fees"] == ["0.0002 (metadata)", "0.0005 (usual of equity)"]
    assert crypto["fees"] == ["0.001 (usual of crypto)"]
    for name in ("mae", "rmse", "naive_mae"):
        assert math.isnan(found.aggregate[name])
    assert "Prices are in JPY, USD, unknown: mae, rmse and naive_mae have no mean" in found.aggregate["note"]
    assert math.isfinite(found.aggregate["pct_mae"])
    symbols = {entry["symbol"]: (entry["asset_class"], entry["currency"]) for entry in found.per_symbol}
    assert symbols["7203"] == ("equity", "JPY") and symbols["NONE"] == ("equity", None)
    assert found.to_dict()["markets"][0]["asset_class"] == "crypto"
    assert "calendar XNYS" in format_table(found) and "By market" in render(found)
    page = render(found)
    assert " USD</td>" in page and " JPY</td>" in page


def test_one_currency_keeps_its_means(persistence, library):
    found = scored(persistence, library, "D")
    assert math.isfinite(found.aggregate["mae"])
    assert {example.unit for example in found.examples} == {"close (USD)"}


def test_volatility_of_a_year_has_the_bars_of_the_calendar(persistence, library):
    """By hand, of the bars before the newest origin."""
    (row,) = scored(persistence, library, "D").markets
    closes = Corpus.open(library / "D").values(0)[3, :195].astype(np.float64)
    assert row["volatility_pct"] == pytest.approx(100 * np.diff(np.log(closes)).std(ddof=1) * math.sqrt(365.25))


def test_a_trade_pays_the_fees_of_its_symbol(persistence, library):
    """A forecast of a rise in each window buys in each; one within the fees, or a fall, does not."""
    (row,) = scored(persistence, library, "D", bias=1.0).markets
    closes = Corpus.open(library / "D").values(0)[3].astype(np.float64)
    cuts = [180, 185, 190, 195]
    gains = np.array([closes[cut + 4] / closes[cut - 1] - 1 for cut in cuts])
    assert (row["trades"], row["windows"]) == (4, 4)
    assert row["trade_before_fees_pct"] == pytest.approx(100 * gains.mean())
    assert row["trade_after_fees_pct"] == pytest.approx(100 * (gains - 0.001 * (2 + gains)).mean())
    assert row["always_long_pct"] == pytest.approx(row["trade_after_fees_pct"])
    (short,) = scored(persistence, library, "D", bias=-1.0).markets
    assert short["trade_before_fees_pct"] == pytest.approx(-100 * gains.mean())
    (still,) = scored(persistence, library, "D", bias=0.01).markets
    assert still["trades"] == 0 and math.isnan(still["trade_after_fees_pct"])
    assert "0 of 4" in format_table(scored(persistence, library, "D", bias=0.01))


def test_one_origin_of_each_symbol_is_said(persistence, library):
    one, more = scored(persistence, library, "B", num_windows=1), scored(persistence, library, "B", num_windows=2)
    (note,) = (note for note in one.warnings if note.code == Code.ONE_ORIGIN)
    assert note.counts == {"items": 4} and "no interval over origins" in note.text
    assert Code.ONE_ORIGIN not in codes(more.warnings)
    assert {row["origins_a_symbol"] for row in one.markets} == {1}


@pytest.mark.parametrize(
    ("symbol", "entry", "message"),
    [
        ("BTC-USD", {"calendar": "XNYS"}, "fit no session of XNYS"),
        ("AAPL", {"calendar": "24/7"}, "AAPL: the calendar 24/7 has 365 bars a year, and its bars come 25. times"),
        ("AAPL", {"calendar": None, "exchange": "XNYZ"}, "AAPL: exchange 'XNYZ' is none that exchange_calendars knows"),
        ("AAPL", {"precision": 99}, "AAPL: precision is 99; it is a number of decimal places"),
        ("AAPL", {"default_trading_fee": 0.5}, "AAPL: default_trading_fee is 0.5; it is a share of the value traded"),
    ],
)
def test_a_fault_in_the_metadata_is_one_line(persistence, library, tmp_path, symbol, entry, message):
    shutil.copytree(library, tmp_path / "lib")
    path = tmp_path / "lib" / "asset_metadata.json"
    tree = json.loads(path.read_text())
    tree[symbol] |= {**entry, "from_name": []}
    path.write_text(json.dumps(tree))
    with pytest.raises(DataError, match=message) as error:
        scored(persistence, tmp_path / "lib", "B", "D")
    assert "\n" not in str(error.value) and "asset_metadata.json" in str(error.value)


def test_other_corpora_have_no_markets(persistence, library, tmp_path):
    shutil.copytree(library / "B", tmp_path / "B")
    found = scored(persistence, tmp_path, "B")
    assert found.markets == [] and found.units == [] and math.isfinite(found.aggregate["mae"])
    assert "By market" not in render(found)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.27234, ("USD", 2), "1.27 USD"),
        (1.27234, ("USD", 6), "1.272 USD"),
        (0.0371234, ("USD", 4), "0.0371 USD"),
        (0.0031, ("USD", 2), "0.0031 USD"),
        (12345.678, ("JPY", 0), "12,346 JPY"),
        (2.5, ("", None), "2.500"),
        (math.nan, ("USD", 2), "n/a"),
        (0.0, ("USD", 2), "0.00 USD"),
    ],
)
def test_errors_have_the_currency_and_the_places_of_the_prices(value, unit, text):
    assert amount(value, unit) == text
