"""The store of a run: how its processes find each other, and what they say to each other beside collectives."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from foretrain.distributed.interfaces import interface_of, is_loopback, is_own, own_address
from foretrain.distributed.launchers import Launch
from foretrain.errors import ConfigError, Interrupted, TrainingError

GRACE = 2.0  # seconds in which ranks say that they lost another one
# Seconds of one attempt to reach a store that listens, during which no signal is handled. torch looks up the name of
# the address each time, and a name server that does not answer takes 5 s at a time.
_TRY = 30.0
_PROBE = 2.0  # seconds of one attempt to find out whether anything listens
_LISTEN = 1.0  # seconds within which a rank that waits for others hears that one has left
_BOARD = 5.0  # seconds for an answer of the store to the thread that watches
_store: Store | None = None  # what the processes say beside collectives: of each that ends, why
_attempt = ""
_place = ("", 0)  # of the store: host and port
_INTERFACES = {"GLOO_SOCKET_IFNAME": "{}", "NCCL_SOCKET_IFNAME": "={}"}  # NCCL takes a name without = for a prefix


def meet(launch: Launch, minutes: float, restarts: int) -> Store:
    """Wait until all ranks have joined; return the store for their process group.

    Raises TrainingError naming those that have not, ConfigError on rank 0 where the others look for it elsewhere,
    Interrupted if one of them left for a signal, and what torch raises if the store cannot be reached.
    """
    global _store, _attempt, _place
    _check_address(launch)
    _place = launch.address, launch.port
    end = time.monotonic() + 60 * minutes
    serves = launch.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    # torchrun's store outlives the processes that it starts again, and would give them the former's keys
    _attempt = f"attempt-{restarts}"
    _store = PrefixStore(_attempt, _client(end, serves=serves))
    missing = _missing(_store, launch.rank, launch.size, end)
    if missing:
        named = ", ".join(map(str, missing[:20])) + (", ..." if len(missing) > 20 else "")
        why = f"rank{'s' * (len(missing) > 1)} {named} did not come within {minutes:.3g} minutes"
        raise TrainingError(no_group(why, launch.rank, launch.size, minutes))
    _store.set_timeout(timedelta(minutes=minutes))
    _choose_interfaces(launch, _store)
    return PrefixStore("default_pg", _store)


def leave_early(code: int, rank: int) -> None:
    """Tell the ranks that wait for this one to join that it has left for a signal."""
    if _store is not None:
        with suppress(RuntimeError):
            _store.set("left", str(code))
            time.sleep(0 if rank else _LISTEN)  # the others may find the store gone once rank 0 is


def open_board() -> StoreBoard:
    """Return the board of the run, once its ranks have met."""
    board = _client(time.monotonic() + _TRY)
    board.set_timeout(timedelta(seconds=_BOARD))
    return StoreBoard(PrefixStore(_attempt, board))


class StoreBoard:
    """The board of a run: a client of its store, for a thread, as the main thread's may wait for other ranks."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, key: str, text: str) -> None:
        """Leave a text under a key."""
        try:
            self._store.set(f"foretrain/{key}", text)
        except RuntimeError as error:
            raise ConnectionError(str(error)) from None

    def read(self, keys: Sequence[str]) -> dict[str, str]:
        """Return the texts of those keys that have one."""
        try:
            names = {key: f"foretrain/{key}" for key in keys}
            return {key: self._store.get(name).decode() for key, name in names.items() if self._store.check([name])}
        except RuntimeError as error:
            raise ConnectionError(str(error)) from None


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


def _choose_interfaces(launch: Launch, store: Store) -> None:
    """Let gloo and NCCL use the interface that leads to the other hosts, where the user names none. A collective.

    Left alone, gloo takes the address of the host's own name, which is often one that other hosts cannot reach.
    """
    if launch.local_size is None or launch.local_size >= launch.size:
        return
    address = own_address(*_place) or ""
    store.set(f"foretrain/address/{launch.rank}", address)
    if all(name in os.environ for name in _INTERFACES):
        return
    if address and is_loopback(address):  # on the host of rank 0, whose name may mean itself: the way to another host
        others = (store.get(f"foretrain/address/{rank}").decode() for rank in range(launch.size))
        other = next((each for each in others if each and not is_loopback(each)), None)
        address = own_address(other, _place[1]) or "" if other else ""
    name = interface_of(address) if address else None
    for variable, form in _INTERFACES.items():
        if name:
            os.environ.setdefault(variable, form.format(name))


