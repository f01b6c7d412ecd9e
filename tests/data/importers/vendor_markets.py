"""Files of exchanges, brokers and vendors of prices, each written anew; added to SAMPLES."""

from __future__ import annotations

from tests.data.importers.samples import BARS, OHLC, Read, bar, every, sample, table, weekdays

_IB = table(
    "date,open,high,low,close,volume",
    ((f"{d:%Y%m%d %H:%M:%S} US/Eastern", *bar(i), 10 + i) for i, d in every("2023-11-15T09:30", 36, minutes=5)),
)
sample(
    "Interactive Brokers: the zone's name behind every stamp", "SPY.csv", _IB, r"US/Eastern' .*--(timezone|date-format)"
)
sample(
    "Interactive Brokers with --date-format and --timezone",
    "SPY.csv",
    _IB,
    Read(("SPY",), BARS, "2023-11-15 14:30", "5min", {("SPY", "close", 1): 101.5}),
    date_format="%Y%m%d %H:%M:%S US/Eastern",
    timezone="America/New_York",
)
sample(
    "Interactive Brokers: days as 20231115",
    "SPY.csv",
    table("date,open,high,low,close,volume", ((f"{d:%Y%m%d}", *bar(i), 10 + i) for i, d in weekdays(60))),
    Read(("SPY",), BARS, "2024-01-01", "B", {("SPY", "close", 1): 101.5}),
)
sample(
    "TradeStation: date and time, Up and Down instead of volume",
    "ES.txt",
    table(
        '"Date","Time","Open","High","Low","Close","Up","Down"',
        ((f"{d:%m/%d/%Y},{d:%H:%M}", *bar(i), 10 + i, 5) for i, d in every("2016-06-30T17:00", 36, minutes=5)),
    ),
    Read(("ES",), (*OHLC, "Up", "Down"), "2016-06-30 17:00", "5min", {("ES", "Up", 2): 12}),
)
_HISTDATA = "".join(
    f"{d:%Y%m%d %H%M%S};{1.1 + i / 1e4:.6f};{1.101 + i / 1e4:.6f};{1.099 + i / 1e4:.6f};{1.1005 + i / 1e4:.6f};0\n"
    for i, d in every("2024-01-01T17:00", 36, minutes=1)
)
sample("HistData: no header", "DAT_ASCII_EURUSD_M1_2024.csv", _HISTDATA, "line 1 looks like data.*--no-header")
sample(
    "HistData with names",
    "DAT_ASCII_EURUSD_M1_2024.csv",
    _HISTDATA,
    Read(("EURUSD",), BARS, "2024-01-01 17:00", "min", {("EURUSD", "high", 1): 1.1011}),
    header=False,
    names=("timestamp", *BARS),
    id_pattern="ASCII_([A-Z]+)_",
)
_KRAKEN = "".join(f"{1388530800 + 3600 * i},{500 + i},{501 + i}.5,{499 + i},{500 + i}.1,12.5,{i}\n" for i in range(36))
sample("Kraken OHLCVT: no header", "XBTUSD_60.csv", _KRAKEN, "line 1 looks like data.*--no-header")
sample(
    "Kraken OHLCVT with names",
    "XBTUSD_60.csv",
    _KRAKEN,
    Read(("XBTUSD",), (*BARS, "trades"), "2013-12-31 23:00", "h", {("XBTUSD", "trades", 3): 3}),
    header=False,
    names=("timestamp", *BARS, "trades"),
    id_pattern="^([A-Z]+)_",
)
sample(
    "Dukascopy: local time with GMT+0100",
    "EURUSD.csv",
    table(
        "Local time,Open,High,Low,Close,Volume",
        ((f"{d:%d.%m.%Y %H:%M:%S}.000 GMT+0100", *bar(i), 10 + i) for i, d in every("2024-01-14", 36, hours=1)),
    ),
    Read(("EURUSD",), BARS, "2024-01-13 23:00", "h", {("EURUSD", "low", 1): 100}),
)
sample(
    "Finam: ticker, period, date and time in angle brackets",
    "SBER_240101_240131.txt",
    table(
        "<TICKER>;<PER>;<DATE>;<TIME>;<OPEN>;<HIGH>;<LOW>;<CLOSE>;<VOL>",
        (("SBER", 60, f"{d:%Y%m%d}", f"{d:%H%M%S}", *bar(i), 10 + i) for i, d in every("2024-01-14", 36, hours=1)),
        ";",
    ),
    Read(("SBER",), BARS, "2024-01-14", "h", {("SBER", "volume", 1): 11}),
)
sample(
    "Quandl WIKI: adjusted prices beside raw ones",
    "AAPL.csv",
    table(
        "Date,Open,High,Low,Close,Volume,Ex-Dividend,Adj. Open,Adj. High,Adj. Low,Adj. Close,Adj. Volume",
        ((f"{d:%Y-%m-%d}", *bar(i), 1000, 0.0, *(x / 2 for x in bar(i)), 2000) for i, d in weekdays(60)),
    ),
    Read(("AAPL",), (*OHLC, "adj_open", "adj_high", "adj_low", "adj_close", "volume", "adj_volume", "dividends",
                    "price_factor", "volume_factor"),
         "2024-01-01", "B", {("AAPL", "adj_close", 0): 50.25}),
)  # fmt: skip
sample(
    "Wall Street Journal: blanks behind commas, two digits of the year, newest first",
    "HistoricalPrices.csv",
    table(
        "Date, Open, High, Low, Close, Volume",
        ((f"{d:%m/%d/%y}", *(f" {x}" for x in bar(i)), f" {1000 + i}") for i, d in weekdays(60)[::-1]),
    ),
    Read(("HistoricalPrices",), BARS, "2024-01-01", "B", {("HistoricalPrices", "open", 1): 101}),
)
sample(
    "Barchart: Latest for the close, and a line of the source at the end",
    "esh24_daily.csv",
    table(
        "Time,Open,High,Low,Latest,Change,%Chg,Volume",
        ((f"{d:%m/%d/%Y}", *bar(i), 1.5, "+0.31%", 1000 + i) for i, d in weekdays(60)[::-1]),
    )
    + '"Downloaded from Barchart.com as of 02-29-2024 12:00pm CST"\n',
    Read(("esh24_daily",), (*BARS, "Change", "%Chg"), "2024-01-01", "B", {("esh24_daily", "close", 0): 100.5}),
)
sample(
    "Yahoo's web table: a dividend between the prices",
    "KO.csv",
    table(
        "Date,Open,High,Low,Close*,Adj Close**,Volume",
        (
            (f'"{d:%b %d, %Y}"', "0.25 Dividend", *[""] * 5) if i == 7 else (f'"{d:%b %d, %Y}"', *bar(i), 100, 1000)
            for i, d in weekdays(60)[::-1]
        ),
    ),
    "'Open': '0.25 Dividend'",
)
sample(
    "Polygon flat files: window_start in nanoseconds, several tickers",
    "2024-03-04.csv",
    table(
        "ticker,volume,open,close,high,low,window_start,transactions",
        (
            (t, 4930 + i, bar(i)[0], bar(i)[3], bar(i)[1], bar(i)[2], 1709562600000000000 + i * 60_000_000_000, 129)
            for t in ("AAPL", "MSFT")
            for i in range(40)
        ),
    ),
    Read(("AAPL", "MSFT"), (*BARS, "transactions"), "2024-03-04 14:30", "min", {("MSFT", "close", 1): 101.5}),
)
sample(
    "NSE India: blanks in the names, Indian grouping, 19-Feb-2020, newest first",
    "Quote-Equity-MFSL-EQ.csv",
    "\ufeff"
    + table(
        '"Date ","series ","OPEN ","HIGH ","LOW ","PREV. CLOSE ","ltp ","close ","VOLUME ","VALUE "',
        (
            (f'"{d:%d-%b-%Y}"', '"EQ"', *(f'"{x:,.2f}"' for x in (*bar(i)[:3], 99 + i, 100 + i, bar(i)[3])),
             f'"15,47,{819 + i}"', f'"7,95,{10 + i},488.60"')
            for i, d in weekdays(60)[::-1]
        ),
    ),
    Read(("Quote-Equity-MFSL-EQ",), (*BARS, "series", "PREV. CLOSE", "ltp", "VALUE"), "2024-01-01", "B",
         {("Quote-Equity-MFSL-EQ", "volume", 1): 1547820, ("Quote-Equity-MFSL-EQ", "VALUE", 0): 79510488.6}),
)  # fmt: skip
_STOOQ = table(
    "Data,Otwarcie,Najwyzszy,Najnizszy,Zamkniecie,Wolumen",
    ((f"{d:%Y-%m-%d}", *bar(i), 1000 + i) for i, d in weekdays(60)),
)
sample(
    "Stooq in Polish with --column",
    "wig20_d.csv",
    _STOOQ,
    Read(("wig20_d",), BARS, "2024-01-01", "B", {("wig20_d", "close", 1): 101.5}),
    column={"timestamp": "Data", "open": "Otwarcie", "high": "Najwyzszy", "low": "Najnizszy", "close": "Zamkniecie",
            "volume": "Wolumen"},
)  # fmt: skip
sample(
    "Stooq in Polish",
    "wig20_d.csv",
    _STOOQ,
    Read(("wig20_d",), ("Otwarcie", "Najwyzszy", "Najnizszy", "Zamkniecie", "Wolumen"), "2024-01-01", "B",
         {("wig20_d", "Zamkniecie", 1): 101.5}),
)  # fmt: skip
sample(
    "Taiwan Stock Exchange: years of the Republic, 113/01/02",
    "STOCK_DAY_2330.csv",
    table("Date,Open,High,Low,Close,Volume", ((f"{d.year - 1911}/{d:%m/%d}", *bar(i), 10) for i, d in weekdays(60))),
    "'113/01/01' is not a time stamp",
)
sample(
    "EOD Historical Data: the number of rows as the last line",
    "MCD.US.csv",
    table(
        "Date,Open,High,Low,Close,Adjusted_close,Volume",
        ((f"{d:%Y-%m-%d}", *bar(i), bar(i)[3], 1000 + i) for i, d in weekdays(60)),
    )
    + "44\n",
    Read(("MCD.US",), (*OHLC, "adj_close", "volume"), "2024-01-01", "B", {("MCD.US", "adj_close", 1): 101.5}),
)
