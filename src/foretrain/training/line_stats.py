"""What a line of metrics.jsonl says of the steps since the line before: sums, extremes and histograms.

Counts of a checkpoint's state: a resumed run goes on with the line that was begun, so its losses and norms are those
of a run that never stopped. Times of steps that a kill undid are gone with them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

BINS = 8  # of a factor of 2: the ends of a bin are 9% apart

Bins = dict[str, int]  # number of a bin (bin_of) -> count; JSON has keys of text only


@dataclass
class LineStats:
    """The steps since the last line. Lists of ranks have an entry each; their seconds are those of the steps before.

    What is not finite is left out of losses and norms, and counted by `left_out`. Steps that a profiler slows down are
    counted by `untimed` and left out of all times and rates, and of what is divided by them.
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)  # of gradients, before clipping
    seconds: list[float] = field(default_factory=list)  # of whole steps, waits for data included, without pauses
    untimed: int = 0  # steps under a profiler
    windows: int = 0
    flops: float = 0.0  # of all processes
    data_wait: float = 0.0  # seconds that rank 0 waited for data
    clipped: int = 0  # steps whose gradient exceeded clip_norm
    left_out: int = 0  # steps that did not change the weights
    rank_work: list[float] = field(default_factory=list)  # seconds of each rank's own computing
    rank_waits: list[float] = field(default_factory=list)  # seconds that each rank waited for data

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.seconds) + self.untimed

    def add(
        self, loss: float, norm: float, seconds: float | None, *, applied: bool, clipped: bool, windows: int,
        flops: float, data_wait: float, work: Iterable[float] = (), waits: Iterable[float] = (),
    ) -> None:  # fmt: skip
        """Count a step; without seconds its times and rates are left out."""
        self.losses += [loss] if math.isfinite(loss) else []
        self.norms += [norm] if math.isfinite(norm) else []
        self.clipped, self.left_out = self.clipped + clipped, self.left_out + (not applied)
        if seconds is None:
            self.untimed += 1
            return
        self.seconds.append(seconds)
        self.windows, self.flops, self.data_wait = (
            self.windows + windows,
            self.flops + flops,
            self.data_wait + data_wait,
        )
        self.rank_work, self.rank_waits = _added(self.rank_work, work), _added(self.rank_waits, waits)

    def record(self) -> dict[str, Any]:
        """Return the entries of a line; {} without a step. Times are in seconds, rates per second.

        slowest_rank computes longest, and median_rank_s is what the middle rank takes for it; both of a step. They are
        left out where ranks cannot be told apart: in a run of one process, or of a sharded model. Without a timed step
        times and rates are None.
        """
        if not self.steps:
            return {}
        timed, known = len(self.seconds), bool(self.seconds)
        total = max(math.fsum(self.seconds), 1e-9)
        median, slow = np.percentile(self.seconds, (50, 95)) if known else (None, None)
        found: dict[str, Any] = {
            "steps": self.steps,
            **_extent("loss", self.losses),
            **_extent("grad_norm", self.norms),
            "clipped_share": self.clipped / self.steps,
            "left_out_steps": self.left_out,
            "steps_per_s": timed / total if known else None,
            "windows_per_s": self.windows / total if known else None,
            "flops_per_s": self.flops / total if known else None,
            "step_s_median": None if median is None else float(median),
            "step_s_std": float(np.std(self.seconds)) if known else None,
            "step_s_p95": None if slow is None else float(slow),
            "data_share": self.data_wait / total if known else None,
            "data_wait_s": self.data_wait,
            **({"untimed_steps": self.untimed} if self.untimed else {}),
        }
        if len(self.rank_work) > 1 and max(self.rank_work) > 0:
            slowest = int(np.argmax(self.rank_work))
            found["slowest_rank"], found["slowest_rank_s"] = slowest, self.rank_work[slowest] / timed
            found["median_rank_s"] = float(np.median(self.rank_work)) / timed
        if len(self.rank_waits) > 1 and max(self.rank_waits) > 0:
            longest = int(np.argmax(self.rank_waits))
            found["waiting_rank"], found["waiting_rank_s"] = longest, self.rank_waits[longest] / timed
        return found | {"grad_norm_bins": bins(self.norms), "step_s_bins": bins(self.seconds)}


def bins(values: Iterable[float]) -> Bins:
    """Return the histogram of positive values in bins whose edges are 2 ** (k / BINS); others are left out."""
    found = Counter(math.floor(BINS * math.log2(value)) for value in values if value > 0)
    return {str(number): found[number] for number in sorted(found)}


def merged(histograms: Iterable[Mapping[str, int]]) -> Bins:
    """Return the sum of histograms."""
    found: Counter[int] = Counter()
    for histogram in histograms:
        found.update({int(number): count for number, count in histogram.items()})
    return {str(number): found[number] for number in sorted(found)}


def quantile(histogram: Mapping[str, int], share: float) -> float | None:
    """Return the value that `share` of the values are at or below, within half a bin (4.5%); None of no values."""
    left = share * sum(histogram.values())
    for number in sorted(int(number) for number in histogram):
        count = histogram[str(number)]
        if left <= count:
            return 2.0 ** ((number + 0.5) / BINS)
        left -= count
    return None


def _extent(name: str, values: list[float]) -> dict[str, float | None]:
    """Return mean, min and max of values; None without one."""
    if not values:
        return dict.fromkeys((f"{name}_mean", f"{name}_min", f"{name}_max"))
    return {
        f"{name}_mean": math.fsum(values) / len(values),
        f"{name}_min": min(values),
        f"{name}_max": max(values),
    }


def _added(totals: list[float], more: Iterable[float]) -> list[float]:
    new = list(more)
    return [a + b for a, b in zip(totals or [0.0] * len(new), new, strict=True)] if new else totals
