"""The time column of a frame: stamps, whole numbers that count steps, periods, or text as an import reads it.

# T rows
"""

from __future__ import annotations

import datetime
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from foretrain.data.importers.cells import BadCell
from foretrain.data.importers.stamps import Stamps, number_stamps, parse_stamps
from foretrain.errors import DataError
from foretrain.forecasting.checks import is_text, without_flags
from foretrain.notes import Code, Note, warn
from foretrain.timeaxis.clock_changes import may_repeat
from foretrain.timeaxis.frequency import DAY_NAMES, Frequency
from foretrain.timeaxis.future import READ_TABLE

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)

LARGEST_STEP = 2**62


@dataclass(frozen=True)
class Times:
    """values (T,): DatetimeIndex, or int64 array of step numbers. freq: that of periods."""

    values: Any
    freq: str | None = None


def read_times(column: Any, which: str, like: Any = None) -> Times:
    """Convert a frame's time column; which names the frame in errors.

    Text is read as an import reads it, in one layout that fits the whole column, or together with `like`, the column of
    the history; stamps with several UTC offsets become UTC. A period is its first instant. Raises DataError.
    """
    import pandas as pd
    from pandas.api import types

    name = column.name
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    kind = types.infer_dtype(column, skipna=True) if column.dtype == object else ""
    if kind == "period":
        column, kind = column.astype(pd.PeriodIndex(column).dtype), ""
    if isinstance(column.dtype, pd.PeriodDtype):
        return Times(pd.DatetimeIndex(column.dt.start_time), _period_alias(column.dtype.freq))
    if kind == "boolean" or types.is_bool_dtype(column.dtype):
        raise DataError(f"{which}: column {name!r} is boolean, neither time stamps nor step numbers. {READ_TABLE}")
    if kind in ("integer", "floating", "mixed-integer-float", "decimal") or types.is_numeric_dtype(column.dtype):
        return Times(_steps(column, which))
    if is_text(column):
        return Times(_text(column, which, like))
    if kind in ("", "date", "datetime", "datetime64"):
        return Times(_stamps(column, which))
    row, other = _odd_one(column)
    raise DataError(
        f"{which}: column {name!r} does not hold time stamps: row {row} has {repr(column.iloc[row])[:60]}{other}. "
        f"Convert the column with pandas.to_datetime. {READ_TABLE}"
    )


def _odd_one(column: Any) -> tuple[int, str]:
    """Return the first row whose cell has another type than the first cell, and words for that cell."""
    kinds = [type(value) for value in column]
    row = next((row for row, kind in enumerate(kinds) if kind is not kinds[0]), 0)
    return row, f" and row 0 has {repr(column.iloc[0])[:60]}" if row else ""


def _steps(column: Any, which: str) -> Any:
    name = column.name
    if column.dtype.kind == "i":
        return _warned(column.to_numpy(np.int64), name, which)
    cells = column.to_list()
    wrong = next((i for i, cell in enumerate(cells) if not (abs(cell) < LARGEST_STEP and cell % 1 == 0)), None)
    if wrong is not None and abs(cells[wrong]) < LARGEST_STEP:  # pandas reads 0.5 as half a nanosecond after 1970
        raise DataError(
            f"{which}: column {name!r} has fractions; count steps in whole numbers (row {wrong} has {cells[wrong]!r}). "
            f"{READ_TABLE}"
        )
    if wrong is not None:
        raise DataError(f"{which}: column {name!r} counts no steps: row {wrong} has {cells[wrong]!r}. {READ_TABLE}")
    return _warned(np.array([int(cell) for cell in cells], np.int64), name, which)


def _warned(values: Any, name: str, which: str) -> Any:
    """Return step numbers, with a note if they look like times."""
    if number_stamps(values) is not None or _are_months(values):
        text = (
            f"{which}: the numbers of column {name!r} are counted as steps but look like unix times or dates; convert "
            f"them with pandas.to_datetime. {READ_TABLE}"
        )
        warn(_log, Note(Code.STEPS_LOOK_LIKE_TIMES, text))
    return values


def _are_months(values: Any) -> bool:
    """Return True for numbers like 202012, which an import reads as months under the name of a time."""
    year, month = values // 100, values % 100
    return len(values) > 1 and bool(((year >= 1900) & (year < 2100) & (month >= 1) & (month <= 12)).all())


