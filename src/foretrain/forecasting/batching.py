"""Forecasts of many windows: similar lengths share a batch, results are in input order, one copy to the host per batch.

# N windows, V variates, S samples, H horizon, Q levels
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from foretrain.adapters.layers import merged
from foretrain.data.windows import FloatArray, IntArray, Window, stack_windows
from foretrain.errors import ModelError
from foretrain.forecasting.finish import Collected, ForecastList, Launched, without_values
from foretrain.forecasting.memory import bound_of
from foretrain.forecasting.scaling import BY_ITEM, magnitude_problem, rescaled, restored, scale_tallies
from foretrain.models import resolved
from foretrain.models.base import Batch, Forecaster, ForecastRequest, move
from foretrain.models.memory import BatchSize
from foretrain.models.request import check_context_length
from foretrain.notes import Code, Note, Tally, once, sum_tallies, warn

_log = logging.getLogger(__name__)

MAX_PADDING = 1.25  # longest context over shortest in a batch, in buckets; beyond it another batch is cheaper
MIN_ROWS = 32  # a smaller batch also takes windows of the next length, because small batches are slow
MAX_CPU_ROWS = 64  # so that a pass stays in the CPU cache: 10% faster at width 64, no slower at width 512, less memory


class BatchPlan(NamedTuple):
    """The windows that share a batch."""

    windows: IntArray  # indices into the list of windows
    size: BatchSize

    @property
    def rows(self) -> int:
        """Rows of all windows."""
        return self.size.rows


def forecast_with_warnings(
    model: Forecaster, windows: Sequence[Window], request: ForecastRequest, *, keep_samples: bool
) -> ForecastList:
    """Call forecast_paths on the model's device, and log its notes and warnings about meaningless forecasts."""
    found = forecast_paths(model, windows, request, keep_samples=keep_samples)
    longest = model.max_context_length
    steps = min(request.context_length or longest, longest)
    value_range = model.value_range if any(tally.code in BY_ITEM for tally in found.notes) else None
    _warn_of_meaningless_forecasts(windows, found.quantiles, steps, bool(request.blank_missing), value_range)
    log_tallies([tally for tally in found.notes if tally.code not in BY_ITEM])
    return found


def forecast_paths(
    model: Forecaster,
    windows: Sequence[Window],
    request: ForecastRequest,
    *,
    keep_samples: bool,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: Callable[[int], None] | None = None,
) -> ForecastList:
    """Return quantiles, the mean, the notes and (if keep_samples) the sample paths of the windows, with the request's
    output settings applied.

    request.batch_size counts rows, including covariates (fewer on a CPU); the rows of a window stay in one batch.
    Windows of similar length share a batch, and results do not depend on order or batch_size (up to rounding) unless
    the options mix items (cross_learning): then the batch is part of the input, and batches are filled in input order.
    If a GPU runs out of memory, batches are halved with a warning. device None = the model's device; dtype bfloat16 or
    float16 runs under autocast; progress is called after each batch with its number of windows. Only the newest
    context_length steps (at most the model's own limit) are used. With max_memory a batch has no more windows than the
    bound holds, and is computed in pieces (memory.py). Logs a warning if num_samples is set and the family draws no
    paths. The caller logs the notes (log_tallies). Raises ConfigError for options that the family lacks, and where one
    window, or with cross_learning one batch, takes more than the bound.
    """
    request = resolved(request, model.family)
    longest = clip_context(model, request.context_length)
    target_device = torch.device(device) if device is not None else next(model.parameters()).device
    if keep_samples and request.num_samples is None:
        request = request.changed(num_samples=model.default_samples)
    together, horizon = request.mixes_items, request.prediction_length
    rows = request.batch_size if together or target_device.type != "cpu" else min(request.batch_size, MAX_CPU_ROWS)
    bound = bound_of(model, windows, request, keep_samples=keep_samples, dtype=dtype)
    limit = None if bound is None else partial(bound.fits, model, request=request)
    batches = plan(windows, rows, longest, model.bucket_length, together, limit)
    if bound is not None:
        bound.check(model, [(batch.size, _named(windows, batch)) for batch in batches], request)
        request = request.changed(max_memory=max(bound.of_batch, 1))
    collected = Collected(windows, request, keep_samples, progress)

    rescale = model.rescales if request.rescale is None else request.rescale
    if request.rescale and model.smallest_deviation is None:
        text = f"rescale has no effect: this {model.family} model has no constant that small moves could vanish beside."
        warn(_log, Note(Code.RESCALE_UNUSED, text))

    def launch(chosen: IntArray) -> Launched:
        rows, factors = stack_windows([windows[i] for i in chosen], horizon, longest), None
        tallies, empty = scale_tallies(rows, model, rescale=rescale), without_values(rows)
        if rescale:
            rows, factors = rescaled(rows, model)
        found = model.forecast(_send(model.collate(rows), target_device), request)
        found = found if factors is None else restored(found, rows, factors)
        collected.scales = sum_tallies([*collected.scales, *tallies])
        collected.drawn |= found.samples is not None or found.mean is not None
        found = found if keep_samples else replace(found, samples=None)  # frees the memory of unused paths now
        return Launched(chosen, found, empty)

    waiting: Launched | None = None
    with once(), _evaluating(model), _precision(target_device, dtype):
        for launched in _run(batches, launch, together):
            # The next batch is launched before the last one is read, so that the device does not wait for the host.
            if waiting is not None:
                collected.add(waiting)
            waiting = launched
        if waiting is not None:
            collected.add(waiting)
    if request.num_samples is not None and windows and not collected.drawn:
        text = f"num_samples has no effect: {model.family} draws no sample paths."
        warn(_log, Note(Code.NUM_SAMPLES_UNUSED, text))
    return collected.result()


