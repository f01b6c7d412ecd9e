"""Measure the rules for market series: recall on planted faults, false alarms on real bars, by rule.

Thresholds were set on the series of one half of the symbols (a hash divides them). One run measures the other half, the
sources that were looked at later, and fresh ones, as docs/results/market-rules.md reports them:

    python tests/proofs/market_rules.py --data FOLDER --json FILE

FOLDER (or $MARKET_DATA) holds the files that market_series.py reads. --set tuning shows the first half.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from market_series import OHLCV, Bars, in_half, load, load_fresh, load_seen

from foretrain.data.findings import ItemFindings
from foretrain.data.importers import import_corpus
from foretrain.data.importers.columns import market_layout
from foretrain.data.market import detect
from foretrain.data.market.review import MarketReview, lost_bars
from foretrain.data.market.traded import as_traded
from foretrain.data.quality import ItemRows, clean
from foretrain.timeaxis.exchange import Exchange
from foretrain.timeaxis.frequency import DAY, HOUR
from foretrain.timeaxis.inference import infer

# -- the review --------------------------------------------------------------------------------------------------------

EVENTS = (*OHLCV, "dividends", "stock_splits")
LAYOUTS = {5: market_layout(OHLCV, [False] * 5), 7: market_layout(EVENTS, [False] * 7)}
CALENDARS: dict[str, Exchange] = {}
Alarms = dict[str, dict[str, set[int]]]  # rule -> series -> stamps


def groups(bars: list[Bars]) -> list[list[Bars]]:
    """Return the series that are peers of each other: those of one source, one exchange and one length of bars."""
    found: dict[str, list[Bars]] = {}
    for one in bars:
        frame = one.symbol.split(":")[-1].split("#")[0] if one.source.startswith("crypto_octobot") else ""
        found.setdefault(f"{one.source}:{one.calendar}:{frame}", []).append(one)
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
            after, _ = lost_bars(rows, layout, freq, review.peers.votes)
            add("gap", one.name, rows.times[after])
    return found


# Alarms in the files as they are that are faults of the file, by (rule, beginning of the series, days), with the
# evidence; no days means all
FAULTS: dict[tuple[str, str, tuple[str, ...]], str] = {
    ("split_like_jump", "us_lean_unadjusted_1998_2021/AAPL", ()): "splits of 2000, 2005, 2014, 2020 in its factors",
    ("split_like_jump", "us_lean_unadjusted_1998_2021/GOOG", ()): "the class C shares of 2014, in the source's factors",
    ("split_like_jump", "us_lean_unadjusted_1998_2021/USO", ()): "the reverse split 1:8 of 2020, in its factors",
    ("split_like_jump", "us_lean_unadjusted_1998_2021/BAC", ("2004-08-30",)): "the split 2:1 of 2004, in its factors",
    ("split_like_jump", "us_lean_unadjusted_1998_2021/WM", ("2001-05-16",)): "Washington Mutual's split 3:2 of 2001",
    ("split_like_jump", "us_lean_hourly_1998_2021/AAPL", ()): "splits of 2000, 2005, 2014, 2020 in its factors",
    ("split_like_jump", "us_lean_hourly_1998_2021/BAC", ("2004-08-30",)): "the split 2:1 of 2004, in its factors",
    ("split_like_jump", "us_google_1987_2017/GEO", ()): "adjusted for the split of 2017-04-24 on the wrong side",
    ("split_like_jump", "us_google_1987_2017/HSY", ()): "the rows of 1988 are on another basis than those around them",
    ("split_like_jump", "us_google_1987_2017/HAL", ()): "the rows of 1988 are on another basis than those around them",
    ("split_like_jump", "us_google_1987_2017/SYNL", ()): "the rows of 1993 are on another basis than those around them",
    ("split_like_jump", "us_google_1987_2017/CRF", ("2008-12-23",)): "the reverse split 1:2 of 2008-12-23",
    ("split_like_jump", "us_google_1987_2017/CYRX", ("2010-02-08",)): "the reverse split 1:10 of February 2010",
    ("split_like_jump", "cn_hikyuu_1990_2011/", ()): "not adjusted for shares that were issued free",
    ("spike", "us_lean_unadjusted_1998_2021/GOOG", ()): "the cancelled prints of 2008-09-30; Google closed at 400.52",
    ("spike", "us_google_1987_2017/VHI", ()): "in the summer of 2004 every Thursday is on another basis",
    ("closed_session", "us_google_1987_2017/CRF", ()): "filled bars on holidays of the exchange",
    ("repeated_bar", "cn_hikyuu_1990_2011/", ("1993-10-11",)): "repeats the session before in both stocks",
    ("gap", "crypto_octobot_multi_timeframe/binance", ()): "hours without any bar in all pairs of the exchange",
    ("gap", "bitstamp/", ("2019-04-01",)): "2019-03-31, when both exchanges traded, is in neither file",
    ("gap", "coinbase_daily/", ("2019-04-01",)): "2019-03-31, when both exchanges traded, is in neither file",
    ("split_like_jump", "quandl_wiki/AAPL", ("1987-06-16",)): "the split 2:1 of 1987-06-16, in the file's own column",
    ("repeated_bar", "stockstats/SH600000", ("2012-01-02", "2012-01-03")): "filled bars of a holiday of the exchange",
    ("gap", "oanda_hourly/EURUSD", ("2007-01-09", "2015-08-21")): "hours of a working day, when the market is open",
}


def why_fault(rule: str, name: str, stamp: int) -> str:
    """Return the evidence that an alarm is a fault of the source, "" without one."""
    day = str(np.datetime64(stamp, "us").astype("M8[D]"))
    known = ((text, days) for (of, start, days), text in FAULTS.items() if of == rule and name.startswith(start))
    return next((text for text, days in known if not days or day in days), "")


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
    """Ten daily bars, or thirty shorter ones or ones without an open, with the prices of the bar before; all trade."""
    values, planted = one.values.copy(), []
    for at in places(rng, one):
        count = 10 if is_daily(one) and np.isfinite(values[:4, at - 1 : at + 10]).all() else 30
        if (values[4, at : at + count] == 0).any() and np.mean(values[4] > 0) > 0.5:
            continue
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


def outage(rng: np.random.Generator, one: Bars) -> Planted:
    """Ten bars are left out, a hundred where a tenth of all bars have no move; of a market without an exchange."""
    count = 100 if np.mean(one.values[1] == one.values[2]) >= 0.1 else 10
    chosen = places(rng, one, room=110)[:: count // 10 // 3 or 1]  # of a hundred, two or so: a tenth of all at most
    planted = [{int(one.times[at + count])} for at in chosen]
    return without(one, (chosen[:, None] + np.arange(count)).ravel()), planted


def phantom_session(rng: np.random.Generator, one: Bars) -> Planted:
    """A bar on a weekday on which the market was closed: the last close again, without volume."""
    days = one.times // DAY
    closed = np.setdiff1d(np.arange(days[0], days[-1]), days)
    closed = closed[((closed + 3) % 7 < 5) & (closed > days[5])]
    if not len(closed):
        return one, []
    chosen = np.sort(rng.choice(closed, min(2, len(closed)), replace=False))  # few: shared ones would be a session
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
    """The stamps of ten whole sessions are an hour later or earlier, or of ten daily bars an hour later.

    Of sessions with many bars, a tenth of all days is moved.
    """
    times, days = one.times.copy(), np.unique(one.times // DAY)
    planted: list[set[int]] = []
    for number in range(1 if is_daily(one) else max(1, len(days) // 100)):
        first = int(rng.integers(5, len(days) - 15)) if number == 0 and len(days) < 200 else 100 * number + 45
        chosen = np.isin(one.times // DAY, days[first : first + 10])
        times[chosen] += HOUR if is_daily(one) else int(rng.choice([-1, 1])) * HOUR
        if is_daily(one):
            planted += [{int(t)} for t in times[chosen]]
            continue
        found, counts = np.unique(one.times[chosen] // DAY, return_counts=True)
        whole = found[counts == np.median(counts)]  # half days have other hours, and are no part of a plant
        planted += [set(times[chosen & (one.times // DAY == day)].tolist()) for day in whole]
    return replace(one, times=times), planted


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


def with_peers(one: Bars) -> bool:
    """Return True for sources with two listed series or more on most days."""
    return listed(one) and one.source not in ALONE


def with_many_peers(one: Bars) -> bool:
    """Return True for sources with six listed series or more on any day."""
    few = ("datareader_2021", "us_lean_unadjusted_1998_2021", "cn_hikyuu_1990_2011", "backtrader")
    return with_peers(one) and one.source not in few


def on_exchange(one: Bars) -> bool:
    """Return True for sources that have all sessions of their exchange."""
    return one.source in ("yahoo_2020", "us_stocknet_2012_2017", "sse_5min", *FRESH_LISTED) or with_sessions(one)


def never_closed(one: Bars) -> bool:
    return one.calendar is None and not is_daily(one)


def slow(one: Bars) -> bool:
    """Return True for bars of a quarter of an hour to a day of a market that never closes."""
    return one.calendar is None and float(np.median(np.diff(one.times))) >= HOUR // 4 and one.source not in ALONE


FRESH_LISTED = ("backtrader", "stock_prediction_models", "pyalgotrade", "yfinance")
ALONE = ("pyalgotrade", "quandl_wiki", "stockstats", "tdx", "yfinance", "vix", "eia", "vega", "pandas_ta",
         "backtesting", "gym_anytrading", "oanda_daily")  # fmt: skip


KINDS = (
    Kind("spike", "close or bar 8 to 16 robust deviations off, back with the next bar", spike, any_bars),
    Kind("stale_price", "ten whole daily bars that trade, or thirty others, like the one before", stale, any_bars),
    Kind("split_like_jump", "2:1, not recorded", split(2.0), listed),
    Kind("split_like_jump", "3:1, not recorded", split(3.0), listed),
    Kind("split_like_jump", "3:2, not recorded", split(1.5), listed),
    Kind("split_like_jump", "1:10, not recorded", split(0.1), listed),
    Kind("gap", "a session left out, known by peers", missing_session, with_peers),
    Kind("gap", "a session or an intraday bar left out, known by the exchange", missing_session, on_exchange, True),
    Kind("gap", "ten bars left out, a hundred of thin markets, no exchange named", outage, never_closed),
    Kind("gap", "a bar of 15 minutes to a day left out, market that never closes", missing_session, slow),
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


@dataclass(frozen=True)
class Alarm:
    """Bars of a series that a rule finds without a plant. why: the evidence of a fault of the source, else ""."""

    rule: str
    one: Bars
    stamps: list[int]
    why: str

    def told(self) -> dict[str, Any]:
        first = around(self.one, self.stamps[0])
        return {"rule": self.rule, "series": self.one.name, "bars": len(self.stamps), "first": first,
                "days": sorted({str(np.datetime64(t, "us").astype("M8[D]")) for t in self.stamps})[:10],
                "fault": self.why}  # fmt: skip


def clean_alarms(series: list[Bars], half: str) -> Iterator[Alarm]:
    """Yield what is found in series without plants, faults of the source and others apart."""
    for peers in groups(series):
        by_name = {one.name: one for one in peers}
        for rule, hits in alarms(peers, judged=lambda symbol: in_half(base(symbol), half)).items():
            for name, stamps in hits.items():
                one = by_name[name]
                wrong = stamps - sessions_lacking(one) if rule == "gap" else stamps
                if rule in EXACT or not in_half(symbol_of(one), half):
                    continue
                why = {stamp: why_fault(rule, name, stamp) for stamp in sorted(wrong)}
                for text in dict.fromkeys(why.values()):
                    yield Alarm(rule, one, [stamp for stamp in why if why[stamp] == text], text)


def real_jumps(series: list[Bars], found: list[Alarm]) -> list[dict[str, Any]]:
    """Return the closes of listed series a quarter or more above or below the one before, largest first.

    Those that are faults of the source are left out. rule: the rule that takes it for a fault, "" if none does.
    """
    raised = {(alarm.one.name, stamp): alarm for alarm in found for stamp in alarm.stamps}
    jumps = []
    for one in series:
        if not listed(one):
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            moved = np.diff(np.log(one.values[3].astype(np.float64)))
        for at in np.flatnonzero(np.abs(moved) >= np.log(1.25)) + 1:
            alarm = raised.get((one.name, int(one.times[at])))
            back = raised.get((one.name, int(one.times[at - 1])))  # from a bad print back to the level
            if any(known is not None and known.why for known in (alarm, back)):
                continue
            jumps.append({"series": one.name, "day": str(one.times[at].astype("M8[us]").astype("M8[D]")),
                          "move": round(float(np.expm1(moved[at - 1])), 3),
                          "rule": "" if alarm is None else alarm.rule})  # fmt: skip
    return sorted(jumps, key=lambda jump: -abs(np.log1p(jump["move"])))


SPELLINGS = ("Adj Close", "Adj. Close", "adjClose", "adj_close", "Adjusted Close", "adjclose")


def adjusted_prices(series: list[Bars]) -> dict[str, Any]:
    """Return how often an import sees the column of a source with closes that later dividends adjust, and without it.

    The column is the close times 0.995 for each quarter after it, under the titles that sources give it.
    """
    whole = [one for one in series if listed(one) and np.isfinite(one.values[:4, -300:]).all()]
    planted = [one for one in whole for _ in range(2)]
    hit = false = 0
    for number, one in enumerate(planted):
        values = one.values[:, -300:]
        later = 0.995 ** (np.arange(values.shape[1])[::-1] // 63)
        days = one.times[-300:].astype("M8[us]").astype("M8[D]")
        for title in (SPELLINGS[number % len(SPELLINGS)], None):
            columns = ["Date", *(name.title() for name in OHLCV), *([] if title is None else [title])]
            cells = [*values, *([] if title is None else [values[3] * later])]
            bars = zip(days, *cells, strict=True)
            lines = [",".join([str(day), *(f"{x:.6g}" for x in bar)]) for day, *bar in bars]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "one.csv"
                path.write_text("\n".join([",".join(columns), *lines]) + "\n")
                report = import_corpus([path], Path(folder) / "out")
            seen = bool(report.rules["adjusted_prices"]["items"])
            hit, false = hit + (seen and title is not None), false + (seen and title is None)
    return {"rule": "adjusted_prices", "title": "a close that later dividends adjust, under six titles", "found": hit,
            "planted": len(planted), "missed": {}, "without": false}  # fmt: skip


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


def measure(name: str, series: list[Bars], half: str, seed: int, *, plants: bool) -> dict[str, Any]:
    """Return the alarms on the bars as they are, and with plants the recall of each kind."""
    mine = [one for one in series if in_half(symbol_of(one), half)]
    bars = sum(len(one.times) for one in mine)
    print(f"set {name}: {len(mine)} series, {bars:,} bars", flush=True)
    found = list(clean_alarms(series, half))
    result: dict[str, Any] = {"series": len(mine), "bars": bars, "alarms": [alarm.told() for alarm in found]}
    rates = {}
    for rule in sorted({alarm.rule for alarm in found}):
        raised = Counter({bool(why): 0 for why in (True, False)})
        for alarm in found:
            raised[bool(alarm.why)] += len(alarm.stamps) if alarm.rule == rule else 0
        rates[rule] = {"faults": raised[True], "false": raised[False], "per_10000": 1e4 * raised[False] / bars}
    rates["all"] = {key: sum(rate[key] for rate in rates.values()) for key in ("faults", "false", "per_10000")}
    result["rates"], result["jumps"] = rates, real_jumps(mine, found)
    for alarm in result["alarms"]:
        print("alarm |", " | ".join(str(alarm[key]) for key in ("rule", "series", "bars", "first", "fault")))
    for rule, rate in rates.items():
        print(f"clean | {rule} | {rate['faults']} faults of the source | {rate['false']} false | "
              f"{rate['per_10000']:.2f} in 10,000", flush=True)  # fmt: skip
    taken = [jump for jump in result["jumps"] if jump["rule"]]
    print(f"jumps | {len(result['jumps'])} of a quarter or more, taken for faults: {taken}")
    result["plants"] = []
    for number in range(len(KINDS) + 1) if plants else ():
        plant = adjusted_prices(mine) if number == len(KINDS) else recall_of(series, number, half, seed)
        result["plants"].append(plant)
        share = plant["found"] / max(plant["planted"], 1)
        print("plant |", plant["rule"], "|", plant["title"], "|", plant["found"], "of", plant["planted"],
              f"| {share:.1%} | {plant['missed']}", flush=True)  # fmt: skip
    return result


def recall_of(series: list[Bars], number: int, half: str, seed: int) -> dict[str, Any]:
    """Return how many plants of a kind are found in the series of a half."""
    kind, rng = KINDS[number], np.random.default_rng([seed, number])
    hit = total = 0
    missed = Counter[str]()
    for peers in groups(series):
        found, planted, names = recall(peers, kind, half, rng)
        hit, total = hit + found, total + planted
        missed.update(name.split("/")[0] for name in names)
    return {"rule": kind.rule, "title": kind.title, "found": hit, "planted": total, "missed": dict(missed)}


def main() -> None:
    """Measure sets of series and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MARKET_DATA"))
    parser.add_argument("--set", choices=("held", "seen", "fresh", "tuning"), action="append", dest="sets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-plants", action="store_true", help="alarms on the bars as they are alone")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.data is None:
        parser.error("--data FOLDER, or the variable MARKET_DATA, names the folder of the series")
    loaders = {"held": (load, "test"), "tuning": (load, "tuning"), "seen": (load_seen, "all"),
               "fresh": (load_fresh, "all")}  # fmt: skip
    results = {}
    for name in given.sets or ("held", "seen", "fresh"):
        loader, half = loaders[name]
        plants = not given.no_plants and name != "seen"
        results[name] = measure(name, loader(Path(given.data)), half, given.seed, plants=plants)
    if given.json is not None:
        given.json.write_text(json.dumps({"seed": given.seed, "sets": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
