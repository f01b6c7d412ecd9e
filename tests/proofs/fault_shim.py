"""The shim of file operations (fault_shim.c) from Python: to load it, to arm it in a fork, to keep what was tried."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("fault_shim.c")
CPU_SECONDS, SECONDS = 60, 3600  # of a fork; the second one also ends one that waits for ever
FAULTS = {  # name: (kind of operations, errno, what happens after n: ONCE, FULL, ALL, SHORT, KILL, PART)
    "enospc": ("w", errno.ENOSPC, 1),
    "edquot": ("w", errno.EDQUOT, 1),
    "short": ("w", errno.ENOSPC, 3),
    "erofs": ("w", errno.EROFS, 2),
    "eio": ("w", errno.EIO, 0),
    "eio-read": ("r", errno.EIO, 0),
    "kill": ("w", 0, 4),
}
FREES = ("unlink", "rmdir", "rename")  # an operation that fails to delete leaves something, once


@dataclass(frozen=True)
class Operation:
    """The n-th operation of its kind ("w" or "r") of a clean run."""

    kind: str
    number: int
    name: str
    path: str

    @property
    def sort(self) -> tuple[str, str]:
        """What it is, without the numbers and random names in its path, and for temporary corpora without theirs."""
        path = re.sub(r"[0-9a-f]{6,}|\d+", "#", re.sub(r"\.tmp\w{6}$", ".tmp#", self.path))
        return self.name, re.sub(r"^tmp/[^/]*/(\.?)(series|raw)", r"tmp/#/\1corpus", path)


@dataclass(frozen=True)
class End:
    """How a command ended: its exit code (negative: by a signal) and what it printed."""

    code: int
    text: str

    def wrong(self, folder: Path, may_be_killed: bool) -> str | None:
        """Return what is wrong about how a disturbed command ended."""
        reports = [*folder.rglob("foretrain-error-*")]
        if reports or "Traceback" in self.text:
            body = reports[0].read_text() if reports else self.text
            frames = [line.strip() for line in body.splitlines() if "/foretrain/" in line]
            for path in reports:
                path.unlink()
            return f"traceback: {frames[-1] if frames else ''} {self.text.strip().splitlines()[-1:]}"
        if self.code == -signal.SIGKILL and may_be_killed:
            return None
        errors = [line for line in self.text.splitlines() if line.startswith("error: ")]
        if (self.code, len(errors)) not in ((0, 0), (2, 1)):
            return f"exit code {self.code}: {self.text.strip()[-300:]!r}"
        return None


def compiled(folder: Path) -> Path:
    """Build the shim; SystemExit where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise SystemExit("no C compiler (cc, gcc, clang) is in the PATH: file operations cannot be disturbed")
    library = folder / "fault_shim.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


def with_shim(folder: Path) -> int | None:
    """Run this script again with the shim loaded and return its exit code; None where it is loaded."""
    if os.environ.pop("FAULT_SHIM", None):
        os.environ.pop("LD_PRELOAD")
        return None
    environment = {**os.environ, "LD_PRELOAD": str(compiled(folder)), "FAULT_SHIM": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode


def forked(work: Callable[[], object]) -> End:
    """Call a function in a fork; return its exit code (of SystemExit; 0 without one) and what it printed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.dup2(write, 1)
            os.dup2(write, 2)
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
            signal.alarm(SECONDS)
            sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(os.dup(write), "wb"), "utf-8") for _ in range(2))
            try:
                work()
                code = 0
            except SystemExit as leave:
                code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        text = said.read().decode("utf-8", "replace")
    return End(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text)


def arm(folder: Path, fault: tuple[str, int, int, int], log: int = -1) -> None:
    """Count the operations of this process on files of a folder from now on, and disturb one of them.

    fault: (kind, n, errno, mode); n = 0 counts only. log: a descriptor that gets a line for each.
    """
    kind, number, error, mode = fault
    call = ctypes.CDLL(None).fault_arm
    call.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_char, ctypes.c_long, ctypes.c_int, ctypes.c_int]
    call(os.fsencode(folder), log, kind.encode(), number, error, mode)


def logged(text: bytes) -> list[Operation]:
    """Return the operations of a log."""
    lines = [line.split("\t", 3) for line in os.fsdecode(text).splitlines()]
    return [Operation(kind, int(n), name, path) for kind, n, name, path in lines]