def _stamps(column: Any, which: str) -> pd.DatetimeIndex:
    """Convert a column of stamps, dates or datetime objects; several UTC offsets become UTC."""
    import pandas as pd

    try:
        if column.dtype == object:
            zones = {getattr(value, "tzinfo", None) is not None for value in column}
            if zones == {True}:
                same = len({str(value.tzinfo) for value in column}) == 1
                return pd.DatetimeIndex(pd.to_datetime(column, utc=not same))
            if zones == {False} and all(isinstance(value, datetime.date) for value in column):
                return pd.DatetimeIndex(np.array(column.to_list(), "datetime64[us]"))  # any year of the calendar
            if zones == {True, False}:
                row, other = next(
                    (row, value)
                    for row, value in enumerate(column)
                    if (value.tzinfo is None) != (column.iloc[0].tzinfo is None)
                )
                raise DataError(
                    f"{which}: column {column.name!r} mixes stamps with and without a time zone (row 0 has "
                    f"{column.iloc[0]!s}, row {row} has {other!s}); localise the naive ones."
                )
        return pd.DatetimeIndex(pd.to_datetime(column))
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        reason = " ".join(str(error).split(". ")[0].split())
        raise DataError(f"{which}: column {column.name!r} does not hold time stamps: {reason}. {READ_TABLE}") from None


def _text(column: Any, which: str, like: Any) -> pd.DatetimeIndex:
    import pandas as pd
    import pyarrow as pa

    def parse(cells: list[Any]) -> Stamps:
        return parse_stamps(pa.array([None if cell is None else str(cell) for cell in cells], pa.string()))

    cells = column.to_list()
    before = [] if like is None or not is_text(like) else like.to_list()
    try:
        try:
            found = parse([*before, *cells])
        except (BadCell, DataError):
            if not before:
                raise
            before = []  # in another layout than the history, but perhaps in one
            found = parse(cells)
    except BadCell as bad:
        raise DataError(
            f"{which}: column {column.name!r} does not hold time stamps: row {bad.row} has {bad.text!r}, "
            f"{without_flags(bad.why)}. Convert it with pandas.to_datetime(..., format=...), or with "
            "pandas.to_numeric if it counts steps. "
            f"{READ_TABLE}"
        ) from None
    except DataError as error:
        raise DataError(
            f"{which}: column {column.name!r}: {without_flags(str(error))}. Convert it with pandas.to_datetime(..., "
            "dayfirst=...) or (..., format=...), or read the file with foretrain.read_table(FILE, dayfirst=...) or "
            "(FILE, date_format=...)."
        ) from None
    times = pd.DatetimeIndex(found.times[len(before) :].view("datetime64[us]"))
    if times.isna().any():
        row = int(np.asarray(times.isna()).argmax())
        raise DataError(
            f"{which} has a row without {column.name} (row {row} has {cells[row]!r}); fill it in or drop the row. "
            f"{READ_TABLE}"
        )
    return times.tz_localize("UTC") if found.clock == "utc" else times


def _period_alias(freq: Any) -> str:
    """Return the alias of the first instants of periods: M is MS, and weeks that end on Sunday start on Monday."""
    found = Frequency.parse(freq.freqstr, edge="S")
    if found.base.endswith("E"):  # pandas names periods of months by their ends in some versions
        found = Frequency.parse(freq.freqstr.replace("E", "", 1), edge="S")
    if found.base != "W":
        return found.alias
    end = DAY_NAMES.index(found.anchor or "SUN")
    return Frequency(found.multiple, "W", DAY_NAMES[(end + 1) % 7]).alias


def changed_hour(times: Any, twice: Any) -> str:
    """Return a hint if naive stamps that occur twice lie in an hour that a clock change may have repeated, else ""."""
    if isinstance(times, np.ndarray) or times.tz is not None or not len(twice):
        return ""
    if not may_repeat(times[twice].as_unit("us").asi8) or not (times.hour != 0).any():
        return ""
    return (
        " A clock change repeats that hour: give the stamps their time zone with Series.dt.tz_localize(ZONE, "
        'ambiguous="infer"), or read the file with foretrain.read_table(FILE, timezone=ZONE).'
    )
