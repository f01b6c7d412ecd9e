"""Values that are probably damage though any could be real: totals, slipped units, codes for missing, copies.

An import reports them, with row and values, and changes nothing. Each test is cheap where nothing is found: one pass
over the values selects the columns to look at.

# V columns, T rows of one item, in order of time
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import numpy.typing as npt

from foretrain.data.windows import FloatArray, IntArray

Found = tuple[str, int, int, str]  # rule, number of rows, first row, detail
TOTALS = ("total", "totals", "grand total", "sum", "summe", "gesamt", "insgesamt", "average", "mean", "mittelwert",
          "合计", "总计", "итого", "totale", "suma")  # fmt: skip
_LEAST_ROWS = 12
_CODES = frozenset(np.array([-9999, -999, -99999, -999999, 9999, 99999, 999999, 9999999, -99.99, -999.9, 1e20],
                            np.float32).astype(float).tolist())  # fmt: skip
_FACTORS = np.array([100, 1000, 1e6])
_WINDOW = 8  # rows before and after a slip of the unit that must agree on the level
_TAIL = 10
_MAX_PAIRED = 24  # columns that are compared with each other


def suspicious(values: FloatArray, names: tuple[str, ...], checked: IntArray, *, paired: bool) -> Iterator[Found]:
    """Yield what is suspicious in the columns `checked` of (V, T) values. paired: compare columns with each other."""
    if values.shape[1] < _LEAST_ROWS or not len(checked):
        return
    held = values[checked]
    labels = [names[i] for i in checked]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        extremes = list(zip(np.fmin.reduce(held, axis=1).tolist(), np.fmax.reduce(held, axis=1).tolist(), strict=True))
        yield from _totals(held, labels, extremes)
        yield from _codes(held, labels, extremes)
        yield from _units(held, labels, extremes)
        yield from _constant_tails(held, labels)
        if paired and 2 <= len(held) <= _MAX_PAIRED:
            yield from _copies(held, labels)
            yield from _exchanges(held, labels)


def _totals(held: FloatArray, labels: list[str], extremes: list[tuple[float, float]]) -> Iterator[Found]:
    """Find a last row that is the sum of the rows before it in every column with a value there."""
    if any(low < value < high for value, (low, high) in zip(held[:, -1].tolist(), extremes, strict=True)):
        return  # a sum lies beyond all of its parts
    last = held[:, -1].astype(np.float64)
    present = np.isfinite(last)
    if not present.any():
        return
    before = np.where(np.isfinite(held[:, :-1]), held[:, :-1], 0)
    sums = before.sum(axis=1, dtype=np.float64)
    near = np.abs(last - sums) <= 2e-6 * np.abs(sums)
    largest = np.abs(before).max(axis=1)
    if not (near | ~present).all() or not (np.abs(last) > 2 * largest)[present].all():
        return
    detail = ", ".join(f"{label} = {last[v]:.6g}" for v, label in enumerate(labels) if present[v])
    yield "totals_row", 1, held.shape[1] - 1, f"{detail}: the sum of the rows before"


def _codes(held: FloatArray, labels: list[str], extremes: list[tuple[float, float]]) -> Iterator[Found]:
    """Find values such as -9999 far outside the range of all others. extremes: of each column."""
    for v, side in ((v, side) for v, pair in enumerate(extremes) for side in (0, 1) if pair[side] in _CODES):
        code = held.dtype.type(extremes[v][side])
        others = held[v][np.isfinite(held[v]) & (held[v] != code)]
        if len(others) < _LEAST_ROWS:
            continue
        low, high = float(others.min()), float(others.max())
        beyond = low - float(code) if side == 0 else float(code) - high
        if beyond > 3 * (high - low):
            hit = held[v] == code
            detail = f"{labels[v]} = {code:g}, others {low:.6g} to {high:.6g}"
            yield "missing_code", int(hit.sum()), int(hit.argmax()), detail


def _units(held: FloatArray, labels: list[str], extremes: list[tuple[float, float]]) -> Iterator[Found]:
    """Find rows from which on, or in which alone, values are 100, 1,000 or 1,000,000 times the level around them."""
    for v, (low, high) in enumerate(extremes):
        if (low > 0 and high < 50 * low) or (high < 0 and low > 50 * high):
            continue
        present = np.flatnonzero(np.isfinite(held[v]))
        column = held[v] if len(present) == held.shape[1] else held[v, present]
        size = np.abs(column)
        jumps = (size[1:] > 50 * size[:-1]) | (size[:-1] > 50 * size[1:])
        rows = [
            int(at)
            for at in np.flatnonzero(jumps)[:200] + 1
            if at >= _WINDOW and _is_unit(column[at - _WINDOW : at], column[at : at + _WINDOW])
        ]
        if rows:
            detail = f"{labels[v]} {column[rows[0] - 1]:.6g} -> {column[rows[0]]:.6g}"
            yield "unit_change", len(rows), int(present[rows[0]]), detail


def _is_unit(before: FloatArray, after: FloatArray) -> bool:
    """Return True if values after a row have the level before it in another unit, or the first of them has it."""
    level = float(np.median(before))
    if _is_level(before) and _is_level(after) and _is_factor(float(np.median(after)) / level, 1.15):
        return True
    return _is_level(np.append(before, after[1:])) and _is_factor(float(after[0]) / level, 1.1)


def _finite(values: FloatArray) -> FloatArray:
    return values[np.isfinite(values)]


def _is_level(values: npt.NDArray[np.floating]) -> bool:
    """Return True for values of one sign within a factor of three of each other."""
    low, high = float(values.min()), float(values.max())
    return len(values) >= _WINDOW // 2 and (low > 0 or high < 0) and max(low / high, high / low) < 3


def _is_factor(ratio: float, tolerance: float) -> bool:
    larger = max(ratio, 1 / ratio) if ratio > 0 else 0.0
    return larger > 0 and bool((np.abs(np.log(larger / _FACTORS)) < np.log(tolerance)).any())


def _constant_tails(held: FloatArray, labels: list[str]) -> Iterator[Found]:
    """Find columns that end in one value, ten times or more, though no value ever stood a fifth as long before."""
    if held.shape[1] < 3 * _TAIL:
        return
    for v in np.flatnonzero(held[:, -1] == held[:, -2]):
        if not (held[v, -_TAIL:] == held[v, -1]).all():
            continue
        values = _finite(held[v])
        starts = np.flatnonzero(np.diff(values, prepend=np.nan) != 0)
        lengths = np.diff(np.append(starts, len(values)))
        if len(starts) > 1 and lengths[-1] >= 5 * lengths[:-1].max() and len(np.unique(values)) > 10:
            row = int(np.flatnonzero(np.isfinite(held[v]))[starts[-1]])
            yield "constant_tail", int(lengths[-1]), row, f"{labels[v]} = {values[-1]:.6g} to the end"


def _copies(held: FloatArray, labels: list[str]) -> Iterator[Found]:
    """Find stretches in which one column has the values of another, though they differ everywhere else."""
    sample = held[:, :: _TAIL // 2]
    for a, b in combinations(range(len(held)), 2):
        near = sample[a] == sample[b]
        if not (near[1:] & near[:-1]).any() or near.sum() > 0.5 * len(near):
            continue
        same = held[a] == held[b]
        padded = np.concatenate([[False], same, [False]])
        edges = np.flatnonzero(padded[1:] != padded[:-1])
        starts, lengths = edges[::2], edges[1::2] - edges[::2]
        longest = int(lengths.argmax())
        start, length = int(starts[longest]), int(lengths[longest])
        alone = same.sum() - length <= 0.02 * (len(same) - length)
        if length < _TAIL or not alone or len(np.unique(held[a, start : start + length])) <= length // 2:
            continue
        apart = float(np.nanmedian(np.abs(held[a] - held[b])[~same]))
        if apart > 0.25 * np.nanstd(held[a]):  # columns that are near each other are equal at times, by rounding
            detail = f"{labels[a]} and {labels[b]} are equal for {length:,} rows from here, first {held[a, start]:.6g}"
            yield "copied_values", length, start, detail


def _exchanges(held: FloatArray, labels: list[str]) -> Iterator[Found]:
    """Find a row from which on two columns of different levels have changed places."""
    sample = held[:, :: _TAIL // 2]
    for a, b in combinations(range(len(held)), 2):
        rough = sample[a] > sample[b]
        if np.count_nonzero(rough[1:] != rough[:-1]) != 1:
            continue
        above = held[a] > held[b]
        turns = np.flatnonzero(above[1:] != above[:-1]) + 1
        if len(turns) != 1 or not _TAIL <= turns[0] <= len(above) - _TAIL:
            continue
        at = int(turns[0])
        if np.isnan(held[[a, b]]).any():
            continue
        before, after = np.median(held[[a, b], :at], axis=1), np.median(held[[a, b], at:], axis=1)
        between = abs(before[0] - before[1])
        moved = np.abs(held[[a, b], at] - held[[a, b], at - 1])
        if (np.abs(after[::-1] - before) < 0.2 * between).all() and (moved > 0.6 * between).all():
            detail = f"{labels[a]} {held[a, at - 1]:.6g} -> {held[a, at]:.6g}, {labels[b]} {held[b, at - 1]:.6g} -> "
            yield "swapped_columns", held.shape[1] - at, at, f"{detail}{held[b, at]:.6g}"
