"""Local stamps of a time zone in UTC, where the order of the rows decides which of two equal hours is meant.

# T cells of a column
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from foretrain.data.importers.stamps import Stamps
from foretrain.data.windows import NO_TIME, IntArray
from foretrain.errors import DataError
from foretrain.notes import Code, Note
from foretrain.timeaxis.frequency import DAY
from foretrain.timeaxis.grid import iso

Mask = npt.NDArray[np.bool_]

_HOUR = DAY // 24


def localise(stamps: Stamps, zone: str, items: IntArray | None = None) -> Stamps:
    """Convert naive stamps of a zone to UTC; dates and UTC stamps are unchanged.

    items: a number (T,) for the item of each row, None for one item. In the hour that a clock change repeats, the rows
    of an item go through it once before the change and once after it, ascending or descending; where their order does
    not show which is which, they are read as after the change, with a note. DataError for a time that does not exist.
    """
    if stamps.clock != "naive":
        return stamps
    rows = np.flatnonzero(stamps.times != NO_TIME)
    walls = stamps.times[rows]
    before, after = _instants(walls, zone, summer=True), _instants(walls, zone, summer=False)
    before, after = np.minimum(before, after), np.maximum(before, after)
    owners = np.zeros(len(rows), np.int64) if items is None else items[rows]
    late, unclear = _after_change(walls, before != after, owners)
    times = stamps.times.copy()
    times[rows] = np.where(late, after, before)
    notes = stamps.notes
    if unclear.any():
        text = (
            f"{unclear.sum():,} stamps, first {iso(int(walls[unclear.argmax()]))}, are in an hour that a clock change "
            "repeats, and the order of the rows does not show whether they precede it; they are read as following it"
        )
        notes = (*notes, Note(Code.HOUR_REPEATED, text, {"stamps": int(unclear.sum())}))
    return replace(stamps, times=times, clock="utc", notes=notes)


def _instants(walls: IntArray, zone: str, *, summer: bool) -> IntArray:
    import pandas as pd

    try:
        moved = pd.DatetimeIndex(walls.astype("M8[us]")).tz_localize(zone, ambiguous=np.full(len(walls), summer))
    except Exception as error:  # pandas and pytz raise different classes for a missing hour
        raise DataError(f"time zone {zone}: {' '.join(str(error).split())[:150]}. Is this the files' zone?") from None
    return moved.tz_convert("UTC").tz_localize(None).to_numpy().astype("M8[us]").astype(np.int64)


def _after_change(walls: IntArray, twice: Mask, items: IntArray) -> tuple[Mask, Mask]:
    """Return masks (T,) of the stamps after the change, and of those whose order does not tell; twice: repeated."""
    late, unclear = np.zeros(len(walls), bool), np.zeros(len(walls), bool)
    if not twice.any():
        return late, unclear
    order = np.argsort(items, kind="stable")
    walls, twice, items = walls[order], twice[order], items[order]
    fresh = np.append(True, (np.diff(items) != 0) | (np.diff(walls // DAY) != 0) | ~twice[:-1])
    for first in np.flatnonzero(twice & fresh):
        ends = np.flatnonzero((fresh | ~twice)[first + 1 :])
        stop = int(first + 1 + ends[0]) if len(ends) else len(walls)
        run = slice(int(first), stop)
        descends = _descends(walls, items, int(first), stop)
        found = _second_pass(walls[run], descends=descends)
        if found is None:
            found = _at_an_end(walls, items, int(first), stop, descends=descends)
        unclear[order[run]] = found is None
        late[order[run]] = True if found is None else found
    return late, unclear


def _descends(walls: IntArray, items: IntArray, first: int, stop: int) -> bool:
    """Return True if the rows around a run, or the run and the row beside it, go back in time."""
    here = items[first]
    start = first - 1 if first > 0 and items[first - 1] == here else first
    end = stop if stop < len(walls) and items[stop] == here else stop - 1
    return bool(walls[start] > walls[end])


def _at_an_end(walls: IntArray, items: IntArray, first: int, stop: int, *, descends: bool) -> Mask | None:
    """Return the mask of a run in order that adjoins one row alone, as where a file ends or begins; else None.

    The newest rows precede the change, the oldest follow it.
    """
    if len(np.unique(np.sign(np.diff(walls[first:stop])))) > 1:
        return None
    before = first > 0 and items[first - 1] == items[first]
    after = stop < len(walls) and items[stop] == items[first]
    gap = abs(walls[first] - walls[first - 1]) if before else abs(walls[stop] - walls[stop - 1]) if after else DAY
    if before == after or gap > _HOUR:
        return None
    return np.full(stop - first, before == descends)


def _second_pass(walls: IntArray, *, descends: bool) -> Mask | None:
    """Return a mask of the stamps after the change, of one run through a repeated hour; None if nothing shows it."""
    walls = walls[::-1] if descends else walls
    turns = np.diff(walls) < 0
    if turns.sum() == 1:
        late = np.append(False, np.cumsum(turns) > 0)
    elif turns.any() or (np.diff(walls) > 0).all():
        return None
    else:  # equal stamps follow each other: half of them precede the change
        _, start, count = np.unique(walls, return_index=True, return_counts=True)
        rank = np.arange(len(walls)) - np.repeat(start, count)
        late = rank >= np.repeat(count // 2, count)
    return late[::-1] if descends else late
