"""Corpora of a run, once on each host: copied to a local disk, and compared with their hashes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from foretrain.data.config import DataConfig
from foretrain.data.staging import Staging
from foretrain.data.store import Corpus
from foretrain.data.verification import Verification
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, DataError
from foretrain.run.waiting import announced

_GB = 10**9


def stage_corpora(configs: Sequence[DataConfig], world: World, *, given: bool = False) -> None:
    """Copy corpora to the folder of data.stage_to, where it is asked for; every rank calls it, before they are opened.

    given: they are opened already. Raises ConfigError in that case, DataError if they cannot be copied, and
    TrainingError on other hosts.
    """
    if given and any(data.stage_to for data in configs):
        raise ConfigError("data.stage_to: no effect on corpora that are given opened. Leave it out, or give folders.")

    def copy() -> None:
        for data in configs:
            if data.stage_to is not None:
                data.check_folders()
                staging = Staging(data.folders, data.stage_to)
                staging.check_space()
                size = f"{staging.missing_bytes / _GB:,.1f} GB of corpora"
                with announced(f"copying {size} to {staging.target}, or waiting for the process that does", world):
                    staging.copy()

    _once_per_host(copy, world)


def begin_verification(configs: Iterable[DataConfig], world: World) -> Callable[[], None]:
    """Compare the shards of corpora, or of their copies, with their hashes as data.verify says; every rank calls it.

    Returns a function that every rank calls before anything is concluded from the data: it waits for what is still
    being compared. Both raise DataError naming a file that differs, and TrainingError on other hosts.
    """
    checks: list[tuple[Verification, str | None]] = []

    def start() -> None:
        for data in configs:
            with _naming_copies(data.stage_to):
                folders = data.folders if data.stage_to is None else Staging(data.folders, data.stage_to).read_from
                check = Verification(folders, data.verify)
                checks.append((check, data.stage_to))
                with announced(f"comparing {check.bytes / _GB:,.1f} GB of corpora with their hashes", world):
                    check.start()

    def finish() -> None:
        for check, stage_to in checks:
            with _naming_copies(stage_to):
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


@contextmanager
def _naming_copies(stage_to: str | None) -> Iterator[None]:
    """Say of an error about copies what to do with them."""
    try:
        yield
    except DataError as error:
        if stage_to is None:
            raise
        way = f"If it is a copy in {stage_to} (data.stage_to), delete its folder: the same command copies it anew."
        raise DataError(f"{error} {way}") from None


def _once_per_host(action: Callable[[], None], world: World) -> None:
    error = None
    if world.local_rank == 0:
        try:
            action()
        except DataError as problem:
            error = problem
    world.all_agree(error)
