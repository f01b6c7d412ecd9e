"""Times of a table: the stamps of its columns, or step numbers.

Columns are tried by name first, then by their cells. A column is not taken for the time without a note unless its name
says that it is.

# T rows
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute

from foretrain.data.importers.cells import BadCell, is_number_text
from foretrain.data.importers.columns import Roles, plain
from foretrain.data.importers.raw_table import RawTable, is_text
from foretrain.data.importers.stamps import Stamps, arrow_stamps, parse_stamps
from foretrain.data.importers.telling import repeated_groups, telling_columns
from foretrain.data.importers.time_names import (
    CLOCKS,
    FINE_STAMPS,
    PARTS,
    SMALLER_PARTS,
    is_like_a_time,
    is_like_an_hour,
    is_saved_index,
)
from foretrain.data.importers.time_parts import hours_of, is_clock, joined, stamps_of_parts
from foretrain.data.importers.time_source import FEW_REPEATS, Source, codes, numbers_of
from foretrain.data.importers.zones import localise
from foretrain.data.windows import NO_TIME, IntArray
from foretrain.errors import DataError
from foretrain.notes import Code, Note

_FEWEST_DATES = 5  # whole numbers like 20200131 in so many rows are dates under any name


@dataclass(frozen=True)
class TableTimes:
    """Times (T,) of a table, None without any.

    used: the columns that they were read from; left_out: further columns of times or counts, which are no values.
    """

    times: IntArray | None
    clock: str  # dates, naive, utc, steps or none
    offsets: tuple[int, ...] = ()
    used: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


DAYS = ("date", "trade_date", "trading_date")  # columns that a time of day completes
_Found = tuple[Stamps, tuple[str, ...]]


def read_times(table: RawTable, roles: Roles) -> TableTimes:
    """Return the table's times from its stamp columns or its step column, if it has any. Raises DataError."""
    source = Source(table, roles)
    if (name := table.options.timestamp_column) is not None:
        name = roles.stamps[0]
        stamps = source.read(name, strict=True)
        return _steps(source, name) if stamps is None else _finish(source, stamps, (name,))
    for find in (_of_named, _of_parts, _of_coarse):
        if (found := find(source)) is not None:
            return _finish(source, *found)
    if (name := _count(source)) is not None:
        return _steps(source, name)
    if (found := _of_dates(source)) is not None:
        return _finish(source, *found)
    clock = next((name for name in roles.stamps if is_clock(table, name)), None)
    if clock is not None:
        raise DataError(f"{table.path}: column {clock!r} holds times of day, but no column holds their dates.")
    _tell_unread(source)
    return TableTimes(None, "none")


def read_column_times(table: RawTable, name: str) -> TableTimes:
    """Return the stamps or step numbers of one column; those of a date with the time of day of a column `time`."""
    clock = [other for other in table.cells.column_names if plain(other) == "time" and plain(name) in DAYS]
    alone = table.cells.select([name, *(other for other in clock if other != name)])
    roles = Roles(item=(), stamps=(name,), step=None, values=(), market=False)
    return read_times(replace(table, cells=alone, options=replace(table.options, timestamp_column=name)), roles)


def _steps(source: Source, name: str) -> TableTimes:
    return TableTimes(source.steps(name), "steps", (), (name,))


def _tell_unread(source: Source) -> None:
    """Note a text column that is called like a time, but holds no stamps."""
    table = source.table
    names = [name for name in source.roles.stamps if is_text(table.column(name).type) and not table.is_count(name)]
    cells = table.column(names[0]).drop_null() if names else []
    if len(cells) and str(cells[0]).strip():
        table.note(
            Code.TIME_NOT_READ,
            f"column {names[0]!r} is called like a time, but cells like {str(cells[0])!r} are none; the rows count "
            "steps, unless --date-format says how to read it",
        )


