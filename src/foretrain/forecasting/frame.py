"""Windows of a long pandas frame.

# N items, T rows of all items, V variates, H horizon
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from foretrain.data.importers.columns import FINE_STAMPS, plain
from foretrain.data.importers.stamps import number_stamps
from foretrain.data.windows import FloatArray, Window
from foretrain.errors import ConfigError, DataError
from foretrain.forecasting.covariates import SortedRows, column_of, is_numeric, numbers, windows_of
from foretrain.forecasting.request import FrameRequest, check_horizon
from foretrain.models.base import Family
from foretrain.notes import Code, Note, warn
from foretrain.timeaxis.future import continued

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Names:
    """The columns of ids, time stamps and targets."""

    item_id: str = "item_id"
    timestamp: str = "timestamp"
    target: tuple[str, ...] = ("target",)


@dataclass(frozen=True)
class FrameTask:
    """A frame as windows, one per item in order of first appearance, and what its forecast frame needs."""

    windows: list[Window]
    names: Names
    item_ids: Any  # (N,) as in the frame
    stamps: Any  # (N * H,) the forecast's time stamps, item by item
    prediction_length: int
    candle: tuple[str, ...] = ()  # the targets that make up a candle


def open_frame(
    df: pd.DataFrame, request: FrameRequest, family: Family, future_df: pd.DataFrame | None = None
) -> FrameTask:
    """Convert a frame to windows that the family can forecast. Raises DataError and ConfigError."""
    df, future_df, names, candle = select_columns(df, future_df, request.columns, request.target, family)
    check_candles(request.outputs, candle, family.name)
    task = read_frame(
        df,
        request.prediction_length,
        names=names,
        future_df=future_df,
        freq=request.freq,
        calendar=request.calendar,
    )
    return replace(task, candle=candle)


def select_columns(
    df: pd.DataFrame,
    future_df: pd.DataFrame | None,
    columns: tuple[str, str],
    target: Sequence[str] | None,
    family: Family,
) -> tuple[pd.DataFrame, pd.DataFrame | None, Names, tuple[str, ...]]:
    """Return both frames with the columns that the family reads, their names, and the targets that make up a candle.

    columns are those of ids and time stamps; target None = the family's default columns, else "target".
    """
    check_frame(df, columns)
    df, future_df = with_item_column(df, future_df, Names(*columns))
    choice = family.columns_of([str(name) for name in df.columns if name not in columns], "df")
    if choice is None:
        if target is None and "target" not in df.columns and {*columns} <= {*df.columns}:
            raise DataError(
                f"df has no column 'target' and none that {family.name} forecasts by default among "
                f"{', '.join(map(repr, map(str, df.columns)))}. Name yours with target=, or rename it."
            )
        return df, future_df, Names(*columns, ("target",) if target is None else tuple(target)), ()
    names = Names(*columns, choice.targets if target is None else tuple(target))
    df, future_df = drop_unused_columns(df, future_df, names, choice.targets, family.name)
    return df, future_df, names, tuple(name for name in names.target if name in choice.targets)


def check_candles(outputs: Sequence[str], candle: Sequence[str], family: str) -> None:
    """Raise ConfigError if candles are requested and no targets make up a candle."""
    if "candles" in outputs and not candle:
        raise ConfigError(f'{family} forecasts no candles here; output="long" has its quantiles.')


def read_frame(
    df: pd.DataFrame,
    prediction_length: int,
    *,
    names: Names | None = None,
    future_df: pd.DataFrame | None = None,
    freq: str | None = None,
    calendar: str | None = None,
    ordinal: bool | None = None,
) -> FrameTask:
    """Convert a long frame, one row per item and time stamp, to windows. Other columns are covariates.

    Covariates that future_df has too are known ahead (exactly prediction_length rows per item, at the stamps that
    follow), the others are past-only. Text, boolean and date columns are categorical: encoded as target means, or as
    ordinal codes if there are several targets (ordinal forces one of the two). The stamps that follow are inferred
    from the series (see next_stamps), or set by freq or an exchange's calendar; an integer time column counts steps.
    Values after the cutoff are never read. Raises DataError that names column and item and says what to do.
    """
    names = names or Names()
    prediction_length = check_horizon(prediction_length)
    _check_columns(df, future_df, names)
    history = _sort(df, names, None)
    stamps, guessed = continued(history.times, history.starts, history.ids, prediction_length, freq, calendar)
    known = None
    if future_df is not None:
        matched = _match_future(future_df, history, names, prediction_length, stamps, guessed)
        known, stamps = matched.frame, matched.times
    past, ahead = _covariates(history.frame, known, names)
    windows = windows_of(history, known, names.target, past, ahead, stamps, ordinal)
    return FrameTask(windows, names, history.ids, stamps, prediction_length)


def following_stamps(times: Sequence[Any], ids: Any, horizon: int, freq: str | None, calendar: str | None) -> Any:
    """Return the (N * H,) stamps that follow those of each item, (k,) as DatetimeIndex or int64 array."""
    lengths = np.array([len(stamps) for stamps in times], np.int64)
    joined = np.concatenate(times) if isinstance(times[0], np.ndarray) else times[0].append(list(times[1:]))
    return continued(joined, np.cumsum(lengths) - lengths, ids, horizon, freq, calendar)[0]


def read_appended_rows(df: pd.DataFrame, names: Names, ids: Any) -> tuple[list[FloatArray], list[Any]]:
    """Return the values (V, k) and time stamps (k,) of each item in ids; names.target are the V columns, k may be 0.

    Raises DataError for items not in ids, and as read_frame does.
    """
    import pandas as pd

    _check_columns(df, None, names)
    unknown = np.flatnonzero(pd.Index(ids).get_indexer(pd.Index(df[names.item_id])) < 0)
    if len(unknown):
        raise DataError(f"item {df[names.item_id].iloc[unknown[0]]!r} is not in the first frame.")
    found = _sort(df, names, ids)
    values = np.stack([numbers(column_of(found.frame, name)) for name in names.target])
    bounds = np.searchsorted(found.code, np.arange(len(ids) + 1))
    parts = [slice(first, last) for first, last in itertools.pairwise(bounds.tolist())]
    return [values[:, part] for part in parts], [found.times[part] for part in parts]


def check_frame(df: Any, names: Sequence[str]) -> None:
    """Raise DataError if df is not a frame or has no column of time stamps; names: columns of ids and times."""
    import pandas as pd

    if not isinstance(df, pd.DataFrame):
        raise DataError(f"df is a {type(df).__name__}; give a pandas DataFrame.")
    item, stamp = names
    if stamp in df.columns:
        return
    stamps = [str(name) for name in df.columns if name != item and plain(str(name)) in FINE_STAMPS]
    advice = f"timestamp_column={stamps[0]!r} would name yours" if stamps else "name yours with timestamp_column="
    if isinstance(df.index, pd.DatetimeIndex):
        advice = f"df.rename_axis({stamp!r}).reset_index() makes one of its index"
    elif stamp in df.index.names:
        advice = "df.reset_index() makes columns of its index"
    raise DataError(f"df has no column {stamp!r}; {advice}. Its columns are {_listed(df.columns)}.")


def with_item_column(df: pd.DataFrame, future_df: pd.DataFrame | None, names: Names) -> tuple[Any, Any]:
    """Add the default id column, filled with "item", to frames that lack it and hold a single series."""
    lacks = names.item_id == Names.item_id and names.item_id not in df.columns and names.timestamp in df.columns
    if not lacks or df.columns.has_duplicates or df[names.timestamp].duplicated().any():
        return df, future_df
    if future_df is not None and names.item_id not in future_df.columns:
        future_df = future_df.assign(**{names.item_id: "item"})
    return df.assign(**{names.item_id: "item"}), future_df


def drop_unused_columns(
    df: pd.DataFrame, future_df: pd.DataFrame | None, names: Names, taken: Sequence[str], family: str
) -> tuple[Any, Any]:
    """Drop the columns that a family cannot read, with a warning that names them.

    Id, time stamps, targets and the columns in `taken` stay.
    """
    columns = {names.item_id, names.timestamp, *names.target, *taken}
    left_out = [name for name in df.columns if name not in columns]
    if left_out:
        text = f"{family} reads {', '.join(map(str, taken))} and no other columns; left out: {_listed(left_out)}."
        warn(_log, Note(Code.COLUMNS_LEFT_OUT, text, {"columns": len(left_out)}))
        df = df.drop(columns=left_out)
    if future_df is not None:
        future_df = future_df.drop(columns=[name for name in future_df.columns if name not in columns])
    return df, future_df


def _check_columns(df: pd.DataFrame, future_df: pd.DataFrame | None, names: Names) -> None:
    wanted = (names.item_id, names.timestamp, *names.target)
    if not names.target:
        raise DataError("target names no column; give at least one.")
    if len(set(wanted)) < len(wanted):
        raise DataError(f"the columns {', '.join(map(repr, wanted))} must differ.")
    for which, given in (("df", df), ("future_df", future_df)):
        if given is not None and given.columns.has_duplicates:
            twice = given.columns[given.columns.duplicated()][0]
            raise DataError(f"{which} has two columns named {twice!r}; rename one.")
    missing = [name for name in wanted if name not in df.columns]
    if missing:
        raise DataError(
            f"df has no column {missing[0]!r}; its columns are {_listed(df.columns)}. "
            "Rename it or name yours with id_column=, timestamp_column= or target=."
        )
    if not len(df):
        raise DataError("df has no rows; give at least one row per item.")
    for name in names.target:
        if not is_numeric(column_of(df, name)):
            raise DataError(f"target {name!r} is not a column of numbers: {_first_text(df, name, names)}.")
    if future_df is None:
        return
    lacking = [name for name in (names.item_id, names.timestamp) if name not in future_df.columns]
    if lacking:
        raise DataError(f"future_df has no column {lacking[0]!r}; its columns are {_listed(future_df.columns)}.")
    targets = [name for name in names.target if name in future_df.columns]
    if targets:
        raise DataError(f"future_df holds the target {targets[0]!r}, which is to be forecast; drop that column.")
    extra = [name for name in future_df.columns if name not in df.columns]
    if extra:
        raise DataError(f"future_df has a column {extra[0]!r} that df lacks; add its history to df or drop it.")


def _sort(df: pd.DataFrame, names: Names, order: Any) -> SortedRows:
    """Sort rows by item, in order of first appearance or in the given order of ids, and by time."""
    import pandas as pd

    which = "df" if order is None else "future_df"
    if column_of(df, names.item_id).isna().any():
        raise DataError(f"{which} has a row without {names.item_id}; fill it in or drop the row.")
    if order is None:
        code, ids = pd.factorize(df[names.item_id])
    else:
        code, ids = pd.Index(order).get_indexer(pd.Index(df[names.item_id])), order
        if (code < 0).any():
            unknown = df[names.item_id].to_numpy()[code < 0][0]
            raise DataError(f"future_df has an item {unknown!r} that df lacks; drop it or add its history to df.")
    times = _times(df, names, which)
    ticks = times if isinstance(times, np.ndarray) else times.asi8
    code = code.astype(np.int64)
    step = np.diff(code)
    if not ((step > 0) | ((step == 0) & (np.diff(ticks) > 0))).all():
        rows = np.lexsort((ticks, code))
        df, code, times, ticks = df.iloc[rows], code[rows], times[rows], ticks[rows]
        twice = np.flatnonzero((np.diff(code) == 0) & (np.diff(ticks) == 0))
        if len(twice):
            item, time = ids[code[twice[0]]], times[twice[0]]
            raise DataError(f"{which}: item {item!r} has two rows at {time}; keep one.")
    starts = np.flatnonzero(np.diff(code, prepend=-1))
    return SortedRows(df, code, starts, ids, times)


def _times(df: pd.DataFrame, names: Names, which: str) -> Any:
    import pandas as pd
    from pandas.api import types

    column = column_of(df, names.timestamp)
    if column.isna().any():
        row = int(column.isna().to_numpy().argmax())
        raise DataError(
            f"{which} has a row without {names.timestamp} (row {row}, of item {df[names.item_id].iloc[row]!r}); fill "
            "it in or drop the row."
        )
    if types.is_bool_dtype(column.dtype):
        raise DataError(f"{which}: column {names.timestamp!r} is boolean, neither time stamps nor step numbers.")
    if types.is_numeric_dtype(column.dtype):
        steps = column.to_numpy(np.int64)
        if (steps != column.to_numpy()).any():  # pandas would read 0.5 as half a nanosecond after 1970-01-01
            raise DataError(f"{which}: column {names.timestamp!r} has fractions; count steps in whole numbers.")
        if number_stamps(steps) is not None:
            text = (
                f"{which}: the numbers of column {names.timestamp!r} are counted as steps but look like unix times "
                "or dates; convert them with pandas.to_datetime."
            )
            warn(_log, Note(Code.STEPS_LOOK_LIKE_TIMES, text))
        return steps
    try:
        return pd.DatetimeIndex(pd.to_datetime(column))
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split(". ")[0].split())
        raise DataError(f"{which}: column {names.timestamp!r} does not hold time stamps: {reason}.") from None


def _match_future(
    future_df: pd.DataFrame, history: SortedRows, names: Names, horizon: int, future_stamps: Any, settable: bool
) -> SortedRows:
    """Sort future_df in the order of the windows; check its items and, unless settable, its stamps."""
    future = _sort(future_df, names, history.ids)
    if isinstance(future.times, np.ndarray) != isinstance(history.times, np.ndarray):
        raise DataError(
            f"column {names.timestamp!r} counts steps in one of df and future_df and has time stamps in the other."
        )
    counts = np.bincount(future.code, minlength=len(history.ids))
    wrong = np.flatnonzero(counts != horizon)
    if len(wrong):
        raise DataError(
            f"future_df: item {history.ids[wrong[0]]!r} has {counts[wrong[0]]} rows; it needs exactly "
            f"prediction_length = {horizon}."
        )
    differ = np.flatnonzero(np.asarray(future.times != future_stamps))
    if len(differ) and not settable:
        at = differ[0]
        raise DataError(
            f"future_df: item {history.ids[at // horizon]!r} has a row at {future.times[at]} where the forecast has "
            f"{future_stamps[at]}. Align its stamps with the history, or give freq=."
        )
    ends = np.append(history.starts[1:], len(history.code)) - 1
    early = np.flatnonzero(np.asarray(future.times[::horizon] <= history.times[ends]))
    if len(early):
        raise DataError(f"future_df: item {history.ids[early[0]]!r} has a row at {future.times[early[0] * horizon]}, "
                        f"which is not after its history ({history.times[ends[early[0]]]}).")  # fmt: skip
    return future


def _covariates(frame: pd.DataFrame, known: pd.DataFrame | None, names: Names) -> tuple[list[str], list[str]]:
    """Return the past-only covariates, and those that `known` has too."""
    every = [name for name in frame.columns if name not in (names.item_id, names.timestamp, *names.target)]
    ahead = [name for name in every if known is not None and name in known.columns]
    return [name for name in every if name not in ahead], ahead


def _first_text(df: pd.DataFrame, name: str, names: Names) -> str:
    import pandas as pd

    column = column_of(df, name)
    if column.dtype == bool:
        return "it is boolean; make it 0 and 1"
    read: Any = pd.to_numeric(column, errors="coerce")
    bad = np.flatnonzero((read.isna() & column.notna()).to_numpy())
    if not len(bad):
        return f"its type is {column.dtype}; convert it with pandas.to_numeric"
    item = df[names.item_id].iloc[bad[0]]
    return f"row {bad[0]} (item {item!r}) holds {column.iloc[bad[0]]!r}; fix or empty that cell"


def _listed(columns: Any) -> str:
    shown = [repr(str(name)) for name in columns[:12]]
    return ", ".join(shown) + (", ..." if len(columns) > 12 else "")
