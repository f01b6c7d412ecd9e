"""Batch loading: micro-batches in the order of the plan, prepared by a background thread and prefetched to a GPU."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from foretrain.data.buckets import MicroBatches
from foretrain.data.synthetic.generated import GeneratedSource
from foretrain.data.windows import Windows
from foretrain.distributed.world import World
from foretrain.errors import ConfigError
from foretrain.models.base import Batch, Trainable, move
from foretrain.models.types import WindowSource
from foretrain.training.ahead import AheadOfTraining
from foretrain.training.settings import MicroBatch, StepPlan, TrainingConfig, plan_run


def stream_of(source: Any, config: TrainingConfig) -> WindowSource | MicroBatches:
    """Return where micro-batches come from: the source itself, with a token budget its buckets, or a generated stream.

    Raises ConfigError if the source cannot be sorted into buckets, or if settings of batches contradict the source.
    """
    budget = config.token_budget
    if isinstance(source, GeneratedSource):
        _check_generated(config)
        return source.stream
    if budget is None:
        return source
    assert budget.max_tokens_per_batch != "auto", "auto.settle comes first"
    return source.in_buckets(
        budget.length_buckets,
        budget.horizon_buckets,
        budget.max_tokens_per_batch,
        max_windows=budget.max_windows_per_batch,
        draw_horizons=budget.draw_horizons,
    )


def _check_generated(config: TrainingConfig) -> None:
    fields = type(config).model_fields
    others = ("token_budget", "batch_size", "micro_batch_size")
    given = [name for name in others if getattr(config, name) != fields[name].default]
    if given:
        raise ConfigError(
            f"training.{given[0]}: no effect beside data.generated, whose max_tokens, max_windows and "
            "micro_batches_per_step make the batches. Leave it out."
        )
    if (key := config.epoch_key) is not None:
        instead = "training.max_steps" if key == "epochs" else "a number of steps"
        raise ConfigError(f"training.{key}: generated series have no end, and so no epochs. Give {instead}.")


def describe_stream(stream: WindowSource | MicroBatches) -> list[str]:
    """Return lines that describe the micro-batches; none for a stream of windows."""
    return stream.describe() if isinstance(stream, MicroBatches) else []


def plan_of(
    stream: WindowSource | MicroBatches, config: TrainingConfig, world_size: int, micro_batch_size: int | None = None
) -> StepPlan:
    """Return the steps and micro-batches of a run on a stream; arguments and errors as of settings.plan_run."""
    return plan_run(
        config,
        epoch_length=stream.epoch_length,
        world_size=world_size,
        micro_batch_size=micro_batch_size,
        micro_batches=stream.per_step if isinstance(stream, MicroBatches) else None,
    )


def prefetch_depth(config: TrainingConfig, device: torch.device) -> int:
    """Return how many batches a thread prepares in advance; 0 = there is none."""
    if config.prefetch is not None:
        return config.prefetch
    return 2 if device.type == "cuda" else 0


class PreparedBatch(NamedTuple):
    """A micro-batch with its tensors, ready for the model."""

    micro_batch: MicroBatch
    batch: Batch
    windows: int  # without padding windows
    rows: int  # mean rows per window
    context_length: int
    prediction_length: int
    padding_windows: int = 0  # that only fill the batch up to its shape
    copied: Any = None  # CUDA event of a prefetch: batch is on the GPU once it completes; None = batch is on the CPU

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device, safe to use and to free on the current stream."""
        if self.copied is None:
            return move(self.batch, device)
        stream = torch.cuda.current_stream(device)
        stream.wait_event(self.copied)
        for tensor in self.batch.values():
            tensor.record_stream(stream)  # the copy stream, which allocated it, must not reuse its memory too early
        return self.batch


