"""Chaotic maps and systems: logistic, Ricker, Henon and Lorenz, with little or no noise."""

from __future__ import annotations

from typing import Literal

import numpy as np

from foretrain.data.synthetic.base import Clean, Floats, deviation

_WARM_UP = 100  # steps until a series is on its attractor
_MAPS = 4
_FINE = 5  # integration steps of the Lorenz system in one step


class Chaos(Clean):
    """A coordinate of a chaotic system; the parameter of each map is drawn around its chaotic range."""

    kind: Literal["chaos"] = "chaos"

    def draw(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        """Return (count, length) draws."""
        which = rng.integers(0, _MAPS, count)
        values = np.empty((count, length))
        for number, system in enumerate((_logistic, _ricker, _henon, _lorenz)):
            rows = np.flatnonzero(which == number)
            if rows.size:
                values[rows] = system(rng, len(rows), length + _WARM_UP)[_WARM_UP:].T
        return self.observed(rng, (values - values.mean(axis=1, keepdims=True)) / deviation(values))


def _logistic(rng: np.random.Generator, count: int, steps: int) -> Floats:
    """Return (T, N) of x = r x (1 - x)."""
    rate, x = rng.uniform(3.5, 3.99, count), rng.uniform(0.1, 0.9, count)
    out = np.empty((steps, count))
    for t in range(steps):
        x = rate * x * (1.0 - x)
        out[t] = x
    return out


def _ricker(rng: np.random.Generator, count: int, steps: int) -> Floats:
    """Return (T, N) of x = x exp(r (1 - x))."""
    rate, x = rng.uniform(2.0, 3.5, count), rng.uniform(0.1, 1.5, count)
    out = np.empty((steps, count))
    for t in range(steps):
        x = x * np.exp(rate * (1.0 - x))
        out[t] = x
    return out


def _henon(rng: np.random.Generator, count: int, steps: int) -> Floats:
    """Return (T, N) of x = 1 - a x**2 + y, y = b x, inside its basin of attraction."""
    a, b = rng.uniform(1.2, 1.4, count), np.full(count, 0.3)
    x, y = rng.uniform(-0.1, 0.1, count), rng.uniform(-0.1, 0.1, count)
    out = np.empty((steps, count))
    for t in range(steps):
        x, y = 1.0 - a * x * x + y, b * x
        out[t] = x
    return out


def _lorenz(rng: np.random.Generator, count: int, steps: int) -> Floats:
    """Return (T, N), a coordinate of the Lorenz system by Runge and Kutta's second-order midpoint rule."""
    rate = rng.uniform(26.0, 32.0, count)
    step = np.exp(rng.uniform(np.log(0.01), np.log(0.08), count)) / _FINE
    state = rng.normal(0.0, 5.0, (3, count)) + np.array([[0.0], [0.0], [25.0]])

    def change(at: Floats) -> Floats:
        x, y, z = at
        return np.stack([10.0 * (y - x), x * (rate - z) - y, x * y - 8.0 / 3.0 * z])

    coordinate, columns = rng.integers(0, 3, count), np.arange(count)
    out = np.empty((steps, count))
    for t in range(steps):
        for _ in range(_FINE):
            state = state + step * change(state + 0.5 * step * change(state))
        out[t] = state[coordinate, columns]
    return out
