"""World: rank, size, device and collectives. A single process is a world of size 1 and runs the same code.

Only this module, store.py, training/checkpoint.py and training/sharding.py use torch.distributed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d

from foretrain.distributed.launchers import Launch, find_launch, gpu_index, refuse_changing_size
from foretrain.distributed.store import GRACE, leave_early, meet, no_group, open_board, say, words
from foretrain.distributed.watch import RESUME, STOPPING, Board, Deadlines, Leaver, Phase, Watchdog
from foretrain.errors import ConfigError, Interrupted, TrainingError
from foretrain.processes import parent_command

T = TypeVar("T")
_left: dist.ProcessGroup | None = None  # the process group that was left last
_apart: list[dist.ProcessGroup] = []  # groups of threads beside the loop, whose deadline is no phase's
# what gloo and NCCL say of a rank that is gone or does not answer; gloo raises plain RuntimeErrors
_LOST = re.compile(r"gloo/transport|Connection (?:closed|reset) by peer|Timed out waiting|NCCL|Socket Timeout")


@dataclass
class World:
    """The processes of a run, and the rank and device of this one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = torch.device("cpu")  # noqa: RUF009  # immutable
    group: dist.ProcessGroup | None = None  # of its collectives; None = torch's default group
    local_size: int | None = None  # processes on this host; None = not known
    launcher: str | None = None  # torchrun, mpirun, mpiexec or srun; None for one process and for a start by hand
    watch: Watchdog = field(default_factory=Watchdog, compare=False, repr=False)  # where the loop of this process is

    @classmethod
    def start(
        cls,
        device: str = "auto",
        threads: int | None = None,
        deadlines: Deadlines | None = None,
        *,
        again: str = RESUME,
    ) -> World:
        """Join the process group that torchrun, mpirun, mpiexec or srun describes; size 1 without any of them.

        device: auto (cuda, then mps, then cpu), cpu, cuda, cuda:N or mps. threads: torch's intra-op threads. again: how
        to start again, which errors about lost ranks end with. Used in a with statement, it turns the error of a
        collective whose other ranks are gone into a TrainingError, or into Interrupted if one of them left for a
        signal. Several processes are watched from here on.
        Raises TrainingError if the others do not come within deadlines.start, ConfigError for a device that this
        machine lacks, and for what find_launch refuses.
        """
        launch = find_launch(os.environ)
        if launch.launcher == "torchrun":
            refuse_changing_size(os.environ, parent_command())
        if threads is not None:
            torch.set_num_threads(threads)
        watch = Watchdog(launch.rank, launch.size, deadlines, again=again)
        world = cls(
            launch.rank,
            launch.size,
            launch.local_rank,
            resolve_device(device, gpu_index(os.environ, launch)),
            local_size=launch.local_size,
            launcher=launch.launcher,
            watch=watch,
        )
        if world.device.type == "cuda":
            torch.cuda.set_device(world.device)
        if world.size > 1 and not dist.is_initialized():
            try:
                watch.board = _join(world, launch)
                world._limit_collectives()
                watch.start()
            except BaseException as error:
                if dist.is_initialized():  # the others may wait for this rank in a collective
                    world.__exit__(type(error), error)
                raise
        return world

    def close(self) -> None:
        """Leave the process group, if there is one."""
        self.watch.stop()
        if self.size > 1:
            leave_process_group()

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *rest: object) -> None:
        """Leave the process group; after an error only say what it was to the ranks that wait for this one.

        They notice once this process has exited; destroying the process group would wait for them first. Raises
        TrainingError, which says who is gone, in place of the error of a collective that lost another rank; Interrupted
        if that one left for a signal.
        """
        leaves = isinstance(error, (Exception, KeyboardInterrupt, Interrupted)) and self.size > 1
        if not leaves or (isinstance(error, Interrupted) and error.by_all):
            self.close()
            return
        self.watch.stop()
        lost = isinstance(error, Exception) and of_lost_ranks(error)
        if lost:
            say(f"end/{self.rank}", "")
            raise self._who_is_gone(lost) from error
        why = Leaver(self.rank, 2, str(error))
        if not isinstance(error, Exception):
            why = Leaver(self.rank, error.exit_code if isinstance(error, Interrupted) else 130, "")
        say(f"end/{self.rank}", json.dumps(why))
        say("left", json.dumps(why))
        self._wait_for_readers()

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Let the deadline of a phase hold inside the block, of the loop and of collectives."""
        before = self.watch.phase
        self._enter(phase)
        try:
            yield
        finally:
            self._enter(before)

    def _enter(self, phase: Phase) -> None:
        changed = self.watch.phase != phase
        self.watch.enter(phase)
        if changed and self.size > 1:
            self._limit_collectives()

    def _limit_collectives(self) -> None:
        """Give collectives the deadline of the phase, and time for the thread that watches to say first what hangs."""
        if not dist.is_initialized():
            return
        for group in list(distributed_c10d._world.pg_map):
            if group not in _apart:
                distributed_c10d._set_pg_timeout(self._patience(self.watch.phase), group)

    def _patience(self, phase: Phase) -> timedelta:
        seconds = self.watch.deadlines.seconds(phase)
        return timedelta(seconds=seconds + min(max(seconds, 10.0), 120.0))

    def _who_is_gone(self, lost: str) -> BaseException:
        """Return the error about ranks without which a collective failed; lost is what the backend says of them.

        A rank that fails leaves its error in the store, one that lost another leaves an empty text, and one that was
        killed leaves nothing.
        """
        others, end = [rank for rank in range(self.size) if rank != self.rank], time.monotonic() + GRACE
        while True:
            said = words("end", others)
            silent = [rank for rank in others if rank not in (said or {})]
            left = self.watch.leaver
            if found := [text for text in (said or {}).values() if text]:
                left = Leaver(*json.loads(found[0]))
            if said is None or left or len(silent) < 2 or time.monotonic() > end:
                break
            time.sleep(0.05)
        say(f"read/{self.rank}", "read")
        self._wait_for_readers([] if left else silent)
        if left:
            return left.error(self.size)
        if said is None and "TORCHELASTIC_RUN_ID" not in os.environ:  # without torchrun rank 0 holds the store
            silent = [0]
        named = f"rank {silent[0]}" if len(silent) == 1 else f"one of ranks {', '.join(map(str, silent or others))}"
        if re.search("timed? ?out", lost, re.IGNORECASE):
            what = "does not answer: it hangs, or its machine or network is gone"
        else:
            what = "is gone: it was killed, as by a lack of memory, or failed, as its own output then says"
        return TrainingError(f"{named} of {self.size} {what}. Start all again {self.watch.again}.")

    def _wait_for_readers(self, gone: Sequence[int] = ()) -> None:
        """Let rank 0, which may serve the store, stay until the others have read in it, or have left."""
        end, others = time.monotonic() + GRACE, [rank for rank in range(1, self.size) if rank not in gone]
        while self.is_main and time.monotonic() < end:
            read, left = words("read", others), words("end", others)
            if read is None or left is None or len(read | {k: v for k, v in left.items() if v}) == len(others):
                return
            time.sleep(0.05)

    def with_own_group(self) -> World:
        """Return the same processes with a group of their own, of gloo, so that a thread may use it beside the loop.

        A collective. A single process needs none.
        """
        if self.size == 1:
            return self
        group = dist.new_group(backend="gloo", timeout=self._patience("evaluation"))
        assert isinstance(group, dist.ProcessGroup)
        _apart.append(group)
        return replace(self, group=group, watch=Watchdog())

    @property
    def is_main(self) -> bool:
        """True for rank 0, which writes files and logs."""
        return self.rank == 0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over ranks, in place, and return it."""
        if self.size > 1:
            with self.watch.exchange():
                dist.all_reduce(tensor, group=self.group)
        return tensor

    def broadcast_object(self, value: T, source: int = 0) -> T:
        """Return the value of the source rank, on every rank."""
        if self.size == 1:
            return value
        values: list[Any] = [value]
        with self.watch.exchange():
            dist.broadcast_object_list(values, src=source, group=self.group)
        return values[0]

    def gather_objects(self, value: T) -> list[T]:
        """Return the values of all ranks in the order of ranks, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self.watch.exchange():
            dist.all_gather_object(values, value, group=self.group)
        return values

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.size > 1:
            with self.watch.exchange():
                dist.barrier(group=self.group)

    def on_main(self, action: Callable[[], T]) -> T:
        """Run the action on rank 0; return its result or raise its error on every rank, so that no rank waits."""
        if self.size == 1:
            return action()
        result_or_error: Any = (None, None)
        if self.is_main:
            try:
                result_or_error = (action(), None)
            except Exception as error:  # any: the other ranks wait for the result, or for this error
                result_or_error = (None, error)
        result, error = self.broadcast_object(result_or_error)
        if error is not None:
            raise error
        return result

    def all_agree(self, error: Exception | None) -> None:
        """Raise on every rank if any rank has an error: its own error, else a TrainingError with that of another."""
        errors = [e for e in self.gather_objects(None if error is None else str(error)) if e is not None]
        if error is not None:
            raise error
        if errors:
            raise TrainingError(f"another process of this run failed: {errors[0]}")


def local(tensor: Tensor) -> Tensor:
    """Return this process' part of a sharded tensor, which shares its memory; any other tensor as it is."""
    to_local: Any = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def of_lost_ranks(error: BaseException) -> str:
    """Return what a collective says of lost ranks, if an error or what it was raised from is of one; else "".

    After it no collective may follow: a rank that has not noticed yet still waits in the one that failed here.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, dist.DistError) or (isinstance(found, RuntimeError) and _LOST.search(str(found))):
            return str(found)
        found = found.__cause__ or found.__context__
    return ""


def restarts() -> int:
    """Return how often torchrun has started the processes of this run again; 0 without it."""
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
    return int(count) if count.isdecimal() else 0


def leave_process_group() -> None:
    """Destroy the process group of this process, if there is one; its object is kept until the next one is left.

    A DistributedDataParallel may outlive this call, in a traceback or a local variable. If it held the last reference,
    freeing it would join gloo's threads while it holds Python's lock, and a thread that waits for the lock to free its
    last collective would never end.
    """
    global _left
    if dist.is_initialized():
        group = dist.group.WORLD
        _apart.clear()
        dist.destroy_process_group()
        _left = group


def _join(world: World, launch: Launch) -> Board:
    """Create the process group of a world; return its board. Raises TrainingError if it does not come about."""
    minutes = world.watch.deadlines.start
    # what ranks say to each other goes by gloo, which notices a rank that is gone, and tensors on GPUs by NCCL
    backend = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
    extra: dict[str, Any] = {"device_id": world.device} if world.device.type == "cuda" else {}
    try:
        store = meet(launch, minutes, restarts())
        limit = timedelta(minutes=minutes)
        with _signals_later():  # ranks that connect wait for each other in C
            dist.init_process_group(
                backend, store=store, rank=world.rank, world_size=world.size, timeout=limit, **extra
            )
            board = open_board()
        return board
    except (RuntimeError, ValueError, OSError) as error:  # of torch.distributed: ports, addresses, time
        why = " ".join(str(error).split())[:200].rstrip(".")
        raise TrainingError(no_group(why, world.rank, world.size, minutes)) from error
    except (Interrupted, KeyboardInterrupt) as stop:
        if not dist.is_initialized():
            leave_early(stop.exit_code if isinstance(stop, Interrupted) else 130, world.rank)
        raise


@contextmanager
def _signals_later() -> Iterator[None]:
    """Keep signals that stop a run until the block has ended."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the torch device of a name such as auto, cpu, cuda or mps. Raises ConfigError if it does not exist."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device: {name!r} is not a device. Choose auto, cpu, cuda or mps.") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError("device: cuda was asked for, but torch sees no CUDA device. Choose auto or cpu.")
        device = torch.device("cuda", local_rank if device.index is None else device.index)
        if (device.index or 0) >= torch.cuda.device_count():
            raise ConfigError(f"device: {device} was asked for, but there are {torch.cuda.device_count()} GPUs.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device: mps was asked for, but torch does not see it. Choose auto or cpu.")
    return device
