"""The contract of the generators and the draws that they share.

# N series of a block, T steps

A generator is a config section with a `draw`, which returns a block of series at once. All randomness comes from the
numpy Generator that it is given, so a block is a pure function of that generator's seed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field

from foretrain.config import Section
from foretrain.timeaxis.frequency import Frequency, IntArray

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
SEASONS = (4, 5, 7, 12, 13, 24, 48, 52, 96, 144, 168, 288, 336, 365.25)  # season lengths of usual frequencies, in steps


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] <= value[1]:
        raise ValueError(f"{list(value)}: give the smaller end of the range first")
    return value


def _positive(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] <= 0:
        raise ValueError(f"{list(value)}: both ends must be above 0")
    return _ordered(value)


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
PositiveRange = Annotated[tuple[float, float], AfterValidator(_positive)]
Counts = Annotated[tuple[int, int], AfterValidator(_ordered)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Generator(Section):
    """Base of the generators; fields are the ranges that parameters are drawn from.

    Attributes:
        weight: share of the series in a mixture, relative to the weights of the other generators.
    """

    weight: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)

    @abstractmethod
    def draw(self, rng: np.random.Generator, count: int, length: int) -> Floats:
        """Return (count, length) finite values."""
        raise NotImplementedError

    def draw_on(self, rng: np.random.Generator, starts: IntArray, frequency: Frequency, length: int) -> Floats:
        """Return (N, length) finite values whose steps are those of a frequency from `starts` (N,), in microseconds.

        Only generators that follow a calendar look at them.
        """
        return self.draw(rng, len(starts), length)


class Clean(Generator):
    """Base of the generators whose series follow a rule; what is observed of them has little or no noise.

    Attributes:
        noise: standard deviation of the noise, relative to the series'; log-uniform.
        clean: share of series without noise.
        scale: of the whole series; log-uniform.
        level: added, in units of scale.
    """

    noise: PositiveRange = (0.005, 0.3)
    clean: Share = 0.5
    scale: PositiveRange = (0.1, 100.0)
    level: Range = (-10.0, 10.0)

    def observed(self, rng: np.random.Generator, values: Floats) -> Floats:
        """Return values (N, T) with noise, at a level and a scale."""
        count, length = values.shape
        noise = rng.standard_normal((count, length)) * log_between(rng, self.noise, count, 1) * deviation(values)
        values = values + np.where(chance(rng, self.clean, count, 1), 0.0, noise)
        return (values + between(rng, self.level, count, 1)) * log_between(rng, self.scale, count, 1)


def provenance(command: str | None = None) -> dict[str, Any]:
    """Return the provenance of a corpus of generated series; command: as typed, if one wrote it."""
    return {"kind": "synthetic", "sources": [], "command": command}


def between(rng: np.random.Generator, bounds: tuple[float, float], *shape: int) -> Floats:
    """Return numbers uniform in a range."""
    return rng.uniform(bounds[0], bounds[1], shape)


def log_between(rng: np.random.Generator, bounds: tuple[float, float], *shape: int) -> Floats:
    """Return numbers in a range whose logarithms are uniform."""
    return np.exp(rng.uniform(np.log(bounds[0]), np.log(bounds[1]), shape))


def whole_between(rng: np.random.Generator, bounds: tuple[int, int], *shape: int) -> Ints:
    """Return whole numbers uniform in a range, both ends included."""
    return rng.integers(bounds[0], bounds[1], shape, endpoint=True)


def chance(rng: np.random.Generator, share: float, *shape: int) -> npt.NDArray[np.bool_]:
    """Return booleans of which a share is true."""
    return rng.random(shape) < share


def pick_by(rng: np.random.Generator, shares: Sequence[float] | Floats, *shape: int) -> Ints:
    """Return places in shares, drawn by them; they need not add up to 1."""
    weights = np.asarray(shares, np.float64)
    return np.asarray(rng.choice(len(weights), shape or None, p=weights / weights.sum()))


def seasons_for(length: int, seasons: tuple[float, ...] = SEASONS) -> tuple[float, ...]:
    """Return the season lengths of which a series of this length shows at least two, the shortest one in any case."""
    return tuple(period for period in seasons if 2 * period <= length) or (min(seasons),)


def pick(rng: np.random.Generator, values: tuple[float, ...], *shape: int) -> Floats:
    """Return values drawn with equal chances."""
    return np.asarray(values, np.float64)[rng.integers(0, len(values), shape)]


def deviation(values: Floats) -> Floats:
    """Return (N, 1) standard deviations of rows (N, T), 1 for constant ones."""
    spread = values.std(axis=1, keepdims=True)
    return np.where(spread > 1e-12 * (1.0 + np.abs(values).max(axis=1, keepdims=True)), spread, 1.0)


def autoregression(innovations: Floats, coefficients: Floats) -> Floats:
    """Return y (N, T) with y[t] = sum_k coefficients[:, k] y[t - 1 - k] + innovations[t], from y = 0 before.

    coefficients: (N, P), the same recursion for all steps.
    """
    count, length = innovations.shape
    order = coefficients.shape[1]
    out = np.zeros((length + order, count))  # time first, so that a step is contiguous
    drive = np.ascontiguousarray(innovations.T)
    weights = np.ascontiguousarray(coefficients.T)
    for t in range(length):
        value = drive[t]
        for k in range(order):
            value = value + weights[k] * out[t + order - 1 - k]
        out[t + order] = value
    return np.ascontiguousarray(out[order:].T)


def stable_coefficients(rng: np.random.Generator, count: int, order: int, most: float) -> Floats:
    """Return (N, order) coefficients of stationary autoregressions.

    Partial autocorrelations uniform in (-most, most) become coefficients by the recursion of Durbin and Levinson
    (Barndorff-Nielsen and Schou 1973), so every row is stationary for most < 1.
    """
    partial = rng.uniform(-most, most, (count, order))
    found = np.zeros((count, order))
    for k in range(order):
        before = found[:, :k].copy()
        found[:, :k] = before - partial[:, k : k + 1] * before[:, ::-1]
        found[:, k] = partial[:, k]
    return found
