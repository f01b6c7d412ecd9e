"""Forecasts of many windows: like lengths together, results in input order, one transfer to the host a batch.

# N windows, V variates, S samples, H horizon, Q levels
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from foretrain.adapters.layers import merged
from foretrain.data.windows import FloatArray, IntArray, Window, stack_windows
from foretrain.errors import ConfigError, ModelError
from foretrain.models.base import Batch, Forecast, Forecaster, move
from foretrain.nn.quantiles import check_levels
from foretrain.notes import Code, Note, Tally, added, once, warn

_log = logging.getLogger(__name__)

MOST_PADDING = 1.25  # a batch's longest context over its shortest, counted in buckets; beyond it padding costs more
FEWEST_ROWS = 32  # a batch of like lengths smaller than this still takes in the next length, as small batches are slow
MOST_CPU_ROWS = 64  # a CPU's passes stay in its cache: 10% faster at width 64, no slower at width 512, less memory


class BatchPlan(NamedTuple):
    """Which windows share a batch."""

    windows: IntArray  # indices into the list of windows
    rows: int


@dataclass(frozen=True)
class ForecastList:
    """Forecasts of many windows, in the order of the windows and in the units of the data."""

    quantiles: list[FloatArray]  # a window: (targets, H, Q), not sorted
    mean: list[FloatArray] | None  # a window: (targets, H), where the family gives a mean of its sample paths
    samples: list[FloatArray] | None  # a window: (targets, S, H) sample paths, where they were drawn and asked for
    notes: tuple[Tally, ...]  # counts that a user must hear of, over all windows; tell_notes warns of them


def forecast_paths(
    model: Forecaster,
    windows: Sequence[Window],
    prediction_length: int,
    quantile_levels: Sequence[float],
    *,
    keep_samples: bool,
    batch_size: int = 256,
    context_length: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    num_samples: int | None = None,
    seed: int = 0,
    options: Any = None,
    progress: Callable[[int], None] | None = None,
) -> ForecastList:
    """Forecasts with everything that the family gives: quantiles, the mean, on request the paths, and its notes.

    batch_size counts rows, covariates included (a CPU takes fewer at a time); a window is never divided. Windows of
    like length share a batch, so results do not depend on order or batch_size (up to rounding), except where
    options.cross_learning is set: then batches are filled in input order, because the batch is the input. On a GPU
    that runs out of memory batches are halved, with a warning. device None is where the model is; dtype bfloat16 or
    float16 runs under autocast; progress is called with the number of windows each batch finished. Only the newest
    context_length steps (at most the model's own) are used. num_samples and seed are for families that draw paths;
    num_samples is warned of where the family draws none. The notes are the caller's to tell (tell_notes). Raises
    ConfigError for impossible arguments.
    """
    levels = check_levels(quantile_levels)
    counts = {"prediction_length": prediction_length, "batch_size": batch_size}
    for name, value in (counts if num_samples is None else counts | {"num_samples": num_samples}).items():
        if not isinstance(value, int | np.integer) or value < 1:
            raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least 1.")
    if not isinstance(seed, int | np.integer):
        raise ConfigError(f"seed is {seed!r}; it must be a whole number.")
    longest = clip_context(model, context_length)
    where = torch.device(device) if device is not None else next(model.parameters()).device
    if keep_samples and num_samples is None:
        num_samples = model.default_samples
    together = options is not None and options.mixes_items
    rows = batch_size if together or where.type != "cpu" else min(batch_size, MOST_CPU_ROWS)
    batches = plan(windows, rows, longest, model.bucket_length, together)
    collected = _Collected(windows, keep_samples, progress)

    def launch(chosen: IntArray) -> Forecast:
        batch = model.collate(stack_windows([windows[i] for i in chosen], prediction_length, longest))
        found = model.forecast(
            _send(batch, where), prediction_length, levels, num_samples=num_samples, seed=seed, options=options
        )
        collected.drawn |= found.samples is not None or found.mean is not None
        return found if keep_samples else replace(found, samples=None)  # paths nobody wants free their memory now

    waiting: tuple[IntArray, Forecast] | None = None
    with once(), _evaluating(model), _precision(where, dtype):
        for chosen, forecast in _run(batches, launch, together):
            # The next batch is launched before the last one is read, so that the device does not wait for the host.
            if waiting is not None:
                collected.add(*waiting)
            waiting = (chosen, forecast)
        if waiting is not None:
            collected.add(*waiting)
    if num_samples is not None and windows and not collected.drawn:
        text = f"num_samples has no effect: {model.family} draws no sample paths."
        warn(_log, Note(Code.NUM_SAMPLES_UNUSED, text))
    return collected.result()


def tell_notes(tallies: Sequence[Tally]) -> None:
    """Warn of what families have to say of their forecasts; nothing where nothing happened."""
    for note in forecast_notes(tallies, "in these forecasts: {}."):
        warn(_log, note)


def forecast_notes(tallies: Sequence[Tally], form: str) -> list[Note]:
    """What families have to say of their forecasts, each text put into form."""
    return [note for tally in tallies if (note := tally.note(form)) is not None]


class _Collected:
    """Results of batches, window by window."""

    def __init__(self, windows: Sequence[Window], keep_samples: bool, progress: Callable[[int], None] | None) -> None:
        self._windows, self._progress = windows, progress
        self.drawn = False  # some forecast came from sample paths
        self._parts: dict[str, dict[int, FloatArray]] = {"quantiles": {}, "mean": {}}
        if keep_samples:
            self._parts["samples"] = {}
        self._notes: tuple[Tally, ...] = ()

    def add(self, chosen: IntArray, forecast: Forecast) -> None:
        """Rows of one batch, read from the device."""
        for name, found in self._parts.items():
            tensor: Tensor | None = getattr(forecast, name)
            if tensor is None:
                continue
            values = tensor.float().cpu().numpy()
            first = 0
            for i in chosen:
                found[int(i)] = values[first : first + self._windows[i].num_targets]
                first += self._windows[i].num_targets
        self._notes = added([*self._notes, *forecast.notes])
        if self._progress is not None:
            self._progress(len(chosen))

    def result(self) -> ForecastList:
        """Everything, in the order of the windows; None for what not every batch gave."""
        count = len(self._windows)
        lists = {
            name: [found[i] for i in range(count)] if len(found) == count else None
            for name, found in self._parts.items()
        }
        return ForecastList(lists["quantiles"] or [], lists["mean"], lists.get("samples"), self._notes)


def clip_context(model: Forecaster, context_length: int | None) -> int:
    """The context length in use: as asked, at most the model's own (with a warning). Raises ConfigError below 1."""
    longest = model.max_context_length
    if context_length is None:
        return longest
    if not isinstance(context_length, int | np.integer) or context_length < 1:
        raise ConfigError(f"context_length is {context_length!r}; it counts steps and is at least 1.")
    if context_length > longest:
        text = f"context_length {context_length} is more than the model's {longest}; using {longest}."
        warn(_log, Note(Code.CONTEXT_CLIPPED, text, {"context_length": longest}))
    return min(context_length, longest)


def plan(
    windows: Sequence[Window], batch_size: int, context_length: int, bucket_length: int, together: bool
) -> list[BatchPlan]:
    """Batches of at least one window each and (the last window aside) fewer than batch_size rows.

    Longest contexts come first: a batch too big for the device is met at once. With `together` order is kept. Windows
    with time stamps never share a batch with windows without, which would cost them their stamps.
    """
    rows = np.array([len(w.context) for w in windows], np.int64)
    if together:
        return _fill(np.arange(len(windows)), rows, batch_size, None)
    steps = np.array([min(w.context.shape[1], context_length) for w in windows], np.int64)
    buckets = -(-steps // bucket_length)
    order = np.argsort(-buckets, kind="stable")
    timed = np.array([w.context_times is not None for w in windows], bool)[order]
    return _fill(order[timed], rows, batch_size, buckets) + _fill(order[~timed], rows, batch_size, buckets)


def _fill(order: IntArray, rows: IntArray, batch_size: int, buckets: IntArray | None) -> list[BatchPlan]:
    batches: list[BatchPlan] = []
    begin = filled = 0
    for at, window in enumerate(order):
        full = filled >= batch_size
        if buckets is not None and filled and not full:
            longest, own = buckets[order[begin]], buckets[window]
            full = longest > own * MOST_PADDING or (own != longest and filled >= FEWEST_ROWS)
        if full:
            batches.append(BatchPlan(order[begin:at], filled))
            begin, filled = at, 0
        filled += int(rows[window])
    if filled:
        batches.append(BatchPlan(order[begin:], filled))
    return batches


def _run(
    batches: list[BatchPlan], launch: Callable[[IntArray], Forecast], together: bool
) -> Iterator[tuple[IntArray, Forecast]]:
    """Each batch's forecast; a batch that does not fit the device's memory is halved, and all later ones cut alike."""
    queue = batches[::-1]
    most = max((batch.rows for batch in batches), default=0)
    while queue:
        batch = queue.pop()
        if batch.rows > most and len(batch.windows) > 1:
            queue += _halves(batch)
            continue
        try:
            forecast = launch(batch.windows)
        except torch.OutOfMemoryError:
            if together:
                raise ModelError(
                    f"out of memory with {batch.rows} rows in a batch. With cross_learning a smaller batch changes the "
                    "forecast, so it is not cut by itself; choose a smaller batch_size."
                ) from None
            if len(batch.windows) == 1:
                raise ModelError(
                    f"out of memory with a single window of {batch.rows} rows; choose a smaller context_length."
                ) from None
            most = max(batch.rows // 2, 1)
            torch.cuda.empty_cache()
            text = f"out of memory with {batch.rows} rows in a batch; going on with {most}."
            warn(_log, Note(Code.BATCH_HALVED, text, {"rows": batch.rows, "left": most}))
            queue.append(batch)
            continue
        yield batch.windows, forecast


def _halves(batch: BatchPlan) -> list[BatchPlan]:
    middle = len(batch.windows) // 2
    share = batch.rows * middle // len(batch.windows)
    return [BatchPlan(batch.windows[middle:], batch.rows - share), BatchPlan(batch.windows[:middle], share)]


def _send(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cuda":
        batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
    return move(batch, device)


@contextmanager
def _evaluating(model: Forecaster) -> Iterator[None]:
    """Evaluation mode without gradients, adapters in the weights; all of it as it was afterwards."""
    training = model.training
    model.eval()
    try:
        with merged(model), torch.inference_mode():
            yield
    finally:
        model.train(training)


def _precision(device: torch.device, dtype: torch.dtype | None) -> Any:
    if dtype is None or dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)
