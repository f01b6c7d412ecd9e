"""The lock file of a run folder."""

from __future__ import annotations

from pathlib import Path

from foretrain.errors import TrainingError
from foretrain.locks import FileLock

NAME = "run.lock"


class RunLock(FileLock):
    """Allows one writer per run folder. Raises TrainingError on entry if another process writes the run."""

    def __init__(self, output_dir: Path) -> None:
        super().__init__(output_dir / NAME, output_dir, "is writing this run", TrainingError)
