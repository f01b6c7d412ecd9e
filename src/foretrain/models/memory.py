"""What a forecast takes in memory, and how much of it is computed at once to stay within a bound.

A family states its phases (Forecaster.memory_phases): the bytes that each holds throughout, and the bytes of a unit of
what it computes in pieces. The number of units then follows from the bound alone, never from a trial.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, NamedTuple

from torch import Tensor

from foretrain.errors import ConfigError
from foretrain.nn.layout import RowLayout

TOKENS_ON_CPU, TOKENS_ON_GPU = 2**12, 2**16  # of a piece: more at once is not faster
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kMGT]i?)?B?", re.ASCII)
_UNITS = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_LARGEST = 2**62


class BatchSize(NamedTuple):
    """Sizes of a batch that decide what its forecast takes."""

    rows: int  # of all windows, covariates included
    windows: int
    widest: int  # most rows of a window; all rows where the items of a batch inform each other
    steps: int  # context steps of a row, rounded up to the family's bucket_length

    @classmethod
    def of(cls, layout: RowLayout, context: Tensor) -> BatchSize:
        """Return the sizes of a batch with this layout and contexts (rows, steps)."""
        return cls(layout.rows, layout.windows, layout.widest, context.shape[1])


@dataclass(frozen=True)
class Piece:
    """Work that can be done in pieces: bytes of one unit, and the fewest and the most units at once."""

    bytes: int
    least: int = 1
    most: int = 1


@dataclass(frozen=True)
class Phase:
    """A phase of a forecast: bytes that it holds throughout, and what it does in pieces, by name."""

    held: int
    pieces: Mapping[str, Piece] = field(default_factory=dict)

    @property
    def least(self) -> int:
        """Bytes with the smallest pieces."""
        return self.held + sum(piece.bytes * piece.least for piece in self.pieces.values())

    @property
    def most(self) -> int:
        """Bytes with the largest pieces that are of use."""
        return self.held + sum(piece.bytes * max(piece.most, piece.least) for piece in self.pieces.values())


def least_bytes(phases: Sequence[Phase]) -> int:
    """Return what the phases take with the smallest pieces."""
    return max(phase.least for phase in phases)


def most_bytes(phases: Sequence[Phase]) -> int:
    """Return what the phases take with the largest pieces that are of use."""
    return max(phase.most for phase in phases)


def units_at_once(phases: Sequence[Phase], bound: int) -> dict[str, int]:
    """Return the number of units of each kind of piece with which every phase takes at most `bound` bytes.

    Pieces that are named first grow first. Raises ConfigError if the smallest pieces take more.
    """
    if (least := least_bytes(phases)) > bound:
        raise ConfigError(f"max_memory: a batch may take {in_words(bound)} here and takes at least {in_words(least)}.")
    found: dict[str, int] = {}
    for phase in phases:
        left = bound - phase.least
        for name, piece in phase.pieces.items():
            more = min(max(piece.most - piece.least, 0), left // max(piece.bytes, 1))
            left -= more * piece.bytes
            found[name] = min(found.get(name, piece.least + more), piece.least + more)
    return found


def memory_bytes(value: Any) -> int | None:
    """Return an amount of memory in bytes: a whole number of bytes, or text as memory_size reads it; None stays None.

    Raises ConfigError for anything else.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return memory_size(value)
    if isinstance(value, Integral) and not isinstance(value, bool) and 1 <= int(value) <= _LARGEST:
        return int(value)
    raise ConfigError(f"max_memory is {value!r}; give bytes as a whole number of at least 1, or text such as '2GB'.")


def memory_size(text: str) -> int:
    """Return the bytes of 2GB, 800MB, 1.5GiB, or of a plain number of GB; a GB has 10^9 bytes. Raises ConfigError."""
    match = _SIZE.fullmatch(text.strip())
    size = 0 if match is None else math.floor(float(match[1]) * _UNITS[match[2] or "G"])
    if match is None or (match[2] is None and text.strip().endswith("B")) or not 1 <= size <= _LARGEST:
        raise ConfigError(f"max_memory is {text!r}; give an amount above 0, such as 2GB, 800MB or 1.5 (in GB).")
    return size


def in_words(count: int) -> str:
    """Return a number of bytes as text that memory_size reads, rounded up: 1.24GB, 310MB."""
    if count >= 1e9:
        return f"{math.ceil(count / 1e7) / 100:.2f}GB"
    return f"{max(1, math.ceil(count / 1e6))}MB"
