"""Data files of R (.rda, .RData): numbers, texts and lists in the XDR form that `save()` writes.

The competition data of the M1, M3 and tourism competitions are published so, as packages of CRAN. Code, environments
and references to them, which a data file can hold too, are refused: nothing is ever evaluated.
Format: "R Internals", section Serialization Formats.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.errors import DataError
from foretrain.reading import Unreadable

LARGEST = 1 << 30  # bytes of a file after decompression
_MAGIC = (b"RDX2\nX\n", b"RDX3\nX\n")
_HAS_ATTRIBUTES, _HAS_TAG = 0x200, 0x400
_NOTHING = {254, 253, 252, 251, 250, 242, 241}  # NULL, missing arguments and the base environments
_MISSING_INT = -(2**31)


@dataclass(frozen=True)
class RValue:
    """A vector, with its attributes by name ("names", "dim", "tsp", ...)."""

    values: Any  # float64 or int64 array, list of texts, or list of RValues
    attributes: dict[str, RValue]

    def named(self) -> dict[str, RValue]:
        """Return the elements of a named list by name."""
        names = self.attributes.get("names")
        return dict(zip(names.values, self.values, strict=False)) if names else {}


def read_rda(raw: bytes, path: Path) -> dict[str, RValue]:
    """Return the objects of an R data file by name, from its content. Raises DataError, which names the path."""
    try:
        content = _decompressed(raw)
        if content[:7] not in _MAGIC:
            raise Unreadable("no R data file in binary form")
        return _RdaReader(content, 7).top()
    except (OSError, Unreadable, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path}: cannot be read as R data: {error}. Fetch it anew from its source.") from None
    except (struct.error, UnicodeDecodeError, ValueError, LookupError, RecursionError, TypeError) as error:
        raise DataError(f"{path}: is damaged ({type(error).__name__}: {error}). Fetch it anew.") from None


def _decompressed(raw: bytes) -> bytes:
    """Return the content of a compressed file, of at most LARGEST bytes. Raises Unreadable."""
    opener = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}.get(raw[:2])
    if opener is None:
        return raw
    with opener(io.BytesIO(raw)) as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise Unreadable(f"more than {LARGEST:,} bytes")
    return content


class _RdaReader:
    """A position in the bytes of a serialized object, and the symbols that were read before it."""

    def __init__(self, content: bytes, position: int) -> None:
        self.content, self.position = content, position
        self.symbols: list[str] = []

    def top(self) -> dict[str, RValue]:
        """Return the objects of the file: a list of pairs, by tag."""
        version, _, _ = (self.int() for _ in range(3))
        if version == 3:
            self.take(self.int())  # the encoding of texts
        elif version != 2:
            raise Unreadable(f"version {version} of R's format; 2 and 3 are known")
        return self.pairs(self.int())

    def take(self, size: int) -> bytes:
        if not 0 <= size <= len(self.content) - self.position:
            raise Unreadable("ends within a value")
        self.position += size
        return self.content[self.position - size : self.position]

    def int(self) -> int:
        return struct.unpack(">i", self.take(4))[0]

    def length(self) -> int:
        found = self.int()
        return found if found != -1 else (self.int() << 32) + self.int()

    def pairs(self, flags: int) -> dict[str, RValue]:
        """Return a list of pairs by tag."""
        found: dict[str, RValue] = {}
        while flags & 0xFF != 254:
            if flags & 0xFF != 2:
                raise Unreadable(f"a value of R's type {flags & 0xFF} where a list of pairs was expected")
            if flags & _HAS_ATTRIBUTES:
                self.value(self.int())
            tag = str(self.value(self.int()).values) if flags & _HAS_TAG else str(len(found))
            found[tag] = self.value(self.int())
            flags = self.int()
        return found

    def value(self, flags: int) -> RValue:
        """Return the value that follows its flags."""
        kind = flags & 0xFF
        if kind in _NOTHING:
            return RValue([], {})
        if kind == 1:  # a symbol
            self.symbols.append(str(self.value(self.int()).values))
            return RValue(self.symbols[-1], {})
        if kind == 255:  # one that was read before
            return RValue(self.symbols[(flags >> 8 or self.int()) - 1], {})
        if kind == 9:  # a text
            size = self.int()
            return RValue("NA" if size == -1 else self.take(size).decode("utf-8", "replace"), {})
        if kind == 2:
            return RValue([], self.pairs(flags))
        values = self.vector(kind)
        return RValue(values, self.pairs(self.int()) if flags & _HAS_ATTRIBUTES else {})

    def vector(self, kind: int) -> Any:
        if kind not in (10, 13, 14, 16, 19, 20):
            raise Unreadable(f"holds a value of R's type {kind}, which is no data")
        size = self.length()
        if kind in (10, 13):
            found = np.frombuffer(self.take(4 * size), ">i4").astype(np.float64)
            return np.where(found == _MISSING_INT, np.nan, found)
        if kind == 14:
            return np.frombuffer(self.take(8 * size), ">f8").astype(np.float64)
        items = [self.value(self.int()) for _ in range(size)]
        return [item.values for item in items] if kind == 16 else items
