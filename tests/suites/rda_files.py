"""Writes R data files as R's `save()` does, for tests: numbers, texts, named lists and matrices."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np

NIL = struct.pack(">i", 254)


def rda(name: str, value: bytes, version: int = 2) -> bytes:
    """A file with one object."""
    head = f"RDX{version}\nX\n".encode() + struct.pack(">3i", version, 0x040300, 0x020300)
    if version == 3:
        head += struct.pack(">i", 5) + b"UTF-8"
    return head + pairs({name: value})


def pairs(items: Mapping[str, bytes]) -> bytes:
    """A list of pairs by tag; a tag that comes again is written anew, as the first time."""
    cells = [struct.pack(">ii", 2 | 0x400, 1) + _text(name) + value for name, value in items.items()]
    return b"".join(cells) + NIL


def reals(values: Sequence[float], attributes: Mapping[str, bytes] | None = None) -> bytes:
    """A vector of numbers."""
    data = np.asarray(values, ">f8")
    return _flags(14, attributes) + struct.pack(">i", len(data)) + data.tobytes() + _ending(attributes)


def integers(values: Sequence[int]) -> bytes:
    """A vector of whole numbers; None is R's NA."""
    data = np.array([-(2**31) if value is None else value for value in values], ">i4")
    return struct.pack(">ii", 13, len(data)) + data.tobytes()


def texts(values: Sequence[str]) -> bytes:
    """A vector of texts."""
    return struct.pack(">ii", 16, len(values)) + b"".join(map(_text, values))


def named_list(items: Mapping[str, bytes]) -> bytes:
    """A list with names."""
    attributes = {"names": texts(list(items))}
    return _flags(19, attributes) + struct.pack(">i", len(items)) + b"".join(items.values()) + _ending(attributes)


def matrix(columns: np.ndarray) -> bytes:
    """A matrix of (columns, rows) numbers."""
    return reals(columns.ravel(), {"dim": integers([columns.shape[1], columns.shape[0]])})


def competition(series: Mapping[str, tuple[str, Sequence[float], Sequence[float]]]) -> bytes:
    """Series as Mcomp has them, by name: period, history, future."""
    items = {
        name: named_list({"period": texts([period]), "x": reals(past), "xx": reals(future)})
        for name, (period, past, future) in series.items()
    }
    return named_list(items)


def _text(text: str) -> bytes:
    return struct.pack(">ii", 9 | 0x40000, len(text.encode())) + text.encode()


def _flags(kind: int, attributes: Mapping[str, bytes] | None) -> bytes:
    return struct.pack(">i", kind | (0x200 if attributes else 0))


def _ending(attributes: Mapping[str, bytes] | None) -> bytes:
    return pairs(attributes) if attributes else b""
