"""Windows of prices as of their cutoff: the one place where the factors of a corpus meet its values.

A corpus with dividends and splits stores prices as traded, and two columns of cumulative factors beside them
(market/adjustment.py). Every reader of windows scales prices and volumes to the last bar before the cutoff.

# V columns of a corpus, T steps of a series, R rows of a batch, C + H steps of a window
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from foretrain.data.market.adjustment import adjusted
from foretrain.data.store import Corpus
from foretrain.data.windows import FloatArray, IntArray

Read = Callable[[IntArray, IntArray, IntArray], FloatArray]


def as_of(corpus: Corpus, values: FloatArray, cutoff: int) -> FloatArray:
    """Return the values (V, T) of a series with prices and volumes as of the bar before the cutoff.

    They are returned as they are if the corpus has no factors. Earlier bars depend on no event at or after the cutoff.
    """
    if corpus.manifest.adjustment is None:
        return values
    result = np.array(values)
    for column, factor, inverse in _scaled(corpus):
        ratio = adjusted(np.ones(1, np.float32), values[factor], cutoff - 1)
        result[column] *= 1 / ratio if inverse else ratio
    return result


def _scaled(corpus: Corpus) -> list[tuple[int, int, bool]]:
    """Return (column, column of its factor, True if it is divided by it) of every price and volume to scale."""
    found, names = corpus.manifest.adjustment, list(corpus.columns)
    if found is None:
        return []
    prices = [(names.index(name), names.index(found.price), False) for name in found.prices]
    return prices + [(names.index(name), names.index(found.volume), True) for name in found.volumes]


class Scaling:
    """The factors of the rows of batches that are gathered from several corpora."""

    def __init__(self, pools: Sequence[tuple[Corpus, Sequence[int]]]) -> None:
        """pools: each corpus with the columns of a window's rows."""
        widest = max(len(columns) for _, columns in pools)
        self._column = np.full((len(pools), widest), -1, np.int64)  # of the factor, inside its block
        self._block = np.zeros_like(self._column)
        self._inverse = np.zeros(self._column.shape, bool)
        for k, (corpus, columns) in enumerate(pools):
            in_first = corpus.chunks[0].variates[0] if corpus.chunks else 0
            known = {column: (factor, inverse) for column, factor, inverse in _scaled(corpus)}
            for row, column in enumerate(columns):
                if column in known:
                    factor, inverse = known[column]
                    self._block[k, row] = factor >= in_first
                    self._column[k, row] = factor - in_first if factor >= in_first else factor
                    self._inverse[k, row] = inverse
        self._any = bool((self._column >= 0).any())

    def apply(self, values: FloatArray, kind: tuple[Any, Any], context: int, read: Read) -> None:
        """Scale values (R, C + H) in place; kind: pool and row of each (R,).

        read(rows, column, block) returns the factors of some rows (n, C + H).
        """
        if not self._any:
            return
        column = self._column[kind]
        rows = np.flatnonzero(column >= 0)
        if not len(rows):
            return
        factor = read(rows, column[rows], self._block[kind][rows])
        ratio = factor / factor[:, context - 1 : context]
        inverse = self._inverse[kind][rows]
        ratio[inverse] = 1 / ratio[inverse]
        values[rows] *= ratio
