"""Columns of a frame encoded as numbers, and the windows of its items.

Encodings of categorical covariates are fitted on the history up to the cutoff only.

# T history rows of all items, F future rows of all items, N items, V variates, H horizon
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from foretrain.data.encoding import recorded_codes, shrunk_means
from foretrain.data.importers.cells import is_number_text
from foretrain.data.splits import window_key
from foretrain.data.windows import FloatArray, IntArray, Window
from foretrain.errors import DataError
from foretrain.forecasting.record import category_note, listed
from foretrain.notes import Code, Note, warn

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SortedRows:
    """A frame's rows grouped by item and ascending in time."""

    frame: pd.DataFrame
    code: IntArray  # (T,) item of each row, ascending
    starts: IntArray  # (N,) first row of each item
    ids: Any  # (N,)
    times: Any  # (T,) DatetimeIndex or int64 array
    freq: str | None = None  # of a time column of periods


@dataclass(frozen=True)
class Codes:
    """A categorical column as integers: 0 ... count-1 are categories, count = missing, count+1 = unseen."""

    past: IntArray  # (T,) never "unseen"
    future: IntArray | None  # (F,)
    count: int
    categories: Any = ()  # (count,) their values


@dataclass(frozen=True)
class RowItems:
    """The item index of each history row and each future row."""

    past: IntArray  # (T,) ascending
    future: IntArray  # (F,)
    num_items: int


def is_numeric(column: pd.Series) -> bool:
    """Return True for numbers; text, dates, categories and booleans are categorical covariates."""
    from pandas.api import types

    return types.is_numeric_dtype(column.dtype) and not types.is_bool_dtype(column.dtype)


def factorise(past: pd.Series, future: pd.Series | None) -> Codes:
    """Encode a column; its categories are those of the history (sorted if possible), future values are looked up.

    Spellings of one value match: True, 1, 1.0, "1" and "TRUE". Logs a note that names future values which the history
    lacks. Raises DataError if it has values, but none of these (a flag that was never set may be set for the first
    time, though), and for cells that are no single value.
    """
    import pandas as pd

    try:
        category = past.astype("category").cat.remove_unused_categories()
        if future is not None and isinstance(future.dtype, pd.CategoricalDtype):
            future = future.astype(future.cat.categories.dtype)
        distinct = None if future is None else pd.factorize(future)
    except (TypeError, ValueError, NotImplementedError):
        raise DataError(_no_value(past, future)) from None
    categories = category.cat.categories
    count = len(categories)
    past_codes = category.cat.codes.to_numpy(np.int64)
    past_codes = np.where(past_codes < 0, count, past_codes)
    if distinct is None:
        return Codes(past_codes, None, count, categories)
    rows, values = distinct
    found = _look_up(categories, values)
    unseen = [values[i] for i in np.flatnonzero(found < 0)]
    if count and unseen and len(unseen) == len(values) and not _are_flags([*unseen, *categories]):
        raise DataError(
            f"column {past.name!r}: its history has none of its future values ({listed(unseen)}; the history has "
            f"{listed(categories)}). Spell them alike, or leave the column out of future_df."
        )
    if unseen:
        text = (
            f"column {past.name!r}: {len(unseen):,} of {len(values):,} future values are not in its history, so they "
            f"say nothing: {listed(unseen)}."
        )
        warn(_log, Note(Code.FUTURE_VALUES_UNSEEN, text, {"values": len(unseen), "of": len(values)}))
    found = np.append(np.where(found < 0, count + 1, found), count)  # a missing value has index -1
    return Codes(past_codes, found[rows].astype(np.int64), count, categories)


