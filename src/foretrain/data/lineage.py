"""What a corpus held before its updates, so that a release trained on it then is judged by what it saw then.

# N series, T steps

Updates append rows to items and add items. The manifest keeps, of each earlier content, the fingerprint, the newest
stamp, and the items for which that stamp does not say how many of today's rows there were.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from foretrain.data.manifest import Earlier
from foretrain.data.parts import rows_before
from foretrain.data.store import Corpus
from foretrain.data.windows import IntArray

MOST_LENGTHS = 2_000  # items named in a manifest, over all earlier contents; beyond it the newest stamp alone counts


class Lineage:
    """Collects, item by item, how the content of an updated corpus relates to the earlier ones."""

    def __init__(self, old: Corpus) -> None:
        self.old = old
        self._index = {item_id: k for k, item_id in enumerate(old.item_ids())}
        self._records = [*old.manifest.earlier, Earlier(fingerprint=old.fingerprint, last_time=_last_time(old))]
        self._ends = [_micros(record.last_time) for record in self._records]
        self._lengths = [dict(record.lengths) for record in self._records]

    def add(self, item_id: str, times: IntArray) -> None:
        """Take the stamps (T,) of an item of the updated corpus."""
        number = self._index.get(item_id)
        before = np.empty(0, np.int64) if number is None else self.old.times(number)
        assert before is not None
        kept = np.array_equal(times[: len(before)], before)
        for end, lengths in zip(self._ends, self._lengths, strict=True):
            now, then = (int(np.searchsorted(stamps, end, side="right")) for stamps in (times, before))
            if lengths.get(item_id) == 0:
                continue
            if item_id in lengths:
                lengths[item_id] = lengths[item_id] if kept else None
            elif now != then or not kept:
                lengths[item_id] = then if kept else None

    def records(self) -> list[Earlier]:
        """Return the records for the manifest of the updated corpus, oldest first."""
        found, room = list[Earlier](), MOST_LENGTHS
        for record, lengths in reversed(list(zip(self._records, self._lengths, strict=True))):
            moved = [item_id for item_id, length in lengths.items() if length is None]
            exact = record.exact and len(moved) <= room
            # Items of which a length is left out count with all rows up to the newest stamp, which are at least as many
            order = [*moved, *(item_id for item_id in lengths if lengths[item_id] is not None)][:room] if exact else []
            room -= len(order)
            kept = {item_id: lengths[item_id] for item_id in order}
            found.append(record.model_copy(update={"exact": exact, "lengths": kept}))
        return found[::-1]


def rows_then(corpus: Corpus, earlier: Earlier) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """Return (N,) rows that each series had in an earlier content of the corpus, and (N,) whether they are known.

    Where they are not known, they are the rows up to the newest stamp of that content, in which every row may have had
    another place.
    """
    rows = rows_before(corpus, _micros(earlier.last_time) + 1)
    exact = np.full(len(rows), earlier.exact)
    if earlier.lengths:
        for k, item_id in enumerate(corpus.item_ids()):
            if item_id in earlier.lengths:
                length = earlier.lengths[item_id]
                exact[k] = exact[k] and length is not None
                rows[k] = rows[k] if length is None else length
    return rows, exact


def _last_time(corpus: Corpus) -> str:
    """Return the newest stamp of a corpus, ISO text."""
    if corpus.manifest.last_time is not None:
        return corpus.manifest.last_time
    ends = (corpus.times_slice(k, int(length) - 1, int(length)) for k, length in enumerate(corpus.lengths) if length)
    return str(np.datetime64(max(int(times[0]) for times in ends if times is not None), "us"))


def _micros(text: str) -> int:
    return int(np.datetime64(text, "us").astype(np.int64))
