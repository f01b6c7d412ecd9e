"""Tests of equal accuracy, and their verdicts as text: over forecast origins, or over items where origins are too few.

Over origins it is the test of Diebold and Mariano on one loss per origin. Losses of successive origins depend on each
other, whether or not forecasts overlap, and a variance that ignores this calls equal forecasters different: a third of
them at the 5% level where the differences have an autocorrelation of 0.6. So the long-run variance comes from the first
few terms of a cosine series of the differences (the equal-weighted cosine estimator, EWC: Lazarus, Lewis, Stock and
Watson 2018, HAR Inference: Recommendations for Practice; Mueller 2004, A Theory of Robust Long-Run Variance
Estimation), and the statistic follows Student's t with as many degrees of freedom as there are terms. Where forecasts
overlap, even the slowest terms see the overlap, and the statistic is compared with its simulated distribution for equal
forecasters whose losses overlap in the same way. tests/proofs/dm_simulation.py measures all of this.

# T origins, K items or clusters, D draws, B terms of the series, L lag in origins
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from foretrain.errors import DataError
from foretrain.evaluation.metrics import scaled_errors
from foretrain.evaluation.scored import Array, Ints, Scored

LEVEL = 0.05
FEWEST_ORIGINS = 10
FEWEST_ITEMS = 30
FEWEST_CLUSTERS = 10
ORIGINS, ITEMS, CLUSTERS = "origins", "items", "clusters"
COSINE_SERIES = "cosine series, Student's t"
COSINE_SERIES_SIMULATED = "cosine series, simulated distribution"
PAIRED_T = "paired t, corrected for skewness"
_DRAWS = 20_000
_BUDGET = 4_000_000  # random numbers in memory at once


@dataclass(frozen=True)
class Comparison:
    """Result of a test of equal accuracy; negative statistics favour the model."""

    against: str
    verdict: str  # as text, for a headline
    statistic: float  # NaN if there was no test
    p_value: float  # two-sided; NaN if there was no test
    origins: int
    lag: int  # in origins
    mean_difference: float  # mean loss of the model minus mean loss of the other
    over: str = ORIGINS  # what the test takes for independent: origins, items, or clusters of items
    count: int = 0  # of those
    method: str | None = None  # None if there was no test
    degrees_of_freedom: int | None = None
    weak: bool = False  # fewer than twice the origins or clusters that a test needs: it overlooks large differences

    @property
    def significant(self) -> bool:
        """True if the two differ at the 5% level."""
        return self.p_value < LEVEL

    @property
    def facts(self) -> dict[str, Any]:
        """The test without its names and words, as JSON data: None for NaN and infinities."""
        found = asdict(self)
        del found["against"], found["verdict"]
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}


class Draws(NamedTuple):
    """What a test takes for independent if origins are too few: the item or the cluster of every row."""

    over: str  # ITEMS or CLUSTERS
    group: Ints  # (N,) number of the row's item or cluster


def lag_in_origins(horizon: int, stride: int) -> int:
    """Return the number of later origins that a forecast overlaps: ceil(horizon / stride) - 1."""
    return -(-horizon // stride) - 1


def origins_needed(lag: int) -> int:
    """Return the minimum number of forecast origins for a test."""
    return max(FEWEST_ORIGINS, 4 * (lag + 1))


def series_terms(count: int) -> int:
    """Return the terms of the cosine series for T origins, its degrees of freedom: T^(2/3) / 3, at least 2.

    The rate is that of Lazarus, Lewis, Stock and Watson, who take 0.4 T^(2/3). Fewer keep the share of false positives
    below 9% at 10 origins and an autocorrelation of 0.6.
    """
    terms = 2
    while (3 * (terms + 1)) ** 3 <= count**2:
        terms += 1
    return terms


def diebold_mariano(
    model: Array, other: Array, *, horizon: int = 1, stride: int = 1, against: str = "naive"
) -> Comparison:
    """Compare two forecasters by their losses at T origins in time order, each loss the mean over an origin's steps.

    Origins need not be equally spaced: the series is one over their order.

    Args:
        model: (T,) losses of the model; lower is better.
        other: (T,) losses of the forecaster it is compared with, at the same origins.
        horizon: steps of a forecast.
        stride: steps between origins; if below horizon, the forecasts overlap.
        against: name of the other forecaster, for the verdict.

    Raises DataError if the two differ in length. Diebold and Mariano 1995, with the variance of the module's text.
    """
    difference, rounding = _differences(model, other, against)
    count, lag = len(difference), lag_in_origins(horizon, stride)
    needed, name = origins_needed(lag), _name(against)
    mean = float(difference.mean()) if count else math.nan
    untested = Comparison(against, "", math.nan, math.nan, count, lag, mean, count=count)
    if not count:
        return replace(untested, verdict=f"no verdict against {name}: no window has a scale to measure errors by")
    if not np.isfinite(difference).all():
        return replace(untested, verdict=f"no verdict against {name}: some forecasts are not finite")
    if not difference.any():
        return replace(untested, verdict=f"no difference from {name} (identical losses)")
    if count < needed:
        return replace(untested, verdict=f"too few windows to tell ({_plural(count, 'origin')}, {needed} needed)")
    terms, weak = series_terms(count), count < 2 * needed
    found = statistics(difference[None], terms, rounding)
    statistic, p_value = float(found[0]), float(p_values(found, count, horizon, stride)[0])
    about = f" (weak test, {_plural(count, 'origin')})" if weak else ""
    return replace(
        untested,
        verdict=_verdict(statistic, p_value, name) + about,
        statistic=statistic,
        p_value=p_value,
        method=COSINE_SERIES_SIMULATED if lag else COSINE_SERIES,
        degrees_of_freedom=terms,
        weak=weak,
    )


def statistics(differences: Array, terms: int, rounding: float = 0.0) -> Array:
    """Return the statistic (D,) of each row of loss differences (D, T): the mean over its standard error.

    The long-run variance is the mean square of the coefficients 1 to B of the orthonormal cosine transform (type II);
    coefficient 0 is sqrt(T) times the mean. With B = T - 1 it is the usual variance, and the statistic that of the
    paired t test. Infinite where the variance is that of rounding: then there is no chance.
    """
    from scipy.fft import dct

    mean = differences.mean(1)
    series = np.asarray(dct(differences - mean[:, None], type=2, norm="ortho", axis=1))
    coefficients = series[:, 1 : terms + 1]
    return _ratio(mean, np.sqrt((coefficients * coefficients).mean(1) / differences.shape[1]), rounding)


def p_values(found: Array, count: int, horizon: int, stride: int) -> Array:
    """Return the two-sided p-values (D,) of statistics of T origins under equal accuracy."""
    if lag_in_origins(horizon, stride) == 0:
        return _student(found, series_terms(count))
    null = _null_distribution(count, horizon, stride)
    beyond = len(null) - np.searchsorted(null, np.abs(found), side="left")
    return np.where(np.isinf(found), 0.0, (beyond + 1) / (len(null) + 1))


def paired_statistics(differences: Array, rounding: float = 0.0) -> Array:
    """Return the statistic (D,) of each row of loss differences (D, K), one of each item or cluster.

    It is that of the paired t test or that of Hall's t, which corrects for skewness, whichever is smaller; 0 if they
    disagree in sign. Student's t takes a few items with large losses for a small mean, so skewed differences of equal
    forecasters would be called different; Hall's alone takes heavy tails for skewness. It grows with the mean, unlike
    Johnson's (1978), which adds the same terms without the cubic one and changes sign where the mean is far above the
    deviation. Hall 1992, On the Removal of Skewness by Transformation.
    """
    count = differences.shape[1]
    mean = differences.mean(1)
    centred = differences - mean[:, None]
    spread = np.sqrt((centred * centred).sum(1) / (count - 1))
    scale = np.where(spread > 0, spread, 1.0)[:, None]  # cubes of large losses would overflow
    third = ((centred / scale) ** 3).mean(1)
    shifted = mean / scale[:, 0]
    grown = shifted * (1.0 + third * shifted / 3.0 + (third * shifted) ** 2 / 27.0)
    corrected = (grown + third / (6.0 * count)) * math.sqrt(count)
    plain = _ratio(mean, spread / math.sqrt(count), rounding)
    smaller = np.where(np.abs(corrected) < np.abs(plain), corrected, plain)
    return np.where(np.isinf(plain), plain, np.where(mean * corrected > 0, smaller, 0.0))


def paired_p_values(found: Array, count: int) -> Array:
    """Return the two-sided p-values (D,) of statistics of K items or clusters under equal accuracy."""
    return _student(found, count - 1)


def compare_items(model: Array, other: Array, over: str, untested: Comparison) -> Comparison:
    """Compare two forecasters by their losses on K items or clusters of items, at origins too few for a test over them.

    Args:
        model: (K,) losses of the model.
        other: (K,) losses of the forecaster it is compared with.
        over: ITEMS or CLUSTERS.
        untested: the comparison over origins, which had too few; returned as it is if there are too few items, or if
            the losses are identical.

    The verdict says "at this one origin": other origins have shocks that all items share, and this test does not see
    them.
    """
    count, clustered = len(model), over == CLUSTERS
    needed = FEWEST_CLUSTERS if clustered else FEWEST_ITEMS
    if count < needed:
        if not clustered:
            return untested
        few = f"too few windows to tell ({_plural(untested.origins, 'origin')}, {origins_needed(untested.lag)} needed; "
        return replace(untested, verdict=f"{few}{_plural(count, 'cluster')}, {needed} needed)")
    difference, rounding = _differences(model, other, untested.against)
    if not difference.any():
        return untested
    statistic = float(paired_statistics(difference[None], rounding)[0])
    p_value = float(paired_p_values(np.array([statistic]), count)[0])
    what, weak = f"{count} clusters of items" if clustered else "items", clustered and count < 2 * needed
    where = "at this one origin" if untested.origins == 1 else f"at these {untested.origins} origins"
    about = " (weak test)" if weak else ""
    return replace(
        untested,
        verdict=_verdict(statistic, p_value, f"{_name(untested.against)} over {what}, {where}") + about,
        statistic=statistic,
        p_value=p_value,
        mean_difference=float(difference.mean()),
        over=over,
        count=count,
        method=PAIRED_T,
        degrees_of_freedom=count - 1,
        weak=weak,
    )


def origin_losses(scored: Scored, other: Scored) -> tuple[Array, Array, int, int]:
    """Return one loss per forecast origin for both, in time order, and the (horizon, stride) of their overlap.

    A loss is the mean scaled error over the origin's items and steps (Scored.error_scale). Windows belong to one origin
    if their forecasts start at the same instant; without time stamps, if they are equally far from their item's end.
    If items do not share cutoffs, origins are closer than stride and the overlap is counted from the time stamps.
    """
    usable = _usable(scored).any(1)
    key = scored.start if scored.has_times else -scored.rank
    keys, group = np.unique(key[usable], return_inverse=True)
    ours, theirs = grouped_losses(scored, other, key)
    horizon, stride = scored.horizon, scored.stride
    if scored.has_times and len(keys):
        overlap = _overlap(keys, group, scored.end[usable])
        if overlap > lag_in_origins(horizon, stride):
            horizon, stride = overlap + 1, 1
    return ours, theirs, horizon, stride


def grouped_losses(scored: Scored, other: Scored, key: Ints) -> tuple[Array, Array]:
    """Return the mean scaled error of both over the rows and steps of each key (N,), ordered by key."""
    use = _usable(scored)
    counts = use.sum(1)
    usable = counts > 0
    keys, group = np.unique(key[usable], return_inverse=True)

    def mean(errors: Array) -> Array:
        rows = np.where(use, errors, 0.0).sum(1)[usable]
        return np.bincount(group, rows, len(keys)) / np.bincount(group, counts[usable], len(keys))

    return mean(scaled_errors(scored)), mean(scaled_errors(other))


def compare(scored: Scored, other: Scored, against: str, draws: Draws | None = None) -> Comparison:
    """Compare two forecasters of the same rows over origins, or over draws (items, clusters) if origins are too few."""
    ours, theirs, horizon, stride = origin_losses(scored, other)
    found = diebold_mariano(ours, theirs, horizon=horizon, stride=stride, against=against)
    if draws is None or not has_too_few_origins(found):
        return found
    return compare_items(*grouped_losses(scored, other, draws.group), draws.over, found)


def has_too_few_origins(found: Comparison) -> bool:
    """Return True if the losses can be compared, but their origins are too few for a test over them."""
    return math.isfinite(found.mean_difference) and found.origins < origins_needed(found.lag)


def adjusted_p_values(found: Array) -> Array:
    """Return p-values (K,) adjusted for the number of tests: those below r are at most a share r of false ones.

    NaN, where there was no test, stays and counts for nothing. It holds for independent tests and for those of losses
    that rise and fall together. Benjamini and Hochberg 1995, Controlling the False Discovery Rate.
    """
    adjusted = np.full(len(found), np.nan)
    tested = np.flatnonzero(np.isfinite(found))
    order = tested[np.argsort(found[tested], kind="stable")]
    raised = found[order] * len(order) / np.arange(1, len(order) + 1)
    adjusted[order] = np.minimum(np.minimum.accumulate(raised[::-1])[::-1], 1.0)
    return adjusted


def _differences(model: Array, other: Array, against: str) -> tuple[Array, float]:
    """Return the differences of two vectors of losses, and the size of their rounding; a difference below it is 0."""
    if model.shape != other.shape or model.ndim != 1:
        raise DataError(
            f"losses of the model {model.shape} and of {against} {other.shape} must be vectors of equal length."
        )
    ours, theirs = np.asarray(model, np.float64), np.asarray(other, np.float64)
    difference = ours - theirs
    finite = np.isfinite(difference)
    rounding = np.where(finite, 16.0 * np.finfo(np.float64).eps * np.maximum(np.abs(ours), np.abs(theirs)), 0.0)
    return np.where(finite & (np.abs(difference) <= rounding), 0.0, difference), float(rounding.max(initial=0.0))


def _ratio(mean: Array, error: Array, rounding: float) -> Array:
    """Return mean / error, infinite where the error is one of rounding."""
    flat = error <= np.maximum(rounding, 1e-14 * np.abs(mean))
    return np.where(flat, np.copysign(np.inf, mean), mean / np.where(flat, 1.0, error))


def _student(found: Array, freedom: int) -> Array:
    """Return the two-sided p-values (D,) of statistics that follow Student's t."""
    from scipy.special import stdtr

    return 2.0 * stdtr(freedom, -np.abs(found))


