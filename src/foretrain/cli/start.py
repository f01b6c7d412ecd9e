"""Says that a command is starting, if that takes long. Imports nothing heavy."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from foretrain.distributed.launchers import speaks

PATIENCE = 2.0  # seconds
_under_way = 0  # importing() that are entered


@contextmanager
def importing(patience: float | None = None) -> Iterator[None]:
    """While entered, print a line on rank 0 if it takes longer than `patience` seconds (default: PATIENCE).

    A command has begun nothing then that a signal would have to clean up.
    """
    global _under_way

    def say() -> None:
        with suppress(OSError):  # the reader of a pipe has closed it
            print("importing PyTorch (a first time, or a busy disk, takes longer) ...", flush=True)

    timer = threading.Timer(PATIENCE if patience is None else patience, say)
    timer.daemon = True
    if speaks(os.environ):
        timer.start()
    _under_way += 1
    try:
        yield
    finally:
        _under_way -= 1
        timer.cancel()


def nothing_begun() -> bool:
    """Return True while a command only imports."""
    return _under_way > 0