def log_tallies(tallies: Sequence[Tally]) -> None:
    """Log a warning for each tally whose event happened."""
    for note in forecast_notes(tallies, "in these forecasts: {}."):
        warn(_log, note)


def forecast_notes(tallies: Sequence[Tally], form: str) -> list[Note]:
    """Return the notes of the tallies whose event happened, each text formatted into form."""
    return [note for tally in tallies if (note := tally.note(form)) is not None]


def _warn_of_meaningless_forecasts(
    windows: Sequence[Window],
    results: Sequence[FloatArray],
    context_length: int,
    blanked: bool,
    value_range: tuple[float, float] | None,
) -> None:
    """Log a warning about forecasts of columns without a value, and of values that the model's arithmetic cannot scale.

    blanked: the forecasts of targets without a value are NaN. value_range: Forecaster.value_range; None = every value
    is in it.
    """
    by_fact: dict[tuple[Code, str], list[str]] = {}
    for window, values in zip(windows, results, strict=True):
        context = window.context[:, -context_length:]
        newest = context[: window.num_targets, -1:]
        if value_range is None and newest.size and not np.isnan(newest).any() and np.isfinite(values).all():
            continue  # as nearly all are
        rows = np.logical_and.reduce(np.isnan(context), axis=1)
        empty = rows[: window.num_targets]
        finite = bool(np.isfinite(values[~empty] if blanked else values).all())
        column = f" of {window.names[rows.argmax()]!r}" if window.names else ""
        none = f"have no value{column} in the newest {context_length:,} rows"
        if finite and empty.any() and not blanked:
            code = Code.COLUMN_EMPTY
            fact = f"have no value{column} in the context; the forecast of such a column is meaningless"
        elif finite and empty.any():
            code, fact = Code.NOTHING_TO_FORECAST_FROM, f"{none}, so the forecast is NaN"
        elif rows.any() and not finite:
            code, fact = Code.NOTHING_TO_FORECAST_FROM, f"{none}, so nothing can be forecast"
        elif value_range is not None and (problem := magnitude_problem(context, value_range)):
            code, fact = problem
        elif not finite:
            code = Code.FORECAST_NOT_FINITE
            fact = "have forecasts that are not finite; try dtype float32"
        else:
            continue
        by_fact.setdefault((code, fact), []).append(window.item_id)
    for (code, fact), items in by_fact.items():
        text = f"{len(items):,} item(s), first {items[0]!r}, {fact}."
        warn(_log, Note(code, text, {"items": len(items)}))


def clip_context(model: Forecaster, context_length: int | None) -> int:
    """Return the context length, clipped to the model's with a warning. Raises ConfigError below 1."""
    longest = model.max_context_length
    context_length = check_context_length(context_length)
    if context_length is None:
        return longest
    if context_length > longest:
        text = f"context_length {context_length} is more than the model's {longest}; using {longest}."
        warn(_log, Note(Code.CONTEXT_CLIPPED, text, {"context_length": longest}))
    return min(context_length, longest)


