"""Sample training windows and gather them into batches; both steps are vectorised and stateless.

# B windows, R rows, V variates, C context steps, H horizon steps, G training series of all corpora ("slots")

The gather reads from the memory map. It views all float32 leaves of all corpora as one array of overlapping rows of
C + H floats, one starting at each float between the lowest and the highest mapped address, and copies the rows of a
batch with one numpy index operation. Indices come only from Arrow offsets that were checked against their buffer, so
the unmapped gaps between files are never read. Rows that cannot be read this way (other number types, nulls, the first
and last steps of a record batch) are copied one by one.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foretrain.data.asof import Scaling
from foretrain.data.chunks import Counts
from foretrain.data.encoding import encode_codes
from foretrain.data.mapped import Watch
from foretrain.data.order import ShardOrder
from foretrain.data.permutation import below, derive, hash64, permute_blocks, uniform
from foretrain.data.splits import Selection
from foretrain.data.store import Corpus
from foretrain.data.windows import KNOWN, NO_TIME, PAST, TARGET, FloatArray, IntArray, Windows

SERIES_AT_ONCE = 1 << 20  # of which windows are counted
SEGMENT = 1024  # windows drawn at once, so that several batches share the fixed cost of small numpy calls
_PICK_CORPUS, _PICK_SERIES, _PICK_CUTOFF, _EPOCH = 1, 2, 3, 4  # streams of random numbers


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return arrays one after the other; a single one as it is, not copied."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def all_reserved(pools: Sequence[Pool]) -> int | Counts:
    """Return the reserved steps of all series: one number if it is that of every pool, else (G,) numbers."""
    numbers = [pool.reserved for pool in pools]
    if all(isinstance(number, int) for number in numbers) and len(set(numbers)) == 1:
        return numbers[0]
    return joined([np.broadcast_to(pool.reserved, len(pool.series)) for pool in pools])


def of_slots(reserved: int | Counts, slots: slice | IntArray) -> int | Counts:
    """Return the reserved steps of some series: the same number, or theirs."""
    return reserved if isinstance(reserved, int) else reserved[slots]


@dataclass(frozen=True)
class Pool:
    """The training series of one corpus."""

    corpus: Corpus
    selection: Selection
    series: Counts  # (n,) indices into the corpus, ascending
    weight: float
    reserved: int | Counts = 0  # steps at the end of every series, or (n,) of each, that no training window may contain

    @property
    def lengths(self) -> IntArray:
        """(n,) steps of the series; those of the corpus themselves if it uses them all."""
        lengths = self.corpus.lengths
        return lengths if len(self.series) == len(lengths) else lengths[self.series]


class SamplingPlan:
    """Maps window numbers to (slot, cutoff). A slot is the index of a series in the concatenated pools."""

    def __init__(
        self,
        lengths: list[IntArray],
        weights: list[float],
        *,
        seed: int,
        reserved: int | Counts,
        min_context: int,
        min_prediction_length: int,
        stride: int,
        epoch: bool,
        by_length: bool,
    ) -> None:
        """lengths: series lengths of each pool, all of at least min_context + min_prediction_length + reserved, which
        is one number or (G,) of them."""
        self._seed = seed
        self._epoch = epoch
        self.min_context = min_context
        self.min_prediction_length = min_prediction_length
        self.stride = stride
        sizes = np.array([len(pool) for pool in lengths], np.int64)
        self._offset = np.concatenate([[0], np.cumsum(sizes)])
        self._cumulative_weights = np.cumsum(weights) / np.sum(weights)
        self.lengths = joined(lengths)  # (G,) steps of each series
        self.reserved = reserved
        # only the table that this mode reads is stored: 8 bytes a series
        self._window_ends = np.empty(len(self.lengths), np.int64) if epoch else None
        self._choices = np.empty(len(self.lengths), np.int64) if by_length and not epoch else None
        self.epoch_length = self._count_windows()
        self._order: ShardOrder | None = None
        self._segment = functools.lru_cache(maxsize=8)(self._compute)

    def newest(self, slots: slice | IntArray) -> IntArray:
        """Return the latest cutoff of each of some series."""
        newest = self.lengths[slots] - self.min_prediction_length
        newest -= of_slots(self.reserved, slots)
        return newest

    def _count_windows(self) -> int:
        """Fill the table of cumulative counts and return the number of windows, stride apart."""
        windows = cutoffs = 0
        for first in range(0, len(self.lengths), SERIES_AT_ONCE):
            block = slice(first, first + SERIES_AT_ONCE)
            choices = self.newest(block) - self.min_context + 1
            strided = (choices - 1) // self.stride + 1
            for table, counts, before in ((self._window_ends, strided, windows), (self._choices, choices, cutoffs)):
                if table is not None:
                    np.cumsum(counts, out=table[block])
                    table[block] += before
            windows, cutoffs = windows + int(strided.sum()), cutoffs + int(choices.sum())
        return windows

    def stored_windows(self, slots: range) -> range:
        """Return the numbers of the windows of neighbouring slots, in stored order; only for epochs."""
        assert self._window_ends is not None
        before = int(self._window_ends[slots.start - 1]) if slots.start else 0
        return range(before, int(self._window_ends[slots.stop - 1]) if len(slots) else before)

    def follow(self, order: ShardOrder) -> None:
        """Visit the windows of each epoch in another order; before the first one is drawn."""
        self._order = order

    def draw(self, first: int, count: int) -> tuple[IntArray, IntArray]:
        """Return (slot, cutoff), each (count,), of windows first .. first + count - 1."""
        assert first >= 0 and count > 0, (first, count)
        parts = [self._segment(k) for k in range(first // SEGMENT, -(-(first + count) // SEGMENT))]
        begin = first - first // SEGMENT * SEGMENT
        slot, cutoff = parts[0] if len(parts) == 1 else [np.concatenate(part) for part in zip(*parts, strict=True)]
        return slot[begin : begin + count], cutoff[begin : begin + count]

    def _compute(self, segment: int) -> tuple[IntArray, IntArray]:
        number = np.arange(segment * SEGMENT, (segment + 1) * SEGMENT, dtype=np.int64)
        return self._in_epoch(number) if self._epoch else self._at_random(number)

    def _at_random(self, number: IntArray) -> tuple[IntArray, IntArray]:
        seed = self._seed
        pool = np.zeros(len(number), np.int64)
        if len(self._cumulative_weights) > 1:
            drawn = np.searchsorted(self._cumulative_weights, uniform(derive(seed, _PICK_CORPUS), number), side="right")
            pool = np.minimum(drawn, len(self._cumulative_weights) - 1)
        begin, end = self._offset[pool], self._offset[pool + 1]
        key = derive(seed, _PICK_SERIES)
        if self._choices is None:
            slot = begin + below(key, number, end - begin)
        else:
            before = np.where(begin > 0, self._choices[begin - 1], 0)
            slot = np.searchsorted(self._choices, before + below(key, number, self._choices[end - 1] - before), "right")
        newest = self.newest(slot)
        cutoff = self.min_context + below(derive(seed, _PICK_CUTOFF), number, newest - self.min_context + 1)
        return slot, cutoff

    def _in_epoch(self, number: IntArray) -> tuple[IntArray, IntArray]:
        assert self._window_ends is not None
        epoch, position = np.divmod(number, self.epoch_length)
        index = np.empty_like(position)
        for e in np.unique(epoch):
            chosen = epoch == e
            if self._order is not None:
                index[chosen] = self._order.index(int(e), position[chosen])
                continue
            index[chosen] = permute_blocks(derive(self._seed, _EPOCH, int(e)), position[chosen], self.epoch_length)
        slot = np.searchsorted(self._window_ends, index, side="right")
        before = np.where(slot > 0, self._window_ends[slot - 1], 0)
        return slot, self.newest(slot) - (index - before) * self.stride


class Gather:
    """Reads the windows at given (slot, cutoff) pairs as one batch."""

    def __init__(
        self,
        pools: list[Pool],
        lengths: IntArray,
        *,
        context_length: int,
        prediction_length: int,
        reserved: int | Counts,
        with_times: bool,
    ) -> None:
        """lengths: (G,) of all series, in the order of the pools. reserved: steps at the end of every series, or (G,)
        of each, that no training window may contain."""
        self._pools = pools
        self._widths = context_length, prediction_length
        self._with_times = with_times
        self._offset = np.concatenate([[0], np.cumsum([len(pool.series) for pool in pools])])
        self._series = joined([pool.series for pool in pools])
        self._lengths, self._reserved = lengths, reserved
        self._keys = np.array([derive(int(pool.corpus.fingerprint[:16], 16)) for pool in pools], np.uint64)
        self._address = _addresses(pools)  # (blocks, G) of a series' first value; 0 = read row by row
        self._limit = [_chunk_limits(pool.corpus) for pool in pools]
        self._columns, self._blocks, self._roles, self._rows = _row_tables(pools)
        self._categorical = [pool.selection.categorical(pool.corpus) for pool in pools]
        self._names = [tuple(pool.corpus.columns[k] for k in pool.selection.columns) for pool in pools]
        self._scaling = Scaling([(pool.corpus, pool.selection.columns) for pool in pools])
        self._any_past = bool((self._roles == PAST).any())
        self._watch = Watch(file for pool in pools for file in pool.corpus.watch.files)
        spans = [span for pool in pools if len(pool.series) for span in _spans(pool.corpus)]
        self._mapped = (min(span[0] for span in spans), max(span[1] for span in spans)) if spans else (0, 0)
        self._views: dict[int, np.ndarray | None] = {}

    def _view(self, width: int) -> np.ndarray | None:
        """Return rows of `width` floats, one starting at each mapped float, or None if batches are read row by row."""
        if width not in self._views:
            low, high = self._mapped
            count = (high - low) // 4 - width + 1
            # a row is longer than all data, or numpy cannot represent the view's size
            impossible = count < 1 or count * width * 4 >= 2**62
            self._views[width] = None if impossible else np.asarray(_Memory(low, count, width))
        return self._views[width]

    def __call__(
        self, slot: IntArray, cutoff: IntArray, context_length: int | None = None, prediction_length: int | None = None
    ) -> Windows:
        """Return the windows as one batch: contexts left padded, futures that end early right padded.

        context_length and prediction_length default to those of the run; a batch of shorter windows may set them lower.
        """
        context, horizon = context_length or self._widths[0], prediction_length or self._widths[1]
        pool = np.searchsorted(self._offset, slot, side="right") - 1
        rows = self._rows[pool]
        window = np.repeat(np.arange(len(slot)), rows)
        within = np.arange(len(window)) - np.repeat(np.cumsum(rows) - rows, rows)
        kind = pool[window], within
        role = self._roles[kind]
        after = self._lengths[slot] - of_slots(self._reserved, slot)
        span = _Span(context, horizon, cutoff, np.maximum(cutoff + horizon - after, 0))
        values = self._values(slot, pool, window, self._columns[kind], self._blocks[kind], span)
        self._scaling.apply(values, kind, context, lambda r, c, b: self._values(slot, pool, window[r], c, b, span))
        for k, categorical in enumerate(self._categorical):
            if categorical:
                self._encode(values, np.flatnonzero(pool == k), np.cumsum(rows) - rows, k, span)
        if self._any_past:
            values[role == PAST, context:] = np.nan
        series = self._series[slot].astype(np.int64)
        times = self._times(pool, series, span) if self._with_times else None
        self._watch()
        return Windows(
            context=values[:, :context],
            future=values[:, context:],
            window=window,
            role=role,
            key=hash64(hash64(self._keys[pool], series), cutoff),
            context_times=None if times is None else times[:, :context],
            future_times=None if times is None else times[:, context:],
            source=np.stack([pool, series, cutoff], axis=1),
            names=tuple(self._names[k] for k in pool.tolist()),
        )

    def _values(
        self, slot: IntArray, pool: IntArray, window: IntArray, column: IntArray, block: IntArray, span: _Span
    ) -> FloatArray:
        """Return (R, C + H) values around each row's cutoff, NaN before a series' start and after its training part."""
        slot, pool, cutoff, excess = slot[window], pool[window], span.cutoff[window], span.excess[window]
        address = self._address[block, slot]
        begin = address + 4 * (column * self._lengths[slot] + cutoff - span.context)
        missing = span.context - cutoff  # steps to pad where positive
        left, right = np.flatnonzero(missing > 0), np.flatnonzero(excess > 0)
        direct = address > 0
        # reading a padded row also reads values of neighbouring series, overwritten below: they must be mapped
        if len(left):
            direct[left] &= begin[left] >= self._limits(slot[left], pool[left])[0]
        if len(right):
            direct[right] &= begin[right] + 4 * span.width <= self._limits(slot[right], pool[right])[1]
        view, low = self._view(span.width), self._mapped[0]
        if view is None:
            direct[:] = False
        if view is not None and direct.all():
            values = view[(begin - low) >> 2]
        else:
            values = np.empty((len(slot), span.width), np.float32)
            chosen = np.flatnonzero(direct)
            if view is not None and len(chosen):
                values[chosen] = view[(begin[chosen] - low) >> 2]
            for row in np.flatnonzero(~direct).tolist():
                place = int(slot[row]), int(pool[row]), int(cutoff[row]), int(excess[row])
                self._read_row(values[row], *place, int(column[row]), int(block[row]), span.context)
        for row, gap in zip(left.tolist(), missing[left].tolist(), strict=True):
            values[row, :gap] = np.nan
        _pad_right(values, right, excess[right])
        return values

    def _encode(self, values: FloatArray, windows: IntArray, first_row: IntArray, pool: int, span: _Span) -> None:
        """Encode the categorical rows of one pool's windows in place, from their contexts only."""
        single = len(self._pools[pool].selection.targets) == 1
        padded, excess = np.maximum(span.context - span.cutoff[windows], 0), span.excess[windows]
        target = values[first_row[windows], : span.context] if single else None
        for row, count in self._categorical[pool]:
            at = first_row[windows] + row
            values[at] = encode_codes(values[at], padded, count, target, span.context)
            _pad_right(values, at[excess > 0], excess[excess > 0])  # encode_codes gives missing steps a number too

    def _read_row(
        self, out: FloatArray, slot: int, pool: int, cutoff: int, excess: int, column: int, block: int, context: int
    ) -> None:
        chunk, row = self._pools[pool].corpus.locate(int(self._series[slot]))
        first, steps = max(0, cutoff - context), len(out) - excess
        stop = cutoff + steps - context
        out[context - (cutoff - first) : steps] = chunk.blocks[block].block(row, first, stop)[column]

    def _limits(self, slot: IntArray, pool: IntArray) -> tuple[IntArray, IntArray]:
        """Return the first and the end address of the mapped memory of the record batch that holds each slot."""
        found = np.empty((2, len(slot)), np.int64)
        for k, (firsts, limits) in enumerate(self._limit):
            chosen = pool == k
            found[:, chosen] = limits[:, np.searchsorted(firsts, self._series[slot[chosen]], side="right") - 1]
        return found[0], found[1]

    def _times(self, pool: IntArray, series: IntArray, span: _Span) -> IntArray:
        """Return (B, C + H) stamps, NO_TIME where padded."""
        times = np.full((len(series), span.width), NO_TIME, np.int64)
        places = zip(pool.tolist(), series.tolist(), span.cutoff.tolist(), span.excess.tolist(), strict=True)
        for row, (k, i, c, beyond) in enumerate(places):
            first, steps = max(0, c - span.context), span.width - beyond
            own = self._pools[k].corpus.times_slice(i, first, c + steps - span.context)
            times[row, span.context - (c - first) : steps] = own
        return times


