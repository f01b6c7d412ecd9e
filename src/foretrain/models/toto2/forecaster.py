"""Toto 2.0 under the model contract: windows in, loss or forecasts out; inputs.py lists the entries of a batch.

No reference training of Toto 2.0 exists: its authors name contiguous patch masking, a quantile loss and an optimizer,
but publish no code for them. The loss, the masking and the choice of scored steps are ours (README.md).

# R rows (variates of all windows), M target rows, P patch size, C context patches, N patches ahead, S = C + N - 1
# tokens, Q levels
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from foretrain.data.windows import Windows
from foretrain.models.base import Batch, Forecast, Forecaster, ForecastRequest, Loss, ParameterRole, TrainingPrediction
from foretrain.models.memory import BatchSize, Phase
from foretrain.models.release import ReleaseModel
from foretrain.models.toto2 import inputs
from foretrain.models.toto2.config import LEVELS, Toto2Config, Toto2ModelConfig
from foretrain.models.toto2.decode import MIN_OBSERVED, Toto2Options, Toto2Prompt, decode
from foretrain.models.toto2.memory import phases
from foretrain.models.toto2.model import Toto2Network, pinball
from foretrain.models.toto2.scaler import SMALLEST, PrefixSums, fill_gaps
from foretrain.nn.layout import RowLayout
from foretrain.nn.observed import forward_fill
from foretrain.nn.quantiles import interpolate_levels, warn_outside_trained
from foretrain.nn.scaling import WIDE_RANGE, exceeds_relative_floor

_log = logging.getLogger(__name__)

LONGEST_RUN = 8  # default maximum length of a masked run, in patches


class ScoredPatches(NamedTuple):
    """The scored patches of a batch: patches of target rows, each predicted by the token before it."""

    quantiles: Tensor  # (M, n, P, Q) in the network's space: asinh of scaled values
    target: Tensor  # (M, n, P) wide type, scaled by the statistics of the token; 0 where not counted
    counts: Tensor  # (M, n, P) bool, True = scored
    loc: Tensor  # (M, n, 1) wide type
    scale: Tensor  # (M, n, 1) wide type
    last: Tensor  # (M, n, 1) newest value that the token has seen


class Toto2(ReleaseModel, Forecaster):
    """A Toto 2.0 network with collate, loss and forecast."""

    family = "toto2"
    network: Toto2Network
    config: Toto2Config
    network_class, section, options = Toto2Network, Toto2ModelConfig, Toto2Options
    block_lists = ("transformer.layers",)
    head_parts = (".output_head.",)
    value_range = WIDE_RANGE
    predicted_levels = LEVELS
    adapter_targets = ("patch_proj", "attn.in_proj", "attn.out_proj", "ffn.fc1", "ffn.fc2", "output_head")

    def __init__(self, network: Toto2Network, masking: tuple[float, int] = (0.0, LONGEST_RUN)) -> None:
        """masking: probability and maximum length in patches, see inputs.contiguous_patch_mask."""
        super().__init__(network)
        self.masking = masking

    @classmethod
    def of_run(cls, network: Toto2Network, section: Toto2ModelConfig, prediction_length: int) -> Toto2:
        """Return the model of a network, with the run's patch masking."""
        return cls(network, (section.cpm_probability, section.cpm_patches or LONGEST_RUN))

    @property
    def max_context_length(self) -> int:
        """Maximum number of history steps that the model reads."""
        return self.config.context_length

    @property
    def smallest_deviation(self) -> float | None:
        """Deviation that the smallest scale is 1% above; see Forecaster."""
        return None if self.config.relative else SMALLEST / 1.01

    @property
    def rescales(self) -> bool:
        """See Forecaster."""
        return self.config.rescale

    @property
    def bucket_length(self) -> int:
        """The patch size: contexts of equally many patches share a batch without extra padding."""
        return self.config.patch_size

    def collate(self, windows: Windows) -> Batch:
        """Return the CPU tensors of a batch; inputs.py lists the entries."""
        return inputs.collate(windows, self.config.patch_size, self.max_context_length)

    def native_loss(self, batch: Batch) -> Loss:
        """Return the pinball loss in the network's space (model.pinball) over the scored steps, and their number."""
        scored = self.scored(batch)
        return pinball(scored.quantiles, scored.target.asinh().to(scored.quantiles.dtype), scored.counts)

    def predict(self, batch: Batch) -> TrainingPrediction:
        """Return quantiles (M, n * P, Q) of the steps that native_loss scores, unsorted: they may cross in training."""
        scored = self.scored(batch)
        quantiles = scored.quantiles.sinh().flatten(1, 2)
        steps, dtype = scored.target.shape, quantiles.dtype
        loc, scale, last = (x.expand(steps).flatten(1).to(dtype) for x in (scored.loc, scored.scale, scored.last))
        return TrainingPrediction(
            target=scored.target.flatten(1).to(dtype),
            observed=scored.counts.flatten(1),
            point=quantiles[..., LEVELS.index(0.5)],
            loc=loc,
            scale=scale,
            last=last,
            quantiles=quantiles,
            levels=LEVELS,
        )

    def scored(self, batch: Batch) -> ScoredPatches:
        """Return the predictions and targets that a loss of this batch needs.

        The tokens are those of a forecast: nothing after the cutoff is read except covariates known ahead. In training
        every patch of context and future is scored against the prediction of the token before it; in eval mode only the
        future, since the context may have been trained on. A token is not scored if its row has fewer than 8 observed
        values so far (1 from the cutoff on), because its scale would depend on later values; if a row of its window
        depends on later values (_knows_future); if it is empty; or, with the relative floor, if its row was constant
        so far, because it then has no scale of its own.
        """
        size, rows = self.config.patch_size, batch.get("target_rows")
        chosen = slice(None) if rows is None else rows
        context, future = batch["context"], batch["future_target"]
        patches, ahead = context.shape[1] // size, -(-future.shape[1] // size)
        values = inputs.sequence(batch, size, ahead)[:, :-size]
        observed = ~values.isnan()
        groups, seen = _groups(batch, observed, patches + ahead - 1), self._masked(observed, batch)
        steps, lifted = slice(context.shape[1]), values
        factors = self.row_factors(values[:, steps], observed[:, steps]) if self.rescales else None
        if factors is not None:
            lifted = values * factors
        out = self.network(lifted, seen, RowLayout.from_tensors(batch), groups, min_observed=MIN_OBSERVED, rows=rows)
        tokens = patches + ahead - 1
        token = torch.arange(tokens, device=values.device)
        least = torch.where(token < patches - 1, MIN_OBSERVED, 1)
        valid = out.scaled.sums.count[chosen] >= least
        if self.config.relative:
            valid = valid & exceeds_relative_floor(out.scaled.loc, out.scaled.scale)[chosen]
        filled = observed.unflatten(1, (-1, size)).any(-1)
        valid = valid & ~_knows_future(out.scaled.sums, filled, token < patches - 1, batch)[chosen]
        if groups is not None:
            valid = valid & (groups[chosen] == 0)
        labels = torch.cat((context[chosen, size:], future), dim=1)
        labels = F.pad(labels, (0, tokens * size - labels.shape[1]), value=torch.nan).unflatten(1, (-1, size))
        counts = ~labels.isnan() & valid[..., None]
        loc, scale = (x[chosen, :, None] for x in (out.scaled.loc, out.scaled.scale))
        if factors is not None:
            loc, scale = (x / factors[chosen, :, None] for x in (loc, scale))
        last = forward_fill(values[chosen], seen[chosen])[:, size - 1 :: size, None]
        scored = slice(None if self.training else patches - 1, None)
        target = torch.where(counts, (labels - loc) / scale, 0.0)
        return ScoredPatches(out.quantiles[:, scored], *(x[:, scored] for x in (target, counts, loc, scale, last)))

    def _masked(self, seen: Tensor, batch: Batch) -> Tensor:
        """In training, mask random runs of patches in `seen` (R, S * P), except in covariates known ahead."""
        probability, longest = self.masking
        if not self.training or not probability:
            return seen
        size, patches = self.config.patch_size, batch["context"].shape[1] // self.config.patch_size
        count = RowLayout.from_tensors(batch).windows
        mask = inputs.contiguous_patch_mask(count, patches, probability, longest).to(seen.device, non_blocking=True)
        masked = mask[batch["row_window"]]
        if "known_rows" in batch:
            masked[batch["known_rows"]] = False
        steps = masked.repeat_interleave(size, 1)
        return seen & ~F.pad(steps, (0, seen.shape[1] - steps.shape[1]))

    def forecast(self, batch: Batch, request: ForecastRequest) -> Forecast:
        """Quantiles of the target rows, ascending over levels; options are Toto2Options.

        Levels between the trained ones are interpolated, levels outside take the outermost trained one.
        """
        options, horizon, levels = request.options_of(Toto2Options), request.prediction_length, request.quantile_levels
        warn_outside_trained(_log, levels, LEVELS)
        size = BatchSize.of(RowLayout.from_tensors(batch), batch["context"])
        tokens = self.at_once(size, request).get("tokens")
        quantiles = decode(self.network, self.prompt(batch, horizon, options), options, tokens)
        return Forecast(interpolate_levels(quantiles[:, :horizon], LEVELS, levels), tuple(levels))

    def memory_phases(self, size: BatchSize, request: ForecastRequest) -> tuple[Phase, ...]:
        """See Forecaster."""
        return phases(self.config, size, request, self.usual_tokens, self.element_size)

    def prompt(self, batch: Batch, prediction_length: int, options: Toto2Options) -> Toto2Prompt:
        """Return the input of a forecast of this batch."""
        size, context = self.config.patch_size, batch["context"]
        patches, ahead = context.shape[1] // size, -(-prediction_length // size)
        if options.imputation != "none":
            context = fill_gaps(context, options.imputation)
        values = inputs.sequence(batch, size, ahead, context=context, at_own_time=options.compat)
        observed = ~values.isnan()
        groups = _groups(batch, observed, patches + ahead)
        if options.compat:
            last = slice((patches - 1) * size, patches * size)
            unknown = torch.ones_like(observed[:, last])
            if "known_rows" in batch:
                unknown[batch["known_rows"]] = False
            observed[:, last] |= unknown
        filled = observed.unflatten(1, (-1, size)).any(-1)
        if options.compat:
            filled[:, patches:] = True
            groups = -(~filled).long()
        elif groups is not None:
            groups = groups.masked_fill(filled, 0)  # imputation may have filled one
        return Toto2Prompt(
            values=values.nan_to_num(0.0),
            observed=observed,
            context=patches,
            layout=RowLayout.from_tensors(batch),
            groups=groups,
            known=batch.get("known_rows"),
            wanted=batch.get("target_rows"),
        )

    def parameter_role(self, name: str, parameter: Tensor) -> ParameterRole:
        """Return the role, with u-muP's learning-rate factor for Adam: 1 / sqrt(fan-in) for weights except readouts,
        times 1 / sqrt(layers) inside the stack."""
        role = super().parameter_role(name, parameter)
        factor = self.config.num_layers**-0.5 if ".layers." in name else 1.0
        if role.role == "matrix" or name.endswith("linear1.weight"):
            factor *= parameter.shape[1] ** -0.5
        return replace(role, lr_factor=factor)

    def flops_per_window(self, context_length: int, prediction_length: int, variates: int = 1) -> float:
        """Return the forward operations of a training pass over target rows.

        Attention over variates of a single-variate row is its value path.
        """
        c, size = self.config, self.config.patch_size
        width, heads, groups = c.d_model, c.num_heads, c.num_groups
        tokens = -(-min(context_length, c.context_length) // size) + -(-prediction_length // size) - 1
        out = len(LEVELS) * size
        ends = 2 * size * 5 * width + 4 * width**2 + 4 * width**2 + 5 * width * out
        mixing = heads * (c.qk_dim + c.v_dim)  # one query with one key
        keys = width * ((heads + groups) * c.qk_dim)
        shared = width * groups * c.v_dim + heads * c.v_dim * width + 3 * width * c.d_ff
        over = sum(c.over_variates)
        time = (c.num_layers - over) * (keys + shared + tokens * mixing)
        space = over * (shared + (keys + variates * mixing if variates > 1 else 0))
        return 2.0 * variates * tokens * (ends + time + space)


def _knows_future(sums: PrefixSums, filled: Tensor, past: Tensor, batch: Batch) -> Tensor:
    """Return the mask (R, S) of tokens at which a row of the window depends on later values of its own.

    This is the case where its scale uses later values, and in gaps of the past (S,): whether other rows see a token
    without any observation, so not filled (R, S), depends on whether the row continues. Covariates known ahead are
    exempt.
    """
    leaking = (sums.count > 0) & (sums.count < sums.first_count)
    leaking = leaking | (~filled & (filled.cumsum(1) > 0) & past)
    if "known_rows" in batch:
        leaking[batch["known_rows"]] = False
    windows = torch.zeros_like(sums.count).index_add(0, batch["row_window"], leaking.to(sums.count.dtype))
    return windows[batch["row_window"]] > 0


def _groups(batch: Batch, observed: Tensor, tokens: int) -> Tensor | None:
    """Return the attention groups (R, tokens): -1 for masked tokens, 0 for the others; None if no token is masked.

    Masked are the empty tokens of the context, and every token of a row without any value in observed (R, steps).
    """
    if "empty" not in batch:
        return None
    empty = batch["empty"]
    nothing = ~observed.any(1, keepdim=True)
    return -torch.cat((empty, nothing.expand(-1, tokens - empty.shape[1])), dim=1).long()


FAMILY = Toto2.as_family()
