"""World: rank, size, device and collectives. A single process is a world of size 1 and runs the same code.

Only this module, training/checkpoint.py and training/sharding.py use torch.distributed.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from foretrain.distributed.interfaces import interface_of, is_loopback, is_own, own_address
from foretrain.distributed.launchers import Launch, find_launch, gpu_index, refuse_changing_size
from foretrain.errors import ConfigError, TrainingError
from foretrain.processes import parent_command

T = TypeVar("T")
COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # evaluation on one rank may keep the others waiting this long
START_TIMEOUT = timedelta(minutes=10)  # imports of the processes of one start differ by less
_left: dist.ProcessGroup | None = None  # the process group that was left last
_store: Store | None = None  # what the processes say beside collectives: of each that ends, why
_place = ("", 0)  # of the store: host and port
_INTERFACES = {"GLOO_SOCKET_IFNAME": "{}", "NCCL_SOCKET_IFNAME": "={}"}  # NCCL takes a name without = for a prefix
_GRACE = 2.0  # seconds in which ranks say that they lost another one
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

    @classmethod
    def start(cls, device: str = "auto", threads: int | None = None, timeout: timedelta = COLLECTIVE_TIMEOUT) -> World:
        """Join the process group that torchrun, mpirun, mpiexec or srun describes; size 1 without any of them.

        device: auto (cuda, then mps, then cpu), cpu, cuda, cuda:N or mps. threads: torch's intra-op threads. Used in a
        with statement, it turns the error of a collective whose other ranks are gone into a TrainingError.
        Raises TrainingError if the others do not come within START_TIMEOUT, ConfigError for a device that this machine
        lacks, and for what find_launch refuses.
        """
        launch = find_launch(os.environ)
        if launch.launcher == "torchrun":
            refuse_changing_size(os.environ, parent_command())
        if threads is not None:
            torch.set_num_threads(threads)
        found = resolve_device(device, gpu_index(os.environ, launch))
        world = cls(
            launch.rank, launch.size, launch.local_rank, found, local_size=launch.local_size, launcher=launch.launcher
        )
        if world.device.type == "cuda":
            torch.cuda.set_device(world.device)
        if world.size > 1 and not dist.is_initialized():
            _join(world, launch, timeout)
        return world

    def close(self) -> None:
        """Leave the process group, if there is one."""
        if self.size > 1:
            leave_process_group()

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *rest: object) -> None:
        """Leave the process group; after an error only say what it was to the ranks that wait for this one.

        They notice once this process has exited; destroying the process group would wait for them first. Raises
        TrainingError, which says who is gone, in place of the error of a collective that lost another rank.
        """
        if not isinstance(error, Exception):
            self.close()
            return
        lost = self.size > 1 and of_lost_ranks(error)
        if self.size > 1:
            _say(f"end/{self.rank}", "" if lost else str(error))
        if lost:
            raise TrainingError(self._who_is_gone(lost)) from error

    def _who_is_gone(self, lost: str) -> str:
        """Return the line about ranks without which a collective failed; lost is what the backend says of them.

        A rank that fails leaves its error in the store, one that lost another leaves an empty text, and one that was
        killed leaves nothing.
        """
        others, end = [rank for rank in range(self.size) if rank != self.rank], time.monotonic() + _GRACE
        while True:
            said = _words("end", others)
            silent = [rank for rank in others if rank not in (said or {})]
            failed = next(((rank, text) for rank, text in (said or {}).items() if text), None)
            if said is None or failed or len(silent) < 2 or time.monotonic() > end:
                break
            time.sleep(0.05)
        _say(f"read/{self.rank}", "read")
        if self.is_main and said is not None:  # which may hold the store: it stays until the others have read
            alive = [rank for rank in others if not said.get(rank) and (failed or rank not in silent)]
            while time.monotonic() < end and len(_words("read", alive) or ()) < len(alive):
                time.sleep(0.05)
        if failed:
            return f"rank {failed[0]} of {self.size} failed: {failed[1]}"
        if said is None and "TORCHELASTIC_RUN_ID" not in os.environ:  # without torchrun rank 0 holds the store
            silent = [0]
        named = f"rank {silent[0]}" if len(silent) == 1 else f"one of ranks {', '.join(map(str, silent or others))}"
        if re.search("timed? ?out", lost, re.IGNORECASE):
            what = "does not answer: it hangs, or its machine or network is gone"
        else:
            what = "is gone: it was killed, as by a lack of memory, or failed, as its own output then says"
        return f"{named} of {self.size} {what}. Start all again with --resume; checkpoints so far are intact."

    def with_own_group(self) -> World:
        """Return the same processes with a group of their own, of gloo, so that a thread may use it beside the loop.

        A collective. A single process needs none.
        """
        return replace(self, group=dist.new_group(backend="gloo")) if self.size > 1 else self

    @property
    def is_main(self) -> bool:
        """True for rank 0, which writes files and logs."""
        return self.rank == 0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over ranks, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def broadcast_object(self, value: T, source: int = 0) -> T:
        """Return the value of the source rank, on every rank."""
        if self.size == 1:
            return value
        values: list[Any] = [value]
        dist.broadcast_object_list(values, src=source, group=self.group)
        return values[0]

    def gather_objects(self, value: T) -> list[T]:
        """Return the values of all ranks in the order of ranks, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.size > 1:
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
        dist.destroy_process_group()
        _left = group


