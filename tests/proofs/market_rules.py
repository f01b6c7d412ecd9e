"""Measure the rules for market series: recall on planted faults, false alarms on real bars, by rule.

Series are split by a hash of their symbol: thresholds were set on one half, and this script measures the other half
(--half tuning shows the first). Usage: python tests/proofs/market_rules.py --data FOLDER [--out PAGE] [--half test]
FOLDER (or $MARKET_DATA) holds ohlcv_daily/ and ohlcv_intraday/ as described in docs/results/market-rules.md.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

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
        (daily / "cn_hikyuu_1990_2011.parquet", None, False),
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
