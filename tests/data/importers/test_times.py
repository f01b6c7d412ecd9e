"""Times of a table: by name, of several columns, by the cells alone; what is no time; what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from foretrain.data.importers import import_corpus
from foretrain.data.importers.report import ImportReport
from foretrain.data.store import Corpus
from foretrain.errors import DataError
from foretrain.notes import Code
from foretrain.timeaxis.grid import iso

DAYS = pd.date_range("2024-01-01", periods=40)
HOURS = pd.date_range("2010-01-01", periods=24 * 40, freq="h")


def csv(path: Path, header: str, rows: Iterable[Sequence[Any]], separator: str = ",") -> Path:
    path.write_text("\n".join([header, *(separator.join(map(str, row)) for row in rows)]) + "\n")
    return path


class Imported:
    """A corpus made from one file, and the report about it."""

    def __init__(self, path: Path, **options: Any) -> None:
        out = path.with_name(path.stem + "-corpus")
        self.report: ImportReport = import_corpus([path], out, **options)
        self.corpus = Corpus.open(out)

    @property
    def axis(self) -> tuple[str, str | None, int]:
        return self.corpus.manifest.time, self.corpus.manifest.freq, self.corpus.num_rows

    @property
    def ends(self) -> tuple[str, str]:
        times = self.corpus.times(0)
        assert times is not None
        return iso(int(times[0])), iso(int(times[-1]))

    @property
    def columns(self) -> tuple[str, ...]:
        return self.corpus.columns

    @property
    def codes(self) -> list[str]:
        return [note.code for note in self.report.notes]


# several columns


def test_year_month_day_and_hour_are_one_stamp(tmp_path: Path) -> None:
    rows = [(k + 1, t.year, t.month, t.day, t.hour, k % 37) for k, t in enumerate(HOURS)]
    found = Imported(csv(tmp_path / "air.csv", "No,year,month,day,hour,pm2.5", rows))
    assert found.axis == ("regular", "h", 960)
    assert found.ends == ("2010-01-01", "2010-02-09 23:00:00")
    assert found.columns == ("No", "pm2.5")
    assert found.codes == [Code.TIME_OF_SEVERAL_COLUMNS]


def test_parts_may_be_called_in_other_languages_and_be_text(tmp_path: Path) -> None:
    rows = [(t.year, f"{t.month:02d}", t.day, f"{t:%H:%M}", k) for k, t in enumerate(HOURS)]
    found = Imported(csv(tmp_path / "luft.csv", "Jahr,Monat,Tag,Uhrzeit,y", rows))
    assert (found.axis, found.columns) == (("regular", "h", 960), ("y",))


MONTHS = pd.date_range("2000-01-01", periods=39, freq="MS")


@pytest.mark.parametrize(
    ("header", "cells", "freq"),
    [
        ("year,month", lambda t: (t.year, t.month), "MS"),
        ("Year,Month", lambda t: (t.year, t.strftime("%b")), "MS"),
        ("Year,Month", lambda t: (t.year, t.strftime("%B")), "MS"),
        ("year,period", lambda t: (t.year, f"M{t.month:02d}"), "MS"),
        ("année,mois", lambda t: (float(t.year), float(t.month)), "MS"),
    ],
)
def test_year_and_month_are_the_first_of_the_month(tmp_path: Path, header: str, cells: Any, freq: str) -> None:
    found = Imported(csv(tmp_path / "x.csv", header + ",y", [(*cells(t), k) for k, t in enumerate(MONTHS)]))
    assert (found.axis, found.ends) == (("regular", freq, 39), ("2000-01-01", "2003-03-01"))


@pytest.mark.parametrize("mark", ["", "Q"])
def test_year_and_quarter_are_the_first_day_of_the_quarter(tmp_path: Path, mark: str) -> None:
    rows = [(2000 + k // 4, f"{mark}{k % 4 + 1}", k) for k in range(39)]
    found = Imported(csv(tmp_path / "x.csv", "Year,Quarter,y", rows))
    assert (found.axis, found.ends) == (("regular", "QS", 39), ("2000-01-01", "2009-07-01"))


def test_year_and_day_of_year_are_a_date(tmp_path: Path) -> None:
    days = pd.date_range("2019-12-01", periods=500)
    found = Imported(csv(tmp_path / "x.csv", "year,doy,y", [(t.year, t.day_of_year, k) for k, t in enumerate(days)]))
    assert (found.axis, found.ends) == (("regular", "D", 500), ("2019-12-01", "2021-04-13"))


def mmwr(sunday: pd.Timestamp) -> tuple[int, int]:
    middle = sunday + pd.Timedelta(days=3)
    fourth = pd.Timestamp(middle.year, 1, 4)
    first = fourth - pd.Timedelta(days=(fourth.weekday() + 1) % 7)
    return middle.year, (sunday - first).days // 7 + 1


def test_year_and_week_are_weeks_of_the_calendar_in_which_all_exist(tmp_path: Path) -> None:
    sundays = pd.date_range("2013-12-29", periods=110, freq="W-SUN")
    found = Imported(
        csv(tmp_path / "ili.csv", "REGION,YEAR,WEEK,y", [("X", *mmwr(t), k) for k, t in enumerate(sundays)])
    )
    assert (found.axis, found.ends) == (("regular", "W-SUN", 110), ("2013-12-29", "2016-01-31"))
    mondays = [t + pd.Timedelta(days=1) for t in sundays]
    rows = [(*t.isocalendar()[:2], k) for k, t in enumerate(mondays)]
    found = Imported(csv(tmp_path / "iso.csv", "year,week,y", rows))
    assert (found.axis, found.ends) == (("regular", "W-MON", 110), ("2013-12-30", "2016-02-01"))


def test_parts_that_are_no_date_are_refused_by_line(tmp_path: Path) -> None:
    path = csv(tmp_path / "x.csv", "year,month,day,y", [(2023, 2, 28, 1), (2023, 2, 29, 2)])
    with pytest.raises(DataError, match=r"line 3, column 'year \+ month \+ day': '2023-2-29' is not a date"):
        import_corpus([path], tmp_path / "out")


def test_parts_beside_a_whole_stamp_stay_values(tmp_path: Path) -> None:
    rows = [(t, t.month, t.hour, k) for k, t in enumerate(HOURS)]
    found = Imported(csv(tmp_path / "bikes.csv", "date_time,month,hour,y", rows))
    assert (found.axis, found.columns) == (("regular", "h", 960), ("month", "hour", "y"))


@pytest.mark.parametrize(("first", "ends"), [(0, ("2010-01-01", "2010-02-09 23:00:00")),
                                             (1, ("2010-01-01 01:00:00", "2010-02-10"))])  # fmt: skip
def test_a_date_that_repeats_takes_its_hours_as_they_are_stated(tmp_path: Path, first: int, ends: Any) -> None:
    rows = [(t.date(), t.hour + first, k) for k, t in enumerate(HOURS)]
    found = Imported(csv(tmp_path / "x.csv", "date,hour,y", rows))
    assert (found.axis, found.ends, found.columns) == (("regular", "h", 960), ends, ("y",))
    assert found.codes == [Code.TIME_OF_SEVERAL_COLUMNS]


@pytest.mark.parametrize(
    ("header", "clock"),
    [("OPR_DT,OPR_HR", lambda t: t.hour), ("OperDay,HourEnding", lambda t: f"{t.hour:02d}:00"),
     ("Delivery Date,HE", lambda t: t.hour)],
)  # fmt: skip
def test_vendors_names_of_days_and_hours_are_found_by_their_cells(tmp_path: Path, header: str, clock: Any) -> None:
    rows = [(t.strftime("%m/%d/%Y"), clock(t), k) for k, t in enumerate(HOURS)]
    found = Imported(csv(tmp_path / "x.csv", header + ",MW", rows))
    assert (found.axis, found.ends, found.columns) == (
        ("regular", "h", 960), ("2010-01-01", "2010-02-09 23:00:00"), ("MW",),
    )  # fmt: skip


def test_hours_named_as_values_stay_values(tmp_path: Path) -> None:
    path = csv(tmp_path / "x.csv", "date,hour,y", [(t.date(), k % 24, k) for k, t in enumerate(DAYS)])
    assert Imported(path).columns == ("hour", "y")  # the dates do not repeat


def test_hours_outside_the_day_are_refused_beside_dates_that_repeat(tmp_path: Path) -> None:
    path = csv(tmp_path / "x.csv", "date,hour,y", [(t.date(), t.hour + 2, k) for k, t in enumerate(HOURS)])
    with pytest.raises(DataError, match=r"column 'date': 920 rows repeat .* column 'hour' tells them apart"):
        import_corpus([path], tmp_path / "out")


def test_a_slot_of_the_day_is_refused_by_name(tmp_path: Path) -> None:
    path = csv(tmp_path / "x.csv", "date,period,y", [(t.date(), t.hour + 1, k) for k, t in enumerate(HOURS)])
    with pytest.raises(DataError, match=r"and column 'period' tells them apart. Write both into one column"):
        import_corpus([path], tmp_path / "out")


@pytest.mark.parametrize("clock", ["%H:%M", "%H:%M:%S", "%H%M%S", "%I:%M %p"])
@pytest.mark.parametrize(("header", "day"), [("<DATE>,<TIME>", "%Y.%m.%d"), ("Datum,Uhrzeit", "%d.%m.%Y"),
                                             ("日期,时间", "%Y/%m/%d"), ("date,time", "%Y%m%d")])  # fmt: skip
def test_a_date_and_a_time_of_day_are_joined(tmp_path: Path, header: str, day: str, clock: str) -> None:
    rows = [(t.strftime(day), t.strftime(clock), k) for k, t in enumerate(HOURS)]
    found = Imported(csv(tmp_path / "x.csv", header + ",y", rows))
    assert (found.axis, found.ends, found.columns) == (
        ("regular", "h", 960), ("2010-01-01", "2010-02-09 23:00:00"), ("y",),
    )  # fmt: skip


def test_a_time_of_day_in_parquet_is_joined_too(tmp_path: Path) -> None:
    frame = pd.DataFrame({"date": HOURS.date, "time": HOURS.time, "y": np.arange(960.0)})
    frame.to_parquet(tmp_path / "x.parquet")
    found = Imported(tmp_path / "x.parquet")
    assert (found.axis, found.columns) == (("regular", "h", 960), ("y",))


def test_times_of_day_without_dates_are_refused(tmp_path: Path) -> None:
    path = csv(tmp_path / "x.csv", "time,y", [(t.strftime("%H:%M"), k) for k, t in enumerate(HOURS[:24])])
    with pytest.raises(DataError, match="column 'time' holds times of day, but no column holds their dates"):
        import_corpus([path], tmp_path / "out")


def test_headers_in_angle_brackets_have_their_usual_roles(tmp_path: Path) -> None:
    rows = [(f"{t:%Y.%m.%d}", f"{t:%H:%M:%S}", 1, 2, 0.5, 1.5, k + 1) for k, t in enumerate(HOURS[:60])]
    header = "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<VOL>"
    found = Imported(csv(tmp_path / "EURUSD.csv", header, rows, "\t"))
    assert found.columns == ("open", "high", "low", "close", "volume")
    assert found.axis == ("regular", "h", 60)


# years and other coarse names


@pytest.mark.parametrize("name", ["year", "Jahr", "年"])
def test_years_that_do_not_repeat_are_the_time(tmp_path: Path, name: str) -> None:
    years = np.arange(1950, 1990)
    assert Imported(csv(tmp_path / "x.csv", f"{name},y", zip(years, years, strict=True))).axis == ("regular", "YS", 40)
    pd.DataFrame({name: years, "y": years * 1.5}).to_parquet(tmp_path / "p.parquet")
    assert Imported(tmp_path / "p.parquet").axis == ("regular", "YS", 40)


def test_years_that_repeat_are_no_time(tmp_path: Path) -> None:
    path = csv(tmp_path / "x.csv", "year,y", [(2000 + k // 12, k * 1.5) for k in range(36)])
    found = Imported(path)
    assert (found.axis, found.columns) == (("steps", None, 36), ("year", "y"))
    assert found.codes == [Code.TIME_REPEATS]


@pytest.mark.parametrize("cells", ["200001", "2000001"])
def test_months_and_days_of_the_year_without_separators_are_dates(tmp_path: Path, cells: str) -> None:
    form = "%Y%m" if len(cells) == 6 else "%Y%j"
    stamps = MONTHS if len(cells) == 6 else DAYS
    found = Imported(csv(tmp_path / "x.csv", "date,y", [(t.strftime(form), k) for k, t in enumerate(stamps)]))
    assert found.axis[1] == ("MS" if len(cells) == 6 else "D")


def test_a_column_called_like_a_time_whose_cells_are_none_is_told(tmp_path: Path) -> None:
    rows = [(f"{1 + k // 12}-{1 + k % 12:02d}", k) for k in range(36)]
    found = Imported(csv(tmp_path / "x.csv", "Month,Sales", rows))
    assert found.axis[0] == "steps"
    assert Code.TIME_NOT_READ in found.codes


@pytest.mark.parametrize(("form", "freq"), [("%Y", "YS"), ("%Y-%m", "YS"), ("%Y-Q1", "YS")])
def test_the_time_of_statistical_offices_is_read(tmp_path: Path, form: str, freq: str) -> None:
    years = pd.date_range("1990-01-01", periods=30, freq="YS")
    rows = [(t.strftime(form), k) for k, t in enumerate(years)]
    assert Imported(csv(tmp_path / "x.csv", "TIME_PERIOD,OBS_VALUE", rows)).axis == ("regular", freq, 30)


# numbers


def test_a_second_column_of_epochs_is_no_value(tmp_path: Path) -> None:
    first = 1_704_067_200_000
    rows = [(first + 60_000 * k, 1, 2, 0.5, 1.5, 9, first + 60_000 * k + 59_999) for k in range(40)]
    found = Imported(csv(tmp_path / "x.csv", "open_time,open,high,low,close,volume,close_time", rows))
    assert found.columns == ("open", "high", "low", "close", "volume")
    assert found.codes == [Code.DATES_LEFT_OUT]


def test_epoch_numbers_that_change_their_unit_come_out_right(tmp_path: Path) -> None:
    first = int(pd.Timestamp("2024-12-31 23:40").timestamp()) * 1000
    rows = [((first + k * 60_000) * (1000 if k >= 20 else 1), 1, 2, 0.5, 1.5, 9) for k in range(40)]
    found = Imported(csv(tmp_path / "BTCUSDT.csv", "open_time,open,high,low,close,volume", rows))
    assert (found.axis, found.ends) == (("regular", "min", 40), ("2024-12-31 23:40:00", "2025-01-01 00:19:00"))
    assert [(n.code, dict(n.counts)) for n in found.report.notes] == [(Code.EPOCH_UNITS, {"ms": 20, "us": 20})]
    assert "column 'open_time'" in found.report.notes[0].text


def test_epochs_under_the_name_of_steps_are_stamps(tmp_path: Path) -> None:
    rows = [(1_704_067_200_000 + 60_000 * k, 1, 2, 0.5, 1.5, 9) for k in range(40)]
    assert Imported(csv(tmp_path / "x.csv", "t,o,h,l,c,v", rows)).axis == ("regular", "min", 40)


def test_missing_epochs_are_no_stamps_of_1970(tmp_path: Path) -> None:
    stamps = pd.array([1_704_067_200 + 60 * k if k != 5 else None for k in range(400)], "Int64")
    pd.DataFrame({"ts": stamps, "y": np.arange(400.0)}).to_parquet(tmp_path / "x.parquet")
    found = Imported(tmp_path / "x.parquet")
    assert found.ends[0] == "2024-01-01"
    assert found.report.rules["missing_timestamp"]["rows"] == 1


def test_numbers_too_coarse_for_times_are_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"ts": (1_704_067_200 + 60 * np.arange(40)).astype(np.float32), "y": np.arange(40.0)})
    frame.to_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="column 'ts': numbers of type float are too coarse for times"):
        import_corpus([tmp_path / "x.parquet"], tmp_path / "out")


def test_time_unit_and_date_format_settle_what_cells_do_not_say(tmp_path: Path) -> None:
    path = csv(tmp_path / "x.csv", "time,y", [(60 * k, k) for k in range(40)])
    assert Imported(path, time_unit="s").axis == ("regular", "min", 40)
    path = csv(tmp_path / "y.csv", "date,y", [(t.strftime("%d|%m|%y"), k) for k, t in enumerate(DAYS)])
    with pytest.raises(DataError, match=r"line 2, column 'date': '01\|01\|24' is not .*--date-format"):
        import_corpus([path], tmp_path / "never")
    assert Imported(path, date_format="%d|%m|%y").ends == ("2024-01-01", "2024-02-09")


@pytest.mark.parametrize("name", ["ds", "time", "date", "t", "timestamp"])
@pytest.mark.parametrize("order", [1, -1])
def test_whole_numbers_under_the_name_of_a_time_are_steps(tmp_path: Path, name: str, order: int) -> None:
    rows = [("A", k, 10.0 * k) for k in range(1, 41)][::order]
    found = Imported(csv(tmp_path / "x.csv", f"unique_id,{name},y", rows))
    assert (found.axis, found.columns) == (("steps", None, 40), ("y",))
    assert np.asarray(found.corpus.values(0))[0].tolist() == [10.0 * k for k in range(1, 41)]


@pytest.mark.parametrize("name", ["Date", "Datum", "day"])
def test_excel_serials_are_dates_under_the_name_of_a_date(tmp_path: Path, name: str) -> None:
    found = Imported(csv(tmp_path / "x.csv", f"{name},Value", [(45292 + k, k) for k in range(40)]))
    assert (found.axis, found.ends) == (("regular", "D", 40), ("2024-01-01", "2024-02-09"))
    assert found.codes == [Code.EXCEL_SERIALS]
    found = Imported(csv(tmp_path / "h.csv", f"{name},Value", [(round(45292 + k / 24, 9), k) for k in range(40)]))
    assert (found.axis, found.ends[1]) == (("regular", "h", 40), "2024-01-02 15:00:00")


@pytest.mark.parametrize(("name", "first"), [("price", 45292), ("ds", 45292), ("date", 70_000)])
def test_other_numbers_are_no_excel_serials(tmp_path: Path, name: str, first: int) -> None:
    found = Imported(csv(tmp_path / "x.csv", f"{name},Value", [(first + k, k) for k in range(40)]))
    assert (found.axis[0], found.codes) == ("steps", [])


# by the cells alone


@pytest.mark.parametrize(
    ("name", "form"),
    [("week_ending", "%m/%d/%Y"), ("LastUpdated", "%Y-%m-%d"), ("data", "%d/%m/%Y"), ("Stichtag", "%d.%m.%Y"),
     ("TradingDay", "%Y%m%d"), ("when", "%d-%b-%y")],
)  # fmt: skip
@pytest.mark.parametrize("order", [1, -1])
def test_the_only_dates_of_a_table_are_its_time_under_any_name(
    tmp_path: Path, name: str, form: str, order: int
) -> None:
    rows = [(k, t.strftime(form)) for k, t in enumerate(DAYS)][::order]
    found = Imported(csv(tmp_path / "x.csv", f"y,{name}", rows))
    assert (found.axis, found.ends, found.columns) == (("regular", "D", 40), ("2024-01-01", "2024-02-09"), ("y",))
    assert Code.TIME_BY_ITS_CELLS in found.codes


@pytest.mark.parametrize("name", ["日期", "交易日期", "Datum", "Fecha", "tarih", "Date/heure"])
def test_names_of_other_languages_say_that_a_column_is_the_time(tmp_path: Path, name: str) -> None:
    rows = [(t.date(), t.date() + pd.Timedelta(days=3), k) for k, t in enumerate(DAYS)]
    found = Imported(csv(tmp_path / "x.csv", f"{name},updated,y", rows))
    assert (found.axis, found.ends[0]) == (("regular", "D", 40), "2024-01-01")
    assert found.codes == [Code.DATES_LEFT_OUT]


def test_of_several_dates_none_is_guessed(tmp_path: Path) -> None:
    rows = [(t.date(), t.date() + pd.Timedelta(days=k % 2), k) for k, t in enumerate(DAYS[::7])]
    path = csv(tmp_path / "x.csv", "week_ending,LastUpdated,y", rows)
    with pytest.raises(DataError, match=r"'week_ending' and 'LastUpdated' both hold dates; .*--timestamp-column"):
        import_corpus([path], tmp_path / "out")
    assert Imported(path, timestamp_column="week_ending").axis[1] == "W-MON"


@pytest.mark.parametrize("dates", [lambda k: f"2024-{1 + k // 10:02d}-15", lambda k: "1980-05-01"])
def test_an_expiry_or_a_birthday_is_no_time(tmp_path: Path, dates: Any) -> None:
    found = Imported(csv(tmp_path / "x.csv", "expiry,y", [(dates(k), k * 1.5) for k in range(40)]))
    assert (found.axis[0], found.columns, found.codes) == ("steps", ("y",), [Code.DATES_LEFT_OUT])


def test_a_date_written_twice_leaves_a_column_the_time(tmp_path: Path) -> None:
    rows = [(t.date(), k) for k, t in enumerate(DAYS)]
    assert Imported(csv(tmp_path / "x.csv", "stichtag,y", [*rows, rows[-1]])).axis == ("regular", "D", 40)


def test_dates_that_another_column_tells_apart_are_the_time_of_several_items(tmp_path: Path) -> None:
    rows = [(t.date(), shop, k) for shop in "AB" for k, t in enumerate(DAYS)]
    found = Imported(csv(tmp_path / "x.csv", "stichtag,shop,y", rows))
    assert (found.axis, found.corpus.num_series) == (("regular", "D", 80), 2)
    path = csv(tmp_path / "z.csv", "stichtag,laden,y", rows)
    with pytest.raises(DataError, match=r"40 of 80 rows .* would be lost[^$]*--id-column laden"):
        import_corpus([path], tmp_path / "out")
    assert Imported(path, id_column="laden").axis == ("regular", "D", 80)


def test_dates_in_an_order_that_no_row_decides_are_refused_under_any_name(tmp_path: Path) -> None:
    path = csv(tmp_path / "x.csv", "stichtag,y", [(t.strftime("%d/%m/%Y"), k) for k, t in enumerate(DAYS[:12])])
    with pytest.raises(DataError, match=r"'stichtag'.*--dayfirst or --monthfirst"):
        import_corpus([path], tmp_path / "out")
    assert Imported(path, dayfirst=True).axis[1] == "D"


def test_of_two_stamps_by_name_the_one_that_does_not_repeat_is_the_time(tmp_path: Path) -> None:
    rows = [(t.strftime("%Y-%m-%dT%H:%MZ"), k, t.date()) for k, t in enumerate(HOURS)]
    found = Imported(csv(tmp_path / "x.csv", "Time,Demand,Date", rows))
    assert (found.axis, found.columns) == (("regular", "h", 960), ("Demand",))


# indices that pandas saves


def test_a_saved_index_that_counts_rows_is_left_out(tmp_path: Path) -> None:
    frame = pd.DataFrame({"date": DAYS, "y": np.arange(40.0)})
    frame = frame[frame.y % 7 != 3]
    frame.to_parquet(tmp_path / "p.parquet")
    frame.to_csv(tmp_path / "c.csv")
    frame.reset_index().to_csv(tmp_path / "i.csv", index=False)
    for name in ("p.parquet", "c.csv", "i.csv"):
        found = Imported(tmp_path / name)
        assert (found.columns, found.codes) == (("y",), [Code.ROW_NUMBERS_LEFT_OUT])


@pytest.mark.parametrize("order", ["item_id", "date"])
def test_a_saved_index_may_count_the_rows_of_each_item(tmp_path: Path, order: str) -> None:
    frame = pd.concat([pd.DataFrame({"item_id": item, "date": DAYS, "y": np.arange(40.0)}) for item in "AB"])
    frame.sort_values(order, kind="stable").to_csv(tmp_path / "x.csv")
    assert Imported(tmp_path / "x.csv").columns == ("y",)


def test_whole_numbers_without_a_name_that_count_nothing_stay(tmp_path: Path) -> None:
    path = csv(tmp_path / "x.csv", "date,y,", [(t.date(), k, 20 + k * k % 7) for k, t in enumerate(DAYS)])
    assert Imported(path).columns == ("y", "")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_saved_index_of_stamps_is_the_time(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame({"y": np.arange(40.0)}, index=DAYS)
    path = tmp_path / f"x.{suffix}"
    frame.to_csv(path) if suffix == "csv" else frame.to_parquet(path)
    assert Imported(path).axis == ("regular", "D", 40)


def test_values_called_index_stay(tmp_path: Path) -> None:
    path = csv(tmp_path / "x.csv", "date,index", [(t.date(), 100 + k * 7 % 5) for k, t in enumerate(DAYS)])
    assert Imported(path).columns == ("index",)


def test_a_column_called_t_stays_unless_it_counts_the_rows(tmp_path: Path) -> None:
    rows = [(t.date(), 20 + k * 7 % 5, k) for k, t in enumerate(DAYS)]
    assert Imported(csv(tmp_path / "x.csv", "date,t,y", rows)).columns == ("t", "y")
    found = Imported(csv(tmp_path / "z.csv", "date,t,y", [(t.date(), k, k) for k, t in enumerate(DAYS)]))
    assert (found.columns, found.codes) == (("y",), [Code.ROW_NUMBERS_LEFT_OUT])


@pytest.mark.parametrize("first", [1600, 2240])
def test_years_outside_the_range_of_nanoseconds_go_through_the_whole_import(tmp_path: Path, first: int) -> None:
    rows = [(f"{first + k}-01-01", k) for k in range(39) if k != 5]
    found = Imported(csv(tmp_path / "x.csv", "date,y", rows))
    assert (found.axis, found.ends) == (("regular", "YS", 39), (f"{first}-01-01", f"{first + 38}-01-01"))
    future = found.corpus.future_times(0, 1)
    assert future is not None and iso(int(future[0])) == f"{first + 39}-01-01"
    summary = (tmp_path / "x-corpus" / "data_summary.csv").read_text()
    assert f"{first}-01-01" in summary
