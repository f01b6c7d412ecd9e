"""Windows of a long pandas frame.

# N items, T rows of all items, V variates, H horizon
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from foretrain.data.importers.columns import ID_NAMES, is_key_name, market_names, plain
from foretrain.data.windows import FloatArray, Window
from foretrain.errors import ConfigError, DataError
from foretrain.forecasting import checks
from foretrain.forecasting.covariates import SortedRows, column_of, is_numeric, numbers, windows_of
from foretrain.forecasting.record import not_given_note, trained_categories
from foretrain.forecasting.request import FrameRequest, TrailingRows, check_horizon
from foretrain.forecasting.rows import Names, on_grid, put_on_grids, settle, sorted_rows
from foretrain.forecasting.selection import select_columns
from foretrain.forecasting.times import changed_hour, read_times
from foretrain.models.base import Family
from foretrain.notes import warn
from foretrain.timeaxis.future import READ_TABLE, Continuation, checked, continued, shown

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrameTask:
    """A frame as windows, one per item in order of first appearance, and what its forecast frame needs."""

    windows: list[Window]
    names: Names
    item_ids: Any  # (N,) as in the frame
    stamps: Any  # (N * H,) the forecast's time stamps, item by item
    prediction_length: int
    candle: tuple[str, ...] = ()  # the targets that make up a candle
    times: Any = None  # (T,) time stamps or step numbers of the history, item by item
    starts: Any = None  # (N,) first row of each item

    @property
    def ends(self) -> Any:
        """The newest time stamp or step number of each item (N,)."""
        return self.times[np.append(self.starts[1:], len(self.times)) - 1]

    def history(self) -> list[Any]:
        """Return the time stamps or step numbers of each item."""
        bounds = itertools.pairwise([*self.starts.tolist(), len(self.times)])
        return [self.times[first:last] for first, last in bounds]


def open_frame(
    df: pd.DataFrame,
    request: FrameRequest,
    family: Family,
    future_df: pd.DataFrame | None = None,
    trained: Mapping[str, Any] | None = None,
    source: str = "df",
) -> FrameTask:
    """Convert a frame to windows that the family can forecast; trained: the columns of training, if they are recorded;
    source: what notes on its columns call it.

    Raises DataError and ConfigError.
    """
    df, future_df = complete_frames(df, future_df, request)
    df, trained = with_market_names(df, request, family), trained or {}
    df, future_df, names, candle = select_columns(df, future_df, request, family, trained, source)
    check_candles(request.outputs, candle, family.name)
    task = read_frame(
        df,
        request.prediction_length,
        names=names,
        future_df=future_df,
        freq=request.freq,
        calendar=request.calendar,
        categories=trained_categories(trained, list(df.columns)),
        trailing_rows=request.trailing_rows,
    )
    return replace(task, candle=candle)


def complete_frames(
    df: pd.DataFrame, future_df: pd.DataFrame | None, request: FrameRequest
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return both frames with a column of ids and without columns that only count rows. Raises DataError."""
    columns = request.columns
    checks.check_frame(df, columns)
    if future_df is not None:
        checks.check_shape(future_df, "future_df")
    df, future_df = with_item_column(df, future_df, Names(*columns))
    named = (*(request.target or ()), *(request.past_covariates or ()), *(request.known_covariates or ()))
    df = checks.drop_row_numbers(df, "df", (*columns, *named))
    if future_df is not None:
        future_df = checks.drop_row_numbers(future_df, "future_df", (*columns, *(request.known_covariates or ())))
    return df, future_df


