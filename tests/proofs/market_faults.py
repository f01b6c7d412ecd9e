"""Which alarms of market_rules.py on bars as they are name faults of their source, by evidence apart from the rules."""

from __future__ import annotations

import itertools
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from market_series import Bars, lean_table

from foretrain.timeaxis.frequency import DAY

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
    ("gap", "coinbase_1m/", ("2018-04-05",)): "seven hours without any bar in all coins of the source",
    (
        "gap",
        "lean_crypto_coinbase_minute/",
        ("2018-04-05",),
    ): "seven hours without any bar in all its coins",
    ("repeated_bar", "sp500_2013_2018/", ("2014-07-18", "2014-08-04")): "15 and 28 of 90 stocks repeat the day before",
    ("spike", "sp500_2013_2018/", ("2017-08-01",)): "AAPL closes at 158.59 here, and at 150.05 elsewhere",
    ("split_like_jump", "lean_equity_usa_daily/BNO", ("2010-06-02",)): "another security had the symbol before",
    ("split_like_jump", "lean_equity_usa_daily/EEM", ("2003-04-11",)): "another security had the symbol before",
    ("split_like_jump", "lean_equity_usa_hour/VXX", ("2019-05-02",)): "another note has the symbol since",
    ("stale_price", "lean_index_usa_minute/SPX", ()): "the index after the session, filled",
    ("gap", "oanda_hourly/EURUSD", ("2007-01-09", "2015-08-21")): "hours of a working day, when the market is open",
}


def why_fault(rule: str, one: Bars, stamp: int, root: Path) -> str:
    """Return the evidence that an alarm is a fault of the source, "" without one."""
    day = str(np.datetime64(stamp, "us").astype("M8[D]"))
    known = ((text, days) for (of, start, days), text in FAULTS.items() if of == rule and one.name.startswith(start))
    text = next((text for text, days in known if not days or day in days), "")
    if not text and rule == "split_like_jump" and stamp in dict(real_splits(one, root)):
        return "a split in the source's factors"
    if not text and rule == "gap" and one.source == "lean_cfd_oanda_hour":
        return _whole_day(one, stamp, root / "new/lean/Data/forex/oanda/hour")
    if not text and rule == "spike" and one.source in ("us_lean_minute", "lean_equity_usa_minute"):
        return _outside_quotes(one, stamp, root / "new/lean/Data/equity/usa/minute")
    return text


LEAN_UNADJUSTED = (
    "us_lean_unadjusted_1998_2021",
    "us_lean_hourly_1998_2021",
    "lean_equity_usa_daily",
    "lean_equity_usa_hour",
)


def real_splits(one: Bars, root: Path) -> list[tuple[int, float]]:
    """Return the stamp of the first bar after each split in LEAN's factors that the series covers, and its ratio."""
    folder, symbol = root / "new/lean/Data/equity/usa/factor_files", one.symbol.split("#")[0].lower()
    path = folder / f"{symbol}.csv"
    path = path if path.exists() else folder / f"{symbol}.1.csv"  # of a symbol that another company has since
    if one.source not in LEAN_UNADJUSTED or not path.exists():
        return []
    rows = [line.split(",") for line in path.read_text().split()]
    found = []
    for (day, _, factor, *_), (_, _, later, *_) in itertools.pairwise(rows):
        end = pd.Timestamp(day) + pd.Timedelta(days=1)
        at = int(np.searchsorted(one.times, end.value // 1000))
        if factor != later and 0 < at < len(one.times) and one.times[at] - one.times[at - 1] < 10 * DAY:
            found.append((int(one.times[at]), float(later) / float(factor)))
    return found


def _whole_day(one: Bars, stamp: int, folder: Path) -> str:
    """Return the evidence of a day lost before a stamp: a session in New York, with bars of another market."""
    at = int(np.searchsorted(one.times, stamp))
    days = np.arange(one.times[at - 1] // DAY + 1, stamp // DAY)
    traded = days[np.isin(days, _days(folder)) & _sessions(days)]
    return "a session in New York, with bars of NZDUSD from the same source" if len(traded) else ""


@cache
def _days(folder: Path) -> np.ndarray:
    return pd.DatetimeIndex(lean_table(folder, "nzdusd")["date"]).as_unit("us").asi8 // DAY


def _sessions(days: np.ndarray) -> np.ndarray:
    import exchange_calendars  # an extra of the package

    calendar = exchange_calendars.get_calendar("XNYS", start="1998-01-01")
    return np.array([calendar.is_session(pd.Timestamp(int(day), unit="D")) for day in days], bool)


def _outside_quotes(one: Bars, stamp: int, folder: Path) -> str:
    """Return the evidence of a close beyond all bids and asks of its minute and those beside it, by half its move."""
    at = int(np.searchsorted(one.times, stamp))
    when = pd.Timestamp(stamp, unit="us")
    path = folder / one.symbol.split("#")[0].lower() / f"{when:%Y%m%d}_quote.zip"
    if not path.exists():
        return ""
    quotes = _quotes(path)
    minute = (when.hour * 60 + when.minute) * 60_000
    near = quotes[np.abs(quotes[:, 0] - minute) <= 60_000]
    if not len(near):
        return ""
    bid, ask = near[:, 3].min() / 1e4, near[:, 7].max() / 1e4
    before, close = one.values[3, at - 1 : at + 1].astype(np.float64)
    if max(bid - close, close - ask) < 0.5 * abs(close - before):
        return ""
    return "a trade beyond all bids and asks of its minute and of the ones beside it"


@cache
def _quotes(path: Path) -> np.ndarray:
    """Return (N, 11) the minutes of a day in LEAN's layout: milliseconds, bid OHLC, size, ask OHLC, size."""
    with zipfile.ZipFile(path) as packed, packed.open(packed.namelist()[0]) as text:
        return pd.read_csv(text, header=None).to_numpy(np.float64)
