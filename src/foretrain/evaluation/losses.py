"""A model's losses over the windows of a panel, which validation reports beside, or instead of, forecast metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from foretrain.data.windows import Window, stack_windows
from foretrain.evaluation.panel import ShardedWindows
from foretrain.models.base import Batch, Loss, Trainable, move

NATIVE_UNIT = "the training loss's own"
Sums = dict[str, tuple[float, float]]  # name -> (sum of losses, sum of weights)


def loss_units(model: Trainable) -> dict[str, str]:
    """Return the unit of each loss that validation_losses gives: of the run's objective if it has one, else native."""
    if model.objective is not None:
        return model.objective.units
    return dict.fromkeys(model.validation_names, NATIVE_UNIT)


def validation_losses(sharded: ShardedWindows, model: Trainable, dtype: torch.dtype | None = None) -> dict[str, float]:
    """Return {name: sum of losses / sum of weights} over all windows, without dropout; NaN if the weights sum to 0.

    The losses are those of Trainable.validation_losses, or the metrics of the run's objective if it replaces the
    family's native loss. All processes of the world call this together, and each gets the same numbers.

    Args:
        sharded: the windows to score.
        model: the model; its training mode is restored.
        dtype: autocast to bfloat16 or float16; None = no autocast.
    """
    device = next(model.parameters()).device
    panel = sharded.panel

    def work(chunk: int) -> list[Sums]:
        found = []
        for windows in _batches(sharded.windows(chunk), sharded.batch_size):
            batch = model.collate(stack_windows(windows, panel.prediction_length, panel.context_length))
            with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
                losses = _losses(model, move(batch, device))
            found.append({name: (float(loss.total), float(loss.weight)) for name, loss in losses.items()})
        return found

    training = model.training
    model.eval()
    try:
        with torch.no_grad():  # not inference mode: tables that the model caches must remain usable in training
            parts = [sums for chunk in sharded.map(work) for sums in chunk]
    finally:
        model.train(training)
    return {name: _mean([part[name] for part in parts]) for name in loss_units(model)}


def _losses(model: Trainable, batch: Batch) -> dict[str, Loss]:
    if model.objective is None:
        return model.validation_losses(batch)
    return model.objective.metrics(model.predict(batch))


def _mean(pairs: Sequence[tuple[float, float]]) -> float:
    weight = sum(pair[1] for pair in pairs)
    return sum(pair[0] for pair in pairs) / weight if weight else float("nan")


def _batches(windows: Sequence[Window], batch_size: int) -> Iterator[list[Window]]:
    """Yield windows in order, in batches of at most batch_size rows and at least one window."""
    batch: list[Window] = []
    rows = 0
    for window in windows:
        if batch and rows + len(window.context) > batch_size:
            yield batch
            batch, rows = [], 0
        batch.append(window)
        rows += len(window.context)
    if batch:
        yield batch
