"""Says what is being done before the first step of a run, if it takes long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from foretrain.distributed.world import World
from foretrain.training.monitor import RunConsole

PATIENCE = 2.0  # seconds


@contextmanager
def announced(text: str, world: World, patience: float | None = None) -> Iterator[None]:
    """While entered, print a line on rank 0 if it takes longer than `patience` seconds (default: PATIENCE)."""
    if not world.is_main:
        yield
        return
    console = RunConsole(highlight=False)
    timer = threading.Timer(
        PATIENCE if patience is None else patience,
        lambda: console.print(f"{text} ...", markup=False, soft_wrap=True),
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