def _finish(source: Source, stamps: Stamps, used: tuple[str, ...]) -> TableTimes:
    """Return the times with the time of day of other columns, in UTC if the options name a zone."""
    table = source.table
    stamps, used = _with_clock(source, stamps, used)
    if table.options.timezone is not None:
        try:
            stamps = localise(stamps, table.options.timezone, source.items)
        except DataError as error:
            raise DataError(f"{table.path}: {error}") from None
    for note in stamps.notes:
        table.notes.append(replace(note, text=f"{table.path.name}: {_columns(used)}: {note.text}"))
    return TableTimes(stamps.times, stamps.clock, stamps.offsets, used, _no_values(source, used))


def _no_values(source: Source, used: tuple[str, ...]) -> tuple[str, ...]:
    """Return, with a note, the columns that only count an item's rows or hold further times."""
    table, found = source.table, list[str]()
    step = source.roles.step
    if step is not None and step not in used and table.is_count(step):
        numbers = numbers_of(table, step)
        if numbers is not None and not np.isnan(numbers).any() and not source.repeats(numbers.astype(np.int64)):
            table.note(Code.ROW_NUMBERS_LEFT_OUT, f"column {step!r} only counts the rows of an item; left out")
            found.append(step)
    for known, name in source.free.items():
        if name not in (*used, *found) and is_like_a_time(known) and _dates_in_numbers(source, name) is not None:
            table.note(
                Code.DATES_LEFT_OUT, f"column {name!r} holds further times; a time is no value, so it is left out"
            )
            found.append(name)
    return tuple(found)


def _columns(names: Sequence[str]) -> str:
    return ("columns " if len(names) > 1 else "column ") + ", ".join(map(repr, names))


# by name


def _of_named(source: Source) -> _Found | None:
    """Return the stamps of the columns whose names say that they are the time."""
    table = source.table
    fine = [name for name in source.roles.stamps if plain(name) in FINE_STAMPS]
    step = source.roles.step
    if step is not None and not fine and (stamps := source.read(step, strict=False)) is not None:
        return stamps, (step,)  # epochs or text under the name of steps
    clocks = [name for name in fine if is_clock(table, name)]
    found = {}
    for name in fine:
        stamps = None if name in clocks else source.read(name, strict=True)
        if stamps is not None:
            found[name] = stamps
    return _one_of(source, found)


def _one_of(source: Source, found: dict[str, Stamps]) -> _Found | None:
    """Return the stamps on which columns agree, else the only ones that do not repeat within an item."""
    if not found:
        return None
    first = max(found, key=lambda name: found[name].clock == "utc")

    def equal(name: str) -> tuple[str, ...]:
        return tuple(other for other in found if np.array_equal(found[other].times, found[name].times))

    if len(equal(first)) < len(found):
        unique = [name for name in found if not source.repeats(found[name].times)]
        if not unique or len(equal(unique[0])) < len(unique):
            names = unique if len(unique) > 1 else list(found)
            other = next(name for name in names if name not in equal(names[0]))
            raise DataError(
                f"{source.table.path}: columns {names[0]!r} and {other!r} both look like the time stamp; choose with "
                "--timestamp-column."
            )
        first = max(unique, key=lambda name: found[name].clock == "utc")
    return found[first], equal(first)


def _of_coarse(source: Source) -> _Found | None:
    """Return the stamps of a column called year, month, ... or of a saved index.

    A column of years that repeat within an item is no time, unless another column tells its rows apart.
    """
    table = source.table
    found = {}
    for name in source.roles.stamps:
        if plain(name) in FINE_STAMPS or (stamps := source.read(name, strict=False)) is None:
            continue
        repeats = plain(name) in PARTS["year"] and source.repeats(stamps.times)
        if repeats and not _telling(source, stamps.times, name) and not _told_together(source, stamps.times, name):
            table.note(Code.TIME_REPEATS, f"column {name!r} repeats, so it is not taken for the time")
            continue
        found[name] = stamps
    return _one_of(source, found)


def _told_together(source: Source, times: IntArray, name: str) -> bool:
    """Return True if several columns, one of them of words, tell apart the rows of equal time, as items would."""
    table = source.table
    group = repeated_groups(times, source.items)
    found = None if group is None else telling_columns(table, group, (name,), source.roles.item)
    words = [] if found is None else [other for other in found.ids if numbers_of(table, other) is None]
    return found is not None and not found.clock and bool(words)


