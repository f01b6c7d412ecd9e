"""Parse text and numbers to time stamps in int64 microseconds, with the kind of clock and UTC offsets.

One layout must fit the whole column, so the other rows decide how 01/02/2020 is read; otherwise it is an error.

# T cells of a column
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from foretrain.data.importers.cells import BadCell, blank_as_null
from foretrain.data.importers.date_formats import format_times
from foretrain.data.importers.epochs import TimeUnit, epoch_times
from foretrain.data.importers.layouts import HINT, LAYOUTS, are_compact, month_numbers, rewrite, unknown
from foretrain.data.windows import NO_TIME, IntArray, Mask
from foretrain.errors import DataError
from foretrain.notes import Code, Note
from foretrain.timeaxis.frequency import DAY, MINUTE, SECOND

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see

Clock = Literal["dates", "naive", "utc"]

_INTERVAL = "^(\\d[^ ]*\\d(?: \\d[^ ]*\\d)?) ?(?:-|\u2013|to|bis) \\d.{6,}\\d$"
_DECIMAL = r"^-?\d{1,19}(\.\d+)?$"
_FEW = 16  # cells that tell most columns of another layout
_COUNTS = 1e7  # numbers below count rows or steps; the smallest dates without separators are above
_EPOCHS = 1e8  # numbers from here on are epochs, unless they are dates without separators
_OLDEST_SHORT, _NEWEST_SHORT = (
    69,
    39,
)  # two digits 69..99 are 19xx (as in strptime), 00..39 are 20xx, others are unclear

_MOST_OFFSET = 16 * 60  # minutes; no place was ever further from UTC
_MONTHLY, _YEARLY = 28, 300  # days; steps of months, of years are at least this long


@dataclass(frozen=True)
class Stamps:
    """Parsed times (T,) in microseconds, NO_TIME where blank; clock: plain dates, naive local times or UTC.

    offsets: minutes east of UTC that occur in the column, empty without any. notes: what was decided about the column.
    """

    times: IntArray
    clock: Clock
    offsets: tuple[int, ...] = ()
    notes: tuple[Note, ...] = ()


def parse_stamps(
    cells: pa.Array,
    *,
    dayfirst: bool | None = None,
    na_values: tuple[str, ...] = (),
    date_format: str | None = None,
    time_unit: TimeUnit | None = None,
) -> Stamps:
    """Parse text cells in one layout: ISO, compact, day or month first, month names, weeks, quarters, epoch numbers.

    date_format is a pattern of strptime that replaces the layouts; time_unit says that the cells are epoch numbers.
    Raises BadCell at the first cell that is not a stamp in the layout, DataError if the layout is ambiguous.
    """
    plain = date_format is None and time_unit is None
    if plain and not na_values and (found := _plain(cells, np.asarray(pc.is_valid(cells)))) is not None:
        return found  # without a pass over the text that looks for missing values
    cells = blank_as_null(cells, na_values)
    present = np.asarray(pc.is_valid(cells))
    if not present.any():
        return Stamps(np.full(len(cells), NO_TIME), "dates")
    if date_format is not None:
        local, utc, offsets = format_times(cells, date_format)
        return _naive(local, present) if offsets is None else _dates_if_midnight(utc, present, local, offsets)
    if plain and (found := _plain(cells, present)) is not None:
        return found
    if time_unit is not None or _are_epochs(cells):
        return _epochs(cells, present, time_unit)
    first = str(cells[int(present.argmax())])
    if re.match(_INTERVAL, first) and pc.all(pc.match_substring_regex(cells, pattern=_INTERVAL)).as_py():
        starts = pc.replace_substring_regex(cells, pattern=_INTERVAL, replacement=r"\1")
        note = Note(Code.TIME_OF_INTERVALS, f"cells like {first} are intervals; their first stamps are the time")
        return replace(_by_layout(starts, present, dayfirst), notes=(note,))
    return _by_layout(cells, present, dayfirst)


def _plain(cells: pa.Array, present: Mask) -> Stamps | None:
    """Parse cells of ISO 8601 without offsets, None for others."""
    try:
        return _naive(np.asarray(_micros(cells)), present)
    except pa.ArrowInvalid:
        return None


def _micros(cells: pa.Array) -> pa.Array:
    """Return the microseconds of ISO cells. The numbers are those of the stamps, not a copy."""
    pc.cast(cells[:_FEW], pa.timestamp("us"))  # fails at once where all cells would only fail after the last
    return pc.cast(cells, pa.timestamp("us")).view(pa.int64()).fill_null(int(NO_TIME))


def _by_layout(cells: pa.Array, present: Mask, dayfirst: bool | None) -> Stamps:
    """Parse cells in the first layout that fits the first one, after rewriting rarer forms if they do not all fit."""
    row, found = int(present.argmax()), None
    if (name := _layout(str(cells[row]))) is not None:
        found = pc.extract_regex(cells, pattern=LAYOUTS[name])
    if name is None or (np.asarray(pc.is_valid(found)) != present).any():
        plain = rewrite(cells)
        first = str(plain[row])
        if (name := _layout(first)) is None:
            raise BadCell(row, str(cells[row]), unknown(first))
        found = pc.extract_regex(plain, pattern=LAYOUTS[name])
        bad = present & ~np.asarray(pc.is_valid(found))
        if bad.any():
            row = int(bad.argmax())
            raise BadCell(row, str(cells[row]), f"not a time stamp like the first one ({first}); repair or remove it")
    assert found is not None
    return _assemble(name, found, present, cells, dayfirst)


def _layout(text: str) -> str | None:
    return next((name for name, pattern in LAYOUTS.items() if re.match(pattern, text)), None)


def number_stamps(
    values: npt.NDArray[Any], present: Mask | None = None, *, time_unit: TimeUnit | None = None, strict: bool = False
) -> Stamps | None:
    """Parse numbers: epochs by the unit that fits, or dates like 20240131; None for small counts.

    present: (T,) False where a number is missing. Numbers that are neither give None, or BadCell if strict.
    """
    present = ~np.isnan(values) if present is None else present & ~np.isnan(values)
    held = values[present]
    if not len(held) or not np.isfinite(held).all() or (time_unit is None and abs(float(np.median(held))) < _COUNTS):
        return None
    whole = np.floor(np.where(present, values, 0)).astype(np.int64)
    try:
        if time_unit is None and (held % 1 == 0).all():
            text = pa.array(whole).cast(pa.string())
            return parse_stamps(pc.if_else(pa.array(present), text, pa.scalar(None, pa.string())))
        part = np.where(present, values - whole, 0.0)
        return _scaled(*epoch_times(whole, part, present, time_unit), present)
    except BadCell:
        if strict:
            raise
        return None


def arrow_stamps(column: pa.Array, where: str = "a column") -> Stamps:
    """Convert an Arrow timestamp or date column; `where` names it in errors. Raises DataError for a time zone that does
    not exist."""
    zone = getattr(column.type, "tz", None)
    present = np.asarray(pc.is_valid(column))
    micros = pc.cast(pc.cast(column, pa.timestamp("us", zone), safe=False), pa.int64())
    times = np.asarray(micros.fill_null(int(NO_TIME)))
    if zone is None:
        return _naive(times, present)
    try:
        local = pc.local_timestamp(pc.cast(column, pa.timestamp("us", zone), safe=False))
    except pa.ArrowInvalid:
        raise DataError(
            f"{where}: its stamps have the time zone {zone!r}, which is not known. Store them in UTC."
        ) from None
    local = pc.cast(local, pa.int64())
    local = np.asarray(local.fill_null(int(NO_TIME)))
    minutes = np.unique((local[present] - times[present]) // MINUTE)
    return _dates_if_midnight(times, present, local, tuple(int(m) for m in minutes))


def _naive(times: IntArray, present: Mask) -> Stamps:
    return Stamps(times, "naive" if (times[present] % DAY).any() else "dates")


def _dates_if_midnight(times: IntArray, present: Mask, local: IntArray, offsets: tuple[int, ...]) -> Stamps:
    """Return dates if all local times are midnight, else UTC: in UTC a local midnight can be on the day before."""
    if not (local[present] % DAY).any():
        return Stamps(np.where(present, local, NO_TIME), "dates", offsets)
    return Stamps(times, "utc", offsets)


def _are_epochs(cells: pa.Array) -> bool:
    """Return True if all cells are numbers, and one is too large for a count or a date without separators."""
    held = cells.drop_null()
    if not re.match(_DECIMAL, str(held[0])) or not pc.all(pc.match_substring_regex(held, pattern=_DECIMAL)).as_py():
        return False
    return float(np.abs(np.asarray(pc.cast(held, pa.float64()))).max()) >= _EPOCHS and not are_compact(held)


def _epochs(cells: pa.Array, present: Mask, unit: TimeUnit | None) -> Stamps:
    """Parse epoch numbers in decimal notation, exactly."""
    try:
        whole = np.asarray(pc.fill_null(pc.cast(cells, pa.int64()), 0))
        return _scaled(*epoch_times(whole, np.zeros(len(whole)), present, unit), present)
    except pa.ArrowInvalid:
        pass  # some have a fraction
    found = pc.extract_regex(cells, pattern=r"^(?P<sign>-?)(?P<whole>[0-8]?\d{1,18})(?:\.(?P<part>\d+))?$")
    fits = np.asarray(pc.is_valid(found))
    if (present & ~fits).any():
        row = int((present & ~fits).argmax())
        raise BadCell(row, str(cells[row]), "no epoch number")
    whole = np.asarray(pc.cast(pc.fill_null(pc.struct_field(found, "whole"), "0"), pa.int64()))
    digits = pc.binary_join_element_wise("0.", pc.fill_null(pc.struct_field(found, "part"), ""), "0", "")
    part = np.asarray(pc.cast(digits, pa.float64()))
    negative = np.asarray(pc.equal(pc.fill_null(pc.struct_field(found, "sign"), ""), "-"))
    borrow = negative & (part > 0)  # -1.25 is -2 and 0.75
    whole, part = np.where(negative, -whole, whole) - borrow, np.where(borrow, 1 - part, part)
    return _scaled(*epoch_times(whole, part, present, unit), present)


def _scaled(times: IntArray, counts: dict[str, int], present: Mask) -> Stamps:
    stamps = _dates_if_midnight(times, present, times, (0,))
    if len(counts) == 1:
        return stamps
    seen = " and ".join(f"{count:,} in {unit}" for unit, count in counts.items())
    text = f"epoch numbers of several units ({seen}); each is read by its own magnitude"
    return replace(stamps, notes=(Note(Code.EPOCH_UNITS, text, counts),))


def _assemble(layout: str, found: pa.Array, present: Mask, cells: pa.Array, dayfirst: bool | None) -> Stamps:
    names = {found.type.field(i).name for i in range(found.type.num_fields)}

    def number(name: str, default: int = 0) -> IntArray:
        if name not in names:
            return np.full(len(found), default, np.int64)
        text = pc.struct_field(found, name)
        text = pc.if_else(pc.equal(pc.fill_null(text, ""), ""), str(default), text)
        return np.asarray(pc.cast(text, pa.int64()))

    year, month, day = number("y", 1970), number("a", 1), number("b", 1)
    if "n" in names:
        month = month_numbers(pc.struct_field(found, "n"))
        if (unnamed := present & (month == 0)).any():
            row = int(unnamed.argmax())
            raise BadCell(row, str(cells[row]), unknown(str(cells[row])))
    if "q" in names:
        month = 3 * (number("q") + number("q2")) - 2
    if layout == "parts":
        month, day = _order(month, day, present, cells, dayfirst)
    if layout == "short_parts":
        year, month, day = _short_parts(number("a"), number("b"), number("c"), present, cells, dayfirst)
    elif "c" in names:
        year = _century(number("c"), present, cells)
    if layout == "short_name_year":
        _refuse_days(number("c"), year * 12 + month, present, cells)
    if layout == "month" and present.sum() > 1 and ((year + 1) % 100 == month)[present].all():
        sample, hint = cells[int(present.argmax())], HINT.replace("%d/%m/%y", "%Y-%m")
        raise DataError(f"dates like {sample} could be months, or years from one to the next; {hint}.")
    if layout == "week":
        days, valid = iso_weeks(year, number("w"), number("wd", 1))
    elif layout == "ordinal":
        days, valid = year_days(year, number("o"))
    else:
        days, valid = day_numbers(year, month, day)
    hour, minute, second = _hours(number("h"), found, names), number("mi"), number("s")
    fraction = _fraction(found, names)
    midnight = (hour == 24) & (minute + second + fraction == 0)  # the end of a day, as ISO 8601 allows
    valid &= ((hour < 24) | midnight) & (minute < 60) & (second < 60)
    if (present & ~valid).any():
        row = int((present & ~valid).argmax())
        raise BadCell(row, str(cells[row]), f"not a date that exists; {HINT}")
    local = days * DAY + ((hour * 60 + minute) * 60 + second) * SECOND + fraction
    local = np.where(present, local, NO_TIME)
    return _with_offset(local, present, found, names, cells)


def _century(short: IntArray, present: Mask, cells: pa.Array) -> IntArray:
    """Return years of their last two digits. Raises BadCell if the century is not clear."""
    unclear = present & (short > _NEWEST_SHORT) & (short < _OLDEST_SHORT)
    if unclear.any():
        row = int(unclear.argmax())
        why = "a year of two digits that could be of either century; write all four digits, or give --date-format"
        raise BadCell(row, str(cells[row]), f"{why} (its %y reads 69 to 99 as 19xx)")
    return np.where(short >= _OLDEST_SHORT, 1900, 2000) + short


def _short_parts(
    a: IntArray, b: IntArray, c: IntArray, present: Mask, cells: pa.Array, dayfirst: bool | None
) -> tuple[IntArray, IntArray, IntArray]:
    """Return (year, month, day) of dates of three numbers below 100.

    The reading that goes back in time least often counts. Where the year may lead or end, it ends only if the dates are
    then less than a month apart and are otherwise no first or last days, or if they have dots and are such days.
    """
    readings: dict[str, Callable[[], tuple[IntArray, IntArray, IntArray]]] = {
        "year": lambda: (_century(a, present, cells), b, c),
        "day": lambda: (_century(c, present, cells), b, a),
        "month": lambda: (_century(c, present, cells), a, b),
    }
    if dayfirst is not None or pc.any(pc.match_substring_regex(cells, pattern=r"^\s*\d\D")).as_py():
        del readings["year"]  # a year of two digits has both
    row = int(present.argmax())
    dots = re.match(r"\s*\d{2}\.", str(cells[row])) is not None
    if dots:
        del readings["month"]
    found: dict[str, _Reading] = {}
    for name, reading in readings.items():
        try:
            days, valid = day_numbers(*reading())
        except BadCell:
            continue
        if valid[present].all():
            found[name] = _Reading.of(days[present])
    others = [found[name] for name in ("day", "month") if name in found]
    if "year" in found and (not others or found["year"].turns < min(other.turns for other in others)):
        return readings["year"]()
    if "year" in found and found["year"].turns == min(other.turns for other in others):
        ends = min(other.step for other in others) < _MONTHLY or (
            dots and found["day"].edges and found["day"].step < _YEARLY
        )
        if not ends or found["year"].edges:
            raise DataError(f"dates like {cells[row]} could begin with the year or end with it; {HINT}.")
    return (_century(c, present, cells), *_order(a, b, present, cells, dayfirst))


@dataclass(frozen=True)
class _Reading:
    """What speaks for a reading of dates: turns of direction, the usual step, and whether all are edges of months."""

    turns: int
    step: float  # days between dates that differ
    edges: bool

    @classmethod
    def of(cls, days: IntArray) -> _Reading:
        steps = np.diff(days)
        date = days.astype("M8[D]")
        month = date.astype("M8[M]")
        first, last = (date == month.astype("M8[D]")).all(), (date == (month + 1).astype("M8[D]") - 1).all()
        turns = min(int((steps < 0).sum()), int((steps > 0).sum()))
        sizes = np.abs(steps[steps != 0])
        return cls(turns, float(np.median(sizes)) if len(sizes) else np.inf, bool(first or last))


def _refuse_days(short: IntArray, months: IntArray, present: Mask, cells: pa.Array) -> None:
    """Raise DataError for cells like Jan-20 if nothing shows that 20 is a year and not a day."""
    steps = np.abs(np.diff(months[present]))
    if not ((short[present] == 0) | (short[present] > 31)).any() and not ((steps > 0) & (steps < 12)).any():
        row = int(present.argmax())
        raise DataError(f"dates like {cells[row]} could end with a day or a year; {HINT.replace('%d/%m/%y', '%b-%y')}.")


def iso_weeks(year: IntArray, week: IntArray, weekday: IntArray | int = 1) -> tuple[IntArray, Mask]:
    """Return days since 1970 of ISO weeks (weekday 1 is Monday), and a mask of weeks that exist."""
    first = _fourth_january(year, shift=0)
    return first + 7 * (week - 1) + weekday - 1, (week >= 1) & (7 * week <= _fourth_january(year + 1, shift=0) - first)


def epidemic_weeks(year: IntArray, week: IntArray) -> tuple[IntArray, Mask]:
    """Return days since 1970 of the Sundays that begin MMWR weeks (of CDC's tables), and a mask of weeks that exist."""
    first = _fourth_january(year, shift=1)
    return first + 7 * (week - 1), (week >= 1) & (7 * week <= _fourth_january(year + 1, shift=1) - first)


def _fourth_january(year: IntArray, shift: int) -> IntArray:
    """Return the first day (Monday, or with shift 1 Sunday) of the week that holds the fourth of January."""
    fourth = (year - 1970).astype("M8[Y]").astype("M8[D]").astype(np.int64) + 3
    return fourth - (fourth + 3 + shift) % 7


def day_numbers(year: IntArray, month: IntArray, day: IntArray) -> tuple[IntArray, Mask]:
    """Return days since 1970, and a mask of dates that exist."""
    start = ((year - 1970) * 12 + np.clip(month, 1, 12) - 1).astype("M8[M]")
    length = ((start + 1).astype("M8[D]") - start.astype("M8[D]")).astype(np.int64)
    valid = (month >= 1) & (month <= 12) & (day >= 1) & (day <= length)
    return start.astype("M8[D]").astype(np.int64) + day - 1, valid


def year_days(year: IntArray, number: IntArray) -> tuple[IntArray, Mask]:
    """Return days since 1970 of the days of years (1 is the first of January), and a mask of those that exist."""
    first = (year - 1970).astype("M8[Y]").astype("M8[D]").astype(np.int64)
    after = (year - 1969).astype("M8[Y]").astype("M8[D]").astype(np.int64)
    return first + number - 1, (number >= 1) & (first + number <= after)


def _order(
    first: IntArray, second: IntArray, present: Mask, cells: pa.Array, dayfirst: bool | None
) -> tuple[IntArray, IntArray]:
    """Return (month, day) of dates written as two numbers and a year; the whole column decides their order.

    Raises DataError if no row decides and dayfirst does not say it, BadCell at a row against the others or dayfirst.
    """
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


def _with_offset(local: IntArray, present: Mask, found: pa.Array, names: set[str], cells: pa.Array) -> Stamps:
    if "z" not in names:
        return _naive(local, present)
    zone = pc.fill_null(pc.struct_field(found, "z"), "")
    if "zh" in names:
        hours = pc.fill_null(pc.struct_field(found, "zh"), "")
        zone = pc.if_else(pc.equal(zone, ""), hours, zone)
    named = np.asarray(pc.not_equal(zone, "")) & present
    if not named.any():
        return _naive(local, present)
    if (present & ~named).any():
        row = int((present & ~named).argmax())
        raise BadCell(row, str(cells[row]), "a stamp without offset among stamps with one; give all an offset, or none")
    texts = pc.dictionary_encode(zone)
    minutes = np.array([_offset_minutes(text) for text in texts.dictionary.to_pylist()], np.int64)
    shift = minutes[np.asarray(texts.indices)]
    if (impossible := present & (np.abs(shift) > _MOST_OFFSET)).any():
        row = int(impossible.argmax())
        raise BadCell(row, str(cells[row]), "an offset from UTC that no clock has")
    times = np.where(present, local - shift * MINUTE, NO_TIME)
    return _dates_if_midnight(times, present, local, tuple(sorted({int(m) for m in shift[present]})))


def _offset_minutes(text: str) -> int:
    found = re.search(r"([-+])(\d{1,2}):?(\d{2})?$", text)
    if not found:
        return 0
    hours, minutes = int(found[2]), int(found[3] or 0)
    return (-1 if found[1] == "-" else 1) * (hours * 60 + minutes) if minutes < 60 else _MOST_OFFSET + 1
