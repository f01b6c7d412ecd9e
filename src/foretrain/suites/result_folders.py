"""The folders of results, OUT/MODEL, and the lock of each: one process writes results of a model at a time.

Imports neither torch, pandas nor numpy, so that a command that finds a folder in use ends at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from foretrain.atomic import remove_empty
from foretrain.errors import ConfigError
from foretrain.locks import FileLock

NAME = ".benchmark.lock"
_LONGEST = 200  # characters of a file's name


def folder_name(model: str) -> str:
    """Return a model's name as the name of a folder: "/" becomes "--"; what is too long ends with a hash."""
    name = model.strip("/").replace("/", "--").replace("\\", "--").replace("\0", "")
    name = name if name.strip(".") else f"model{name}"
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


class ResultLock(FileLock):
    """Allows one writer of a model's results in a folder. Raises ConfigError on entry if another process is one.

    Folders that were created for the lock are deleted with it, unless there are results in them.
    """

    def __init__(self, out: Path, model: str) -> None:
        folder = out / folder_name(model)
        super().__init__(folder / NAME, folder, "is writing results of this model", ConfigError)
        self._missing: list[Path] = []

    def __enter__(self) -> ResultLock:
        """Take the lock."""
        self._missing = [path for path in (self.path.parent, *self.path.parent.parents) if not path.exists()]
        super().__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        remove_empty(self._missing)


def result_locks(out: Path, models: Sequence[str]) -> list[ResultLock]:
    """Return the locks of models' results."""
    return [ResultLock(out, model) for model in models]