def _count(source: Source) -> str | None:
    """Return the column that counts steps: by its name, or whole numbers under the name of a time."""
    table, roles = source.table, source.roles
    if roles.step is not None:
        return roles.step
    fine = [name for name in roles.stamps if plain(name) in FINE_STAMPS and table.is_count(name)]
    if fine:
        return fine[0]
    for name in roles.stamps:
        if not table.is_count(name) or plain(name) in PARTS["year"] or _is_row_index(source, name):
            continue
        numbers = numbers_of(table, name)
        if numbers is not None and not np.isnan(numbers).any() and not source.repeats(numbers.astype(np.int64)):
            return name
    return None


def _is_row_index(source: Source, name: str) -> bool:
    """Return True for a saved index that counts the rows of the whole table."""
    if not is_saved_index(plain(name)):
        return False
    if plain(name) != "index":
        return True
    numbers = numbers_of(source.table, name)
    return numbers is not None and bool((np.diff(numbers) == 1).all()) and bool(source.roles.item)


# by several columns


def _of_parts(source: Source) -> _Found | None:
    """Return the stamps of a year with a month, a week or a quarter, and of smaller parts."""
    found = stamps_of_parts(source.table, source.free)
    if found is None:
        return None
    stamps, used, how = found
    if source.repeats(stamps.times):
        dates = _date_columns(source)
        single = [name for name in dates if source.is_unique(dates[name].times)]
        if single:
            return None  # a column of dates tells the rows apart, which these parts do not
    text = "read together as the time" + (f" ({how})" if how else "")
    return replace(stamps, notes=(Note(Code.TIME_OF_SEVERAL_COLUMNS, text, {"columns": len(used)}),)), used


def _with_clock(source: Source, stamps: Stamps, used: tuple[str, ...]) -> _Found:
    """Return dates together with a column of the time of day, or with hours if these make them unique.

    Raises DataError if the dates repeat within an item and other columns of times would make them unique.
    """
    if stamps.clock != "dates" or stamps.offsets:
        return stamps, used
    table = source.table
    free = {known: name for known, name in source.free.items() if name not in used}
    for clock in (free[known] for known in CLOCKS if known in free):
        if (whole := joined(table, stamps, clock)) is not None:
            return whole, (*used, clock)
    parts = [name for known, name in free.items() if known in SMALLER_PARTS or is_like_an_hour(known)]
    clocks = [name for name in free.values() if is_clock(table, name)]
    before = source.repeats(stamps.times) if parts or clocks else 0
    if not before:
        return stamps, used
    for clock in clocks:
        whole = joined(table, stamps, clock)
        if whole is not None and source.repeats(whole.times) < min(before, 1 + FEW_REPEATS * len(whole.times)):
            return _of_several(whole, (*used, clock))
    hours = hours_of(table, free)
    if hours is not None:
        times = np.where(stamps.times == NO_TIME, NO_TIME, stamps.times + hours[0])
        if source.repeats(times) <= FEW_REPEATS * len(times) and source.repeats(times) < before:
            return _of_several(replace(stamps, times=times, clock="naive"), (*used, *hours[1]))
    telling = [name for name in parts if not source.repeats(stamps.times, codes(table.texts(name)))]
    if telling:
        raise DataError(
            f"{table.path}: {_columns(used)}: {before:,} rows repeat the time of another row, and {_columns(telling)} "
            "tells them apart. Write both into one column of stamps, or name a column that holds the whole time with "
            "--timestamp-column."
        )
    return stamps, used


def _of_several(stamps: Stamps, used: tuple[str, ...]) -> _Found:
    note = Note(Code.TIME_OF_SEVERAL_COLUMNS, "read together as the time", {"columns": len(used)})
    return replace(stamps, notes=(*stamps.notes, note)), used


# by cells


