"""Choose the best of many forecasts of white noise, and count how often that looks like an edge and is called one.

    python tests/proofs/selection_noise.py [--repeats 100] [--trials 50] [--dates 120] [--items 10]
                                           [--json benchmarks/results/selection-noise.json]

Each repeat draws returns of some items on some dates, and forecasts of them by every trial: guesses of a fixed size
that know nothing. The best trial is the one with the least mean absolute error. Its edge is that over the forecast of
no change; it is called one if selected_edge gives p <= 0.05. With a planted edge, one trial knows the direction of a
predictable part. A later part of the same length, which did not choose, says what the winner's edge is worth.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.tuning.selection import selected_edge

LEVEL = 0.05
GUESS = 0.1  # size of a forecast, in standard deviations of a return


def repeat(seed: int, trials: int, dates: int, items: int, planted: float) -> dict[str, Any]:
    """Return what one search comes to. planted: size of the predictable part, in standard deviations of a return."""
    draws = np.random.default_rng(seed)
    direction = draws.choice([-1.0, 1.0], size=(2 * dates, items))
    returns = draws.standard_normal((2 * dates, items)) + planted * direction
    forecasts = GUESS * draws.choice([-1.0, 1.0], size=(trials, 2 * dates, items))
    knowing = int(draws.integers(trials))
    if planted:
        forecasts[knowing] = max(GUESS, planted) * direction
    losses = np.abs(returns - forecasts).mean(axis=2).T  # (dates, trials)
    naive = np.abs(returns).mean(axis=1)
    winner = int(losses[:dates].mean(axis=0).argmin())
    found = selected_edge(losses[:dates], naive[:dates], winner, seed=seed)
    alone = selected_edge(losses[dates:, [winner]], naive[dates:], 0, seed=seed)  # of a winner that was chosen before
    assert found.p_value is not None and found.p_single is not None and alone.p_value is not None
    return {
        "looks": found.edge > 0,
        "called_alone": found.p_single <= LEVEL,
        "called": found.p_value <= LEVEL,
        "right": winner == knowing,
        "edge": found.edge,
        "edge_later": alone.edge,
        "called_later": alone.p_value <= LEVEL,
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return counts, and medians of the edges."""
    counts = {name: sum(row[name] for row in rows) for name in ("looks", "called_alone", "called", "called_later")}
    right = sum(row["called"] and row["right"] for row in rows)
    edges = {name: float(np.median([row[name] for row in rows])) for name in ("edge", "edge_later")}
    return {"repeats": len(rows), **counts, "called_and_right": right, **edges}


def main() -> int:
    """Run both experiments; return 1 if noise is called an edge too often, or the planted one too seldom."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--dates", type=int, default=120)
    parser.add_argument("--items", type=int, default=10)
    parser.add_argument("--planted", type=float, default=0.3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    told: dict[str, Any] = {
        "settings": {name: value for name, value in vars(asked).items() if name != "json"},
        "machine": f"{platform.machine()} ({os.cpu_count()} cores)",
    }
    for name, planted in (("noise", 0.0), ("planted", asked.planted)):
        rows = [repeat(seed, asked.trials, asked.dates, asked.items, planted) for seed in range(asked.repeats)]
        told[name] = found = summary(rows)
        print(
            f"{name}: of {found['repeats']} repeats the best of {asked.trials} looks better than no change in "
            f"{found['looks']}, is called better as if it were the only trial in {found['called_alone']}, corrected "
            f"for the choice in {found['called']} ({found['called_and_right']} of them the planted one); median edge "
            f"{100 * found['edge']:.2f}%, later {100 * found['edge_later']:.2f}%"
        )
    if asked.json:
        asked.json.write_text(json.dumps(told, indent=1) + "\n")
    most = asked.repeats * LEVEL + 3 * (asked.repeats * LEVEL * (1 - LEVEL)) ** 0.5
    return int(told["noise"]["called"] > most or told["planted"]["called_and_right"] < 0.8 * asked.repeats)


if __name__ == "__main__":
    raise SystemExit(main())
