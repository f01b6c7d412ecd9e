"""Rows of series on the grid of a frequency, with empty rows between.

# N items, T rows of all items
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from foretrain.errors import DataError
from foretrain.timeaxis.frequency import Frequency, IntArray
from foretrain.timeaxis.future import add, from_walls, shown
from foretrain.timeaxis.grid import are_too_many, grid_numbers, grid_stamps

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class GridRows:
    """The rows of all items on their grids."""

    rows: IntArray  # (T,) the given row, -1 for a step that has none
    starts: IntArray  # (N,) first row of each item
    stamps: pd.DatetimeIndex  # (T,)
    added: int
    items: int  # with rows added
    first: Any  # id of the first of them


def on_grids(stamps: pd.DatetimeIndex, starts: IntArray, ids: Any, freqs: Sequence[Any]) -> GridRows | None:
    """Put the rows of each item on the grid of its frequency; None if no step is missing.

    freqs: an alias or pandas offset an item, None for items that stay as they are. Days and longer steps are counted in
    local time of the stamps' zone, shorter ones in absolute time. Raises DataError naming the first row that is off its
    grid, and for a frequency so fine that nearly all rows would be empty.
    """
    bounds = list(itertools.pairwise([*starts.tolist(), len(stamps)]))
    known: dict[tuple[Any, bytes], tuple[IntArray, pd.DatetimeIndex]] = {}  # many items share their stamps
    found = []
    for item, freq, (first, last) in zip(ids, freqs, bounds, strict=True):
        own = stamps[first:last]
        if freq is None:
            found.append((np.arange(last - first), own))
            continue
        key = (freq, own.asi8.tobytes())
        if key not in known:
            known[key] = _item_grid(own, freq, f"item {shown(item)}")
        found.append(known[key])
    counts = np.array([len(grid) for _, grid in found], np.int64)
    lengths = np.array([last - first for first, last in bounds], np.int64)
    if (counts == lengths).all():
        return None
    new_starts = np.cumsum(counts) - counts
    rows = np.full(counts.sum(), -1, np.int64)
    for (numbers, _), new, (first, last) in zip(found, new_starts, bounds, strict=True):
        rows[new + numbers] = np.arange(first, last)
    grids = [grid for _, grid in found]
    lacking = np.flatnonzero(counts > lengths)
    joined = grids[0].append(grids[1:]) if len(grids) > 1 else grids[0]
    return GridRows(rows, new_starts, joined, int((counts - lengths).sum()), len(lacking), ids[lacking[0]])


def _item_grid(stamps: pd.DatetimeIndex, freq: Any, what: str) -> tuple[IntArray, pd.DatetimeIndex]:
    """Return the step number of each row, from 0, and the stamps of all steps up to the newest row."""
    if not isinstance(freq, str):
        return _offset_grid(stamps, freq, what)
    (walls, clock), *others = _clocks(stamps, freq)
    try:
        numbers = grid_numbers(walls, freq, what)
    except DataError:
        if not others:
            raise
        (walls, clock), numbers = others[0], grid_numbers(others[0][0], freq, what)
    count = int(numbers[-1]) + 1
    if count == len(stamps):
        return numbers, stamps
    _refuse_too_many(count, len(stamps), freq, what)
    ticks = grid_stamps(walls, freq, np.arange(count, dtype=np.int64))
    ticks[numbers] = walls
    grid = from_walls(ticks, stamps, clock)
    held = grid.asi8.copy()
    held[numbers] = stamps.asi8  # the rows keep their stamps, also within an hour that a clock change repeats
    return numbers, _same_kind(held, stamps)


def _refuse_too_many(count: int, rows: int, freq: Any, what: str) -> None:
    if are_too_many(count - rows, rows):
        raise DataError(
            f"{what}: freq={freq!r} would put {count - rows:,} rows of missing values between {rows:,} rows. Give a "
            "longer step."
        )


def _clocks(stamps: pd.DatetimeIndex, freq: str) -> list[tuple[IntArray, Any]]:
    """Return (microseconds, zone) on the clocks by which steps of the frequency may be counted, the usual one first."""
    if stamps.tz is None:
        return [(stamps.as_unit("us").asi8, None)]
    local = (stamps.tz_localize(None).as_unit("us").asi8, stamps.tz)
    absolute = (stamps.as_unit("us").asi8, "UTC")
    return [absolute] if Frequency.parse(freq).base in ("h", "min", "s", "ms", "us", "ns") else [local, absolute]


def _offset_grid(stamps: pd.DatetimeIndex, offset: Any, what: str) -> tuple[IntArray, pd.DatetimeIndex]:
    """As _item_grid, for a pandas offset, which may have holidays that no alias can express."""
    import pandas as pd

    tick = isinstance(offset, pd.offsets.Tick) and not isinstance(offset, pd.offsets.Day)
    walls = stamps.tz_convert("UTC").tz_localize(None) if tick and stamps.tz is not None else stamps.tz_localize(None)
    first, last, later = (s.as_unit("us").asi8[0] for s in (walls, walls[-1:], add(walls[:1], offset, 20)))
    _refuse_too_many(int(20 * (last - first) // max(later - first, 1)) + 1, len(walls), offset, what)
    grid = pd.date_range(walls[0], walls[-1], freq=offset)
    numbers = grid.get_indexer(walls)
    if (numbers < 0).any():
        raise DataError(
            f"{what}: the row of {stamps[int((numbers < 0).argmax())]} is not on the grid of freq={offset!r}."
        )
    ticks = from_walls(grid.as_unit("us").asi8, stamps, "UTC" if tick else None).asi8.copy()
    ticks[numbers] = stamps.asi8
    return numbers.astype(np.int64), _same_kind(ticks, stamps)


def _same_kind(ticks: IntArray, template: pd.DatetimeIndex) -> pd.DatetimeIndex:
    """Return ticks in the template's unit as stamps of its zone."""
    import pandas as pd

    plain = pd.DatetimeIndex(ticks.view(f"datetime64[{template.unit}]"))
    return plain if template.tz is None else plain.tz_localize("UTC").tz_convert(template.tz)
