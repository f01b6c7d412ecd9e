"""Times of a table: the stamps of its columns, or step numbers.

# T rows
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from foretrain.data.importers.cells import BadCell, to_numbers
from foretrain.data.importers.columns import FINE_STAMPS, Roles, plain
from foretrain.data.importers.raw_table import RawTable
from foretrain.data.importers.stamps import Stamps, arrow_stamps, localise, number_stamps, parse_stamps
from foretrain.data.windows import IntArray
from foretrain.errors import DataError

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see

_CLOCK_TEXT = r"^\s*(\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?(\s*[AaPp][Mm])?|\d{3,6})\s*$"


@dataclass(frozen=True)
class TableTimes:
    """Times (T,) of a table, None without any. used: the columns that they were read from."""

    times: IntArray | None
    clock: str  # dates, naive, utc, steps or none
    offsets: tuple[int, ...] = ()
    used: tuple[str, ...] = ()


def read_times(table: RawTable, roles: Roles) -> TableTimes:
    """Return the table's times from its stamp columns or its step column, if it has any. Raises DataError."""
    if table.options.timestamp_column is not None:
        name = roles.stamps[0]
        stamps = _read_stamps(table, name, strict=True)
        if stamps is None:
            return _steps(table, name)
        return _finish(table, stamps, (name,))
    joined = _joined(table, roles.stamps)
    if joined is not None:
        return _finish(table, *joined)
    found = {}
    for name in roles.stamps:
        stamps = _read_stamps(table, name, strict=plain(name) in FINE_STAMPS)
        if stamps is not None:
            found[name] = stamps
    if found:
        names = list(found)
        first = max(names, key=lambda name: found[name].clock == "utc")
        differing = [name for name in names if not np.array_equal(found[name].times, found[first].times)]
        if differing:
            raise DataError(
                f"{table.path}: columns {first!r} and {differing[0]!r} both look like the time stamp; choose with "
                "--timestamp-column."
            )
        return _finish(table, found[first], tuple(names))
    if roles.step is not None:
        return _steps(table, roles.step)
    counts = [name for name in roles.stamps if plain(name) in ("time", "index") and table.is_count(name)]
    return _steps(table, counts[0]) if counts else TableTimes(None, "none")


def _finish(table: RawTable, stamps: Stamps, used: tuple[str, ...]) -> TableTimes:
    if table.options.timezone is not None:
        try:
            stamps = localise(stamps, table.options.timezone)
        except DataError as error:
            raise DataError(f"{table.path}: {error}") from None
    return TableTimes(stamps.times, stamps.clock, stamps.offsets, used)


def _read_stamps(table: RawTable, name: str, *, strict: bool) -> Stamps | None:
    """Parse the stamps of a column; None if it holds counts or, unless strict, anything else but stamps."""
    column, options = table.column(name), table.options
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return arrow_stamps(column)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return number_stamps(column.drop_null().to_numpy()) and number_stamps(pc.fill_null(column, 0).to_numpy())
    if table.is_count(name) and not (plain(name) == "year" or options.timestamp_column == name):
        return None
    try:
        return parse_stamps(table.texts(name), dayfirst=options.dayfirst, na_values=options.na_values)
    except BadCell as bad:
        if options.timestamp_column == name and table.is_count(name):
            return None
        if not strict:
            return None
        raise table.error(name, bad) from None
    except DataError as error:
        raise DataError(f"{table.path}: column {name!r}: {error}") from None


def _joined(table: RawTable, names: tuple[str, ...]) -> tuple[Stamps, tuple[str, ...]] | None:
    """Parse a date column together with a column of the time of day; None if the table has no such pair."""
    by_plain = {plain(name): name for name in names}
    day = next((by_plain[n] for n in ("date", "trade_date", "trading_date") if n in by_plain), None)
    clock = by_plain.get("time")
    if day is None or clock is None:
        return None
    columns = [table.column(name) for name in (day, clock)]
    if not all(pa.types.is_string(c.type) for c in columns):
        return None
    if not pc.all(pc.match_substring_regex(columns[1], pattern=_CLOCK_TEXT)).as_py():
        return None
    times = pc.utf8_trim_whitespace(columns[1])
    bare = pc.match_substring_regex(times, pattern=r"^\d+$")
    if pc.any(bare).as_py():  # 93000 is 09:30:00, 930 is 09:30
        width = 4 if pc.max(pc.utf8_length(times)).as_py() <= 4 else 6
        padded = pc.utf8_lpad(times, width=width, padding="0")
        times = pc.replace_substring_regex(padded, pattern=r"^(\d\d)(\d\d)(\d\d)?$", replacement=r"\1:\2:\3")
        times = pc.replace_substring_regex(times, pattern=":$", replacement="")
    dashed = pc.replace_substring_regex(
        pc.utf8_trim_whitespace(columns[0]), pattern=r"^(\d{4})(\d\d)(\d\d)$", replacement=r"\1-\2-\3"
    )
    options = table.options
    try:
        text = pc.binary_join_element_wise(dashed, times, " ")
        return parse_stamps(text, dayfirst=options.dayfirst, na_values=options.na_values), (day, clock)
    except BadCell as bad:
        raise table.error(f"{day} + {clock}", bad) from None
    except DataError as error:
        raise DataError(f"{table.path}: columns {day!r} and {clock!r}: {error}") from None


def _steps(table: RawTable, name: str) -> TableTimes:
    try:
        numbers = to_numbers(table.texts(name))
    except BadCell:
        numbers = None
    if numbers is None or np.isnan(numbers).any() or (numbers % 1 != 0).any():
        raise DataError(
            f"{table.path}: column {name!r} is taken for step numbers, but holds other cells; --timestamp-column "
            "names the time."
        )
    return TableTimes(numbers.astype(np.int64), "steps", (), (name,))
