"""Toto 1.0 as a forecasting model (models/base.py): windows in, loss or forecasts out; batches.py defines a batch.

# R rows (variates of all windows), M scored rows, P patch size, n and N patches before and after the cutoff
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from foretrain.data.windows import Windows
from foretrain.models.base import Batch, Forecast, Forecaster, ForecastRequest, Loss, TrainingPrediction
from foretrain.models.memory import BatchSize, Phase
from foretrain.models.release import ReleaseModel
from foretrain.models.toto import batches, generate
from foretrain.models.toto.config import TotoConfig, TotoModelConfig
from foretrain.models.toto.inputs import prepare
from foretrain.models.toto.loss import LIKELIHOOD, ROBUST, PatchMixtures, loss_sums, measure_patches, moments
from foretrain.models.toto.memory import phases
from foretrain.models.toto.model import TotoNetwork
from foretrain.models.toto.options import DEFAULT_SAMPLES, TotoOptions
from foretrain.nn.layout import RowLayout
from foretrain.nn.observed import forward_fill
from foretrain.nn.scaling import WIDE_RANGE
from foretrain.nn.unused import attach


class ScoredPositions(NamedTuple):
    """Scored patches of a batch, each predicted from the previous patch."""

    hidden: Tensor  # (M, S, D) of the previous patch
    target: Tensor  # (M, S, P) scaled by the statistics of the previous patch; arbitrary where not observed
    observed: Tensor  # (M, S, P) bool
    loc: Tensor  # (M, S, P)
    scale: Tensor  # (M, S, P)
    last: Tensor  # (M, S, P) last value observed before the patch, NaN if none


class Toto(ReleaseModel, Forecaster):
    """A Toto 1.0 network with collate, loss and forecast."""

    family = "toto"
    network: TotoNetwork
    config: TotoConfig
    network_class, section, options = TotoNetwork, TotoModelConfig, TotoOptions
    block_lists = ("transformer.layers",)
    head_parts = (".unembed.", ".output_distribution.")
    validation_names = ("loss", "nll", "robust")
    predicts_sigma = predicts_distribution = True
    default_samples = DEFAULT_SAMPLES
    value_range = WIDE_RANGE
    adapter_targets = ("patch_embed.projection", "attention.wQKV", "attention.wO", "mlp.0.w12", "mlp.0.w3", "unembed",
                       "output_distribution")  # fmt: skip

    def __init__(self, network: TotoNetwork, *, upstream_compat: bool = False) -> None:
        super().__init__(network)
        self.upstream_compat = upstream_compat

    @classmethod
    def of_run(cls, network: TotoNetwork, section: TotoModelConfig, prediction_length: int) -> Toto:
        """Return the model of a run for a network."""
        return cls(network, upstream_compat=section.upstream_compat)

    @classmethod
    def network_parts(cls, section: TotoModelConfig) -> dict[str, bool | None]:
        """Return the network's keyword arguments: labels, None = as in the file."""
        return {"labels": section.variate_labels}

    @property
    def max_context_length(self) -> int:
        """Steps of context the model uses."""
        return self.config.max_context_length

    @property
    def smallest_deviation(self) -> float | None:
        """Deviation at which the constant that is added to the variance raises the scale by 1%; see Forecaster."""
        minimum = self.network.scaler.minimum
        return math.sqrt(minimum / (1.01**2 - 1)) if minimum else None

    @property
    def rescales(self) -> bool:
        """See Forecaster."""
        return self.config.rescale

    @property
    def bucket_length(self) -> int:
        """The patch size: contexts with equal numbers of patches share a batch without extra padding."""
        return self.config.patch_size

    def collate(self, windows: Windows) -> Batch:
        """Return the CPU tensors of a batch; see batches.py."""
        return batches.collate(windows, self.config.patch_size, self.max_context_length, compat=self.upstream_compat)

    def native_loss(self, batch: Batch) -> Loss:
        """Upstream's composite loss (loss.py), summed over the observed steps of target rows.

        In training mode every patch of context and future is predicted from the patches before it; in eval mode only
        patches after the cutoff are scored, since the context may have been trained on.
        """
        return self._losses(batch)["loss"]

    def validation_losses(self, batch: Batch) -> dict[str, Loss]:
        """Return the loss and its two parts; if an objective is set, "loss" is that of the objective."""
        losses = self._losses(batch)
        return losses if self.objective is None else {**losses, "loss": self(batch)}

    def _losses(self, batch: Batch) -> dict[str, Loss]:
        scored = self.scored(batch)
        nll, robust = (
            part.sum() for part in measure_patches(self.network, loss_sums, *(x.flatten(0, 1) for x in scored[:3]))
        )
        weight = scored.observed.sum().float()
        total = LIKELIHOOD * nll + ROBUST * robust
        return {"loss": Loss(total, weight), "nll": Loss(nll, weight), "robust": Loss(robust, weight)}

    def predict(self, batch: Batch) -> TrainingPrediction:
        """Return mean, deviation and mixture of the steps that native_loss scores, each predicted from the previous
        patch."""
        scored = self.scored(batch)
        mean, deviation = measure_patches(self.network, moments, *(x.flatten(0, 1) for x in scored[:3]))
        return TrainingPrediction(
            target=scored.target.flatten(1),
            observed=scored.observed.flatten(1),
            point=attach(mean.view_as(scored.target).flatten(1), list(self.network.output_distribution.parameters())),
            loc=scored.loc.flatten(1),
            scale=scored.scale.flatten(1),
            last=scored.last.flatten(1),
            sigma=deviation.view_as(scored.target).flatten(1),
            distribution=PatchMixtures(self.network, *scored[:3]),
        )

    def scored(self, batch: Batch) -> ScoredPositions:
        """Return the scored patches of a batch.

        Rows of covariates are not scored, nor patches without a previous observation in their row to scale them or,
        with the relative floor, in a row that was constant so far. With upstream_compat all rows and patches are
        scored, except the last n steps of windows with n covariates known ahead (upstream means to leave out their rows
        and leaves out steps).
        """
        size, compat = self.config.patch_size, self.upstream_compat
        whole = batches.sequence(batch, size)
        values, observed = whole.values[:, :-size], whole.observed[:, :-size]
        steps = slice(batch["context"].shape[1])
        factors = self.row_factors(values[:, steps], observed[:, steps]) if self.rescales else None
        inputs = prepare(
            self.network.scaler,
            values if factors is None else values * factors,
            None if whole.complete else observed,
            prefix_length=batch["context"].shape[1],
            compat=compat,
            whole="late" not in batch,
        )
        hidden = self.network.hidden_states(
            inputs.scaled, RowLayout.from_tensors(batch), exogenous=batches.exogenous(batch), empty=inputs.empty
        )
        count = hidden.shape[1] if self.training else whole.values.shape[1] // size - batch["context"].shape[1] // size
        rows = None if compat else batch.get("target_rows")

        def select(x: Tensor) -> Tensor:  # (R, S * P) or (R, 1) -> scored rows and patches
            x = x.expand(-1, values.shape[1])[:, -count * size :].unflatten(1, (-1, size))
            return x if rows is None else x[rows]

        loc, scale = (select(x) for x in inputs.statistics)
        moves = self.network.scaler.moves(inputs.statistics)
        if moves is None:
            scale = scale + torch.finfo(scale.dtype).eps  # as upstream
        if factors is not None:
            own = (factors if rows is None else factors[rows])[..., None]
            loc, scale = loc / own, scale / own
        last = forward_fill(values, observed)[:, size - 1 :: size].repeat_interleave(size, 1)
        valid = whole.observed[:, size:]
        if not compat:
            valid = valid & ~last.isnan()
        elif "blanked" in batch:
            left = torch.arange(valid.shape[1], 0, -1, device=valid.device)
            valid = valid & (left > batch["blanked"][:, None])
        if moves is not None:
            valid = valid & moves
        target = (select(whole.values[:, size:]) - loc) / scale
        hidden = (hidden if rows is None else hidden[rows])[:, -count:]
        return ScoredPositions(hidden, target, select(valid), loc, scale, select(last))

    def forecast(self, batch: Batch, request: ForecastRequest) -> Forecast:
        """Quantiles, mean and (where any are drawn) paths of the target rows; options are TotoOptions.

        A row's draws are seeded by (seed, its window's key, its place in the window, sample), whatever else is in the
        batch. See generate.forecast.
        """
        options, horizon = request.options_of(TotoOptions), request.prediction_length
        layout = RowLayout.from_tensors(batch)
        at_once = self.at_once(BatchSize.of(layout, batch["context"]), request)
        prompt = generate.TotoPrompt(
            series=batch["context"],
            observed=batch.get("observed"),
            layout=layout,
            exogenous=batches.exogenous(batch),
            known=batches.known_ahead(batch, horizon + -horizon % self.config.patch_size),
        )
        return generate.forecast(
            self.network,
            prompt,
            horizon,
            request.quantile_levels,
            keys=batch["key"],
            targets=batch.get("target_rows"),
            num_samples=request.num_samples,
            seed=request.seed,
            options=replace(options, compat=options.compat or self.upstream_compat),
            at_once=at_once,
        )

    def memory_phases(self, size: BatchSize, request: ForecastRequest) -> list[Phase]:
        """See Forecaster."""
        return phases(self.network, size, request, self.usual_tokens, self.element_size)

    def flops_per_window(self, context_length: int, prediction_length: int, variates: int = 1) -> float:
        """Forward FLOPs of a window in training, with unembedding and head folded into one linear map.

        Folding them is not counted, since it happens once per batch.
        """
        c, size = self.config, self.config.patch_size
        patches = -(-min(context_length, self.max_context_length) // size) + -(-prediction_length // size) - 1
        slots = patches + self.network.labels
        linear = slots * (4 * c.embed_dim**2 + 3 * c.embed_dim * c.mlp_hidden_dim)
        over_variates = sum(c.spacewise)
        seen = (c.num_layers - over_variates) * slots + over_variates * variates
        outputs = len(self.network.output_distribution.projections) * (c.components or 1)
        ends = patches * size * c.embed_dim * (1 + outputs)
        return 2.0 * variates * (c.num_layers * linear + 2 * slots * seen * c.embed_dim + ends)


FAMILY = Toto.as_family()
