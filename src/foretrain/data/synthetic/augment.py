"""Augmentations: changes that make further series of those drawn, for a share of the windows each.

# N windows of a block, V rows of a window, T steps

They act on blocks (N, V, T), NaN = not observed, in the order of the fields of Augment. All rows of a window are
flipped, strided and turned alike. What would change how rows depend on one another, or turn effects before their
causes, acts on windows of one row only: mixing, time flips and modulation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from foretrain.config import Section
from foretrain.data.synthetic.base import (
    Counts,
    Floats,
    Ints,
    PositiveRange,
    Range,
    Share,
    between,
    chance,
    log_between,
    whole_between,
)
from foretrain.data.windows import FloatArray

ONE_ROW = ("tsmixup", "mixup", "time_flip", "modulation")  # augmentations of windows of one row alone


class Change(Section):
    """Base of the augmentations.

    Attributes:
        share: of the windows that are changed; 0 = none.
    """

    share: Share = 0.0


class TsMixup(Change):
    """Convex combinations of several series, each divided by its mean absolute value (Chronos, arXiv 2403.07815).

    Attributes:
        most: series of a combination, two at least.
        concentration: of the symmetric Dirichlet distribution of the weights.
    """

    most: int = Field(default=3, ge=2)
    concentration: float = Field(default=1.5, gt=0.0, allow_inf_nan=False)


class Mixup(Change):
    """Combinations of two series, each divided by its mean absolute value, with a weight of a beta distribution.

    Attributes:
        concentration: of Beta(c, c); below 1, one of the two prevails.
    """

    concentration: float = Field(default=0.2, gt=0.0, allow_inf_nan=False)


class TimeFlip(Change):
    """Series that run backwards."""


class SignFlip(Change):
    """Series times -1."""


class Stride(Change):
    """Every s-th value of a series that is drawn s times as long; one stride a micro-batch.

    Attributes:
        factor: range of s.
    """

    factor: Counts = (2, 4)

    @model_validator(mode="after")
    def _longer(self) -> Stride:
        if not 2 <= self.factor[0] <= self.factor[1] <= 16:
            raise ValueError(f"factor {list(self.factor)} must lie in [2, 16]")
        return self


class Modulation(Change):
    """An amplitude, about the mean, that rises and falls slowly.

    Attributes:
        depth: relative to the amplitude.
        cycles: of a sine over the series; log-uniform.
    """

    depth: Range = (0.2, 0.8)
    cycles: PositiveRange = (0.3, 3.0)


class Censor(Change):
    """Values above, or below, a quantile of the series become that quantile.

    Attributes:
        fraction: of the values that are cut off.
    """

    fraction: Range = (0.05, 0.4)


class Quantise(Change):
    """Values rounded to few levels between the smallest and the largest.

    Attributes:
        levels: log-uniform.
    """

    levels: PositiveRange = (4.0, 50.0)


class Gaps(Change):
    """Blocks of missing values; each row of a window has its own.

    Attributes:
        blocks: of a row.
        fraction: of the steps, for each block.
    """

    blocks: Counts = (1, 3)
    fraction: Range = (0.02, 0.15)


class Augment(Section):
    """The augmentations and their shares."""

    tsmixup: TsMixup = TsMixup()
    mixup: Mixup = Mixup()
    time_flip: TimeFlip = TimeFlip()
    sign_flip: SignFlip = SignFlip()
    stride: Stride = Stride()
    modulation: Modulation = Modulation()
    censor: Censor = Censor()
    quantise: Quantise = Quantise()
    gaps: Gaps = Gaps()

    def describe(self) -> str:
        """Return the augmentations in use with their shares; "" without one."""
        used = ((name, getattr(self, name).share) for name in type(self).model_fields)
        return ", ".join(f"{name} {share:.0%}" for name, share in used if share)


def augment(settings: Augment, rng: np.random.Generator, values: Floats) -> Floats:
    """Return windows (N, V, T) of which shares are changed; strides are taken before, and gaps made after."""
    if values.shape[1] == 1:
        values = _mixed(settings.tsmixup, rng, values)
        values = _mixed_up(settings.mixup, rng, values)
        values = _flipped(settings.time_flip, rng, values)
    if (rows := _chosen(settings.sign_flip, rng, values)).size:
        values[rows] *= -1.0
    if values.shape[1] == 1 and (rows := _chosen(settings.modulation, rng, values)).size:
        values[rows] = _modulated(settings.modulation, rng, values[rows])
    if (rows := _chosen(settings.censor, rng, values)).size:
        values[rows] = _censored(settings.censor, rng, values[rows])
    if (rows := _chosen(settings.quantise, rng, values)).size:
        values[rows] = _quantised(settings.quantise, rng, values[rows])
    return values


def leave_gaps(change: Gaps, rng: np.random.Generator, values: FloatArray) -> None:
    """Set blocks of a share of the windows (N, V, T) to NaN in place."""
    if (rows := _chosen(change, rng, values)).size:
        values[rows] = _with_gaps(change, rng, values[rows])


def _chosen(change: Change, rng: np.random.Generator, values: np.ndarray) -> Ints:
    if not change.share:
        return np.empty(0, np.int64)
    return np.flatnonzero(chance(rng, change.share, len(values)))


def _scaled(values: Floats) -> Floats:
    """Return rows divided by the mean of their absolute values, where that is above 0."""
    mean = _mean(np.abs(values))
    return values / np.where(mean > 0, mean, 1.0)


def _mean(values: Floats) -> Floats:
    """Return (N, V, 1) means of the observed values of rows, 0 where there is none."""
    seen = np.isfinite(values)
    return np.where(seen, values, 0.0).sum(axis=-1, keepdims=True) / np.maximum(seen.sum(axis=-1, keepdims=True), 1)


def _mixed(change: TsMixup, rng: np.random.Generator, values: Floats) -> Floats:
    rows = _chosen(change, rng, values)
    if not rows.size or len(values) < 2:
        return values
    parts = _scaled(values)
    weights = rng.standard_gamma(change.concentration, (len(rows), change.most))
    weights *= np.arange(change.most) < whole_between(rng, (2, change.most), len(rows), 1)
    weights /= weights.sum(axis=1, keepdims=True)
    out = values.copy()
    total = weights[:, 0, None, None] * parts[rows]
    for k in range(1, change.most):
        weight, partner = weights[:, k, None, None], parts[_partners(rng, rows, len(values))]
        total += np.where(weight > 0, weight * partner, 0.0)  # a partner without weight takes no values away
    out[rows] = total
    return out


def _mixed_up(change: Mixup, rng: np.random.Generator, values: Floats) -> Floats:
    rows = _chosen(change, rng, values)
    if not rows.size or len(values) < 2:
        return values
    parts, out = _scaled(values), values.copy()
    weight = rng.beta(change.concentration, change.concentration, (len(rows), 1, 1))
    out[rows] = weight * parts[rows] + (1.0 - weight) * parts[_partners(rng, rows, len(values))]
    return out


def _partners(rng: np.random.Generator, rows: Ints, count: int) -> Ints:
    """Return for each row another one of the block."""
    return (rows + rng.integers(1, count, len(rows))) % count


def _flipped(change: TimeFlip, rng: np.random.Generator, values: Floats) -> Floats:
    rows = _chosen(change, rng, values)
    if rows.size:
        rows = rows[~np.isnan(values[rows, :, 0]).any(axis=1)]  # a missing past would become a missing future
        values[rows] = values[rows][:, :, ::-1]
    return values


def _modulated(change: Modulation, rng: np.random.Generator, values: Floats) -> Floats:
    count, length = len(values), values.shape[-1]
    mean = _mean(values)
    place = np.arange(length) / length * log_between(rng, change.cycles, count, 1, 1) + rng.random((count, 1, 1))
    return mean + (values - mean) * (1.0 + between(rng, change.depth, count, 1, 1) * np.sin(2 * np.pi * place))


def _censored(change: Censor, rng: np.random.Generator, values: Floats) -> Floats:
    fraction = between(rng, change.fraction, len(values), 1, 1)
    above = chance(rng, 0.5, len(values), 1, 1)
    ordered = np.sort(values, axis=-1)  # NaN last
    newest = np.maximum(np.isfinite(values).sum(axis=-1, keepdims=True) - 1, 0)
    place = np.rint(np.where(above, 1.0 - fraction, fraction) * newest).astype(np.int64)
    bound = np.take_along_axis(ordered, np.broadcast_to(place, newest.shape), axis=-1)
    return np.where(above, np.minimum(values, bound), np.maximum(values, bound))


def _quantised(change: Quantise, rng: np.random.Generator, values: Floats) -> Floats:
    levels = np.floor(log_between(rng, change.levels, len(values), 1, 1))
    low = np.fmin.reduce(values, axis=-1, keepdims=True)
    step = (np.fmax.reduce(values, axis=-1, keepdims=True) - low) / np.maximum(levels - 1.0, 1.0)
    return np.where(step > 0, low + np.rint((values - low) / np.where(step > 0, step, 1.0)) * step, values)


def _with_gaps(change: Gaps, rng: np.random.Generator, values: FloatArray) -> FloatArray:
    length, shape = values.shape[-1], (*values.shape[:2], 1)
    number, t = whole_between(rng, change.blocks, *shape), np.arange(length)
    gone: npt.NDArray[np.bool_] = np.zeros(values.shape, bool)
    for k in range(change.blocks[1]):
        size = np.ceil(between(rng, change.fraction, *shape) * length)
        start = np.floor(rng.random(shape) * (length - size))
        gone |= (number > k) & (t >= start) & (t < start + size)
    return np.where(gone, np.float32(np.nan), values)
