"""Are the corpora of a run what they were written as? Asked once on each host, before the start or while it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from foretrain.data.config import DataConfig
from foretrain.data.store import Corpus
from foretrain.data.verification import Verification
from foretrain.distributed.world import World
from foretrain.errors import DataError
from foretrain.run.waiting import announced

_GB = 10**9


def begin_verification(configs: Iterable[DataConfig], world: World) -> Callable[[], None]:
    """Compare the shards of corpora with their hashes as data.verify says; every rank calls it.

    Returns a function that every rank calls before anything is concluded from the data: it waits for what is still
    being compared. Both raise DataError naming a file that differs, and TrainingError on other hosts.
    """
    checks: list[Verification] = []

    def start() -> None:
        for data in configs:
            check = Verification(data.folders, data.verify)
            checks.append(check)
            with announced(f"comparing {check.bytes / _GB:,.1f} GB of corpora with their hashes", world):
                check.start()

    def finish() -> None:
        for check in checks:
            check.finish()

    _once_per_host(start, world)
    return lambda: _once_per_host(finish, world)


def check_unchanged(corpora: Iterable[Corpus], world: World) -> None:
    """Look whether a rank has read from a shard that became shorter or was overwritten meanwhile; every rank calls it.

    Raises DataError naming the file, and TrainingError on other ranks.
    """
    error = None
    try:
        for corpus in corpora:
            corpus.check_unchanged()
    except DataError as problem:
        error = problem
    world.all_agree(error)


def _once_per_host(action: Callable[[], None], world: World) -> None:
    error = None
    if world.local_rank == 0:
        try:
            action()
        except DataError as problem:
            error = problem
    world.all_agree(error)
