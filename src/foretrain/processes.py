"""Which process made a file, as locks and scratch files say it, and whether that process has ended; and signals that
come at a bad moment.
"""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

MOST_THREADS = 1024  # of a process, that a setting may ask for
TAG = r"[0-9a-f]{8}\.[0-9a-f]{8}\.[0-9]+\.[0-9]+"  # of a name: host, boot, pid and start time of its process


def this_process() -> dict[str, Any]:
    """Return what identifies this process."""
    return identity(os.getpid())


def identity(pid: int) -> dict[str, Any]:
    """Return what tells a process of this host from all others: host, pid, boot of the system, start in clock ticks."""
    return {"host": os.uname().nodename, "pid": pid, "boot": _boot_id(), "started": _start_time(pid)}


def parent_command() -> list[str]:
    """Return the words by which this process' parent was started; [] where the system does not say."""
    try:
        return Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def alive(holder: dict[str, Any]) -> bool:
    """Return False if the holder has certainly ended; a process on another host counts as alive."""
    if holder.get("host") != os.uname().nodename:
        return True
    if holder.get("boot") != _boot_id():
        return False
    pid = holder.get("pid")
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 < pid < 2**31:  # of a damaged file: of no process
        return False
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


def tag() -> str:
    """Return the tag of files that this process makes for itself, for their names."""
    pid = os.getpid()
    return f"{_short(_place())}.{_short(_boot_id())}.{pid}.{_start_time(pid) or 0}"


def has_ended(found: str) -> bool:
    """Return True if the process of a tag has certainly ended: it ran on this host, and is not there any more."""
    place, boot, pid, started = found.split(".")
    if place != _short(_place()):
        return False
    if boot != _short(_boot_id()):
        return True
    holder = {"host": os.uname().nodename, "boot": _boot_id(), "pid": int(pid)}
    return not alive({**holder, "started": None if started == "0" else started})


@cache
def _place() -> str:
    """Return the host, and the container whose pids are seen here."""
    space = ""
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return f"{os.uname().nodename} {space}"


def _short(text: str | None) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()[:8]


def in_import(frame: FrameType | None) -> bool:
    """Return True if a frame belongs to an import: of torch's an exception ends the process by an abort."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def send_again(number: int) -> None:
    """Send this process a signal a little later."""
    timer = threading.Timer(0.05, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()
