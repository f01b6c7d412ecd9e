"""What may be said of the best of many trials: its edge over a reference, corrected for the choice among all of them.

The best of N trials on the data that chose it looks good even if none is. Under the hypothesis that no trial is better
than the reference, the differences of losses are as likely to have one sign as the other: all trials' differences get
the same random signs, block of dates by block, and the largest statistic of the trials is noted. The share of draws
whose largest statistic reaches the winner's own is its p-value, which counts all trials and how alike they are
(single-step adjustment: Westfall and Young, Resampling-Based Multiple Testing, 1993, section 2.6; signs as weights:
Davidson and Flachaire, The wild bootstrap, tamed at last, 2008). Differences that are symmetric make it exact for any
number of blocks; others make it approximate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from foretrain.errors import DataError

Floats = npt.NDArray[np.float64]

LEAST_BLOCKS = 6  # 64 patterns of signs: with fewer, no p-value below 0.03 exists
DRAWS = 9999
_AT_ONCE = 2**22  # statistics held at a time


@dataclass(frozen=True)
class SelectedEdge:
    """The edge of a winner over a reference, on the dates that chose it. Without p-values, `reason` says why.

    Attributes:
        trials: whose losses are compared.
        dates: of which all have losses.
        blocks: of neighbouring dates, which are taken as independent.
        edge: 1 - winner's mean loss / that of the reference; NaN if that is 0.
        statistic: mean over standard error of the differences of blocks, of the winner.
        p_single: one-sided, as if the winner had been the only trial.
        p_value: one-sided, corrected for the choice.
    """

    trials: int
    dates: int
    blocks: int
    edge: float
    statistic: float | None
    p_single: float | None
    p_value: float | None
    reason: str | None = None


def selected_edge(
    losses: npt.ArrayLike,
    reference: npt.ArrayLike,
    winner: int,
    *,
    block: int = 1,
    draws: int = DRAWS,
    seed: int = 0,
) -> SelectedEdge:
    """Compare the winner of a search with a reference, on the losses that it was chosen by.

    Args:
        losses: (dates, trials), in the order of dates; of every trial that might have won.
        reference: (dates,) losses of the reference on the same dates.
        winner: the column of the winner.
        block: dates in a block: origins whose horizons overlap, lag_in_origins(horizon, stride) + 1.
        draws: patterns of signs; all of them, once each, if there are no more.
        seed: of the patterns.

    Raises DataError for losses that are not finite or do not fit together.
    """
    table, beside = np.asarray(losses, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    _check(table, beside, winner, block)
    dates, trials = table.shape
    differences = _block_means(beside[:, None] - table, block)
    count = len(differences)
    mean = float(beside.mean())
    edge = 1 - float(table[:, winner].mean()) / mean if mean else float("nan")
    if count < LEAST_BLOCKS:
        reason = (
            f"{_plural(dates, 'date')} in {_plural(count, 'block')} of {block} are too few: {LEAST_BLOCKS} blocks are "
            "the least; validate on more origins, or on more folds"
        )
        return SelectedEdge(trials, dates, count, edge, None, None, None, reason)
    found = _statistics(differences.mean(axis=0), (differences**2).mean(axis=0), count)
    single = float(stats.t.sf(found[winner], count - 1))
    largest = _largest_statistics(differences, draws, seed)
    close = 1e-9 * max(1.0, abs(float(found[winner])))  # a pattern that restores the data reaches it up to rounding
    reached = int((largest >= found[winner] - close).sum())
    # the data is one of the patterns: counted with those drawn, already among them if they are all
    p_value = reached / len(largest) if _is_complete(count, draws) else (reached + 1) / (len(largest) + 1)
    return SelectedEdge(trials, dates, count, edge, float(found[winner]), single, min(p_value, 1.0))


def _check(losses: Floats, reference: Floats, winner: int, block: int) -> None:
    if losses.ndim != 2 or reference.shape != losses.shape[:1] or not losses.size:
        raise DataError(f"losses of shape {losses.shape} and a reference of {reference.shape} do not fit together.")
    if not (np.isfinite(losses).all() and np.isfinite(reference).all()):
        raise DataError("a loss is not finite; leave out trials and dates without a loss.")
    if not 0 <= winner < losses.shape[1] or block < 1:
        raise DataError(f"winner {winner} of {losses.shape[1]} trials, blocks of {block} dates: out of range.")


def _block_means(differences: Floats, block: int) -> Floats:
    """Return the means of neighbouring dates, (blocks, trials); dates that fill no block, the oldest, are left out."""
    count = len(differences) // block
    kept = differences[len(differences) - count * block :]
    return kept.reshape(count, block, -1).mean(axis=1)


def _statistics(mean: Floats, square: Floats, count: int) -> Floats:
    """Return mean / standard error from means and means of squares of `count` values; 0 for a mean of 0."""
    variance = np.maximum(square - mean**2, 0.0)
    floor = np.finfo(np.float64).eps * square  # differences that are all alike have no error but that of rounding
    error = np.sqrt(np.maximum(variance, floor) / (count - 1))
    return np.divide(mean, error, out=np.zeros_like(mean), where=error > 0)


def _is_complete(count: int, draws: int) -> bool:
    return count < 60 and 2**count <= draws


def _largest_statistics(differences: Floats, draws: int, seed: int) -> Floats:
    """Return the largest statistic of the trials for each pattern of signs. Squares do not change with signs."""
    count, trials = differences.shape
    square = (differences**2).mean(axis=0)
    if _is_complete(count, draws):
        number = np.arange(2**count)
        signs = 1.0 - 2.0 * ((number[:, None] >> np.arange(count)) & 1)
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, count))
    size = max(1, _AT_ONCE // trials)
    parts = [
        _statistics(signs[first : first + size] @ differences / count, square, count).max(axis=1)
        for first in range(0, len(signs), size)
    ]
    return np.concatenate(parts)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
