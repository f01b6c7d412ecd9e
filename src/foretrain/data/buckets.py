"""Training windows by length: micro-batches of one shape each, with as many windows as a budget of steps allows.

Micro-batch m of a run is a pure function of (seed, m). An epoch has every window once, in the smallest bucket that
holds it; inside a bucket windows come in a keyed order, and the micro-batches of all buckets in another. Orders are
computed, not stored: a series' windows of one bucket are a run of neighbours, so what is kept is 12 bytes a series and
bucket.

# G training series of all corpora ("slots"), W windows
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from foretrain.data.permutation import derive, permute, permute_blocks
from foretrain.data.sampling import Gather, Pool, SamplingPlan
from foretrain.data.windows import NO_TIME, IntArray, Windows
from foretrain.errors import ConfigError

_BLOCK = 1 << 20  # series counted at once
_WINDOWS, _MICRO_BATCHES = 6, 7  # streams of random numbers, beside those of sampling.py and source.py


@dataclass(frozen=True)
class Bucket:
    """Windows that share one shape; all micro-batches of a bucket are alike, the last one filled up."""

    context_length: int
    prediction_length: int
    variates: int  # rows of a window
    windows: int  # of an epoch
    micro_batch: int  # windows of one forward pass

    @property
    def micro_batches(self) -> int:
        """Of an epoch."""
        return -(-self.windows // self.micro_batch)


class _Range(NamedTuple):
    """Cutoffs that a bucket holds: contexts of low < steps <= high, futures of short < steps <= long; None = any."""

    low: int
    high: int | None
    short: int
    long: int | None


class _Runs(NamedTuple):
    """The windows of a bucket: so many neighbours of each of these slots."""

    range: _Range
    slots: np.ndarray  # (n,) integers, ascending
    ends: IntArray  # (n,) windows up to and including each slot's


class Buckets:
    """Micro-batches by number; to a trainer a source whose unit is the micro-batch."""

    def __init__(
        self,
        plan: SamplingPlan,
        gather: Gather,
        pools: Sequence[Pool],
        *,
        seed: int,
        lengths: Sequence[int],
        horizons: Sequence[int],
        max_tokens: int,
        fingerprint: str,
        notes: Sequence[str] = (),
    ) -> None:
        """lengths and horizons ascend and end with the run's own (see choices); max_tokens bounds (context + horizon)
        steps x variates of a micro-batch. fingerprint is the data's; notes head the description.

        Raises ConfigError where one window is more than max_tokens.
        """
        self.fingerprint, self._notes = fingerprint, notes
        self._plan, self._gather, self._seed = plan, gather, seed
        pairs = [(_range(lengths, i, horizons, j), c, h) for i, c in enumerate(lengths) for j, h in enumerate(horizons)]
        found = []
        for variates, slots in _alike(pools):
            for cutoffs, context, horizon in pairs:
                runs = _runs(plan, slots, cutoffs)
                if len(runs.slots):
                    found.append((runs, context, horizon, variates))
        _check_budget([(c, h, v) for _, c, h, v in found], max_tokens)
        self._runs = [runs for runs, *_ in found]
        self.buckets = tuple(_bucket(int(runs.ends[-1]), c, h, v, max_tokens) for runs, c, h, v in found)
        self._first = np.concatenate([[0], np.cumsum([bucket.micro_batches for bucket in self.buckets])])

    @property
    def epoch_length(self) -> int:
        """Micro-batches of one epoch."""
        return int(self._first[-1])

    def windows(self, first: int, count: int = 1) -> Windows:
        """The windows of micro-batch number `first` of the run; count is 1, since others have other shapes."""
        assert first >= 0 and count == 1, (first, count)
        epoch, position = divmod(first, self.epoch_length)
        key = derive(self._seed, _MICRO_BATCHES, epoch)
        index = int(permute(key, np.array([position]), self.epoch_length)[0])
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        bucket = self.buckets[number]
        begin = (index - int(self._first[number])) * bucket.micro_batch
        inside = np.arange(begin, min(begin + bucket.micro_batch, bucket.windows))
        order = permute_blocks(derive(self._seed, _WINDOWS, epoch, number), inside, bucket.windows)
        windows, lacking = self._cut(number, order), bucket.micro_batch - len(inside)
        return _joined(windows, _filling(windows, lacking)) if lacking else windows

    def blank(self, number: int) -> Windows:
        """A micro-batch of buckets[number] that is nothing but filling."""
        return _filling(self._cut(number, np.zeros(1, np.int64)), self.buckets[number].micro_batch)

    def describe(self) -> list[str]:
        """A line for each bucket, after what happened to those asked for."""
        total = sum(bucket.windows for bucket in self.buckets)
        lines = [*self._notes, f"buckets: {total:,} windows an epoch in {self.epoch_length:,} micro-batches"]
        for b in self.buckets:
            fill = b.micro_batches * b.micro_batch - b.windows
            lines.append(
                f"  context {b.context_length:,} + horizon {b.prediction_length:,}, variates {b.variates:,}: "
                f"{b.windows:,} windows = {b.micro_batches:,} x {b.micro_batch:,}"
                + (f" less {fill:,} filling" if fill else "")
            )
        return lines

    def _cut(self, number: int, index: IntArray) -> Windows:
        """Windows of a bucket by their places in it."""
        bucket, (cutoffs, slots, ends) = self.buckets[number], self._runs[number]
        run = np.searchsorted(ends, index, side="right")
        before = np.where(run > 0, ends[run - 1], 0)
        slot = slots[run].astype(np.int64)
        newest = self._plan.newest[slot]
        steps = _steps(self._plan, newest, cutoffs)[0] + index - before
        cutoff = newest - steps * self._plan.stride
        return replace(self._gather(slot, cutoff, bucket.context_length, bucket.prediction_length), static_shapes=True)


def choices(requested: int, provided: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The provided values up to the requested one and that one itself, ascending; and those that are larger."""
    kept = {requested, *(value for value in provided if value <= requested)}
    return tuple(sorted(kept)), tuple(sorted({*provided} - kept))


