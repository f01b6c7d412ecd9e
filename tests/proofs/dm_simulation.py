"""Measure the tests of equal accuracy: false positives and power of both, for losses of many kinds.

    python -m tests.proofs.dm_simulation [--draws 10000] [--json FILE]

Prints Markdown tables for docs/evaluation.md: the share of equal forecasters that the test over origins calls different
at the 5% level, its abstentions and its power; the same of the test over items. tests/evaluation/test_significance.py
holds a short version to the same limits. One thread, 5 s.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from foretrain.evaluation.significance import (
    FEWEST_ITEMS,
    LEVEL,
    lag_in_origins,
    origins_needed,
    p_values,
    paired_p_values,
    paired_statistics,
    series_terms,
    statistics,
)

Rng = np.random.Generator
ORIGINS = (10, 20, 50)
OVERLAPS = ((2, 1), (6, 3), (8, 2), (12, 1))  # horizon, stride
BEYOND = (0.0, 0.3, 0.6, 0.9)  # autocorrelation of the steps whose means overlap; the test holds to 0.6
ITEMS = (FEWEST_ITEMS, 100, 700)
POWER = {10: 0.40, 20: 0.60, 50: 0.95}  # at a mean of one standard deviation
SEED = 7


def garch(rng: Rng, draws: int, count: int) -> np.ndarray:
    """GARCH(1, 1) of variance 1: 0.05 + 0.1 x^2 + 0.85 h."""
    variance, last, found = np.ones(draws), np.zeros(draws), np.empty((draws, count))
    for step in range(-50, count):
        variance = 0.05 + 0.1 * last * last + 0.85 * variance
        last = np.sqrt(variance) * rng.standard_normal(draws)
        if step >= 0:
            found[:, step] = last
    return found


def autoregressive(rng: Rng, draws: int, count: int, phi: float) -> np.ndarray:
    """AR(1) of variance 1."""
    found = rng.standard_normal((draws, count))
    for step in range(1, count):
        found[:, step] = phi * found[:, step - 1] + math.sqrt(1.0 - phi * phi) * found[:, step]
    return found


def with_gaps(rng: Rng, draws: int, count: int) -> np.ndarray:
    """AR(1) of .6 of which a third of the origins is missing, others in every draw."""
    whole = autoregressive(rng, draws, count + count // 2, 0.6)
    kept = np.sort(rng.random(whole.shape).argsort(1)[:, :count], axis=1)
    return np.take_along_axis(whole, kept, axis=1)


def overlapping(rng: Rng, draws: int, count: int, horizon: int, stride: int, phi: float = 0.0) -> np.ndarray:
    """Means over `horizon` steps, `stride` apart; phi makes the steps depend on each other beyond the overlap."""
    steps = autoregressive(rng, draws, (count - 1) * stride + horizon, phi)
    total = np.concatenate([np.zeros((draws, 1)), steps.cumsum(1)], axis=1)
    first = np.arange(count) * stride
    return (total[:, first + horizon] - total[:, first]) / horizon


# Loss differences (draws, count) of equal forecasters, of variance 1 where it is finite.
KINDS: dict[str, Callable[[Rng, int, int], np.ndarray]] = {
    "normal": lambda rng, draws, count: rng.standard_normal((draws, count)),
    "t3": lambda rng, draws, count: rng.standard_t(3, (draws, count)) / math.sqrt(3.0),
    "exponential": lambda rng, draws, count: rng.exponential(1.0, (draws, count)) - 1.0,
    "GARCH": garch,
    "AR .3": lambda rng, draws, count: autoregressive(rng, draws, count, 0.3),
    "AR .6": lambda rng, draws, count: autoregressive(rng, draws, count, 0.6),
    "AR .6, gaps": with_gaps,
}
ITEM_KINDS: dict[str, Callable[[Rng, int, int], np.ndarray]] = {
    **{name: KINDS[name] for name in ("normal", "t3", "exponential")},
    "scales": lambda rng, draws, count: (
        (np.abs(rng.standard_normal((draws, count))) - np.abs(rng.standard_normal((draws, count))))
        * rng.lognormal(0.0, 1.5, (draws, count))
    ),
    "lognormal": lambda rng, draws, count: rng.lognormal(0.0, 1.0, (draws, count)) - math.exp(0.5),
    "shock": lambda rng, draws, count: rng.standard_normal((draws, count)) + 0.5 * rng.standard_normal((draws, 1)),
}


def false_positives(kind: str, count: int, draws: int) -> tuple[float, float]:
    """Return the shares of equal forecasters that the test over origins calls different, and that get no verdict."""
    return _shares(KINDS[kind](np.random.default_rng([SEED, count, list(KINDS).index(kind)]), draws, count), 1, 1)


def overlap_false_positives(count: int, horizon: int, stride: int, draws: int, phi: float = 0.0) -> tuple[float, float]:
    """Return the same for overlapping forecasts."""
    rng = np.random.default_rng([SEED, count, horizon, stride, round(10 * phi)])
    return _shares(overlapping(rng, draws, count, horizon, stride, phi), horizon, stride)


def power(count: int, draws: int, mean: float = 1.0) -> float:
    """Return the share of independent normal differences with this mean, in standard deviations, called different."""
    rng = np.random.default_rng([SEED, count])
    return _shares(rng.standard_normal((draws, count)) + mean, 1, 1)[0]


def item_false_positives(kind: str, count: int, draws: int) -> float:
    """Return the share of equal forecasters that the test over items calls different."""
    rng = np.random.default_rng([SEED, count, list(ITEM_KINDS).index(kind)])
    found = paired_statistics(ITEM_KINDS[kind](rng, draws, count))
    return float((paired_p_values(found, count) < LEVEL).mean())


def _shares(differences: np.ndarray, horizon: int, stride: int) -> tuple[float, float]:
    count = differences.shape[1]
    found = p_values(statistics(differences, series_terms(count)), count, horizon, stride)
    return float((found < LEVEL).mean()), float(np.isnan(found).mean())


def overlap_cells() -> Iterator[tuple[int, int, int]]:
    """Yield (origins, horizon, stride) of the overlaps that have enough origins for a test."""
    for count in ORIGINS:
        for horizon, stride in OVERLAPS:
            if count >= origins_needed(lag_in_origins(horizon, stride)):
                yield count, horizon, stride


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=10_000, help="pairs of forecasters in each cell")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the shares there")
    args = parser.parse_args()
    draws, shares = args.draws, dict[str, dict[str, float]]()
    abstained = 0.0
    _header("origins", [*KINDS, "power at .5, 1 sd", "terms"])
    for count in ORIGINS:
        cells = [false_positives(kind, count, draws) for kind in KINDS]
        abstained = max(abstained, *(share for _, share in cells))
        powers = [power(count, draws, mean) for mean in (0.5, 1.0)]
        shares[f"{count} origins"] = {kind: share for kind, (share, _) in zip(KINDS, cells, strict=True)}
        shares[f"{count} origins"] |= {"power at .5 sd": powers[0], "power at 1 sd": powers[1]}
        _row(count, [*(share for share, _ in cells), ", ".join(_percent(p) for p in powers), str(series_terms(count))])
    print()
    _header("origins, horizon/stride", ["steps independent", *(f"steps AR {phi}" for phi in BEYOND[1:])])
    for count, horizon, stride in overlap_cells():
        cells = [overlap_false_positives(count, horizon, stride, draws, phi) for phi in BEYOND]
        abstained = max(abstained, *(share for _, share in cells))
        name = f"{count}, {horizon}/{stride}"
        shares[name] = {f"AR {phi}": share for phi, (share, _) in zip(BEYOND, cells, strict=True)}
        _row(name, [share for share, _ in cells])
    print(f"\nno verdict: {100.0 * abstained:.1f} % at most\n")
    _header("items", list(ITEM_KINDS))
    for count in ITEMS:
        cells = {kind: item_false_positives(kind, count, draws) for kind in ITEM_KINDS}
        shares[f"{count} items"] = cells
        _row(count, list(cells.values()))
    error = 100.0 * math.sqrt(LEVEL * (1.0 - LEVEL) / draws)
    print(f"\nin percent, {draws:,} draws a cell: a standard error of {error:.1f} at 5 %")
    if args.json is not None:
        args.json.write_text(json.dumps({"draws": draws, "shares": shares}, indent=2) + "\n", encoding="utf-8")


def _percent(share: float) -> str:
    return f"{100.0 * share:.1f}"


def _header(first: str, names: list[str]) -> None:
    print("| " + " | ".join([first, *names]) + " |\n|" + "---|" * (len(names) + 1))


def _row(first: object, cells: list[float | str]) -> None:
    print(
        "| " + " | ".join([str(first), *(c if isinstance(c, str) else _percent(c) for c in cells)]) + " |", flush=True
    )


if __name__ == "__main__":
    main()
