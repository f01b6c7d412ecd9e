"""Micro-batches in the order of the plan, prepared ahead by a thread and copied ahead to a GPU."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from foretrain.data.buckets import Buckets
from foretrain.data.windows import Windows
from foretrain.distributed.world import World
from foretrain.models.base import Batch, Trainable, move
from foretrain.models.types import WindowSource
from foretrain.training.settings import MicroBatch, StepPlan, TrainingConfig


def stream_of(source: Any, config: TrainingConfig) -> WindowSource | Buckets:
    """What a run's micro-batches are cut from: a source's windows or, with a token budget, its buckets.

    Raises ConfigError where the source cannot be had in buckets.
    """
    budget = config.token_budget
    if budget is None:
        return source
    return source.in_buckets(budget.length_buckets, budget.horizon_buckets, budget.max_tokens_per_batch)


def describe_stream(stream: WindowSource | Buckets) -> list[str]:
    """Its buckets, where it has some."""
    return stream.describe() if isinstance(stream, Buckets) else []


class PreparedBatch(NamedTuple):
    """A micro-batch ready for the model."""

    piece: MicroBatch
    batch: Batch
    windows: int  # without filling
    rows: int  # of a window, on average
    context_length: int
    prediction_length: int
    sent: Any = None  # event of the copy to a GPU, where the batch lies then; None = it is still to be moved

    def on(self, device: torch.device) -> Batch:
        """The batch on a device, safe to use and to let go of on the current stream."""
        if self.sent is None:
            return move(self.batch, device)
        stream = torch.cuda.current_stream(device)
        stream.wait_event(self.sent)
        for tensor in self.batch.values():
            tensor.record_stream(stream)  # its memory is another stream's, which must not reuse it before we are done
        return self.batch


class DevicePrefetcher:
    """Copies batches to a GPU on a stream of its own, beside the computation; for other devices it does nothing."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, prepared: PreparedBatch) -> PreparedBatch:
        """The same with its batch on the way."""
        if self._stream is None:
            return prepared
        with torch.cuda.stream(self._stream):
            batch = move(prepared.batch, self.device)
        return prepared._replace(batch=batch, sent=self._stream.record_event())


class BatchIterator:
    """An iterator over prepared micro-batches; depth > 0 keeps so many ready in a thread, and with a sender on their
    device. Close it when done.

    The thread changes when a batch is made, never which: its content depends on the piece alone.
    """

    def __init__(
        self,
        prepare: Callable[[MicroBatch], PreparedBatch],
        pieces: Iterator[MicroBatch],
        depth: int,
        send: Callable[[PreparedBatch], PreparedBatch] | None = None,
    ) -> None:
        self._prepare, self._pieces, self._send = prepare, pieces, send
        self._stop = threading.Event()
        self._ready: queue.Queue[Any] = queue.Queue(maxsize=max(depth, 1))
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True) if depth else None
        if self._thread:
            self._thread.start()

    def __iter__(self) -> BatchIterator:
        return self

    def __next__(self) -> PreparedBatch:
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
                prepared = self._prepare(piece)
                if not self._hand_over(self._send(prepared) if self._send else prepared):
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


class BatchLoader:
    """A run's micro-batches: from the source's windows to tensors that are ready for the model."""

    def __init__(self, model: Trainable, source: Any, config: TrainingConfig, world: World) -> None:
        self.model, self.config, self.world = model, config, world
        self.stream = stream_of(source, config)

    @property
    def shapes(self) -> int | None:
        """Of batches, where they are known."""
        return len(self.stream.buckets) if isinstance(self.stream, Buckets) else None

    def begin(self, plan: StepPlan, step: int, offset: int) -> BatchIterator:
        """This rank's micro-batches from a step on; offset counts units that roll-backs passed over."""
        pieces = (
            piece
            for k in range(step, plan.steps)
            for piece in plan.for_rank(k, self.world.rank, self.world.size, offset)
        )
        ahead = self.config.prefetch
        if ahead is None:
            ahead = 2 if self.world.device.type == "cuda" else 0
        return BatchIterator(self.prepare, pieces, ahead, DevicePrefetcher(self.world.device))

    def windows(self, piece: MicroBatch) -> Windows:
        """What a micro-batch is made of."""
        return self.stream.windows(piece.first, piece.count)

    def prepare(self, piece: MicroBatch) -> PreparedBatch:
        """A micro-batch, on the CPU."""
        windows = self.windows(piece)
        rows = max(round(len(windows.context) / len(windows)), 1)
        lengths = windows.context.shape[1], windows.future.shape[1]
        return PreparedBatch(piece, self._collated(windows), len(windows) - windows.num_padding_windows, rows, *lengths)

    def blanks(self) -> Iterator[Batch]:
        """One batch of every shape that is known to come, with nothing to learn from."""
        assert isinstance(self.stream, Buckets)
        for number in range(len(self.stream.buckets)):
            yield self._collated(self.stream.blank(number))

    def _collated(self, windows: Windows) -> Batch:
        batch = self.model.collate(windows)
        if self.world.device.type == "cuda":
            batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
        return batch