def _client(end: float, serves: bool = False) -> Store:
    """Return a client of the store at the address of the run, which this process serves or not, until a time.

    A client waits first until something listens there: torch pauses for seconds after an attempt that found nothing,
    and Python handles no signal meanwhile.
    """
    host, port = _place
    if not 0 < port < 2**16:
        raise ValueError(f"{port} is no port")
    while True:
        if not serves:
            _wait_for_listener(end)
        left = end - time.monotonic()
        try:
            return dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
                host,
                port,
                is_master=serves,
                timeout=timedelta(seconds=max(min(_TRY, left), 0.1)),
                wait_for_workers=False,
                multi_tenant=True,
            )
        except dist.DistError:
            if serves or left < _PROBE:
                raise
            time.sleep(0.1)


def _wait_for_listener(end: float) -> None:
    """Wait until something accepts connections at the address of the run. Raises the OSError of the last try at a time.

    It is a matter of milliseconds once it does: the first tries follow each other quickly.
    """
    pause = 0.01
    while True:
        try:
            socket.create_connection(_place, timeout=max(min(_PROBE, end - time.monotonic()), 0.1)).close()
            return
        except OSError:
            if time.monotonic() + pause > end:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 0.25)


def _missing(store: Store, rank: int, size: int, end: float) -> list[int]:
    """Wait until all ranks have joined, or until a time; return those that have not.

    Raises Interrupted if one of them left meanwhile for a signal.
    """
    store.set_timeout(timedelta(seconds=_BOARD))
    store.set(f"joined/{rank}", "")
    if store.add("joined", 1) == size:
        store.set("all joined", "")
    pause = 0.01
    while not store.check(["all joined"]):
        if store.check(["left"]):
            raise Interrupted(int(store.get("left")), "another rank left for a signal before all had joined")
        if time.monotonic() > end:
            return [other for other in range(size) if not store.check([f"joined/{other}"])]
        time.sleep(pause)
        pause = min(2 * pause, _LISTEN / 2)
    return []


def _store_answers() -> bool:
    """Return whether the store's process can be reached; asked itself, a dead store may wait, and prints a stack."""
    try:
        socket.create_connection(_place, timeout=GRACE).close()
    except OSError:
        return False
    return _store is not None


def say(key: str, text: str) -> None:
    """Leave a text for the other ranks, if the store is still there."""
    if _store_answers() and _store is not None:
        with suppress(RuntimeError):
            _store.set(f"foretrain/{key}", text)


def words(key: str, ranks: list[int]) -> dict[int, str] | None:
    """Return what ranks left under a key, of those who did; None without a store."""
    if not _store_answers() or _store is None:
        return None
    with suppress(RuntimeError):
        keys = {rank: f"foretrain/{key}/{rank}" for rank in ranks}
        return {rank: _store.get(name).decode() for rank, name in keys.items() if _store.check([name])}
    return None


def no_group(why: str, rank: int, size: int, minutes: float) -> str:
    """Return the line about a process group that did not come about."""
    place = f"{_place[0]}:{_place[1]}"
    if "EADDRINUSE" in why or "in use" in why:
        way = "Another program listens there: set another MASTER_PORT on all of them."
    else:
        way = f"All {size} processes must start within {minutes:.3g} minutes of each other and reach that address"
        way += f"; this one does so {_route()}."
    return f"rank {rank} of {size} cannot join the others at {place} (MASTER_ADDR, MASTER_PORT): {why}. {way}"


def _route() -> str:
    """Return from which address this process reaches MASTER_ADDR, and by which interface it was told to."""
    address = own_address(*_place)
    names = [name for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if os.environ.get(name)]
    told = f" ({', '.join(f'{name}={os.environ[name]}' for name in names)})" if names else ""
    return (f"from {address}" if address else "by no address, as it knows no way there") + told
