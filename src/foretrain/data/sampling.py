"""Where training windows are cut, and how a batch of them is gathered: both vectorised, neither with any state.

# B windows, R rows, V variates, C context steps, H horizon steps, G training series of all corpora ("slots")

The gather reads straight from the memory map. All float32 leaves of all corpora are seen as one array of overlapping
rows of C + H floats, one starting at each float between the lowest and the highest mapped value, and one numpy
index operation copies the rows that a batch needs. An index is only ever formed from Arrow offsets that were checked
against their buffer, so the unmapped gaps between files are never touched. What cannot be read so (other number types,
nulls, the first steps of a record batch) is copied row by row.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from foretrain.data.encoding import encode_codes
from foretrain.data.permutation import below, derive, hash64, permute_blocks, uniform
from foretrain.data.splits import Selection
from foretrain.data.store import Corpus
from foretrain.data.windows import KNOWN, NO_TIME, PAST, TARGET, FloatArray, IntArray, Windows

SEGMENT = 1024  # windows drawn at once: the fixed cost of small numpy calls is shared by several batches
_PICK_CORPUS, _PICK_SERIES, _PICK_CUTOFF, _EPOCH = 1, 2, 3, 4  # streams of random numbers


@dataclass(frozen=True)
class Pool:
    """The training series of one corpus."""

    corpus: Corpus
    selection: Selection
    series: IntArray  # (n,) indices into the corpus, ascending
    weight: float


class Plan:
    """Window number -> (slot, cutoff). Slots count the pools' series one after the other."""

    def __init__(
        self,
        lengths: list[IntArray],
        weights: list[float],
        *,
        seed: int,
        reserved: int,
        min_context: int,
        prediction_length: int,
        stride: int,
        epoch: bool,
        by_length: bool,
    ) -> None:
        """lengths holds each pool's series lengths, all of at least min_context + prediction_length + reserved."""
        self._seed = seed
        self._epoch = epoch
        self._by_length = by_length
        self._min_context = min_context
        self._stride = stride
        sizes = np.array([len(pool) for pool in lengths], np.int64)
        self._offset = np.concatenate([[0], np.cumsum(sizes)])
        self._share = np.cumsum(weights) / np.sum(weights)
        self._newest = np.concatenate(lengths) - (reserved + prediction_length)  # (G,) latest cutoff
        choices = self._newest - min_context + 1
        strided = (choices - 1) // stride + 1
        self.epoch_length = int(strided.sum())
        # only what this mode looks up is kept: these are 8 bytes a series
        self._strided = np.cumsum(strided) if epoch else None
        self._choices = np.cumsum(choices) if by_length and not epoch else None
        self._segment = functools.lru_cache(maxsize=8)(self._compute)

    def draw(self, first: int, count: int) -> tuple[IntArray, IntArray]:
        """(slot, cutoff), each (count,), of windows first .. first + count - 1."""
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
        if len(self._share) > 1:
            drawn = np.searchsorted(self._share, uniform(derive(seed, _PICK_CORPUS), number), side="right")
            pool = np.minimum(drawn, len(self._share) - 1)
        begin, end = self._offset[pool], self._offset[pool + 1]
        key = derive(seed, _PICK_SERIES)
        if self._choices is None:
            slot = begin + below(key, number, end - begin)
        else:
            before = np.where(begin > 0, self._choices[begin - 1], 0)
            slot = np.searchsorted(self._choices, before + below(key, number, self._choices[end - 1] - before), "right")
        newest = self._newest[slot]
        cutoff = self._min_context + below(derive(seed, _PICK_CUTOFF), number, newest - self._min_context + 1)
        return slot, cutoff

    def _in_epoch(self, number: IntArray) -> tuple[IntArray, IntArray]:
        assert self._strided is not None
        epoch, position = np.divmod(number, self.epoch_length)
        index = np.empty_like(position)
        for e in np.unique(epoch):
            chosen = epoch == e
            index[chosen] = permute_blocks(derive(self._seed, _EPOCH, int(e)), position[chosen], self.epoch_length)
        slot = np.searchsorted(self._strided, index, side="right")
        before = np.where(slot > 0, self._strided[slot - 1], 0)
        return slot, self._newest[slot] - (index - before) * self._stride


