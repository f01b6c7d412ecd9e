"""Who works on a trial: a lease file for each, so that a dead worker's trial is taken over, and no trial has two.

A lease is changed under the study's claim lock only. Whether its holder lives is known on its own host; elsewhere it is
judged by the age of the file, which the holder touches every HEARTBEAT seconds. Ages are differences of times that the
file system sets, so that clocks of hosts need not agree.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from foretrain.atomic import tagged_name
from foretrain.config import Section
from foretrain.processes import alive, this_process
from foretrain.reading import Unreadable, read_json

HEARTBEAT = 10.0  # seconds
REMOTE_PATIENCE = 120.0  # seconds without a heartbeat after which a worker of another host is taken for dead
MOST_DEATHS = 3  # of workers in one trial, after which it is a failed one


class _Holder(Section):
    host: str
    pid: int = Field(gt=0, lt=2**31)
    boot: str | None = None
    started: str | None = None
    worker: str = ""
    step: int = Field(default=0, ge=0)  # of its trial
    value: float | None = None  # of the first objective there


class _SavedLease(Section):
    holder: _Holder | None
    attempts: int = Field(ge=0, lt=2**31)
    deaths: int = Field(ge=0, lt=2**31)


@dataclass(frozen=True)
class LeaseState:
    """What a lease file says. held: its holder lives, as far as can be known."""

    held: bool
    holder: dict[str, Any] | None
    attempts: int = 0  # processes that worked on the trial
    deaths: int = 0  # those of them that died in it


class Leases:
    """The leases of a study, by name: the number of a trial, or default."""

    def __init__(self, folder: Path, worker: str, remote_patience: float = REMOTE_PATIENCE) -> None:
        self._folder, self._worker, self._patience = folder, worker, remote_patience
        folder.mkdir(parents=True, exist_ok=True)

    def state(self, name: str) -> LeaseState:
        """Return what is known of a lease; a missing or damaged one is free."""
        path = self._path(name)
        try:
            found = _SavedLease.model_validate(read_json(path))
        except (OSError, Unreadable, ValidationError):
            return LeaseState(False, None)
        if found.holder is None:
            return LeaseState(False, None, found.attempts, found.deaths)
        holder = found.holder.model_dump()
        return LeaseState(self._lives(path, holder), holder, found.attempts, found.deaths)

    def claim(self, name: str) -> LeaseState | None:
        """Take a lease; None if another worker holds it. Only under the claim lock."""
        before = self.state(name)
        if before.held:
            return None
        mine = {**this_process(), "worker": self._worker}
        state = LeaseState(True, mine, before.attempts + 1, before.deaths + (before.holder is not None))
        self._write(name, state)
        return state

    def release(self, name: str) -> None:
        """Give a lease back, for another worker to go on. Only under the claim lock."""
        state = self.state(name)
        if self._is_mine(state):
            self._write(name, LeaseState(False, None, state.attempts, state.deaths))

    def drop(self, name: str) -> None:
        """Delete the lease of a trial that has ended."""
        self._path(name).unlink(missing_ok=True)

    def drop_ended(self, ended: set[str]) -> None:
        """Delete the leases of ended trials whose workers died before they did. Only under the claim lock."""
        for path in self._folder.glob("*.json"):
            if path.stem in ended and not self.state(path.stem).held:
                path.unlink(missing_ok=True)

    def is_mine(self, name: str) -> bool:
        """Whether this process holds a lease."""
        return self._is_mine(self.state(name))

    def touch(self, name: str) -> bool:
        """Give a sign of life. Returns False if the lease is not this process' own any more."""
        if not self.is_mine(name):
            return False
        with suppress(FileNotFoundError):
            os.utime(self._path(name))
        return True

    def note(self, name: str, step: int, value: float | None) -> None:
        """Let others know how far a trial of this process' own is."""
        state = self.state(name)
        if self._is_mine(state) and state.holder is not None:
            holder = {**state.holder, "step": step, "value": value}
            self._write(name, LeaseState(True, holder, state.attempts, state.deaths))

    def holders(self) -> dict[str, dict[str, Any]]:
        """Return the live holders by the name of the lease."""
        states = {path.stem: self.state(path.stem) for path in sorted(self._folder.glob("*.json"))}
        return {name: state.holder for name, state in states.items() if state.held and state.holder is not None}

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _write(self, name: str, state: LeaseState) -> None:
        path = self._path(name)
        scratch = tagged_name(self._folder, f".{name}")
        tree = {"holder": state.holder, "attempts": state.attempts, "deaths": state.deaths}
        try:
            scratch.write_text(json.dumps(tree))  # not synced: no lease outlives the boot of its holder
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)

    def _is_mine(self, state: LeaseState) -> bool:
        mine = this_process()
        return state.holder is not None and all(state.holder.get(key) == value for key, value in mine.items())

    def _lives(self, path: Path, holder: dict[str, Any]) -> bool:
        if not alive(holder):
            return False
        if holder.get("host") == os.uname().nodename:
            return True
        probe = tagged_name(self._folder, ".now")
        try:
            probe.write_text("")
            return probe.stat().st_mtime - path.stat().st_mtime <= self._patience
        except FileNotFoundError:
            return False
        finally:
            probe.unlink(missing_ok=True)


class Heartbeat:
    """While entered, a thread touches a lease; `lost` says that another worker has it now.

    each: called at every beat too.
    """

    def __init__(self, leases: Leases, name: str, each: Callable[[], None], seconds: float = HEARTBEAT) -> None:
        self.lost = False
        self._leases, self._name, self._each, self._seconds = leases, name, each, seconds
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._end.wait(self._seconds):
            self._each()
            with suppress(OSError):  # a file system that is away for a moment
                self.lost = self.lost or not self._leases.touch(self._name)
