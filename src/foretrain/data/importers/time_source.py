"""A table asked for its times: the stamps of one column, step numbers, and whether times repeat within items.

# T rows
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from foretrain.data.importers.cells import BadCell, is_number_text, to_numbers
from foretrain.data.importers.columns import Roles, plain
from foretrain.data.importers.epochs import are_excel_serials, excel_times
from foretrain.data.importers.raw_table import RawTable, is_text
from foretrain.data.importers.stamps import Stamps, arrow_stamps, number_stamps, parse_stamps
from foretrain.data.importers.time_names import DATE_NAMES, PARTS, SMALLER_PARTS, YEAR_NAMES, YEARS_WITH
from foretrain.data.windows import NO_TIME, IntArray
from foretrain.errors import DataError
from foretrain.notes import Code, Note

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see

_YEARS = (1500, 2200)  # whole numbers between are years under the name of a date or a year
_MOST_SMALL = 2_200_366  # above months like 202001, days like 2020366 and serial dates
_YEARMONTH = r"^(1[5-9]|20|21)\d\d(0[1-9]|1[0-2])$"
_YEARWEEK = r"^(19|20)\d\d(0[1-9]|[1-4]\d|5[0-3])$"
_YEARQUARTER = r"^(19|20)\d\d[1-4]$"
FEW_REPEATS = 0.01  # share of rows that may be written twice, or lie in the hour that clocks repeat


class Source:
    """A table, the columns that may hold its times, and what is asked of them several times."""

    def __init__(self, table: RawTable, roles: Roles) -> None:
        self.table, self.roles = table, roles
        options = table.options
        market = {name for name, final in roles.values if name != final and plain(name) not in SMALLER_PARTS}
        values = {*options.columns, *options.target, *options.categorical}
        names = [name for name in table.cells.column_names if name not in {*roles.item, *market, *values}]
        self.free: dict[str, str] = {}
        for name in names:
            self.free.setdefault(plain(name), name)
        self._items: IntArray | None = None

    def repeats(self, times: IntArray, *others: npt.NDArray[Any]) -> int:
        """Return the number of rows whose time, together with other columns, occurred before in the same item."""
        present = times != NO_TIME
        held = times[present]
        if len(held) < 2 or (np.diff(held) > 0).all():
            return 0
        keys = [held, self.items[present], *(other[present] for other in others)]
        order = np.lexsort(keys)
        same = np.logical_and.reduce([np.diff(key[order]) == 0 for key in keys])
        return int(same.sum())

    def is_unique(self, times: IntArray) -> bool:
        """Return True if times hardly repeat within an item: a row written twice makes them no birthdays."""
        count = self.repeats(times)
        return count == 0 or count <= min(max(3, FEW_REPEATS * len(times)), len(times) / 10)

    @property
    def items(self) -> IntArray:
        """Number (T,) of the item of each row."""
        if self._items is None:
            found = np.zeros(self.table.cells.num_rows, np.int64)
            for name in self.roles.item:
                own = codes(self.table.texts(name))
                found = (
                    own
                    if len(self.roles.item) == 1
                    else np.unique(found * (own.max() + 2) + own, return_inverse=True)[1]
                )
            self._items = found
        return self._items

    def read(self, name: str, *, strict: bool) -> Stamps | None:
        """Parse the stamps of a column; None if it holds counts or, unless strict, anything else but stamps."""
        table, options = self.table, self.table.options
        column = table.column(name)
        kind = column.type
        if not column.null_count < len(column) or pa.types.is_time(kind):
            return None
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            if strict and (options.date_format or options.time_unit):
                raise DataError(f"{table.path}: column {name!r} holds stamps, not text or numbers; leave --date-format "
                                "and --time-unit out.")  # fmt: skip
            return arrow_stamps(column, f"{table.path}: column {name!r}")
        try:
            if options.date_format is None and options.time_unit is None:
                if (stamps := self._small(name)) is not None:
                    return stamps
                if table.is_count(name):
                    return None
            if options.date_format is None and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                values = np.asarray(column.to_numpy(zero_copy_only=False))
                present = np.asarray(pc.is_valid(column))
                stamps = number_stamps(values, present, time_unit=options.time_unit, strict=strict)
                if stamps is not None and pa.types.is_floating(kind) and kind.bit_width < 64:
                    raise DataError(f"numbers of type {kind} are too coarse for times; write them in 64 bits.")
                return stamps
            stamps = parse_stamps(
                table.texts(name),
                dayfirst=options.dayfirst,
                na_values=options.na_values,
                date_format=options.date_format,
                time_unit=options.time_unit,
            )
        except BadCell as bad:
            if not strict:
                return None
            raise table.error(name, bad) from None
        except DataError as error:
            raise DataError(f"{table.path}: column {name!r}: {error}") from None
        return stamps if (stamps.times != NO_TIME).any() else None

    def _small(self, name: str) -> Stamps | None:
        """Read years, months like 202001 and Excel's serial dates under the name of a date; None for other counts."""
        known = plain(name)
        numbers = numbers_of(self.table, name)
        if numbers is None or np.isnan(numbers).all():
            return None
        held = numbers[~np.isnan(numbers)]
        if held.min() < 0 or held.max() > _MOST_SMALL:
            return None
        text = pa.array(np.nan_to_num(numbers).astype(np.int64)).cast(pa.string())
        text = pc.if_else(pa.array(~np.isnan(numbers)), text, pa.scalar(None, pa.string()))
        whole = bool((held % 1 == 0).all())
        if whole and (held >= _YEARS[0]).all() and (held <= _YEARS[1]).all():
            named = known in PARTS["year"] or name == self.table.options.timestamp_column
            years = parse_stamps(text) if named or known in (*DATE_NAMES, *YEAR_NAMES) else None
            return years if years is not None and (named or not self.repeats(years.times)) else None
        if whole and (stamps := _parts_of_years(text, known)) is not None:
            return stamps
        short = pc.all(pc.match_substring_regex(text, pattern=r"^\d{2}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])$")).as_py()
        if whole and short and known in DATE_NAMES and len(held) > 1:
            raise DataError(f"numbers like {int(held[0])} may be dates of two-digit years; say --date-format '%y%m%d'.")
        days = pc.all(pc.match_substring_regex(text, pattern=r"^(1[5-9]|20|21)\d\d[0-3]\d\d$")).as_py()
        if whole and days and known in DATE_NAMES:
            return parse_stamps(pc.replace_substring_regex(text, pattern=r"^(....)", replacement=r"\1-"))
        if known in DATE_NAMES and are_excel_serials(numbers):
            times = excel_times(numbers)
            if not self.repeats(times):
                note = Note(Code.EXCEL_SERIALS, f"{held.min():g} to {held.max():g} are read as Excel's serial dates, "
                            "days since 1899-12-30", {"rows": len(held)})  # fmt: skip
                return Stamps(times, "naive" if (held % 1 != 0).any() else "dates", notes=(note,))
        return None

    def steps(self, name: str) -> IntArray:
        """Return the step numbers (T,) of a column. Raises DataError for other cells."""
        numbers = numbers_of(self.table, name)
        if numbers is None or np.isnan(numbers).any() or (numbers % 1 != 0).any():
            raise DataError(
                f"{self.table.path}: column {name!r} is taken for step numbers, but holds other cells; "
                "--timestamp-column names the time."
            )
        return numbers.astype(np.int64)