def with_market_names(df: pd.DataFrame, request: FrameRequest, family: Family) -> pd.DataFrame:
    """Return the frame with the columns of bars as an import calls them (Close/Last is close), for a family that needs
    them and does not know their own names; columns that the request names keep theirs."""
    names = [str(name) for name in df.columns if name not in request.columns]
    if not family.needs or family.columns(names) is not None:
        return df
    meant = market_names(names)
    if family.columns([meant.get(name, name) for name in names]) is None:
        return df
    named = {*(request.target or ()), *(request.past_covariates or ()), *(request.known_covariates or ())}
    return df.rename(columns={name: bar for name, bar in meant.items() if name not in named})


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
    categories: Mapping[Any, Sequence[str]] | None = None,
    trailing_rows: TrailingRows | None = None,
) -> FrameTask:
    """Convert a long frame, one row per item and time stamp, to windows. Other columns are covariates.

    Covariates that future_df has too are known ahead (exactly prediction_length rows per item, at the stamps that
    follow), the others are past-only. Text, boolean and date columns are categorical: encoded as target means, or as
    ordinal codes if there are several targets (ordinal forces one of the two; categories: those of training, by column
    and code). The stamps that follow are inferred from the series (see next_stamps), or set by freq or an exchange's
    calendar; an integer time column counts steps. freq also puts the rows on its grid, with missing values between.
    trailing_rows says what newest rows without a target are (see rows.settle). Values after the cutoff are never
    read. Raises DataError that names column and item and says what to do.
    """
    names = names or Names()
    prediction_length = check_horizon(prediction_length)
    df, future_df = _checked_columns(df, future_df, names)
    checks.warn_of_quotes(df)
    history = sorted_rows(df, names, None)
    history, future_df, source = settle(history, future_df, names, prediction_length, trailing_rows)
    freq = history.freq if freq is None and calendar is None else checked(freq)
    history = on_grid(history, freq, calendar)
    coming = continued(history.times, history.starts, history.ids, prediction_length, freq, calendar)
    if coming.grids:
        history = put_on_grids(history, [coming.grids.get(i) for i in range(len(history.ids))])
    known, stamps = None, coming.times
    if future_df is not None:
        like = column_of(df, names.timestamp)
        matched = _match_future(future_df, history, names, prediction_length, stamps, coming.guessed, like, source)
        known, stamps = matched.frame, matched.times
    past, ahead = _covariates(history.frame, known, names)
    if absent := [name for name in names.known or () if name in past]:
        warn(_log, not_given_note(absent))
    windows = windows_of(history, known, names.target, past, ahead, stamps, ordinal, categories)
    return FrameTask(windows, names, history.ids, stamps, prediction_length, times=history.times, starts=history.starts)


def following_stamps(
    times: Sequence[Any], ids: Any, horizon: int, freq: str | None, calendar: str | None
) -> Continuation:
    """Return the (N * H,) stamps that follow those of each item, (k,) as DatetimeIndex or int64 array."""
    lengths = np.array([len(stamps) for stamps in times], np.int64)
    joined = np.concatenate(times) if isinstance(times[0], np.ndarray) else times[0].append(list(times[1:]))
    return continued(joined, np.cumsum(lengths) - lengths, ids, horizon, freq, calendar)


def read_appended_rows(
    df: pd.DataFrame, names: Names, ids: Any, like: Any = None
) -> tuple[list[FloatArray], list[Any]]:
    """Return the values (V, k) and time stamps (k,) of each item in ids; names.target are the V columns, k may be 0.

    like: time column of the first frame, for text. Raises DataError for items not in ids, and as read_frame does.
    """
    import pandas as pd

    df, _ = _checked_columns(df, None, names)
    unknown = np.flatnonzero(pd.Index(ids).get_indexer(pd.Index(df[names.item_id])) < 0)
    if len(unknown):
        raise DataError(f"item {shown(df[names.item_id].iloc[unknown[0]])} is not in the first frame.")
    found = sorted_rows(df, names, ids, which="df", like=like)
    values = np.stack([numbers(column_of(found.frame, name)) for name in names.target])
    bounds = np.searchsorted(found.code, np.arange(len(ids) + 1))
    parts = [slice(first, last) for first, last in itertools.pairwise(bounds.tolist())]
    return [values[:, part] for part in parts], [found.times[part] for part in parts]


def one_series(df: pd.DataFrame, future_df: pd.DataFrame, id_column: str = "item_id") -> pd.DataFrame:
    """Return future_df with the item of df if each holds a single item, however they are called.

    For files without a column of ids, whose items are named after the files.
    """
    single = [id_column in given.columns and column_of(given, id_column).nunique() == 1 for given in (df, future_df)]
    if not all(single):
        return future_df
    return future_df.assign(**{id_column: df[id_column].iloc[0]})


