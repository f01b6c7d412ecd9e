"""Locks that rank 0 holds for all ranks of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from foretrain.distributed.world import World
from foretrain.locks import FileLock


@contextmanager
def held(world: World, *locks: FileLock) -> Iterator[None]:
    """Hold locks on rank 0; every rank calls it. Raises on all of them the error of the first that is not free.

    They are given back too where the run is ended because it hangs: another host could not take them over.
    """
    with ExitStack() as stack:
        for lock in locks:
            world.on_main(lambda lock=lock: stack.enter_context(lock) and None)
            if world.is_main:
                world.watch.last_acts.append(unlock := partial(lock.__exit__, None))
                stack.callback(world.watch.last_acts.remove, unlock)
        yield