def _join(world: World, launch: Launch, timeout: timedelta) -> None:
    """Create the process group of a world. Raises TrainingError if it does not come about."""
    global _store, _place
    backend = "nccl" if world.device.type == "cuda" else "gloo"
    extra: dict[str, Any] = {"device_id": world.device} if backend == "nccl" else {}
    _check_address(launch)
    _place = launch.address, launch.port
    host = f"[{launch.address}]" if ":" in launch.address else launch.address
    try:
        # as init_process_group would, but for a deadline of its own
        store, *_ = next(rendezvous(f"tcp://{host}:{launch.port}", world.rank, world.size, timeout=START_TIMEOUT))
        # torchrun's store outlives the processes that it starts again, and would give them the former's keys
        _store = PrefixStore(f"attempt-{restarts()}", store)
        _choose_interfaces(world, _store)
        store = PrefixStore("default_pg", _store)
        dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=timeout, **extra)
    except (RuntimeError, ValueError, OSError) as error:  # of torch.distributed: ports, addresses, time
        raise TrainingError(_no_group(error, world.rank, world.size)) from error


def _check_address(launch: Launch) -> None:
    """Raise ConfigError on rank 0 if the address that its launcher's variables lead to is another host's."""
    if launch.rank or not launch.found:
        return
    try:
        right = is_own(launch.address)
    except OSError:
        right = False
    if not right:
        raise ConfigError(
            f"rank 0 of {launch.size} runs on {socket.gethostname()}, and the others look for it at {launch.address}, "
            f"as {launch.launcher} has it, which is not this host. Set MASTER_ADDR to this host for all of them."
        )


def _choose_interfaces(world: World, store: Store) -> None:
    """Let gloo and NCCL use the interface that leads to the other hosts, where the user names none. A collective.

    Left alone, gloo takes the address of the host's own name, which is often one that other hosts cannot reach.
    """
    if world.local_size is None or world.local_size >= world.size:
        return
    address = own_address(*_place) or ""
    store.set(f"foretrain/address/{world.rank}", address)
    if all(name in os.environ for name in _INTERFACES):
        return
    if address and is_loopback(address):  # on the host of rank 0, whose name may mean itself: the way to another host
        others = (store.get(f"foretrain/address/{rank}").decode() for rank in range(world.size))
        other = next((each for each in others if each and not is_loopback(each)), None)
        address = own_address(other, _place[1]) or "" if other else ""
    name = interface_of(address) if address else None
    for variable, form in _INTERFACES.items():
        if name:
            os.environ.setdefault(variable, form.format(name))


def _store_answers() -> bool:
    """Return whether the store's process can be reached; asked itself, a dead store may wait, and prints a stack."""
    try:
        socket.create_connection(_place, timeout=_GRACE).close()
    except OSError:
        return False
    return _store is not None


def _say(key: str, text: str) -> None:
    """Leave a text for the other ranks, if the store is still there."""
    if _store_answers() and _store is not None:
        with suppress(RuntimeError):
            _store.set(f"foretrain/{key}", text)


def _words(key: str, ranks: list[int]) -> dict[int, str] | None:
    """Return what ranks left under a key, of those who did; None without a store."""
    if not _store_answers() or _store is None:
        return None
    with suppress(RuntimeError):
        keys = {rank: f"foretrain/{key}/{rank}" for rank in ranks}
        return {rank: _store.get(name).decode() for rank, name in keys.items() if _store.check([name])}
    return None


def _no_group(error: Exception, rank: int, size: int) -> str:
    """Return the line about a process group that did not come about."""
    place = f"{_place[0]}:{_place[1]}"
    why = " ".join(str(error).split())[:200].rstrip(".")
    if "EADDRINUSE" in why or "in use" in why:
        way = "Another program listens there: set another MASTER_PORT on all of them."
    else:
        limit = f"{START_TIMEOUT.total_seconds() / 60:g} minutes"
        way = f"All {size} processes must start within {limit} of each other and reach that address."
    return f"rank {rank} of {size} cannot join the others at {place} (MASTER_ADDR, MASTER_PORT): {why}. {way}"


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
