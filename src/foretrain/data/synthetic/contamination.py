"""Keeps the series of a benchmark out of training: hashes of all runs of W values, whatever their level and scale.

# T steps, W values of a run

A run is known by its W - 1 differences, divided by the mean of their absolute values and rounded to quarters; its sign
is taken away, so that a copy that was shifted, scaled or turned over is found. A run with few different differences
(constant values, straight lines, single events) says too little, as others have it by chance, and counts as unknown; so
does one with missing values. A copy at another sampling rate, or with noise, is not found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from foretrain.atomic import replacing_file
from foretrain.data.permutation import U64, hash64
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError

RUN = 32  # values
_LEVELS = 4.0  # of a rounded difference, for one mean absolute difference
_FEWEST = 8  # different rounded differences of a run that says enough
_ROWS = 1 << 16  # runs that are hashed together


def run_hashes(values: np.ndarray, run: int = RUN) -> U64:
    """Return the hash of each run (T - run + 1,) of a series (T,); 0 = unknown."""
    if len(values) < run:
        return np.zeros(0, np.uint64)
    found = np.empty(len(values) - run + 1, np.uint64)
    differences = np.lib.stride_tricks.sliding_window_view(np.diff(values.astype(np.float64)), run - 1)
    for first in range(0, len(found), _ROWS):
        found[first : first + _ROWS] = _hashes(differences[first : first + _ROWS])
    return found


def _hashes(differences: np.ndarray) -> U64:
    """Return the hashes (N,) of differences (N, W - 1)."""
    size = np.abs(differences).mean(axis=1, keepdims=True)
    known = np.isfinite(size) & (size > 0)
    rounded = np.rint(np.where(known, differences, 0.0) / np.where(known, size, 1.0) * _LEVELS).astype(np.int64)
    first = np.take_along_axis(rounded, (rounded != 0).argmax(axis=1)[:, None], axis=1)
    rounded *= np.where(first < 0, -1, 1)
    ordered = np.sort(rounded, axis=1)
    enough = (np.diff(ordered, axis=1) != 0).sum(axis=1) + 1 >= _FEWEST
    key = np.zeros(len(rounded), np.uint64)
    for column in rounded.T:
        key = hash64(key, column)
    return np.where(enough & known[:, 0], np.maximum(key, np.uint64(1)), np.uint64(0))


class Benchmark:
    """The runs of series that are kept out."""

    def __init__(self, hashes: U64) -> None:
        self.hashes = hashes  # ascending, each once

    @classmethod
    def read(cls, paths: Sequence[str]) -> Benchmark:
        """Return the runs of corpora and of files that write_hashes wrote. Raises ConfigError, DataError."""
        found = [_read(Path(path)) for path in paths]
        return cls(np.unique(np.concatenate(found)) if found else np.empty(0, np.uint64))

    def is_in(self, values: np.ndarray) -> bool:
        """Return whether a series (T,) has a run of the benchmark."""
        hashes = run_hashes(values)
        hashes = hashes[hashes > 0]
        if not len(hashes) or not len(self.hashes):
            return False
        place = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return bool((self.hashes[place] == hashes).any())


def write_hashes(corpora: Sequence[str | Path], out: str | Path) -> int:
    """Write the hashes of corpora into a file (.npy), which takes their place where they must not lie; return how
    many there are."""
    hashes = Benchmark.read([str(path) for path in corpora]).hashes
    with replacing_file(Path(out)) as scratch, scratch.open("wb") as file:
        np.save(file, hashes)
    return len(hashes)


def _read(path: Path) -> U64:
    if not path.is_file():
        return np.unique(np.concatenate([np.empty(0, np.uint64), *_of_corpus(Corpus.open(path))]))
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"data.generated.exclude: {path} is neither a corpus nor a file of hashes ({error}). Name the folder of a "
            "corpus, or a file of write_hashes."
        ) from None
    if found.dtype != np.uint64 or found.ndim != 1:
        raise ConfigError(f"data.generated.exclude: {path} holds no hashes of runs. Write it with write_hashes.")
    return np.unique(found)


def _of_corpus(corpus: Corpus) -> Iterator[U64]:
    for series in range(corpus.num_series):
        for row in corpus.values(series):
            hashes = run_hashes(row)
            yield np.unique(hashes[hashes > 0])
    corpus.check_unchanged()
