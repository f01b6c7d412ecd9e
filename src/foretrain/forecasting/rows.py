"""The rows of a long frame: grouped by item, ascending in time, without those to forecast, on the grid of a frequency.

# N items, T rows of all items, H horizon
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from foretrain.data.windows import FloatArray, IntArray
from foretrain.errors import ConfigError, DataError
from foretrain.forecasting import checks
from foretrain.forecasting.covariates import SortedRows, column_of, is_numeric, numbers
from foretrain.forecasting.request import TrailingRows
from foretrain.forecasting.times import changed_hour, read_times
from foretrain.notes import Code, Note, counted, warn
from foretrain.timeaxis.filling import on_grids
from foretrain.timeaxis.future import READ_TABLE, shown

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)
AS_FUTURE = "the newest rows without a target"  # what errors call the known covariates that were found in the history
WAYS = (
    "trailing_rows='history' (--trailing-rows history) forecasts the steps after them, 'drop' leaves them out, and "
    "future_df (--future) holds covariates of the steps to forecast"
)


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


@dataclass(frozen=True)
class Trailing:
    """The newest rows of each item in which every target is missing."""

    rows: npt.NDArray[np.bool_]  # (T,) these rows; none of an item without any target
    count: IntArray  # (N,) of them in each item
    filled: IntArray  # (N,) of them with a value of a covariate that is not static
    silent: npt.NDArray[np.bool_]  # (N,) items without any target
    columns: tuple[str, ...]  # covariates with a value in these rows


def settle(
    history: SortedRows, future_df: pd.DataFrame | None, names: Names, horizon: int, asked: TrailingRows | None
) -> tuple[SortedRows, pd.DataFrame | None, str]:
    """Return the history, the rows known ahead, and what errors call these.

    Trailing rows are the known future if every item has exactly H of them, each with a value of a covariate, and
    there is no future_df; a note says so. Those without any covariate are history, with a note. asked decides instead:
    future (if the counts fit), history or drop. Raises DataError for covariates in rows of another number, ConfigError
    for future beside future_df.
    """
    found = _trailing(history, names)
    if asked == "future" and future_df is not None:
        raise ConfigError("trailing_rows='future' and future_df both give the steps to forecast; give one of them.")
    if asked == "drop":
        return (_without(history, found.rows) if found.rows.any() else history), future_df, "future_df"
    if asked == "future" or (asked is None and future_df is None and found.filled.any()):
        taken = _as_future(history, found, names, horizon, sure=asked == "future")
        return _without(history, taken.rows), _rows_ahead(history, taken, names), AS_FUTURE
    _tell_history(history, found)
    return history, future_df, "future_df"


def _trailing(history: SortedRows, names: Names) -> Trailing:
    observed = np.zeros(len(history.frame), bool)
    for name in names.target:
        observed |= np.isfinite(numbers(column_of(history.frame, name)))
    last = np.maximum.reduceat(np.where(observed, np.arange(len(observed)), -1), history.starts)
    silent = last < 0  # nothing says where their history ends
    after = np.where(silent, np.append(history.starts[1:], len(observed)) - 1, last)
    rows = np.arange(len(observed)) > after[history.code]
    return _described(history, rows, silent, names)


def _described(
    history: SortedRows, rows: npt.NDArray[np.bool_], silent: npt.NDArray[np.bool_], names: Names
) -> Trailing:
    code, items, given = history.code[rows], len(history.starts), dict[str, npt.NDArray[np.bool_]]()
    filled = np.zeros(len(code), bool)
    for name in history.frame.columns:
        if name in (names.item_id, names.timestamp, *names.target) or not len(code):
            continue
        column = column_of(history.frame, name)
        given[name] = column.iloc[np.flatnonzero(rows)].notna().to_numpy()
        if given[name].any() and not _is_static(column, history):
            filled |= given[name]
    return Trailing(
        rows,
        np.bincount(code, minlength=items),
        np.bincount(code[filled], minlength=items),
        silent,
        tuple(name for name, present in given.items() if present.any()),
    )


def _is_static(column: pd.Series, history: SortedRows) -> bool:
    """Return True for a category that all rows of an item share: it says nothing of the rows that have it."""
    import pandas as pd

    if is_numeric(column):
        return False
    try:
        values = pd.factorize(column)[0]
    except TypeError:  # a cell that is no single value, which the encoding names
        return False
    return len(pd.unique(values * len(history.starts) + history.code)) == len(history.starts)


def _as_future(history: SortedRows, found: Trailing, names: Names, horizon: int, *, sure: bool) -> Trailing:
    """Return the rows that are the known future, those of items without any target included; log a note.

    sure: rows without a covariate belong to them too. Raises DataError if an item has another number of rows.
    """
    wrong = np.flatnonzero(_unlike(found, horizon, sure=sure) & ~found.silent)
    if len(wrong):
        raise DataError(_unfit(history.ids, found, int(wrong[0]), horizon))
    if found.silent.any():
        ends = np.append(history.starts[1:], len(history.code))
        ahead = found.silent[history.code] & (np.arange(len(history.code)) >= ends[history.code] - horizon)
        found = _described(history, found.rows | ahead, found.silent, names)
        whole = found.count == ends - history.starts
        empty = np.flatnonzero(found.silent & (whole | _unlike(found, horizon, sure=sure)))
        if len(empty):
            raise DataError(f"item {shown(history.ids[empty[0]])} has no target in any row; leave it out.")
    rows, items = int(found.rows.sum()), len(found.count)
    known = [name for name in found.columns if names.known is None or name in names.known]
    unread = [name for name in found.columns if name not in known]
    columns = f"known ahead are {', '.join(map(str, known))}" if known else "nothing else is known ahead"
    if unread:
        columns += f" (not read there: {', '.join(map(str, unread))}, used up to the cutoff only)"
    text = (
        f"the newest {counted(horizon, 'row')} of every item ({counted(rows, 'row')}, {counted(items, 'item')}) have "
        f"no target, so they are the steps to forecast; {columns}. trailing_rows='history' (--trailing-rows history) "
        "forecasts the steps after them."
    )
    counts = {"rows": rows, "items": items, "columns": len(known)}
    warn(_log, Note(Code.NEWEST_ROWS_AS_FUTURE, text, counts))
    return found


def _unlike(found: Trailing, horizon: int, *, sure: bool) -> npt.NDArray[np.bool_]:
    """Return (N,) True for items whose rows are not the steps to forecast."""
    unlike = found.count != horizon
    return unlike if sure else unlike | (found.filled != horizon)


def _unfit(ids: Sequence[object], found: Trailing, at: int, horizon: int) -> str:
    having = int((found.count > 0).sum())
    of_item = f"item {shown(ids[at])} has {found.count[at]:,} such rows"
    if found.count[at] == horizon:
        of_item += f", {horizon - found.filled[at]:,} of them without a covariate"
    what = f", but covariates ({', '.join(found.columns)})" if found.columns else ""
    return (
        f"the newest rows of {having:,} of {counted(len(found.count), 'item')} have no target{what}; {of_item}. They "
        f"are the steps to forecast if every item has exactly prediction_length = {horizon} of them, with covariates. "
        f"Otherwise say what they are: {WAYS}."
    )


def _rows_ahead(history: SortedRows, taken: Trailing, names: Names) -> pd.DataFrame:
    columns = [names.item_id, names.timestamp, *taken.columns]
    return history.frame.iloc[np.flatnonzero(taken.rows)][columns]


def _without(history: SortedRows, rows: npt.NDArray[np.bool_]) -> SortedRows:
    """Return the rows that are not marked; every item has some of them."""
    kept = np.flatnonzero(~rows)
    code = history.code[kept]
    starts = np.flatnonzero(np.diff(code, prepend=-1))
    return replace(history, frame=history.frame.iloc[kept], code=code, starts=starts, times=history.times[kept])


def _tell_history(history: SortedRows, found: Trailing) -> None:
    """Log a note if the newest rows of items have no target, so that the forecast begins after them."""
    if not found.rows.any():
        return
    first, items = int((found.count > 0).argmax()), int((found.count > 0).sum())
    text = (
        f"the newest rows of item {shown(history.ids[first])} ({found.count[first]:,}) have no target; they are "
        f"history, and the forecast begins after them (so in {counted(items, 'item')}). If they are steps to forecast, "
        "trailing_rows='drop' (--trailing-rows drop) leaves them out, and future_df (--future) holds what is known."
    )
    warn(_log, Note(Code.NEWEST_ROWS_WITHOUT_TARGET, text, {"rows": int(found.rows.sum()), "items": items}))
