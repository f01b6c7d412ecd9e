"""Categorical covariates of corpora as numbers, learnt from steps before the cutoff and from nothing after it.

# B windows, C context steps, H horizon steps
"""

from __future__ import annotations

import numpy as np

from foretrain.data.windows import FloatArray, IntArray


def encode_codes(
    codes: FloatArray, padded: IntArray, count: int, target: FloatArray | None, context_length: int
) -> FloatArray:
    """(B, C + H) codes in 0..count-1, NaN = missing, as numbers a model can use; the first padded[b] steps stay NaN.

    With a target (B, C): (mean + sum over the category) / (1 + count of the category) of the window's finite context
    targets, the rule of chronos2/preprocess.py; a category that the context lacks gives the mean. Without one (several
    targets): the code itself, NaN for a category that the context lacks. Missing is a category of its own.
    """
    windows = len(codes)
    slot = np.where(np.isnan(codes), count, codes).astype(np.int64)
    place = slot + np.arange(windows)[:, None] * (count + 1)
    inside = np.arange(context_length) >= padded[:, None]
    past = place[:, :context_length]
    cells = windows * (count + 1)
    if target is None:
        seen = np.bincount(past[inside], minlength=cells) > 0
        out = np.where(seen[place], slot, np.nan).astype(np.float32)
    else:
        finite = np.isfinite(target) & inside
        values = np.where(finite, target, 0.0).astype(np.float64)
        mean = values.sum(axis=1) / np.maximum(finite.sum(axis=1), 1)
        sums = np.bincount(past.ravel(), weights=values.ravel(), minlength=cells)
        hits = np.bincount(past.ravel(), weights=finite.ravel(), minlength=cells)
        out = ((np.repeat(mean, count + 1) + sums) / (1.0 + hits))[place].astype(np.float32)
    out[:, :context_length][~inside] = np.nan
    return out
