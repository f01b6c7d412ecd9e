"""Stored series in a stream of generated ones: which series a micro-batch uses follows from its number alone.

A micro-batch m has ranks m * R to m * R + R - 1 in the order of a corpus' series, as many as it can use. The order goes
through a keyed permutation of all series, then through another one; so no series is used more often than orders were
begun, which a cap limits.
"""

from __future__ import annotations

import math

import numpy as np

from foretrain.data.asof import as_of
from foretrain.data.items import Mask
from foretrain.data.permutation import derive, permute
from foretrain.data.splits import held_out, select
from foretrain.data.store import Corpus
from foretrain.data.synthetic.contamination import Benchmark
from foretrain.data.synthetic.stream import MIN_CONTEXT, StoredSeries
from foretrain.data.windows import FloatArray, IntArray
from foretrain.errors import DataError

_ATTEMPTS = 8  # cutoffs that are tried for a window with values on both sides and without a run of the benchmark


class StoredPool:
    """The series of one corpus: the numeric columns of its items that are long enough and not held out."""

    def __init__(
        self,
        spec: StoredSeries,
        corpus: Corpus,
        benchmark: Benchmark,
        *,
        key: int,
        share: float,
        most_windows: int,
        reserved: int | IntArray,
        holdout_fraction: float,
        used: Mask | None,
        horizon: int,
    ) -> None:
        """share: of the windows of a micro-batch; reserved: newest steps of every item, or (N,) of each, that are not
        used; used: (N,) items that the run uses, None = all; horizon: the shortest of the run. Raises DataError if no
        item is long enough."""
        self.spec, self.corpus, self.share = spec, corpus, share
        self._benchmark, self._key = benchmark, key
        self._columns = select(corpus).targets
        lengths = self._lengths = corpus.lengths - reserved  # (N,) steps of each item that may be used
        may = ~held_out(corpus, holdout_fraction) if used is None else used & ~held_out(corpus, holdout_fraction)
        self._items = np.flatnonzero((lengths >= MIN_CONTEXT + horizon) & may)
        self._ranks = math.ceil(share * most_windows)  # of a micro-batch
        if not len(self._items):
            needed, parts = MIN_CONTEXT + horizon, ", all before the first cut by date"
            if isinstance(reserved, int):
                needed, parts = needed + reserved, f", and {reserved} for validation and test"
            raise DataError(
                f"{corpus.name}: no item that may be trained on has {needed} steps "
                f"({MIN_CONTEXT} before a cutoff, the shortest horizon {horizon}{parts}). Leave it out of "
                "data.generated.corpora, or shorten the horizons."
            )

    @property
    def num_series(self) -> int:
        """Number of series: items times columns."""
        return len(self._items) * len(self._columns)

    def count(self, rng: np.random.Generator, windows: int) -> int:
        """Return how many of a micro-batch's windows are of this corpus: the share of them, rounded at random."""
        return min(int(windows * self.share + rng.random()), self._ranks)

    def draw(
        self, rng: np.random.Generator, number: int, strides: IntArray, context: int, horizon: int
    ) -> list[FloatArray]:
        """Return windows (context + horizon,) of micro-batch `number`, one a stride, NaN where a series does not reach.

        Fewer are returned if the cap is reached, or if series have runs of the benchmark, or no values before or after
        the cutoff, wherever they were cut.
        """
        found = list[FloatArray]()
        for rank, stride in enumerate(strides.tolist(), start=number * self._ranks):
            order, place = divmod(rank, self.num_series)
            if self.spec.cap is not None and order >= self.spec.cap:
                break
            slot = int(permute(derive(self._key, order), np.array([place]), self.num_series)[0])
            item, column = divmod(slot, len(self._columns))
            item = int(self._items[item])
            values = self.corpus.values(item)[:, : self._lengths[item]]
            values = as_of(self.corpus, values, values.shape[1])[self._columns[column]]
            window = self._cut(rng, values, context, horizon, stride)
            if window is not None:
                found.append(window)
        return found

    def _cut(
        self, rng: np.random.Generator, values: np.ndarray, context: int, horizon: int, stride: int
    ) -> FloatArray | None:
        """Return a window of a series (T,), with the stride as far as it is long enough; None if no cutoff will do."""
        stride = max(1, min(stride, len(values) // (MIN_CONTEXT + horizon)))
        newest = max(len(values) - horizon * stride, MIN_CONTEXT * stride)
        for _ in range(_ATTEMPTS):
            cutoff = int(rng.integers(MIN_CONTEXT * stride, newest, endpoint=True))
            first, stop = max(0, cutoff - context * stride), min(cutoff + horizon * stride, len(values))
            if self._benchmark.is_in(values[first:stop]):
                continue
            before, after = values[first:cutoff][::-1][::stride][::-1], values[cutoff + stride - 1 : stop : stride]
            if np.isnan(before).all() or np.isnan(after).all():
                continue
            window = np.full(context + horizon, np.nan, np.float32)
            window[context - len(before) : context] = before
            window[context : context + len(after)] = after
            return window
        return None