def _range(lengths: Sequence[int], i: int, horizons: Sequence[int], j: int) -> _Range:
    return _Range(
        low=lengths[i - 1] if i else 0,
        high=lengths[i] if i < len(lengths) - 1 else None,
        short=horizons[j - 1] if j else 0,
        long=horizons[j] if j < len(horizons) - 1 else None,
    )


def _steps(plan: SamplingPlan, newest: IntArray, cutoffs: _Range) -> tuple[IntArray, IntArray]:
    """First and last of each series' windows inside the range, in strides back from the newest; last < first: none."""
    end = newest + plan.min_prediction_length
    high = np.minimum(newest, end - cutoffs.short - 1)
    if cutoffs.high is not None:
        high = np.minimum(high, cutoffs.high)
    low = max(cutoffs.low + 1, plan.min_context)
    if cutoffs.long is not None:
        low = np.maximum(low, end - cutoffs.long)
    return -((high - newest) // plan.stride), (newest - low) // plan.stride


def _runs(plan: SamplingPlan, slots: Sequence[range], cutoffs: _Range) -> _Runs:
    kind = np.int32 if len(plan.newest) < 2**31 else np.int64
    chosen, counts = [np.empty(0, kind)], [np.empty(0, np.int64)]
    for part in slots:
        for begin in range(part.start, part.stop, _BLOCK):
            first, last = _steps(plan, plan.newest[begin : min(begin + _BLOCK, part.stop)], cutoffs)
            some = np.flatnonzero(last >= first)
            chosen.append((begin + some).astype(kind))
            counts.append((last - first + 1)[some])
    return _Runs(cutoffs, np.concatenate(chosen), np.cumsum(np.concatenate(counts)))


def _alike(pools: Sequence[Pool]) -> list[tuple[int, list[range]]]:
    """Pools whose windows have the same rows, as (rows of a window, the pools' slots)."""
    found: dict[tuple[int, int, int], list[range]] = {}
    first = 0
    for pool in pools:
        s = pool.selection
        found.setdefault((len(s.targets), len(s.past), len(s.known)), []).append(range(first, first + len(pool.series)))
        first += len(pool.series)
    return [(sum(kind), slots) for kind, slots in found.items()]


def _check_budget(shapes: Sequence[tuple[int, int, int]], max_tokens: int) -> None:
    costs = {(c, h, v): (c + h) * v for c, h, v in shapes}
    context, horizon, variates = max(costs, key=lambda shape: costs[shape])
    most = costs[context, horizon, variates]
    if most > max_tokens:
        raise ConfigError(
            f"training.token_budget.max_tokens_per_batch: {max_tokens} holds no window of bucket context {context} + "
            f"horizon {horizon} with {variates} variate{'s' * (variates > 1)}, which is {most} steps x variates. The "
            f"smallest budget that works here is {most}."
        )


def _bucket(windows: int, context: int, horizon: int, variates: int, max_tokens: int) -> Bucket:
    """Micro-batches as equal as they can be: as few as the budget allows, so that little filling is needed."""
    most = max_tokens // ((context + horizon) * variates)
    return Bucket(context, horizon, variates, windows, -(-windows // -(-windows // most)))


def _filling(like: Windows, count: int) -> Windows:
    """So many windows without any value, with the rows of the first window of a batch."""
    rows = int(np.searchsorted(like.window, 1))

    def missing(values: np.ndarray) -> np.ndarray:
        return np.full((count * rows, values.shape[1]), np.nan, np.float32)

    def without(times: IntArray | None) -> IntArray | None:
        return None if times is None else np.full((count, times.shape[1]), NO_TIME, np.int64)

    return Windows(
        context=missing(like.context),
        future=missing(like.future),
        window=np.repeat(np.arange(count), rows),
        role=np.tile(like.role[:rows], count),
        key=np.zeros(count, np.uint64),
        context_times=without(like.context_times),
        future_times=without(like.future_times),
        source=np.full((count, 3), -1, np.int64),
        names=None if like.names is None else like.names[:1] * count,
        num_padding_windows=count,
        static_shapes=True,
    )


def _joined(first: Windows, second: Windows) -> Windows:
    def both(name: str) -> np.ndarray | None:
        parts = getattr(first, name), getattr(second, name)
        return None if parts[0] is None else np.concatenate(parts)

    arrays = ("context", "future", "role", "key", "context_times", "future_times", "source")
    return Windows(
        **{name: both(name) for name in arrays},  # type: ignore[arg-type]
        window=np.concatenate([first.window, second.window + len(first)]),
        names=None if first.names is None else (*first.names, *(second.names or ())),
        num_padding_windows=second.num_padding_windows,
        static_shapes=True,
    )
