"""The lock file of a run folder."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from foretrain.distributed.held import held
from foretrain.distributed.world import World
from foretrain.errors import TrainingError
from foretrain.locks import FileLock
from foretrain.training.run_record import LOCK


class RunLock(FileLock):
    """Allows one writer per run folder. Raises TrainingError on entry if another process writes the run."""

    def __init__(self, output_dir: Path) -> None:
        super().__init__(output_dir / LOCK, output_dir, "is writing this run", TrainingError)


def locked(output_dir: Path, world: World) -> AbstractContextManager[None]:
    """Hold the lock of a run folder on rank 0; every rank calls it. Raises TrainingError on all of them."""
    return held(world, RunLock(output_dir))
