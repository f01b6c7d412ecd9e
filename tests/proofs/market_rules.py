"""Measure the rules for market series: recall on planted faults, false alarms on real bars, by rule.

Series are split by a hash of their symbol: thresholds were set on one half, and this script measures the other half
(--half tuning shows the first). Usage: python tests/proofs/market_rules.py --data FOLDER [--out PAGE] [--half test]
FOLDER (or $MARKET_DATA) holds ohlcv_daily/ and ohlcv_intraday/ as described in docs/results/market-rules.md.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from foretrain.data.findings import ItemFindings
from foretrain.data.importers.columns import market_layout
from foretrain.data.market import detect
from foretrain.data.market.review import MarketReview
from foretrain.data.market.traded import as_traded
from foretrain.data.quality import ItemRows, clean
from foretrain.timeaxis.exchange import Exchange
from foretrain.timeaxis.frequency import DAY, HOUR
from foretrain.timeaxis.gaps import find_gaps
from foretrain.timeaxis.inference import infer

OHLCV = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True)
class Bars:
    """One series: stamps (T,), open, high, low, close and volume (5, T)."""

    source: str
    symbol: str
    times: np.ndarray
    values: np.ndarray
    calendar: str | None = None  # of the exchange, where it is known
    adjusted: bool = True

    @property
    def name(self) -> str:
        return f"{self.source}/{self.symbol}"


def in_half(symbol: str, half: str) -> bool:
    """Return whether a symbol belongs to a half, the same one in every source."""
    if half == "unseen":
        return True
    even = hashlib.blake2b(symbol.encode(), digest_size=1).digest()[0] % 2 == 0
    return even == (half == "tuning")


def load(root: Path) -> list[Bars]:
    """Return the series of every source in the folder."""
    found: list[Bars] = []
    daily, intraday = root / "ohlcv_daily", root / "ohlcv_intraday"
    for path in sorted((daily / "yahoo_2020").glob("*.csv")):
        found.append(_bars("yahoo_2020", path.stem, pd.read_csv(path), "Date", "XNYS"))
    for path in sorted((daily / "pandas_datareader_2021").glob("*.csv")):
        found.append(_bars("datareader_2021", path.stem, pd.read_csv(path), "Date", "XNYS"))
    panels = [
        (daily / "us_stocknet_2012_2017.parquet", "XNYS", True),
        (daily / "us_dow_2006_2018.parquet", "XNYS", True),
        (daily / "us_google_1987_2017.parquet", "XNYS", True),
        (daily / "us_lean_unadjusted_1998_2021.parquet", "XNYS", False),
        (daily / "cn_hikyuu_1990_2011.parquet", "XSHG", False),
        (intraday / "us_lean_hourly_1998_2021.parquet", "XNYS", False),
        (intraday / "crypto_freqtrade_5m_2018.parquet", None, True),
        (intraday / "crypto_octobot_multi_timeframe.parquet", None, True),
    ]
    for path, calendar, adjusted in panels:
        table = pd.read_parquet(path)
        for symbol, rows in table.groupby("item_id", sort=True):
            bars = _bars(path.stem, str(symbol), rows, "timestamp", calendar, adjusted)
            found += _spans(bars)
    found.append(_bars("sse_5min", "XSHG_600977", pd.read_csv(intraday / "raw/XSHG_5min_600977.csv"), "timestamps",
                       "XSHG", False))  # fmt: skip
    found.append(_bars("oanda_daily", "EURUSD", _bid(daily / "fx_oanda_daily_2007_2018.parquet"), "timestamp", None))
    found.append(
        _bars("oanda_hourly", "EURUSD", _bid(intraday / "fx_oanda_hourly_eurusd_2007_2018.parquet"), "timestamp", None)
    )
    return [bars for bars in found if len(bars.times) >= 60]


def load_unseen(root: Path) -> list[Bars]:
    """Return series of further sources, which were not looked at until all thresholds were set."""
    daily, intraday = root / "ohlcv_daily", root / "ohlcv_intraday"
    found = []
    wide = pd.read_csv(daily / "wide_close_prices_1990_2024.csv.gz")
    for symbol in wide.columns[1:]:
        table = wide[["date", symbol]].dropna().rename(columns={symbol: "close"})
        table = table.assign(open=np.nan, high=np.nan, low=np.nan, volume=np.nan)
        found.append(_bars("wide_close_1990_2024", symbol, table, "date", "XNYS"))
    for source, symbol, name, time, calendar in (
        ("backtesting", "GOOG", "raw/GOOG.csv", "Unnamed: 0", "XNYS"),
        ("gym_anytrading", "GOOGL", "raw/STOCKS_GOOGL.csv", "Date", "XNYS"),
        ("pandas_ta", "SPY", "raw/SPY_D.csv", "date", "XNYS"),
        ("vega", "GSPC", "raw/sp500-2000.csv", "date", "XNYS"),
    ):
        found.append(_bars(source, symbol, pd.read_csv(daily / name), time, calendar))
    for symbol, name in (
        ("BTC-PERP", "btc-perp-1m_2021-12-31_2022-01-20.csv.gz"),
        ("GBPUSD", "gbpusd-m1-bid-2012.csv.gz"),
    ):
        table = pd.read_csv(intraday / name)
        found.append(
            _bars("nautilus_1m", symbol, table if "volume" in table else table.assign(volume=np.nan), "timestamp", None)
        )
    for name in ("crypto_coinbase_minute", "crypto_coinbase_minute_ltc"):
        for symbol, rows in pd.read_parquet(intraday / f"{name}.parquet").groupby("item_id", sort=True):
            found += [one for one in _spans(_bars("coinbase_1m", str(symbol), rows, "timestamp", None))]
    return [bars for bars in found if len(bars.times) >= 60]


def _bid(path: Path) -> pd.DataFrame:
    table = pd.read_parquet(path).rename(columns={f"bid_{name}": name for name in OHLCV[:4]})
    return table.assign(volume=np.nan)


def _bars(
    source: str, symbol: str, table: pd.DataFrame, time: str, calendar: str | None, adjusted: bool = True
) -> Bars:
    table = table.rename(columns={name: name.lower() for name in table.columns if name != time})
    stamps = pd.DatetimeIndex(pd.to_datetime(table[time.lower() if time.lower() in table else time])).as_unit("us")
    stamps = stamps if stamps.tz is None else stamps.tz_convert("UTC").tz_localize(None)
    values = table[list(OHLCV)].to_numpy(np.float32).T.copy()
    values[:4][values[:4] <= 0] = np.nan
    order = np.argsort(stamps.asi8, kind="stable")
    times, values = stamps.asi8[order], values[:, order]
    keep = np.append(np.diff(times) > 0, True) & np.isfinite(values[3])
    return Bars(source, symbol, times[keep], values[:, keep], calendar, adjusted)


def _spans(bars: Bars) -> Iterator[Bars]:
    """Yield the parts of a series between holes of a hundred days, which some sources glue together."""
    cuts = np.flatnonzero(np.diff(bars.times) > 100 * 86_400_000_000) + 1
    edges = [0, *cuts.tolist(), len(bars.times)]
    for number, (a, b) in enumerate(itertools.pairwise(edges)):
        name = bars.symbol if len(edges) == 2 else f"{bars.symbol}#{number}"
        yield replace(bars, symbol=name, times=bars.times[a:b], values=bars.values[:, a:b])


# -- the review --------------------------------------------------------------------------------------------------------

EVENTS = (*OHLCV, "dividends", "stock_splits")
LAYOUTS = {5: market_layout(OHLCV, [False] * 5), 7: market_layout(EVENTS, [False] * 7)}
CALENDARS: dict[str, Exchange] = {}
Alarms = dict[str, dict[str, set[int]]]  # rule -> series -> stamps


def groups(bars: list[Bars]) -> list[list[Bars]]:
    """Return the series that are peers of each other: those of one source and one length of bars."""
    found: dict[str, list[Bars]] = {}
    for one in bars:
        frame = one.symbol.split(":")[-1].split("#")[0] if one.source.startswith("crypto_octobot") else ""
        found.setdefault(f"{one.source}:{frame}", []).append(one)
    return list(found.values())


def alarms(series: list[Bars], *, exchange: bool = False, judged: Callable[[str], bool] = lambda name: True) -> Alarms:
    """Return every bar that the rules find in series that are peers of each other, for those that `judged` names."""
    layout = LAYOUTS[len(series[0].values)]
    review, held = MarketReview(layout, "fix"), []
    found: Alarms = {}

    def add(rule: str, name: str, stamps: np.ndarray) -> None:
        found.setdefault(rule, {}).setdefault(name, set()).update(stamps.tolist())

    for one in series:
        findings = ItemFindings("fix")
        read = ItemRows(one.name, one.values, one.times, np.arange(1, len(one.times) + 1))
        rows = clean(as_traded(read, layout.names, layout, findings), layout, findings)
        review.add(rows)
        held.append((one, rows, findings))
        if findings.has("duplicate_timestamp"):
            add("duplicate_timestamp", one.name, findings.lost.stamps)
        bad = (one.values[1] < np.fmax(one.values[0], one.values[3])) | (
            one.values[2] > np.fmin(one.values[0], one.values[3])
        )
        if findings.has("ohlc_inconsistent"):
            add("ohlc_inconsistent", one.name, one.times[bad])
        if findings.has("negative_volume"):
            add("negative_volume", one.name, one.times[one.values[4] < 0])
    for one, rows, findings in held:
        if not judged(one.symbol):
            continue
        code = one.calendar if exchange else None
        calendar = None if code is None else CALENDARS.setdefault(code, Exchange(code))
        result = review.judge(rows, findings, calendar, insert=False)
        for rule, hit in result.found.items():
            if hit.any():
                add(rule, one.name, rows.times[hit])
        if findings.has("corporate_action") and "corporate_action" not in found:
            add("corporate_action", one.name, rows.times[:1])
        if calendar is not None:
            add("gap", one.name, result.missing)
        elif (freq := infer(rows.times).freq) is not None:
            after, _ = find_gaps(rows.times, freq, review.peers.votes)
            add("gap", one.name, rows.times[after])
    return found


# Alarms in the files as they are that are faults of the file, by (rule, beginning of the series), with the evidence
FAULTS: dict[tuple[str, str], str] = {
    (
        "split_like_jump",
        "us_lean_unadjusted_1998_2021/AAPL",
    ): "splits of 2000, 2005, 2014, 2020 in the source's factors",
    ("split_like_jump", "us_lean_unadjusted_1998_2021/GOOG"): "the class C shares of 2014, in the source's factors",
    ("split_like_jump", "us_lean_unadjusted_1998_2021/USO"): "the reverse split 1:8 of 2020, in the source's factors",
    ("split_like_jump", "us_lean_hourly_1998_2021/AAPL"): "splits of 2000, 2005, 2014, 2020 in the source's factors",
    ("split_like_jump", "us_google_1987_2017/GEO"): "adjusted for the split of 2017-04-24 on the wrong side",
    ("split_like_jump", "us_google_1987_2017/HSY"): "the rows of 1988 are on another basis than those around them",
    (
        "split_like_jump",
        "cn_hikyuu_1990_2011/",
    ): "not adjusted for shares that were issued free",
    ("spike", "us_lean_unadjusted_1998_2021/GOOG"): "the cancelled prints of 2008-09-30; Google closed at 400.52",
    ("repeated_bar", "cn_hikyuu_1990_2011/"): "1993-10-11 repeats the session before in both stocks of the exchange",
    ("gap", "crypto_octobot"): "markets without closing hours: the bars are not there",
}


# -- plants ------------------------------------------------------------------------------------------------------------

DAILY = 23 * HOUR
APART = 400  # bars between two plants of one series
MOST = 6  # plants of a series
Planted = tuple[Bars, list[set[int]]]  # the series, and for each plant the stamps of which one must be found


def places(rng: np.random.Generator, one: Bars, *, room: int = 40) -> np.ndarray:
    """Return bars of a series, far apart, at which a fault is planted."""
    count = min(MOST, max(1, (len(one.times) - 2 * room) // APART))
    cells = np.linspace(room, len(one.times) - room - 1, count + 1).astype(int)
    return np.array([rng.integers(a, max(a + 1, b - (b - a) // 4)) for a, b in itertools.pairwise(cells)])


def spike(rng: np.random.Generator, one: Bars) -> Planted:
    """A close, or the whole bar, 8 to 16 robust deviations of the moves around it off, back with the next bar."""
    values, planted = one.values.copy(), []
    scale = detect.local_scale(detect.moves(values[3]))
    for at in places(rng, one):
        factor = np.exp(rng.choice([-1, 1]) * rng.uniform(8, 16) * scale[at])
        if rng.random() < 0.5:
            values[:4, at] *= factor
        else:
            values[3, at] *= factor
            values[1, at], values[2, at] = np.fmax(values[1, at], values[3, at]), np.fmin(values[2, at], values[3, at])
        planted.append({int(one.times[at])})
    return replace(one, values=values), planted


def stale(rng: np.random.Generator, one: Bars) -> Planted:
    """Ten daily bars, or thirty shorter ones or ones without an open, with the prices of the bar before."""
    values, planted = one.values.copy(), []
    for at in places(rng, one):
        count = 10 if is_daily(one) and np.isfinite(values[:4, at - 1 : at + 10]).all() else 30
        values[:4, at : at + count] = values[:4, at - 1 : at]
        planted.append({int(one.times[at + count - 1])})
    return replace(one, values=values), planted


def split(ratio: float) -> Callable[[np.random.Generator, Bars], Planted]:
    """A split that no column records: earlier prices times the ratio, earlier volumes divided by it."""

    def plant(rng: np.random.Generator, one: Bars) -> Planted:
        at = int(rng.integers(30, len(one.times) - 30))
        values = one.values.copy()
        values[:4, :at] *= ratio
        values[4, :at] /= ratio
        return replace(one, values=values), [{int(one.times[at])}]

    return plant


def without(one: Bars, rows: np.ndarray) -> Bars:
    keep = np.ones(len(one.times), bool)
    keep[rows] = False
    return replace(one, times=one.times[keep], values=one.values[:, keep])


def missing_session(rng: np.random.Generator, one: Bars) -> Planted:
    """A whole session, or of intraday bars one bar inside a session, is left out."""
    chosen = places(rng, one)
    if np.median(np.diff(one.times)) < DAY:  # not at an opening or a close
        day = one.times // DAY
        chosen = np.array([at for at in chosen if day[at - 1] == day[at] == day[at + 1]], int)
    # the gap is reported at the row after it, or as the missing stamp itself
    planted = [{int(one.times[at + 1]), int(one.times[at])} for at in chosen]
    return without(one, chosen), planted


def phantom_session(rng: np.random.Generator, one: Bars) -> Planted:
    """A bar on a weekday on which the market was closed: the last close again, without volume."""
    days = one.times // DAY
    closed = np.setdiff1d(np.arange(days[0], days[-1]), days)
    closed = closed[((closed + 3) % 7 < 5) & (closed > days[5])]
    if not len(closed):
        return one, []
    chosen = rng.choice(closed, 1)  # one a series, since peers that share it would make it a session
    place = np.searchsorted(days, chosen)
    filled = np.stack([one.values[3, place - 1]] * 4 + [np.zeros(len(place), np.float32)])
    stamps = chosen * DAY + one.times[0] % DAY
    values = np.insert(one.values, place, filled, axis=1)
    return replace(one, times=np.insert(one.times, place, stamps), values=values), [{int(t)} for t in stamps]


def repeated(rng: np.random.Generator, one: Bars) -> Planted:
    """A bar with all prices and the volume of the bar before it, one that moved and traded."""
    values, planted = one.values.copy(), []
    for at in places(rng, one):
        if values[1, at - 1] > values[2, at - 1] and values[4, at - 1] > 0 and np.isfinite(values[:, at - 1]).all():
            values[:, at] = values[:, at - 1]
            planted.append({int(one.times[at])})
    return replace(one, values=values), planted


def moved_clock(rng: np.random.Generator, one: Bars) -> Planted:
    """The stamps of ten whole sessions are an hour later or earlier, or of ten daily bars an hour later."""
    times, days = one.times.copy(), np.unique(one.times // DAY)
    first = int(rng.integers(5, len(days) - 15))
    chosen = np.isin(times // DAY, days[first : first + 10])
    daily = np.median(np.diff(times)) >= DAILY
    times[chosen] += HOUR if daily else int(rng.choice([-1, 1])) * HOUR
    if not daily:  # half days have other hours, and are no part of a plant
        counts = np.unique(one.times[chosen] // DAY, return_counts=True)
        whole = counts[0][counts[1] == np.median(counts[1])]
        return replace(one, times=times), [set(times[chosen & (one.times // DAY == day)].tolist()) for day in whole]
    return replace(one, times=times), [{int(t)} for t in times[chosen]]


def duplicate(rng: np.random.Generator, one: Bars) -> Planted:
    """A session given twice, the second time with prices half a percent higher."""
    at = places(rng, one)
    values = np.insert(one.values, at, one.values[:, at] * np.float32(1.005), axis=1)
    return replace(one, times=np.insert(one.times, at, one.times[at]), values=values), [{int(t)} for t in one.times[at]]


def volume(value: float) -> Callable[[np.random.Generator, Bars], Planted]:
    """A bar with this volume, in a series that records volumes."""

    def plant(rng: np.random.Generator, one: Bars) -> Planted:
        if np.mean(one.values[4] > 0) < 0.85:
            return one, []
        at, values = places(rng, one), one.values.copy()
        values[4, at] = value
        return replace(one, values=values), [{int(t)} for t in one.times[at]]

    return plant


def swapped(rng: np.random.Generator, one: Bars) -> Planted:
    """High and low of a bar change places."""
    at, values = places(rng, one), one.values.copy()
    at = at[values[1, at] > values[2, at]]
    values[1:3, at] = values[2:0:-1, at]
    return replace(one, values=values), [{int(t)} for t in one.times[at]]


def with_events(one: Bars) -> Bars:
    """Return a series with dividends of half a percent every quarter, and no split."""
    paid = np.zeros(len(one.times), np.float32)
    paid[60::63] = 0.005 * one.values[3, 60::63]
    return replace(one, values=np.concatenate([one.values, [paid, np.ones_like(paid)]]).astype(np.float32))


def wrong_dividend(rng: np.random.Generator, one: Bars) -> Planted:
    """A dividend a hundred times too large, of 0.95 to 3 times the close before."""
    one = with_events(one)
    at, values = places(rng, one), one.values.copy()
    values[5, at] = rng.uniform(0.95, 3.0, len(at)) * values[3, at - 1]
    return replace(one, values=values), [{int(t)} for t in one.times[at]]


@dataclass(frozen=True)
class Kind:
    """One kind of plant: the rule that must find it, and the sources it is planted in."""

    rule: str
    title: str
    plant: Callable[[np.random.Generator, Bars], Planted]
    fits: Callable[[Bars], bool]
    exchange: bool = False


def is_daily(one: Bars) -> bool:
    return float(np.median(np.diff(one.times))) >= DAILY


def any_bars(one: Bars) -> bool:
    return True


def with_sessions(one: Bars) -> bool:
    return one.calendar is not None and not is_daily(one)


def listed(one: Bars) -> bool:
    return one.calendar is not None and is_daily(one)


def with_many_peers(one: Bars) -> bool:
    """Return True for sources with six listed series or more on any day."""
    return listed(one) and one.source not in ("datareader_2021", "us_lean_unadjusted_1998_2021")


def on_exchange(one: Bars) -> bool:
    return one.source in ("yahoo_2020", "us_stocknet_2012_2017", "sse_5min") or with_sessions(one)


KINDS = (
    Kind("spike", "close or bar 8 to 16 robust deviations off, back with the next bar", spike, any_bars),
    Kind("stale_price", "ten whole daily bars, or thirty others, like the one before", stale, any_bars),
    Kind("split_like_jump", "2:1, not recorded", split(2.0), is_daily),
    Kind("split_like_jump", "3:1, not recorded", split(3.0), is_daily),
    Kind("split_like_jump", "3:2, not recorded", split(1.5), is_daily),
    Kind("split_like_jump", "1:10, not recorded", split(0.1), is_daily),
    Kind("gap", "a session left out, known by peers", missing_session, listed),
    Kind("gap", "a session or an intraday bar left out, known by the exchange", missing_session, on_exchange, True),
    Kind("closed_session", "a filled bar on a holiday, known by peers", phantom_session, with_many_peers),
    Kind("closed_session", "a filled bar on a holiday, known by the exchange", phantom_session,
         lambda one: listed(one) and on_exchange(one), True),
    Kind("repeated_bar", "prices and volume of the bar before", repeated, any_bars),
    Kind("clock_shift", "ten sessions an hour off, intraday", moved_clock, with_sessions),
    Kind("clock_shift", "ten daily stamps an hour off", moved_clock, is_daily),
    Kind("duplicate_timestamp", "a session twice, 0.5 % apart", duplicate, any_bars),
    Kind("zero_volume", "volume 0", volume(0.0), any_bars),
    Kind("negative_volume", "volume -1", volume(-1.0), any_bars),
    Kind("ohlc_inconsistent", "high and low exchanged", swapped, any_bars),
    Kind("corporate_action", "a dividend of 0.95 to 3 closes", wrong_dividend, listed),
)  # fmt: skip


def recall(series: list[Bars], kind: Kind, half: str, rng: np.random.Generator) -> tuple[int, int, list[str]]:
    """Return how many plants of a kind were found, how many there were, and the series of those that were missed."""
    planted, wanted = [], {}
    for one in series:
        mine = in_half(symbol_of(one), half) and kind.fits(one) and len(one.times) >= 120
        changed, sets = kind.plant(rng, one) if mine else (one, [])
        if kind.plant is wrong_dividend and not mine:
            changed = with_events(one)
        planted.append(changed)
        wanted[one.name] = sets
    if not any(wanted.values()):
        return 0, 0, []
    found = alarms(planted, exchange=kind.exchange, judged=lambda symbol: in_half(base(symbol), half))
    hits = found.get(kind.rule, {})
    missed = [name for name, sets in wanted.items() for one in sets if not one & hits.get(name, set())]
    total = sum(map(len, wanted.values()))
    return total - len(missed), total, missed


def base(symbol: str) -> str:
    """Return the symbol of a part of a series; exchange:PAIR:frame is PAIR."""
    parts = symbol.split("#")[0].split(":")
    return parts[1] if len(parts) == 3 else parts[0]


def symbol_of(one: Bars) -> str:
    return base(one.symbol)


EXACT = ("zero_volume", "ohlc_inconsistent", "duplicate_timestamp", "negative_volume")  # what they find is so


def clean_alarms(series: list[Bars], half: str) -> Iterator[tuple[str, Bars, list[int], list[str]]]:
    """Yield (rule, series, stamps, bars around the first) of what is found in series without plants."""
    for peers in groups(series):
        by_name = {one.name: one for one in peers}
        for rule, hits in alarms(peers, judged=lambda symbol: in_half(base(symbol), half)).items():
            for name, stamps in hits.items():
                one = by_name[name]
                wrong = sorted(stamps - sessions_lacking(one)) if rule == "gap" else sorted(stamps)
                if rule not in EXACT and wrong and in_half(symbol_of(one), half):
                    yield rule, one, wrong, [around(one, stamp) for stamp in wrong[:3]]


def sessions_lacking(one: Bars) -> set[int]:
    """Return the stamps after which, or at which, the exchange's calendar has a session that the series lacks."""
    if one.calendar is None:
        return set()
    missing = CALENDARS.setdefault(one.calendar, Exchange(one.calendar)).compare(one.times, one.name).missing
    after = np.minimum(np.searchsorted(one.times, missing), len(one.times) - 1)
    return set(missing.tolist()) | set(one.times[after].tolist())


