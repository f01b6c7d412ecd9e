"""Figures of a library's symbols by market: asset class and currency, each with its own sessions and fees.

Errors in a currency stand at each symbol; over symbols only percentages are averaged, and of one market at a time.

# N rows, T bars of a symbol
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foretrain.data.asof import as_of
from foretrain.data.market.calendars import YEAR, BarsPerYear, bars_per_year
from foretrain.data.market.facts import AssetFacts, facts_beside
from foretrain.errors import DataError
from foretrain.evaluation import metrics
from foretrain.evaluation.panel import Panel
from foretrain.evaluation.scored import Scored

UNKNOWN = "unknown"
_RECENT = 5 * YEAR  # microseconds of history that tell the bars of a year
_VOLATILITY_BARS = 250  # newest bars before the newest origin


@dataclass(frozen=True)
class Markets:
    """What is known of the symbols of a panel. Keys are (corpus, series)."""

    facts: dict[tuple[int, int], AssetFacts]
    years: dict[tuple[int, int], BarsPerYear | None]
    volatility: dict[tuple[int, int], float]  # standard deviation of log returns, percent of a year; NaN if unknown

    @classmethod
    def of(cls, panel: Panel) -> Markets | None:
        """Return what libraries know of a panel's symbols, None if no corpus with prices is part of one.

        Raises DataError for metadata that cannot be, and for a calendar that contradicts the bars.
        """
        markets = cls({}, {}, {})
        newest = {ref[:2]: ref.cutoff for ref in panel.refs}  # the last of each series
        for number, (corpus, chosen) in enumerate(zip(panel.corpora, panel.selections, strict=True)):
            known = {} if corpus.path is None else facts_beside(corpus.path)
            columns = [k for k in chosen.targets if corpus.columns[k] in corpus.manifest.price_columns]
            if not known or not columns:
                continue
            close = next((k for k in columns if corpus.columns[k] == "close"), columns[0])
            for key, cutoff in newest.items():
                if key[0] == number:
                    symbol = corpus.item_id(key[1])
                    markets.facts[key] = known.get(symbol, AssetFacts(symbol))
                    values = as_of(corpus, corpus.values(key[1]), cutoff)[close]
                    markets._add_year(key, corpus.times(key[1]), values, cutoff, corpus.path)
        return markets if markets.facts else None

    def _add_year(self, key: tuple[int, int], times: Any, closes: np.ndarray, cutoff: int, where: Any) -> None:
        facts, year = self.facts[key], None
        if times is not None:
            held = times[np.isfinite(closes)]
            held = held[held >= held[-1] - _RECENT] if len(held) else held
            try:
                year = bars_per_year(facts.symbol, held, facts.calendar, given=facts.calendar_given)
            except DataError as error:
                raise DataError(f"asset_metadata.json of {where}: {error}") from None
        self.years[key] = year
        past = closes[:cutoff][np.isfinite(closes[:cutoff])][-_VOLATILITY_BARS - 1 :].astype(np.float64)
        enough = year is not None and len(past) > 2 and bool((past > 0).all())
        moved = np.diff(np.log(past)).std(ddof=1) if enough else math.nan
        self.volatility[key] = float(100 * moved * math.sqrt(year.count)) if year is not None else math.nan

    @property
    def currencies(self) -> set[str]:
        """The currencies of the symbols; UNKNOWN is one of them if some symbol has none."""
        return {facts.currency or UNKNOWN for facts in self.facts.values()}

    def unit(self, key: tuple[int, ...]) -> tuple[str, int | None]:
        """Return the currency of a symbol's prices, "" if it is not known, and their decimal places."""
        facts = self.facts.get((key[0], key[1]))
        return ("", None) if facts is None else (facts.currency or "", facts.precision)


