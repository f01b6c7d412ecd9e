"""Measure the rules for market series: recall on planted faults, false alarms on real bars, by rule.

Thresholds were set on the series of one half of the symbols (a hash divides them). One run measures both halves, the
sources that were looked at later, and new ones, as docs/results/market-rules.md reports them:

    python tests/proofs/market_rules.py --data FOLDER --json FILE

FOLDER (or $MARKET_DATA) holds the files that market_series.py reads. --set measures one set alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from market_faults import real_splits, why_fault
from market_plants import KINDS, Kind, listed, phantom_session, with_events, wrong_dividend
from market_series import OHLCV, Bars, in_half, load, load_fresh, load_new, load_seen

from foretrain.data.findings import ItemFindings
from foretrain.data.importers import import_corpus
from foretrain.data.importers.columns import market_layout
from foretrain.data.market.review import MarketReview, lost_bars
from foretrain.data.market.traded import as_traded
from foretrain.data.quality import ItemRows, clean
from foretrain.timeaxis.exchange import Exchange
from foretrain.timeaxis.frequency import DAY
from foretrain.timeaxis.inference import infer

EVENTS = (*OHLCV, "dividends", "stock_splits")
LAYOUTS = {5: market_layout(OHLCV, [False] * 5), 7: market_layout(EVENTS, [False] * 7)}
CALENDARS: dict[str, Exchange] = {}
ROWS_ALONE = ("duplicate_timestamp", "ohlc_inconsistent", "negative_volume")  # rules that judge single rows
Alarms = dict[str, dict[str, set[int]]]  # rule -> series -> stamps


def groups(bars: list[Bars]) -> list[list[Bars]]:
    """Return the series that are peers of each other: those of one source, one exchange and one length of bars."""
    found: dict[str, list[Bars]] = {}
    for one in bars:
        frame = one.symbol.split(":")[-1].split("#")[0] if one.source.startswith("crypto_octobot") else ""
        found.setdefault(f"{one.source}:{one.calendar}:{frame}", []).append(one)
    return list(found.values())


def alarms(
    series: list[Bars],
    *,
    exchange: bool = False,
    judged: Callable[[str], bool] = lambda name: True,
    rule: str | None = None,
) -> Alarms:
    """Return every bar that the rules find in series that are peers of each other, for those that `judged` names.

    rule: the one that is asked for, so that others may be left out.
    """
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
    for one, rows, findings in () if rule in ROWS_ALONE else held:
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


def recall(series: list[Bars], kind: Kind, half: str, rng: np.random.Generator) -> tuple[int, int, list[str]]:
    """Return how many plants of a kind were found, how many there were, and the series of those that were missed."""
    planted, wanted = [], {}
    plant = kind.plant
    if plant is phantom_session:  # without an exchange, five peers must be listed
        plant = partial(plant, taken=open_days(series) | (set() if kind.exchange else scarce_days(series)))
    for one in series:
        mine = in_half(symbol_of(one), half) and kind.fits(one) and len(one.times) >= 120
        changed, sets = plant(rng, one) if mine else (one, [])
        if kind.plant is wrong_dividend and not mine:
            changed = with_events(one)
        planted.append(changed)
        wanted[one.name] = sets
    if not any(wanted.values()):
        return 0, 0, []
    found = alarms(planted, exchange=kind.exchange, judged=lambda symbol: in_half(base(symbol), half), rule=kind.rule)
    hits = found.get(kind.rule, {})
    missed = [name for name, sets in wanted.items() for one in sets if not one & hits.get(name, set())]
    total = sum(map(len, wanted.values()))
    return total - len(missed), total, missed


def open_days(series: list[Bars]) -> set[int]:
    """Return the days on which one of the series has a bar."""
    return set().union(*(np.unique(one.times // DAY).tolist() for one in series))


def scarce_days(series: list[Bars]) -> set[int]:
    """Return the days on which fewer than six of the series are listed."""
    spans = [(int(one.times[0] // DAY), int(one.times[-1] // DAY)) for one in series]
    days = range(min(first for first, _ in spans), max(last for _, last in spans) + 1)
    return {day for day in days if sum(first <= day <= last for first, last in spans) < 6}


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


def clean_alarms(series: list[Bars], half: str, root: Path) -> Iterator[Alarm]:
    """Yield what is found in series without plants, faults of the source and others apart."""
    for peers in groups(series):
        by_name = {one.name: one for one in peers}
        for rule, hits in alarms(peers, judged=lambda symbol: in_half(base(symbol), half)).items():
            for name, stamps in hits.items():
                one = by_name[name]
                wrong = stamps - sessions_lacking(one) if rule == "gap" else stamps
                if rule in EXACT or not in_half(symbol_of(one), half):
                    continue
                why = {stamp: why_fault(rule, one, stamp, root) for stamp in sorted(wrong)}
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


def found_splits(series: list[Bars], found: list[Alarm], root: Path) -> list[dict[str, Any]]:
    """Return the splits that unadjusted sources record elsewhere, and whether the rule names their bar."""
    named = {(alarm.one.name, stamp) for alarm in found if alarm.rule == "split_like_jump" for stamp in alarm.stamps}
    splits = [(one.name, stamp, ratio) for one in series for stamp, ratio in real_splits(one, root)]
    return [{"series": name, "day": str(np.datetime64(stamp, "us").astype("M8[D]")), "ratio": round(ratio, 3),
             "found": (name, stamp) in named} for name, stamp, ratio in splits]  # fmt: skip


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


def measure(name: str, root: Path, seed: int, plants: bool) -> dict[str, Any]:
    """Return the alarms on the bars of a set as they are, and with plants the recall of each kind."""
    loader, half = SETS[name]
    series = loader(root)
    mine = [one for one in series if in_half(symbol_of(one), half)]
    bars = sum(len(one.times) for one in mine)
    say = partial(print, name, sep=" | ", flush=True)
    say(f"{len(mine)} series, {bars:,} bars")
    found = list(clean_alarms(series, half, root))
    rates = rates_of(found, bars)
    jumps = real_jumps(mine, found)
    taken = [jump for jump in jumps if jump["rule"]]
    told = [alarm.told() for alarm in found]
    splits = found_splits(mine, found, root)
    result = {"series": len(mine), "bars": bars, "rates": rates, "jumps": len(jumps), "jumps_taken_for_faults": taken,
              "real_splits": splits, "alarms": told, "plants": []}  # fmt: skip
    for alarm in told:
        say("alarm", *(alarm[key] for key in ("rule", "series", "bars", "first", "fault")))
    for rule, rate in rates.items():
        say("clean", rule, f"{rate['faults']} faults of the source", f"{rate['false']} false",
            f"{rate['per_10000']:.2f} in 10,000")  # fmt: skip
    say("jumps", f"{len(jumps)} of a quarter or more, taken for faults: {taken}")
    missed = [split for split in splits if not split["found"]]
    say("real splits", f"{len(splits) - len(missed)} of {len(splits)} found, not {missed}")
    for number in range(len(KINDS) + 1) if plants else ():
        plant = adjusted_prices(mine) if number == len(KINDS) else recall_of(series, number, half, seed)
        result["plants"].append(plant)
        share = plant["found"] / max(plant["planted"], 1)
        say("plant", plant["rule"], plant["title"], f"{plant['found']} of {plant['planted']}", f"{share:.1%}",
            plant["missed"])  # fmt: skip
    return result


def rates_of(found: list[Alarm], bars: int) -> dict[str, dict[str, float]]:
    """Return for each rule, and for all, the bars that it finds: faults of the source, and others."""
    rates = {}
    for rule in sorted({alarm.rule for alarm in found}):
        raised = Counter({bool(why): 0 for why in (True, False)})
        for alarm in found:
            raised[bool(alarm.why)] += len(alarm.stamps) if alarm.rule == rule else 0
        rates[rule] = {"faults": raised[True], "false": raised[False], "per_10000": 1e4 * raised[False] / bars}
    rates["all"] = {key: sum(rate[key] for rate in list(rates.values())) for key in ("faults", "false", "per_10000")}
    return rates


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


SETS = {"tuning": (load, "tuning"), "held": (load, "test"), "seen": (load_seen, "all"), "fresh": (load_fresh, "all"),
        "new": (load_new, "all")}  # fmt: skip


def main() -> None:
    """Measure sets of series and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MARKET_DATA"))
    parser.add_argument("--set", choices=tuple(SETS), action="append", dest="sets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-plants", action="store_true", help="alarms on the bars as they are alone")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.data is None:
        parser.error("--data FOLDER, or the variable MARKET_DATA, names the folder of the series")
    names = given.sets or list(SETS)
    ask = partial(measure, root=Path(given.data), seed=given.seed, plants=not given.no_plants)
    with ProcessPoolExecutor(len(names)) as pool:
        results = dict(zip(names, pool.map(ask, names), strict=True))
    if given.json is not None:
        written = {"machine": f"{platform.machine()} ({os.cpu_count()} cores)", "seed": given.seed, "sets": results}
        given.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
