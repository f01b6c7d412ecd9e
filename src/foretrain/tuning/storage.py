"""Where a study is kept: a journal file that needs no server, or a database that Optuna reaches by a URL.

Neither holds anything but JSON. Imports Optuna.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend

from foretrain.errors import ConfigError, DataError, TrainingError
from foretrain.printing import without_secrets
from foretrain.reading import parse_json
from foretrain.tuning.lines import drop_torn_line
from foretrain.tuning.shared_lock import SharedLock

JOURNAL = "journal.jsonl"


class StudyJournal(BaseJournalBackend):
    """Optuna's operations, one JSON object a line, appended by several processes.

    What a killed process left of a line is truncated when the file is opened and before each append, under the lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = SharedLock(path.with_name(f"{path.name}.lock"))
        self._offsets = [0]  # byte at which line n begins, as far as it was read
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        with self._lock.held(), path.open("rb+") as file:
            drop_torn_line(file)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the operations from this number on. Raises DataError for a line that is none."""
        number = min(log_number_from, len(self._offsets) - 1)
        # in one system call: between two, a torn line may be truncated, and half of another one read after it
        with self.path.open("rb", buffering=0) as file:
            start = file.seek(self._offsets[number])
            text = file.read(max(0, os.fstat(file.fileno()).st_size - start))
        for line in text.split(b"\n")[:-1]:  # what follows the last one is being written
            if number + 1 == len(self._offsets):
                self._offsets.append(self._offsets[number] + len(line) + 1)
            number += 1
            if number > log_number_from:
                yield self._operation(line, number)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations, and sync them. Raises TrainingError if the disk refuses them."""
        text = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs).encode()
        with self._lock.held(), self.path.open("rb+", buffering=0) as file:
            size = drop_torn_line(file)
            file.seek(size)
            try:
                if file.write(text) != len(text):
                    raise OSError("the disk is full")
                os.fsync(file.fileno())
            except OSError as error:
                file.truncate(size)
                raise TrainingError(f"{self.path}: cannot be written: {error.strerror or error}.") from None

    def _operation(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            found = parse_json(line.decode())
        except ValueError:
            found = None
        if not isinstance(found, dict) or not isinstance(found.get("op_code"), int):
            raise DataError(
                f"{self.path}: line {number} is no operation of a study; the file was damaged after it was written. "
                "Restore it; without that line, those after it would be taken for other trials'."
            )
        return found


def open_storage(folder: Path, url: str | None) -> BaseStorage:
    """Open the storage of the study in a folder; url: of a database. Raises ConfigError if that cannot be reached."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if url is None:
        return JournalStorage(StudyJournal(folder / JOURNAL))
    try:
        return optuna.storages.RDBStorage(url)
    except Exception as error:  # of SQLAlchemy, and of the driver of whatever database
        said = without_secrets(" ".join(str(error).split()))[:300].rstrip(". ")
        raise ConfigError(f"storage: the database cannot be opened: {type(error).__name__}: {said}.") from None