def _of_dates(source: Source) -> _Found | None:
    """Return the stamps of the only column of dates that hardly repeats within items, whatever its name.

    Dates that repeat are the time if another column tells their rows apart. Raises DataError if there are several.
    """
    dates = _date_columns(source)
    if not dates:
        return None
    path = source.table.path
    unique = {name: stamps for name, stamps in dates.items() if source.is_unique(stamps.times)}
    if not unique:
        unique = {name: found for name, stamps in dates.items() if (found := _hourly(source, stamps, name)) is not None}
    if not unique:  # rows of several items, which the caller tells apart or refuses
        unique = {name: stamps for name, stamps in dates.items() if _telling(source, stamps.times, name) is not None}
    if not unique:
        return None
    first = next(iter(unique))
    other = next((name for name in unique if not np.array_equal(unique[name].times, unique[first].times)), None)
    if other is not None:
        raise DataError(
            f"{path}: no column is called like a time, and {first!r} and {other!r} both hold dates; choose with "
            "--timestamp-column."
        )
    dates[first] = source.read(first, strict=True) or dates[first]  # refuses dates whose order no row decides
    note = Note(Code.TIME_BY_ITS_CELLS, "holds dates, and is taken for the time")
    return replace(dates[first], notes=(*dates[first].notes, note)), (first,)


def _hourly(source: Source, stamps: Stamps, name: str) -> Stamps | None:
    """Return dates that become unique with a column of the time of day, None for others."""
    try:
        whole, used = _with_clock(source, stamps, (name,))
    except DataError:
        return stamps  # with columns of times beside it, which the error will name
    return stamps if len(used) > 1 and not source.repeats(whole.times) else None


def _date_columns(source: Source) -> dict[str, Stamps]:
    """Return the columns of dates that have no other role, read day first where no row decides."""
    table, found = source.table, dict[str, Stamps]()
    for name in source.free.values():
        column = table.column(name)
        kind = column.type
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            if column.null_count < len(column):
                found[name] = arrow_stamps(column, f"{table.path}: column {name!r}")
            continue
        if (stamps := _dates_in_numbers(source, name)) is not None:
            found[name] = stamps
            continue
        if not is_text(kind):
            continue
        first = next((str(cell).strip() for cell in column[:100] if cell.is_valid and str(cell).strip()), "")
        if len(first) < 6 or is_number_text(first):
            continue
        readings: tuple[Callable[[], Stamps | None], ...] = (
            lambda name=name: source.read(name, strict=False),
            lambda name=name: parse_stamps(table.texts(name), dayfirst=True, na_values=table.options.na_values),
        )
        for reading in readings:
            try:
                stamps = reading()
            except (BadCell, DataError):
                continue
            if stamps is not None:
                found[name] = stamps
            break
    return found


def _dates_in_numbers(source: Source, name: str) -> Stamps | None:
    """Return the stamps of whole numbers like 20200131, or of epochs if the name speaks of time; None for others."""
    numbers = numbers_of(source.table, name)
    if numbers is None or np.isnan(numbers).all() or (numbers[~np.isnan(numbers)] % 1 != 0).any():
        return None
    least, most = np.nanmin(numbers), np.nanmax(numbers)
    dates = least >= 15_000_101 and most <= 22_001_231 and len(numbers) >= _FEWEST_DATES
    epochs = is_like_a_time(plain(name)) and (source.table.options.time_unit is not None or least >= 10**8)
    return source.read(name, strict=False) if dates or epochs else None


def _telling(source: Source, times: IntArray, name: str) -> str | None:
    """Return the first column of texts or of few whole numbers that tells apart the rows of equal time, if any."""
    table = source.table
    for other in source.free.values():
        kind = table.column(other).type
        if other == name or not (is_text(kind) or pa.types.is_integer(kind)):
            continue
        numbers = numbers_of(table, other)
        if numbers is not None and ((numbers % 1 != 0).any() or len(np.unique(numbers)) > len(numbers) / 2):
            continue
        if not source.repeats(times, codes(table.texts(other))):
            return other
    return None