def _parts_of_years(text: pa.Array, known: str) -> Stamps | None:
    """Read numbers like 202012, 202053 and 20204 as months, weeks and quarters where the name fits them; else None."""
    readings = {
        "week": (_YEARWEEK, (*PARTS["week"], *YEARS_WITH["week"]), r"\1-W"),
        "quarter": (_YEARQUARTER, (*PARTS["quarter"], *YEARS_WITH["quarter"]), r"\1Q"),
        "month": (_YEARMONTH, (*DATE_NAMES, *PARTS["month"], *YEAR_NAMES, *YEARS_WITH["month"]), r"\1-"),
        "week of a date": (_YEARWEEK, DATE_NAMES, r"\1-W"),
    }
    for part, (pattern, names, into) in readings.items():
        if known not in names or not pc.all(pc.match_substring_regex(text, pattern=pattern)).as_py():
            continue
        try:
            stamps = parse_stamps(pc.replace_substring_regex(text, pattern=r"^(....)", replacement=into))
        except BadCell:
            continue  # a week that its year does not have
        if part == "month":
            return stamps
        first = str(text[int(np.asarray(pc.is_valid(text)).argmax())])
        how = "quarters" if part == "quarter" else "ISO weeks, by their Monday"
        note = Note(Code.TIME_OF_PARTS, f"numbers like {first} are a year and its part; they are read as {how}")
        return replace(stamps, notes=(note,))
    return None


def codes(cells: pa.Array) -> IntArray:
    """Return a number (T,) for each text, -1 for a null."""
    return np.asarray(pc.fill_null(pc.dictionary_encode(cells).indices, -1)).astype(np.int64)


def numbers_of(table: RawTable, name: str) -> npt.NDArray[np.float64] | None:
    """Return the numbers (T,) of a column, NaN where blank; None if it holds anything else."""
    column = table.column(name)
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return np.array(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    if not is_text(kind):
        return None
    present = column.drop_null()
    if len(present) and not is_number_text(str(present[0])) and str(present[0]).strip():
        return None
    try:
        return to_numbers(column.cast(pa.string()), table.options.na_values)
    except BadCell:
        return None
