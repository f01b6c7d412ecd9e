"""How a process finds the store of its run, also if it starts before the one that serves it."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist
from tests.waiting import DEADLINE

from foretrain.distributed import store
from foretrain.distributed.watch import Deadlines
from foretrain.distributed.world import World
from foretrain.errors import TrainingError

pytestmark = pytest.mark.processes


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_client_that_comes_first_asks_torch_only_once_something_listens(monkeypatch):
    """An attempt of torch that finds nothing is followed by a pause of seconds, whatever comes meanwhile."""
    asked, tried = list[str](), threading.Event()
    torch_s, connect = dist.TCPStore, socket.create_connection  # pyright: ignore[reportPrivateImportUsage]

    def ask(*place: Any, is_master: bool, **settings: Any) -> Any:
        asked.append("server" if is_master else "client")
        return torch_s(*place, is_master=is_master, **settings)

    def attempt(*place: Any, **settings: Any) -> Any:
        try:
            return connect(*place, **settings)
        finally:
            tried.set()

    monkeypatch.setattr(dist, "TCPStore", ask)
    monkeypatch.setattr(socket, "create_connection", attempt)
    monkeypatch.setattr(store, "_place", ("127.0.0.1", free_port()))
    end = time.monotonic() + DEADLINE
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store._client, end)
        assert tried.wait(DEADLINE)
        server = store._client(end, serves=True)
        client = waiting.result(DEADLINE)
    assert asked == ["server", "client"]
    client.set("key", "text")
    assert server.get("key") == b"text"


def test_a_name_server_that_does_not_answer_only_delays(monkeypatch):
    """torch looks up the name of the address at each attempt, which then takes 5 of the seconds that it has."""
    torch_s = dist.TCPStore  # pyright: ignore[reportPrivateImportUsage]

    def ask(*place: Any, timeout: timedelta, **settings: Any) -> Any:
        if timeout < timedelta(seconds=5):
            raise dist.DistError("The client socket has timed out")
        return torch_s(*place, timeout=timeout, **settings)

    monkeypatch.setattr(dist, "TCPStore", ask)
    monkeypatch.setattr(store, "_place", ("127.0.0.1", free_port()))
    server = store._client(time.monotonic() + DEADLINE, serves=True)
    store.open_board().put("key", "text")
    assert server.get("/foretrain/key") == b"text"


def test_an_address_where_nothing_listens_is_one_line_with_the_reason(monkeypatch):
    variables = {"WORLD_SIZE": 2, "RANK": 1, "LOCAL_RANK": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(TrainingError, match=r"rank 1 of 2 cannot join .*Connection refused.* within 0\.01 minutes of"):
        World.start("cpu", None, Deadlines(start=0.01))
