"""How tests wait for other processes: for a condition, with one deadline that no busy machine reaches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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