def _look_up(categories: Any, values: Any) -> IntArray:
    """Return the category of each value, by another spelling if it is the only category with it; -1 without any."""
    import pandas as pd

    found = categories.get_indexer(pd.Index(values)).astype(np.int64)
    if (found >= 0).all():
        return found
    spelled: dict[Any, list[int]] = {}
    for number, category in enumerate(categories):
        spelled.setdefault(_canonical(category), []).append(number)
    for i in np.flatnonzero(found < 0):
        matches = spelled.get(_canonical(values[i]), [])
        if len(matches) == 1:
            found[i] = matches[0]
    return found


def _canonical(value: Any) -> Any:
    """Return a number for numbers, booleans and their text, a stamp for dates, the value itself for anything else."""
    import datetime
    import decimal

    import pandas as pd

    if isinstance(value, str):
        text = value.strip()
        if text.lower() in ("true", "false"):
            return float(text.lower() == "true")
        return float(text) if is_number_text(text) else text
    if isinstance(value, bool | np.bool_ | int | float | np.number | decimal.Decimal):
        return float(value)
    return pd.Timestamp(value) if isinstance(value, datetime.date | np.datetime64) else value


def _are_flags(values: Sequence[Any]) -> bool:
    """Return True for true and false in any spelling, 1 and 0 beside them."""
    words = [isinstance(v, bool | np.bool_) or str(v).strip().lower() in ("true", "false") for v in values]
    return any(words) and all(_canonical(value) in (0.0, 1.0) for value in values)


def _no_value(past: pd.Series, future: pd.Series | None) -> str:
    """Return an error text for a column with a cell, such as a list, that cannot be a category."""
    for which, column in (("df", past), ("future_df", future)):
        for row, value in enumerate([] if column is None else column.to_list()):
            try:
                hash(value)
            except TypeError:
                text = f"{which}: column {past.name!r} holds a {type(value).__name__} (row {row}); a covariate has one "
                return text + "value a row. Drop the column or make it several."
    return f"column {past.name!r} has type {past.dtype}, which is neither number nor text; convert or drop it."


def ordinal(codes: Codes) -> tuple[FloatArray, FloatArray | None]:
    """Return the codes of history (T,) and future (F,); a category absent from the history is NaN."""
    past = codes.past.astype(np.float32)
    if codes.future is None:
        return past, None
    return past, np.where(codes.future > codes.count, np.nan, codes.future).astype(np.float32)


def trained_ordinal(codes: Codes, rows: RowItems, recorded: Sequence[str]) -> tuple[FloatArray, FloatArray | None]:
    """Return the codes of history (T,) and future (F,) as training had them; recorded: its categories by their codes.

    A category absent from the item's own history is NaN, as in windows of a corpus (encoding.encode_codes).
    """
    import pandas as pd

    table = recorded_codes(_look_up(pd.Index(recorded), codes.categories), len(recorded))
    past = table[codes.past]
    if codes.future is None:
        return past, None
    slots = codes.count + 2
    seen = np.isin(rows.future * slots + codes.future, np.unique(rows.past * slots + codes.past))
    return past, np.where(seen, np.append(table, np.float32(np.nan))[codes.future], np.float32(np.nan))


