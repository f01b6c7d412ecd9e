"""Stamps of one column: written forms, epoch numbers, patterns that the user gives."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from foretrain.data.importers.cells import BadCell
from foretrain.data.importers.date_formats import check_date_format
from foretrain.data.importers.epochs import are_excel_serials, excel_times
from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.stamps import Stamps, epidemic_weeks, number_stamps, parse_stamps
from foretrain.data.importers.zones import localise
from foretrain.data.windows import NO_TIME
from foretrain.errors import DataError
from foretrain.notes import Code
from foretrain.timeaxis.grid import iso


def parse(*cells: str, **options) -> Stamps:
    return parse_stamps(pa.array(cells, pa.string()), **options)


def texts(stamps: Stamps) -> list[str]:
    return ["" if time == NO_TIME else iso(int(time)) for time in stamps.times]


WRITTEN = [
    (("31-Dec-10", "30-Dec-10"), ["2010-12-31", "2010-12-30"]),
    (("05MAR24", "06MAR24"), ["2024-03-05", "2024-03-06"]),
    (("01/31/24", "02/01/24"), ["2024-01-31", "2024-02-01"]),
    (("31.12.24", "30.12.24"), ["2024-12-31", "2024-12-30"]),
    (("29/01/24", "30/01/24", "01/02/24"), ["2024-01-29", "2024-01-30", "2024-02-01"]),
    (("24-01-30", "24-01-31", "24-02-01"), ["2024-01-30", "2024-01-31", "2024-02-01"]),
    (("Dec-98", "Jan-99"), ["1998-12-01", "1999-01-01"]),
    (("Jan-20", "Feb-20"), ["2020-01-01", "2020-02-01"]),
    (("2017-3-3 13:22:0",), ["2017-03-03 13:22:00"]),
    (("2024-W01", "2024-W02"), ["2024-01-01", "2024-01-08"]),
    (("2020-W53-7",), ["2021-01-03"]),
    (("2020M01", "2020M12"), ["2020-01-01", "2020-12-01"]),
    (("2020Q1", "2020Q4"), ["2020-01-01", "2020-10-01"]),
    (("Q2 2020", "Q3 2020"), ["2020-04-01", "2020-07-01"]),
    (("1Q2020", "2Q2020"), ["2020-01-01", "2020-04-01"]),
    (("01/2024", "12/2024"), ["2024-01-01", "2024-12-01"]),
    (("2024-001", "2024-366"), ["2024-01-01", "2024-12-31"]),
    (("Jan 2020", "Dec 2020"), ["2020-01-01", "2020-12-01"]),
    (("2020-Jan", "2020-Dec"), ["2020-01-01", "2020-12-01"]),
    (("2020 Jan 05",), ["2020-01-05"]),
    (("Wed, 31 Jan 2024 13:05:00",), ["2024-01-31 13:05:00"]),
    (("Wed Jan 31 13:05:00 2024",), ["2024-01-31 13:05:00"]),
    (("1/31/2024 1:05 p.m.",), ["2024-01-31 13:05:00"]),
    (("2024-01-31T00:00:00,123",), ["2024-01-31 00:00:00.123000"]),
    (("2024-01-31 24:00", "2024-02-01 01:00"), ["2024-02-01", "2024-02-01 01:00:00"]),
    (("20240131123000", "20240131124500"), ["2024-01-31 12:30:00", "2024-01-31 12:45:00"]),
    (("2024013112", "2024013113"), ["2024-01-31 12:00:00", "2024-01-31 13:00:00"]),
    (("20240131-13:05:00",), ["2024-01-31 13:05:00"]),
    (("2024年1月31日", "2024年12月1日"), ["2024-01-31", "2024-12-01"]),
    (("2024年1月", "2024年12月"), ["2024-01-01", "2024-12-01"]),
    (("2024年01月31日 13时05分", "2024年02月01日 13时05分"), ["2024-01-31 13:05:00", "2024-02-01 13:05:00"]),
    (("2024/01/31(水)", "2024/02/01(木)"), ["2024-01-31", "2024-02-01"]),
    (("2024년 1월 31일",), ["2024-01-31"]),
    (("2024. 1. 31.", "2024. 12. 1."), ["2024-01-31", "2024-12-01"]),
    (("31. 1. 2024", "1. 12. 2024"), ["2024-01-31", "2024-12-01"]),
    (("15 janv. 2024", "1 août 2024", "2 juin 2024", "3 juillet 2024"),
     ["2024-01-15", "2024-08-01", "2024-06-02", "2024-07-03"]),
    (("3. März 2024", "4. Dezember 2024"), ["2024-03-03", "2024-12-04"]),
    (("1600-01-01", "2300-12-31"), ["1600-01-01", "2300-12-31"]),
    (("1600-1-1 0:30", "2300-1-1 0:30"), ["1600-01-01 00:30:00", "2300-01-01 00:30:00"]),
]  # fmt: skip


@pytest.mark.parametrize(("cells", "expected"), WRITTEN, ids=lambda value: value[0])
def test_a_written_form_is_read(cells: tuple[str, ...], expected: list[str]) -> None:
    assert texts(parse(*cells)) == expected


@pytest.mark.parametrize(("cells", "expected"), WRITTEN, ids=lambda value: value[0])
def test_blank_cells_have_no_stamp_in_any_form(cells: tuple[str, ...], expected: list[str]) -> None:
    assert texts(parse("", *cells, "NA")) == ["", *expected, ""]


@pytest.mark.parametrize(
    ("cell", "utc"),
    [
        ("2024-01-31 10:00 UTC", "2024-01-31 10:00:00"),
        ("2024-01-31 10:00 GMT", "2024-01-31 10:00:00"),
        ("2024-01-31 10:00 UTC+8", "2024-01-31 02:00:00"),
        ("31.01.2024 10:00:00.000 GMT+0100", "2024-01-31 09:00:00"),
        ("2024-01-31 10:00:00+00", "2024-01-31 10:00:00"),
        ("2024-01-31T10:00-05:00[America/New_York]", "2024-01-31 15:00:00"),
        ("31/Jan/2024:10:00:00 +0100", "2024-01-31 09:00:00"),
    ],
)
def test_offsets_become_utc(cell: str, utc: str) -> None:
    stamps = parse(cell)
    assert (texts(stamps), stamps.clock) == ([utc], "utc")


@pytest.mark.parametrize(
    "cell",
    [
        "2024-01-31 10:00 - 2024-01-31 11:00",
        "31.01.2024 10:00 \u2013 31.01.2024 11:00",
        "2024-01-31 10:00 to 2024-01-31 11:00",
    ],
)
def test_an_interval_is_its_first_stamp_with_a_note(cell: str) -> None:
    stamps = parse(cell, "")
    assert (texts(stamps), [note.code for note in stamps.notes]) == (
        ["2024-01-31 10:00:00", ""], [Code.TIME_OF_INTERVALS],
    )  # fmt: skip


@pytest.mark.parametrize("cell", ["2024-01-31 10:00 EST", "01/31/2024 10:00 AM EDT", "2024-01-31 10:00:00 CST"])
def test_a_zone_name_is_refused_with_the_way_out(cell: str) -> None:
    with pytest.raises(BadCell, match=r"zone name .* not unique; .*--timezone"):
        parse(cell)


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        (("12/31/49",), "of either century"),
        (("1.70407E+12",), "rounded number"),
        (("hello",), "--date-format"),
        (("sector 10", "sector 11"), "not a time stamp"),
        (("Marketing 2020",), "not a time stamp"),
        (("2 jui 2020",), "not a time stamp"),
        (("2024-31-01",), "not a date that exists; --date-format"),
        (("2024-W53",), "not a date that exists"),
        (("2023-366",), "not a date that exists"),
        (("2024-01-31", "bad"), "like the first one"),
        (("2024-01-31 12:00+01:00", "2024-02-01 12:00+99:99"), "an offset from UTC that no clock has"),
        (("2024-01-31 12:00-16:30",), "an offset from UTC that no clock has"),
        (("2024-01-31 12:00+01:75",), "an offset from UTC that no clock has"),
    ],
)
def test_a_cell_that_is_no_stamp_says_why(cells: tuple[str, ...], why: str) -> None:
    with pytest.raises(BadCell, match=why):
        parse(*cells)


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        (("1/7/20", "2/7/20"), "--dayfirst or --monthfirst"),
        (("31/12/24",), "begin with the year or end with it; --date-format"),
        (("24-01-31", "24-02-01"), "begin with the year or end with it"),
        (("Jan-20", "Jan-21"), "a day or a year; --date-format"),
        (("2009-10", "2010-11"), "months, or years from one to the next"),
    ],
)
def test_dates_that_have_two_readings_are_refused(cells: tuple[str, ...], why: str) -> None:
    with pytest.raises(DataError, match=why):
        parse(*cells)


def test_dayfirst_decides_where_no_row_does() -> None:
    assert texts(parse("1/7/20", "2/7/20", dayfirst=True)) == ["2020-07-01", "2020-07-02"]
    assert texts(parse("1/7/20", "2/7/20", dayfirst=False)) == ["2020-01-07", "2020-02-07"]


DATES = (
    *("%Y-%m-%d", "%Y.%m.%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%m-%d-%Y", "%d-%b-%Y", "%Y%m%d", "%Y年%m月%d日"),
    *(
        "%d.%m.%y",
        "%d/%m/%y",
        "%m/%d/%y",
        "%y-%m-%d",
        "%y/%m/%d",
        "%y.%m.%d",
        "%d-%b-%y",
        "%d%b%Y",
        "%Y-%j",
        "%Y-%b-%d",
    ),
)
CLOCKS = ("", " %H:%M", "T%H:%M:%S", " %I:%M %p", " %H:%M:%S.%f")


@pytest.mark.parametrize("form", DATES)
def test_a_column_in_any_form_is_read_right_or_refused(form: str) -> None:
    rng = np.random.default_rng(len(form))
    read = 0
    for freq in 6 * ("D", "W-MON", "MS", "ME", "B", "YS", "QE", "36h", "15min"):
        start = pd.Timestamp("1972-01-01") + pd.Timedelta(days=int(rng.integers(20_000)))
        index = pd.date_range(start, periods=int(rng.integers(1, 40)), freq=freq)[:: int(rng.choice([1, -1]))]
        clock = str(rng.choice(CLOCKS[1:] if freq in ("36h", "15min") else CLOCKS))
        try:
            found = parse(*(t.strftime(form + clock) for t in index))
        except (BadCell, DataError):
            continue
        read += 1
        assert found.times.tolist() == index.to_numpy().astype("M8[us]").astype(np.int64).tolist(), index
    assert read >= 5


# epoch numbers

SECONDS = [1_704_067_200, 1_704_067_260]  # 2024-01-01 00:00 and 00:01


@pytest.mark.parametrize("digits", [0, 3, 6, 9])
def test_the_unit_of_epoch_numbers_is_the_one_that_fits_the_column(digits: int) -> None:
    numbers = [second * 10**digits for second in SECONDS]
    expected = ["2024-01-01", "2024-01-01 00:01:00"]
    assert texts(parse(*map(str, numbers))) == expected
    found = number_stamps(np.array(numbers))
    assert found is not None and texts(found) == expected
    assert (found.clock, found.notes) == ("utc", ())


@pytest.mark.parametrize("order", [1, -1])
def test_a_switch_of_units_within_a_column_is_read_by_magnitude_with_a_note(order: int) -> None:
    cells = [str((SECONDS[0] + 60 * k) * (1_000 if k < 3 else 1_000_000)) for k in range(5)][::order]
    stamps = parse(*cells)
    assert np.diff(stamps.times).tolist() == [order * 60_000_000] * 4
    assert [(note.code, dict(note.counts)) for note in stamps.notes] == [(Code.EPOCH_UNITS, {"ms": 3, "us": 2})]


def test_fractions_of_seconds_are_exact() -> None:
    assert texts(parse("1704067200.5", "1704067200.000001", "1704067201")) == [
        "2024-01-01 00:00:00.500000", "2024-01-01 00:00:00.000001", "2024-01-01 00:00:01",
    ]  # fmt: skip
    assert texts(parse("1704067200000.25")) == ["2024-01-01 00:00:00.000250"]
    assert texts(parse("-157766400.25", "315532800")) == ["1964-12-31 23:59:59.750000", "1980-01-01"]
    found = number_stamps(np.array([1704067200.5, np.nan]))
    assert found is not None and texts(found) == ["2024-01-01 00:00:00.500000", ""]


def test_a_history_may_pass_through_1970() -> None:
    years = np.arange("1962", "1990", dtype="M8[Y]").astype("M8[s]").astype(np.int64)
    assert texts(parse(*map(str, years))) == [f"{year}-01-01" for year in range(1962, 1990)]


@pytest.mark.parametrize(
    ("cells", "shown"),
    [
        (("1704067200", "0"), "0"),  # a zero for "missing"
        (("99999999999", "1704067200"), "99999999999"),  # between the units
        (("1704067200", "9999999999"), "9999999999"),  # the year 2286
        (("123456789012345678", "12345678901"), "12345678901"),
    ],
)
def test_numbers_that_no_unit_explains_are_refused_by_name(cells: tuple[str, ...], shown: str) -> None:
    with pytest.raises(BadCell, match="no time between the years 1900 and 2200") as found:
        parse(*cells)
    assert found.value.text == shown


def test_time_unit_reads_numbers_whose_size_says_nothing() -> None:
    assert texts(parse("0", "60", time_unit="s")) == ["1970-01-01", "1970-01-01 00:01:00"]
    with pytest.raises(BadCell, match="no time in s between the years 1900 and 2200"):
        parse("1704067200000", time_unit="s")
    with pytest.raises(BadCell, match="no epoch number"):
        parse("2024-01-31", time_unit="s")


@pytest.mark.parametrize("values", [[1, 2, 3], [100.5, 200.0], [45292, 45293]])
def test_small_numbers_are_no_epochs(values: list[float]) -> None:
    assert number_stamps(np.array(values)) is None


def test_numbers_that_are_no_times_give_none_or_an_error_if_strict() -> None:
    numbers = np.array([99_999_999_999, 99_999_999_998])
    assert number_stamps(numbers) is None
    with pytest.raises(BadCell):
        number_stamps(numbers, strict=True)


def test_missing_numbers_have_no_stamp() -> None:
    found = number_stamps(np.array([SECONDS[0], 0]), np.array([True, False]))
    assert found is not None and texts(found) == ["2024-01-01", ""]


def test_excel_serials_are_days_since_1899_12_30() -> None:
    numbers = np.array([45292.0, 45292 + 1 / 24, np.nan, 25569.5])
    assert are_excel_serials(numbers) and not are_excel_serials(np.array([45292, 1704067200.0]))
    assert [iso(int(t)) for t in excel_times(numbers)[[0, 1, 3]]] == [
        "2024-01-01", "2024-01-01 01:00:00", "1970-01-01 12:00:00",
    ]  # fmt: skip
    assert excel_times(numbers)[2] == NO_TIME


# patterns that the user gives


@pytest.mark.parametrize(
    ("cell", "pattern", "expected"),
    [
        ("31|12|24", "%d|%m|%y", "2024-12-31"),
        ("12/31/49", "%m/%d/%y", "2049-12-31"),
        ("2024-05", "%Y-%W", "2024-01-29"),
        ("2024-W05", "%G-W%V", "2024-01-29"),
        ("2024-05", "%Y-%U", "2024-02-04"),
        ("1.2.2024 1:05 PM EST", "%d.%m.%Y %I:%M %p EST", "2024-02-01 13:05:00"),
        ("1600-12-31", "%Y-%m-%d", "1600-12-31"),
    ],
)
def test_date_format_reads_what_it_describes(cell: str, pattern: str, expected: str) -> None:
    stamps = parse(cell, "", date_format=pattern)
    assert texts(stamps) == [expected, ""]


def test_date_format_with_an_offset_gives_utc() -> None:
    stamps = parse("2024-01-01 10:00 +0200", "2024-07-01 10:00 +0300", date_format="%Y-%m-%d %H:%M %z")
    assert (texts(stamps), stamps.clock, stamps.offsets) == (
        ["2024-01-01 08:00:00", "2024-07-01 07:00:00"], "utc", (120, 180),
    )  # fmt: skip


def test_date_format_refuses_other_cells_by_row() -> None:
    with pytest.raises(BadCell, match="not in the form of --date-format '%d/%m/%y'") as found:
        parse("01/02/24", "", "2024-02-02", date_format="%d/%m/%y")
    assert (found.value.row, found.value.text) == (2, "2024-02-02")


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("%H:%M", "has no year"),
        ("%d/%m", "has no year"),
        ("%Y-%m-%d %Z", "--timezone"),
        ("%Y-%m-%d %H:%M %p", "%I .* and %p"),
        ("%Y-%m-%d %I:%M", "%I .* and %p"),
        ("%Y-%m-%d %Q", "cannot be read"),
        ("%Y-%m-%d %Y", "names a part of the time twice"),
        ("dd/mm/yyyy", "has no year"),
    ],
)
def test_a_date_format_that_python_would_misread_is_refused(pattern: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        check_date_format(pattern)
    with pytest.raises(DataError, match=why):
        ImportOptions(date_format=pattern)


def test_options_of_time_are_checked() -> None:
    with pytest.raises(DataError, match="time_unit 'min': choose s, ms, us, ns"):
        ImportOptions.of(time_unit="min")
    with pytest.raises(DataError, match="leave dayfirst out"):
        ImportOptions(date_format="%d/%m/%y", dayfirst=True)
    with pytest.raises(DataError, match="leave time_unit out"):
        ImportOptions(date_format="%d/%m/%y", time_unit="s")


# calendars


def test_epidemic_weeks_begin_on_sundays() -> None:
    days, exists = epidemic_weeks(np.array([2014, 2014, 2015, 2015]), np.array([1, 53, 1, 53]))
    assert [str(day) for day in days.astype("M8[D]")] == ["2013-12-29", "2014-12-28", "2015-01-04", "2016-01-03"]
    assert exists.tolist() == [True, True, True, False]


@pytest.mark.parametrize("year", [1600, 2400])
def test_zones_hold_for_years_that_nanoseconds_cannot_say(year: int) -> None:
    stamps = localise(parse(f"{year}-07-01 12:00", f"{year}-07-01 13:00"), "Europe/Berlin")
    assert stamps.clock == "utc"
    assert np.diff(stamps.times).tolist() == [3_600_000_000]
