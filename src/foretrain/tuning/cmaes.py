"""CMA-ES (Hansen 2016, "The CMA Evolution Strategy: A Tutorial") whose state follows from the trials that ended.

Optuna's keeps a pickled optimizer in the study, which whoever can write the study could use to run code here. This one
is computed anew for each draw: numbers of the space lie in the unit cube, logarithmic ones in their logarithm, and
each POPULATION of ended trials, in their order, is a generation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from foretrain.tuning.space import Candidate, FloatParameter, IntParameter, SearchSpace

_SIGMA = 1 / 6  # of the first generation, in the unit cube
_REDRAWS = 20  # of a point beyond the cube, before it is moved to its edge


class CmaEs:
    """The distribution of the next generation.

    The first `startup` trials are drawn evenly, and the best of them is where the search begins.
    """

    def __init__(
        self, space: SearchSpace, startup: int, direction: str, trials: Sequence[FrozenTrial], sigma: float = _SIGMA
    ) -> None:
        self._numbers = {
            key: parameter
            for key, parameter in space.parameters.items()
            if isinstance(parameter, FloatParameter | IntParameter)
        }
        sign = -1.0 if direction == "maximize" else 1.0
        ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        losses = [_loss(trial, sign) for trial in ended]
        points = np.array([self._unit(trial) for trial in ended]).reshape(len(ended), len(self._numbers))
        self._started = len(ended) >= max(startup, 1)
        if self._started:
            self._state = _Distribution(points[int(np.argmin(losses[: max(startup, 1)]))], sigma)
            size, first = self._state.population, max(startup, 1)
            for start in range(first, len(ended) - size + 1, size):
                self._state.update(points[start : start + size], np.array(losses[start : start + size]))

    def draw(self, seed: int) -> Candidate:
        """Return a candidate that a seed determines."""
        generator = np.random.default_rng(seed)
        if not self._started:
            point = generator.random(len(self._numbers))
        else:
            for _ in range(_REDRAWS):
                point = self._state.sample(generator)
                if (point >= 0).all() and (point <= 1).all():
                    break
        return {
            key: _value(parameter, float(x))
            for (key, parameter), x in zip(self._numbers.items(), np.clip(point, 0, 1), strict=True)
        }

    def _unit(self, trial: FrozenTrial) -> list[float]:
        """Return a trial's place in the unit cube."""
        return [_place(parameter, float(trial.params[key])) for key, parameter in self._numbers.items()]


class _Distribution:
    """A normal distribution, its step size and its paths."""

    def __init__(self, mean: Any, sigma: float) -> None:
        n = self._n = len(mean)
        self._mean, self._sigma = mean, sigma
        self.population = 4 + int(3 * math.log(n))
        half = self.population // 2
        weights = math.log((self.population + 1) / 2) - np.log(np.arange(1, half + 1))
        self._weights = weights / weights.sum()
        self._mass = 1 / (self._weights**2).sum()
        self._c_sigma = (self._mass + 2) / (n + self._mass + 5)
        self._damping = 1 + 2 * max(0.0, math.sqrt((self._mass - 1) / (n + 1)) - 1) + self._c_sigma
        self._c_path = (4 + self._mass / n) / (n + 4 + 2 * self._mass / n)
        self._c_one = 2 / ((n + 1.3) ** 2 + self._mass)
        self._c_rank = min(1 - self._c_one, 2 * (self._mass - 2 + 1 / self._mass) / ((n + 2) ** 2 + self._mass))
        self._norm = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))  # expected length of a normal vector
        self._covariance = np.eye(n)
        self._path, self._sigma_path, self._generation = np.zeros(n), np.zeros(n), 0

    def sample(self, generator: np.random.Generator) -> Any:
        """Return a point."""
        values, vectors = self._axes()
        return self._mean + self._sigma * (vectors @ (np.sqrt(values) * generator.standard_normal(self._n)))

    def update(self, points: Any, losses: Any) -> None:
        """Learn from a generation."""
        self._generation += 1
        values, vectors = self._axes()
        best = np.argsort(losses, kind="stable")[: len(self._weights)]
        steps = (points[best] - self._mean) / self._sigma
        move = self._weights @ steps
        self._mean = self._mean + self._sigma * move
        whitened = vectors @ ((vectors.T @ move) / np.sqrt(values))
        keep = 1 - self._c_sigma
        self._sigma_path = (
            keep * self._sigma_path + math.sqrt(self._c_sigma * (2 - self._c_sigma) * self._mass) * whitened
        )
        length = float(np.linalg.norm(self._sigma_path))
        bound = (1.4 + 2 / (self._n + 1)) * self._norm * math.sqrt(1 - keep ** (2 * self._generation))
        short = float(length < bound)
        self._path = (1 - self._c_path) * self._path
        self._path = self._path + short * math.sqrt(self._c_path * (2 - self._c_path) * self._mass) * move
        lost = (1 - short) * self._c_path * (2 - self._c_path)
        self._covariance = (
            (1 - self._c_one - self._c_rank + self._c_one * lost) * self._covariance
            + self._c_one * np.outer(self._path, self._path)
            + self._c_rank * (steps.T * self._weights) @ steps
        )
        change = (self._c_sigma / self._damping) * (length / self._norm - 1)
        self._sigma = min(self._sigma * math.exp(min(change, 1.0)), 1.0)

    def _axes(self) -> tuple[Any, Any]:
        values, vectors = np.linalg.eigh((self._covariance + self._covariance.T) / 2)
        return np.maximum(values, 1e-14), vectors


def _loss(trial: FrozenTrial, sign: float) -> float:
    """Return what is to be minimized; a trial that was pruned, or is beyond a constraint, is worse than all others."""
    if trial.state != TrialState.COMPLETE or not trial.values or any(x > 0 for x in trial.constraints.values()):
        return math.inf
    return sign * trial.values[0]


def _place(parameter: FloatParameter | IntParameter, value: float) -> float:
    """Return where a value lies between the bounds, from 0 to 1; a whole number stands for the cell around it."""
    low, high = _bounds(parameter)
    value = math.log(value) if parameter.log else value
    return (value - low) / (high - low) if high > low else 0.5


def _value(parameter: FloatParameter | IntParameter, place: float) -> float | int:
    low, high = _bounds(parameter)
    value = low + place * (high - low)
    value = math.exp(value) if parameter.log else value
    if isinstance(parameter, IntParameter):
        return parameter.fitted(round(min(max(value, parameter.low), parameter.high)))
    return parameter.fitted(value)


def _bounds(parameter: FloatParameter | IntParameter) -> tuple[float, float]:
    half = parameter.step / 2 if isinstance(parameter, IntParameter) and not parameter.log else 0
    low, high = parameter.low - half, parameter.high + half
    if parameter.log and isinstance(parameter, IntParameter):
        low, high = low - 0.5, high + 0.5
    return (math.log(low), math.log(high)) if parameter.log else (low, high)