def with_item_column(df: pd.DataFrame, future_df: pd.DataFrame | None, names: Names) -> tuple[Any, Any]:
    """Add the column of ids to frames that lack it and hold a single series.

    df gets the default column, filled with "item"; future_df that of df. Raises DataError if df lacks ids and has two
    rows at one stamp.
    """
    if names.item_id in df.columns or names.item_id != Names.item_id or names.timestamp not in df.columns:
        if future_df is not None and names.item_id not in future_df.columns and names.item_id in df.columns:
            ids = column_of(df, names.item_id)
            checks.check_ids(ids, "df")
            if ids.nunique() == 1:
                future_df = future_df.assign(**{names.item_id: ids.iloc[0]})
        return df, future_df
    called = (
        name
        for name in df.columns
        if plain(name) in ID_NAMES and not is_numeric(column_of(df, name)) and _several(df, name)
    )
    if (name := next(called, None)) is not None:
        raise _unnamed_ids(name, names)
    _refuse_two_rows(df, names)
    if (name := _restarting(df, names)) is not None:
        raise _unnamed_ids(name, names)
    df = df.assign(**{names.item_id: "item"})
    if future_df is None or names.item_id not in future_df.columns:
        return df, None if future_df is None else future_df.assign(**{names.item_id: "item"})
    return df, one_series(df, future_df, names.item_id)


def _unnamed_ids(name: str, names: Names) -> DataError:
    return DataError(
        f"df has no column {names.item_id!r}, but {name!r} with several values. Name the column of ids with "
        f"id_column={name!r}, or drop it if df is one series. {READ_TABLE}"
    )


def _restarting(df: pd.DataFrame, names: Names) -> str | None:
    """Return the column with an id's usual name at whose changes alone the time goes back, as in an import."""
    import pandas as pd

    labels = [name for name in df.columns if is_key_name(name) and name != names.timestamp and _several(df, name)]
    column = column_of(df, names.timestamp)
    if not labels or (column.dtype == object and not checks.is_text(column)):
        return None
    times = pd.Series(read_times(column, "df").values) if checks.is_text(column) else column
    if times.isna().any():
        return None
    steps = np.diff(times.rank(method="dense").to_numpy())
    back = (-steps if (steps < 0).sum() > (steps > 0).sum() else steps) <= 0
    for name in labels:
        codes = pd.factorize(column_of(df, name))[0]
        change = np.diff(codes) != 0
        blocks = change.sum() == codes.max() and 2 * change.sum() < len(codes) - 1
        if back.any() and blocks and not (back & ~change).any():
            return name
    return None


def _refuse_two_rows(df: pd.DataFrame, names: Names) -> None:
    """Raise DataError if a frame without ids has two rows at one stamp, naming columns that tell them apart."""
    column = column_of(df, names.timestamp)
    if column.dtype == object and not checks.is_text(column):
        return  # equal objects may be different instants: datetimes in the hour that a clock change repeats
    twice = (column.duplicated() & column.notna()).to_numpy()
    if not twice.any():
        return
    others = [name for name in df.columns if name != names.timestamp and _several(df, name)]
    others.sort(key=lambda name: is_numeric(column_of(df, name)))
    apart = [name for name in others if not df.duplicated([name, names.timestamp]).to_numpy().any()]
    way = f"name the column of its ids: id_column={apart[0]!r}" if apart else "give it a column of ids"
    time = column.iloc[int(twice.argmax())]
    hint = "" if apart else changed_hour(read_times(column, "df").values, np.flatnonzero(twice))
    raise DataError(
        f"df has two rows at {time} and no column {names.item_id!r}. Keep one of them, or, if df holds several series, "
        f"{way}.{hint} foretrain.read_table(FILE, duplicates=...) decides for a file."
    )


def _several(df: pd.DataFrame, name: str) -> bool:
    """Return True if a column without fractions has several values that come back, so that it may hold ids."""
    from pandas.api import types

    column = column_of(df, name)
    try:
        return not types.is_float_dtype(column.dtype) and 1 < column.nunique() <= len(df) // 2
    except TypeError:  # a cell that is no single value
        return False


