"""Signals that stop a run: finish the step, write a checkpoint, exit with the code of the signal.

Where a signal arrives decides what it does. While nothing has been learnt since the start (preparation, warm-up, the
first step, which may compile) it ends the run at once; a validation is broken off, to be repeated later; a step or a
checkpoint is finished first.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, NamedTuple

from foretrain.distributed.watch import STOPPING, Watchdog
from foretrain.errors import Interrupted
from foretrain.processes import in_import, send_again


class StopRequests(NamedTuple):
    """Requests to stop or to checkpoint after this step: 0 or 1 of this rank or, summed, the number of ranks."""

    interrupt: int = 0  # Ctrl-C
    terminate: int = 0  # SIGTERM, SIGHUP or SIGUSR1
    time_limit: int = 0  # max_minutes are over
    checkpoint: int = 0  # checkpoint_minutes are over
    failed_save: int = 0  # a checkpoint could not be written in the background
    alarm: int = 0  # an alarm ends the run (training.alarms: stop)


NO_STOPS = StopRequests()


class ValidationInterrupted(BaseException):
    """Raised by the signal handler inside SignalHandler.interruptible(): the validation is dropped and repeated later.

    A BaseException, so that no `except Exception` inside a validation catches it.
    """


class SignalHandler:
    """Context manager that records signals instead of letting them end Python: SIGINT (Ctrl-C, exit code 130), and with
    code 143 SIGTERM, SIGHUP (a closed terminal) and SIGUSR1 (SLURM's, ahead of the time limit).

    A second Ctrl-C aborts at once. A signal that is ignored, such as SIGHUP under nohup, stays ignored. One that
    nothing has acted on when the block ends without an error has its usual effect then.

    watch: passes signals of other ranks on to this one.
    """

    def __init__(self, watch: Watchdog | None = None) -> None:
        self.received: dict[int, float] = {}  # signal number: time.monotonic() of its first arrival
        self._previous: dict[int, Any] = {}
        self._raise: Callable[[], BaseException] | None = None  # what a signal raises now
        self._watch, self._stack = watch, ExitStack()

    def __enter__(self) -> SignalHandler:
        main = threading.current_thread() is threading.main_thread()
        if main:  # Python allows handlers nowhere else
            caught = [n for n in STOPPING if signal.getsignal(n) != signal.SIG_IGN]
            self._previous = {n: signal.signal(n, self._handle) for n in caught}
        if main and self._watch is not None:
            self._stack.enter_context(self._watch.listening(self._pass_on))
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        self._stack.close()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if kind is None and self.received:
            signal.raise_signal(next(iter(self.received)))

    @property
    def flags(self) -> tuple[int, int]:
        """(1 if SIGINT was received else 0, 1 if another signal was received else 0)."""
        return int(signal.SIGINT in self.received), int(any(n != signal.SIGINT for n in self.received))

    @contextmanager
    def interruptible(self, enabled: bool = True) -> Iterator[None]:
        """Let signals raise ValidationInterrupted in the block, if enabled; an earlier signal raises it on entry."""
        with self._raising(ValidationInterrupted if enabled else None):
            yield

    @contextmanager
    def at_once(self, enabled: bool = True) -> Iterator[None]:
        """Let signals raise Interrupted in the block, where nothing is to be saved; an earlier one does on entry."""
        with self._raising(self._nothing_to_save if enabled else None):
            yield

    @contextmanager
    def _raising(self, error: Callable[[], BaseException] | None) -> Iterator[None]:
        if error is not None and self.received:
            raise error()
        self._raise = error
        try:
            yield
        finally:
            self._raise = None

    def _nothing_to_save(self) -> Interrupted:
        code = 130 if signal.SIGINT in self.received else 143
        return Interrupted(code, "stopped before the first step had ended, so that there is nothing to save")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first = self.received.get(number)
        # The terminal sends Ctrl-C to all processes, and torchrun forwards it to its workers: one press, two signals.
        # A second press comes later than that.
        if number == signal.SIGINT and first is not None and time.monotonic() - first > 1.0:
            raise KeyboardInterrupt
        self.received.setdefault(number, time.monotonic())
        if self._raise is not None and in_import(frame):
            send_again(number)
        elif self._raise is not None:
            error, self._raise = self._raise, None
            raise error()

    def _pass_on(self, number: int) -> None:
        """Let the main thread have a signal of another rank, unless one came by itself."""
        if not self.received and number in self._previous:
            signal.pthread_kill(threading.main_thread().ident or 0, number)
