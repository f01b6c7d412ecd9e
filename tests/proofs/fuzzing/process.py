"""One command in a process of its own, forked after the imports, and the verdict on how it ended.

Limits: SECONDS of CPU time (RLIMIT_CPU) and of the clock, without the time in which the process could have run and
other processes had the cores (Linux' schedstat); MEMORY of resident memory at its peak beyond what was resident at the
fork (ru_maxrss of the child less its resident memory when it began); and ADDRESSES of address space, so that a fault
harms nothing else. A process that is killed by the clock, on a busy machine perhaps for want of a core, has a second
try.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import mmap
import os
import pkgutil
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

SECONDS, KILLED, MEMORY, ADDRESSES = 10, 90, 1 << 30, 6 << 30
SHOWN = 300  # characters of an error that the log keeps


@dataclass(frozen=True)
class End:
    """How a command ended: accepted, refused or fault, and the facts behind that."""

    how: str
    why: str
    code: int
    output: str
    seconds: float
    memory: int  # bytes


def ended(arguments: list[str], prepare: Callable[[], Path], environment: Mapping[str, str] | None = None) -> End:
    """Run a command in the folder that `prepare` makes; return how it ended. `prepare` is called for every try."""
    found = _once(arguments, prepare(), environment or {})
    if found.code == -signal.SIGALRM and found.seconds < SECONDS:
        found = _once(arguments, prepare(), environment or {})
    return found


def _once(arguments: list[str], folder: Path, environment: Mapping[str, str]) -> End:
    said = [folder.parent / name for name in ("stdout", "stderr")]
    at_fork, began = mmap.mmap(-1, 8), time.monotonic()  # shared with the child
    child = os.fork()
    if child == 0:
        _child(arguments, folder, said, environment, at_fork)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    seconds = time.monotonic() - began - int(Path(f"/proc/{child}/schedstat").read_text().split()[1]) / 1e9
    _, status, used = os.wait4(child, 0)
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)  # what the command started
    out, err = (path.read_bytes().decode("utf-8", "replace") for path in said)
    code, memory = (
        os.waitstatus_to_exitcode(status),
        max(0, used.ru_maxrss * 1024 - int.from_bytes(at_fork[:], "little")),
    )
    how, why = verdict(code, out, err, memory)
    if seconds > SECONDS and how != "fault":
        how, why = "fault", "hang"
    return End(how, why, code, out + err, seconds, memory)


def verdict(code: int, out: str, err: str, memory: int) -> tuple[str, str]:
    """Return accepted, refused or fault, and why. Problems of a config may follow its error, a line each."""
    lines = [line for line in err.splitlines() if line.strip()]
    if code in (-signal.SIGALRM, -signal.SIGXCPU):
        return "fault", "hang"
    if code < 0:
        return "fault", f"signal {-code}"
    if "Traceback (most recent" in out + err:
        return "fault", "traceback"
    if code not in (0, 2):
        return "fault", f"exit code {code}"
    if memory > MEMORY:
        return "fault", "memory"
    if "\x1b" in out + err:
        return "fault", "raw control characters"
    if code == 0:
        return "accepted", ""
    if any(line.startswith("refused: ") for line in out.splitlines()) and not lines:
        return "refused", "a dry run's report"
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if len(errors) != 1 or any(not line.startswith("  ") for line in lines[errors[0] + 1 :]):
        return "fault", "not one line of error"
    return "refused", lines[errors[0]][:SHOWN]


def _child(
    arguments: list[str], folder: Path, said: list[Path], environment: Mapping[str, str], at_fork: mmap.mmap
) -> None:
    """Become the command; never returns."""
    code = 99
    try:
        at_fork[:] = _resident().to_bytes(8, "little")
        os.setsid()
        for number, path in zip((1, 2), said, strict=True):
            file = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
            os.dup2(file, number)
            os.close(file)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        sys.stdin = open(os.devnull)  # noqa: SIM115
        sys.stdout, sys.stderr = (open(os.dup(number), "w", encoding="utf-8") for number in (1, 2))  # noqa: SIM115
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(KILLED)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 2))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESSES, used + ADDRESSES))
        os.chdir(folder)
        os.environ.update({"HOME": str(folder), "FORETRAIN_REPORT_MESSAGES": "1", **environment})
        sys.argv = ["foretrain", *arguments]
        known = set(sys.modules)
        code = _main()
        with contextlib.suppress(OSError):
            (said[0].parent / "modules").write_text("\n".join(set(sys.modules) - known))
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _main() -> int:
    from foretrain.cli import main

    try:
        main()
        return 0
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else int(leave.code is not None)


def import_all() -> None:
    """Import foretrain's modules, so that no command need, and let typer build its commands once."""
    import typer.main

    import foretrain

    for module in pkgutil.walk_packages(foretrain.__path__, "foretrain."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)
    from foretrain.cli.app import app

    typer.main.get_command = functools.cache(typer.main.get_command)
    typer.main.get_command(app)
    gc.collect()
    gc.freeze()  # else collections would copy pages in every process


def import_found(modules: Path) -> None:
    """Import what the last command imported, so that the next ones need not."""
    if not modules.exists():
        return
    for name in sorted(modules.read_text().split()):
        if name.partition(".")[0] in (
            "foretrain",
            "pandas",
            "pyarrow",
            "numpy",
            "torch",
            "yaml",
            "safetensors",
            "openpyxl",
            "huggingface_hub",
            "xml",
            "zipfile",
            "scipy",
            "tensorboard",
            "exchange_calendars",
        ):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    modules.unlink()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