class Gather:
    """(slot, cutoff) -> Windows."""

    def __init__(self, pools: list[Pool], *, context_length: int, prediction_length: int, with_times: bool) -> None:
        self._pools = pools
        self._context = context_length
        self._width = context_length + prediction_length
        self._with_times = with_times
        self._offset = np.concatenate([[0], np.cumsum([len(pool.series) for pool in pools])])
        self._series = np.concatenate([pool.series for pool in pools])
        self._lengths = np.concatenate([pool.corpus.lengths[pool.series] for pool in pools])
        self._keys = np.array([derive(int(pool.corpus.fingerprint[:16], 16)) for pool in pools], np.uint64)
        self._address = _addresses(pools)  # (blocks, G) of a series' first value; 0 = to be read row by row
        self._floor = [_chunk_floors(pool.corpus) for pool in pools]
        self._columns, self._blocks, self._roles, self._rows = _row_tables(pools)
        self._categorical = [pool.selection.categorical(pool.corpus) for pool in pools]
        self._names = [tuple(pool.corpus.columns[k] for k in pool.selection.columns) for pool in pools]
        self._any_past = bool((self._roles == PAST).any())
        self._base, self._view = self._overlapping_rows()

    def _overlapping_rows(self) -> tuple[int, np.ndarray | None]:
        spans = [span for pool in self._pools for span in _spans(pool.corpus)]
        if not spans:
            return 0, None
        low, high = min(span[0] for span in spans), max(span[1] for span in spans)
        count = (high - low) // 4 - self._width + 1
        if count < 1 or count * self._width * 4 >= 2**62:
            return 0, None  # one row is longer than all data, or numpy cannot count that many: row by row
        return low, np.asarray(_Memory(low, count, self._width))

    def __call__(self, slot: IntArray, cutoff: IntArray) -> Windows:
        """The windows as one left-padded batch."""
        pool = np.searchsorted(self._offset, slot, side="right") - 1
        rows = self._rows[pool]
        window = np.repeat(np.arange(len(slot)), rows)
        within = np.arange(len(window)) - np.repeat(np.cumsum(rows) - rows, rows)
        kind = pool[window], within
        role = self._roles[kind]
        values = self._values(slot[window], pool[window], cutoff[window], self._columns[kind], self._blocks[kind])
        for k, categorical in enumerate(self._categorical):
            if categorical:
                self._encode(values, np.flatnonzero(pool == k), cutoff, np.cumsum(rows) - rows, k)
        if self._any_past:
            values[role == PAST, self._context :] = np.nan
        series = self._series[slot]
        times = self._times(pool, series, cutoff) if self._with_times else None
        return Windows(
            context=values[:, : self._context],
            future=values[:, self._context :],
            window=window,
            role=role,
            key=hash64(hash64(self._keys[pool], series), cutoff),
            context_times=None if times is None else times[:, : self._context],
            future_times=None if times is None else times[:, self._context :],
            source=np.stack([pool, series, cutoff], axis=1),
            names=tuple(self._names[k] for k in pool.tolist()),
        )

    def _values(
        self, slot: IntArray, pool: IntArray, cutoff: IntArray, column: IntArray, block: IntArray
    ) -> FloatArray:
        """(R, C + H) values around each row's cutoff, NaN before the series' start."""
        length = self._lengths[slot]
        address = self._address[block, slot]
        begin = address + 4 * (column * length + cutoff - self._context)
        missing = self._context - cutoff  # steps to pad where positive
        padded = np.flatnonzero(missing > 0)
        direct = address > 0
        if len(padded):
            # a padded row is read from the neighbour before it and then overwritten; is that neighbour mapped?
            direct[padded] &= begin[padded] >= self._floors(slot[padded], pool[padded])
        if self._view is None:
            direct[:] = False
        if direct.all():
            assert self._view is not None
            values = self._view[(begin - self._base) >> 2]
        else:
            values = np.empty((len(slot), self._width), np.float32)
            chosen = np.flatnonzero(direct)
            if len(chosen):
                assert self._view is not None
                values[chosen] = self._view[(begin[chosen] - self._base) >> 2]
            for row in np.flatnonzero(~direct).tolist():
                self._read_row(
                    values[row], int(slot[row]), int(pool[row]), int(cutoff[row]), int(column[row]), int(block[row])
                )
        for row, gap in zip(padded.tolist(), missing[padded].tolist(), strict=True):
            values[row, :gap] = np.nan
        return values

    def _encode(self, values: FloatArray, windows: IntArray, cutoff: IntArray, first_row: IntArray, pool: int) -> None:
        """Turn the categorical rows of one pool's windows into numbers, from the context alone."""
        single = len(self._pools[pool].selection.targets) == 1
        padded = np.maximum(self._context - cutoff[windows], 0)
        target = values[first_row[windows], : self._context] if single else None
        for row, count in self._categorical[pool]:
            at = first_row[windows] + row
            values[at] = encode_codes(values[at], padded, count, target, self._context)

    def _read_row(self, out: FloatArray, slot: int, pool: int, cutoff: int, column: int, block: int) -> None:
        chunk, row = self._pools[pool].corpus.locate(int(self._series[slot]))
        first = max(0, cutoff - self._context)
        stop = cutoff + self._width - self._context
        out[self._context - (cutoff - first) :] = chunk.blocks[block].block(row, first, stop)[column]

    def _floors(self, slot: IntArray, pool: IntArray) -> IntArray:
        """Lowest mapped address of the record batch that holds each slot."""
        out = np.empty(len(slot), np.int64)
        for k, (firsts, floors) in enumerate(self._floor):
            chosen = pool == k
            out[chosen] = floors[np.searchsorted(firsts, self._series[slot[chosen]], side="right") - 1]
        return out

    def _times(self, pool: IntArray, series: IntArray, cutoff: IntArray) -> IntArray:
        """(B, C + H) stamps, NO_TIME where padded."""
        times = np.full((len(series), self._width), NO_TIME, np.int64)
        for row, (k, i, c) in enumerate(zip(pool.tolist(), series.tolist(), cutoff.tolist(), strict=True)):
            first = max(0, c - self._context)
            own = self._pools[k].corpus.times_slice(i, first, c + self._width - self._context)
            times[row, self._context - (c - first) :] = own
        return times


