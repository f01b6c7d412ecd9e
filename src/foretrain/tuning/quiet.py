"""Keeps a trial off the terminal: what it would print and log goes into a file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path


@contextmanager
def quiet(path: Path) -> Iterator[None]:
    """While entered, append all output of Python and the messages of the library to a file."""
    log = logging.getLogger("foretrain")
    handlers, propagate = log.handlers[:], log.propagate
    with path.open("a", encoding="utf-8") as file:
        log.handlers, log.propagate = [logging.StreamHandler(file)], False
        try:
            with redirect_stdout(file), redirect_stderr(file):
                yield
        finally:
            log.handlers, log.propagate = handlers, propagate
