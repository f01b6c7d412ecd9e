"""Counts: Poisson and negative binomial with a seasonal rate, and demand that is zero most of the time."""

from __future__ import annotations

from typing import Literal

import numpy as np

from foretrain.data.synthetic.base import (
    Floats,
    Generator,
    PositiveRange,
    Share,
    chance,
    log_between,
    pick,
    seasons_for,
)


class Demand(Generator):
    """Whole numbers of at least 0.

    Attributes:
        rate: mean count of a step with demand; log-uniform.
        dispersion: variance of a count = mean + dispersion * mean**2; 0 for the share `poisson`; log-uniform.
        poisson: share of series without that dispersion.
        intermittent: share of series in which most steps are zero.
        occurrence: share of steps with demand in those; log-uniform.
        season: share of series whose rate has a season.
        trend: share of series whose rate grows or falls.
    """

    kind: Literal["demand"] = "demand"
    rate: PositiveRange = (0.3, 300.0)
    dispersion: PositiveRange = (0.02, 2.0)
    poisson: Share = 0.5
    intermittent: Share = 0.4
    occurrence: PositiveRange = (0.03, 0.7)
    season: Share = 0.6
    trend: Share = 0.4

    def draw(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        """Return (count, length) draws."""
        rates = self.rates(rng, count, length)
        values = self.counts(rng, rates)
        share = np.where(chance(rng, self.intermittent, count, 1), log_between(rng, self.occurrence, count, 1), 1.0)
        return values * (rng.random((count, length)) < share)

    def rates(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        """Return (count, length) mean counts."""
        t = np.arange(length)
        level = np.log(log_between(rng, self.rate, count, 1))
        period = pick(rng, seasons_for(length), count, 1)
        height = chance(rng, self.season, count, 1) * rng.uniform(0.2, 1.2, (count, 1))
        wave = np.sin(2 * np.pi * (t / period + rng.random((count, 1))))
        wave += 0.5 * np.sin(4 * np.pi * (t / period + rng.random((count, 1))))
        slope = chance(rng, self.trend, count, 1) * rng.uniform(-1.5, 1.5, (count, 1))
        return np.exp(level + height * wave + slope * (t / length - 0.5))

    def counts(self, rng: np.random.Generator, rates: Floats) -> Floats:
        """Return counts with these means: Poisson, or a Poisson whose rate is Gamma distributed."""
        dispersion = log_between(rng, self.dispersion, len(rates), 1)
        plain = chance(rng, self.poisson, len(rates), 1)
        mixed = rates * rng.gamma(1.0 / dispersion, dispersion, rates.shape)
        return rng.poisson(np.where(plain, rates, mixed)).astype(np.float64)
