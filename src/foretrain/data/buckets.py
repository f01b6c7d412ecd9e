"""Training windows grouped by length: micro-batches of one shape each, with as many windows as a token budget allows.

Micro-batch m of a run is a pure function of (seed, m). An epoch has every window once, in the smallest bucket that
holds it. A keyed permutation orders the windows inside a bucket, another one the micro-batches of all buckets. Both
are computed, not stored: the windows of a series in one bucket are consecutive, so a series needs 12 bytes a bucket.

# G training series of all corpora ("slots"), W windows
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from foretrain.data.permutation import derive, permute, permute_blocks
from foretrain.data.sampling import SERIES_AT_ONCE, Gather, Pool, SamplingPlan
from foretrain.data.windows import NO_TIME, IntArray, Windows, joined_windows
from foretrain.errors import ConfigError

_WINDOWS, _MICRO_BATCHES, _HORIZONS = 6, 7, 8  # streams of random numbers; sampling.py and source.py use 1 to 5


@runtime_checkable
class MicroBatches(Protocol):
    """A training source whose unit is the micro-batch: number m is a pure function of (settings, seed, m)."""

    @property
    def fingerprint(self) -> str:
        """Hash of the data."""
        ...

    @property
    def epoch_length(self) -> int:
        """Number of micro-batches in one pass over the data; 0 = without end."""
        ...

    @property
    def per_step(self) -> int | None:
        """Number of micro-batches of a step, over all processes; None = that of training.token_budget."""
        ...

    @property
    def workers(self) -> int:
        """Number of processes per rank that make micro-batches ahead of the training; 0 = it makes them itself."""
        ...

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Every shape of a micro-batch, as padding_batch takes them."""
        ...

    def windows(self, first: int, count: int = 1) -> Windows:
        """Return micro-batch `first`; count is 1."""
        ...

    def padding_batch(self, *shape: int) -> Windows:
        """Return a micro-batch of a shape that is made of padding windows only."""
        ...

    def describe(self) -> list[str]:
        """Return lines for logs and dry runs."""
        ...


@dataclass(frozen=True)
class Bucket:
    """Windows of one shape; all micro-batches of a bucket have the same size, the last one with padding windows."""

    context_length: int
    prediction_length: int
    variates: int  # rows of a window
    windows: int  # in an epoch
    micro_batch: int  # windows in a micro-batch

    @property
    def micro_batches(self) -> int:
        """Number of micro-batches in an epoch."""
        return -(-self.windows // self.micro_batch)


class _Range(NamedTuple):
    """Cutoffs in a bucket: contexts of low < steps <= high, futures of short < steps <= long; None = no upper limit."""

    low: int
    high: int | None
    short: int
    long: int | None


class _Runs(NamedTuple):
    """The windows of a bucket: one run of consecutive windows of each slot."""

    range: _Range
    slots: np.ndarray  # (n,) integers, ascending
    ends: IntArray  # (n,) cumulative number of windows


class Buckets:
    """Micro-batches of stored series by number."""

    per_step = None
    workers = 0

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
        max_windows: int | None = None,
        draw_horizons: bool = False,
        notes: Sequence[str] = (),
    ) -> None:
        """Build the buckets.

        lengths and horizons ascend and end with those of the run (see choices); max_tokens bounds (context + horizon)
        steps x variates of a micro-batch. max_windows bounds its windows: the fewer a micro-batch of short windows may
        hold, the more steps they get. With draw_horizons each micro-batch has one of the horizons up to its bucket's,
        drawn with equal chances, and no labels beyond it. fingerprint is that of the data; notes are the first lines of
        describe(). Raises ConfigError if one window exceeds max_tokens, or if nothing can be drawn.
        """
        self.fingerprint, self._notes = fingerprint, notes
        self._horizons = tuple(horizons) if draw_horizons else ()
        if draw_horizons and len(horizons) < 2:
            raise ConfigError(
                f"training.token_budget.draw_horizons: {horizons[0]} is the only horizon, so nothing can be drawn. Add "
                "shorter ones to horizon_buckets, or leave draw_horizons out."
            )
        self._plan, self._gather, self._seed = plan, gather, seed
        pairs = [(_range(lengths, i, horizons, j), c, h) for i, c in enumerate(lengths) for j, h in enumerate(horizons)]
        filled = []
        for variates, slots in _slots_by_rows(pools):
            for cutoffs, context, horizon in pairs:
                runs = _runs(plan, slots, cutoffs)
                if len(runs.slots):
                    filled.append((runs, context, horizon, variates))
        _check_budget([(c, h, v) for _, c, h, v in filled], max_tokens)
        self._runs = [runs for runs, *_ in filled]
        self.buckets = tuple(_bucket(int(runs.ends[-1]), c, h, v, max_tokens, max_windows) for runs, c, h, v in filled)
        self._first = np.concatenate([[0], np.cumsum([bucket.micro_batches for bucket in self.buckets])])

    @property
    def epoch_length(self) -> int:
        """Number of micro-batches in an epoch."""
        return int(self._first[-1])

    def windows(self, first: int, count: int = 1) -> Windows:
        """Return the windows of micro-batch `first` of the run; count must be 1, since shapes differ."""
        assert first >= 0 and count == 1, (first, count)
        epoch, position = divmod(first, self.epoch_length)
        key = derive(self._seed, _MICRO_BATCHES, epoch)
        index = int(permute(key, np.array([position]), self.epoch_length)[0])
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        bucket = self.buckets[number]
        begin = (index - int(self._first[number])) * bucket.micro_batch
        inside = np.arange(begin, min(begin + bucket.micro_batch, bucket.windows))
        order = permute_blocks(derive(self._seed, _WINDOWS, epoch, number), inside, bucket.windows)
        choices = self._horizons_of(bucket)
        horizon = choices[derive(self._seed, _HORIZONS, first) % len(choices)]
        windows, missing = self._cut(number, order, horizon), bucket.micro_batch - len(inside)
        return joined_windows([windows, _padding(windows, missing)]) if missing else windows

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Every shape of a micro-batch: the number of its bucket, and its horizon."""
        return [(k, horizon) for k, bucket in enumerate(self.buckets) for horizon in self._horizons_of(bucket)]

    def padding_batch(self, number: int, horizon: int | None = None) -> Windows:
        """Return a micro-batch of buckets[number] made of padding windows only; horizon None = the bucket's."""
        bucket = self.buckets[number]
        return _padding(
            self._cut(number, np.zeros(1, np.int64), horizon or bucket.prediction_length), bucket.micro_batch
        )

    def _horizons_of(self, bucket: Bucket) -> list[int]:
        """Return the horizons that a micro-batch of a bucket may have."""
        return [h for h in self._horizons if h <= bucket.prediction_length] or [bucket.prediction_length]

    def describe(self) -> list[str]:
        """Return the notes on the requested buckets, then a line for each bucket."""
        total = sum(bucket.windows for bucket in self.buckets)
        drawn = ", ".join(map(str, self._horizons))
        notes = [
            *self._notes,
            *([f"horizon of each micro-batch drawn from {drawn}, up to its bucket's"] if drawn else []),
        ]
        lines = [*notes, f"buckets: {total:,} windows an epoch in {self.epoch_length:,} micro-batches"]
        for b in self.buckets:
            padding = b.micro_batches * b.micro_batch - b.windows
            lines.append(
                f"  context {b.context_length:,} + horizon {b.prediction_length:,}, variates {b.variates:,}: "
                f"{b.windows:,} windows = {b.micro_batches:,} x {b.micro_batch:,}"
                + (f" less {padding:,} padding" if padding else "")
            )
        return lines

    def _cut(self, number: int, index: IntArray, horizon: int) -> Windows:
        """Return the windows at the given positions of a bucket, with labels up to a horizon."""
        bucket, (cutoffs, slots, ends) = self.buckets[number], self._runs[number]
        run = np.searchsorted(ends, index, side="right")
        before = np.where(run > 0, ends[run - 1], 0)
        slot = slots[run].astype(np.int64)
        newest = self._plan.newest(slot)
        steps = _steps(self._plan, newest, cutoffs)[0] + index - before
        cutoff = newest - steps * self._plan.stride
        return replace(self._gather(slot, cutoff, bucket.context_length, horizon), static_shapes=True)


