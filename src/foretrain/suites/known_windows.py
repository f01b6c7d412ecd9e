"""Find windows of some series in a corpus by their values, whatever the scale and offset that they have there.

A window has LENGTH steps. It is normalised by its own mean and standard deviation and rounded to GRID; the hash of
HASHED of its steps is looked up at every position (stride 1) of every series of the corpus. Equal hashes are candidates
alone: a window is found if all its normalised steps agree within TOLERANCE. So what is found is there, up to a scale
and an offset; a change of sign, a resampling, noise or a filled hole hides a window.

Only telling windows count: all steps observed, no constant, and FEWEST different values and second differences, since
every ramp equals every other one, and so do all single pulses.

Several readers may know a series up to different steps, such as models that were trained on parts of one corpus.

# N windows, L = LENGTH steps, R readers
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from foretrain.evaluation.scored import Array

LENGTH = 32
HASHED = 8
GRID = 0.1  # of a standard deviation
TOLERANCE = 0.01  # of a standard deviation
FEWEST = 8
_SMALLEST = 2e-5  # standard deviation relative to the largest value; below, float32 leaves no digits of the shape
_CHUNK = 1 << 15  # positions at once: 8 MB of float64
_PAIRS = 1 << 16  # candidates compared at once

Keys = npt.NDArray[np.uint64]
_FACTORS = np.random.default_rng(20240229).integers(1, 1 << 62, HASHED).astype(np.uint64) | np.uint64(1)
_STEPS = np.arange(0, LENGTH, LENGTH // HASHED)


class KnownWindows:
    """Windows to look for, and which of them were found. Takes 140 bytes a window."""

    def __init__(self, windows: Array, readers: int = 1) -> None:
        """Keep the telling ones of windows (N, L)."""
        mean, spread, usable = _moments(windows)
        shape = np.where(usable[:, None], (windows - mean[:, None]) / np.where(usable, spread, 1.0)[:, None], 0.0)
        self.telling = usable & _tells(shape)  # (N,)
        rows = np.flatnonzero(self.telling)
        keys = _keys(shape[rows][:, _STEPS])
        order = np.argsort(keys, kind="stable")
        self._rows, self._keys = rows[order], keys[order]
        self._shapes = shape[self._rows].astype(np.float32)
        self.found_by = np.zeros((readers, len(windows)), bool)

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """Which windows any reader knows (N,)."""
        return np.logical_or.reduce(self.found_by, axis=0)

    def look_into(self, values: npt.NDArray[Any], limits: Sequence[int] | None = None) -> None:
        """Mark the windows that a series (T,) holds.

        limits: the oldest steps that each reader knows (R,); None = all of them.
        """
        known = [len(values)] * len(self.found_by) if limits is None else limits
        values = values[: max(*known, 0)]
        if len(values) < LENGTH or not len(self._keys):
            return
        every = sliding_window_view(values, LENGTH)
        for start in range(0, len(every), _CHUNK):
            windows = np.ascontiguousarray(every[start : start + _CHUNK], np.float64)
            mean, spread, usable = _moments(windows)
            ends = np.flatnonzero(usable) + (start + LENGTH)
            windows, mean, spread = windows[usable], mean[usable], spread[usable]
            keys = _keys((windows[:, _STEPS] - mean[:, None]) / spread[:, None])
            first = np.searchsorted(self._keys, keys)
            count = np.searchsorted(self._keys, keys, side="right") - first
            for hits in _blocks(np.flatnonzero(count), count):
                times = count[hits]
                position = np.repeat(hits, times)
                within = np.arange(len(position)) - np.repeat(np.cumsum(times) - times, times)
                entry = first[position] + within
                shapes = (windows[position] - mean[position, None]) / spread[position, None]
                same = (np.abs(shapes - self._shapes[entry]) <= TOLERANCE).all(1)
                for reader, limit in enumerate(known):
                    self.found_by[reader, self._rows[entry[same & (ends[position] <= limit)]]] = True


def _moments(windows: Array) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """Return mean, standard deviation and whether the window is observed and no constant, each (N,)."""
    if not len(windows):
        return np.empty(0), np.empty(0), np.empty(0, bool)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = windows.mean(1)
        spread = windows.std(1)
        usable = np.isfinite(spread) & (spread > _SMALLEST * np.abs(windows).max(1))
    return mean, spread, usable


def _keys(shape: Array) -> Keys:
    """Return the hash (N,) of rounded steps (N, HASHED)."""
    steps = np.rint(shape / GRID).astype(np.int64).astype(np.uint64)
    return (steps * _FACTORS).sum(1, dtype=np.uint64)


def _tells(shape: Array) -> npt.NDArray[np.bool_]:
    """Return whether normalised windows (N, L) have enough different values and second differences."""
    if not len(shape):
        return np.empty(0, bool)
    return (_distinct(shape) >= FEWEST) & (_distinct(np.diff(shape, 2, axis=1)) >= FEWEST)


def _distinct(values: Array) -> npt.NDArray[np.int64]:
    """Return how many values of each row differ by more than TOLERANCE from the next smaller one."""
    return 1 + (np.diff(np.sort(values, axis=1), axis=1) > TOLERANCE).sum(1)


def _blocks(hits: npt.NDArray[np.int64], count: npt.NDArray[np.int64]) -> Iterable[npt.NDArray[np.int64]]:
    """Yield positions with candidates, about _PAIRS candidates at once."""
    if len(hits):
        yield from np.split(hits, np.flatnonzero(np.diff(np.cumsum(count[hits]) // _PAIRS)) + 1)
