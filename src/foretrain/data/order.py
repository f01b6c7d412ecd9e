"""The order of an epoch that reads shards one after the other: a pure function of (pieces, buffer, seed, epoch).

The pieces of all shards are permuted anew each epoch. Neighbours in that order, as many as a buffer holds, are a group.
The windows of a group are shuffled with one another, and groups follow one another.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from foretrain.data.permutation import derive, hash64, permute
from foretrain.data.windows import IntArray

_PIECES, _INSIDE = 9, 10  # streams of random numbers; sampling.py, source.py and buckets.py use 1 to 8
_KEPT = 4  # epochs of which the groups are remembered


class ShardPiece(NamedTuple):
    """Neighbouring bytes of a shard, and the windows that can be cut once they are read."""

    bytes: int
    first: int  # number of its first window among all windows in stored order
    windows: int


class Groups(NamedTuple):
    """The groups of one epoch; G groups, P pieces."""

    pieces: IntArray  # (P,) numbers of pieces, in the order of the epoch
    piece_ends: IntArray  # (P,) windows up to the end of each, in that order
    ends: IntArray  # (G,) pieces up to the end of each group
    window_ends: IntArray  # (G,) windows up to the end of each group


class ShardOrder:
    """Maps positions in an epoch to windows in stored order, and to the groups that must be in memory."""

    def __init__(self, pieces: Sequence[ShardPiece], *, seed: int, buffer_bytes: int) -> None:
        """Every piece has a window, and is no larger than the buffer."""
        assert all(piece.windows > 0 and piece.bytes <= buffer_bytes for piece in pieces)
        self._seed, self._buffer = seed, buffer_bytes
        self._bytes = np.array([piece.bytes for piece in pieces], np.int64)
        self._first = np.array([piece.first for piece in pieces], np.int64)
        self._windows = np.array([piece.windows for piece in pieces], np.int64)
        self.groups = functools.lru_cache(maxsize=_KEPT)(self._groups)

    @property
    def epoch_bytes(self) -> int:
        """Bytes that an epoch reads."""
        return int(self._bytes.sum())

    def _groups(self, epoch: int) -> Groups:
        """Return the groups of an epoch."""
        count = len(self._bytes)
        pieces = permute(derive(self._seed, _PIECES, epoch), np.arange(count), count)
        ends, room = list[int](), self._buffer
        for place, size in enumerate(self._bytes[pieces].tolist()):
            if size > room:
                ends.append(place)
                room = self._buffer
            room -= size
        ends.append(count)
        piece_ends = np.cumsum(self._windows[pieces])
        return Groups(pieces, piece_ends, np.array(ends), piece_ends[np.array(ends) - 1])

    def group_of(self, epoch: int, position: int) -> tuple[int, int]:
        """Return the group of a position in an epoch, and the position at which the next one begins."""
        ends = self.groups(epoch).window_ends
        group = int(np.searchsorted(ends, position, side="right"))
        return group, int(ends[group])

    def pieces_of(self, epoch: int, group: int) -> list[int]:
        """Return the numbers of the pieces of a group, in stored order."""
        found = self.groups(epoch)
        begin = int(found.ends[group - 1]) if group else 0
        return sorted(found.pieces[begin : int(found.ends[group])].tolist())

    def index(self, epoch: int, position: IntArray) -> IntArray:
        """Return the windows, by their number in stored order, at positions in an epoch."""
        found = self.groups(epoch)
        group = np.searchsorted(found.window_ends, position, side="right")
        begin = np.where(group > 0, found.window_ends[group - 1], 0)
        size = found.window_ends[group] - begin
        keys = hash64(derive(self._seed, _INSIDE, epoch), group)
        shuffled = begin + permute(keys, position - begin, size)
        place = np.searchsorted(found.piece_ends, shuffled, side="right")
        before = np.where(place > 0, found.piece_ends[place - 1], 0)
        return self._first[found.pieces[place]] + shuffled - before
