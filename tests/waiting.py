"""How tests wait for other processes: for a condition, with one deadline that no busy machine reaches."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

DEADLINE = 600.0  # seconds; what takes longer never comes


def wait_until(condition: Callable[[], Any], process: subprocess.Popen[Any] | None = None) -> None:
    """Until the condition holds. Fails past the deadline, and at once where the process that is to fulfil it ends."""
    end = time.monotonic() + DEADLINE
    while not condition():
        ended = process is not None and process.poll() is not None
        if ended and not condition():  # it may have come true just before
            raise AssertionError(f"the process ended with code {process.returncode} before what was waited for")
        assert time.monotonic() < end, f"what was waited for did not come in {DEADLINE:.0f} s"
        time.sleep(0.005)


def as_from_a_terminal() -> None:
    """For preexec_fn: signals as a terminal's command has them.

    A suite under nohup hands down to what it starts that SIGHUP is ignored; one in a script's background, SIGINT.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def end(code: int = 0) -> None:
    """Leave a process of a group, all being written and closed.

    In an ordinary exit torch's threads of the group are now and then still running when they are torn down ("terminate
    called without an active exception"), and the code would be that of an abort.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_command(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    while_it_runs: Callable[[], Any] | None = None,
) -> subprocess.CompletedProcess[str]:
    """A command's end, with its stdout and stderr as one text. What it started is killed if it outlives the deadline.

    environment is added to this process', with one thread for each process.
    """
    with start_command(command, environment=environment, cwd=cwd) as process:
        try:
            if while_it_runs is not None:
                while_it_runs()
            text, _ = process.communicate(timeout=DEADLINE)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(list(command), process.returncode, text)


def start_command(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: Path | None = None,
) -> subprocess.Popen[str]:
    """A command in a process group of its own, whose stdout and stderr go to a file, or to one pipe."""
    with contextlib.nullcontext(subprocess.PIPE) if output is None else output.open("wb") as stdout:
        return subprocess.Popen(
            list(command),
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **(environment or {})},
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=as_from_a_terminal,
        )


def torchrun(processes: int, *words: object, options: Sequence[str] = ("--standalone",)) -> list[str]:
    """The command that starts a script or `-m module` with its arguments in some processes on this host."""
    launcher = [sys.executable, "-m", "torch.distributed.run", *options, f"--nproc-per-node={processes}"]
    return [*launcher, *map(str, words)]
