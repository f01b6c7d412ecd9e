"""One row a stamp: equal rows and rows that complement each other are joined, conflicting ones follow a rule.

# V columns, T rows in the order of their stamps, R rows whose stamp occurs more than once, G such stamps
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from foretrain.data.windows import FloatArray, IntArray, Mask

Duplicates = Literal["last", "first", "mean", "error"]


@dataclass(frozen=True)
class Joined:
    """Rows after joining. source: the row (K,) of the input that a row is, or whose place it takes.

    identical: rows that say again what their stamp has; complementary: rows whose values went into another row;
    conflicting: further rows of stamps with different values; lost: rows (indices) with a value that is kept nowhere;
    first: the first two conflicting rows, and the columns in which they differ.
    """

    values: FloatArray  # (V, K)
    source: IntArray
    identical: int = 0
    complementary: int = 0
    conflicting: int = 0
    lost: IntArray | None = None
    first: tuple[int, int, list[int]] | None = None


def join(
    values: FloatArray,
    times: IntArray,
    rule: Literal["last", "first", "mean", "none"],
    categorical: Mask | None = None,
) -> Joined:
    """Return one row for each of the ascending `times`. rule: which conflicting row stays; none: not one of them.

    The mean ignores NaN; of a categorical column, which has no mean, the last value counts.
    """
    new = np.append(True, times[1:] != times[:-1])
    starts = np.flatnonzero(new)
    counts = np.diff(np.append(starts, len(times)))
    source = starts.copy()
    if (counts == 1).all():
        return Joined(values, source)
    many = counts > 1
    rows = np.flatnonzero(np.repeat(many, counts))
    group = np.repeat(np.arange(many.sum()), counts[many])  # (R,)
    held = values[:, rows]
    edges = np.append(0, np.cumsum(counts[many]))[:-1]
    low, high = np.fmin.reduceat(held, edges, axis=1), np.fmax.reduceat(held, edges, axis=1)
    differing = (low != high) & ~np.isnan(low)  # (V, G)
    conflict = differing.any(axis=0)
    kept = edges if rule == "first" else edges + counts[many] - 1
    chosen = _mean(held, edges, categorical) if rule == "mean" else held[:, kept]
    result = np.where(conflict, chosen, low).astype(np.float32)
    if rule != "first":
        source[many] += np.where(conflict, counts[many] - 1, 0)
    gone = ~np.isnan(held) & ((held != result[:, group]) | (rule == "none"))
    lost = conflict[group] & gone.any(axis=0)
    repeat = np.isnan(held) == np.isnan(result[:, group])
    equal = np.logical_and.reduceat(repeat.all(axis=0), edges) & ~conflict
    further = counts[many] - 1
    joined = values[:, source]
    joined[:, many] = result
    if rule == "none":
        stays = np.ones(len(counts), bool)
        stays[np.flatnonzero(many)[conflict]] = False
        joined, source = joined[:, stays], source[stays]
    return Joined(
        joined,
        source,
        identical=int(further[equal].sum()),
        complementary=int(further[~equal & ~conflict].sum()),
        conflicting=int(further[conflict].sum()),
        lost=rows[lost],
        first=_first(held, rows, edges, counts[many], differing, categorical),
    )


def _mean(held: FloatArray, edges: IntArray, categorical: Mask | None) -> FloatArray:
    observed = ~np.isnan(held)
    count = np.add.reduceat(observed.astype(np.int64), edges, axis=1)
    total = np.add.reduceat(np.where(observed, held, 0).astype(np.float64), edges, axis=1)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        mean = (total / count).astype(np.float32)
    for v in np.flatnonzero(categorical) if categorical is not None else ():
        newest = np.maximum.reduceat(np.where(observed[v], np.arange(held.shape[1]), -1), edges)
        mean[v] = np.where(newest < 0, np.nan, held[v, newest])
    return mean


def _first(
    held: FloatArray,
    rows: IntArray,
    edges: IntArray,
    counts: IntArray,
    differing: Mask,
    categorical: Mask | None,
) -> tuple[int, int, list[int]] | None:
    """Return two conflicting rows of the first such stamp and the columns that differ, numeric ones if any."""
    conflicts = np.flatnonzero(differing.any(axis=0))
    if not len(conflicts):
        return None
    at = int(conflicts[0])
    columns = np.flatnonzero(differing[:, at])
    if categorical is not None and not categorical[columns].all():
        columns = columns[~categorical[columns]]
    of = slice(int(edges[at]), int(edges[at] + counts[at]))
    cells = held[columns[0], of]
    one = int(np.flatnonzero(~np.isnan(cells))[0])
    other = int(np.flatnonzero(~np.isnan(cells) & (cells != cells[one]))[0])
    both = held[:, of][:, [one, other]][columns]
    return int(rows[of][one]), int(rows[of][other]), columns[both[:, 0] != both[:, 1]].tolist()
