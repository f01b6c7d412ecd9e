"""How often a season is found where there is none, and where there is one: the table of docs/evaluation.md.

`python tests/proofs/season_rates.py [DRAWS] [--first-seed N] [--power]` prints the share of draws with a season, for
each kind of series, length and number of items. Seeds other than 0, 1, ... give draws on which the rule was not chosen.
tests/evaluation/test_seasons.py holds a short version.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from foretrain.evaluation.seasons import History, find_seasons

Draw = Callable[[np.random.Generator, int, int], np.ndarray]  # (rng, items, steps) -> (items, steps)
WEEK = np.array([0.0, 0.25, 0.15, 0.2, 0.3, -1.2, -2.0])  # births: fewer at weekends


def noise(rng, items, steps):
    return rng.standard_normal((items, steps))


def walk(rng, items, steps):
    return noise(rng, items, steps).cumsum(1)


def heavy_walk(rng, items, steps):
    return rng.standard_t(3, (items, steps)).cumsum(1)


def skewed_walk(rng, items, steps):
    return rng.exponential(1.0, (items, steps)).cumsum(1)


def autoregression(share: float) -> Draw:
    def draw(rng, items, steps):
        found = noise(rng, items, steps + 100)
        for t in range(1, steps + 100):
            found[:, t] += share * found[:, t - 1]
        return found[:, 100:]

    return draw


def changes_that_persist(rng, items, steps):
    """A walk whose changes are an autoregression of .9: momentum."""
    return autoregression(0.9)(rng, items, steps).cumsum(1)


def linear_trend(rng, items, steps):
    return np.linspace(0, 20, steps) + noise(rng, items, steps)


def quadratic_trend(rng, items, steps):
    return np.linspace(0, 8, steps) ** 2 + noise(rng, items, steps)


def garch(rng, items, steps):
    """Cumulated returns of GARCH(1, 1) with normal shocks, .1 and .88."""
    shocks, returns = noise(rng, items, steps), np.zeros((items, steps))
    variance = np.ones(items)
    for t in range(steps):
        returns[:, t] = np.sqrt(variance) * shocks[:, t]
        variance = 0.02 + 0.1 * returns[:, t] ** 2 + 0.88 * variance
    return returns.cumsum(1)


def market(rng, items, steps):
    """Walks that move together: nine tenths of the variance of their steps is common, with GARCH."""
    return 3.0 * garch(rng, 1, steps) + walk(rng, items, steps)


def counts(rng, items, steps):
    return rng.poisson(0.3, (items, steps)).astype(float)


def gaps_and_jumps(rng, items, steps):
    found = walk(rng, items, steps)
    found[rng.random(found.shape) < 0.01] += 100.0
    found[rng.random(found.shape) < 0.2] = np.nan
    return found


def weekly(rng, items, steps):
    """A week, a smooth year, a slow walk and noise, as births have them."""
    t = np.arange(steps)
    return WEEK[t % 7] + 0.6 * np.sin(t / 58.1) + 0.02 * walk(rng, items, steps) + 0.35 * noise(rng, items, steps)


def weekly_on_a_walk(rng, items, steps):
    """A week as large as the steps of a walk below it."""
    return WEEK[np.arange(steps) % 7] / WEEK.std() + walk(rng, items, steps)


def pedestrians(rng, items, steps):
    """Hourly counts: commuters on five days, strollers at weekends, with the noise of counts and of the weather."""
    hour, day = np.arange(steps) % 24, np.arange(steps) // 24 % 7
    work = np.exp(-((hour - 8) ** 2) / 4) + np.exp(-((hour - 17) ** 2) / 6) + 0.3 * np.exp(-((hour - 12) ** 2) / 10)
    stroll = 0.7 * np.exp(-((hour - 14) ** 2) / 18)
    weather = np.exp(0.3 * rng.standard_normal((items, steps // 24 + 1))).repeat(24, 1)[:, :steps]
    return rng.poisson(300 * weather * np.where(day < 5, work, stroll)).astype(float)


def daily_only(rng, items, steps):
    """An hourly day that is the same on all days of a week, on an autoregression of .9."""
    return 3 * np.sin(np.arange(steps) * 2 * np.pi / 24) + autoregression(0.9)(rng, items, steps)


NULLS: dict[str, Draw] = {
    "white noise": noise,
    "random walk": walk,
    "walk, t3": heavy_walk,
    "walk, exponential": skewed_walk,
    "AR .9": autoregression(0.9),
    "AR .5": autoregression(0.5),
    "changes AR .9": changes_that_persist,
    "linear trend": linear_trend,
    "quadratic trend": quadratic_trend,
    "GARCH": garch,
    "GARCH, common": market,
    "counts": counts,
    "gaps and jumps": gaps_and_jumps,
}
POWER: dict[str, tuple[Draw, tuple[int, ...], int]] = {
    "weekly, like births": (weekly, (7,), 7),
    "weekly on a walk": (weekly_on_a_walk, (7,), 7),
    "pedestrians, hourly": (pedestrians, (24, 168), 168),
    "only a day, hourly": (daily_only, (24, 168), 24),
    "weekly, like births, searched": (weekly, (), 7),
    "pedestrians, searched": (pedestrians, (), 168),
}
SIZES = ((1, 60), (1, 200), (1, 1000), (1, 10_000), (20, 100), (60, 300))  # items, steps
DAYS, HOURS = ((1, 60), (1, 100), (1, 200), (1, 1000), (20, 60)), ((1, 700), (1, 1000), (1, 1500), (20, 700))
SEASONS = {"7": (7,), "24, 168": (24, 168), "52": (52,), "12": (12,), "search": ()}


def rate(
    draw: Draw,
    candidates: tuple[int, ...],
    items: int,
    steps: int,
    draws: int,
    wanted: int | None = None,
    first_seed: int = 0,
) -> float:
    """Return the share of draws with a season; if `wanted` is given, with that one."""
    hits = 0
    for seed in range(first_seed, first_seed + draws):
        values = draw(np.random.default_rng([seed, items, steps]), items, steps)
        found = find_seasons([History(row, np.arange(steps)) for row in values], candidates or None).main
        hits += found is not None if wanted is None else found == wanted
    return hits / draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("draws", type=int, nargs="?", default=2000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--power", action="store_true", help="only the series with a season")
    args = parser.parse_args()
    draws, first = args.draws, args.first_seed
    fewer = max(1, draws // 10)
    print(f"share of {draws} draws with a season where there is none (long series, many items, searches: {fewer})")
    for name, draw in NULLS.items() if not args.power else ():
        for label, candidates in SEASONS.items():
            cells = []
            for items, steps in SIZES:
                if not candidates and steps > 1000:
                    continue  # a search takes a second
                few = draws if items == 1 and steps <= 1000 and candidates else fewer
                cells.append(f"{rate(draw, candidates, items, steps, few, first_seed=first):.2%}")
            print(f"{name:20} {label:8}", *(f"{cell:>8}" for cell in cells), flush=True)
    print(f"share of {fewer} draws with the right season")
    for name, (draw, candidates, wanted) in POWER.items():
        sizes = DAYS if wanted == 7 else HOURS
        cells = [f"{i} x {n}: {rate(draw, candidates, i, n, fewer, wanted, first):.1%}" for i, n in sizes]
        print(f"{name:32}", *cells, flush=True)


if __name__ == "__main__":
    main()
