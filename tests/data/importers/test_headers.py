"""Importing texts by their first lines: headers of one to three lines, names of columns, separators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.data.importers.importing import DAYS, first_stamp, imported, items, written

from foretrain.errors import DataError
from foretrain.notes import Code, codes

# Headers of several lines


PRICES = {"AAPL": (10.0, 100.0), "MSFT": (20.0, 200.0)}


def two_levels(header: list[str], lead: str = "") -> list[str]:
    """Close and volume of two tickers, in the order close, close, volume, volume."""
    return header + [
        f"{lead.replace('#', str(k))}{day},{10 + k},{20 + k},{100 + k},{200 + k}" for k, day in enumerate(DAYS)
    ]


@pytest.mark.parametrize(
    "lines",
    [
        two_levels(["Price,Close,Close,Volume,Volume", "Ticker,AAPL,MSFT,AAPL,MSFT", "Date,,,,"]),
        two_levels([",Close,Close,Volume,Volume", ",AAPL,MSFT,AAPL,MSFT", "Date,,,,"]),
        two_levels(["Ticker,AAPL,MSFT,AAPL,MSFT", "Price,Close,Close,Volume,Volume", "Date,,,,"]),
        two_levels(["Price,Close,Close,Volume,Volume", "Ticker,AAPL,MSFT,AAPL,MSFT", "Datetime,,,,"]),
        two_levels(["Price,Close,,Volume,", "Ticker,AAPL,MSFT,AAPL,MSFT", "Date,,,,"]),
        two_levels(["Date,Close,Close,Volume,Volume", ",AAPL,MSFT,AAPL,MSFT"]),
        two_levels(["Date,AAPL,MSFT,AAPL,MSFT", "Date,Close,Close,Volume,Volume"]),
        two_levels(["Price,Date,Close,Close,Volume,Volume", "Ticker,,AAPL,MSFT,AAPL,MSFT"], lead="#,"),
        two_levels(["Symbols,AAPL,MSFT,AAPL,MSFT", "Attributes,Close,Close,Volume,Volume", "Date,,,,"]),
    ],
)
def test_prices_of_several_tickers_under_two_header_levels_become_items(tmp_path: Path, lines: list[str]) -> None:
    written(tmp_path / "in" / "prices.csv", lines)
    corpus, report = imported(tmp_path)
    assert corpus.columns == ("close", "volume")
    found = items(corpus)
    assert {name: (values[0][0], values[1][0]) for name, values in found.items()} == PRICES
    assert found["MSFT"][0][-1] == 59
    assert (first_stamp(corpus), corpus.manifest.freq) == ("2024-01-01T00:00:00", "D")
    assert Code.HEADER_LEVELS in codes(report.notes)


def test_a_file_of_one_ticker_with_three_header_lines_is_named_by_the_ticker(tmp_path: Path) -> None:
    lines = ["Price,Close,High,Low,Open,Volume", "Ticker,BRK-B,BRK-B,BRK-B,BRK-B,BRK-B", "Date,,,,,"]
    written(tmp_path / "in" / "download.csv", lines + [f"{day},3,4,1,2,{k}" for k, day in enumerate(DAYS)])
    corpus, _ = imported(tmp_path)
    assert corpus.item_id(0) == "BRK-B"
    assert corpus.columns == ("open", "high", "low", "close", "volume")
    assert corpus.values(0)[:, 7].tolist() == [2, 4, 1, 3, 7]


def test_days_on_which_only_the_other_ticker_trades_are_no_rows(tmp_path: Path) -> None:
    stocks = ["SPY", "QQQ", "DIA", "IWM", "VTI"]
    lines = ["Price" + ",Close" * 6, "Ticker,BTC-USD," + ",".join(stocks), "Date,,,,,,"]
    for k, day in enumerate(DAYS):
        prices = [str(50 + k + j) if np.is_busday(np.datetime64(day)) else "" for j in range(5)]
        lines.append(",".join([day, str(100 + k), *prices]))
    written(tmp_path / "in" / "x.csv", lines)
    corpus, _ = imported(tmp_path)
    weekdays = int(np.is_busday(np.array(DAYS, "M8[D]")).sum())
    assert corpus.lengths.tolist() == [40, *[weekdays] * 5]
    assert not np.isnan(corpus.values(1)).any()


def test_errors_below_several_header_lines_name_the_line_of_the_file(tmp_path: Path) -> None:
    lines = ["Price,Close,Close", "Ticker,A,B", "Date,,", "2024-01-01,1,2", "2024-01-02,,oops", "2024-01-03,3,4"]
    path = written(tmp_path / "x.csv", lines)
    with pytest.raises(DataError, match=r"line 5.*'oops'"):
        imported(tmp_path, path)


def test_two_levels_of_other_tables_are_read_where_one_level_is_the_item(tmp_path: Path) -> None:
    body = [f"{day},{k},{k + 1},{k + 2},{k + 3}" for k, day in enumerate(DAYS)]
    written(tmp_path / "in" / "x.csv", ["item_id,a,a,b,b", ",load,temp,load,temp", "date,,,,", *body])
    corpus, _ = imported(tmp_path)
    assert corpus.columns == ("load", "temp")
    assert {name: [v[0] for v in values] for name, values in items(corpus).items()} == {"a": [0, 1], "b": [2, 3]}
    path = written(tmp_path / "y.csv", ["x,north,north,south,south", "y,load,temp,load,temp", "date,,,,", *body])
    with pytest.raises(DataError, match=r"two levels of names .* neither says which one names the items"):
        imported(tmp_path, path)


def test_a_second_line_of_units_is_not_taken_for_tickers(tmp_path: Path) -> None:
    for units in (",USD,USD,shares", ",USD,USD,USD"):
        path = written(tmp_path / "x.csv", ["Date,Open,Close,Volume", units, *(f"{day},1,2,3" for day in DAYS)])
        with pytest.raises(DataError, match=r"line 2, column '\w+': '\w*'"):
            imported(tmp_path, path)


def test_one_price_of_a_ticker_twice_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", ["Price,Close,Close", "Ticker,A,A", "Date,,", "2024-01-01,1,2"])
    with pytest.raises(DataError, match="column 'Close' of 'A' appears twice"):
        imported(tmp_path, path)


# Names of columns


def test_stooq_files_give_the_ticker_as_item(tmp_path: Path) -> None:
    head = "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>"
    rows = [f"WIG20,D,{day.replace('-', '')},000000,2,4,1,3,{k},0" for k, day in enumerate(DAYS)]
    written(tmp_path / "in" / "wig20_d.txt", [head, *rows])
    corpus, report = imported(tmp_path)
    assert corpus.item_id(0) == "WIG20"
    assert corpus.columns == ("open", "high", "low", "close", "volume", "OPENINT")
    assert (first_stamp(corpus), corpus.manifest.freq) == ("2024-01-01T00:00:00", "D")
    assert Code.COLUMNS_LEFT_OUT in codes(report.notes)


def test_metatrader_files_join_date_and_time(tmp_path: Path) -> None:
    head = "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>"
    rows = [f"2024.03.04\t{9 + k // 12:02d}:{5 * (k % 12):02d}:00\t2\t4\t1\t3\t{k}\t7\t1" for k in range(60)]
    written(tmp_path / "in" / "EURUSD_M5.csv", [head, *rows])
    corpus, _ = imported(tmp_path)
    assert corpus.columns == ("open", "high", "low", "close", "volume", "TICKVOL", "SPREAD")
    assert (first_stamp(corpus), corpus.manifest.freq) == ("2024-03-04T09:00:00", "5min")
    assert corpus.values(0)[4, 0] == 7


@pytest.mark.parametrize(
    ("header", "row", "item", "columns"),
    [
        ("日期,股票代码,开盘,收盘,最高,最低,成交量,成交额,振幅,涨跌幅,涨跌额,换手率", "{},600519,2,3,4,1,5,6,7,8,9,10",
         "600519", ("open", "high", "low", "close", "volume", "amount", "振幅", "涨跌幅", "涨跌额", "换手率")),
        ("date,code,open,high,low,close,preclose,volume,amount,adjustflag,turn", "{},sh.600519,2,4,1,3,9,5,6,3,0.5",
         "sh.600519", ("open", "high", "low", "close", "volume", "amount", "preclose", "adjustflag", "turn")),
        ("ts_code,trade_date,open,high,low,close,pre_close,change,pct_chg,vol,amount", "600519.SH,{},2,4,1,3,9,1,1,5,6",
         "600519.SH", ("open", "high", "low", "close", "volume", "amount", "pre_close", "change", "pct_chg")),
        ("时间,开盘价,收盘价,最高价,最低价,成交量", "{},2,3,4,1,5", "x", ("open", "high", "low", "close", "volume")),
    ],
)  # fmt: skip
def test_chinese_vendors_headers_are_known(
    tmp_path: Path, header: str, row: str, item: str, columns: tuple[str, ...]
) -> None:
    written(tmp_path / "in" / "x.csv", [header, *(row.format(day) for day in DAYS)])
    corpus, _ = imported(tmp_path)
    assert (corpus.item_id(0), corpus.columns) == (item, columns)
    assert corpus.values(0)[:5, 0].tolist() == [2, 4, 1, 3, 5]
    assert first_stamp(corpus) == "2024-01-01T00:00:00"


def test_columns_named_twice_matter_only_where_they_are_used(tmp_path: Path) -> None:
    header = "time,open,high,low,close,Plot,Plot,Volume"
    path = written(tmp_path / "x.csv", [header, *(f"{day},2,4,1,3,8,9,{k}" for k, day in enumerate(DAYS))])
    corpus, report = imported(tmp_path, path)
    assert corpus.columns == ("open", "high", "low", "close", "volume")
    assert Code.COLUMNS_LEFT_OUT in codes(report.notes)
    with pytest.raises(DataError, match="column 'Plot' appears twice"):
        imported(tmp_path, path, target=("Plot",))
    twice = written(tmp_path / "y.csv", ["date,x,x,y", *(f"{day},1,2,{k}" for k, day in enumerate(DAYS))])
    with pytest.raises(DataError, match=r"column 'x' appears twice in the header\. Rename one, or choose others"):
        imported(tmp_path, twice)
    corpus, _ = imported(tmp_path, twice, columns=("y",))
    assert corpus.columns == ("y",)
    close = written(tmp_path / "z.csv", ["date,open,close,close", *(f"{day},1,2,3" for day in DAYS)])
    with pytest.raises(DataError, match="column 'close' appears twice"):
        imported(tmp_path, close)


def test_names_given_twice_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", [f"{day},1,2" for day in DAYS])
    with pytest.raises(DataError, match="names: 'x' is given twice"):
        imported(tmp_path, path, header=False, names=("date", "x", "x"))


# Separators


def test_the_separator_that_excel_names_is_used_and_its_line_is_no_header(tmp_path: Path) -> None:
    for k, (first, mark) in enumerate(
        [("sep=;", ";"), ('"sep=;"', ";"), ("SEP=,", ","), ("sep=;;;", ";"), ("sep=^", "^")]
    ):
        lines = [first, mark.join(["date", "x", "y"]), *(mark.join([day, str(j), "5"]) for j, day in enumerate(DAYS))]
        path = written(tmp_path / f"x{k}.csv", lines)
        corpus, _ = imported(tmp_path, path)
        assert corpus.columns == ("x", "y")
        assert corpus.lengths.tolist() == [40]
    path = written(tmp_path / "bad.csv", ["sep=;", "date;x", "2024-01-01;1", "2024-01-02;a", "2024-01-03;1"])
    with pytest.raises(DataError, match="line 4, column 'x': 'a'"):
        imported(tmp_path, path)


@pytest.mark.parametrize(("head", "tail"), [(";;", ";;"), ("", ";"), (";;", ""), (";", ";")])
def test_columns_without_name_and_value_are_dropped(tmp_path: Path, head: str, tail: str) -> None:
    path = written(tmp_path / "x.csv", [f"Date;Umsatz{head}", *(f"{day};{k}{tail}" for k, day in enumerate(DAYS))])
    corpus, report = imported(tmp_path, path)
    assert corpus.columns == ("Umsatz",)
    assert corpus.lengths.tolist() == [40]
    assert (Code.EMPTY_COLUMNS_LEFT_OUT in codes(report.notes)) == bool(tail)


def test_blanks_between_columns_are_read_where_every_line_splits_alike(tmp_path: Path) -> None:
    path = written(tmp_path / "x.txt", ["date    load  temp", *(f"{day}  {k:>4}   1.5" for k, day in enumerate(DAYS))])
    corpus, _ = imported(tmp_path, path)
    assert (corpus.columns, corpus.values(0)[:, 3].tolist()) == (("load", "temp"), [3, 1.5])
    path = written(tmp_path / "y.txt", ["time load", *(f"{day} 10:00 {k}" for k, day in enumerate(DAYS))])
    with pytest.raises(DataError, match="separated by blanks, but line 2 has 3 words and the header 2"):
        imported(tmp_path, path)
    path = written(tmp_path / "z.txt", ["Umsatz netto", "1 234", "2 345", "3 456"])
    with pytest.raises(DataError, match="'1 234' may be one number or 2"):
        imported(tmp_path, path)
    one = written(tmp_path / "one.csv", ["Heart rate", *map(str, range(60, 100))])
    corpus, _ = imported(tmp_path, one)
    assert corpus.columns == ("Heart rate",)


def test_names_with_line_breaks_are_one_line_of_names(tmp_path: Path) -> None:
    lines = ['"da', 'te","load', '(MW)",x', *(f"{day},{k},{k}" for k, day in enumerate(DAYS))]
    written(tmp_path / "in" / "a.csv", ["# from a meter", *lines])
    corpus, _ = imported(tmp_path, timestamp_column="da te")
    assert [column.name for column in corpus.manifest.columns] == ["load (MW)", "x"]
    assert items(corpus)["a"] == [list(range(40))] * 2


def test_single_quotes_around_all_names_are_quotes(tmp_path: Path) -> None:
    written(tmp_path / "in" / "a.csv", ["'date','x'", *(f"'{day}','{k}'" for k, day in enumerate(DAYS))])
    corpus, _ = imported(tmp_path)
    assert first_stamp(corpus) == "2024-01-01T00:00:00"
    assert items(corpus) == {"a": [list(range(40))]}


@pytest.mark.parametrize("values", ["{0},5", "{0},5;{0},25", "{0},5;{0},25;{0},75"])
def test_decimal_commas_without_a_header_are_no_separators(tmp_path: Path, values: str) -> None:
    written(tmp_path / "in" / "a.csv", [f"{day};{values.format(k)}" for k, day in enumerate(DAYS)])
    corpus, _ = imported(tmp_path, header=False)
    assert first_stamp(corpus) == "2024-01-01T00:00:00"
    np.testing.assert_array_equal(corpus.values(0)[0], np.arange(40) + 0.5)


def test_of_two_separators_that_split_alike_the_cells_decide(tmp_path: Path) -> None:
    written(tmp_path / "in" / "a.csv", ["date;a,b,c;x", *(f"{day};u,v,w;{k}" for k, day in enumerate(DAYS))])
    corpus, _ = imported(tmp_path, columns="x")
    assert items(corpus) == {"a": [list(range(40))]}


def test_the_rows_that_r_numbers_without_a_name_are_counted_and_left_out(tmp_path: Path) -> None:
    rows = [f'"{k}","{day}",{k}' for k, day in enumerate(DAYS, 1)]
    written(tmp_path / "in" / "a.csv", ['"date","x"', *rows])
    corpus, report = imported(tmp_path)
    assert items(corpus) == {"a": [list(range(1, 41))]}
    assert codes(report.notes) == {Code.ROW_NUMBERS_LEFT_OUT}
    written(tmp_path / "in" / "a.csv", ["date,x", *(f"{day},1,{k:03d}" for k, day in enumerate(DAYS))])
    with pytest.raises(DataError, match="line 1 has 2 fields, the lines below 3"):
        imported(tmp_path)