def market_rows(
    markets: Markets, panel: Panel, item_keys: np.ndarray, model: Scored, naive: Scored
) -> list[dict[str, Any]]:
    """Return the figures of each market: errors in percent, volatility of a year, and what is left after fees.

    item_keys (items, 3): corpus, series and target of the rows' items.
    """
    groups: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for key, facts in markets.facts.items():
        groups.setdefault((facts.asset_class or UNKNOWN, facts.currency or UNKNOWN), []).append(key)
    keys = [(int(corpus), int(series)) for corpus, series, _ in item_keys]
    closes = np.array([_is_close(panel, *map(int, key)) for key in item_keys])
    found = []
    for (kind, currency), members in sorted(groups.items()):
        of_group = np.array([key in set(members) for key in keys])
        rows = of_group[model.item] & model.price
        if not rows.any():
            continue
        ours, theirs = model.take(rows), naive.take(rows)
        pooled, base = metrics.pooled(ours), metrics.pooled(theirs)
        scored = sorted({keys[k] for k in np.unique(ours.item)})
        found.append(
            {
                "asset_class": kind,
                "currency": currency,
                "symbols": len(scored),
                "origins_a_symbol": int(ours.rank.max()) + 1,
                "pct_mae": pooled["pct_mae"],
                "naive_pct_mae": base["pct_mae"],
                "skill": metrics.skill(ours, theirs),
                "coverage_80_share": pooled["coverage_80_share"],
                **_year(markets, scored),
                **_after_fees(markets, model.take(rows & closes[model.item]), keys),
            }
        )
    return found


def _is_close(panel: Panel, corpus: int, series: int, target: int) -> bool:
    """Return whether a target is the close, or the first price of a selection without a close."""
    names = [panel.corpora[corpus].columns[k] for k in panel.selections[corpus].targets]
    prices = [k for k, name in enumerate(names) if name in panel.corpora[corpus].manifest.price_columns]
    return target == (names.index("close") if "close" in names else prices[0] if prices else -1)


def _year(markets: Markets, scored: Sequence[tuple[int, int]]) -> dict[str, Any]:
    years = [year for key in scored if (year := markets.years[key]) is not None]
    volatility = [markets.volatility[key] for key in scored if math.isfinite(markets.volatility[key])]
    return {
        "bars_per_year": float(np.median([year.count for year in years])) if years else math.nan,
        "bars_per_year_from": ", ".join(sorted({year.source for year in years})) or UNKNOWN,
        "volatility_pct": float(np.median(volatility)) if volatility else math.nan,
    }


def _after_fees(markets: Markets, rows: Scored, keys: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return what a trade a window earns: held from the origin to the last step, in the direction of the median, if
    that moves by more than both fees. Percent of the value traded; NaN without a trade or a fee.

    always_long_pct: what buying in each of the windows earns, after the same fees.
    """
    facts = [markets.facts[keys[k]] for k in rows.item]
    fees = np.array([math.nan if own.fee is None else own.fee for own in facts])
    with np.errstate(invalid="ignore", divide="ignore"):
        forecast = rows.median[:, -1] / rows.last - 1
        truth = rows.target[:, -1] / rows.last - 1
    known = np.isfinite(forecast) & np.isfinite(truth) & np.isfinite(fees) & (rows.last > 0)
    forecast, truth, fee = forecast[known], truth[known], fees[known]
    cost = fee * (2 + truth)  # of what is bought, and of what is sold
    side = np.sign(forecast) * (np.abs(forecast) > 2 * fee)
    traded = side != 0
    gross = (side * truth)[traded]

    def percent(values: np.ndarray) -> float:
        return float(100 * values.mean()) if len(values) else math.nan

    return {
        "fees": sorted({f"{own.fee:g} ({own.fee_source})" for own in facts if own.fee is not None}),
        "symbols_without_fee": len({own.symbol for own in facts if own.fee is None}),
        "windows": int(known.sum()),
        "trades": int(traded.sum()),
        "trade_before_fees_pct": percent(gross),
        "trade_after_fees_pct": percent(gross - cost[traded]),
        "always_long_pct": percent(truth - cost),
    }