def choices(requested: int, provided: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the provided values up to the requested one, which is added, ascending; and the larger ones."""
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
    """Return each series' first and last window in the range, in strides back from the newest; none if last < first."""
    end = newest + plan.min_prediction_length
    high = np.minimum(newest, end - cutoffs.short - 1)
    if cutoffs.high is not None:
        high = np.minimum(high, cutoffs.high)
    low = max(cutoffs.low + 1, plan.min_context)
    if cutoffs.long is not None:
        low = np.maximum(low, end - cutoffs.long)
    return -((high - newest) // plan.stride), (newest - low) // plan.stride


def _runs(plan: SamplingPlan, slots: Sequence[range], cutoffs: _Range) -> _Runs:
    kind = np.int32 if len(plan.lengths) < 2**31 else np.int64
    chosen, counts = [np.empty(0, kind)], [np.empty(0, np.int64)]
    for part in slots:
        for begin in range(part.start, part.stop, SERIES_AT_ONCE):
            first, last = _steps(plan, plan.newest(slice(begin, min(begin + SERIES_AT_ONCE, part.stop))), cutoffs)
            some = np.flatnonzero(last >= first)
            chosen.append((begin + some).astype(kind))
            counts.append((last - first + 1)[some])
    return _Runs(cutoffs, np.concatenate(chosen), np.cumsum(np.concatenate(counts)))


def _slots_by_rows(pools: Sequence[Pool]) -> list[tuple[int, list[range]]]:
    """Group pools whose windows have the same rows, as (rows of a window, slots of the pools)."""
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


def _bucket(
    windows: int, context: int, horizon: int, variates: int, max_tokens: int, max_windows: int | None
) -> Bucket:
    """Return a bucket with as few micro-batches as the budget allows, of equal size, so that padding is small."""
    most = max_tokens // ((context + horizon) * variates)
    most = most if max_windows is None else min(most, max_windows)
    return Bucket(context, horizon, variates, windows, -(-windows // -(-windows // most)))


def _padding(like: Windows, count: int) -> Windows:
    """Return `count` padding windows (all NaN) with the same rows as the first window of `like`."""
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
