"""Alarms: what in the lines of metrics.jsonl says that a run goes wrong, as a pure function of these lines.

Losses may be negative (likelihoods), so no rule divides one by another: changes are held against the usual change, by
medians and median absolute deviations, which a single wild line does not move. Every rule wants several lines or far
more than the usual; tests/proofs/alarms.py holds the thresholds against healthy runs and planted faults.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

RECENT = 40  # lines that a rule looks at; and for how many a code stays silent after it was raised
_SIGMA = 1.4826  # a normal deviation in median absolute deviations
SPIKE = 20.0  # deviations of the changes from line to line
RISE = 8.0  # deviations of the loss around its course, of a median of SPAN lines above the lowest such median
SPAN = 10
RISE_ERRORS = 6.0  # standard errors of the slope over RECENT lines
EXPLOSION = 10.0  # times the median of the lines before, in EXPLODING of the last SPAN lines; or SUDDEN times in one
EXPLODING, SUDDEN = 3, 1000.0
DEAD = 1e-6  # of the median of the run's first lines, in LASTING lines in a row
LASTING = 3
STARVED = 0.5  # share of the time that is waited for data, in STARVED_LINES lines in a row
STARVED_LINES = 5
STRAGGLING = 2.0  # times what a usual rank takes; the same rank in all of the last SPAN lines
WORSE = 5  # validations in a row without a best one, the newest WORSE_DEVIATIONS above it
WORSE_DEVIATIONS = 3.0

Record = dict[str, Any]


class Alarm(NamedTuple):
    """What goes wrong. serious: the weights suffer, so `training.alarms: stop` ends the run."""

    code: str
    text: str
    serious: bool


class Watcher:
    """Sees the records of a run in their order, and says which alarms each training line raises."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._start: Record = {}
        self._lines: deque[Record] = deque(maxlen=RECENT)
        self._first_norms: list[float] = []
        self._lowest: float | None = None  # median of SPAN losses
        self._validations: list[tuple[float, float | None]] = []  # lower is better; the loss's median at that time
        self._silent: dict[str, int] = {}  # code -> lines to go
        for record in records:
            self.see(record)

    def see(self, record: Record) -> list[Alarm]:
        """Take the next record of metrics.jsonl; return the alarms that it raises."""
        kind = record.get("kind")
        if kind == "start":
            self._start = record
        elif kind == "validation":
            self._see_validation(record)
        if kind != "train":
            return []
        before = list(self._lines)
        self._lines.append(record)
        raised = [alarm for rule in _RULES if (alarm := rule(self, before, record)) is not None]
        self._learn(record)
        said = [alarm for alarm in raised if not self._silent.get(alarm.code)]
        self._silent = {code: left - 1 for code, left in self._silent.items() if left > 1}
        self._silent |= {alarm.code: RECENT for alarm in said}
        return said

    def _learn(self, record: Record) -> None:
        if (norm := record.get("grad_norm_mean")) is not None and len(self._first_norms) < SPAN:
            self._first_norms.append(norm)
        losses = _losses(self._lines)[-SPAN:]
        if len(losses) == SPAN:
            now = median(losses)
            self._lowest = now if self._lowest is None else min(self._lowest, now)

    def _see_validation(self, record: Record) -> None:
        value = record.get(str(self._start.get("best_metric")))
        if isinstance(value, int | float) and math.isfinite(value):
            losses = _losses(self._lines)[-SPAN:]
            sign = -1.0 if self._start.get("best_mode") == "max" else 1.0
            self._validations.append((sign * value, median(losses) if losses else None))

    def _loss_spike(self, before: Sequence[Record], line: Record) -> Alarm | None:
        losses = [*_losses(before), *_losses([line])]
        changes = [b - a for a, b in pairwise(losses)]
        if line.get("loss_mean") is None or len(changes) <= SPAN:
            return None
        *usual, newest = changes
        middle, deviation = _spread(usual)
        if newest - middle <= SPIKE * deviation or not deviation:
            return None
        z = (newest - middle) / deviation
        return Alarm(
            "loss_spike",
            f"the loss jumped by {newest:.4g} to {losses[-1]:.4g}, {z:.0f} times the usual change from line to line",
            serious=False,
        )

    def _divergence(self, before: Sequence[Record], line: Record) -> Alarm | None:
        losses = _losses(self._lines)
        if len(losses) < RECENT or self._lowest is None:
            return None
        _, change = _spread([b - a for a, b in pairwise(losses)])
        noise, now = change / math.sqrt(2), median(losses[-SPAN:])
        slope, error = _slope(losses)
        if not (now - self._lowest > RISE * noise and slope > RISE_ERRORS * error):
            return None
        return Alarm(
            "divergence",
            f"the loss rises: its median of {SPAN} lines is {now:.4g}, the lowest one was {self._lowest:.4g}",
            serious=True,
        )

    def _exploding_gradients(self, before: Sequence[Record], line: Record) -> Alarm | None:
        factors = []
        lines = list(self._lines)
        for k in range(max(SPAN, len(lines) - SPAN), len(lines)):
            usual = [m for one in lines[max(0, k - SPAN) : k] if (m := one.get("grad_norm_mean") or 0.0) > 0]
            largest = lines[k].get("grad_norm_max")
            factors.append(largest / median(usual) if usual and largest is not None else 0.0)
        if not factors or not (
            (factors[-1] > EXPLOSION and sum(f > EXPLOSION for f in factors) >= EXPLODING) or factors[-1] > SUDDEN
        ):
            return None
        return Alarm(
            "gradients_explode",
            f"a gradient's norm is {line['grad_norm_max']:.4g}, {factors[-1]:.0f} times the usual one",
            serious=True,
        )

    def _dead_gradients(self, before: Sequence[Record], line: Record) -> Alarm | None:
        newest = [one.get("grad_norm_max") for one in list(self._lines)[-LASTING:]]
        if len(newest) < LASTING or any(norm is None for norm in newest):
            return None
        usual = median(self._first_norms) if len(self._first_norms) == SPAN else 0.0
        highest = max(norm for norm in newest if norm is not None)
        if highest > DEAD * usual:
            return None
        return Alarm("gradients_dead", f"gradients have a norm of {highest:.2g}, so nothing is learned", serious=True)

    def _starved(self, before: Sequence[Record], line: Record) -> Alarm | None:
        shares = [one.get("data_share") for one in list(self._lines)[-STARVED_LINES:]]
        if len(shares) < STARVED_LINES or any(share is None or share <= STARVED for share in shares):
            return None
        share = sum(share for share in shares if share is not None) / len(shares)
        return Alarm("data_starved", f"{100 * share:.0f}% of the time is waited for data", serious=False)

    def _straggling_rank(self, before: Sequence[Record], line: Record) -> Alarm | None:
        lines = list(self._lines)[-SPAN:]
        processes = self._start.get("processes") or 0
        for what, verb in (("slowest", "computes"), ("waiting", "waits for data")):
            ranks = {one.get(f"{what}_rank") for one in lines}
            if len(lines) < SPAN or len(ranks) != 1 or None in ranks:
                continue
            seconds = [taken for one in lines if (taken := one.get(f"{what}_rank_s")) is not None]
            others = [taken for one in lines if (taken := one.get("median_rank_s")) is not None]
            if len(seconds) < SPAN or (what == "slowest" and len(others) < SPAN):
                continue
            own = median(seconds)
            if what == "slowest":
                usual = median(others)
                usual = 2 * usual - own if processes == 2 else usual  # the median of two is their mean
                beside, slow = f", a usual one {1000 * usual:.3g} ms", own > STRAGGLING * usual
            else:
                rates = [rate for one in lines if (rate := one.get("steps_per_s") or 0.0) > 0]
                step = 1 / median(rates) if rates else math.inf
                beside, slow = f" of {1000 * step:.3g} ms", own > STARVED * step
            if slow:
                text = f"rank {ranks.pop()} {verb} {1000 * own:.3g} ms a step{beside}; the others wait for it"
                return Alarm("rank_straggles", text, serious=False)
        return None

    def _validation_worsens(self, before: Sequence[Record], line: Record) -> Alarm | None:
        values = [value for value, _ in self._validations]
        if len(values) <= WORSE:
            return None
        best = values.index(min(values))
        changes = [b - a for a, b in pairwise(values)]
        _, deviation = _spread(changes)
        then, now = self._validations[best][1], self._validations[-1][1]
        learns = then is not None and now is not None and now < then
        newest = median(values[-3:])
        if len(values) - 1 - best < WORSE or not learns or newest - values[best] <= WORSE_DEVIATIONS * deviation:
            return None
        return Alarm(
            "validation_worsens",
            f"{self._start.get('best_metric')} has been worse than its best for {len(values) - 1 - best} validations "
            "while the training loss falls: the model fits the training windows alone",
            serious=True,
        )

    def _nonfinite(self, before: Sequence[Record], line: Record) -> Alarm | None:
        earlier = before[-1].get("bad_batches") or 0 if before else 0
        bad = line.get("bad_batches") or 0
        if bad <= earlier:
            return None
        return Alarm(
            "nonfinite_skipped", f"{bad:,} batches so far had a loss or gradient that is not finite", serious=False
        )


_RULES = (
    Watcher._loss_spike,
    Watcher._divergence,
    Watcher._exploding_gradients,
    Watcher._dead_gradients,
    Watcher._starved,
    Watcher._straggling_rank,
    Watcher._validation_worsens,
    Watcher._nonfinite,
)


def _losses(lines: Iterable[Record]) -> list[float]:
    return [loss for line in lines if (loss := line.get("loss_mean")) is not None]


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the median of values, and their deviation from it as a normal deviation."""
    middle = median(values)
    return middle, _SIGMA * median(abs(value - middle) for value in values)


def _slope(values: Sequence[float]) -> tuple[float, float]:
    """Return the slope of a least-squares line through equally spaced values, and its standard error."""
    count = len(values)
    middle, mean = (count - 1) / 2, math.fsum(values) / count
    width = math.fsum((k - middle) ** 2 for k in range(count))
    slope = math.fsum((k - middle) * (value - mean) for k, value in enumerate(values)) / width
    rest = math.fsum((value - mean - slope * (k - middle)) ** 2 for k, value in enumerate(values)) / (count - 2)
    return slope, math.sqrt(rest / width)
