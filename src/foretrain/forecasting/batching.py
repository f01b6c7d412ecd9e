"""Forecasts of many windows: like lengths together, results in input order, one transfer to the host a batch.

# N windows, V variates, H horizon, Q levels
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from foretrain.data.windows import FloatArray, IntArray, Window, stack_windows
from foretrain.errors import ConfigError, ModelError
from foretrain.models.base import Batch, Forecast, Forecaster, move
from foretrain.nn.quantiles import check_levels

MOST_PADDING = 1.25  # a batch's longest context over its shortest, counted in buckets; beyond it padding costs more
FEWEST_ROWS = 32  # a batch of like lengths smaller than this still takes in the next length, as small batches are slow
MOST_CPU_ROWS = 64  # a CPU's passes stay in its cache: 10% faster at width 64, no slower at width 512, less memory


class Plan(NamedTuple):
    """Which windows share a batch."""

    windows: IntArray  # indices into the list of windows
    rows: int


def forecast_windows(
    model: Forecaster,
    windows: Sequence[Window],
    prediction_length: int,
    quantile_levels: Sequence[float],
    *,
    batch_size: int = 256,
    context_length: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    num_samples: int | None = None,
    seed: int = 0,
    options: Any = None,
    progress: Callable[[int], None] | None = None,
) -> list[FloatArray]:
    """Quantile forecasts, one (targets, H, Q) array a window, in the order of the windows.

    batch_size counts rows, covariates included (a CPU takes fewer at a time); a window is never divided. Windows of
    like length share a batch, so results do not depend on order or batch_size (up to rounding), except where
    options.cross_learning is set: then batches are filled in input order, because the batch is the input. On a GPU
    that runs out of memory batches are halved, with a warning. device None is where the model is; dtype bfloat16 or
    float16 runs under autocast; progress is called with the number of windows each batch finished. Only the newest
    context_length steps (at most the model's own) are used. Raises ConfigError for impossible arguments.
    """
    levels = check_levels(quantile_levels)
    if not isinstance(prediction_length, int | np.integer) or prediction_length < 1 or batch_size < 1:
        raise ConfigError(
            f"prediction_length ({prediction_length}) and batch_size ({batch_size}) must be whole and at least 1."
        )
    longest = clip_context(model, context_length)
    where = torch.device(device) if device is not None else next(model.parameters()).device
    together = bool(getattr(options, "cross_learning", False))
    rows = batch_size if together or where.type != "cpu" else min(batch_size, MOST_CPU_ROWS)
    batches = plan(windows, rows, longest, model.bucket_length, together)
    results: list[FloatArray | None] = [None] * len(windows)

    def launch(chosen: IntArray) -> Forecast:
        batch = model.collate(stack_windows([windows[i] for i in chosen], prediction_length, longest))
        return model.forecast(
            _send(batch, where), prediction_length, levels, num_samples=num_samples, seed=seed, options=options
        )

    def collect(chosen: IntArray, quantiles: Tensor) -> None:
        values = quantiles.float().cpu().numpy()
        first = 0
        for i in chosen:
            results[i] = values[first : first + windows[i].num_targets]
            first += windows[i].num_targets
        if progress is not None:
            progress(len(chosen))

    waiting: tuple[IntArray, Tensor] | None = None
    with _evaluating(model), _precision(where, dtype):
        for chosen, forecast in _run(batches, launch, together):
            # The next batch is launched before the last one is read, so that the device does not wait for the host.
            if waiting is not None:
                collect(*waiting)
            waiting = (chosen, forecast.quantiles)
        if waiting is not None:
            collect(*waiting)
    return [result for result in results if result is not None]


def clip_context(model: Forecaster, context_length: int | None) -> int:
    """The context length in use: as asked, at most the model's own (with a warning). Raises ConfigError below 1."""
    longest = model.max_context_length
    if context_length is None:
        return longest
    if context_length < 1:
        raise ConfigError(f"context_length is {context_length}; it counts steps and is at least 1.")
    if context_length > longest:
        warnings.warn(
            f"context_length {context_length} is more than the model's {longest}; using {longest}.", stacklevel=3
        )
    return min(context_length, longest)


def plan(
    windows: Sequence[Window], batch_size: int, context_length: int, bucket_length: int, together: bool
) -> list[Plan]:
    """Batches of at least one window each and (the last window aside) fewer than batch_size rows.

    Longest contexts come first: a batch too big for the device is met at once. With `together` order is kept.
    """
    rows = np.array([len(w.context) for w in windows], np.int64)
    if together:
        return _fill(np.arange(len(windows)), rows, batch_size, None)
    steps = np.array([min(w.context.shape[1], context_length) for w in windows], np.int64)
    buckets = -(-steps // bucket_length)
    order = np.argsort(-buckets, kind="stable")
    return _fill(order, rows, batch_size, buckets)


def _fill(order: IntArray, rows: IntArray, batch_size: int, buckets: IntArray | None) -> list[Plan]:
    batches: list[Plan] = []
    begin = filled = 0
    for at, window in enumerate(order):
        full = filled >= batch_size
        if buckets is not None and filled and not full:
            longest, own = buckets[order[begin]], buckets[window]
            full = longest > own * MOST_PADDING or (own != longest and filled >= FEWEST_ROWS)
        if full:
            batches.append(Plan(order[begin:at], filled))
            begin, filled = at, 0
        filled += int(rows[window])
    if filled:
        batches.append(Plan(order[begin:], filled))
    return batches


def _run(
    batches: list[Plan], launch: Callable[[IntArray], Forecast], together: bool
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
            warnings.warn(f"out of memory with {batch.rows} rows in a batch; going on with {most}.", stacklevel=2)
            queue.append(batch)
            continue
        yield batch.windows, forecast


def _halves(batch: Plan) -> list[Plan]:
    middle = len(batch.windows) // 2
    share = batch.rows * middle // len(batch.windows)
    return [Plan(batch.windows[middle:], batch.rows - share), Plan(batch.windows[:middle], share)]


def _send(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cuda":
        batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
    return move(batch, device)


@contextmanager
def _evaluating(model: Forecaster) -> Iterator[None]:
    """Evaluation mode without gradients, the training mode restored afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def _precision(device: torch.device, dtype: torch.dtype | None) -> Any:
    if dtype is None or dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)
