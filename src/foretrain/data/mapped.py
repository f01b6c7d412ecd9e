"""Files that are read through a memory map, and what is noticed when they change under their readers.

A process that reads a mapped page behind the end of its file is killed (SIGBUS). So the sizes of the files are looked
at before their values are read, at most every INTERVAL: what shrinks between two looks and is read before the second
one still ends the process, of the command by a line (cli/faults.py). A file that is deleted, or whose name another one
takes, as an update of a corpus does, stays mapped and whole.
"""

from __future__ import annotations

import hashlib
import os
import time
import weakref
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from foretrain.errors import DataError

INTERVAL = 0.02  # seconds between two looks; a look takes about 2 microseconds a file
_mapped: weakref.WeakSet[MappedFile] = weakref.WeakSet()


class MappedFile:
    """A file mapped into memory. Raises OSError if it cannot be opened.

    sha256: what its content should be, so that a change of its time alone is told from one of its content.
    """

    def __init__(self, path: Path, sha256: str | None = None) -> None:
        self.path = path
        self._sha256 = sha256
        self._state = _state(path)
        source = pa.memory_map(str(path))
        self.buffer = source.read_buffer(source.size())
        _mapped.add(self)

    @property
    def is_shorter(self) -> bool:
        """True if the file has become shorter than what is mapped."""
        found = _state(self.path)
        return found is not None and found[:2] == self.inode and found[2] < self.buffer.size

    @property
    def inode(self) -> tuple[int, ...] | None:
        """Device and inode of the file when it was mapped; None if they were not told."""
        return None if self._state is None else self._state[:2]

    def check(self) -> None:
        """Raise DataError if the file has become shorter, or has been overwritten, since it was mapped."""
        found = _state(self.path)
        if found == self._state or found is None or found[:2] != self.inode:
            return  # deleted or replaced: what is mapped stays
        if found[2] < self.buffer.size:
            raise DataError(shorter(self.path, found[2], self.buffer.size))
        if self._sha256 is None or self._digest() != self._sha256:
            raise DataError(f"{self.path}: was overwritten while it was read. {_REMEDY}")
        self._state = found

    def _digest(self) -> str | None:
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return None


class Watch:
    """Calls `check` of some files when it is called, at most every INTERVAL."""

    def __init__(self, files: Iterable[MappedFile] = ()) -> None:
        self.files = tuple(files)
        self.due = 0.0 if self.files else float("inf")  # when the next look is, on the clock of time.monotonic

    def __call__(self) -> None:
        """Look at the files if it is time. Raises DataError as MappedFile.check."""
        if time.monotonic() >= self.due:
            self.check()

    def check(self) -> None:
        """Look at the files. Raises DataError as MappedFile.check."""
        for file in self.files:
            file.check()
        if self.files:
            self.due = time.monotonic() + INTERVAL


_REMEDY = "Nothing may write into a corpus in place: copy it again, whole, and repeat the command (a run: --resume)."


def shorter(path: Path, found: int, mapped: int) -> str:
    """Return the text of the error about a file that has become shorter than what is mapped, in bytes."""
    return f"{path}: became shorter while it was read ({found:,} of {mapped:,} bytes are left). {_REMEDY}"


def shortened() -> str | None:
    """Return the text of the error about the first mapped file that has become shorter, None without one."""
    for file in list(_mapped):
        if file.is_shorter:
            return shorter(file.path, file.path.stat().st_size, file.buffer.size)
    return None


def _state(path: Path) -> tuple[int, int, int, int] | None:
    """Return device, inode, size and time of change of a file; None if there is none, or it cannot be asked."""
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns
