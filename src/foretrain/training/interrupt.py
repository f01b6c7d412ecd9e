"""Ctrl-C and SIGTERM: finish the step, checkpoint, leave with the exit code that says so."""

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
_HANGUP = tuple(filter(None, [getattr(signal, "SIGHUP", None)]))  # a closed terminal; leaves with SIGTERM's code


class ValidationInterrupted(BaseException):
    """Raised by the handler inside Signals.cutting(): leave what can be done again."""


class SignalHandler:
    """While entered, notes SIGINT, SIGTERM and a closed terminal's SIGHUP instead of dying of them.

    A second Ctrl-C aborts at once. Under nohup SIGHUP stays ignored.
    """

    def __init__(self) -> None:
        self.received: dict[int, float] = {}
        self._before: dict[int, Any] = {}
        self._cutting = False

    def __enter__(self) -> SignalHandler:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            caught = [*EXIT_CODES, *_HANGUP]
            self._before = {n: signal.signal(n, self._note) for n in caught if signal.getsignal(n) != signal.SIG_IGN}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def flags(self) -> tuple[int, int]:
        """(1 if SIGINT came, 1 if SIGTERM or SIGHUP came)."""
        return int(signal.SIGINT in self.received), int(any(n in self.received for n in (signal.SIGTERM, *_HANGUP)))

    @contextmanager
    def cutting(self, enabled: bool) -> Iterator[None]:
        """Inside, if enabled, a signal (also one that has come before) raises Cut at once."""
        if enabled and self.received:
            raise ValidationInterrupted
        self._cutting = enabled
        try:
            yield
        finally:
            self._cutting = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        first = self.received.get(number)
        # torchrun passes a terminal's Ctrl-C on to processes that the terminal has signalled already: one press, two
        # signals. A second press comes later than that.
        if number == signal.SIGINT and first is not None and time.monotonic() - first > 1.0:
            raise KeyboardInterrupt
        self.received.setdefault(number, time.monotonic())
        if self._cutting:
            self._cutting = False
            raise ValidationInterrupted
