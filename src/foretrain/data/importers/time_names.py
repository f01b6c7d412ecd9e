"""Names of columns that hold times, or parts of them, after `columns.plain`; English first, then other languages.

A name makes a column a candidate, its cells decide.
"""

from __future__ import annotations

import re

FINE_STAMPS = (
    "timestamp", "timestamps", "datetime", "date_time", "ds", "ts", "date", "time", "gmt_time", "local_time",
    "open_time", "unix", "unix_timestamp", "unix_time", "epoch", "trade_date", "trading_date",
    "time_period", "ref_date", "observation_date", "obs_date", "timestamp_utc", "datetime_utc", "date_utc", "time_utc",
    "utc_timestamp", "utc_time", "utc", "unixtime", "epoch_ms", "timestamp_ms", "candle_begin_time",
    "日期", "时间", "日期时间", "交易日期", "交易时间", "日時", "日付", "날짜", "일자",
    "datum", "zeit", "zeitpunkt", "zeitstempel", "datum_uhrzeit", "datum_zeit", "datum_tijd", "dato", "päivämäärä",
    "fecha", "fecha_hora", "fecha_y_hora", "date_heure", "horodatage", "data_hora", "data_ora", "data_godzina",
    "tarih", "tarih_saat", "дата", "время",
    "window_start", "mess_datum",  # of Polygon's flat files, of the German weather service
)  # fmt: skip
YEAR_NAMES = ("time_period", "ref_date")  # of statistical offices; years, months or quarters
# Columns whose whole numbers are a year with a part of it: 202001, 202053, 20204.
YEARS_WITH = {
    "month": ("period", "yearmonth", "year_month", "yyyymm", "ym", "yrmo", "jahrmonat", "anomes", "ano_mes", "年月"),
    "week": ("yearweek", "year_week", "yyyyww", "yw", "yrwk", "jahrwoche", "isoyearweek", "iso_year_week"),
    "quarter": ("yearquarter", "year_quarter", "yyyyq", "yq", "yrqtr", "jahrquartal"),
}
# Columns in which numbers of 20,000 to 60,000 may be Excel's serial dates.
DATE_NAMES = (
    "date", "dates", "day", "date_time", "datetime", "timestamp", "trade_date", "trading_date",
    "日期", "交易日期", "日付", "날짜", "datum", "datum_uhrzeit", "tag", "fecha", "fecha_hora", "dia", "día", "data",
    "date_heure", "jour", "giorno", "dato", "tarih", "дата",
)  # fmt: skip
CLOCKS = (
    "time", "hour", "hr", "hour_of_day", "hour_ending", "hourending", "start_time", "time_of_day",
    "uhrzeit", "zeit", "stunde", "tijd", "godzina",
    "hora", "heure", "ora", "saat", "时间", "时", "小时", "時刻", "время",
)  # fmt: skip
PARTS = {
    "year": ("year", "yr", "yyyy", "jahr", "año", "ano", "année", "annee", "anno", "年", "年份", "rok", "jaar"),
    "quarter": ("quarter", "qtr", "quartal", "trimestre", "季度"),
    "month": ("month", "mo", "mnth", "monat", "mes", "mês", "mois", "mese", "月", "月份", "period"),
    "week": ("week", "wk", "week_number", "weeknum", "week_no", "isoweek", "iso_week", "epiweek", "mmwr_week", "kw",
             "woche", "semana", "semaine", "周"),
    "day": ("day", "dy", "day_of_month", "mday", "dom", "tag", "dia", "día", "jour", "giorno", "日"),
    "day_of_year": ("day_of_year", "dayofyear", "yday", "doy"),
    "hour": ("hour", "hr", "hour_of_day", "hour_ending", "hourending",
             "stunde", "hora", "heure", "ora", "saat", "时", "小时"),
    "minute": ("minute", "minutes", "minuto"),
    "second": ("second", "seconds", "segundo"),
}  # fmt: skip

_OF_PARTS = {name for names in PARTS.values() for name in names}
# Parts of a time beside its column, whatever their cells; a tag is a day in German, but a sensor in English.
SMALLER_PARTS = frozenset({"period", "interval", "slot", *CLOCKS, *_OF_PARTS} - {"tag"})
_LIKE_AN_HOUR = re.compile(r"hour|(^|_)(hr|he|hb|std)(_|$)|uhrzeit|stunde")
_LIKE_A_TIME = re.compile(r"time|date|epoch|unix|stamp|(^|_)(ts|dt)$")


def is_like_a_time(plain_name: str) -> bool:
    """Return True for names under which large numbers may be epochs."""
    return _LIKE_A_TIME.search(plain_name) is not None


def is_like_an_hour(plain_name: str) -> bool:
    """Return True for names under which numbers up to 24 may be hours of the day."""
    return _LIKE_AN_HOUR.search(plain_name) is not None


def is_saved_index(plain_name: str) -> bool:
    """Return True for the names that pandas gives to an index without a name."""
    return plain_name in ("", "index") or re.fullmatch(r"unnamed(:_|_)\d+|index_level_\d+", plain_name) is not None
