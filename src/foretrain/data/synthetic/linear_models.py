"""Linear models of textbooks: ARMA, random walks with drift, and exponential smoothing with trend and season."""

from __future__ import annotations

from typing import Literal

import numpy as np

from foretrain.data.synthetic.base import (
    Counts,
    Floats,
    Generator,
    PositiveRange,
    Range,
    Share,
    autoregression,
    between,
    chance,
    deviation,
    log_between,
    pick,
    seasons_for,
    stable_coefficients,
    whole_between,
)

_WARM_UP = 50  # steps before the first one, so that a series does not begin at its mean


class Arma(Generator):
    """ARMA(p, q) around a level, some of them summed up with a drift: random walks and ARIMA.

    Attributes:
        order: fewest and most autoregressive coefficients (p).
        moving: fewest and most moving-average coefficients (q).
        memory: largest partial autocorrelation, below 1.
        integrated: share of series that are the cumulated sum of the process.
        drift: of summed series, in deviations of a step.
        scale: standard deviation of the result; log-uniform.
        level: added, in units of scale.
    """

    kind: Literal["arma"] = "arma"
    order: Counts = (0, 3)
    moving: Counts = (0, 2)
    memory: float = 0.97
    integrated: Share = 0.5
    drift: Range = (-0.6, 0.6)
    scale: PositiveRange = (0.1, 100.0)
    level: Range = (-10.0, 10.0)

    def draw(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        """Return (count, length) draws."""
        steps = length + _WARM_UP
        noise = rng.standard_normal((count, steps + self.moving[1]))
        drive = noise[:, self.moving[1] :].copy()
        used = whole_between(rng, self.moving, count, 1)
        for lag in range(1, self.moving[1] + 1):
            weight = rng.uniform(-0.9, 0.9, (count, 1)) * (used >= lag)
            drive += weight * noise[:, self.moving[1] - lag : self.moving[1] - lag + steps]
        values = autoregression(drive, self.coefficients(rng, count))[:, _WARM_UP:]
        moves = values / deviation(values) + between(rng, self.drift, count, 1)
        walks = np.cumsum(moves, axis=1)
        values = np.where(chance(rng, self.integrated, count, 1), walks, values)
        return (values / deviation(values) + between(rng, self.level, count, 1)) * log_between(
            rng, self.scale, count, 1
        )

    def coefficients(self, rng: np.random.Generator, count: int) -> Floats:
        """Return (count, p) coefficients of stationary autoregressions, 0 beyond each one's order."""
        orders = whole_between(rng, self.order, count)
        found = np.zeros((count, max(self.order[1], 1)))
        for order in range(1, self.order[1] + 1):
            rows = np.flatnonzero(orders == order)
            found[rows, :order] = stable_coefficients(rng, len(rows), order, self.memory)
        return found


class Smoothing(Generator):
    """Innovation state space models ETS(A, {N, A, Ad}, {N, A}), exponentiated for some: multiplicative errors.

    level l, trend b, season s: y = l + phi b + s[t - m] + e, l += phi b + alpha e, b = phi b + beta e,
    s[t] = s[t - m] + gamma e (Hyndman et al. 2008).

    Attributes:
        alpha, beta, gamma: smoothing of level, trend and season.
        trend, damped, season: shares of series with a trend, of these with a damped one, and of those with a season.
        slope: deviation of the first step of the trend, in deviations of an innovation; log-uniform.
        periods: season lengths in steps.
        multiplicative: share of series of which the exponential is returned.
        scale: standard deviation of the result; log-uniform.
        level: added to series that are not exponentiated, in units of scale.
    """

    kind: Literal["smoothing"] = "smoothing"
    alpha: Range = (0.02, 0.9)
    beta: Range = (0.0, 0.2)
    gamma: Range = (0.0, 0.2)
    trend: Share = 0.6
    damped: Share = 0.5
    season: Share = 0.7
    slope: PositiveRange = (0.03, 1.0)
    periods: tuple[float, ...] = (4, 4, 4, 7, 7, 7, 12, 12, 12, 12, 24, 24, 5, 13, 48, 52, 96)
    multiplicative: Share = 0.3
    scale: PositiveRange = (0.1, 100.0)
    level: Range = (-10.0, 10.0)

    def draw(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        """Return (count, length) draws."""
        alpha, beta = between(rng, self.alpha, count), between(rng, self.beta, count)
        gamma = between(rng, self.gamma, count)
        sloped = chance(rng, self.trend, count)
        phi = np.where(sloped, np.where(chance(rng, self.damped, count), rng.uniform(0.8, 0.98, count), 1.0), 0.0)
        periods = pick(rng, seasons_for(length, self.periods), count).astype(np.int64)
        seasonal = chance(rng, self.season, count)
        longest = int(periods.max())
        profile = rng.standard_normal((longest, count)) * log_between(rng, (0.5, 20.0), count) * seasonal
        rows = np.arange(count)
        innovations = rng.standard_normal((length, count))
        level, slope = np.zeros(count), rng.standard_normal(count) * log_between(rng, self.slope, count) * sloped
        out = np.empty((length, count))
        for t in range(length):
            place = t % periods
            season, error = profile[place, rows], innovations[t]
            out[t] = level + phi * slope + season + error
            level = level + phi * slope + alpha * error
            slope = phi * slope + beta * error * sloped
            profile[place, rows] = season + gamma * error * seasonal
        values = np.ascontiguousarray(out.T)
        values = (values - values.mean(axis=1, keepdims=True)) / deviation(values)
        grown = np.exp(values * log_between(rng, (0.05, 1.0), count, 1))
        values = values + between(rng, self.level, count, 1)
        values = np.where(chance(rng, self.multiplicative, count, 1), grown, values)
        return values * log_between(rng, self.scale, count, 1)
