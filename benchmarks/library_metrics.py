"""CPU seconds of the metrics of other libraries (evaluation.library_metrics) on many series, one mode after the other.

    python -m benchmarks.library_metrics [--quick] [--json FILE]

100,000 series x 24 steps x 9 levels with 2% of the truth missing. The least CPU time of several turns counts, which
other processes disturb least; one thread. The last case is the sum: all metrics of all modes.
"""

from __future__ import annotations

import time

from benchmarks.harness import finish, parser, result  # before numpy: it sets the threads

SERIES, HORIZON, LEVELS = 100_000, 24, tuple(round(0.1 * k, 1) for k in range(1, 10))
TURNS = 7


def main() -> None:
    """Measure each mode."""
    import numpy as np

    from foretrain.evaluation.library_metrics import METRICS_OF, Instances

    arguments = parser(__doc__ or "", ()).parse_args()
    rng = np.random.default_rng(0)
    target = rng.standard_normal((SERIES, HORIZON)) * 3 + 5
    target[rng.random(target.shape) < 0.02] = np.nan
    quantiles = np.sort(rng.standard_normal((SERIES, HORIZON, len(LEVELS))), axis=2)
    zeros = np.zeros(SERIES, np.int64)
    scale = rng.uniform(0.5, 2.0, SERIES)
    rows = Instances(target, quantiles[:, :, 4].copy(), quantiles, LEVELS, scale, zeros, zeros, scale**2)
    lines, total = [], 0.0
    for mode, (_, function) in METRICS_OF.items():
        case = f"metrics, {mode}: {len(function(rows))} of {SERIES:,} series"
        if arguments.only and arguments.only not in case:
            continue
        turns = []
        for _ in range(2 if arguments.quick else TURNS):
            start = time.process_time()
            function(rows)
            turns.append(time.process_time() - start)
        lines.append(result(case, min(turns), None))
        total += min(turns)
    if len(lines) == len(METRICS_OF):
        lines.append(result(f"metrics, all modes of {SERIES:,} series", total, None))
    finish(lines, arguments.json)


if __name__ == "__main__":
    main()
