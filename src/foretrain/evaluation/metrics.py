"""Metrics of forecasts, vectorised over rows; a metric's name states its unit if it has one.

Point metrics score the median. Steps with a missing truth (NaN) are skipped. A forecast that is NaN makes its metrics
NaN, so that a model that diverged cannot skip the steps where it did.

# N rows, H horizon, Q levels, G groups
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from foretrain.evaluation.scored import INTERVAL, Array, Ints, Scored


class Metric(NamedTuple):
    """Label, unit and direction of a metric, for reports."""

    label: str
    unit: str
    better: str  # "lower" | "higher" | "0.8"


METRICS: dict[str, Metric] = {
    "wql": Metric("WQL", "ratio", "lower"),
    "mase": Metric("MASE", "ratio", "lower"),
    "sql": Metric("SQL", "ratio", "lower"),
    "smape_pct": Metric("sMAPE", "percent, 0 to 200", "lower"),
    "coverage_80_share": Metric("coverage of the 80% interval", "share", "0.8"),
    "pct_mae": Metric("MAE", "percent of the last close", "lower"),
    "direction_accuracy_share": Metric("direction accuracy", "share", "higher"),
    "price_mae": Metric("MAE", "the item's currency", "lower"),
    "mae": Metric("MAE", "the item's unit", "lower"),
    "rmse": Metric("RMSE", "the item's unit", "lower"),
    "skill_vs_naive": Metric("skill against naive", "ratio", "higher"),
}
SQUARED = {  # of squares and price_squares: beside the absolute errors and coverage that tables show
    "width_80_ratio": Metric("width of the 80% interval", "ratio to the mean of the absolute truth", "lower"),
    "mse": Metric("MSE", "square of the item's unit", "lower"),
    "pct_mse": Metric("MSE", "squared percent of the last close", "lower"),
    "pct_rmse": Metric("RMSE", "percent of the last close", "lower"),
    "pct_mape": Metric("MAPE of returns", "percent of the actual return from the last close", "lower"),
    "price_mse": Metric("MSE", "square of the item's currency", "lower"),
    "price_rmse": Metric("RMSE", "the item's currency", "lower"),
    "pct_r2": Metric("R2", "ratio, of percent returns from the last close", "higher"),
}
PRICE_METRICS = ("pct_mae", "direction_accuracy_share", "price_mae")
IN_UNITS = ("mae", "rmse", "price_mae")  # averaged over items only if they share a unit
HIGHER_IS_BETTER = tuple(name for name, metric in METRICS.items() if metric.better == "higher")


@dataclass(frozen=True)
class MetricSums:
    """Per-row numerators and denominators of the metrics. Each array is (N,)."""

    count: Array  # observed steps
    absolute: Array  # sum of |y - f|
    squared: Array  # sum of (y - f)^2
    pinball: Array  # sum over steps and levels of 2 * pinball
    levels: int
    size: Array  # sum of |y|
    smape: Array  # sum of |y - f| / (|y| + |f|), without steps where both are 0
    smape_count: Array
    inside: Array  # steps with y inside the 80% interval
    direction: Array  # steps whose direction from the last value was right
    direction_count: Array  # steps whose truth differs from the last value


def quantile_losses(scored: Scored) -> Array:
    """Return 2 * pinball summed over levels (N, H); 0 where the truth is missing. Koenker and Bassett 1978."""
    observed = np.isfinite(scored.target)
    truth = np.where(observed, scored.target, 0.0)
    total = np.zeros_like(truth)
    for level in scored.scored_levels or scored.levels:
        forecast = scored.at(level)
        total += 2.0 * np.abs((forecast - truth) * ((truth <= forecast) - level))
    return np.where(observed, total, 0.0)


def sums(scored: Scored) -> MetricSums:
    """Compute the sums that all metrics share in one pass over the forecasts."""
    observed = np.isfinite(scored.target)
    truth = np.where(observed, scored.target, 0.0)
    median = scored.median
    error = np.where(observed, np.abs(truth - median), 0.0)
    size = np.abs(truth) + np.abs(median)
    relative = observed & (size != 0)
    last = scored.last[:, None]
    moved = observed & (scored.target != last)
    right = moved & (np.sign(median - last) == np.sign(truth - last))
    low, high = scored.at(INTERVAL[0]), scored.at(INTERVAL[1])
    known = ~(np.isnan(low) | np.isnan(high))
    return MetricSums(
        count=observed.sum(1).astype(np.float64),
        absolute=error.sum(1),
        squared=(error**2).sum(1),
        pinball=quantile_losses(scored).sum(1),
        levels=len(scored.scored_levels or scored.levels),
        size=np.abs(truth).sum(1),
        smape=np.divide(error, size, out=np.zeros_like(error), where=relative).sum(1),
        smape_count=relative.sum(1).astype(np.float64),
        inside=np.where(known, observed & (truth >= low) & (truth <= high), np.where(observed, np.nan, 0.0)).sum(1),
        direction=np.where(moved & np.isnan(median), np.nan, right).sum(1),
        direction_count=moved.sum(1).astype(np.float64),
    )


def table(scored: Scored, group: Ints | None = None, groups: int = 1) -> dict[str, Array]:
    """Return every metric of every group of rows, {name: (G,)}; NaN where it is undefined.

    * wql: sum of 2 * pinball over items, steps and levels / (levels * sum |y|). Chronos paper (2024), section 5.2;
      gluonts' mean_wQuantileLoss.
    * mase, sql: mean over rows of the row's mean error (2 * pinball) / seasonal error; rows without one are skipped.
      Hyndman and Koehler 2006; gluonts' MASE.
    * smape_pct: mean over rows of 200 * mean |y - f| / (|y| + |f|), without steps where both are 0, as in gluonts.
    * coverage_80_share: share of steps inside [q.1, q.9], ends included.
    * pct_mae: 100 * mean of |y - f| / |last|. direction_accuracy_share: share of steps with
      sign(f - last) == sign(y - last), without steps with y == last; a forecast equal to last is never right.
      price_mae: mean |y - f|. All three for prices only.
    * mae, rmse: pooled over the group's steps, in the unit of the rows.
    """
    if group is None:
        group = np.zeros(len(scored), np.int64)
    s = sums(scored)

    def total(values: Array) -> Array:
        return np.bincount(group, weights=values, minlength=groups).astype(np.float64, copy=False)

    with np.errstate(invalid="ignore", divide="ignore"):
        counts = total(s.count)
        scale = scored.seasonal_error
        scaled = np.isfinite(scale) & (s.count > 0)
        rows = total(scaled.astype(np.float64))
        weight = np.where(scaled, s.count * scale, 1.0)
        price = scored.price & (s.count > 0)
        close = np.abs(scored.last)
        percent = price & (close > 0)
        result = {
            "wql": total(s.pinball) / (s.levels * total(s.size)),
            "mase": total(np.where(scaled, s.absolute / weight, 0.0)) / rows,
            "sql": total(np.where(scaled, s.pinball / (weight * s.levels), 0.0)) / rows,
            "smape_pct": 200.0
            * total(np.where(s.smape_count > 0, s.smape / np.maximum(s.smape_count, 1.0), 0.0))
            / total((s.smape_count > 0).astype(np.float64)),
            "coverage_80_share": total(s.inside) / counts,
            "pct_mae": 100.0
            * total(np.where(percent, s.absolute / np.where(percent, close, 1.0), 0.0))
            / total(np.where(percent, s.count, 0.0)),
            "direction_accuracy_share": total(np.where(price, s.direction, 0.0))
            / total(np.where(price, s.direction_count, 0.0)),
            "price_mae": total(np.where(price, s.absolute, 0.0)) / total(np.where(price, s.count, 0.0)),
            "mae": total(s.absolute) / counts,
            "rmse": np.sqrt(total(s.squared) / counts),
        }
    return {name: np.where(np.isfinite(values), values, np.nan) for name, values in result.items()}


def pooled(scored: Scored) -> dict[str, float]:
    """Return the metrics over all rows; metrics in units of the data only if all items share one unit."""
    values = {name: float(column[0]) for name, column in table(scored).items()}
    return {name: value for name, value in values.items() if _meaningful(name, scored)}


def price_squares(scored: Scored) -> dict[str, float]:
    """Return more metrics of prices: pct_mse, pct_rmse, pct_mape, pct_r2, and price_mse and price_rmse with price_mae.

    pct_mse: mean of (100 * (y - f) / last)^2 over the steps that pct_mae counts. price_mse: mean of (y - f)^2. The
    rmse are their roots. pct_r2: 1 - pct_mse / the variance of 100 * (y - last) / last over these steps, the
    coefficient of determination; naive's is not above 0. pct_mape: mean of 100 * |y - f| / |y - last|, of returns and
    not of prices, without steps with y == last; naive's is 100. NaN if undefined; {} without prices.
    """
    if not scored.price.any():
        return {}
    s, close = sums(scored), np.abs(scored.last)
    percent, price = scored.price & (s.count > 0) & (close > 0), scored.price & (s.count > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        pct_mse = 1e4 * (s.squared[percent] / close[percent] ** 2).sum() / s.count[percent].sum()
        returns = 100.0 * (scored.target[percent] - scored.last[percent, None]) / close[percent, None]
        returns = returns[np.isfinite(returns)]
        move = np.abs(scored.target[percent] - scored.last[percent, None])
        moved = move > 0  # not so of a missing truth
        miss = np.abs(scored.target[percent] - scored.median[percent])[moved] / move[moved]
        price_mse = s.squared[price].sum() / s.count[price].sum()
        found = {
            "pct_mse": pct_mse,
            "pct_rmse": np.sqrt(pct_mse),
            "pct_mape": 100.0 * miss.mean() if miss.size else np.nan,
            "pct_r2": 1.0 - pct_mse / returns.var() if len(returns) and np.ptp(returns) > 0 else np.nan,
            "price_mse": price_mse,
            "price_rmse": np.sqrt(price_mse),
        }
    if not _meaningful("price_mae", scored):
        del found["price_mse"], found["price_rmse"]
    return {name: float(value) for name, value in found.items()}


def squares(scored: Scored) -> dict[str, float]:
    """Return width_80_ratio, price_squares, and mse if all items share one unit.

    width_80_ratio: sum of (q.9 - q.1) / sum of |y| over observed steps; of two forecasts with one coverage the narrower
    one is sharper. mse: mean of (y - f)^2.
    """
    s, observed = sums(scored), np.isfinite(scored.target)
    width = np.where(observed, scored.at(INTERVAL[1]) - scored.at(INTERVAL[0]), 0.0).sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {"width_80_ratio": float(width / s.size.sum()) if s.size.sum() > 0 else float("nan")}
        found |= {"mse": float(s.squared.sum() / s.count.sum())} if scored.one_unit else {}
    return found | price_squares(scored)


def names_no_direction(scored: Scored) -> bool:
    """Return whether every forecast is the last value: then no direction can be right or wrong."""
    return bool((scored.median == scored.last[:, None]).all())


def per_item(scored: Scored) -> dict[str, Array]:
    """Return the metrics of every item over all its windows, {name: (items,)}; NaN for an item without rows."""
    values = table(scored, scored.item, len(scored.items))
    return {name: column for name, column in values.items() if name not in PRICE_METRICS or scored.price.any()}


def per_step(scored: Scored) -> dict[str, Array]:
    """Return the metrics of every step of the horizon, {name: (H,)}."""
    steps = [pooled(scored.step(h)) for h in range(scored.horizon)]
    return {name: np.array([step[name] for step in steps]) for name in steps[0]}


def _meaningful(name: str, scored: Scored) -> bool:
    if name in PRICE_METRICS and not scored.price.any():
        return False
    if name == "price_mae" and not scored.all_prices:
        return False
    return name not in IN_UNITS or scored.one_unit


def scaled_errors(scored: Scored) -> Array:
    """Return |y - f| / Scored.error_scale (N, H); NaN where the truth is missing or the row has no scale."""
    return np.abs(scored.target - scored.median) / scored.error_scale[:, None]


def skill(scored: Scored, naive: Scored) -> float:
    """Return 1 - MAE / MAE of naive on pooled scaled errors (Scored.error_scale); above 0 is better than naive.

    NaN if naive has no error or no row has a scale.
    """
    use = np.isfinite(scored.target) & np.isfinite(scored.error_scale)[:, None]
    ours = np.where(use, scaled_errors(scored), 0.0).sum()
    theirs = np.where(use, scaled_errors(naive), 0.0).sum()
    return float(1.0 - ours / theirs) if theirs > 0 else float("nan")


def skill_per_item(scored: Scored, naive: Scored) -> Array:
    """Return 1 - MAE / MAE of naive of each item (items,), in the item's own unit; NaN where naive has no error."""
    ours, theirs = (
        np.bincount(part.item, weights=sums(part).absolute, minlength=len(part.items)) for part in (scored, naive)
    )
    return 1.0 - np.divide(ours, theirs, out=np.full_like(ours, np.nan), where=theirs > 0)


def calibration(scored: Scored) -> Array:
    """Return the share of observed steps at or below each level's forecast (Q,); equal to the levels if calibrated."""
    observed = np.isfinite(scored.target)[:, :, None]
    below = np.where(observed, scored.target[:, :, None] <= scored.quantiles, 0.0)
    below = np.where(observed & np.isnan(scored.quantiles), np.nan, below)
    return below.sum((0, 1)).astype(np.float64) / max(int(observed.sum()), 1)


def undefined_scale(scored: Scored) -> npt.NDArray[np.bool_]:
    """Return a mask (N,) of rows with an observed truth that MASE and SQL skip: seasonal error undefined or zero."""
    return ~np.isfinite(scored.seasonal_error) & np.isfinite(scored.target).any(1)
