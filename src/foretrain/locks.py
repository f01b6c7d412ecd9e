"""Lock files that allow one writer per folder, across processes and hosts.

A lock names host, process and boot of its holder. It is free when its file is absent or empty, and one of a dead
process on this host is taken over. A POSIX record lock makes reading and writing the file one step; the kernel releases
it however the process ends, and unlike flock it is not inherited by forks. On file systems without record locks (some
NFS) nothing is taken over: whoever finds a holder is refused.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from foretrain.errors import ForetrainError
from foretrain.processes import alive, this_process
from foretrain.reading import parse_json

_LARGEST = 4096  # bytes of a lock file that are read
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class FileLock:
    """A lock file. folder: what its holder writes; doing: "is writing this run"; error: the class of errors."""

    def __init__(self, path: Path, folder: Path, doing: str, error: type[ForetrainError]) -> None:
        self.path = path
        self._folder, self._doing, self._error = folder, doing, error

    def __enter__(self) -> FileLock:
        """Take the lock. Raises an error if another process holds it, or if its file is a link or no plain file."""
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = self._open()
            except FileNotFoundError:  # its last holder deleted the folder
                continue
            try:
                safe = _record_lock(descriptor)
                if not _is_still(self.path, descriptor):
                    continue  # its holder deleted it between the opening and the record lock
                holder = self._take(descriptor, safe)
                if holder is None:
                    return self
                raise self._refusal(holder)
            finally:
                os.close(descriptor)

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):  # the folder may be gone: that is no error of the lock
            descriptor = os.open(self.path, _FLAGS & ~os.O_CREAT)
            try:
                _record_lock(descriptor)  # a process that waits for it looks whether the file is still there
                if _parse(os.read(descriptor, _LARGEST)) == this_process():
                    self.path.unlink()
            finally:
                os.close(descriptor)

    def check_free(self) -> None:
        """Raise an error if another process holds the lock. Takes no lock, and creates no file."""
        found = holder(self.path)
        if found is not None:
            raise self._refusal(found)

    def _refusal(self, holder: dict[str, Any]) -> ForetrainError:
        return self._error(
            f"{self._folder}: process {holder['pid']} on {holder['host']} {self._doing}. "
            f"Wait for it or stop it. If you are sure that it has ended, delete {self.path}."
        )

    def _take(self, descriptor: int, safe: bool) -> dict[str, Any] | None:
        """Write this process into the file, or return its holder. On an OSError the file is deleted if it is free."""
        free = False
        try:
            holder = _parse(os.read(descriptor, _LARGEST))
            free = not holder or (safe and not alive(holder))
            if not free:
                return holder
            _write(descriptor, json.dumps(this_process()).encode())
        except OSError:
            if safe and (free or not os.fstat(descriptor).st_size):
                self.path.unlink(missing_ok=True)
            raise
        return None

    def _open(self) -> int:
        """Return a descriptor of the file, which is created if it is absent; never that of a link, pipe or device."""
        try:
            descriptor = os.open(self.path, _FLAGS, 0o666)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise self._error(f"{self.path}: is not a lock file. Delete it.") from None
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self._error(f"{self.path}: is not a lock file. Delete it.")
        return descriptor


def _write(descriptor: int, text: bytes) -> None:
    """Make a text the content of a file; what a full disk takes only in part is an error, since it names no holder."""
    os.ftruncate(descriptor, 0)
    if os.pwrite(descriptor, text, 0) < len(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _record_lock(descriptor: int) -> bool:
    """Lock the file until it is closed; return False if its file system cannot."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Return True if a path names the open file."""
    try:
        named, opened = os.lstat(path), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


def is_held(path: Path) -> bool:
    """Return True if a lock file names a process that has not ended for certain. Takes no lock."""
    return holder(path) is not None


def holder(path: Path) -> dict[str, Any] | None:
    """Return what a lock file says of a process that has not ended for certain; None if it names none."""
    if not path.is_file():  # or a pipe, which would be waited for
        return None
    try:
        with path.open("rb") as file:
            found = _parse(file.read(_LARGEST))
    except FileNotFoundError:
        return None
    return found if found is not None and alive(found) else None


def _parse(text: bytes) -> dict[str, Any] | None:
    """Return the holder that a lock file names, None if it names none, as one that was not written to its end."""
    try:
        holder = parse_json(text.decode())
    except ValueError:
        return None
    if not isinstance(holder, dict) or not isinstance(holder.get("host"), str):
        return None
    pid = holder.get("pid")
    return holder if isinstance(pid, int) and not isinstance(pid, bool) and 0 < pid < 2**31 else None
