"""Baseline forecasters that every model is compared with: last value, drift, seasonal naive, historical mean.

Seasonal naive comes twice if the data have another season than their frequency usually has (seasons.py finds it).

Each is probabilistic, so that the comparison of quantile metrics is fair. Level q of a forecast is

    point + sign(q - 1/2) * width(h) * (the |2q - 1| quantile of the method's own absolute one-step errors)

where the errors are those within the context and width(h) is how the method's error grows with the horizon (Hyndman
and Athanasopoulos, Forecasting: Principles and Practice, 3rd ed., section 5.5). With normal errors these are that
book's intervals; with the heavy tails of prices they are robust: one extreme bar does not widen them, as it would
widen a standard deviation. The median is the point forecast.

Baselines read only the context that the model sees.

# R rows, C context steps (left padded with NaN), H horizon, Q levels
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from foretrain.evaluation.scored import Array, Ints
from foretrain.timeaxis.frequency import DAY

_BATCH_VALUES = 1_000_000  # context values processed at once, so that temporaries fit the CPU's caches


@dataclass(frozen=True)
class _Past:
    """Contexts and the statistics that the methods share."""

    values: Array  # (R, C)
    observed: np.ndarray  # (R, C) bool
    count: Ints  # (R,) observed values
    newest: Ints  # (R,) index of the last observed value; -1 if none
    oldest: Ints  # (R,) index of the first
    previous: Ints  # (R, C) index of the last observed value before each step; -1 if none

    @classmethod
    def of(cls, values: Array) -> _Past:
        observed = np.isfinite(values)
        index = np.arange(values.shape[1])
        filled = np.maximum.accumulate(np.where(observed, index, -1), axis=1)
        previous = np.concatenate([np.full((len(values), 1), -1), filled[:, :-1]], axis=1)
        return cls(
            values=np.where(observed, values, np.nan),
            observed=observed,
            count=observed.sum(1),
            newest=filled[:, -1],
            oldest=np.where(observed.any(1), observed.argmax(1), -1),
            previous=previous,
        )

    def at(self, index: Ints) -> Array:
        """Return the values at an index per row, (R,) or (R, K); NaN where the index is negative."""
        wide = index if index.ndim == 2 else index[:, None]
        found = np.where(wide >= 0, np.take_along_axis(self.values, np.maximum(wide, 0), 1), np.nan)
        return found if index.ndim == 2 else found[:, 0]

    @cached_property
    def distance(self) -> Ints:
        """(R, C) steps since the previous observed value."""
        return np.arange(self.values.shape[1]) - self.previous

    @cached_property
    def steps(self) -> Array:
        """(R, C) change since the previous observed value / sqrt(steps between them); NaN without a previous value."""
        if self.observed.all():
            return np.diff(self.values, axis=1, prepend=np.nan)
        return np.where(self.previous >= 0, (self.values - self.at(self.previous)) / np.sqrt(self.distance), np.nan)

    @property
    def slope(self) -> Array:
        """(R,) mean change per step between the first and the last observed value; 0 with fewer than two."""
        span = self.newest - self.oldest
        rise = self.at(self.newest) - self.at(self.oldest)
        return np.where(span > 0, rise / np.maximum(span, 1), 0.0)

    def steps_ahead(self, horizon: int) -> Array:
        """Return the steps (R, H) from the last observed value to each step of the horizon."""
        return (self.values.shape[1] - 1 - self.newest)[:, None] + np.arange(1, horizon + 1.0)


Stamps = tuple[Ints, Ints]  # (T,) of a row's history and (H,) of its horizon, in microseconds

# Each method gives (point (R, H), one-step errors (R, C), width (R, H)).
_Method = Callable[[_Past, int, int], tuple[Array, Array, Array]]


def _naive(past: _Past, horizon: int, seasonality: int) -> tuple[Array, Array, Array]:
    ahead = past.steps_ahead(horizon)
    return np.repeat(past.at(past.newest)[:, None], horizon, 1), past.steps, np.sqrt(ahead)


def _drift(past: _Past, horizon: int, seasonality: int) -> tuple[Array, Array, Array]:
    ahead, slope = past.steps_ahead(horizon), past.slope[:, None]
    errors = past.steps - slope * np.sqrt(past.distance)
    span = np.maximum(past.newest - past.oldest, 1)[:, None]
    return past.at(past.newest)[:, None] + slope * ahead, errors, np.sqrt(ahead * (1.0 + ahead / span))


def _seasonal_naive(past: _Past, horizon: int, seasonality: int) -> tuple[Array, Array, Array]:
    width = past.values.shape[1]
    point, _, spread = _naive(past, horizon, seasonality)
    seasons = -(-width // seasonality)
    missing = np.zeros((len(past.values), seasons * seasonality - width), bool)
    folded = np.concatenate([missing, past.observed], axis=1).reshape(-1, seasons, seasonality)
    back = folded[:, ::-1].argmax(1)  # (R, m) seasons since each phase was last observed
    newest = np.where(folded.any(1), width - (back + 1) * seasonality + np.arange(seasonality), -1)
    chosen = newest[:, np.arange(horizon) % seasonality]
    seasons_ahead = (width + np.arange(horizon) - chosen) / seasonality
    values = past.at(chosen)
    errors = np.full_like(past.values, np.nan)
    errors[:, seasonality:] = past.values[:, seasonality:] - past.values[:, :-seasonality]
    # Without a pair of values one season apart there is no seasonal error; naive's steps replace it.
    few = ~np.isfinite(errors).any(axis=1, keepdims=True)
    errors = np.where(few, past.steps, errors)
    return (
        np.where(chosen >= 0, values, point),
        errors,
        np.where((chosen >= 0) & ~few, np.sqrt(seasons_ahead), spread),
    )


def _by_clock(past: _Past, horizon: int, stamps: Sequence[Stamps]) -> tuple[Array, Array, Array]:
    """Seasonal naive of sessions of unlike lengths, in which no number of bars leads back to the same time of day.

    A step repeats the same time of day of the newest day that has seen it, or the last value before that time.
    """
    point, errors, spread = (part.copy() for part in _naive(past, horizon, 1))
    for row, (times, future) in enumerate(stamps):
        observed = np.flatnonzero(past.observed[row])
        if not len(observed):
            continue
        seen = times[observed - past.values.shape[1] + len(times)]
        values, days = past.values[row, observed], np.unique(seen // DAY)
        before, _ = _day_before(seen, seen, days)
        if (before >= 0).any():
            errors[row] = np.nan
            errors[row, observed] = np.where(before >= 0, values - values[before], np.nan)
        chosen, day = _day_before(future, seen, days)
        every = np.union1d(days, future // DAY)
        ahead = np.searchsorted(every, future // DAY) - np.searchsorted(every, day)
        point[row] = np.where(chosen >= 0, values[chosen], point[row])
        spread[row] = np.where((chosen >= 0) & (before >= 0).any(), np.sqrt(ahead), spread[row])
    return point, errors, spread


def _day_before(stamps: Ints, seen: Ints, days: Ints) -> tuple[Ints, Ints]:
    """Return (index into `seen`, day) of the same time of day of the newest earlier day that has seen it; -1 if none.

    seen: ascending stamps of values, on `days`. Without a value at that time, the one before it.
    """
    clock = stamps % DAY
    newest = np.minimum(stamps // DAY - 1, (seen[-1] - clock) // DAY)
    k = np.searchsorted(days, newest, side="right") - 1
    day = days[np.maximum(k, 0)]
    found = np.searchsorted(seen, day * DAY + clock, side="right") - 1
    return np.where(k >= 0, found, -1), day


def _historical_mean(past: _Past, horizon: int, seasonality: int) -> tuple[Array, Array, Array]:
    count = np.maximum(past.count, 1)
    mean = np.where(past.count > 0, np.where(past.observed, past.values, 0.0).sum(1) / count, np.nan)
    width = np.repeat(np.sqrt(1.0 + 1.0 / count)[:, None], horizon, 1)
    return np.repeat(mean[:, None], horizon, 1), past.values - mean[:, None], width


SEASONAL, FOUND = "seasonal_naive", "seasonal_naive_found"  # with the usual season, with the one found in the data

BASELINES: dict[str, _Method] = {
    "naive": _naive,
    "drift": _drift,
    SEASONAL: _seasonal_naive,
    FOUND: _seasonal_naive,
    "historical_mean": _historical_mean,
}
# fitted to every context by statsforecast (statistical.py): name -> its class there
STATISTICAL: dict[str, str] = {
    "auto_ets": "AutoETS",
    "auto_theta": "AutoTheta",
    "dynamic_optimized_theta": "DynamicOptimizedTheta",
    "auto_arima": "AutoARIMA",
}
EVERY_BASELINE = (*BASELINES, *STATISTICAL)


def baselines(
    names: Sequence[str],
    contexts: Sequence[np.ndarray],
    horizon: int,
    levels: Sequence[float],
    seasonality: int = 1,
    stamps: Sequence[Stamps] | None = None,
) -> dict[str, Array]:
    """Return each baseline's quantile forecasts (R, H, Q); NaN for a row without an observed value.

    Args:
        names: keys of BASELINES.
        contexts: R one-dimensional histories of any lengths, NaN = not observed.
        horizon: steps to forecast.
        levels: quantile levels; .5 is the point forecast.
        seasonality: steps of a season, for seasonal_naive: it forecasts the newest observed value of the same phase, or
            the last observed value if there is none. With 1 it equals naive, except for histories that end unobserved.
        stamps: those of each history and horizon, if seasonal_naive is to repeat the time of day instead.
    """
    results = {name: np.empty((len(contexts), horizon, len(levels))) for name in names}
    for rows in _batches_by_length(contexts):
        values = np.full((len(rows), max(1, *(len(contexts[index]) for index in rows))), np.nan)
        for row, index in enumerate(rows):
            if len(contexts[index]):
                values[row, -len(contexts[index]) :] = contexts[index]
        past = _Past.of(values)
        for name in names:
            if name == SEASONAL and stamps is not None:
                found = _by_clock(past, horizon, [stamps[index] for index in rows])
            else:
                found = BASELINES[name](past, horizon, seasonality)
            results[name][rows] = _quantiles(*found, levels)
    return results


def _batches_by_length(contexts: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield indices of contexts of ascending length, in batches of at most _BATCH_VALUES values after padding."""
    order = np.argsort([len(context) for context in contexts], kind="stable")
    first = 0
    while first < len(order):
        last = first + 1
        while last < len(order) and len(contexts[order[last]]) * (last + 1 - first) <= _BATCH_VALUES:
            last += 1
        yield order[first:last]
        first = last


def _quantiles(point: Array, errors: Array, width: Array, levels: Sequence[float]) -> Array:
    spread = _row_quantiles(np.abs(errors), [abs(2.0 * level - 1.0) for level in levels])  # (R, Q)
    signs = np.sign(np.array(levels) - 0.5)
    return point[:, :, None] + signs * width[:, :, None] * spread[:, None, :]


def _row_quantiles(values: Array, levels: Sequence[float]) -> Array:
    """Return the quantiles (R, Q) of each row's finite values, linear between order statistics; 0 without any."""
    count = np.isfinite(values).sum(1)
    ordered = np.sort(values, axis=1)  # NaN go last
    position = np.maximum(count - 1, 0)[:, None] * np.asarray(levels)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(count - 1, 0)[:, None])
    below, above = np.take_along_axis(ordered, low, 1), np.take_along_axis(ordered, high, 1)
    return np.where(count[:, None] > 0, below + (above - below) * (position - low), 0.0)
