"""Says that a command is starting, if that takes long. Imports nothing heavy."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from foretrain.distributed.launchers import speaks

PATIENCE = 2.0  # seconds


@contextmanager
def importing(patience: float | None = None) -> Iterator[None]:
    """While entered, print a line on rank 0 if it takes longer than `patience` seconds (default: PATIENCE)."""

    def say() -> None:
        with suppress(OSError):  # the reader of a pipe has closed it
            print("importing PyTorch (a first time, or a busy disk, takes longer) ...", flush=True)

    timer = threading.Timer(PATIENCE if patience is None else patience, say)
    timer.daemon = True
    if speaks(os.environ):
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
