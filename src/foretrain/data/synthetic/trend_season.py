"""TSI: trend + season + irregular component, added or multiplied.

Chronos-2's report names such a generator without its distributions; movement, seasons, amplitude, modulation, overtones
and scale are synforecast's (Nixtla, version of August 2026), as are trends but the two random ones. Profiles of knots,
nested seasons and the weights of season lengths are ours: waves alone do not resemble sales by month or load by hour.
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

_FIXED_TRENDS = 6  # none, linear, exponential, logistic, piecewise linear, damped; then the random ones:
_TRENDS = 8  # random walk, integrated random walk
_OVERTONES = 4
_KNOTS = 25  # most knots of a profile, but for periods of up to 52 as many as the period has steps
_LONGEST = 52
_USUAL = (4.0, 7.0, 12.0, 12.0, 24.0)  # drawn more often than other season lengths


class TrendSeason(Generator):
    """Trend, up to three seasons with overtones and changing amplitude, and one of five kinds of noise.

    Attributes:
        movement: total movement of the trend from start to end, in amplitudes of order one.
        seasons: fewest and most seasons of a series.
        periods: season lengths in steps; of these a series shows those that fit into it twice.
        amplitude: of a season; log-uniform.
        modulated: share of seasons whose amplitude changes slowly.
        overtones: share of waves with overtones.
        profiles: share of seasons that repeat a random profile instead of a wave.
        nested: share of series whose second season is five or seven of the first, as a week is of days.
        noise: standard deviation of the irregular component, relative to that of trend and season; log-uniform.
        multiplicative: share of series in which level, season and noise are multiplied.
        growth: standard deviation of a multiplied series' logarithm; log-uniform.
        scale: of the whole series; log-uniform.
        level: added, in units of scale.
    """

    kind: Literal["trend_season"] = "trend_season"
    movement: Range = (-8.0, 8.0)
    seasons: Counts = (0, 3)
    periods: tuple[float, ...] = (*SEASONS, *_USUAL, *_USUAL, 5.5, 11.3, 19.7, 29.53)
    amplitude: PositiveRange = (0.2, 3.0)
    modulated: Share = 0.3
    overtones: Share = 0.4
    profiles: Share = 0.6
    nested: Share = 0.2
    noise: PositiveRange = (0.01, 2.0)
    multiplicative: Share = 0.3
    growth: PositiveRange = (0.05, 1.0)
    scale: PositiveRange = (0.1, 100.0)
    level: Range = (-10.0, 10.0)

    def draw(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        """Return (count, length) draws."""
        regular = self._trend(rng, count, length) + self._seasons(rng, count, length)
        noise = irregular(rng, count, length) * deviation(regular) * log_between(rng, self.noise, count, 1)
        level = between(rng, self.level, count, 1)
        added = level + regular + noise
        # exp keeps the product of level, season and noise positive; the exponent stays within a factor of e**4
        exponent = (regular + noise) / deviation(regular + noise) * log_between(rng, self.growth, count, 1)
        product = (1.0 + np.abs(level)) * np.exp(np.clip(exponent, -4.0, 4.0))
        return np.where(chance(rng, self.multiplicative, count, 1), product, added) * log_between(
            rng, self.scale, count, 1
        )

    def _trend(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        t = np.linspace(0.0, 1.0, length)
        kind = rng.integers(0, _TRENDS, (count, 1))
        rate, turn = rng.uniform(0.5, 4.0, (count, 1)), rng.uniform(0.2, 0.8, (count, 1))
        bend = rng.uniform(-1.0, 1.0, (count, 1))
        walks = np.zeros((count, length))
        random = np.flatnonzero(kind[:, 0] >= _FIXED_TRENDS)
        steps = rng.standard_normal((len(random), length)) / np.sqrt(length)
        walks[random] = np.cumsum(steps, axis=1)
        smooth = np.flatnonzero(kind[:, 0] > _FIXED_TRENDS)
        walks[smooth] = np.cumsum(walks[smooth], axis=1) * (2.0 / length)
        shapes = (
            np.zeros((count, length)),
            np.broadcast_to(t, (count, length)),
            np.expm1(rate * t) / np.expm1(rate),
            1.0 / (1.0 + np.exp(-4.0 * rate * (t - turn))),
            np.where(t < turn, bend * t, bend * turn + (1.0 - bend * turn) * (t - turn) / (1.0 - turn)),
            -np.expm1(-2.0 * rate * t),
            walks,
        )
        return between(rng, self.movement, count, 1) * np.choose(np.minimum(kind, _FIXED_TRENDS), shapes)

    def _seasons(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        t = np.arange(length)
        usable = seasons_for(length, self.periods)
        numbers = whole_between(rng, self.seasons, count)
        nested = chance(rng, self.nested, count) * pick(rng, (5.0, 7.0), count)
        first = np.zeros(count)
        out = np.zeros((count, length))
        for k in range(self.seasons[1]):
            rows = np.flatnonzero(numbers > k)
            n = len(rows)
            if not n:
                break
            period = pick(rng, usable, n, 1)
            if k == 0:
                first[rows] = period[:, 0]
            elif k == 1:
                inside = first[rows, None] * nested[rows, None]
                period = np.where((inside > 0) & (inside <= length / 2), inside, period)
            phase = t / period
            shape = self._waves(rng, phase)
            repeated = np.flatnonzero(chance(rng, self.profiles, n))
            shape[repeated] = profiles(rng, phase[repeated], period[repeated])
            slow = np.sin(2 * np.pi * (t / length * rng.uniform(0.3, 2.0, (n, 1)) + rng.random((n, 1))))
            depth = chance(rng, self.modulated, n, 1) * rng.uniform(0.2, 0.9, (n, 1))
            out[rows] += log_between(rng, self.amplitude, n, 1) * (1.0 + depth * slow) * shape
        return out

    def _waves(self, rng: np.random.Generator, phase: Floats) -> Floats:
        """Return sine waves (N, T), some with overtones."""
        n = len(phase)
        wave = np.sin(2 * np.pi * (phase + rng.random((n, 1))))
        with_overtones = chance(rng, self.overtones, n, 1)
        for overtone in range(2, 2 + _OVERTONES):
            height = with_overtones * rng.uniform(0.0, 1.0, (n, 1)) / overtone
            wave += height * np.sin(2 * np.pi * (overtone * phase + rng.random((n, 1))))
        return wave


def profiles(rng: np.random.Generator, phase: Floats, period: Floats) -> Floats:
    """Return random profiles (N, T) of unit deviation that repeat with each unit of phase (N, T).

    A profile has a value at each step of the period (N, 1), or, for half of the rows and for periods of more than 52
    steps or of no whole number of them, 3 to 25 knots: joined by lines, or held until the next one.
    """
    n = len(phase)
    if not n:
        return np.zeros(phase.shape)
    knots = np.minimum(rng.integers(3, _KNOTS, (n, 1), endpoint=True), period)
    stepwise = chance(rng, 0.5, n, 1) & (period <= _LONGEST) & (period % 1 == 0)
    knots = np.where(stepwise, period, knots).astype(np.int64)
    heights = rng.standard_normal((n, _LONGEST))
    # some profiles have a few high or low places among equal ones, as holidays have
    heights *= ~chance(rng, 0.2, n, 1) | (rng.random(heights.shape) < 0.25)
    shift = np.where(stepwise, rng.integers(0, _LONGEST, (n, 1)) / knots, rng.random((n, 1)))
    place = (phase + shift) % 1.0 * knots + 1e-9  # so that a step on a knot does not fall before it by rounding
    left = np.floor(place).astype(np.int64) % knots
    between_knots = np.where(chance(rng, 0.7, n, 1), place % 1.0, 0.0)
    rows = np.arange(n)[:, None]
    found = heights[rows, left] * (1.0 - between_knots) + heights[rows, (left + 1) % knots] * between_knots
    found -= found.mean(axis=1, keepdims=True)
    return found / deviation(found)


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
