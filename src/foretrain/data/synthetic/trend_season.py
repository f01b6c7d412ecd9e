"""TSI: trend + season + irregular component, added or multiplied.

Chronos-2's report names such a generator without its distributions; the ranges here are those of synforecast (Nixtla,
version of August 2026) where that publishes them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from foretrain.data.synthetic.base import (
    SEASONS,
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
    whole_between,
)

_TRENDS = 6  # none, linear, exponential, logistic, piecewise linear, damped
_OVERTONES = 4


class TrendSeason(Generator):
    """Trend, up to three seasons with overtones and changing amplitude, and one of five kinds of noise.

    Attributes:
        movement: total movement of the trend from start to end, in amplitudes of order one.
        seasons: fewest and most seasons of a series.
        periods: season lengths in steps; of these a series shows those that fit into it twice.
        amplitude: of a season; log-uniform.
        modulated: share of seasons whose amplitude changes slowly.
        overtones: share of seasons with overtones.
        noise: standard deviation of the irregular component, relative to that of trend and season; log-uniform.
        multiplicative: share of series in which level, season and noise are multiplied.
        scale: of the whole series; log-uniform.
        level: added, in units of scale.
    """

    kind: Literal["trend_season"] = "trend_season"
    movement: Range = (-8.0, 8.0)
    seasons: Counts = (0, 3)
    periods: tuple[float, ...] = (*SEASONS, 5.5, 11.3, 19.7, 29.53)
    amplitude: PositiveRange = (0.2, 3.0)
    modulated: Share = 0.4
    overtones: Share = 0.4
    noise: PositiveRange = (0.02, 2.0)
    multiplicative: Share = 0.3
    scale: PositiveRange = (0.1, 100.0)
    level: Range = (-10.0, 10.0)

    def draw(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        """Return (count, length) draws."""
        regular = self._trend(rng, count, length) + self._seasons(rng, count, length)
        noise = irregular(rng, count, length) * deviation(regular) * log_between(rng, self.noise, count, 1)
        level = between(rng, self.level, count, 1)
        added = level + regular + noise
        # exp keeps the product of level, season and noise positive; the exponent stays within a factor of e**2
        exponent = np.clip((regular + noise) / (3.0 * deviation(regular + noise)), -2.0, 2.0)
        product = (1.0 + np.abs(level)) * np.exp(exponent)
        return np.where(chance(rng, self.multiplicative, count, 1), product, added) * log_between(
            rng, self.scale, count, 1
        )

    def _trend(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        t = np.linspace(0.0, 1.0, length)
        kind = rng.integers(0, _TRENDS, (count, 1))
        rate, turn = rng.uniform(0.5, 4.0, (count, 1)), rng.uniform(0.2, 0.8, (count, 1))
        bend = rng.uniform(-1.0, 1.0, (count, 1))
        shapes = (
            np.zeros((count, length)),
            np.broadcast_to(t, (count, length)),
            np.expm1(rate * t) / np.expm1(rate),
            1.0 / (1.0 + np.exp(-4.0 * rate * (t - turn))),
            np.where(t < turn, bend * t, bend * turn + (1.0 - bend * turn) * (t - turn) / (1.0 - turn)),
            -np.expm1(-2.0 * rate * t),
        )
        return between(rng, self.movement, count, 1) * np.choose(kind, shapes)

    def _seasons(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        t = np.arange(length)
        usable = seasons_for(length, self.periods)
        numbers = whole_between(rng, self.seasons, count)
        out = np.zeros((count, length))
        for k in range(self.seasons[1]):
            rows = np.flatnonzero(numbers > k)
            n = len(rows)
            if not n:
                break
            phase = t / pick(rng, usable, n, 1)
            wave = np.sin(2 * np.pi * (phase + rng.random((n, 1))))
            with_overtones = chance(rng, self.overtones, n, 1)
            for overtone in range(2, 2 + _OVERTONES):
                height = with_overtones * rng.uniform(0.0, 1.0, (n, 1)) / overtone
                wave += height * np.sin(2 * np.pi * (overtone * phase + rng.random((n, 1))))
            slow = np.sin(2 * np.pi * (t / length * rng.uniform(0.3, 2.0, (n, 1)) + rng.random((n, 1))))
            depth = chance(rng, self.modulated, n, 1) * rng.uniform(0.2, 0.9, (n, 1))
            out[rows] += log_between(rng, self.amplitude, n, 1) * (1.0 + depth * slow) * wave
        return out


def irregular(rng: np.random.Generator, count: int, length: int) -> Floats:
    """Return noise of about unit deviation: Gaussian, AR(1), with clustered volatility, Student's t, or Laplace."""
    normal = rng.standard_normal((count, length))
    kind = rng.integers(0, 5, count)
    out = normal.copy()
    if (rows := np.flatnonzero(kind == 1)).size:
        phi = rng.uniform(0.3, 0.95, (len(rows), 1))
        out[rows] = autoregression(normal[rows], phi) * np.sqrt(1.0 - phi**2)
    if (rows := np.flatnonzero(kind == 2)).size:
        moves = autoregression(rng.standard_normal((len(rows), length)), np.full((len(rows), 1), 0.95)) * 0.31
        out[rows] = normal[rows] * np.exp(0.5 * moves)
    if (rows := np.flatnonzero(kind == 3)).size:
        freedom = rng.uniform(2.5, 12.0, (len(rows), 1))
        out[rows] = rng.standard_t(freedom, (len(rows), length)) * np.sqrt((freedom - 2.0) / freedom)
    if (rows := np.flatnonzero(kind == 4)).size:
        out[rows] = rng.laplace(0.0, np.sqrt(0.5), (len(rows), length))
    return out
