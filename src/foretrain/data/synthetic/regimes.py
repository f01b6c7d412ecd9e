"""Ornstein-Uhlenbeck processes that switch between two regimes, with a trend and seasons.

The ranges are TempoPFN's (regime, stay probability, trend, season).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from foretrain.data.synthetic.base import (
    Floats,
    Generator,
    PositiveRange,
    Range,
    Share,
    between,
    chance,
    deviation,
    log_between,
    pick,
    seasons_for,
)


class Regimes(Generator):
    """x += pull (mean - x) step + volatility sqrt(step) e, whose pull, mean and volatility depend on a hidden regime.

    Attributes:
        calm_pull, wild_pull: strength of the return to the mean in the two regimes.
        stay: chance to stay in a regime from one step to the next.
        step: time between steps; log-uniform.
        trend, season: shares of series with a linear trend and with seasons.
        level: added to the series.
        scale: of the whole series; log-uniform.
    """

    kind: Literal["regimes"] = "regimes"
    calm_pull: PositiveRange = (1.0, 5.0)
    wild_pull: PositiveRange = (0.05, 0.5)
    stay: Range = (0.85, 0.999)
    step: PositiveRange = (0.01, 0.3)
    trend: Share = 0.5
    season: Share = 0.6
    level: Range = (-100.0, 100.0)
    scale: PositiveRange = (0.1, 50.0)

    def draw(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        """Return (count, length) draws."""
        values = self.process(rng, count, length)
        spread = deviation(values)
        t = np.arange(length)
        slope = chance(rng, self.trend, count, 1) * rng.normal(0.0, 2.0, (count, 1))
        values = values + spread * slope * t / length
        usable = seasons_for(length)
        for _ in range(2):
            height = chance(rng, self.season, count, 1) * rng.uniform(0.1, 1.5, (count, 1)) * spread
            values += height * np.sin(2 * np.pi * (t / pick(rng, usable, count, 1) + rng.random((count, 1))))
        return values * log_between(rng, self.scale, count, 1) + between(rng, self.level, count, 1)

    def process(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        """Return (count, length) of the process alone."""
        pull = np.stack([between(rng, self.calm_pull, count), between(rng, self.wild_pull, count)])
        mean = np.stack([rng.normal(-2.0, 1.0, count), rng.normal(2.0, 1.0, count)])
        volatility = np.exp(np.stack([rng.normal(0.3, 0.3, count), rng.normal(1.5, 0.5, count)]))
        stay = between(rng, self.stay, count, 1)
        step = log_between(rng, self.step, count)
        switches = np.cumsum(rng.random((count, length)) > stay, axis=1) + rng.integers(0, 2, (count, 1))
        regime = np.ascontiguousarray((switches % 2).T)
        noise = rng.standard_normal((length, count))
        rows = np.arange(count)
        # the exact transition of a step, so that long steps stay stable: decay e**(-pull step)
        decay = np.exp(-pull * step)
        spread = volatility * np.sqrt(-np.expm1(-2.0 * pull * step) / (2.0 * pull))
        out = np.empty((length, count))
        value = mean[regime[0], rows]
        for t in range(length):
            now = regime[t]
            value = mean[now, rows] + decay[now, rows] * (value - mean[now, rows]) + spread[now, rows] * noise[t]
            out[t] = value
        return np.ascontiguousarray(out.T)
