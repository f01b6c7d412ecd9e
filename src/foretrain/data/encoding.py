"""Target encoding of categorical covariates, fitted only on steps before the cutoff.

# B windows, C context steps, H horizon steps
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from foretrain.data.windows import FloatArray, IntArray

Float64Array = npt.NDArray[np.float64]


def shrunk_means(
    cell: IntArray, values: npt.NDArray[Any], finite: npt.NDArray[Any], prior: Float64Array
) -> Float64Array:
    """Return (cells,) float64: (prior + sum of a cell's finite values) / (1 + their count), as chronos2/preprocess.py.

    cell (n,) is the cell of each value, values (n,) are 0 where finite (n,) is false, prior (cells,) is the mean over
    all categories of the item or window that a cell belongs to.
    """
    sums = np.bincount(cell, weights=values, minlength=len(prior))
    counts = np.bincount(cell, weights=finite, minlength=len(prior))
    return (prior + sums) / (1.0 + counts)


def recorded_codes(place: IntArray, recorded: int) -> FloatArray:
    """Return the codes (K + 1,) of K categories and of a missing value, as training encoded them.

    place (K,) is each category's place among the `recorded` ones of training, -1 if it is not one of them; these share
    a code of their own.
    """
    codes = np.where(place < 0, recorded + 1, place)
    return np.append(codes, recorded).astype(np.float32)


def encode_codes(
    codes: FloatArray, padded: IntArray, count: int, target: FloatArray | None, context_length: int
) -> FloatArray:
    """Encode (B, C + H) codes in 0..count-1, NaN = missing, as model inputs; the first padded[b] steps stay NaN.

    With a target (B, C), a category becomes the shrunk mean of the window's finite context targets of that category,
    and a category that the context lacks the window's mean. Without a target (windows with several targets) the code
    is used as it is, with NaN for a category that the context lacks. Missing counts as one more category.
    """
    windows = len(codes)
    slot = np.where(np.isnan(codes), count, codes).astype(np.int64)
    place = slot + np.arange(windows)[:, None] * (count + 1)
    inside = np.arange(context_length) >= padded[:, None]
    past = place[:, :context_length]
    if target is None:
        seen = np.bincount(past[inside], minlength=windows * (count + 1)) > 0
        out = np.where(seen[place], slot, np.nan).astype(np.float32)
    else:
        finite = np.isfinite(target) & inside
        values = np.where(finite, target, 0.0).astype(np.float64)
        mean = values.sum(axis=1) / np.maximum(finite.sum(axis=1), 1)
        table = shrunk_means(past.ravel(), values.ravel(), finite.ravel(), np.repeat(mean, count + 1))
        out = table[place].astype(np.float32)
    out[:, :context_length][~inside] = np.nan
    return out
