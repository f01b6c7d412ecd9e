"""Micro-batches in the order of the plan, prepared ahead by a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from foretrain.data.windows import Windows
from foretrain.models.base import Batch
from foretrain.training.settings import Piece


class Source(Protocol):
    """What the trainer asks of data: window n of a run is a pure function of (seed, n)."""

    def windows(self, first: int, count: int) -> Windows:
        """Windows [first, first + count) of the run."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of the data and of how windows are drawn from it."""
        ...

    @property
    def epoch_length(self) -> int:
        """Windows in one pass over the data."""
        ...


class Prepared(NamedTuple):
    """A micro-batch ready for the model."""

    piece: Piece
    batch: Batch
    rows: int
    context_length: int
    prediction_length: int


class Batches:
    """An iterator over prepared micro-batches; depth > 0 keeps so many ready in a thread. Close it when done.

    The thread changes when a batch is made, never which: its content depends on the piece alone.
    """

    def __init__(self, prepare: Callable[[Piece], Prepared], pieces: Iterator[Piece], depth: int) -> None:
        self._prepare, self._pieces, self._depth = prepare, pieces, depth
        self._stop = threading.Event()
        self._ready: queue.Queue[Any] = queue.Queue(maxsize=max(depth, 1))
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True) if depth else None
        if self._thread:
            self._thread.start()

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Prepared:
        """The next micro-batch. Raises whatever preparing it raised, and StopIteration after the last."""
        if self._thread is None:
            return self._prepare(next(self._pieces))
        item = self._ready.get()
        if isinstance(item, BaseException):
            self._ready.put(item)  # asked again, it says the same
            raise item
        return item

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._stop.set()
        if self._thread:
            self._thread.join()

    def _work(self) -> None:
        try:
            for piece in self._pieces:
                if not self._hand_over(self._prepare(piece)):
                    return
            self._hand_over(StopIteration())
        except Exception as error:
            self._hand_over(error)

    def _hand_over(self, item: Any) -> bool:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
