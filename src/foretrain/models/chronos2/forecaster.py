"""Chronos-2 under the model contract: windows in, loss or forecasts out.

Entries of a batch (Batch); rows are in the order of the layout `groups.*` (layout.py):

# R rows (variates of all windows), T context steps (a multiple of the patch size P), n = T / P, F horizon, Q levels

context           (R, T) float32, NaN = not observed
observed          (R, T) bool; absent when nothing is missing, unless the windows are static
patches_observed  (R, n) bool; absent when no patch is empty, unless the windows are static
future_target     (targets, F) float32 labels of the target rows, NaN = not scored
future_covariates (R, F) float32, NaN = unknown; absent when no row is known ahead
target_rows       (targets,) arranged row of each target, in the windows' order; absent when that is every row in order
row_group         (R,) window of each arranged row
rows              () float32 number of rows of non-empty windows; absent when that is every row, unless the windows are
                  static
groups.*          layout; absent when every row is single-variate
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foretrain.data.windows import KNOWN, TARGET, IntArray, Windows
from foretrain.models.base import Batch, Embedding, Embeds, Forecast, ForecastRequest, Loss, TrainingPrediction
from foretrain.models.chronos2 import decode
from foretrain.models.chronos2.config import Chronos2Config, Chronos2ModelConfig
from foretrain.models.chronos2.inputs import Chronos2Inputs, linear, prepare
from foretrain.models.chronos2.layout import GroupLayout, arrange
from foretrain.models.chronos2.memory import phases
from foretrain.models.chronos2.model import Chronos2Network
from foretrain.models.memory import BatchSize, Phase
from foretrain.models.release import ReleaseModel
from foretrain.nn.observed import last_observed
from foretrain.nn.quantiles import interpolate_levels


class Chronos2(ReleaseModel, Embeds):
    """A Chronos-2 network with collate, loss and forecast."""

    family = "chronos2"
    network: Chronos2Network
    config: Chronos2Config
    network_class, section, options = Chronos2Network, Chronos2ModelConfig, decode.Chronos2Options
    block_lists = ("encoder.block",)
    head_parts = (".output_patch_embedding.",)
    embedding_parts = (".shared.",)
    adapter_targets = (  # upstream's own choice
        "self_attention.q",
        "self_attention.k",
        "self_attention.v",
        "self_attention.o",
        "output_patch_embedding.output_layer",
    )
    upstream_class = ("chronos.chronos2.model", "Chronos2Model")

    def __init__(
        self, network: Chronos2Network, loss_normalisation: str = "rows", prediction_length: int | None = None
    ) -> None:
        """prediction_length: the run's. The loss always predicts at least this many steps, even if a batch has shorter
        labels: future tokens see each other, so a forecast depends on the number of patches. None = as many as a batch
        has labels, for training on several horizons."""
        super().__init__(network)
        self.loss_normalisation = loss_normalisation
        self.prediction_length = prediction_length
        self.predicted_levels = network.config.quantiles

    @classmethod
    def of_run(cls, network: Chronos2Network, section: Chronos2ModelConfig, prediction_length: int) -> Chronos2:
        """Return the model of a network, with the run's loss and horizon."""
        return cls(network, section.loss_normalisation, prediction_length if section.loss_horizon == "run" else None)

    @property
    def max_context_length(self) -> int:
        """Maximum number of history steps that the model reads."""
        return self.config.context_length

    @property
    def bucket_length(self) -> int:
        """The patch size: contexts of equally many patches share a batch without extra padding."""
        return self.config.patch_size

    def collate(self, windows: Windows) -> Batch:
        """Return the CPU tensors of a batch; the top of this file lists the entries."""
        size = self.config.patch_size
        order, layout = arrange(windows.window)
        index = slice(None) if order is None else order
        context = windows.context[index, -self.config.context_length :]
        left = -context.shape[1] % size
        if left:
            context = np.pad(context, ((0, 0), (left, 0)), constant_values=np.nan)
        batch = {"context": torch.from_numpy(np.ascontiguousarray(context, np.float32))}
        observed, static = ~np.isnan(context), windows.static_shapes
        future, role = windows.future[index], windows.role[index]
        if static or not observed.all():
            batch["observed"] = torch.from_numpy(observed)
            patches = observed.reshape(len(context), -1, size).any(-1)
            if static or not patches.all():
                batch["patches_observed"] = torch.from_numpy(patches)
            has_value = np.asarray(observed.any(1) | ~np.isnan(future).all(1))
            rows = _rows_of_data(has_value, windows.window[index])
            if static or rows < len(context):
                batch["rows"] = torch.tensor(rows, dtype=torch.float32)
        if (role == KNOWN).any():
            covariates = np.where((role == KNOWN)[:, None], future, np.float32(np.nan))
            if static or not np.isnan(covariates).all():
                batch["future_covariates"] = torch.from_numpy(covariates)
        targets = np.flatnonzero(windows.role == TARGET)
        arranged = targets if order is None else np.argsort(order)[targets]
        batch["future_target"] = torch.from_numpy(np.ascontiguousarray(windows.future[targets], np.float32))
        if len(arranged) < len(role) or order is not None:
            batch["target_rows"] = torch.from_numpy(arranged)
        batch["row_group"] = torch.from_numpy(np.ascontiguousarray(windows.window[index]))
        return batch | layout.to_tensors()

    def native_loss(self, batch: Batch) -> Loss:
        """Return upstream's loss times the number of rows, and that number; or, with loss_normalisation "observed", the
        sum over the scored steps, and their number.

        Covariate rows add nothing to the sum, so the last feed forward and the head compute target rows only.
        """
        target, rows = batch["future_target"], len(batch["context"])
        normalised, loc, scale = self._outputs(batch)
        elements, scored = self.network.pinball(normalised, target, loc, scale)
        if self.loss_normalisation == "observed":
            return Loss(elements.sum(), scored.sum().float())
        weight = batch["rows"] if "rows" in batch else torch.full((), float(rows), device=target.device)
        return Loss(elements.sum() / normalised.shape[-1], weight)

    def predict(self, batch: Batch) -> TrainingPrediction:
        """Return the quantiles of the target rows, (targets, F); equal to forecast's if F is the run's horizon.

        Scaled values are standard deviations of the row's context from its mean, with or without arcsinh in the
        network.
        """
        target, rows = batch["future_target"], batch.get("target_rows")
        normalised, loc, scale = self._outputs(batch)
        quantiles = linear(self.config, normalised[..., : target.shape[1]]).transpose(1, 2)
        observed = ~target.isnan()
        return TrainingPrediction(
            target=(torch.where(observed, target, loc) - loc) / scale,
            observed=observed,
            point=interpolate_levels(quantiles, self.config.quantiles, (0.5,)).squeeze(-1),
            loc=loc,
            scale=scale,
            last=last_observed(batch["context"] if rows is None else batch["context"][rows]),
            quantiles=quantiles,
            levels=self.config.quantiles,
        )

    def _outputs(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return normalised quantiles (targets, Q, N*P), loc and scale (targets, 1) of the target rows."""
        steps = max(batch["future_target"].shape[1], self.prediction_length or 0)
        patches = math.ceil(steps / self.config.patch_size)
        inputs, rows = self.inputs(batch, patches), batch.get("target_rows")
        normalised = self.network.predict(inputs, rows)
        return normalised, *((inputs.loc, inputs.scale) if rows is None else (inputs.loc[rows], inputs.scale[rows]))

    def inputs(self, batch: Batch, num_output_patches: int) -> Chronos2Inputs:
        """Return the network's inputs of a batch; covariates beyond num_output_patches are cut."""
        covariates = batch.get("future_covariates")
        if covariates is not None:
            covariates = covariates[:, : num_output_patches * self.config.patch_size]
        return prepare(
            self.config,
            batch["context"],
            batch.get("observed"),
            batch.get("patches_observed"),
            layout=GroupLayout.from_tensors(batch, len(batch["context"])),
            num_output_patches=num_output_patches,
            covariates=covariates,
        )

    def forecast(self, batch: Batch, request: ForecastRequest) -> Forecast:
        """Quantiles of the target rows; options are Chronos2Options. See decode.py for horizons beyond the native."""
        levels, options = tuple(request.quantile_levels), request.options_of(decode.Chronos2Options)
        rows = decode.DecodedRows.of(batch)
        at_once = self.at_once(_size(rows), request)
        found = decode.forecast(self.network, rows, request.prediction_length, levels, options, at_once)
        return Forecast(found, levels)

    def memory_phases(self, size: BatchSize, request: ForecastRequest) -> tuple[Phase, ...]:
        """See Forecaster."""
        return phases(self.config, size, request, self.usual_tokens, self.element_size)

    def embed(self, batch: Batch) -> Embedding:
        """Return hidden states (targets, n + 2, D), loc and scale (targets, 1) of the target rows; see decode.embed."""
        return decode.embed(self.network, decode.DecodedRows.of(batch))

    def flops_per_window(self, context_length: int, prediction_length: int, variates: int = 1) -> float:
        """Return the forward operations that are mathematically necessary, so that avoidable work does not raise mfu.

        Group attention of a single-variate row is its value path; the last block runs on the forecast tokens alone.
        """
        c, size = self.config, self.config.patch_size
        width, inner = c.d_model, c.inner_dim
        past, ahead = math.ceil(min(context_length, c.context_length) / size), math.ceil(prediction_length / size)
        tokens = past + int(c.use_reg_token) + ahead
        features = 3 * size

        def residual(wide_in: int, wide_out: int) -> int:
            return wide_in * c.d_ff + c.d_ff * wide_out + wide_in * wide_out

        def after_keys(count: int) -> int:  # a block without the keys and values of its time attention
            group = 4 * width * inner + 2 * variates * inner if variates > 1 else 2 * width * inner
            return count * (2 * width * inner + 2 * tokens * inner + group + 2 * width * c.d_ff)

        keys = 2 * width * inner * tokens
        blocks = c.num_layers * keys + (c.num_layers - 1) * after_keys(tokens) + after_keys(ahead)
        embedding = past * residual(features, width)  # all rows share the future tokens without covariates
        head = ahead * residual(width, len(c.quantiles) * size)
        return 2.0 * variates * (blocks + embedding + head)


def _size(rows: decode.DecodedRows) -> BatchSize:
    widest = max((bucket.size for bucket in rows.layout.buckets), default=1)
    windows = rows.layout.singles + sum(bucket.count for bucket in rows.layout.buckets)
    return BatchSize(len(rows.context), windows, widest, rows.context.shape[1])


def _rows_of_data(has_value: npt.NDArray[np.bool_], window: IntArray) -> int:
    """Return the number of rows in windows that have a value in any row; both arguments are (R,)."""
    return int((np.bincount(window, weights=has_value) > 0)[window].sum())


FAMILY = Chronos2.as_family()