@dataclass(frozen=True)
class _Span:
    """Positions of a batch's windows in their series."""

    context: int  # C
    horizon: int  # H
    cutoff: IntArray  # (B,)
    excess: IntArray  # (B,) steps of the horizon after the end of the series' training part

    @property
    def width(self) -> int:
        return self.context + self.horizon


def _pad_right(values: FloatArray, rows: IntArray, excess: IntArray) -> None:
    for row, gap in zip(rows.tolist(), excess.tolist(), strict=True):
        values[row, -gap:] = np.nan


class _Memory:
    """Overlapping rows of `width` floats, one starting at each of `count` floats, as a numpy array interface."""

    def __init__(self, address: int, count: int, width: int) -> None:
        self.__array_interface__ = {
            "data": (address, True),
            "shape": (count, width),
            "strides": (4, 4),
            "typestr": "<f4",
            "version": 3,
        }


def _address_of(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def _leaves(corpus: Corpus) -> list[list[FloatArray | None]]:
    """Return for each chunk and block the float32 leaves, or None if they cannot be read by address."""
    return [
        [n.floats if n.floats is not None and _address_of(n.floats) % 4 == 0 else None for n in chunk.blocks]
        for chunk in corpus.chunks
    ]


def _spans(corpus: Corpus) -> list[tuple[int, int]]:
    return [
        (_address_of(leaves), _address_of(leaves) + leaves.nbytes)
        for blocks in _leaves(corpus)
        for leaves in blocks
        if leaves is not None and len(leaves)
    ]


def _chunk_limits(corpus: Corpus) -> tuple[IntArray, IntArray]:
    """Return the first series of each chunk and (2, chunks) start and end of the addresses readable in all blocks."""
    limits = [
        (
            max((_address_of(b) for b in blocks if b is not None), default=0),
            min((_address_of(b) + b.nbytes for b in blocks if b is not None), default=0),
        )
        for blocks in _leaves(corpus)
    ]
    return np.array(corpus.chunk_starts()[:-1], np.int64), np.array(limits, np.int64).reshape(-1, 2).T


def _addresses(pools: list[Pool]) -> IntArray:
    blocks = max(len(chunk.blocks) for pool in pools for chunk in pool.corpus.chunks)
    found = np.zeros((blocks, sum(len(pool.series) for pool in pools)), np.int64)
    before = 0
    for pool in pools:
        starts = pool.corpus.chunk_starts()
        edges = np.searchsorted(pool.series, starts)  # the series are ascending
        for k, (chunk, leaves) in enumerate(zip(pool.corpus.chunks, _leaves(pool.corpus), strict=True)):
            rows = pool.series[edges[k] : edges[k + 1]] - starts[k]
            for b, (nested, floats) in enumerate(zip(chunk.blocks, leaves, strict=True)):
                if floats is not None:
                    here = found[b, before + edges[k] : before + edges[k + 1]]
                    np.multiply(nested.start[rows], 4, out=here, dtype=np.int64)
                    here += _address_of(floats)
        before += len(pool.series)
    return found


def _row_tables(pools: list[Pool]) -> tuple[IntArray, IntArray, np.ndarray, IntArray]:
    """Return for each pool and row of a window: column inside its block, block, role; and the rows of each pool."""
    rows = np.array([len(pool.selection.columns) for pool in pools], np.int64)
    column = np.zeros((len(pools), int(rows.max())), np.int64)
    block = np.zeros_like(column)
    role = np.zeros(column.shape, np.int8)
    for k, pool in enumerate(pools):
        chosen = np.array(pool.selection.columns, np.int64)
        in_first = pool.corpus.chunks[0].variates[0]
        block[k, : rows[k]] = chosen >= in_first
        column[k, : rows[k]] = np.where(chosen >= in_first, chosen - in_first, chosen)
        targets, past = len(pool.selection.targets), len(pool.selection.past)
        role[k, : rows[k]] = [TARGET] * targets + [PAST] * past + [KNOWN] * (len(chosen) - targets - past)
    return column, block, role, rows
