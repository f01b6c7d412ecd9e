"""Facts about files that are recorded in the user's cache folder, so that what did not change is not read again."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from foretrain.atomic import files_together
from foretrain.reading import read_object

_PATIENCE = 2.0  # seconds to wait for others that record something


def user_folder() -> Path:
    """Return the folder of the user's records, whether it exists or not."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "foretrain"


@dataclass(frozen=True)
class CacheRecord:
    """A JSON file of facts by key, of which the newest `most` are kept. A lost fact costs time only."""

    name: str
    most: int = 20_000

    @property
    def file(self) -> Path:
        """Where the file is, or would be."""
        return user_folder() / self.name

    def read(self) -> dict[str, object]:
        """Return all facts; {} where there are none, or the file cannot be read."""
        try:
            return read_object(self.file)
        except (OSError, ValueError):
            return {}

    def add(self, facts: Mapping[str, object]) -> None:
        """Add facts. Without a place to write nothing is recorded."""
        place = self.file
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            with _alone(place.with_suffix(".lock")):
                known = {**self.read(), **facts}
                kept = dict(list(known.items())[-self.most :])
                with files_together([place], lambda path, error: error) as scratch:
                    scratch[place].write_text(json.dumps(kept), encoding="utf-8")


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Keep out other processes and threads that record something. Gives up waiting: a lost record costs time only."""
    end = time.monotonic() + _PATIENCE
    with lock.open("w") as file:  # a lock of flock belongs to the open file, so that threads keep each other out too
        while time.monotonic() < end:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.005)
            except OSError:  # a file system without locks
                break
        yield
