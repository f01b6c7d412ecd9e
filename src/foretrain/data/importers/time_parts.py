"""Stamps from several columns: year, month, day, hour, ..., or a date and a time of day.

# T rows
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from foretrain.data.importers.cells import BadCell, to_numbers
from foretrain.data.importers.layouts import month_numbers
from foretrain.data.importers.raw_table import RawTable, is_text
from foretrain.data.importers.stamps import Stamps, day_numbers, epidemic_weeks, iso_weeks, parse_stamps, year_days
from foretrain.data.importers.time_names import PARTS, is_like_an_hour
from foretrain.data.windows import NO_TIME, IntArray
from foretrain.errors import DataError
from foretrain.timeaxis.frequency import DAY, HOUR, MINUTE, SECOND

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see

_CLOCK = r"^\s*\d{1,2}:\d{1,2}(:\d{1,2}(\.\d+)?)?(\s*[AaPp]\.?[Mm]\.?)?\s*$"
_DOTTED_CLOCK = r"^\s*\d{1,2}\.\d{2}\.\d{2}\s*$"  # with seconds: 9.30 may be half past nine or 9.3 hours
_BARE_CLOCK = r"^\s*\d{1,6}\s*$"
_BOUNDS = {"year": (1000, 2999), "quarter": (1, 4), "month": (1, 12), "week": (1, 53), "day": (1, 31),
           "day_of_year": (1, 366), "hour": (0, 24), "minute": (0, 59), "second": (0, 59)}  # fmt: skip
_MARKS = {"quarter": "q", "month": "m", "week": "(?:w|kw)"}  # Q1, M01, W05
_CHAINS = (("year", "month", "day"), ("year", "month"), ("year", "week"), ("year", "quarter"), ("year", "day_of_year"))
_CLOCK_CHAIN = ("hour", "minute", "second")
_CLOCK_UNITS = {"hour": HOUR, "minute": MINUTE, "second": SECOND}


def stamps_of_parts(table: RawTable, columns: dict[str, str]) -> tuple[Stamps, tuple[str, ...], str] | None:
    """Return the stamps of a year with smaller parts, the columns used and how they were read; None without a year.

    columns: name after `plain` -> name in the file, of the columns that may be parts. Raises DataError for a date that
    does not exist.
    """
    if not any(name in columns for name in PARTS["year"]):
        return None
    values, names = _parts(table, columns)
    chain = next((chain for chain in _CHAINS if all(part in values for part in chain)), None)
    if chain is None:
        return None
    clock: tuple[str, ...] = ()
    if chain[-1] in ("day", "day_of_year"):
        clock = _clock_chain(values)
    used = tuple(names[part] for part in (*chain, *clock))
    days, exists, how = _days(chain, values)
    known = [values[part] for part in (*chain, *clock)]
    present = np.logical_and.reduce([part != NO_TIME for part in known])
    if (present & ~exists).any():
        row = int((present & ~exists).argmax())
        text = "-".join(str(values[part][row]) for part in chain)
        raise table.error(" + ".join(used), BadCell(row, text, "not a date that exists"))
    micros = sum((values[part] * _CLOCK_UNITS[part] for part in clock), np.zeros(len(days), np.int64))
    times = np.where(present, days * DAY + micros, NO_TIME)
    kind = "naive" if (times[present] % DAY).any() else "dates"
    return Stamps(times, kind), used, how


def hours_of(table: RawTable, columns: dict[str, str]) -> tuple[IntArray, tuple[str, ...]] | None:
    """Return the microseconds (T,) of hour, minute and second columns since midnight, and these; None without hours."""
    values, names = _parts(table, columns)
    if "hour" not in values:
        for name in (name for known, name in columns.items() if is_like_an_hour(known)):
            if (found := _part(table, name, "hour")) is not None:
                values["hour"], names["hour"] = found, name
                break
    clock = _clock_chain(values)
    if not clock or any((values[part] == NO_TIME).any() for part in clock):
        return None
    micros = sum((values[part] * _CLOCK_UNITS[part] for part in clock), np.zeros(table.cells.num_rows, np.int64))
    return micros, tuple(names[part] for part in clock)


def _clock_chain(values: dict[str, IntArray]) -> tuple[str, ...]:
    """Return the parts of the time of day that follow each other from the hour on."""
    count = next((k for k, part in enumerate(_CLOCK_CHAIN) if part not in values), len(_CLOCK_CHAIN))
    return _CLOCK_CHAIN[:count]


def _parts(table: RawTable, columns: dict[str, str]) -> tuple[dict[str, IntArray], dict[str, str]]:
    """Return the values (T,) of the parts that the table has, NO_TIME where blank, and the names of their columns."""
    values: dict[str, IntArray] = {}
    names: dict[str, str] = {}
    for part, aliases in PARTS.items():
        name = next((columns[alias] for alias in aliases if alias in columns), None)
        found = None if name is None else _part(table, name, part)
        if name is not None and found is not None:
            values[part], names[part] = found, name
    return values, names


def _part(table: RawTable, name: str, part: str) -> IntArray | None:
    """Return the whole numbers (T,) of a column in the bounds of a part, NO_TIME where blank; None for other cells."""
    kind = table.column(name).type
    if pa.types.is_temporal(kind) or pa.types.is_nested(kind):
        return None
    cells = pc.utf8_trim_whitespace(table.texts(name))
    if part in _MARKS:
        cells = pc.replace_substring_regex(cells, pattern=rf"(?i)^{_MARKS[part]} ?(\d)", replacement=r"\1")
    try:
        numbers = to_numbers(cells)
    except BadCell:
        return None
    if numbers is None:
        months = month_numbers(cells)
        return months if part == "month" and (months > 0).all() else None
    held = numbers[~np.isnan(numbers)]
    low, high = _BOUNDS[part]
    if not len(held) or (held % 1 != 0).any() or held.min() < low or held.max() > high:
        return None
    if part == "hour" and held.max() == 24 and held.min() == 0:
        return None
    return np.where(np.isnan(numbers), NO_TIME, np.nan_to_num(numbers)).astype(np.int64)


def _days(chain: tuple[str, ...], values: dict[str, IntArray]) -> tuple[IntArray, Any, str]:
    """Return days since 1970 of the rows, a mask of those that exist, and a word on how they were read."""
    year, part = (np.where(values[name] == NO_TIME, 2000, values[name]) for name in ("year", chain[1]))
    first = np.ones(len(year), np.int64)
    if chain[1] == "week":
        return _weeks(year, part)
    if chain[1] == "quarter":
        return *day_numbers(year, 3 * part - 2, first), "first day of the quarter"
    if chain[1] == "day_of_year":
        return *year_days(year, part), ""
    day = np.where(values["day"] == NO_TIME, 1, values["day"]) if len(chain) == 3 else first
    return *day_numbers(year, part, day), "" if len(chain) == 3 else "first day of the month"


def _weeks(year: IntArray, week: IntArray) -> tuple[IntArray, Any, str]:
    """Return the days of weeks by the calendar in which they all exist and follow each other best, ISO before MMWR."""
    best = None
    for how, read in (("ISO weeks from Monday", iso_weeks), ("MMWR weeks from Sunday", epidemic_weeks)):
        days, exists = read(year, week)
        steps = np.diff(np.unique(days))
        doubt = (int((~exists).sum()), int((steps != 7).sum()))
        if best is None or doubt < best[0]:
            best = doubt, (days, exists, how)
    assert best is not None
    return best[1]


def joined(table: RawTable, day: Stamps, clock: str) -> Stamps | None:
    """Return dates with a column of the time of day added; None if the column holds anything else.

    Times are written 9:30, 09:30:00, 09.30.00 or 9:30 PM, or as 930 and 93000 (three digits or more in some row).
    """
    column = table.column(clock)
    if day.clock != "dates" or pa.types.is_floating(column.type) or pa.types.is_timestamp(column.type):
        return None
    times = pc.utf8_trim_whitespace(column.cast(pa.string()) if not pa.types.is_dictionary(column.type) else
                                    table.texts(clock))  # fmt: skip
    if not len(times.drop_null()):
        return None
    if pc.all(pc.match_substring_regex(times, pattern=_BARE_CLOCK)).as_py():
        longest = pc.max(pc.utf8_length(times)).as_py()
        if longest < 3:
            return None  # hours alone
        padded = pc.utf8_lpad(times, width=4 if longest <= 4 else 6, padding="0")
        times = pc.replace_substring_regex(padded, pattern=r"^(\d\d)(\d\d)(\d\d)?$", replacement=r"\1:\2:\3")
        times = pc.replace_substring_regex(times, pattern=":$", replacement="")
    elif pc.all(pc.match_substring_regex(times, pattern=_DOTTED_CLOCK)).as_py():
        times = pc.replace_substring(times, ".", ":")
    elif not pc.all(pc.match_substring_regex(times, pattern=_CLOCK)).as_py():
        return None
    try:
        since = parse_stamps(pc.binary_join_element_wise("1970-01-01", times, " ")).times
    except BadCell as bad:
        raise table.error(clock, bad) from None
    except DataError as error:
        raise DataError(f"{table.path}: column {clock!r}: {error}") from None
    times = np.where((day.times == NO_TIME) | (since == NO_TIME), NO_TIME, day.times + since)
    return replace(day, times=times, clock="naive" if (times[times != NO_TIME] % DAY).any() else "dates")


def is_clock(table: RawTable, name: str) -> bool:
    """Return True if a column holds times of day with colons, or with dots before minutes and seconds."""
    kind = table.column(name).type
    if pa.types.is_time(kind):
        return True
    if not is_text(kind):
        return False
    cells = table.texts(name).drop_null()
    pattern = next((p for p in (_CLOCK, _DOTTED_CLOCK) if len(cells) and re.match(p, str(cells[0]))), None)
    return pattern is not None and bool(pc.all(pc.match_substring_regex(cells, pattern=pattern)).as_py())
