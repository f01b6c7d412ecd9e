"""Work in pieces, so that the temporary tensors of a layer take a bounded part of the memory."""

from __future__ import annotations

from collections.abc import Iterator


def pieces(count: int, units: int, at_once: int | None) -> Iterator[slice]:
    """Return slices that cover `count` indices of `units` units each, about equal and of at most at_once units.

    A slice has at least one index, even if that has more units; of no indices there is one empty slice. None = all at
    once.
    """
    size = count if at_once is None else max(1, at_once // max(units, 1))
    number = -(-count // max(size, 1))
    size = -(-count // max(number, 1))  # equal pieces instead of a short last one
    return (slice(first, min(first + size, count)) for first in range(0, max(count, 1), max(size, 1)))
