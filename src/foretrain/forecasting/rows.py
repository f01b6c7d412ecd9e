"""The rows of a long frame: grouped by item, ascending in time, on the grid of a frequency.

# N items, T rows of all items
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from foretrain.data.windows import FloatArray
from foretrain.errors import DataError
from foretrain.forecasting import checks
from foretrain.forecasting.covariates import SortedRows, column_of
from foretrain.forecasting.times import changed_hour, read_times
from foretrain.notes import Code, Note, warn
from foretrain.timeaxis.filling import on_grids
from foretrain.timeaxis.future import READ_TABLE, shown

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Names:
    """The columns of ids, time stamps and targets, and of covariates that may be known ahead (None = any)."""

    item_id: str = "item_id"
    timestamp: str = "timestamp"
    target: tuple[str, ...] = ("target",)
    known: tuple[str, ...] | None = None


def sorted_rows(df: pd.DataFrame, names: Names, order: Any, *, which: str = "", like: Any = None) -> SortedRows:
    """Sort rows by item, in order of first appearance or in the given order of ids, and by time.

    which: "df" or "future_df", for errors; like: the time column of the history.
    """
    import pandas as pd

    which = which or ("df" if order is None else "future_df")
    column = column_of(df, names.item_id)
    checks.check_ids(column, which)
    if order is None:
        code, ids = pd.factorize(column)
    else:
        code, ids = pd.Index(order).get_indexer(pd.Index(column)), order
        if (code < 0).any():
            unknown = column.iloc[int((code < 0).argmax())]
            same = next((item for item in ids if str(item) == str(unknown)), None)
            typed = "" if same is None else f" (it has {shown(same)})"
            raise DataError(
                f"{which} has an item {shown(unknown)} that df lacks{typed}; drop it or add its history to df."
            )
    times, freq = _times(df, names, which, like)
    ticks = times if isinstance(times, np.ndarray) else times.asi8
    code = code.astype(np.int64)
    step = np.diff(code)
    if not ((step > 0) | ((step == 0) & (np.diff(ticks) > 0))).all():
        rows = np.lexsort((ticks, code))
        df, code, times, ticks = df.iloc[rows], code[rows], times[rows], ticks[rows]
        twice = np.flatnonzero((np.diff(code) == 0) & (np.diff(ticks) == 0))
        if len(twice):
            item, time = shown(ids[code[twice[0]]]), times[twice[0]]
            raise DataError(
                f"{which}: item {item} has two rows at {time}; keep one.{changed_hour(times, twice)} "
                "foretrain.read_table(FILE, duplicates=...) decides for a file."
            )
    starts = np.flatnonzero(np.diff(code, prepend=-1))
    return SortedRows(df, code, starts, ids, times, freq)


def _times(df: pd.DataFrame, names: Names, which: str, like: Any) -> tuple[Any, str | None]:
    column = column_of(df, names.timestamp)
    if column.isna().any():
        row = int(column.isna().to_numpy().argmax())
        raise DataError(
            f"{which} has a row without {names.timestamp} (row {row}, of item {shown(df[names.item_id].iloc[row])}); "
            f"fill it in or drop the row. {READ_TABLE}"
        )
    found = read_times(column, which, like)
    return found.values, found.freq


def on_grid(history: SortedRows, freq: Any, calendar: str | None) -> SortedRows:
    """Put the rows on the grid of a given frequency, with rows of missing values between and a note."""
    if freq is None or calendar is not None or isinstance(history.times, np.ndarray):
        return history
    filled = put_on_grids(history, [freq] * len(history.starts))
    if filled is history:
        return history
    added = len(filled.code) - len(history.code)
    more = np.bincount(filled.code) > np.bincount(history.code)
    text = (
        f"freq={freq!r}: {added:,} rows of missing values were put between the rows of {more.sum():,} item(s), first "
        f"{shown(history.ids[int(more.argmax())])}."
    )
    warn(_log, Note(Code.GRID_ROWS_ADDED, text, {"rows": added, "items": int(more.sum())}))
    return filled


def put_on_grids(history: SortedRows, freqs: Sequence[Any]) -> SortedRows:
    """Return the rows of all items on the grids of their frequencies, None for items that stay as they are."""
    held = history.code[history.starts]
    found = on_grids(history.times, history.starts, history.ids[held], freqs)
    if found is None:
        return history
    frame = history.frame.reset_index(drop=True).reindex(found.rows)  # the label -1 gives missing values
    counts = np.diff(np.append(found.starts, len(found.rows)))
    return replace(history, frame=frame, code=np.repeat(held, counts), starts=found.starts, times=found.stamps)


def filled_rows(
    values: FloatArray, stamps: pd.DatetimeIndex, before: int, item: Any, freq: Any
) -> tuple[FloatArray, pd.DatetimeIndex]:
    """Return appended values (V, k) and their stamps with rows of missing values where the grid of freq has more.

    stamps: all of an item, of which the first `before` were there already, without holes.
    """
    found = on_grids(stamps, np.zeros(1, np.int64), [item], [freq])
    if found is None:
        return values, stamps[before:]
    rows = found.rows[before:]
    filled = np.where(rows < 0, np.float32(np.nan), values[:, np.maximum(rows - before, 0)])
    return filled, found.stamps[before:]
