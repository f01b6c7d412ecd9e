"""Categorical covariates as numbers, learnt from the history up to the cutoff and from nothing after it.

# T history rows of all items, F future rows of all items, N items
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from foretrain.data.encoding import shrunk_means
from foretrain.data.windows import FloatArray, IntArray

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Codes:
    """A categorical column as integers: 0 ... count-1 its categories, count = missing, count+1 = not seen before."""

    past: IntArray  # (T,) never "not seen before"
    future: IntArray | None  # (F,)
    count: int


@dataclass(frozen=True)
class RowItems:
    """Which item each history row and each future row belongs to."""

    past: IntArray  # (T,)
    future: IntArray  # (F,)
    num_items: int


def is_numeric(column: pd.Series) -> bool:
    """True for numbers; text, dates, categories and booleans are categorical covariates."""
    from pandas.api import types

    return types.is_numeric_dtype(column.dtype) and not types.is_bool_dtype(column.dtype)


def factorise(past: pd.Series, future: pd.Series | None) -> Codes:
    """Codes of a column; categories are those of the history (sorted where they can be), future ones only looked up."""
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
    """History (T,) and future (F,) as the codes themselves; a category that the history never saw is NaN."""
    past = codes.past.astype(np.float32)
    if codes.future is None:
        return past, None
    return past, np.where(codes.future > codes.count, np.nan, codes.future).astype(np.float32)


def target_means(codes: Codes, rows: RowItems, target: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray | None]:
    """History (T,) and future (F,) as the item's mean target under that category, shrunk towards the item's mean.

    Over finite targets of the item's whole history (encoding.shrunk_means). Missing is a category of its own; one that
    the item never saw gives the item's mean.
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
    """A categorical column as numbers: by its target means, or by its codes where there are several targets.

    target is (T,), looked at only for target means.
    """
    codes = factorise(past, future)
    return ordinal(codes) if use_ordinal else target_means(codes, rows, target)
