"""The linear model: collate, loss and forecast.

Entries of a batch (Batch). Each target row is one series; covariates are dropped:

context        (R, C) float32, padded on the left to whole patches; NaN = not observed
future_target  (R, F) float32 labels; NaN = not scored

# R target rows, C context steps in whole patches, F steps after the cutoff, H the model's horizon, Q levels
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from foretrain.data.windows import TARGET, Windows
from foretrain.models.base import Batch, Forecast, Forecaster, Loss, TrainingPrediction
from foretrain.models.linear.config import LEVELS, LinearConfig, LinearModelConfig
from foretrain.models.linear.model import LinearNetwork, scale
from foretrain.models.memory import BatchSize, Phase
from foretrain.models.release import ReleaseModel
from foretrain.models.request import ForecastRequest
from foretrain.models.types import WindowSource
from foretrain.nn.observed import last_observed
from foretrain.nn.quantiles import constant, interpolate_levels, warn_outside_trained
from foretrain.notes import Code, Note, warn

_log = logging.getLogger(__name__)


class Linear(ReleaseModel, Forecaster):
    """A linear network with collate, loss and forecast."""

    family = "linear"
    network: LinearNetwork
    config: LinearConfig
    network_class, section = LinearNetwork, LinearModelConfig
    block_lists = ("components",)
    head_parts = (".head.",)
    predicted_levels = LEVELS
    adapter_targets = ("components.trend", "components.remainder", "head")

    @property
    def max_context_length(self) -> int:
        """Steps of history that the model reads."""
        return self.config.context_length

    @property
    def bucket_length(self) -> int:
        """The context length, because every context is padded to it."""
        return self.config.context_length

    def collate(self, windows: Windows) -> Batch:
        """Return the CPU tensors of a batch, described at the top of this file."""
        targets = windows.role == TARGET
        context = windows.context[targets, -self.max_context_length :]
        missing = self.config.patches * self.config.patch_size - context.shape[1]
        context = np.pad(context, ((0, 0), (missing, 0)), constant_values=np.nan)
        return {
            "context": torch.from_numpy(np.ascontiguousarray(context, np.float32)),
            "future_target": torch.from_numpy(np.ascontiguousarray(windows.future[targets], np.float32)),
        }

    def check(self, source: WindowSource) -> None:
        """Log a note if a run's windows have covariates, whose rows are dropped."""
        if count := int((source.windows(0, 1).role != TARGET).sum()):
            text = (
                "linear reads no covariates, so those of data.past_covariates and data.known_covariates change nothing."
            )
            warn(_log, Note(Code.COVARIATES_UNREAD, text, {"columns": count}))

    def predict(self, batch: Batch) -> TrainingPrediction:
        """Return unsorted quantiles (R, F, Q) in standard deviations of each row's context.

        Labels beyond the model's horizon are dropped (F <= H). A row without observed context is not scored.
        """
        context, future = batch["context"], batch["future_target"][:, : self.config.prediction_length]
        scaled = scale(context)
        quantiles = self.network(scaled.values, scaled.observed)[:, : future.shape[1]]
        counts = ~future.isnan() & scaled.observed.any(1, keepdim=True)
        return TrainingPrediction(
            target=torch.where(counts, (future - scaled.loc) / scaled.scale, 0.0),
            observed=counts,
            point=quantiles[..., LEVELS.index(0.5)],
            loc=scaled.loc,
            scale=scaled.scale,
            last=last_observed(context),
            quantiles=quantiles,
            levels=LEVELS,
        )

    def native_loss(self, batch: Batch) -> Loss:
        """Return the sum over observed labels of twice the pinball loss, averaged over levels, and their number.

        The loss of scaled labels equals the absolute error if every quantile is the median.
        """
        predicted = self.predict(batch)
        assert predicted.quantiles is not None
        error = predicted.target[..., None] - predicted.quantiles
        levels = constant(LEVELS, error.device, error.dtype)
        loss = 2 * torch.maximum(levels * error, (levels - 1) * error).mean(-1)
        return Loss(torch.where(predicted.observed, loss, 0.0).sum(), predicted.observed.sum().float())

    def forecast(self, batch: Batch, request: ForecastRequest) -> Forecast:
        """Return quantiles of the target rows, ascending over levels.

        Horizons beyond the model's are decoded autoregressively: medians are appended to the context, so the intervals
        of later blocks are too narrow. Levels between the trained ones are interpolated; levels outside use the
        outermost trained one.
        """
        prediction_length, quantile_levels = request.prediction_length, request.quantile_levels
        self._warn(prediction_length, quantile_levels)
        context, size = batch["context"], self.max_context_length
        blocks = [self._forecast_once(context)]
        while len(blocks) * self.config.prediction_length < prediction_length:
            extended = torch.cat((context, blocks[-1][..., LEVELS.index(0.5)]), 1)[:, -size:]
            context = F.pad(extended, (context.shape[1] - size, 0), value=torch.nan)
            blocks.append(self._forecast_once(context))
        quantiles = torch.cat(blocks, 1)[:, :prediction_length]
        return Forecast(interpolate_levels(quantiles, LEVELS, quantile_levels), tuple(quantile_levels))

    def memory_phases(self, size: BatchSize, request: ForecastRequest) -> tuple[Phase, ...]:
        """Return one phase without pieces: batches of fewer rows take less."""
        c, levels = self.config, len(LEVELS) + 3 * len(request.quantile_levels)
        longest = max(c.patches * c.patch_size, size.steps)
        row = 24 * longest + 3 * c.patches * c.d_model + 4 * c.prediction_length * len(LEVELS)
        blocks = -(-request.prediction_length // c.prediction_length)
        return (Phase(4 * size.rows * (row + blocks * c.prediction_length * levels)),)

    def _forecast_once(self, context: Tensor) -> Tensor:
        """Return ascending quantiles (R, H, Q) in the units of the contexts (R, C)."""
        scaled = scale(context)
        quantiles = self.network(scaled.values, scaled.observed).to(context.dtype).sort(-1).values
        return quantiles * scaled.scale[..., None] + scaled.loc[..., None]

    def _warn(self, prediction_length: int, quantile_levels: Sequence[float]) -> None:
        native = self.config.prediction_length
        if prediction_length > native:
            text = (
                f"prediction_length {prediction_length} is beyond the {native} steps that the model was trained to "
                "forecast at once; the forecast is decoded autoregressively and may be worse."
            )
            counts = {"prediction_length": prediction_length, "trained": native}
            warn(_log, Note(Code.HORIZON_UNROLLED, text, counts))
        warn_outside_trained(_log, quantile_levels, LEVELS)

    def flops_per_window(self, context_length: int, prediction_length: int, variates: int = 1) -> float:
        """Return forward FLOPs; every context is padded to the model's, and the whole horizon is always forecast."""
        c = self.config
        macs = c.patches * c.d_model * (2 * c.patch_size + c.prediction_length * len(LEVELS))
        return 2.0 * variates * macs


FAMILY = Linear.as_family(reads_covariates=False)