class DevicePrefetcher:
    """Copies batches to a GPU on a separate CUDA stream, in parallel with the computation; a no-op on other devices."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, prepared: PreparedBatch) -> PreparedBatch:
        """Start the copy and return the batch with the event that marks its end."""
        if self._stream is None:
            return prepared
        with torch.cuda.stream(self._stream):
            batch = move(prepared.batch, self.device)
        return prepared._replace(batch=batch, copied=self._stream.record_event())


class BatchIterator:
    """An iterator over prepared micro-batches. Close it when done.

    With depth > 0 a background thread keeps up to `depth` of them ready and passes each through `prefetch`. The thread
    changes when a batch is made, not its content, which depends on the micro-batch alone.
    """

    def __init__(
        self,
        prepare: Callable[[MicroBatch], PreparedBatch],
        micro_batches: Iterator[MicroBatch],
        depth: int,
        prefetch: Callable[[PreparedBatch], PreparedBatch] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self._prepare, self._micro_batches, self._prefetch = prepare, micro_batches, prefetch
        self._on_close = on_close
        self._stop = threading.Event()
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=max(depth, 1))
        self._thread = threading.Thread(target=self._fill_queue, name="batches", daemon=True) if depth else None
        if self._thread:
            self._thread.start()

    def __iter__(self) -> BatchIterator:
        return self

    def __next__(self) -> PreparedBatch:
        """Return the next micro-batch. Raises what preparing it raised, and StopIteration after the last."""
        if self._thread is None:
            return self._prepare(next(self._micro_batches))
        item = self._queue.get()
        if isinstance(item, BaseException):
            self._queue.put(item)  # so that the next call raises it again
            raise item
        return item

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._stop.set()
        if self._thread:
            self._thread.join()
        if self._on_close:
            self._on_close()

    def _fill_queue(self) -> None:
        try:
            for micro_batch in self._micro_batches:
                prepared = self._prepare(micro_batch)
                if not self._put(self._prefetch(prepared) if self._prefetch else prepared):
                    return
            self._put(StopIteration())
        except Exception as error:  # any: the consumer raises it where it waits
            self._put(error)

    def _put(self, item: Any) -> bool:
        """Put an item into the queue; return False if the iterator was closed first."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


class BatchLoader:
    """Loads the micro-batches of a run: reads windows from the source and collates them into tensors for the model."""

    def __init__(self, model: Trainable, source: Any, config: TrainingConfig, world: World) -> None:
        self.model, self.config, self.world = model, config, world
        self.stream = stream_of(source, config)

    @property
    def num_shapes(self) -> int | None:
        """Number of different batch shapes; None if it is not known in advance."""
        return len(self.stream.shapes) if isinstance(self.stream, MicroBatches) else None

    def iterate(self, plan: StepPlan, step: int, offset: int) -> BatchIterator:
        """Return an iterator over this rank's micro-batches from a step on.

        offset is the number of units (windows or micro-batches) that rollbacks have skipped.
        """
        micro_batches = (
            micro_batch
            for k in range(step, plan.steps)
            for micro_batch in plan.for_rank(k, self.world.rank, self.world.size, offset)
        )
        depth = prefetch_depth(self.config, self.world.device)
        prefetch = DevicePrefetcher(self.world.device)
        if not isinstance(self.stream, MicroBatches) or not self.stream.workers:
            return BatchIterator(self.prepare, micro_batches, depth, prefetch)
        micro_batches, same = itertools.tee(micro_batches)
        numbers = (micro_batch.first for micro_batch in same)
        ahead = AheadOfTraining(self.stream, numbers, self.stream.workers)
        return BatchIterator(
            lambda micro_batch: self._prepared(micro_batch, next(ahead)), micro_batches, depth, prefetch, ahead.close
        )

    def windows(self, micro_batch: MicroBatch) -> Windows:
        """Return the windows of a micro-batch."""
        return self.stream.windows(micro_batch.first, micro_batch.count)

    def prepare(self, micro_batch: MicroBatch) -> PreparedBatch:
        """Read and collate a micro-batch, on the CPU."""
        return self._prepared(micro_batch, self.windows(micro_batch))

    def _prepared(self, micro_batch: MicroBatch, windows: Windows) -> PreparedBatch:
        num_windows = len(windows) - windows.num_padding_windows
        rows = max(round(len(windows.context) / len(windows)), 1)
        lengths = windows.context.shape[1], windows.future.shape[1]
        padding = windows.num_padding_windows
        return PreparedBatch(micro_batch, self._collate(windows), num_windows, rows, *lengths, padding)

    def blank_batches(self) -> Iterator[Batch]:
        """Yield one batch of every shape of a stream of micro-batches, without observed values: for warm-up."""
        assert isinstance(self.stream, MicroBatches)
        for shape in self.stream.shapes:
            yield self._collate(self.stream.padding_batch(*shape))

    def _collate(self, windows: Windows) -> Batch:
        batch = self.model.collate(windows)
        if self.world.device.type == "cuda":
            batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
        return batch