def plan(
    windows: Sequence[Window],
    batch_size: int,
    context_length: int,
    bucket_length: int,
    together: bool,
    fits: Callable[[BatchSize], bool] | None = None,
) -> list[BatchPlan]:
    """Return batches of one window or more; each has fewer than batch_size rows before its last window.

    The longest contexts come first, so that running out of memory shows at once. With `together`, input order is kept.
    Windows with and without time stamps never share a batch, because stacking them would drop the stamps. fits: whether
    a batch of several windows is not too large otherwise; with `together` it has no effect.
    """
    rows = np.array([len(w.context) for w in windows], np.int64)
    steps = np.array([min(w.context.shape[1], context_length) for w in windows], np.int64)
    buckets = -(-steps // bucket_length)
    fill = partial(_fill, rows=rows, buckets=buckets, bucket_length=bucket_length, batch_size=batch_size)
    if together:
        return fill(np.arange(len(windows)), fits=None, together=True)
    order = np.argsort(-buckets, kind="stable")
    timed = np.array([w.context_times is not None for w in windows], bool)[order]
    return fill(order[timed], fits=fits, together=False) + fill(order[~timed], fits=fits, together=False)


def _fill(
    order: IntArray,
    *,
    rows: IntArray,
    buckets: IntArray,
    bucket_length: int,
    batch_size: int,
    fits: Callable[[BatchSize], bool] | None,
    together: bool,
) -> list[BatchPlan]:
    def size_of(chosen: IntArray) -> BatchSize:
        widest = rows[chosen].sum() if together else rows[chosen].max()
        steps = int(buckets[chosen].max()) * bucket_length
        return BatchSize(int(rows[chosen].sum()), len(chosen), int(widest), steps)

    batches: list[BatchPlan] = []
    start = filled = 0
    for at, window in enumerate(order):
        full = filled >= batch_size
        if not together and filled and not full:
            longest, current = buckets[order[start]], buckets[window]
            full = longest > current * MAX_PADDING or (current != longest and filled >= MIN_ROWS)
        if full or (fits is not None and filled and not fits(size_of(order[start : at + 1]))):
            batches.append(BatchPlan(order[start:at], size_of(order[start:at])))
            start, filled = at, 0
        filled += int(rows[window])
    if filled:
        batches.append(BatchPlan(order[start:], size_of(order[start:])))
    return batches


def _named(windows: Sequence[Window], batch: BatchPlan) -> str:
    """Return what an error calls a batch: its only window by the item's name."""
    item = windows[batch.windows[0]].item_id
    return f"item {item!r}" if len(batch.windows) == 1 and item else f"a batch of {len(batch.windows):,} item(s)"


def _run(batches: list[BatchPlan], launch: Callable[[IntArray], Launched], together: bool) -> Iterator[Launched]:
    """Yield each batch's forecast; if one does not fit in memory, halve it and all later ones as large."""
    queue = batches[::-1]
    max_rows = max((batch.rows for batch in batches), default=0)
    while queue:
        batch = queue.pop()
        if batch.rows > max_rows and len(batch.windows) > 1:
            queue += _halves(batch)
            continue
        try:
            launched = launch(batch.windows)
        except torch.OutOfMemoryError:
            if together:
                raise ModelError(
                    f"out of memory with {batch.rows} rows in a batch. With cross_learning a smaller batch changes the "
                    "forecast, so batches are not halved automatically; choose a smaller batch_size."
                ) from None
            if len(batch.windows) == 1:
                raise ModelError(
                    f"out of memory with a single window of {batch.rows} rows; choose a smaller context_length."
                ) from None
            max_rows = max(batch.rows // 2, 1)
            torch.cuda.empty_cache()
            text = f"out of memory with {batch.rows} rows in a batch; continuing with {max_rows}."
            warn(_log, Note(Code.BATCH_HALVED, text, {"rows": batch.rows, "left": max_rows}))
            queue.append(batch)
            continue
        yield launched


def _halves(batch: BatchPlan) -> list[BatchPlan]:
    middle = len(batch.windows) // 2
    rows = batch.rows * middle // len(batch.windows)
    later = batch.size._replace(rows=batch.rows - rows, windows=len(batch.windows) - middle)
    first = batch.size._replace(rows=rows, windows=middle)
    return [BatchPlan(batch.windows[middle:], later), BatchPlan(batch.windows[:middle], first)]


def _send(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cuda":
        batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
    return move(batch, device)


@contextmanager
def _evaluating(model: Forecaster) -> Iterator[None]:
    """Set evaluation mode and inference mode and merge adapters; restore all of it on exit."""
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