def _checked_columns(df: pd.DataFrame, future_df: pd.DataFrame | None, names: Names) -> tuple[Any, Any]:
    """Return both frames with numbers in their number columns. Raises DataError for columns that do not fit."""
    wanted = (names.item_id, names.timestamp, *names.target)
    if not names.target:
        raise DataError("target names no column; give at least one.")
    if len(set(wanted)) < len(wanted):
        raise DataError(f"the columns {', '.join(map(repr, wanted))} must differ.")
    for which, given in (("df", df), ("future_df", future_df)):
        if given is not None:
            checks.check_shape(given, which)
    missing = [name for name in wanted if name not in df.columns]
    if missing:
        raise DataError(
            f"df has no column {missing[0]!r}; its columns are {checks.columns_of(df)}. "
            f"Rename it or name yours with id_column=, timestamp_column= or target=. {READ_TABLE}"
        )
    if not len(df):
        raise DataError("df has no rows; give at least one row per item.")
    converted = {}
    for name in df.columns:
        if name in (names.item_id, names.timestamp):
            continue
        column = column_of(df, name)
        read = checks.python_numbers(column, target=name in names.target)
        if read is not column:
            converted[name] = read
        checks.check_numbers(read, "df")
        if name in names.target and not is_numeric(read):
            text = checks.first_text(column, df[names.item_id])
            raise DataError(f"target {name!r} is not a column of numbers: {text}")
        if name not in names.target:
            checks.check_text(read)
    df = df.assign(**converted) if converted else df
    if future_df is None:
        return df, None
    lacking = [name for name in (names.item_id, names.timestamp) if name not in future_df.columns]
    if lacking:
        raise DataError(f"future_df has no column {lacking[0]!r}; its columns are {checks.columns_of(future_df)}.")
    targets = [name for name in names.target if name in future_df.columns]
    if targets:
        raise DataError(
            f"future_df holds the target {targets[0]!r}, which is to be forecast; drop that column, or, if it is known "
            "ahead, name the targets without it: target= (--target), known_covariates= (--known-covariates)."
        )
    extra = [name for name in future_df.columns if name not in df.columns]
    if extra:
        raise DataError(f"future_df has a column {extra[0]!r} that df lacks; add its history to df or drop it.")
    return df, future_df


def _match_future(
    future_df: pd.DataFrame,
    history: SortedRows,
    names: Names,
    horizon: int,
    future_stamps: Any,
    settable: bool,
    like: Any,
    source: str,
) -> SortedRows:
    """Sort future_df in the order of the windows; check its items and, unless settable, its stamps.

    source: what errors call future_df.
    """
    future = sorted_rows(future_df, names, history.ids, which=source, like=like)
    if isinstance(future.times, np.ndarray) != isinstance(history.times, np.ndarray):
        raise DataError(
            f"column {names.timestamp!r} counts steps in one of df and future_df and has time stamps in the other."
        )
    if not isinstance(future.times, np.ndarray):
        zoned = [stamps.tz is not None for stamps in (history.times, future.times)]
        if zoned[0] != zoned[1]:
            raise DataError(
                f"column {names.timestamp!r} has a time zone in {'df' if zoned[0] else 'future_df'} and none in "
                f"{'future_df' if zoned[0] else 'df'}; localise or convert one of them."
            )
        if zoned[0]:
            future = replace(future, times=future.times.tz_convert(history.times.tz))
    counts = np.bincount(future.code, minlength=len(history.ids))
    wrong = np.flatnonzero(counts != horizon)
    if len(wrong):
        raise DataError(
            f"{source}: item {shown(history.ids[wrong[0]])} has {counts[wrong[0]]} rows; it needs exactly "
            f"prediction_length = {horizon}."
        )
    differ = np.flatnonzero(np.asarray(future.times != future_stamps))
    if len(differ) and not settable:
        at = differ[0]
        raise DataError(
            f"{source}: item {shown(history.ids[at // horizon])} has a row at {future.times[at]} where the forecast "
            f"has {future_stamps[at]}. Align its stamps with the history, or give freq=."
        )
    ends = np.append(history.starts[1:], len(history.code)) - 1
    early = np.flatnonzero(np.asarray(future.times[::horizon] <= history.times[ends]))
    if len(early):
        item, time = shown(history.ids[early[0]]), future.times[early[0] * horizon]
        raise DataError(
            f"{source}: item {item} has a row at {time}, which is not after its history "
            f"({history.times[ends[early[0]]]})."
        )
    return future


def _covariates(frame: pd.DataFrame, known: pd.DataFrame | None, names: Names) -> tuple[list[str], list[str]]:
    """Return the past-only covariates, and those that `known` has too and that may be known ahead."""
    every = [name for name in frame.columns if name not in (names.item_id, names.timestamp, *names.target)]
    open_ones = every if names.known is None else names.known
    ahead = [name for name in every if known is not None and name in known.columns and name in open_ones]
    return [name for name in every if name not in ahead], ahead
