"""Covariates known ahead, and what they do to targets.

# N groups, K covariates of a group, n covariates in all, T steps
"""

from __future__ import annotations

import numpy as np
from pydantic import model_validator

from foretrain.config import Section
from foretrain.data.synthetic.base import (
    Counts,
    Floats,
    Ints,
    PositiveRange,
    Share,
    autoregression,
    between,
    chance,
    deviation,
    log_between,
    pick,
    pick_by,
    seasons_for,
    whole_between,
)

_WEEKS = (5.0, 7.0, 12.0, 24.0)  # lengths of the cycles that calendar covariates count


class Known(Section):
    """Covariates known ahead and their effects on targets.

    Attributes:
        events, calendar, steps, smooth: weights of the kinds: binary events (promotions, holidays), places in a cycle
            (day of the week, working day, a wave), piecewise constant values (prices), slow waves with memory
            (temperature).
        event_share: of steps with an event; log-uniform.
        event_steps: fewest and most steps of an event.
        strength: standard deviation of an effect, relative to the target's before; log-uniform.
        useless: share of covariates without any effect.
        lagged: share of effects that come later, by 1 to `longest_lag` steps.
        decaying: share of effects that fade away over several steps.
        saturating: share of effects that flatten out: Hill's function x**h / (k**h + x**h).
        reacting: share of pairs of covariate and target with an effect.
    """

    events: float = 0.3
    calendar: float = 0.2
    steps: float = 0.25
    smooth: float = 0.25
    event_share: PositiveRange = (0.01, 0.25)
    event_steps: Counts = (1, 6)
    strength: PositiveRange = (0.1, 4.0)
    useless: Share = 0.1
    lagged: Share = 0.2
    longest_lag: int = 8
    decaying: Share = 0.2
    saturating: Share = 0.3
    reacting: Share = 0.9

    @model_validator(mode="after")
    def _fits(self) -> Known:
        weights = self._weights
        if min(weights) < 0 or sum(weights) <= 0:
            raise ValueError("events, calendar, steps and smooth are weights: none below 0, and not all 0")
        if self.event_steps[0] < 1 or self.longest_lag < 1:
            raise ValueError("event_steps and longest_lag start at 1")
        return self

    @property
    def _weights(self) -> tuple[float, ...]:
        return self.events, self.calendar, self.steps, self.smooth

    def draw(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        """Return (n, T) covariates in their own units: 0 and 1 for events, order one for the others."""
        kind = pick_by(rng, self._weights, count)
        out = np.empty((count, length))
        for number, draw in enumerate((self._events, _calendar, _steps, _smooth)):
            rows = np.flatnonzero(kind == number)
            if rows.size:
                out[rows] = draw(rng, len(rows), length)
        return out

    def _events(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        """Return (n, T) of 0 and 1: events at random, or once in a cycle for a third of the rows."""
        steps = whole_between(rng, self.event_steps, count, 1)
        share = log_between(rng, self.event_share, count, 1)
        starts = rng.random((count, length)) < share / steps
        period = np.maximum(np.rint(pick(rng, seasons_for(length), count, 1)), 2 * steps)
        cyclic = (np.arange(length) + rng.integers(0, 1 << 20, (count, 1))) % period == 0
        regular = chance(rng, 1 / 3, count, 1)
        starts = np.where(regular, cyclic & (rng.random((count, length)) < 0.9), starts)
        total = np.cumsum(starts, axis=1)
        before = np.arange(length) - steps
        ended = np.where(before >= 0, np.take_along_axis(total, np.maximum(before, 0), axis=1), 0)
        return (total > ended).astype(np.float64)

    def effects(self, rng: np.random.Generator, covariates: Floats, targets: int) -> Floats:
        """Return (N, targets, T), what covariates (N, K, T) do to targets of unit deviation.

        A step depends on the covariates at this step and before it, apart from the scale of a whole row.
        """
        count, number, length = covariates.shape
        useless = chance(rng, self.useless, count, 1, number)
        works = ~useless & chance(rng, self.reacting, count, targets, number)
        group, target, which = np.nonzero(works)
        out = np.zeros((count, targets, length))
        np.add.at(out, (group, target), self._effect(rng, covariates[group, which]))
        return out

    def _effect(self, rng: np.random.Generator, covariates: Floats) -> Floats:
        """Return (n, T), one effect of each covariate."""
        count = len(covariates)
        found = (covariates - covariates.min(axis=1, keepdims=True)) / deviation(covariates)
        half, power = rng.uniform(0.3, 2.0, (count, 1)), rng.uniform(1.0, 3.0, (count, 1))
        rows = np.flatnonzero(chance(rng, self.saturating, count))
        raised = found[rows] ** power[rows]
        found[rows] = raised / (half[rows] ** power[rows] + raised)
        found = later(found, rng.integers(1, self.longest_lag, count, endpoint=True) * chance(rng, self.lagged, count))
        rows = np.flatnonzero(chance(rng, self.decaying, count))
        first = found[rows, :1]  # as if it had always been there
        found[rows] = first + autoregression(found[rows] - first, rng.uniform(0.3, 0.9, (len(rows), 1)))
        strength = log_between(rng, self.strength, count, 1) * rng.choice((-1.0, 1.0), (count, 1))
        return strength * (found - found.mean(axis=1, keepdims=True)) / deviation(found)


def later(values: Floats, lag: Ints) -> Floats:
    """Return rows (n, T) moved `lag` (n,) steps to the right; the first value fills the start."""
    steps = np.maximum(np.arange(values.shape[1]) - lag[:, None], 0)
    return np.take_along_axis(values, steps, axis=1)


def _calendar(rng: np.random.Generator, count: int, length: int) -> Floats:
    """Return (n, T) places in a cycle: the number of the step, a part of the cycle as 0 and 1, or a wave."""
    period = pick(rng, _WEEKS, count, 1)
    place = (np.arange(length) + rng.integers(0, 24, (count, 1))) % period
    share = rng.uniform(0.15, 0.6, (count, 1)) * period
    forms = (place, (place < np.maximum(share, 1.0)).astype(np.float64), np.sin(2 * np.pi * place / period))
    return np.choose(rng.integers(0, len(forms), (count, 1)), forms)


def _steps(rng: np.random.Generator, count: int, length: int) -> Floats:
    """Return (n, T) prices: constant between changes, some with discounts that end after a while."""
    changes = rng.random((count, length)) < log_between(rng, (0.005, 0.1), count, 1)
    moves = rng.standard_normal((count, length)) * between(rng, (0.05, 0.3), count, 1)
    walk = np.cumsum(np.where(changes, moves, 0.0), axis=1)
    number = np.cumsum(changes, axis=1)
    # back and forth between the base price and one discount, or a new price at each change
    discount = np.where(number % 2 == 1, -rng.uniform(0.1, 0.6, (count, 1)), 0.0)
    walk = np.where(chance(rng, 0.5, count, 1), discount, np.clip(walk, -3.0, 3.0))
    return np.exp(walk) * log_between(rng, (0.5, 50.0), count, 1)


def _smooth(rng: np.random.Generator, count: int, length: int) -> Floats:
    """Return (n, T) of temperature-like values: one or two seasons, and weather with memory."""
    t = np.arange(length)
    period = np.maximum(pick(rng, (*seasons_for(length), 2.0 * length), count, 1), 7.0)
    wave = np.sin(2 * np.pi * (t / period + rng.random((count, 1)))) * rng.uniform(0.0, 1.5, (count, 1))
    memory = rng.uniform(0.6, 0.98, (count, 1))
    weather = autoregression(rng.standard_normal((count, length)), memory) * np.sqrt(1.0 - memory**2)
    return wave + weather * rng.uniform(0.2, 1.0, (count, 1))