def _usable(scored: Scored) -> np.ndarray:
    """Return (N, H) bool: the steps whose truth is observed, in rows with a scale."""
    return np.isfinite(scored.target) & np.isfinite(scored.error_scale)[:, None]


def _overlap(starts: Ints, group: Ints, ends: Ints) -> int:
    """Return the largest number of origins that start after an origin and before its forecasts end."""
    newest = np.full(len(starts), np.iinfo(np.int64).min)
    np.maximum.at(newest, group, ends)
    started = np.searchsorted(starts, newest, side="right") - 1
    return int((started - np.arange(len(starts))).max())


@lru_cache(maxsize=64)
def _null_distribution(count: int, horizon: int, stride: int) -> Array:
    """Return sorted |statistic| of equal forecasters: a loss averages `horizon` independent steps, `stride` apart."""
    draws = max(2_000, min(_DRAWS, 40_000_000 // max(count * (lag_in_origins(horizon, stride) + 1), 1)))
    # Only the ratio of the two matters; the smallest horizon with that ratio needs the fewest random numbers.
    shrink = math.gcd(horizon, stride)
    horizon, stride = horizon // shrink, stride // shrink
    steps = (count - 1) * stride + horizon
    first = np.arange(count) * stride
    rng = np.random.default_rng([count, horizon, stride])
    chunk = max(1, _BUDGET // steps)
    found = []
    for done in range(0, draws, chunk):
        noise = rng.standard_normal((min(chunk, draws - done), steps))
        total = np.concatenate([np.zeros((len(noise), 1)), noise.cumsum(1)], axis=1)
        losses = (total[:, first + horizon] - total[:, first]) / horizon
        found.append(np.abs(statistics(losses, series_terms(count))))
    return np.sort(np.concatenate(found))


def _verdict(statistic: float, p_value: float, against: str) -> str:
    p = "p<0.001" if p_value < 0.001 else f"p={p_value:.3f}"
    if p_value >= LEVEL:
        return f"no significant difference from {against}, {p}"
    return f"{'worse' if statistic > 0 else 'better'} than {against}, {p}"


def _name(against: str) -> str:
    return against.replace("_", " ")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
