"""What the other series of a folder did at the same time: the market's days, and moves that many of them made.

# N series, T bars of one series
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from foretrain.data.market.detect import Doubles
from foretrain.data.windows import IntArray, Mask
from foretrain.timeaxis.gaps import DayVotes

_LARGE = 3.0  # robust standard deviations from which a move is large
_FEWEST = 2  # other series that make a large move in one direction when the market moves
_LEAST = 5  # other series that must be listed on a day for it to be called closed
_ALONE = 0.1  # of them that trade on a closed day at most


class Peers:
    """Counts over all series of a folder, from which each series is judged without its own share."""

    def __init__(self) -> None:
        self.votes = DayVotes()
        self._traded: Counter[int] = Counter()
        self._moved: tuple[Counter[int], Counter[int]] = (Counter(), Counter())  # up, down

    def add(self, times: IntArray, moved: Doubles, scale: Doubles) -> None:
        """Count the stamps of a series, and its moves (T,) over their local scale (T,)."""
        self.votes.add(times)
        self._traded.update(times.tolist())
        for counter, hit in zip(self._moved, _large(moved, scale), strict=True):
            counter.update(times[hit].tolist())

    def market_moved(self, times: IntArray, moved: Doubles, scale: Doubles, at: IntArray, share: float) -> Mask:
        """Return for the bars `at` of an added series whether others made a large move in the same direction.

        share: of the others that must, two at least: one alone may have the same fault, or news of its own.
        """
        result = np.zeros(len(at), bool)
        own = _large(moved, scale)
        for place, bar in enumerate(at.tolist()):
            side = 0 if moved[bar] > 0 else 1
            stamp = int(times[bar])
            others = self._traded[stamp] - 1
            same = self._moved[side][stamp] - int(own[side][bar])
            result[place] = same >= max(_FEWEST, share * others)
        return result

    def closed_days(self, days: IntArray) -> Mask:
        """Return for ascending days of an added series whether nearly no other listed series traded on them."""
        traded, listed = self.votes.on(days)
        return (listed - 1 >= _LEAST) & (traded - 1 <= _ALONE * (listed - 1))


def _large(moved: Doubles, scale: Doubles) -> tuple[Mask, Mask]:
    with np.errstate(invalid="ignore"):
        return moved >= _LARGE * scale, moved <= -_LARGE * scale
