"""Truth and forecasts of many windows in one record, the input of every metric.

# N rows (a row is one target of one item at one cutoff), H horizon, Q levels, V variates, T steps of a series
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from foretrain.data.windows import NO_TIME
from foretrain.errors import DataError

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MEDIAN = 0.5
INTERVAL = (0.1, 0.9)  # the 80% interval whose coverage is reported


@dataclass(frozen=True)
class Scored:
    """Truth and forecasts of N rows. Sums follow the order of the rows, so the same rows give the same bits.

    Raises DataError if shapes disagree or a level that metrics need (.1, .5, .9) is missing.
    """

    target: Array  # (N, H) the truth; NaN = not observed, never scored
    quantiles: Array  # (N, H, Q) in the units of the data; NaN makes the metrics NaN
    levels: tuple[float, ...]  # (Q,) ascending
    last: Array  # (N,) last observed value before the cutoff (for prices the last close)
    seasonal_error: Array  # (N,) denominator of MASE; NaN if it is undefined or zero
    item: Ints  # (N,) index into items
    items: tuple[str, ...]  # names; one entry per (item, target column)
    unit: tuple[str, ...]  # unit of each of items; errors of equal units may be averaged
    price: npt.NDArray[np.bool_]  # (N,) True if the row is a price
    cutoff: Ints  # (N,) step of the first forecast value
    rank: Ints  # (N,) 0 = newest window of its item, 1 = the one before, ...
    start: Ints  # (N,) microseconds of the first forecast step, or NO_TIME
    end: Ints  # (N,) microseconds of the last forecast step, or NO_TIME
    stride: int  # steps between successive cutoffs of an item
    scored_levels: tuple[float, ...] | None = None  # the levels that WQL and SQL sum over; None = all

    def __post_init__(self) -> None:
        n, h = self.target.shape
        if self.quantiles.shape != (n, h, len(self.levels)):
            raise DataError(
                f"forecasts have shape {self.quantiles.shape}; the truth and levels need {(n, h, len(self.levels))}."
            )
        missing = [level for level in (INTERVAL[0], MEDIAN, INTERVAL[1]) if level not in self.levels]
        if missing:
            raise DataError(f"levels {missing} are missing from {list(self.levels)}; .1, .5 and .9 are always needed.")

    def __len__(self) -> int:
        return len(self.target)

    @property
    def horizon(self) -> int:
        """Steps of a forecast."""
        return self.target.shape[1]

    @property
    def median(self) -> Array:
        """(N, H) the point forecast."""
        return self.at(MEDIAN)

    @property
    def has_times(self) -> bool:
        """True if every row has time stamps."""
        return bool(len(self)) and bool((self.start != NO_TIME).all() and (self.end != NO_TIME).all())

    @property
    def all_prices(self) -> bool:
        """True if every row is a price; errors can then be given in percent of the last close."""
        return bool(len(self)) and bool(self.price.all())

    @property
    def one_unit(self) -> bool:
        """True if all errors are in the same unit; their average is then meaningful."""
        return len(set(self.unit)) == 1

    @property
    def error_scale(self) -> Array:
        """(N,) divisor of absolute errors that are averaged over items; NaN = the row is skipped.

        |last close| if every row is a price, else MASE's denominator.
        """
        scale = np.abs(self.last) if self.all_prices else self.seasonal_error
        return np.where(scale > 0, scale, np.nan)

    def at(self, level: float) -> Array:
        """Return the forecasts at one level (N, H)."""
        return self.quantiles[:, :, self.levels.index(level)]

    def forecast(self, quantiles: Array) -> Scored:
        """Return the same rows with another forecaster's quantiles."""
        return replace(self, quantiles=quantiles)

    def take(self, rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Scored:
        """Return some of the rows; items keep their indices."""
        by_row = ("target", "quantiles", "last", "seasonal_error", "item", "price", "cutoff", "rank", "start", "end")
        return replace(self, **{name: getattr(self, name)[rows] for name in by_row})

    def step(self, h: int) -> Scored:
        """Return the rows with step h of the horizon only (0 = first)."""
        return self.steps(h, h + 1)

    def steps(self, first: int, end: int) -> Scored:
        """Return the rows with the steps first to end - 1 of the horizon (0 = first)."""
        return replace(self, target=self.target[:, first:end], quantiles=self.quantiles[:, first:end])


def seasonal_errors(values: npt.NDArray[np.floating], cutoffs: Sequence[int] | Ints, seasonality: int) -> Array:
    """Return mean |y_t - y_(t-m)| over the steps before each cutoff, (len(cutoffs), V).

    Pairs with a missing value are skipped. m is the seasonality, or 1 if the history is not longer than it. NaN if no
    pair is observed or the mean is 0. Formula: gluonts.evaluation.metrics.calculate_seasonal_error on the whole past of
    a window. values is (V, T); the cost is O(V T) for any number of cutoffs.
    """
    ends = np.asarray(cutoffs, np.int64)
    result = np.full((len(ends), len(values)), np.nan)
    for lag in {seasonality, 1}:
        chosen = (ends > seasonality) if lag == seasonality else (ends <= seasonality)
        chosen &= ends > lag
        if not chosen.any():
            continue
        stop = int(ends[chosen].max())
        history = values[:, :stop].astype(np.float64)
        gaps = np.abs(history[:, lag:] - history[:, :-lag])
        observed = np.isfinite(gaps)
        sums = np.cumsum(np.where(observed, gaps, 0.0), axis=1)
        counts = np.cumsum(observed, axis=1)
        newest = ends[chosen] - lag - 1  # pair k ends at step k + lag
        with np.errstate(invalid="ignore", divide="ignore"):
            result[chosen] = (sums[:, newest] / counts[:, newest]).T
    result[~(result > 0)] = np.nan
    return result


def concatenate(parts: Sequence[Scored]) -> Scored:
    """Join the rows of several corpora; items with equal names stay separate."""
    if not parts:
        raise DataError("nothing to score: there is no window.")
    if len(parts) == 1:
        return parts[0]
    first = np.cumsum([0, *(len(part.items) for part in parts)])
    shared = ("target", "quantiles", "last", "seasonal_error", "price", "cutoff", "rank", "start", "end")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in shared}
    return replace(
        parts[0],
        **joined,
        item=np.concatenate([part.item + offset for part, offset in zip(parts, first, strict=False)]),
        items=tuple(name for part in parts for name in part.items),
        unit=tuple(unit for part in parts for unit in part.unit),
    )
