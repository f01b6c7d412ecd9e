"""Tables whose rows are series: a few columns that name the row, then one column a time, headed by dates or numbers.

# N series, T times (columns of values)
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from foretrain.data.importers.cells import BadCell, to_numbers
from foretrain.data.importers.columns import ID_NAMES, id_columns, is_market, plain
from foretrain.data.importers.layouts import month_numbers
from foretrain.data.importers.marks import refuse_thousands
from foretrain.data.importers.raw_table import RawTable
from foretrain.data.importers.stamps import Stamps, parse_stamps
from foretrain.data.importers.tables import Part
from foretrain.data.importers.time_names import FINE_STAMPS
from foretrain.data.importers.zones import localise
from foretrain.errors import DataError
from foretrain.notes import Code

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see

_MAX_LEFT = 9  # columns that name a row; the World Bank's tables have four, M5's six
_MIN_DATES, _MIN_NUMBERED = 3, 5
_PERIODS = ("month", "week", "quarter", "year", "day", "weekday", "hour", "day_of_year")
_STAMP = re.compile(
    r"\D*\d{4}(\D.*)?|\d{8}|\d{1,2}\D\d{1,2}\D\d{2,4}(\D.*)?|[A-Za-z]{3,9}[- ']\d{2}"
    r"|(?:[Qq][1-4]|[1-4][Qq])[-/ ]?\d{4}|\d{1,2}[-/.]\d{4}|\d{1,2}[-/. ]*[A-Za-z]{3,9}[-/. ]*\d{2,4}"
    r"|[A-Za-z]{3,9} \d{1,2},? \d{4}"
)
_HOURS = re.compile(r"(?:h|hr|he|hour)?[ _]?(\d{1,2})(?::00)?(?:h|hr)?")
_QUARTERS = re.compile(r"(?:q|qtr|quarter)[ _.]?([1-4])|([1-4])q")


@dataclass(frozen=True)
class Wide:
    """left: columns before those of values; columns: the values, in the order of time; stamps: (T,), None for steps.

    beside: columns between and after those of dates that are none, such as totals and flags.
    """

    left: list[str]
    columns: list[str]
    stamps: Stamps | None
    beside: list[str] = field(default_factory=list)


def header_span(header: Sequence[str], date_format: str | None = None) -> int | None:
    """Return the number of columns that name a row, if the header says that the rest are times; else None.

    date_format: a pattern of strptime in which times may be written.
    """
    names = [name.strip() for name in header]
    while names and not names[-1]:
        names.pop()
    for left in range(1, min(_MAX_LEFT, len(names) - _MIN_DATES) + 1):
        if left > 1 and _STAMP.fullmatch(names[left - 1]):
            continue  # a time that is out of order
        if _are_dates(names[left:]) or (date_format is not None and _stamps(names[left:], None, date_format)):
            return left
    found = _dates_among(names)
    return found[0] if found else _numbered_from(names)


def _dates_among(names: Sequence[str]) -> list[int]:
    """Return the places of dates of one form if they are at least half of the names from the first on, else []."""
    forms: dict[str, list[int]] = {}
    for k, name in enumerate(names):
        if k and _STAMP.fullmatch(name):
            forms.setdefault(re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", name)), []).append(k)
    found = next((at for at in forms.values() if 2 * len(at) >= len(names) - at[0]), [])
    return found if found and found[0] <= _MAX_LEFT and _are_dates([names[k] for k in found]) else []


def _numbered_from(names: list[str]) -> int | None:
    """Return where names numbered one after the other begin (V1, V2, ...; d_1, d_2, ...), at least at the second."""
    found = [re.fullmatch(r"(.*?)(\d+)", name) for name in names]
    first = len(names)
    for k in range(len(names) - 1, -1, -1):
        this, after = found[k], found[k + 1] if k + 1 < len(names) else None
        if this is None or (after and (this[1] != after[1] or int(this[2]) + 1 != int(after[2]))):
            break
        first = k
    if len(names) - first < _MIN_NUMBERED:
        return None
    head = found[first]
    if head is None or (not head[1] and int(head[2]) > 1):
        return None
    return max(first, 1) if first <= _MAX_LEFT else None


def _are_dates(names: list[str]) -> bool:
    if len(names) < _MIN_DATES or not all(_STAMP.fullmatch(name) for name in names):
        return False
    try:
        stamps = _stamps(names, None)
    except DataError:
        return True  # dates whose order of day and month is open
    if stamps is None:
        return False
    steps = np.diff(stamps.times)
    years = all(re.fullmatch(r"\d{4}", name) for name in names)
    return (not years or _are_years(names)) and bool((steps > 0).all() or (steps < 0).all())


def _are_years(names: list[str]) -> bool:
    """Return True for numbers at one distance, some of them perhaps left out; codes of stocks have no even step."""
    steps = [int(b) - int(a) for a, b in itertools.pairwise(names)]
    usual = max(set(steps), key=steps.count)
    return usual != 0 and 2 * steps.count(usual) >= len(steps) and all(step % usual == 0 for step in steps)


def _stamps(names: list[str], dayfirst: bool | None, date_format: str | None = None) -> Stamps | None:
    """Parse column names as time stamps; None if they are none. The World Bank writes 1960 [YR1960], R writes X1960."""
    texts = [re.sub(r"^X(?=\d{4})| \[YR\d{4}\]$", "", name) for name in names]
    try:
        return parse_stamps(pa.array(texts, pa.string()), dayfirst=dayfirst, date_format=date_format)
    except BadCell:
        return None


def find_wide(raw: RawTable) -> Wide | None:
    """Return how to read a table whose rows are series, or None if its rows are times.

    Without `--format wide` the header decides, and where it only numbers the columns, the first column must hold a
    different text in each row. DataError if months or weeks run down and years across.
    """
    path, table, options = raw.path, raw.cells, raw.options
    names = table.column_names
    forced = options.format == "wide"
    _tell_hours(raw)
    if not forced and (options.format is not None or options.timestamp_column is not None):
        return None
    span = header_span(names, options.date_format)
    if not forced and is_market(names):
        return None
    if not forced and span is None:
        _refuse_periods_across(raw)
        return None
    span = span if span is not None else _text_columns(raw)
    left, columns = names[:span], [name for name in names[span:] if name.strip() and not name.startswith("unnamed_")]
    among = _dates_among(names)
    beside = [name for k, name in enumerate(names) if k >= span and k not in among] if among else []
    columns = [name for name in columns if name not in beside]
    stamps = _header_stamps(raw, [name.strip() for name in columns])
    if stamps is not None:
        _refuse_periods_down(raw, left, columns)
    if not forced and not _names_rows(raw, left, dated=stamps is not None):
        return None
    if not left or not columns:
        raise DataError(f"{path}: --format wide needs a column that names the row, then columns of values (it has "
                        f"{', '.join(map(repr, names[:5]))}).")  # fmt: skip
    if stamps is not None and stamps.times[0] > stamps.times[-1]:
        columns, stamps = columns[::-1], Stamps(stamps.times[::-1], stamps.clock, stamps.offsets)
    if stamps is not None and len(left) == 1 and _are_dates([name.strip() for name in [*left, *columns]]):
        raise DataError(f"{path}: columns {names[0]!r} to {columns[-1]!r} are all times, so no column names the row. "
                        "Put a column of names before them.")  # fmt: skip
    return Wide(left, columns, stamps, beside)


def _header_stamps(table: RawTable, names: list[str]) -> Stamps | None:
    """Return the times that columns are named after, None for names that only number them."""
    options = table.options
    if options.date_format is not None and (stamps := _stamps(names, None, options.date_format)) is not None:
        return stamps
    try:
        return _stamps(names, options.dayfirst) if _are_dates(names) else None
    except DataError as error:
        raise DataError(f"{table.path}: the header: {error}") from None


def _text_columns(table: RawTable) -> int:
    """Return the number of columns at the left that hold text, at least one."""
    names = table.cells.column_names
    count = 0
    while count < len(names) - 1 and not _all_numbers(table, names[count]):
        count += 1
    return max(count, 1)


def _all_numbers(table: RawTable, name: str) -> bool:
    try:
        return to_numbers(table.texts(name)) is not None
    except BadCell:
        return False


def _names_rows(table: RawTable, left: list[str], *, dated: bool) -> bool:
    """Return True if the columns at the left name series rather than times."""
    if any(plain(name) in FINE_STAMPS for name in left):
        return False
    if dated:
        return True
    if any(plain(name) in _PERIODS for name in left) or _all_numbers(table, left[0]):
        return any(_distinct(table.texts(name)) and not _all_numbers(table, name) for name in left[1:])
    first = table.texts(left[0])
    try:
        parse_stamps(first, dayfirst=True)
    except BadCell:
        return _distinct(first)
    return False


def _distinct(cells: pa.Array) -> bool:
    return pc.count_distinct(cells).as_py() == len(cells)


def _refuse_periods_down(table: RawTable, left: list[str], columns: list[str]) -> None:
    """Raise DataError if rows are the months of a year, and columns years: neither is a series."""
    down = next((name for name in left if plain(name) in _PERIODS), None)
    if down is None and table.cells.num_rows <= 12:
        names = pc.extract_regex(table.texts(left[0]), pattern=r"^\s*(?P<name>\p{L}+)")
        down = left[0] if (month_numbers(pc.struct_field(names, "name")) > 0).all() else None
    if down is not None:
        raise DataError(
            f"{table.path}: rows are parts of a year (column {down!r}), columns are years ({columns[0]} to "
            f"{columns[-1]}), so one series is laid out over the whole table. Write two columns, a date and a value."
        )


def _refuse_periods_across(table: RawTable) -> None:
    """Raise DataError if columns are the months or quarters of a year, so that rows are no times; see --format table.

    A table whose rows have dates of their own keeps its columns.
    """
    names, options = table.cells.column_names, table.options
    if options.columns or options.target or any(plain(name) in FINE_STAMPS for name in names):
        return
    for what, numbers in (("months", _months_of(names)), ("quarters", _quarters_of(names))):
        first = numbers.find("".join(map(chr, range(1, 13 if what == "months" else 5))))
        if first < 1:
            continue
        last = first + (11 if what == "months" else 3)
        raise DataError(
            f"{table.path}: columns {names[first]!r} to {names[last]!r} are the {what} of a year, so a series is laid "
            "out over the whole table. Write two columns, a date and a value; --format table reads each column as a "
            "series of its own, --format wide each row."
        )


def _tell_hours(table: RawTable) -> None:
    """Note columns that are the hours of a day: each is read as a series of its own, with one value a day."""
    names = table.cells.column_names
    if table.options.format is not None or not any(plain(name) in FINE_STAMPS for name in names):
        return
    found = [_HOURS.fullmatch(name.strip().lower()) for name in names]
    hours = [int(match[1]) if match else -1 for match in found]
    for first in range(len(names) - 23):
        if hours[first] in (0, 1) and hours[first : first + 24] == list(range(hours[first], hours[first] + 24)):
            table.note(
                Code.HOURS_AS_COLUMNS,
                f"columns {names[first]!r} to {names[first + 23]!r} look like the hours of a day; each is read as a "
                "series of its own, with one value a row. If they are one series, write two columns, a stamp and a "
                "value",
            )


def _months_of(names: Sequence[str]) -> str:
    """Return a character for each name: that of the number of the month, or of 0."""
    return "".join(map(chr, month_numbers(pa.array([name.strip().rstrip(".") for name in names], pa.string()))))


def _quarters_of(names: Sequence[str]) -> str:
    found = (_QUARTERS.fullmatch(name.strip().lower()) for name in names)
    return "".join(chr(int(match[1] or match[2])) if match else "\0" for match in found)


def wide_parts(table: RawTable, wide: Wide) -> Iterator[Part]:
    """Yield one part for each row of a table whose rows are series; its value column is `target`."""
    options = table.options
    other = [
        name
        for name in (*options.target, *options.columns, *options.categorical, *dict(options.column).values())
        if name != "target"
    ]
    if other or options.timestamp_column is not None:
        name = other[0] if other else options.timestamp_column
        raise DataError(
            f"{table.path}: rows are series, so the only value column is 'target', and columns are times; {name!r} "
            "cannot be chosen. If rows are times, say --format table."
        )
    ids, used = _ids(table, wide.left)
    values = _values(table, wide.columns)
    times, clock = None, "none"
    if wide.stamps is not None:
        try:
            stamps = wide.stamps if options.timezone is None else localise(wide.stamps, options.timezone)
        except DataError as error:
            raise DataError(f"{table.path}: {error}") from None
        times, clock = stamps.times, stamps.clock
        table.notes.extend(stamps.notes)
    rest = [name or "without name" for name in (*wide.left, *wide.beside) if name not in used]
    text = (
        f"rows are series: {len(ids):,} items named by {' and '.join(map(repr, used))}, {len(wide.columns):,} "
        f"times from column {wide.columns[0]!r} to {wide.columns[-1]!r}"
        + (f"; left out: {', '.join(rest[:12])}" if rest else "")
    )
    table.note(Code.ROWS_ARE_SERIES, text)
    for k, item in enumerate(ids):
        row = values[k : k + 1]
        empty = frozenset(["target"]) if np.isnan(row).all() else frozenset()
        yield Part(item, ("target",), row, times, np.full(len(wide.columns), table.lines[k]), clock, empty=empty)


def _ids(table: RawTable, left: list[str]) -> tuple[list[str], list[str]]:
    """Return the id of each row and the columns that make it: one whose cells all differ, else all texts joined."""
    path, lines, options = table.path, table.lines, table.options
    chosen = list(id_columns(path, table.cells.column_names, options))
    texts = {name: [str(cell or "") for cell in table.texts(name).to_pylist()] for name in left + chosen}
    names = chosen or [name for name in left if not _all_numbers(table, name)] or left[-1:]
    named = [name for name in names if plain(name) in ID_NAMES]
    single = [name for name in named + names if len(set(texts[name])) == len(lines) and "" not in texts[name]]
    used = chosen or single[:1] or names
    ids = ["/".join(filter(None, cells)) for cells in zip(*(texts[name] for name in used), strict=True)]
    seen: dict[str, int] = {}
    for k, item in enumerate(ids):
        if not item:
            raise DataError(
                f"{path}: line {lines[k]}: no item id in column {used[0]!r}. Name the item, or drop the row."
            )
        if item in seen:
            raise DataError(
                f"{path}: rows are series, and lines {lines[seen[item]]} and {lines[k]} both give the item {item!r}. "
                "Name with --id-column the columns that tell the rows apart."
            )
        seen[item] = k
    return ids, list(used)


def _values(table: RawTable, columns: list[str]) -> npt.NDArray[np.float32]:
    """Return (N, T) values. All cells are read together, since one spelling of numbers holds for the whole table."""
    path, rows = table.path, table.cells.num_rows
    cells = pa.concat_arrays([table.texts(name) for name in columns])
    try:
        numbers = to_numbers(cells, table.options.na_values, table.options.decimal)
        if numbers is not None:
            refuse_thousands(cells, table.options.decimal)
    except BadCell as bad:
        column, row = divmod(bad.row, rows)
        raise table.error(columns[column], BadCell(row, bad.text, bad.why)) from None
    if numbers is None:
        raise DataError(
            f"{path}: columns {columns[0]!r} to {columns[-1]!r} hold no numbers, first {str(cells[0])[:40]!r}."
        )
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(numbers.reshape(len(columns), rows).T, np.float32)
