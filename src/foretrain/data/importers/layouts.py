"""Written forms of time stamps: patterns, month names, and the rewriting of rarer forms into them.

Patterns are read by two engines (re and RE2). Groups: y year, c year of two digits, a and b the two other numbers,
n name of the month, q quarter, w week, wd weekday, o day of the year, h mi s f ap z zh the time of day and its offset.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see

_OFFSET = r"(?P<z>Z|(?:UTC|GMT)(?:[-+]\d{1,2}(?::?\d{2})?)?|[-+]\d{2}:?\d{2})?"
_CLOCK = (
    r"(?P<h>\d{1,2})(?::(?P<mi>\d{1,2}))?(?::(?P<s>\d{1,2})(?:[.,](?P<f>\d{1,9}))?)?"
    r"(?:[ -]?(?P<ap>[AaPp][Mm]))?(?P<zh>[-+]\d{2})?"
)
_TIME = rf"(?:[T ,_]+{_CLOCK})?\s*{_OFFSET}"
_NAME = r"(?P<n>[A-Za-zÀ-ÿ]{3,12})\.?"
LAYOUTS = {
    "ymd": rf"^(?P<y>\d{{4}})[-/. ](?P<a>\d{{1,2}})[-/. ](?P<b>\d{{1,2}}){_TIME}$",
    "compact": r"^(?P<y>\d{4})(?P<a>\d{2})(?P<b>\d{2})"
    r"(?:[T _:-]?(?P<h>\d{2}):?(?P<mi>\d{2})?:?(?:(?P<s>\d{2})(?:\.?(?P<f>\d{1,9}))?)?)?" + _OFFSET + "$",
    "parts": rf"^(?P<a>\d{{1,2}})[-/.](?P<b>\d{{1,2}})[-/.](?P<y>\d{{4}}){_TIME}$",
    "month": r"^(?P<y>\d{4})(?:[-/]|[- ]?[Mm])(?P<a>\d{1,2})$",
    "month_year": r"^(?P<a>\d{1,2})[-/.](?P<y>\d{4})$",
    "quarter": r"^(?P<y>\d{4})[-/ ]?[Qq](?P<q>[1-4])$",
    "quarter_year": r"^(?:[Qq](?P<q>[1-4])|(?P<q2>[1-4])[Qq])[-/ ]?(?P<y>\d{4})$",
    "week": r"^(?P<y>\d{4})[- ]?[Ww](?P<w>\d{1,2})(?:-?(?P<wd>[1-7]))?$",
    "ordinal": r"^(?P<y>\d{4})-(?P<o>\d{3})$",
    "year": r"^(?P<y>\d{4})(?:\.0)?$",
    "day_name": rf"^(?P<b>\d{{1,2}})[-/. ]*{_NAME}[-/, ]*(?P<y>\d{{4}}){_TIME}$",
    "name_day": rf"^{_NAME} (?P<b>\d{{1,2}}),? (?P<y>\d{{4}}){_TIME}$",
    "name_clock_year": rf"^{_NAME} (?P<b>\d{{1,2}}) {_CLOCK} (?P<y>\d{{4}})$",
    "name_year": rf"^{_NAME}[-/, ]+(?P<y>\d{{4}})$",
    "year_name": rf"^(?P<y>\d{{4}})[-/ ]{_NAME}$",
    "year_name_day": rf"^(?P<y>\d{{4}})[-/ ]{_NAME}[-/ ](?P<b>\d{{1,2}}){_TIME}$",
    "short_parts": rf"^(?P<a>\d{{1,2}})[-/.](?P<b>\d{{1,2}})[-/.](?P<c>\d{{2}}){_TIME}$",
    "short_day_name": rf"^(?P<b>\d{{1,2}})[-/. ]*{_NAME}[-/, ]*(?P<c>\d{{2}}){_TIME}$",
    "short_name_day": rf"^{_NAME} (?P<b>\d{{1,2}}), ?(?P<c>\d{{2}}){_TIME}$",
    "short_name_year": rf"^{_NAME}[- ](?P<c>\d{{2}})$",
}
HINT = "--date-format names the form of the cells, for example --date-format '%d/%m/%y'"

# English, German, French, Spanish, Portuguese, Italian and Dutch
_MONTHS = (
    "january januar jänner janvier enero janeiro gennaio januari",
    "february februar février fevrier febrero fevereiro febbraio februari",
    "march märz maerz mrz mars marzo março marco maart mrt",
    "april avril abril aprile",
    "may mai mayo maio maggio mei",
    "june juni juin junio junho giugno",
    "july juli juillet julio julho luglio",
    "august août aout agosto augustus",
    "september septembre septiembre setiembre setembro settembre",
    "october oktober octobre octubre outubro ottobre",
    "november novembre noviembre novembro",
    "december dezember décembre decembre diciembre dezembro dicembre",
)
_DIGITS_ONLY = (
    r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-4])([0-5]\d([0-5]\d(\d{3}|\d{6})?)?)?(\.0+)?$"
)

_REWRITES = (
    (r"^(\d+)\.0+$", r"\1"),
    (r"\s+", " "),
    (r" ?\([^()0-9]{1,3}\)", ""),
    (r"(?i)^(mon|tues?|wed(nes)?|thu(rs)?|fri|sat(ur)?|sun)(day)?,? ", ""),
    (r"(?i)([ap])\. ?m\.?$", r"\1m"),
    (r"(?i)^((?:[a-z]+ )?\d{1,2})(st|nd|rd|th)\b", r"\1"),
    (r"(?i)^(\d{1,2}) de ([a-zç]+)( de)? (\d{4})", r"\1 \2 \4"),
    (r"(?i)^([a-zç]+) de (\d{4})$", r"\1 \2"),
    (r"^(.*\d)[ -](\d{1,2})-([AaPp][Mm])$", r"\1 \2 \3"),
    (r"(\d|Z)\[[A-Za-z_]+(/[A-Za-z_]+)*\]$", r"\1"),
    (r"^([^:]*\d{4}):(\d{2}:\d{2})", r"\1 \2"),
    (r"^(\d{1,4})\. ?(\d{1,2})\. ?(\d{1,4})\.?($| )", r"\1.\2.\3\4"),
)
_EAST_ASIAN = (
    (r" ?[年년] ?", "-"),
    (r" ?[月월] ?", "-"),
    (r" ?[日일] ?", " "),
    (r" ?[时時点點시] ?", ":"),
    (r" ?[分분] ?", ":"),
    (r" ?[秒초]", ""),
    (r"[-: ]+$", ""),
)


def rewrite(cells: pa.Array) -> pa.Array:
    """Return stripped text cells with weekdays, East Asian units and spaces after dots in the forms of LAYOUTS."""
    for pattern, into in _REWRITES:
        cells = pc.replace_substring_regex(cells, pattern=pattern, replacement=into)
    if pc.any(pc.match_substring_regex(cells, pattern="[年년月월]")).as_py():
        cells = pc.utf8_normalize(cells, form="NFKC")
        for pattern, into in _EAST_ASIAN:
            cells = pc.replace_substring_regex(cells, pattern=pattern, replacement=into)
    return cells


def are_compact(cells: pa.Array) -> bool:
    """Return True if all cells, none null, read as YYYYMMDDHH, with minutes and seconds or without: no epochs."""
    if len(cells) and not re.match(_DIGITS_ONLY, str(cells[0])):
        return False
    return bool(pc.all(pc.match_substring_regex(cells, pattern=_DIGITS_ONLY)).as_py())


def month_numbers(names: pa.Array) -> np.ndarray:
    """Return (T,) months 1..12 of names, whole or cut to three letters or more; 0 for another name or a null."""
    encoded = pc.dictionary_encode(pc.utf8_lower(names))
    known = [_month(name) for name in encoded.dictionary.to_pylist()]
    return np.array([*known, 0], np.int64)[np.asarray(pc.fill_null(encoded.indices, len(known)))]


def _month(name: str) -> int:
    if len(name) < 3:
        return 0
    found = [k for k, names in enumerate(_MONTHS, start=1) if any(full.startswith(name) for full in names.split())]
    return found[0] if len(found) == 1 else 0  # "jui" is June or July


def unknown(text: str) -> str:
    """Return why a cell is no time stamp, for the error that quotes it."""
    place = re.search(r"\d ([A-Z][A-Za-z]+/[A-Za-z_]+)$", text)
    if place:
        return (
            f"a stamp with the name of a zone; --timezone {place[1]} names it, --date-format the form of the cells, "
            f"for example --date-format '%Y%m%d %H:%M:%S {place[1]}'"
        )
    zone = re.search(r"\d ?(?:[AaPp][Mm] )?([A-Z]{2,5})$", text)
    if zone and zone[1] not in ("AM", "PM"):
        return (
            f"a stamp with the zone name {zone[1]}, which is not unique; remove the name and name the zone with "
            "--timezone, for example America/New_York"
        )
    if re.fullmatch(r"\d(?:[.,]\d+)?[eE]\+?\d+", text):
        return "a rounded number, which has lost the time; write the column without exponents"
    if re.fullmatch(r"-?\d+(?:\.\d*)?", text):
        return "a number that is no time; --time-unit s, ms, us or ns reads numbers as times since 1970"
    return f"not a time stamp in any known layout; {HINT}"
