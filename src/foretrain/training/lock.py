"""The lock file of a run folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from foretrain.distributed.world import World
from foretrain.errors import TrainingError
from foretrain.locks import FileLock

NAME = "run.lock"


class RunLock(FileLock):
    """Allows one writer per run folder. Raises TrainingError on entry if another process writes the run."""

    def __init__(self, output_dir: Path) -> None:
        super().__init__(output_dir / NAME, output_dir, "is writing this run", TrainingError)


@contextmanager
def locked(output_dir: Path, world: World) -> Iterator[None]:
    """Hold the lock of a run folder on rank 0; every rank calls it. Raises TrainingError on all of them.

    It is given back too where the run is ended because it hangs: another host could not take it over.
    """
    with ExitStack() as stack:
        lock = RunLock(output_dir)
        world.on_main(lambda: stack.enter_context(lock) and None)
        if world.is_main:
            world.watch.last_acts.append(unlock := partial(lock.__exit__, None))
            stack.callback(world.watch.last_acts.remove, unlock)
        yield
