"""Parse time stamps by a pattern that the user gives, in the directives of strptime."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from foretrain.data.importers.cells import BadCell
from foretrain.data.windows import NO_TIME, IntArray
from foretrain.errors import DataError
from foretrain.timeaxis.frequency import MINUTE

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see

_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_WEEKDAYS = {"u", "w", "a", "A"}


def check_date_format(pattern: str) -> None:
    """Raise DataError for a pattern that strptime cannot read, or whose parts it would ignore."""
    directives = _directives(pattern)
    way_out = "use for example '%d/%m/%y' or '%Y-%m-%d %H:%M'"
    if not directives & {"Y", "y", "G", "c", "x"}:
        raise DataError(f"date_format {pattern!r} has no year; {way_out}.")
    if "Z" in directives:
        raise DataError(
            f"date_format {pattern!r}: names of time zones are not unique. Write the name as it stands in the cells "
            "instead of %Z, and name the zone with --timezone."
        )
    if ("p" in directives) != ("I" in directives):
        raise DataError(f"date_format {pattern!r}: %I (hours of 1 to 12) and %p (AM or PM) belong together.")
    try:
        datetime.strptime("", _with_weekday(pattern)[0])
    except re.error:  # of the pattern that strptime makes of it
        raise DataError(f"date_format {pattern[:60]!r} names a part of the time twice; {way_out}.") from None
    except ValueError as error:
        if "does not match" not in str(error):
            raise DataError(f"date_format {pattern!r} cannot be read ({error}); {way_out}.") from None


def _directives(pattern: str) -> set[str]:
    return set(re.findall(r"%(.)", pattern.replace("%%", "")))


def _with_weekday(pattern: str) -> tuple[str, str]:
    """Return the pattern and the text to append, so that a week without a weekday is its first day."""
    directives = _directives(pattern)
    if directives & _WEEKDAYS or not directives & {"V", "W", "U"}:
        return pattern, ""
    return (f"{pattern} %w", " 0") if "U" in directives else (f"{pattern} %u", " 1")


def format_times(cells: pa.Array, pattern: str) -> tuple[IntArray, IntArray, tuple[int, ...] | None]:
    """Return local (T,) microseconds of cells in a pattern, NO_TIME for a null, their UTC ones, and the offsets.

    At least one cell is not null. Offsets (minutes) are None for a pattern without %z; local and UTC are then equal.
    Raises BadCell at the first cell that does not match.
    """
    encoded = pc.dictionary_encode(cells)
    full, suffix = _with_weekday(pattern)
    local, shift = [], []
    aware = "z" in _directives(pattern)
    for code, text in enumerate(encoded.dictionary.to_pylist()):
        try:
            found = datetime.strptime(text + suffix, full)
        except ValueError:
            row = int(np.asarray(pc.fill_null(pc.equal(encoded.indices, code), False)).argmax())
            raise BadCell(row, text, f"not in the form of --date-format {pattern!r}") from None
        offset = found.utcoffset() or timedelta()
        local.append((found.replace(tzinfo=None) - _EPOCH) // _MICROSECOND)
        shift.append(offset // timedelta(minutes=1))
    present = np.asarray(pc.is_valid(encoded.indices))
    code = np.asarray(pc.fill_null(encoded.indices, 0))
    times = np.where(present, np.array(local, np.int64)[code], NO_TIME)
    utc = np.where(present, times - np.array(shift, np.int64)[code] * MINUTE, NO_TIME)
    return times, utc, tuple(sorted(set(shift))) if aware else None
