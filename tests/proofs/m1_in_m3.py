"""Which windows of the M1 competition lie in the M3 competition: foretrain's search beside one by brute force.

    python tests/proofs/m1_in_m3.py DATA_ROOT

DATA_ROOT has M1.rda and M3.rda (github.com/cran/Mcomp, data). Every window of 32 steps that ends in the truth of a task
of M1 is compared with every position of every series of M3, in double precision and without hashes: both normalised by
their own mean and standard deviation, the distance is the largest of the 32 differences. Takes half a minute.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from foretrain.suites.definition import RawUse, raw_sources, tasks_of
from foretrain.suites.known_windows import LENGTH, TOLERANCE, KnownWindows
from foretrain.suites.raw_files import BenchmarkSeries, read_raw
from foretrain.suites.seen_values import _wanted

PERIODS = ("YEARLY", "QUARTERLY", "MONTHLY")
NEAR = 0.14  # a correlation of 0.99 or less means a mean squared difference of 0.02 or more, so a largest one of 0.14


def series_of(root: Path, source: str, period: str) -> list[BenchmarkSeries]:
    return read_raw(root, raw_sources()[source], RawUse(source=source, period=period))


def normalised(windows: np.ndarray) -> np.ndarray:
    spread = windows.std(1, keepdims=True)
    return (windows - windows.mean(1, keepdims=True)) / np.where(spread > 0, spread, np.inf)


def main(root: Path) -> int:
    m3 = [one.values[0] for period in PERIODS for one in series_of(root, "m3-competition", period)]
    views = [np.lib.stride_tricks.sliding_window_view(row, LENGTH) for row in m3 if len(row) >= LENGTH]
    places = np.concatenate(views)
    shapes = normalised(places)
    print(f"M3: {len(m3):,} series, {len(places):,} positions")
    wrong = 0
    for task in tasks_of("chronos-zero-shot"):
        if not task.name.startswith("monash_m1"):
            continue
        assert task.definition.raw is not None and task.definition.raw.period is not None
        wanted = _wanted(task, series_of(root, "m1-competition", task.definition.raw.period), 1_000_000)
        windows = wanted.windows[wanted.owner >= 0]
        known = KnownWindows(windows)
        for row in m3:
            known.look_into(row.astype(np.float32))  # as a corpus has them
        distance, scale = np.full(len(windows), np.inf), np.zeros(len(windows))
        for k, shape in enumerate(normalised(windows)):
            alike = np.flatnonzero(shapes @ shape / LENGTH > 0.99)
            if len(alike):
                far = np.abs(shapes[alike] - shape).max(1)
                distance[k] = far.min()
                scale[k] = places[alike[far.argmin()]].std() / windows[k].std()
        same = known.telling & (distance <= TOLERANCE)
        others = np.minimum(distance[known.telling & ~same], NEAR)
        wrong += int((known.found != same).sum())
        owners = wanted.owner[wanted.owner >= 0]
        counts = [len(np.unique(owners[mask])) for mask in (known.telling, known.found, same)]
        print(f"{task.name}: {counts[0]} windows, found {counts[1]}, by brute force {counts[2]}", end="")
        if same.any():
            exact, factors = int((distance[same] < 1e-12).sum()), sorted({float(f"{x:.4g}") for x in scale[same]})
            print(f"; {exact} equal within 1e-12 of a standard deviation, the others within {distance[same].max():.2g}")
            print(f"  the next one differs by {others.min():.2g} or more; M3 is M1 times one of {factors}", end="")
        print()
    print(f"{wrong} windows differ between the two searches")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
