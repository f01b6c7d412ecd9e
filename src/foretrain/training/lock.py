"""A lock file that allows one writer per run folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from foretrain.errors import TrainingError

NAME = "run.lock"


class RunLock:
    """A lock file that names host, process and boot of its holder. A lock of a dead process on this host is taken over.

    A POSIX record lock makes reading and writing the file atomic; the kernel releases it however the process ends.
    Unlike flock, it is not inherited by forks.
    """

    def __init__(self, output_dir: Path) -> None:
        self.path = output_dir / NAME

    def __enter__(self) -> RunLock:
        """Take the lock. Raises TrainingError if another process holds it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with suppress(OSError):  # a file system without record locks: the content of the file still counts
                fcntl.lockf(descriptor, fcntl.LOCK_EX)
            holder = _parse(os.read(descriptor, 4096))
            if holder and _alive(holder):
                raise TrainingError(
                    f"{self.path.parent}: process {holder.get('pid')} on {holder.get('host')} is writing this run. "
                    f"Wait for it or stop it. If you are sure that it has ended, delete {self.path}."
                )
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_this_process()).encode(), 0)
        finally:
            os.close(descriptor)
        return self

    def __exit__(self, *exception: object) -> None:
        # Emptied, not deleted: a process that waits for the old file would lock a file that no other process opens.
        with suppress(OSError), self.path.open("w"):  # the folder may be gone: that is no error of the lock
            pass


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "boot": _boot_id(), "started": _start_time(pid)}


def _alive(holder: dict[str, Any]) -> bool:
    """Return False if the holder has certainly ended; a process on another host counts as alive."""
    if holder.get("host") != socket.gethostname():
        return True
    if holder.get("boot") != _boot_id():
        return False
    pid = int(holder.get("pid", 0))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return holder.get("started") == _start_time(pid)  # else the pid was reused by another process


def _boot_id() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _start_time(pid: int) -> str | None:
    """Return the start time of a process in clock ticks; None without /proc, "dead" for a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "dead" if fields[0] in "ZX" else fields[19]


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        holder = json.loads(text)
    except ValueError:
        return None
    return holder if isinstance(holder, dict) else None
