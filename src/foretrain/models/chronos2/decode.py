"""Forecasts with the Chronos-2 network: one pass up to the native horizon, branches over quantiles beyond it.

Facts from chronos-forecasting 2.3.2 (src/chronos/chronos2/pipeline.py, src/chronos/utils.py).

# R rows (arranged), M wanted rows (targets), T context steps, H horizon, Q trained levels, K kept levels, U unrolled
# levels (branches), h steps of one round
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from foretrain.errors import ConfigError
from foretrain.models.chronos2.inputs import prepare, to_patches, unscale
from foretrain.models.chronos2.layout import GroupBucket, GroupLayout
from foretrain.models.chronos2.model import Chronos2Network
from foretrain.models.types import Batch, Embedding, ForecastOptions
from foretrain.nn.quantiles import bracket, interpolate_levels, probability_mass, weighted_quantiles
from foretrain.notes import Code, Note, warn

_log = logging.getLogger(__name__)

DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MOST_BRANCH_ROWS = 256  # rows of one pass while unrolling, unless the batch itself has more


@dataclass(frozen=True)
class Chronos2Options(ForecastOptions):
    """How Chronos-2 forecasts.

    Attributes:
        cross_learning: all rows of a batch attend to each other; the forecast then depends on the batch.
        unrolled_quantiles: levels that branch beyond the native horizon; a subset of the trained levels. The default
            shrinks to the deciles that were trained.
        max_output_patches: patches of one pass; None = the model's own. More than that was never trained.
        limit_prediction_length: refuse a horizon beyond the native one instead of warning.
    """

    cross_learning: bool = False
    unrolled_quantiles: tuple[float, ...] = DECILES
    max_output_patches: int | None = None
    limit_prediction_length: bool = False

    @property
    def mixes_items(self) -> bool:
        """As cross_learning says."""
        return self.cross_learning


@dataclass(frozen=True)
class DecodedRows:
    """A batch on its device, rows arranged as the layout says."""

    context: Tensor  # (R, T) NaN = not observed; T is a multiple of the patch size
    layout: GroupLayout
    observed: Tensor | None = None  # (R, T) bool; None promises that there is no NaN
    patches_observed: Tensor | None = None  # (R, T / patch size) bool; None promises that no patch is empty
    covariates: Tensor | None = None  # (R, H) NaN = not known ahead; None = nothing is
    wanted: Tensor | None = None  # (M,) rows to forecast, in the order of the result; None = all of them in order

    @classmethod
    def of(cls, batch: Batch) -> DecodedRows:
        """The rows of a batch that Chronos2.collate made."""
        return cls(
            batch["context"],
            GroupLayout.from_tensors(batch, len(batch["context"])),
            batch.get("observed"),
            batch.get("patches_observed"),
            batch.get("future_covariates"),
            batch.get("target_rows"),
        )


def forecast(
    network: Chronos2Network,
    rows: DecodedRows,
    prediction_length: int,
    quantile_levels: Sequence[float],
    options: Chronos2Options | None = None,
) -> Tensor:
    """(M, H, K) float32 forecasts of the wanted rows at the asked levels, in the units of the data, not sorted.

    Levels between trained ones are interpolated, levels outside take the outermost trained one. Beyond the native
    horizon each unrolled level continues the context in a branch of its own, and the branches' forecasts are pooled as
    weighted samples; branches run in passes of limited rows and never see each other. Raises ConfigError.
    """
    options = options or Chronos2Options()
    plan = _Plan.make(network, prediction_length, quantile_levels, options)
    if options.cross_learning:
        rows = replace(rows, layout=one_group(rows.layout.rows))
    return _AutoregressiveDecoder(network, rows, plan).run()


def one_group(rows: int) -> GroupLayout:
    """The layout in which all rows of a batch attend to each other."""
    return GroupLayout(rows) if rows < 2 else GroupLayout(0, (GroupBucket(rows, 1, rows),))


def repeat(layout: GroupLayout, copies: int) -> tuple[GroupLayout, Tensor | None]:
    """The layout of `copies` copies of a batch that do not see each other, and its row order.

    The order (copies * R,) says which row of the copies laid end to end each row of the layout is; None = as they lie.
    """
    if copies == 1:
        return layout, None
    buckets = []
    for b in layout.buckets:
        if b.gather is None or b.scatter is None or b.valid is None:
            buckets.append(GroupBucket(b.rows * copies, b.count * copies, b.size))
            continue
        copy = torch.arange(copies, device=b.gather.device)[:, None]
        gather = (b.gather + copy * b.rows).flatten()
        scatter = (b.scatter + copy * (b.count * b.size)).flatten()
        buckets.append(
            GroupBucket(b.rows * copies, b.count * copies, b.size, gather, scatter, b.valid.repeat(copies, 1))
        )
    repeated = GroupLayout(layout.singles * copies, tuple(buckets))
    sections = [size for size in (layout.singles, *(b.rows for b in layout.buckets)) if size]
    if len(sections) == 1:
        return repeated, None
    whole = torch.arange(copies * layout.rows).view(copies, layout.rows)
    return repeated, torch.cat([part.flatten() for part in whole.split(sections, dim=1)])


@dataclass(frozen=True)
class _Plan:
    """What follows from the arguments alone."""

    horizon: int
    patches: int  # most patches of one pass
    asked: tuple[float, ...]
    columns: list[int]  # trained levels from which the asked ones are made
    unrolled: list[int]  # trained levels that branch; empty = no second round

    @classmethod
    def make(cls, network: Chronos2Network, horizon: int, asked: Sequence[float], options: Chronos2Options) -> _Plan:
        config = network.config
        trained = config.quantiles
        if horizon > config.native_horizon:
            _warn_or_refuse(horizon, config.native_horizon, options.limit_prediction_length)
        patches = config.max_output_patches if options.max_output_patches is None else options.max_output_patches
        if patches < 1:
            raise ConfigError(f"max_output_patches is {patches}, must be at least 1.")
        outside = [level for level in asked if not trained[0] <= level <= trained[-1]]
        if outside:
            text = (
                f"quantile level {outside[0]} lies outside the trained ones ({trained[0]} to {trained[-1]}); the "
                "outermost trained level stands in for it."
            )
            warn(_log, Note(Code.LEVEL_OUTSIDE_TRAINED, text, {"level": outside[0]}))
        lower, upper, _ = bracket(asked, trained)
        one_pass = horizon <= patches * config.patch_size
        wanted = options.unrolled_quantiles
        if wanted == DECILES:  # a model trained on other levels branches at those deciles that it knows
            wanted = tuple(level for level in DECILES if _known(level, trained)) or (() if one_pass else wanted)
        elif not wanted:
            raise ConfigError("unrolled_quantiles is empty; give at least one trained level.")
        unrolled = [_index_of(level, trained) for level in wanted]
        return cls(horizon, patches, tuple(asked), sorted({*lower, *upper}), [] if one_pass else unrolled)


def _warn_or_refuse(horizon: int, native: int, refuse: bool) -> None:
    fact = f"prediction_length {horizon} is beyond the {native} steps that the model was trained to forecast at once"
    if refuse:
        raise ConfigError(f"{fact}; shorten it or set limit_prediction_length=False.")
    counts = {"prediction_length": horizon, "trained": native}
    warn(_log, Note(Code.HORIZON_UNROLLED, f"{fact}; the forecast is unrolled and may be worse.", counts))


def _known(level: float, trained: Sequence[float]) -> bool:
    return any(abs(level - other) <= 1e-6 for other in trained)


def _index_of(level: float, trained: Sequence[float]) -> int:
    nearest = min(range(len(trained)), key=lambda i: abs(trained[i] - level))
    if abs(trained[nearest] - level) > 1e-6:
        raise ConfigError(f"unrolled_quantiles: {level} is not among the trained levels {list(trained)}.")
    return nearest


class _AutoregressiveDecoder:
    """One batch being forecast; lives for one call."""

    def __init__(self, network: Chronos2Network, rows: DecodedRows, plan: _Plan) -> None:
        self.network, self.rows, self.plan = network, rows, plan
        self.step = network.config.patch_size
        self.device = rows.context.device
        self.repeated: dict[int, tuple[GroupLayout, Tensor | None]] = {}

    def run(self) -> Tensor:
        """(M, H, K) forecasts."""
        plan = self.plan
        trained = self.network.config.quantiles
        if not plan.unrolled:
            values = self.one_pass(self.rows, 0, 1, plan.columns, self.rows.wanted)
        else:
            values = torch.cat(self.rounds(), dim=-1)
        kept = [trained[i] for i in plan.columns]
        return interpolate_levels(values[..., : plan.horizon], kept, plan.asked, dim=1).transpose(1, 2)

    def rounds(self) -> list[Tensor]:
        """Forecasts (M, K, h) of every round, of the wanted rows at the kept levels."""
        plan, wanted = self.plan, self.rows.wanted
        needed = sorted({*plan.columns, *plan.unrolled})
        keep = [needed.index(i) for i in plan.columns]
        branch = [needed.index(i) for i in plan.unrolled]
        latest = self.one_pass(self.rows, 0, 1, needed, None)  # (R, needed, h)
        results = [_pick(latest, wanted, keep)]
        done = latest.shape[-1]
        generated = self.rows.context.new_empty(len(plan.unrolled), len(self.rows.context), 0)  # (U, R, done)
        while done < plan.horizon:
            generated = torch.cat(
                (generated, self.with_known_covariates(latest[:, branch].transpose(0, 1), done)), dim=-1
            )
            last = done + plan.patches * self.step >= plan.horizon
            latest = self.pooled(generated, done, plan.columns if last else needed, wanted if last else None)
            results.append(latest if last else _pick(latest, wanted, keep))
            done += latest.shape[-1]
        return results

    def with_known_covariates(self, predicted: Tensor, done: int) -> Tensor:
        """The steps just predicted (U, R, h), ending at `done`, with covariates known ahead in place of forecasts."""
        if self.rows.covariates is None:
            return predicted
        truth = self.rows.covariates[:, done - predicted.shape[-1] : done]
        return torch.where(truth.isnan(), predicted, truth)

    def pooled(self, generated: Tensor, done: int, levels: list[int], wanted: Tensor | None) -> Tensor:
        """One round of all branches: (rows, levels, h) weighted quantiles over the branches' quantiles."""
        trained = self.network.config.quantiles
        unrolled = [trained[i] for i in self.plan.unrolled]
        count, every = len(unrolled), list(range(len(trained)))
        share = max(1, MOST_BRANCH_ROWS // len(self.rows.context))
        parts = []
        for first in range(0, count, share):
            piece = generated[first : first + share]
            values = self.one_pass(self.continued(piece), done, len(piece), every, wanted)
            parts.append(values.unflatten(0, (len(piece), -1)))
        branches = torch.cat(parts)  # (U, rows, Q, h)
        samples = branches.permute(1, 3, 0, 2).flatten(2)  # (rows, h, U * Q)
        weights = torch.outer(
            torch.from_numpy(probability_mass(unrolled)), torch.from_numpy(probability_mass(trained))
        ).flatten()
        weights = (weights / weights.sum()).to(self.device, non_blocking=True)
        return weighted_quantiles(samples, weights, [trained[i] for i in levels]).transpose(1, 2)

    def continued(self, generated: Tensor) -> DecodedRows:
        """The contexts of some branches, copy by copy, with what they have generated (copies, R, done) at the end;
        cut to the model's context length and padded on the left to whole patches."""
        rows, longest = self.rows, self.network.config.context_length
        copies, _, done = generated.shape
        context = torch.cat((rows.context.expand(copies, -1, -1), generated), dim=-1)[..., -longest:].flatten(0, 1)
        left = -context.shape[-1] % self.step
        observed = rows.observed
        if observed is None and left:
            observed = rows.context.new_ones(rows.context.shape, dtype=torch.bool)
        if observed is not None:
            observed = F.pad(F.pad(observed, (0, done), value=True)[:, -longest:], (left, 0)).repeat(copies, 1)
        patches = rows.patches_observed
        if patches is not None and observed is not None:
            patches = to_patches(observed, self.step).any(-1)
        return DecodedRows(F.pad(context, (left, 0), value=torch.nan), rows.layout, observed, patches)

    def one_pass(self, rows: DecodedRows, done: int, copies: int, levels: list[int], wanted: Tensor | None) -> Tensor:
        """Copies of the batch (copies * R rows) through the network once: (copies * wanted rows, levels, N * P), copy
        by copy, for the steps after `done`."""
        network = self.network
        patches = min(math.ceil((self.plan.horizon - done) / self.step), self.plan.patches)
        covariates = self.rows.covariates
        if covariates is not None:
            covariates = covariates[:, done : done + patches * self.step].repeat(copies, 1)
        layout, order = self.layout(copies)
        tensors = (rows.context, rows.observed, rows.patches_observed, covariates)
        context, observed, seen, covariates = (x if order is None or x is None else x[order] for x in tensors)
        assert context is not None
        inputs = prepare(
            network.config, context, observed, seen, layout=layout, num_output_patches=patches, covariates=covariates
        )
        chosen = self.chosen(copies, order, wanted)
        hidden = network.encoder(network.embed_tokens(inputs), network.attention_context(inputs), patches, chosen)
        loc, scale = inputs.loc, inputs.scale
        if chosen is not None:
            loc, scale = loc[chosen], scale[chosen]
        return unscale(network.config, _head(network, hidden, levels), loc, scale)

    def layout(self, copies: int) -> tuple[GroupLayout, Tensor | None]:
        if copies not in self.repeated:
            layout, order = repeat(self.rows.layout, copies)
            self.repeated[copies] = layout, None if order is None else order.to(self.device, non_blocking=True)
        return self.repeated[copies]

    def chosen(self, copies: int, order: Tensor | None, wanted: Tensor | None) -> Tensor | None:
        """Places, in the layout's order, of the wanted rows of every copy; None = all, already in order."""
        if copies == 1 or (wanted is None and order is None):
            return wanted
        size = len(self.rows.context)
        rows = torch.arange(size, device=self.device) if wanted is None else wanted
        flat = (rows + size * torch.arange(copies, device=self.device)[:, None]).flatten()
        return flat if order is None else torch.argsort(order)[flat]


def _pick(values: Tensor, rows: Tensor | None, levels: list[int]) -> Tensor:
    chosen = values if rows is None else values[rows]
    return chosen if len(levels) == chosen.shape[1] else chosen[:, levels]


def _head(network: Chronos2Network, hidden: Tensor, levels: list[int]) -> Tensor:
    """The output block for some trained levels only: (rows, N, D) -> (rows, levels, N * P) normalised."""
    count = len(network.config.quantiles)
    if len(levels) == count:
        return network.head(hidden)
    block, steps = network.output_patch_embedding, network.config.patch_size
    places = torch.tensor(levels)[:, None] * steps + torch.arange(steps)
    places = places.flatten().to(hidden.device, non_blocking=True)
    inner = block.hidden_layer(hidden).relu_()
    out = F.linear(inner, block.output_layer.weight[places], block.output_layer.bias[places])
    out = out + F.linear(hidden, block.residual_layer.weight[places], block.residual_layer.bias[places])
    return out.unflatten(-1, (len(levels), -1)).transpose(1, 2).flatten(2)


def embed(network: Chronos2Network, rows: DecodedRows) -> Embedding:
    """Final hidden states (M, n + 2, D) of the wanted rows (context patches, REG, one empty forecast patch), with the
    loc and scale (M, 1) of each row. States of patches without data mean nothing."""
    inputs = prepare(
        network.config, rows.context, rows.observed, rows.patches_observed, layout=rows.layout, num_output_patches=1
    )
    hidden = network.encoder(network.embed_tokens(inputs), network.attention_context(inputs))
    chosen = slice(None) if rows.wanted is None else rows.wanted
    return Embedding(hidden[chosen], inputs.loc[chosen], inputs.scale[chosen])
