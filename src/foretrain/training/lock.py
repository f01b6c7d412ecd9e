"""One writer per run folder."""

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
    """A lock file naming host, process and boot. One left by a dead process on this host is taken over.

    The file's content says who holds it; a POSIX record lock around reading and writing it makes that atomic, and is
    released by the kernel however the process ends. (It is not inherited by forks, unlike flock.)
    """

    def __init__(self, output_dir: Path) -> None:
        self.path = output_dir / NAME

    def __enter__(self) -> RunLock:
        """Take the lock. Raises TrainingError while another process holds it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with suppress(OSError):  # a file system without record locks: what the file says still holds
                fcntl.lockf(descriptor, fcntl.LOCK_EX)
            holder = _parse(os.read(descriptor, 4096))
            if holder and _alive(holder):
                raise TrainingError(
                    f"{self.path.parent}: process {holder.get('pid')} on {holder.get('host')} is writing this run. "
                    f"Wait for it or stop it. If it is gone for certain, delete {self.path}."
                )
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_myself()).encode(), 0)
        finally:
            os.close(descriptor)
        return self

    def __exit__(self, *exception: object) -> None:
        # Emptied rather than deleted: who waits on the old file would otherwise lock one that nobody else sees.
        with suppress(OSError), self.path.open("w"):  # the folder may be gone; the run has told its own story
            pass


def _myself() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "boot": _boot(), "started": _started(os.getpid())}


def _alive(holder: dict[str, Any]) -> bool:
    """Whether the holder may still be running; of other hosts nobody here can tell."""
    if holder.get("host") != socket.gethostname():
        return True
    if holder.get("boot") != _boot():
        return False
    pid = int(holder.get("pid", 0))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return holder.get("started") == _started(pid)  # else the number belongs to another process by now


def _boot() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process began, in clock ticks; None where there is no /proc, "dead" for one that only waits for burial."""
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
