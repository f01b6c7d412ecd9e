"""Ctrl-C and SIGTERM: finish the step, write a checkpoint, exit with the code of the signal."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from foretrain.errors import Interrupted

__all__ = ["EXIT_CODES", "Interrupted", "SignalHandler", "ValidationInterrupted"]

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
_HANGUP = tuple(filter(None, [getattr(signal, "SIGHUP", None)]))  # a closed terminal; exits with SIGTERM's code


class ValidationInterrupted(BaseException):
    """Raised by the signal handler inside SignalHandler.interruptible(): the validation is dropped and repeated later.

    A BaseException, so that no `except Exception` inside a validation catches it.
    """


class SignalHandler:
    """Context manager that records SIGINT, SIGTERM and SIGHUP (a closed terminal) instead of letting them end Python.

    A second Ctrl-C aborts at once. A signal that is ignored, such as SIGHUP under nohup, stays ignored.
    """

    def __init__(self) -> None:
        self.received: dict[int, float] = {}  # signal number: time.monotonic() of its first arrival
        self._previous: dict[int, Any] = {}
        self._interruptible = False

    def __enter__(self) -> SignalHandler:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            caught = [n for n in (*EXIT_CODES, *_HANGUP) if signal.getsignal(n) != signal.SIG_IGN]
            self._previous = {n: signal.signal(n, self._handle) for n in caught}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def flags(self) -> tuple[int, int]:
        """(1 if SIGINT was received else 0, 1 if SIGTERM or SIGHUP was received else 0)."""
        return int(signal.SIGINT in self.received), int(any(n in self.received for n in (signal.SIGTERM, *_HANGUP)))

    @contextmanager
    def interruptible(self, enabled: bool) -> Iterator[None]:
        """Let signals raise ValidationInterrupted in the block, if enabled; an earlier signal raises it on entry."""
        if enabled and self.received:
            raise ValidationInterrupted
        self._interruptible = enabled
        try:
            yield
        finally:
            self._interruptible = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first = self.received.get(number)
        # The terminal sends Ctrl-C to all processes, and torchrun forwards it to its workers: one press, two signals.
        # A second press comes later than that.
        if number == signal.SIGINT and first is not None and time.monotonic() - first > 1.0:
            raise KeyboardInterrupt
        self.received.setdefault(number, time.monotonic())
        if self._interruptible:
            self._interruptible = False
            raise ValidationInterrupted
