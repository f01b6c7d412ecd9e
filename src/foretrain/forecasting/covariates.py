"""Columns of a frame encoded as numbers, and the windows of its items.

Encodings of categorical covariates are fitted on the history up to the cutoff only.

# T history rows of all items, F future rows of all items, N items, V variates, H horizon
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from foretrain.data.encoding import shrunk_means
from foretrain.data.splits import window_key
from foretrain.data.windows import FloatArray, IntArray, Window
from foretrain.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SortedRows:
    """A frame's rows grouped by item and ascending in time."""

    frame: pd.DataFrame
    code: IntArray  # (T,) item of each row, ascending
    starts: IntArray  # (N,) first row of each item
    ids: Any  # (N,)
    times: Any  # (T,) DatetimeIndex or int64 array


@dataclass(frozen=True)
class Codes:
    """A categorical column as integers: 0 ... count-1 are categories, count = missing, count+1 = unseen."""

    past: IntArray  # (T,) never "unseen"
    future: IntArray | None  # (F,)
    count: int


@dataclass(frozen=True)
class RowItems:
    """The item index of each history row and each future row."""

    past: IntArray  # (T,)
    future: IntArray  # (F,)
    num_items: int


def is_numeric(column: pd.Series) -> bool:
    """Return True for numbers; text, dates, categories and booleans are categorical covariates."""
    from pandas.api import types

    return types.is_numeric_dtype(column.dtype) and not types.is_bool_dtype(column.dtype)


def factorise(past: pd.Series, future: pd.Series | None) -> Codes:
    """Encode a column; its categories are those of the history (sorted if possible), future values are looked up."""
    import pandas as pd

    category = past.astype("category")
    categories = category.cat.categories
    count = len(categories)
    past_codes = category.cat.codes.to_numpy(np.int64)
    past_codes = np.where(past_codes < 0, count, past_codes)
    if future is None:
        return Codes(past_codes, None, count)
    values: Any = future.astype(object) if isinstance(future.dtype, pd.CategoricalDtype) else future
    found = categories.get_indexer(pd.Index(values))
    missing = future.isna().to_numpy()
    return Codes(past_codes, np.where(missing, count, np.where(found < 0, count + 1, found)).astype(np.int64), count)


def ordinal(codes: Codes) -> tuple[FloatArray, FloatArray | None]:
    """Return the codes of history (T,) and future (F,); a category absent from the history is NaN."""
    past = codes.past.astype(np.float32)
    if codes.future is None:
        return past, None
    return past, np.where(codes.future > codes.count, np.nan, codes.future).astype(np.float32)


def target_means(codes: Codes, rows: RowItems, target: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray | None]:
    """Encode history (T,) and future (F,) as the item's mean target in that category, shrunk towards the item's mean.

    Means are over finite targets of the item's whole history (encoding.shrunk_means). Missing counts as a category; a
    category absent from the item's history gets the item's mean.
    """
    import pandas as pd

    slots = codes.count + 2
    finite = np.isfinite(target)
    values = np.where(finite, target, 0.0).astype(np.float64)
    sums = np.bincount(rows.past, weights=values, minlength=rows.num_items)
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
    past: pd.Series, future: pd.Series | None, rows: RowItems, target: npt.NDArray[Any], *, use_ordinal: bool
) -> tuple[FloatArray, FloatArray | None]:
    """Encode a categorical column as numbers: its codes if use_ordinal, else target means of `target` (T,)."""
    codes = factorise(past, future)
    return ordinal(codes) if use_ordinal else target_means(codes, rows, target)


def windows_of(
    history: SortedRows,
    known: pd.DataFrame | None,
    targets: Sequence[str],
    past: Sequence[str],
    ahead: Sequence[str],
    stamps: Any,
    ordinal: bool | None,
) -> list[Window]:
    """Return a window per item, with its targets, past-only covariates (past) and known covariates (ahead).

    known holds H rows per item, in the order of the items, at the stamps (N * H,). ordinal None = codes if there are
    several targets, else target means.
    """
    horizon = len(stamps) // len(history.ids)
    context, future = _values(history, known, targets, [*past], [*ahead], horizon, ordinal)
    return _windows(history, context, future, (*targets, *past, *ahead), len(targets), len(past), stamps)


def _values(
    history: SortedRows,
    known: pd.DataFrame | None,
    targets: Sequence[str],
    past: list[str],
    ahead: list[str],
    horizon: int,
    ordinal: bool | None,
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
        if is_numeric(column):
            context[i] = numbers(column)
            if future_column is not None:
                future[i] = _known_numbers(future_column)
            continue
        context[i], encoded = encode(column, future_column, rows, context[0], use_ordinal=use_ordinal)
        if encoded is not None:
            future[i] = encoded
    return context, future


def numbers(column: pd.Series) -> FloatArray:
    """Return a column as float32; values that are missing, infinite or beyond float32 are NaN."""
    with np.errstate(over="ignore"):
        values = column.to_numpy(dtype=np.float32, na_value=np.nan)
    finite = np.isfinite(values)
    return values if finite.all() else np.where(finite, values, np.float32(np.nan))


def _known_numbers(column: pd.Series) -> FloatArray:
    import pandas as pd

    if not is_numeric(column) and column.notna().any():
        read: Any = pd.to_numeric(column, errors="coerce")
        bad: Any = column[read.isna() & column.notna()]
        shown = bad.iloc[0] if len(bad) else column.dropna().iloc[0]
        raise DataError(f"column {column.name!r} holds numbers in df but {shown!r} in future_df; use one kind.")
    read = pd.to_numeric(column) if column.notna().any() else column.astype(np.float32)
    return numbers(read)


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
    times = history.times.as_unit("us").asi8 if calendar else None
    ahead = future_stamps.as_unit("us").asi8 if calendar else None
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


def column_of(frame: pd.DataFrame, name: str) -> pd.Series:
    """Return a column by its name."""
    return cast("pd.Series", frame[name])  # never a frame: names are unique
