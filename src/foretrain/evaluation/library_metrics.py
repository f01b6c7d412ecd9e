"""Metrics as other libraries define them, for figures that stand beside published ones.

The libraries agree on formulas and differ in what they average and in what they leave out. Each function here equals
the library that it is named after:

| | gluonts.ev | fev |
|---|---|---|
| MASE, SQL | mean over observed steps | the same by window and variate; mean over variates, then windows |
| seasonal error | lag 1 if the season exceeds the history | undefined without a pair a season apart |
| ... that is 0 or undefined | its rows are left out | its rows are left out |
| WQL, WAPE | sum of losses / sum of abs(y) | by window and variate: means / max(mean of abs(y), epsilon) |
| missing truth | its steps are left out | its steps are left out |

`metrics.table`, which evaluations report, averages MASE by row, as gluonts.evaluation.Evaluator does. Without missing
values, in one window of one variate, all three are the same number.

# N rows (a variate of an item in a window), H horizon, Q levels
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from foretrain.errors import DataError
from foretrain.evaluation.scored import MEDIAN, Array, Ints

FEV_EPSILON = 1.0  # of fev-bench's WAPE and WQL: a variate whose values are all near 0 is not divided by
MSIS_ALPHA = 0.05  # gluonts' default: the 95% interval
_TAIL = 1e-8  # in the logarithms of gluonts' tails


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

    def __post_init__(self) -> None:
        n, h = self.target.shape
        shapes = {
            "point": (self.point, (n, h)),
            "quantiles": (self.quantiles, (n, h, len(self.levels))),
            "seasonal_error": (self.seasonal_error, (n,)),
            "variate": (self.variate, (n,)),
            "window": (self.window, (n,)),
        }
        for name, (values, expected) in shapes.items():
            if values.shape != expected:
                raise DataError(f"{name} has shape {values.shape}; the truth and levels need {expected}.")
        if MEDIAN not in self.levels or len(self.levels) < 2:
            raise DataError(f"levels {list(self.levels)}: two or more are needed, {MEDIAN} among them.")
        if not (np.isfinite(self.point).all() and np.isfinite(self.quantiles).all()):
            raise DataError("forecasts hold values that are not finite, which no metric can score.")

    def take(self, rows: Ints) -> Instances:
        """Return some of the rows."""
        by_row = ("target", "point", "quantiles", "seasonal_error", "variate", "window")
        return replace(self, **{name: getattr(self, name)[rows] for name in by_row})


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
    observed = np.isfinite(rows.target)
    truth = np.where(observed, rows.target, 0.0)
    median = rows.quantiles[:, :, rows.levels.index(MEDIAN)]
    size = np.abs(truth)
    error, squared = np.abs(truth - median), (truth - rows.point) ** 2
    scale = rows.seasonal_error[:, None]
    total = size[observed].sum()
    low, high = (_tail(rows, level) for level in (MSIS_ALPHA / 2, 1 - MSIS_ALPHA / 2))
    below, above = np.maximum(low - truth, 0.0), np.maximum(truth - high, 0.0)
    interval = high - low + 2 / MSIS_ALPHA * (below + above)
    mse = _mean(squared, observed)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "MSE[mean]": mse,
            "MSE[0.5]": _mean((truth - median) ** 2, observed),
            "MAE[0.5]": _mean(error, observed),
            "MASE[0.5]": _mean(error / scale, observed),
            "MAPE[0.5]": _mean(error / size, observed),
            "sMAPE[0.5]": _mean(2 * error / (size + np.abs(median)), observed),
            "MSIS": _mean(interval / scale, observed),
            "RMSE[mean]": float(np.sqrt(mse)),
            "NRMSE[mean]": float(np.sqrt(mse) / _mean(size, observed)),
            "ND[0.5]": float(error[observed].sum() / total),
            "mean_weighted_sum_quantile_loss": float(_pinball(rows)[observed].sum() / len(rows.levels) / total),
        }


def fev_metrics(rows: Instances, epsilon: float = FEV_EPSILON) -> dict[str, float]:
    """Return SQL, MASE, WAPE and WQL as fev does: by window and variate, mean over variates, then over windows.

    epsilon: the least denominator of WAPE and WQL, in the unit of the data (fev-bench: 1).
    """
    by_window = []
    for window in np.unique(rows.window):
        inside = rows.take(np.flatnonzero(rows.window == window))
        parts = [inside.take(np.flatnonzero(inside.variate == variate)) for variate in np.unique(inside.variate)]
        by_window.append(np.mean([_fev_variate(part, epsilon) for part in parts], axis=0))
    return dict(zip(("SQL", "MASE", "WAPE", "WQL"), np.mean(by_window, axis=0).tolist(), strict=True))


METRICS_OF: dict[str, tuple[Callable[[Array, int], float], Callable[[Instances], dict[str, float]]]] = {
    "gluonts": (gluonts_seasonal_error, gluonts_metrics),
    "fev": (fev_seasonal_error, fev_metrics),
}


def _fev_variate(rows: Instances, epsilon: float) -> tuple[float, float, float, float]:
    """Return SQL, MASE, WAPE, WQL of the rows of one variate and window."""
    observed = np.isfinite(rows.target)
    error = np.abs(np.where(observed, rows.target, 0.0) - rows.point)
    pinball = _pinball(rows) / len(rows.levels)
    scale = rows.seasonal_error[:, None]
    size = max(_mean(np.abs(rows.target), observed), epsilon)
    with np.errstate(invalid="ignore", divide="ignore"):
        sql, mase = _mean(pinball / scale, observed), _mean(error / scale, observed)
        return sql, mase, _mean(error, observed) / size, _mean(pinball, observed) / size


def _mean_gap(history: Array, lag: int) -> float:
    gaps = np.abs(history[lag:] - history[:-lag])
    gaps = gaps[np.isfinite(gaps)]
    return float(gaps.mean()) if len(gaps) else np.nan


def _mean(values: Array, observed: np.ndarray) -> float:
    """Return the mean of the observed finite values; NaN if there is none."""
    kept = values[observed]
    kept = kept[np.isfinite(kept)]
    return float(kept.mean()) if len(kept) else np.nan


def _pinball(rows: Instances) -> Array:
    """Return 2 * pinball loss summed over levels (N, H); NaN where the truth is missing."""
    total = np.zeros_like(rows.target)
    for q, level in enumerate(rows.levels):
        forecast = rows.quantiles[:, :, q]
        total += 2.0 * np.abs((rows.target - forecast) * ((rows.target <= forecast) - level))
    return total


def _tail(rows: Instances, level: float) -> Array:
    """Return the quantile at a level (N, H): one of the forecasts, or gluonts' exponential tail through the outer two.

    gluonts.model.forecast.ExponentialTailApproximation. Only levels outside the forecast ones are asked for.
    """
    if level in rows.levels:
        return rows.quantiles[:, :, rows.levels.index(level)]
    if level > MEDIAN:
        return -_tail(_mirrored(rows), 1 - level)
    first, second = rows.quantiles[:, :, 0], rows.quantiles[:, :, 1]
    x, y = rows.levels[0] + _TAIL, rows.levels[1] + _TAIL
    slope = (second - first) / np.log(y / x + _TAIL)
    return slope * np.log((level + _TAIL) / y + _TAIL) + second


def _mirrored(rows: Instances) -> Instances:
    """Return the rows with the signs of all values changed."""
    return replace(
        rows,
        target=-rows.target,
        point=-rows.point,
        quantiles=-rows.quantiles[:, :, ::-1],
        levels=tuple(1 - level for level in reversed(rows.levels)),
    )
