"""A lock that the workers of a study share, on one host or several, for moments: an append, or the claim of a trial.

The lock is a file that a hard link creates in one step, on network file systems too, and that names its holder. One of
a dead process of this host is broken at once; one of another host after GRACE seconds in which it did not change. A
live holder of this host is waited for.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from foretrain.atomic import tagged_name
from foretrain.errors import TrainingError
from foretrain.processes import alive, this_process
from foretrain.reading import parse_json

GRACE = 5.0  # seconds
PATIENCE = 120.0  # seconds after which a live holder is an error: it hangs, or was stopped
_LARGEST = 4096
_LONGEST_PAUSE = 0.05  # seconds between two looks


class SharedLock:
    """A lock at a path, for one thread of a process."""

    def __init__(self, path: Path, grace: float = GRACE, patience: float = PATIENCE) -> None:
        self.path, self._grace, self._patience = path, grace, patience
        self._content: bytes | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock while entered."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def acquire(self) -> bool:
        """Wait for the lock and take it. Raises TrainingError for a live holder that does not end."""
        content = json.dumps({**this_process(), "token": uuid.uuid4().hex}).encode()
        scratch = tagged_name(self.path.parent, f".{self.path.name}")
        began = seen_at = time.monotonic()
        seen, pause = b"", 0.001
        try:
            scratch.write_bytes(content)
            while not self._take(scratch):
                found = self._read()
                if found is None:
                    continue  # it was released meanwhile
                now = time.monotonic()
                if found != seen:
                    seen, seen_at = found, now
                if self._is_stale(found, now - seen_at):
                    self._break(found)
                    continue
                if now - began > self._patience:
                    raise TrainingError(
                        f"{self.path}: its holder ({found.decode(errors='replace')[:200]}) does not release it. "
                        "See whether that process hangs; if it has ended, delete the file."
                    )
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
        finally:
            scratch.unlink(missing_ok=True)
        self._content = content
        return True

    def release(self) -> None:
        """Give the lock back, if it is still this process' own."""
        if self._content is not None and self._read() == self._content:
            self.path.unlink(missing_ok=True)
        self._content = None

    def _take(self, scratch: Path) -> bool:
        try:
            os.link(scratch, self.path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            try:
                descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                return False
            with open(descriptor, "wb") as file:
                file.write(scratch.read_bytes())
        return True

    def _read(self) -> bytes | None:
        try:
            with self.path.open("rb") as file:
                return file.read(_LARGEST)
        except FileNotFoundError:
            return None

    def _is_stale(self, found: bytes, age: float) -> bool:
        """Whether the lock with this content, seen unchanged for some seconds, may be broken."""
        try:
            holder = parse_json(found.decode())
            here, living = holder["host"] == os.uname().nodename, alive(holder)
        except (ValueError, TypeError, KeyError):
            return age > self._grace  # no file of ours
        return not living or (not here and age > self._grace)

    def _break(self, found: bytes) -> None:
        """Delete the lock with this content, and no other: a process that also waits may have been faster."""
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with suppress(OSError):  # a file system without locks: the two steps below are close together
                fcntl.flock(folder, fcntl.LOCK_EX)  # among the processes of this host
            if self._read() == found:
                self.path.unlink(missing_ok=True)
        finally:
            os.close(folder)