def around(one: Bars, stamp: int) -> str:
    """Return the closes before, at and after a stamp as text."""
    at = int(np.searchsorted(one.times, stamp))
    closes = ", ".join(f"{value:.5g}" for value in one.values[3, max(0, at - 1) : at + 2])
    return f"{np.datetime64(stamp, 'us').astype('M8[m]')}: {closes}"


def main() -> None:
    """Measure one half of the series and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("MARKET_DATA"))
    parser.add_argument("--half", choices=("test", "tuning", "unseen"), default="test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="clean (no plants), or one rule, whose plants alone are measured")
    given = parser.parse_args()
    series = load_unseen(Path(given.data)) if given.half == "unseen" else load(Path(given.data))
    mine = [one for one in series if in_half(symbol_of(one), given.half)]
    rows = sum(len(one.times) for one in mine)
    print(f"{len(mine)} series, {rows:,} bars, half {given.half}")
    bars, true = Counter[str](), Counter[str]()
    for rule, one, stamps, text in clean_alarms(series, given.half) if given.only in (None, "clean") else ():
        why = next((why for (known, name), why in FAULTS.items() if known == rule and one.name.startswith(name)), "")
        bars[rule] += len(stamps)
        true[rule] += len(stamps) if why else 0
        print(f"alarm | {rule} | {one.name} | {len(stamps)} | {'; '.join(text)} | {why or 'false'}", flush=True)
    for rule in bars:
        false = bars[rule] - true[rule]
        rate = f"{1e4 * false / rows:.2f} false in 10,000"
        print(f"clean | {rule} | {bars[rule]} alarms | {true[rule]} faults of the source | {rate}")
    if given.only in (None, "clean"):
        print(f"clean | all | {1e4 * (bars.total() - true.total()) / rows:.2f} false in 10,000 bars", flush=True)
    for number, kind in enumerate(KINDS):
        if given.only not in (None, kind.rule):
            continue
        rng = np.random.default_rng([given.seed, number])
        hit = total = 0
        missed = Counter[str]()
        for peers in groups(series):
            found, planted, names = recall(peers, kind, given.half, rng)
            hit, total = hit + found, total + planted
            missed.update(name.split("/")[0] for name in names)
        lost = ", ".join(f"{name} {count}" for name, count in missed.items())
        print(f"plant | {kind.rule} | {kind.title} | {hit} of {total} | {hit / max(total, 1):.1%} | {lost}", flush=True)


if __name__ == "__main__":
    main()
