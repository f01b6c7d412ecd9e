"""Parse text and numbers to time stamps in int64 microseconds, with the kind of clock and UTC offsets.

One layout must fit the whole column, so the other rows decide how 01/02/2020 is read; otherwise it is an error.

# T cells of a column
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from foretrain.data.importers.cells import BadCell, blank_as_null
from foretrain.data.windows import NO_TIME, IntArray
from foretrain.errors import DataError
from foretrain.timeaxis.frequency import DAY, SECOND
from foretrain.timeaxis.grid import iso

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see

Clock = Literal["dates", "naive", "utc"]

_TIME = (
    r"(?:[T ,]+(?P<h>\d{1,2})(?::(?P<mi>\d{2}))?(?::(?P<s>\d{2})(?:[.,](?P<f>\d{1,9}))?)?"
    r"(?:[ -]?(?P<ap>[AaPp][Mm]))?)?\s*(?P<z>Z|UTC|GMT|[-+]\d{2}:?\d{2})?"
)
_LAYOUTS = {
    "ymd": r"^(?P<y>\d{4})[-/.](?P<a>\d{1,2})[-/.](?P<b>\d{1,2})" + _TIME + "$",
    "compact": r"^(?P<y>\d{4})(?P<a>\d{2})(?P<b>\d{2})(?:[T ]?(?P<h>\d{2}):?(?P<mi>\d{2})?:?(?P<s>\d{2})?)?"
    r"(?:\.0+)?(?P<z>Z|[-+]\d{2}:?\d{2})?$",
    "parts": r"^(?P<a>\d{1,2})[-/.](?P<b>\d{1,2})[-/.](?P<y>\d{4})" + _TIME + "$",
    "month": r"^(?P<y>\d{4})[-/](?P<a>\d{1,2})$",
    "quarter": r"^(?P<y>\d{4})[- ]?[Qq](?P<q>[1-4])$",
    "year": r"^(?P<y>\d{4})(?:\.0)?$",
    "day_name": r"^(?P<b>\d{1,2})[- ](?P<n>[A-Za-z]{3})[a-z]*[-, ]+(?P<y>\d{4})" + _TIME + "$",
    "name_day": r"^(?P<n>[A-Za-z]{3})[a-z]*\.? (?P<b>\d{1,2}),? (?P<y>\d{4})" + _TIME + "$",
    "name_year": r"^(?P<n>[A-Za-z]{3})[a-z]*[- ](?P<y>\d{4})$",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_EPOCHS = ((1e17, 1e-3), (1e14, 1), (1e11, 1e3), (1e8, 1e6))  # smallest magnitude of ns, us, ms, s; factor to us


@dataclass(frozen=True)
class Stamps:
    """Parsed times (T,) in microseconds, NO_TIME where blank; clock: plain dates, naive local times or UTC.

    offsets: minutes east of UTC that occur in the column, empty without any.
    """

    times: IntArray
    clock: Clock
    offsets: tuple[int, ...] = ()


def parse_stamps(cells: pa.Array, *, dayfirst: bool | None = None, na_values: tuple[str, ...] = ()) -> Stamps:
    """Parse text cells in one layout: ISO, compact, day or month first, month names, quarters, unix times.

    Raises BadCell at the first cell that is not a stamp in this layout, DataError if the layout is ambiguous.
    """
    cells = blank_as_null(cells, na_values)
    present = np.asarray(pc.is_valid(cells))
    if not present.any():
        return Stamps(np.full(len(cells), NO_TIME), "dates")
    try:
        times = np.asarray(pc.cast(pc.cast(cells, pa.timestamp("us")), pa.int64()).fill_null(int(NO_TIME)))
        return _naive(times, present)
    except pa.ArrowInvalid:
        pass  # not plain ISO without offsets
    plain = pc.replace_substring_regex(cells, pattern=r"^(\d+)\.0+$", replacement=r"\1")
    plain = pc.replace_substring_regex(plain, pattern=r"^(.*\d)[ -](\d{1,2})-([AaPp][Mm])$", replacement=r"\1 \2 \3")
    if np.asarray(pc.fill_null(pc.match_substring_regex(plain, pattern=r"^-?\d{9,19}(\.\d+)?$"), True)).all():
        unix = _unix(plain, present)
        if unix is not None:
            return unix
    first = str(plain[int(present.argmax())])
    for name, pattern in _LAYOUTS.items():
        if not re.match(pattern, first):
            continue
        found = pc.extract_regex(plain, pattern=pattern)
        fits = np.asarray(pc.is_valid(found))
        if not (fits == present).all():
            row = int((present & ~fits).argmax())
            raise BadCell(row, str(cells[row]), f"not a time stamp like the first one ({first})")
        return _assemble(name, found, present, cells, dayfirst)
    raise BadCell(int(present.argmax()), first, "not a time stamp in any known layout")


def number_stamps(values: npt.NDArray[Any]) -> Stamps | None:
    """Parse whole numbers: unix s, ms, us or ns by magnitude, or dates like 20240131; None for small counts."""
    if not len(values) or abs(float(np.median(values))) < 1e7:
        return None
    try:
        return parse_stamps(pa.array([str(int(v)) for v in values.tolist()], pa.string()))
    except BadCell:
        return None


def arrow_stamps(column: pa.Array) -> Stamps:
    """Convert an Arrow timestamp or date column."""
    zone = getattr(column.type, "tz", None)
    present = np.asarray(pc.is_valid(column))
    micros = pc.cast(pc.cast(column, pa.timestamp("us", zone), safe=False), pa.int64())
    times = np.asarray(micros.fill_null(int(NO_TIME)))
    if zone is None:
        return _naive(times, present)
    local = pc.cast(pc.local_timestamp(pc.cast(column, pa.timestamp("us", zone), safe=False)), pa.int64())
    local = np.asarray(local.fill_null(int(NO_TIME)))
    minutes = np.unique((local[present] - times[present]) // (60 * SECOND))
    return _dates_if_midnight(times, present, local, tuple(int(m) for m in minutes))


def localise(stamps: Stamps, zone: str) -> Stamps:
    """Convert naive stamps of a zone to UTC; dates and UTC stamps are unchanged. DataError for a nonexistent time."""
    if stamps.clock != "naive":
        return stamps
    import pandas as pd

    present = stamps.times != NO_TIME
    local = pd.DatetimeIndex(stamps.times[present].astype("M8[us]"))
    try:
        try:
            moved = local.tz_localize(zone, ambiguous="infer")
        except ValueError as error:
            if "onexistent" in type(error).__name__:
                raise
            moved = local.tz_localize(zone, ambiguous=np.zeros(len(local), bool))  # standard time in the repeated hour
    except Exception as error:  # pandas and pytz raise different classes for a missing hour
        raise DataError(f"time zone {zone}: {' '.join(str(error).split())[:150]}. Is this the files' zone?") from None
    times = stamps.times.copy()
    times[present] = moved.tz_convert("UTC").tz_localize(None).to_numpy().astype("M8[us]").astype(np.int64)
    return replace(stamps, times=times, clock="utc")


def _naive(times: IntArray, present: npt.NDArray[np.bool_]) -> Stamps:
    return Stamps(times, "naive" if (times[present] % DAY).any() else "dates")


def _dates_if_midnight(
    times: IntArray, present: npt.NDArray[np.bool_], local: IntArray, offsets: tuple[int, ...]
) -> Stamps:
    """Return dates if all local times are midnight, else UTC: in UTC a local midnight can be on the day before."""
    if not (local[present] % DAY).any():
        return Stamps(np.where(present, local, NO_TIME), "dates", offsets)
    return Stamps(times, "utc", offsets)


def _unix(cells: pa.Array, present: npt.NDArray[np.bool_]) -> Stamps | None:
    """Parse unix times; None if all cells have the form YYYYMMDDHH or YYYYMMDDHHMM."""
    text = pc.fill_null(cells, "0")
    if np.asarray(
        pc.match_substring_regex(text, pattern=r"^0$|^(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])\d{2}(\d{2})?$")
    ).all():
        return None
    if np.asarray(pc.match_substring(text, ".")).any():
        values = np.asarray(pc.cast(text, pa.float64()))
        exact = np.round(values * 1e6).astype(np.int64)  # seconds with a fraction
        return Stamps(np.where(present, exact, NO_TIME), "utc", (0,))
    values = np.asarray(pc.cast(text, pa.int64()))
    size = float(np.median(np.abs(values[present])))
    factor = next(factor for least, factor in _EPOCHS if size >= least)
    times = values // 1000 if factor < 1 else values * int(factor)
    return _dates_if_midnight(np.where(present, times, NO_TIME), present, np.where(present, times, NO_TIME), (0,))


def _assemble(
    layout: str, found: pa.Array, present: npt.NDArray[np.bool_], cells: pa.Array, dayfirst: bool | None
) -> Stamps:
    names = {found.type.field(i).name for i in range(found.type.num_fields)}

    def number(name: str, default: int = 0) -> IntArray:
        if name not in names:
            return np.full(len(found), default, np.int64)
        text = pc.struct_field(found, name)
        text = pc.if_else(pc.equal(pc.fill_null(text, ""), ""), str(default), text)
        return np.asarray(pc.cast(text, pa.int64()))

    year, month, day = number("y", 1970), number("a", 1), number("b", 1)
    if "n" in names:
        name = pc.utf8_lower(pc.struct_field(found, "n"))
        month = np.asarray(pc.fill_null(pc.index_in(name, value_set=pa.array(_MONTHS)), -1)).astype(np.int64) + 1
    if "q" in names:
        month = 3 * number("q", 1) - 2
    if layout == "parts":
        month, day = _order(month, day, present, cells, dayfirst)
    days, valid = _day_numbers(year, month, day)
    hour, minute, second = _hours(number("h"), found, names), number("mi"), number("s")
    valid &= (hour < 24) & (minute < 60) & (second < 60)
    if (present & ~valid).any():
        row = int((present & ~valid).argmax())
        raise BadCell(row, str(cells[row]), "not a date that exists")
    local = days * DAY + ((hour * 60 + minute) * 60 + second) * SECOND + _fraction(found, names)
    local = np.where(present, local, NO_TIME)
    return _with_offset(local, present, found, names, cells)


def _day_numbers(year: IntArray, month: IntArray, day: IntArray) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """Return days since 1970, and a mask of dates that exist."""
    start = ((year - 1970) * 12 + np.clip(month, 1, 12) - 1).astype("M8[M]")
    length = ((start + 1).astype("M8[D]") - start.astype("M8[D]")).astype(np.int64)
    valid = (month >= 1) & (month <= 12) & (day >= 1) & (day <= length)
    return start.astype("M8[D]").astype(np.int64) + day - 1, valid


def _order(
    first: IntArray, second: IntArray, present: npt.NDArray[np.bool_], cells: pa.Array, dayfirst: bool | None
) -> tuple[IntArray, IntArray]:
    """Return (month, day) of dates written as two numbers and a year; the whole column decides their order."""
    day_leads, month_leads = bool((first[present] > 12).any()), bool((second[present] > 12).any())
    sample = str(cells[int(present.argmax())])
    if day_leads and month_leads:
        row = int((present & (second > 12)).argmax())
        raise BadCell(row, str(cells[row]), f"a month beyond 12, when the dates are read as day first like {sample}")
    dots = bool(re.match(r"\d{1,2}\.\d{1,2}\.", sample))  # dates with dots are always day first
    if not (day_leads or month_leads or dots) and dayfirst is None:
        raise DataError(
            f"dates like {sample} could be day first or month first, and no row decides; "
            "say which with --dayfirst or --monthfirst."
        )
    if dayfirst is not None and ((dayfirst and month_leads) or (not dayfirst and day_leads)):
        row = int((present & ((second if dayfirst else first) > 12)).argmax())
        raise BadCell(row, str(cells[row]), f"not a date when read {'day' if dayfirst else 'month'} first")
    leads = day_leads or (not month_leads and (dots if dayfirst is None else dayfirst))
    return (second, first) if leads else (first, second)


def _hours(hour: IntArray, found: pa.Array, names: set[str]) -> IntArray:
    if "ap" not in names:
        return hour
    half = pc.utf8_lower(pc.fill_null(pc.struct_field(found, "ap"), ""))
    twelve = np.where(hour == 12, 0, hour)
    afternoon = np.asarray(pc.equal(half, "pm"))
    return np.where(np.asarray(pc.equal(half, "")), hour, twelve + 12 * afternoon)


def _fraction(found: pa.Array, names: set[str]) -> IntArray:
    """Return the microseconds of the fractional digits of seconds."""
    if "f" not in names:
        return np.zeros(len(found), np.int64)
    digits = pc.fill_null(pc.struct_field(found, "f"), "")
    padded = pc.utf8_slice_codeunits(pc.utf8_rpad(digits, width=6, padding="0"), 0, 6)
    return np.asarray(pc.cast(padded, pa.int64()))


def _with_offset(
    local: IntArray, present: npt.NDArray[np.bool_], found: pa.Array, names: set[str], cells: pa.Array
) -> Stamps:
    if "z" not in names:
        return _naive(local, present)
    zone = pc.fill_null(pc.struct_field(found, "z"), "")
    named = np.asarray(pc.not_equal(zone, "")) & present
    if not named.any():
        return _naive(local, present)
    if (present & ~named).any():
        row = int((present & ~named).argmax())
        raise BadCell(row, str(cells[row]), "a stamp without offset among stamps with one")
    texts = pc.dictionary_encode(zone)
    minutes = np.array([_offset_minutes(text) for text in texts.dictionary.to_pylist()], np.int64)
    shift = minutes[np.asarray(texts.indices)]
    times = np.where(present, local - shift * 60 * SECOND, NO_TIME)
    return _dates_if_midnight(times, present, local, tuple(sorted({int(m) for m in shift[present]})))


def _offset_minutes(text: str) -> int:
    if not text or text[0] not in "+-":
        return 0
    digits = text[1:].replace(":", "")
    return (-1 if text[0] == "-" else 1) * (int(digits[:2]) * 60 + int(digits[2:]))


def describe(stamps: Stamps) -> str:
    """Return the first and last stamp as text, for messages."""
    held = stamps.times[stamps.times != NO_TIME]
    return f"{iso(int(held.min()))} .. {iso(int(held.max()))}" if len(held) else "no stamps"
