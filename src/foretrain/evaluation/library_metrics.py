"""Metrics as other libraries define them, for figures that stand beside published ones.

The libraries agree on formulas and differ in what they average and in what they leave out. Each function here equals
the library that it is named after:

| | gluonts.ev | fev | utilsforecast |
|---|---|---|---|
| MASE, SQL | mean over observed steps | by window and variate, then their means | by row, then their mean |
| seasonal error | lag 1 if the season exceeds the history | undefined without a pair | undefined without a pair |
| ... that is undefined | its rows are left out | its rows are left out | its rows are left out |
| ... that is 0 | its rows are left out | its rows are left out | infinite |
| WQL, WAPE | sum of losses / sum of abs(y) | by the same: means / max(mean of abs(y), epsilon) | by row: sums |
| missing truth | its steps are left out | its steps are left out | but for scaled_crps and coverage |

`metrics.table`, which evaluations report, averages MASE by row, as gluonts.evaluation.Evaluator does. Without missing
values, in one window of one variate, all three are the same number.

# N rows (a variate of an item in a window), H horizon, Q levels
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from foretrain.errors import DataError
from foretrain.evaluation.scored import INTERVAL, MEDIAN, Array, Ints

FEV_EPSILON = 1.0  # of fev-bench's WAPE and WQL: a variate whose values are all near 0 is not divided by
MSIS_ALPHA = 0.05  # gluonts' default: the 95% interval
_TAIL = 1e-8  # in the logarithms of gluonts' tails
_BLOCK = 1 << 13  # steps that are worked on at a time


@dataclass(frozen=True)
class Instances:
    """Truth, forecasts and seasonal errors of N rows.

    Raises DataError if their shapes disagree or a forecast is not finite: both libraries refuse such forecasts.
    """

    target: Array  # (N, H) the truth; NaN = not observed, never scored
    point: Array  # (N, H) the point forecast
    quantiles: Array  # (N, H, Q)
    levels: tuple[float, ...]  # (Q,) ascending
    seasonal_error: Array  # (N,) NaN or 0 = undefined
    variate: Ints  # (N,) 0 = first
    window: Ints  # (N,) 0 = first
    squared_seasonal_error: Array | None = None  # (N,) mean of squared seasonal differences, of rmsse alone
    last: Array | None = None  # (N,) the last observed close, of metrics of prices alone
    item: Ints | None = None  # (N,) 0 = first, of the same

    def __post_init__(self) -> None:
        n, h = self.target.shape
        shapes = {
            "point": (self.point, (n, h)),
            "quantiles": (self.quantiles, (n, h, len(self.levels))),
            "seasonal_error": (self.seasonal_error, (n,)),
            "variate": (self.variate, (n,)),
            "window": (self.window, (n,)),
        }
        if self.squared_seasonal_error is not None:
            shapes["squared_seasonal_error"] = (self.squared_seasonal_error, (n,))
        for name, (values, expected) in shapes.items():
            if values.shape != expected:
                raise DataError(f"{name} has shape {values.shape}; the truth and levels need {expected}.")
        if MEDIAN not in self.levels or len(self.levels) < 2:
            raise DataError(f"levels {list(self.levels)}: two or more are needed, {MEDIAN} among them.")
        if not (np.isfinite(self.point).all() and np.isfinite(self.quantiles).all()):
            raise DataError("forecasts hold values that are not finite, which no metric can score.")


def gluonts_seasonal_error(history: Array, seasonality: int) -> float:
    """Return mean |y_t - y_(t-m)| over the observed pairs; m = 1 if the season is longer than the history.

    NaN without a pair. gluonts.ev.ts_stats.seasonal_error with masked missing values.
    """
    return _mean_gap(history, 1 if seasonality > len(history) else seasonality)


def fev_seasonal_error(history: Array, seasonality: int) -> float:
    """Return mean |y_t - y_(t-m)| over the observed pairs; NaN without a pair. fev.metrics, of one item."""
    return _mean_gap(history, seasonality)


def gluonts_metrics(rows: Instances) -> dict[str, float]:
    """Return the metrics of gluonts.ev over all rows and steps, under the names that GIFT-Eval's tables use.

    `[mean]` metrics score the point forecast, `[0.5]` ones the median. MSIS takes its bounds from gluonts' exponential
    tails, unless the levels have them. All are pooled over observed steps; a division by 0 leaves its step out.
    """
    totals: dict[str, Array] = {}
    for block in _blocks(rows):
        for name, values in _gluonts_terms(block, rows.levels).items():
            tally = np.stack(_tally(values, block.observed)).sum(axis=1)
            totals[name] = totals[name] + tally if name in totals else tally
    size, loss = totals.pop("size"), totals.pop("loss")
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {name: total[0] / total[1] for name, total in totals.items()}
        found["RMSE[mean]"] = np.sqrt(found["MSE[mean]"])
        found["NRMSE[mean]"] = found["RMSE[mean]"] / (size[0] / size[1])
        found["ND[0.5]"] = totals["MAE[0.5]"][0] / size[0]
        found["mean_weighted_sum_quantile_loss"] = loss[0] / size[0]
    return {name: float(value) for name, value in found.items()}


def _gluonts_terms(block: RowBlock, levels: tuple[float, ...]) -> dict[str, Array]:
    """Return what gluonts' metrics average, of each step (B, H)."""
    truth, size = block.truth, np.abs(block.truth)
    median = block.quantiles[:, :, levels.index(MEDIAN)]
    miss = truth - median
    error = np.abs(miss)
    low, high = (_tail(block.quantiles, levels, level) for level in (MSIS_ALPHA / 2, 1 - MSIS_ALPHA / 2))
    interval = high - low + 2 / MSIS_ALPHA * (np.maximum(low - truth, 0.0) + np.maximum(truth - high, 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "MSE[mean]": (truth - block.point) ** 2,
            "MSE[0.5]": miss**2,
            "MAE[0.5]": error,
            "MASE[0.5]": error / block.scale,
            "MAPE[0.5]": error / size,
            "sMAPE[0.5]": 2 * error / (size + np.abs(median)),
            "MSIS": interval / block.scale,
            "size": size,
            "loss": _pinball(block, levels) / len(levels),
        }


def fev_metrics(rows: Instances, epsilon: float = FEV_EPSILON) -> dict[str, float]:
    """Return SQL, MASE, WAPE and WQL as fev does: by window and variate, mean over variates, then over windows.

    epsilon: the least denominator of WAPE and WQL, in the unit of the data (fev-bench: 1).
    """
    tallies: list[Array] = []  # (2, 5, B): sums and counts of SQL, MASE, error, loss, size
    for block in _blocks(rows):
        error, loss = np.abs(block.truth - block.point), _pinball(block, rows.levels) / len(rows.levels)
        with np.errstate(invalid="ignore", divide="ignore"):
            terms = (loss / block.scale, error / block.scale, error, loss, np.abs(block.truth))
        tallies.append(np.stack([_tally(values, block.observed) for values in terms], axis=1))
    per_row = np.concatenate(tallies, axis=2).reshape(10, -1)
    parts, part = np.unique(np.stack([rows.window, rows.variate]), axis=1, return_inverse=True)
    sums, counts = _by_group(per_row, part.ravel(), parts.shape[1]).reshape(2, 5, -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        sql, mase, error, loss, size = sums / counts
        size = np.maximum(size, epsilon)
        values = np.stack([sql, mase, error / size, loss / size, np.ones(len(sql))])
    windows, window = np.unique(parts[0], return_inverse=True)
    by_window = _by_group(values, window.ravel(), len(windows))
    means = (by_window[:4] / by_window[4]).mean(axis=1)
    return dict(zip(("SQL", "MASE", "WAPE", "WQL"), means.tolist(), strict=True))


def utilsforecast_seasonal_error(history: Array, seasonality: int) -> float:
    """Return mean |y_t - y_(t-m)| over the observed pairs; NaN without a pair. utilsforecast.losses.mase's scale."""
    return _mean_gap(history, seasonality)


def utilsforecast_metrics(rows: Instances) -> dict[str, float]:
    """Return utilsforecast.losses as evaluate(agg_fn="mean") reduces them: of each row, then the mean over rows.

    A row whose value is undefined (no observed step, no seasonal error, only zeros) is left out; a seasonal error of 0
    makes mase, rmsse and scaled_mqloss infinite, as there. smape is in 0..1, quantile losses lack the factor 2.
    scaled_crps and coverage count missing steps: as steps, and as steps outside. rmsse needs squared_seasonal_error,
    coverage-80 the levels .1 and .9.
    """
    tallies: list[Array] = []  # (2, 6, B): sums and counts
    inside: list[Array] = []
    for block in _blocks(rows):
        miss, size = block.truth - block.point, np.abs(block.truth)
        error, total = np.abs(miss), size + np.abs(block.point)
        with np.errstate(invalid="ignore", divide="ignore"):
            smape = np.where(total == 0, 0.0, error / total)
            terms = (error, miss**2, error / size, smape, _pinball(block, rows.levels) / (2 * len(rows.levels)), size)
        tallies.append(np.stack([_tally(values, block.observed) for values in terms], axis=1))
        if set(INTERVAL) <= set(rows.levels):
            low, high = (block.quantiles[:, :, rows.levels.index(level)] for level in INTERVAL)
            inside.append((block.observed & (low <= block.truth) & (block.truth <= high)).mean(axis=1))
    sums, counts = np.concatenate(tallies, axis=2)
    scale, horizon = rows.seasonal_error, rows.target.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        mae, mse, mape, smape, mqloss, _ = sums / counts
        found = {
            "mae": mae,
            "rmse": np.sqrt(mse),
            "mape": mape,
            "smape": smape,
            "mase": mae / scale,
            "nd": sums[0] / np.where(sums[5] == 0, np.nan, sums[5]),
            "mqloss": mqloss,
            "scaled_mqloss": mqloss / scale,
            "scaled_crps": 2 * mqloss * horizon / (sums[5] + np.finfo(np.float64).eps),
        }
        if rows.squared_seasonal_error is not None:
            found["rmsse"] = np.sqrt(mse / rows.squared_seasonal_error)
    if inside:
        found["coverage-80"] = np.concatenate(inside)
    return {name: _mean_of_defined(values) for name, values in found.items()}


METRICS_OF: dict[str, tuple[Callable[[Array, int], float], Callable[[Instances], dict[str, float]]]] = {
    "gluonts": (gluonts_seasonal_error, gluonts_metrics),
    "fev": (fev_seasonal_error, fev_metrics),
    "utilsforecast": (utilsforecast_seasonal_error, utilsforecast_metrics),
}


class RowBlock(NamedTuple):
    """Some of the rows: as many as a core's cache holds, since metrics pass over them dozens of times."""

    truth: Array  # (B, H) 0 where it is not observed
    observed: npt.NDArray[np.bool_]  # (B, H)
    point: Array  # (B, H)
    quantiles: Array  # (B, H, Q)
    scale: Array  # (B, 1) the seasonal error


def _blocks(rows: Instances) -> Iterator[RowBlock]:
    """Yield all rows, in order."""
    step = max(1, _BLOCK // max(1, rows.target.shape[1]))
    for first in range(0, len(rows.target), step):
        part = slice(first, first + step)
        target = rows.target[part]
        observed = np.isfinite(target)
        truth = target if observed.all() else np.where(observed, target, 0.0)
        yield RowBlock(truth, observed, rows.point[part], rows.quantiles[part], rows.seasonal_error[part, None])


def _tally(values: Array, observed: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
    """Return the sums and the number of the observed finite values of each row."""
    kept = np.isfinite(values)
    kept &= observed
    return np.where(kept, values, 0.0).sum(axis=1), kept.sum(axis=1).astype(np.float64)


def _by_group(values: Array, group: Ints, groups: int) -> Array:
    """Return the sums over the groups of columns (K, N): (K, G)."""
    return np.stack([np.bincount(group, weights=row, minlength=groups).astype(np.float64) for row in values])


def _mean_of_defined(values: Array) -> float:
    """Return the mean of the values that are not NaN; NaN if there is none."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else np.nan


def _mean_gap(history: Array, lag: int) -> float:
    gaps = np.abs(history[lag:] - history[:-lag])
    gaps = gaps[np.isfinite(gaps)]
    return float(gaps.mean()) if len(gaps) else np.nan


def _pinball(block: RowBlock, levels: tuple[float, ...]) -> Array:
    """Return 2 * pinball loss summed over levels (B, H), of d = f - y as the sum of |d| - (2 q - 1) d."""
    difference = block.quantiles - block.truth[:, :, None]
    signed = difference @ (1.0 - 2.0 * np.array(levels))
    return signed + np.abs(difference, out=difference) @ np.ones(len(levels))


def _tail(quantiles: Array, levels: tuple[float, ...], level: float) -> Array:
    """Return the quantile at a level (B, H): one of the forecasts, or gluonts' exponential tail through the outer two.

    gluonts.model.forecast.ExponentialTailApproximation. Only levels outside the forecast ones are asked for.
    """
    if level in levels:
        return quantiles[:, :, levels.index(level)]
    if level > MEDIAN:  # the lower tail of the forecasts with their signs changed
        mirrored = tuple(1 - outer for outer in reversed(levels))
        return -_tail(-quantiles[:, :, :-3:-1], mirrored, 1 - level)
    first, second = quantiles[:, :, 0], quantiles[:, :, 1]
    x, y = levels[0] + _TAIL, levels[1] + _TAIL
    slope = (second - first) / np.log(y / x + _TAIL)
    return slope * np.log((level + _TAIL) / y + _TAIL) + second