def target_means(codes: Codes, rows: RowItems, target: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray | None]:
    """Encode history (T,) and future (F,) as the item's mean target in that category, shrunk towards the item's mean.

    Means are over finite targets of the item's whole history (encoding.shrunk_means). Missing counts as a category; a
    category absent from the item's history gets the item's mean.
    """
    import pandas as pd

    slots = codes.count + 2
    finite = np.isfinite(target)
    values = np.where(finite, target, 0.0).astype(np.float64)
    bounds = np.searchsorted(rows.past, np.arange(rows.num_items + 1)).tolist()
    # each item summed by itself, as windows of a corpus are (encoding.encode_codes), so that both have the same bits
    sums = np.array([values[first:last].sum() for first, last in itertools.pairwise(bounds)])
    counts = np.bincount(rows.past, weights=finite, minlength=rows.num_items)
    means = np.divide(sums, counts, out=np.zeros(rows.num_items), where=counts > 0)
    # Only pairs that occur get a cell: items x categories would not fit in memory for an id-like column.
    place, pairs = pd.factorize(rows.past * slots + codes.past)
    table = shrunk_means(place, values, finite, means[pairs // slots])
    past = table[place].astype(np.float32)
    if codes.future is None:
        return past, None
    found = pd.Index(pairs).get_indexer(rows.future * slots + codes.future)
    return past, np.where(found >= 0, table[found], means[rows.future]).astype(np.float32)


def encode(
    past: pd.Series,
    future: pd.Series | None,
    rows: RowItems,
    target: npt.NDArray[Any],
    *,
    use_ordinal: bool,
    recorded: Sequence[str] | None = None,
    compared: bool = False,
) -> tuple[FloatArray, FloatArray | None]:
    """Encode a categorical column as numbers: its codes if use_ordinal, else target means of `target` (T,).

    recorded: the categories of training by their codes, if they are known; compared: log a note if the column has
    others.
    """
    codes = factorise(past, future)
    if compared:
        _warn_of_categories(past.name, codes.categories, recorded)
    if use_ordinal and recorded is not None:
        return trained_ordinal(codes, rows, recorded)
    return ordinal(codes) if use_ordinal else target_means(codes, rows, target)


def windows_of(
    history: SortedRows,
    known: pd.DataFrame | None,
    targets: Sequence[str],
    past: Sequence[str],
    ahead: Sequence[str],
    stamps: Any,
    ordinal: bool | None,
    categories: Mapping[Any, Sequence[str]] | None = None,
) -> list[Window]:
    """Return a window per item, with its targets, past-only covariates (past) and known covariates (ahead).

    known holds H rows per item, in the order of the items, at the stamps (N * H,). ordinal None = codes if there are
    several targets, else target means. categories: those of training, by column; None = they are not known.
    """
    horizon = len(stamps) // len(history.ids)
    context, future = _values(history, known, targets, [*past], [*ahead], horizon, ordinal, categories)
    return _windows(history, context, future, (*targets, *past, *ahead), len(targets), len(past), stamps)


def _values(
    history: SortedRows,
    known: pd.DataFrame | None,
    targets: Sequence[str],
    past: list[str],
    ahead: list[str],
    horizon: int,
    ordinal: bool | None,
    categories: Mapping[Any, Sequence[str]] | None,
) -> tuple[FloatArray, FloatArray]:
    """Return the context (V, T) and future (V, N * H) of all items, concatenated over time."""
    frame = history.frame
    rows = RowItems(history.code, np.repeat(np.arange(len(history.ids)), horizon), len(history.ids))
    context = np.empty((len(targets) + len(past) + len(ahead), len(frame)), np.float32)
    future = np.full((len(context), len(history.ids) * horizon), np.nan, np.float32)
    for i, name in enumerate(targets):
        context[i] = numbers(column_of(frame, name))
    use_ordinal = len(targets) > 1 if ordinal is None else ordinal
    for i, name in enumerate([*past, *ahead], start=len(targets)):
        column = column_of(frame, name)
        future_column = None if name not in ahead or known is None else column_of(known, name)
        recorded = None if categories is None else categories.get(name)
        compared = use_ordinal and categories is not None
        if is_numeric(column):
            if compared:
                _warn_of_categories(name, None, recorded)
            context[i] = numbers(column)
            if future_column is not None:
                future[i] = known_numbers(future_column, column)
            continue
        context[i], encoded = encode(
            column,
            future_column,
            rows,
            context[0],
            use_ordinal=use_ordinal,
            recorded=recorded,
            compared=compared,
        )
        if encoded is not None:
            future[i] = encoded
    return context, future


def _warn_of_categories(name: Any, own: Any, trained: Sequence[str] | None) -> None:
    """Log a note if a covariate's codes are not those of training.

    own: its categories, None = it holds numbers; trained: its categories in training, None = it had none.
    """
    import pandas as pd

    unseen: list[Any] = []
    if own is not None and trained is not None:
        unseen = [own[i] for i in np.flatnonzero(_look_up(pd.Index(trained), own) < 0)]
    if (note := category_note(name, None if own is None else list(own), unseen, trained)) is not None:
        warn(_log, note)


def numbers(column: pd.Series) -> FloatArray:
    """Return a column as float32; values that are missing, infinite or beyond float32 are NaN."""
    with np.errstate(over="ignore"):
        values = column.to_numpy(dtype=np.float32, na_value=np.nan)
    finite = np.isfinite(values)
    return values if finite.all() else np.where(finite, values, np.float32(np.nan))


def known_numbers(column: pd.Series, history: pd.Series, names: tuple[str, str] = ("df", "future_df")) -> FloatArray:
    """Return the future values of a column of numbers.

    If its history has nothing but 1 and 0, true and false count as these, in any spelling. Raises DataError, with the
    names of history and future, for other values that are no numbers.
    """
    if is_numeric(column):
        return numbers(column)
    present = column.dropna().to_list()
    values = [_number(value) for value in present]
    bad = next((value for value, number in zip(present, values, strict=True) if number is None), None)
    if bad is None and any(isinstance(value, bool | np.bool_ | str) for value in present):
        past = numbers(history)
        if not np.isin(past[np.isfinite(past)], (0, 1)).all():
            bad = next(value for value in present if isinstance(value, bool | np.bool_ | str))
    if bad is not None:
        bad = bad.item() if isinstance(bad, np.generic) else bad
        raise DataError(f"column {column.name!r} holds numbers in {names[0]} but {bad!r} in {names[1]}; use one kind.")
    result = np.full(len(column), np.nan, np.float32)
    result[column.notna().to_numpy()] = np.array(values, np.float32)
    return np.where(np.isfinite(result), result, np.float32(np.nan))


def _number(value: Any) -> float | None:
    """Return the number of a cell, 1 and 0 for true and false and their text, None for anything else."""
    found = _canonical(value)
    if isinstance(value, str) and found not in (0.0, 1.0):
        return None
    return found if isinstance(found, float) else None


def _windows(
    history: SortedRows,
    context: FloatArray,
    future: FloatArray,
    rows: tuple[str, ...],
    num_targets: int,
    num_past: int,
    future_stamps: Any,
) -> list[Window]:
    calendar = not isinstance(history.times, np.ndarray)
    dates = calendar and are_dates(history.times)
    times = clock(history.times, dates=dates) if calendar else None
    ahead = clock(future_stamps, dates=dates) if calendar else None
    bounds = [*history.starts.tolist(), len(history.code)]
    horizon = future.shape[1] // len(history.ids)
    return [
        Window(
            context=context[:, bounds[i] : bounds[i + 1]],
            num_targets=num_targets,
            num_past=num_past,
            future=future[:, i * horizon : (i + 1) * horizon],
            context_times=None if times is None else times[bounds[i] : bounds[i + 1]],
            future_times=None if ahead is None else ahead[i * horizon : (i + 1) * horizon],
            item_id=str(item_id),
            key=window_key(str(item_id), bounds[i + 1] - bounds[i]),
            names=rows,
        )
        for i, item_id in enumerate(history.ids)
    ]


def are_dates(stamps: Any) -> bool:
    """Return True if all stamps are midnights of their time zone, so that they stand for days, as in an import."""
    return stamps.tz is not None and bool((stamps == stamps.normalize()).all())


def clock(stamps: Any, *, dates: bool) -> IntArray:
    """Return the microseconds that models see: local ones of naive stamps and of dates, else those of UTC."""
    return (stamps.tz_localize(None) if dates else stamps).as_unit("us").asi8


def column_of(frame: pd.DataFrame, name: str) -> pd.Series:
    """Return a column by its name."""
    return cast("pd.Series", frame[name])  # never a frame: names are unique
