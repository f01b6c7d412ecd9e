"""A model's own losses over the windows of a panel: what validation reports beside, or instead of, forecasts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from foretrain.data.windows import Window, stack_windows
from foretrain.evaluation.panel import ShardedWindows
from foretrain.models.base import Batch, Loss, Trainable, move

OWN_UNIT = "the training loss's own"
Sums = dict[str, tuple[float, float]]  # name -> (sum of losses, sum of weights)


def loss_units(model: Trainable) -> dict[str, str]:
    """Keys of validation_losses, of the run's objective where it has one, with their units in words."""
    if model.objective is not None:
        return model.objective.units
    return dict.fromkeys(model.validation_names, OWN_UNIT)


def validation_losses(dealer: ShardedWindows, model: Trainable, dtype: torch.dtype | None = None) -> dict[str, float]:
    """{name: sum of losses / sum of weights} over all windows, without dropout: of Trainable.validation_losses, or of
    the metrics of the objective that a run has put in place of the family's own loss.

    Every process of the dealer's world enters it and gets the same numbers; NaN where nothing has a weight. dtype
    bfloat16 or float16 computes products in it, None in the model's own.
    """
    device = next(model.parameters()).device
    panel = dealer.panel

    def work(piece: int) -> list[Sums]:
        found = []
        for windows in _batches(dealer.windows(piece), dealer.batch_size):
            batch = model.collate(stack_windows(windows, panel.prediction_length, panel.context_length))
            with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
                losses = _losses(model, move(batch, device))
            found.append({name: (float(loss.total), float(loss.weight)) for name, loss in losses.items()})
        return found

    training = model.training
    model.eval()
    try:
        with torch.no_grad():  # not inference mode: tables that a model keeps must stay fit for training
            parts = [sums for piece in dealer.map(work) for sums in piece]
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
    """Windows in order, at most batch_size rows together, a single window at the least."""
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