class _Memory:
    """Rows of `width` floats starting at each of `count` consecutive floats, as numpy's array interface."""

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
    """Per chunk and block the float32 leaves that can be read by address."""
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


def _chunk_floors(corpus: Corpus) -> tuple[IntArray, IntArray]:
    """(first series, lowest readable address) of each chunk; with several blocks the highest of their starts rules."""
    floors = [max((_address_of(b) for b in blocks if b is not None), default=0) for blocks in _leaves(corpus)]
    return np.array(corpus.chunk_starts()[:-1], np.int64), np.array(floors, np.int64)


def _addresses(pools: list[Pool]) -> IntArray:
    blocks = max(len(chunk.blocks) for pool in pools for chunk in pool.corpus.chunks)
    parts = []
    for pool in pools:
        whole = np.zeros((blocks, pool.corpus.num_series), np.int64)
        first = 0
        for chunk, leaves in zip(pool.corpus.chunks, _leaves(pool.corpus), strict=True):
            for b, (nested, floats) in enumerate(zip(chunk.blocks, leaves, strict=True)):
                if floats is not None:
                    whole[b, first : first + len(chunk)] = _address_of(floats) + 4 * nested.start
            first += len(chunk)
        parts.append(whole[:, pool.series])
    return np.concatenate(parts, axis=1)


def _row_tables(pools: list[Pool]) -> tuple[IntArray, IntArray, np.ndarray, IntArray]:
    """Per pool and row of a window: column inside its block, block, role; and the number of rows."""
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
