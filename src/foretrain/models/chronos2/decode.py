"""Forecasts with the Chronos-2 network: one pass up to the native horizon, autoregressive decoding beyond it.

Facts from chronos-forecasting 2.3.2 (src/chronos/chronos2/pipeline.py, src/chronos/utils.py).

# R rows (arranged), M wanted rows (targets), T context steps, H horizon, Q trained levels, K needed levels, U branching
# levels, h steps of one round, L requested levels
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from foretrain.errors import ConfigError
from foretrain.models.chronos2.config import Chronos2Config
from foretrain.models.chronos2.inputs import prepare, to_patches, unscale
from foretrain.models.chronos2.layout import GroupBucket, GroupLayout
from foretrain.models.chronos2.model import Chronos2Network
from foretrain.models.types import Batch, Embedding, ForecastOptions
from foretrain.nn.pieces import pieces
from foretrain.nn.quantiles import (
    bracket,
    constant,
    interpolate_levels,
    probability_mass,
    warn_outside_trained,
    weighted_quantiles,
)
from foretrain.notes import Code, Note, warn

_log = logging.getLogger(__name__)

SAME_LEVEL = 1e-6  # levels that differ by no more are one level
DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MAX_BRANCH_ROWS = 256  # rows of one pass beyond the native horizon, unless the batch itself has more


@dataclass(frozen=True)
class Chronos2Options(ForecastOptions):
    """Forecast options of Chronos-2.

    Attributes:
        cross_learning: all rows of a batch attend to each other; the forecast then depends on the batch.
        unrolled_quantiles: levels that start a branch beyond the native horizon; a subset of the trained levels. The
            default is reduced to the deciles that were trained.
        max_output_patches: patches of one pass; None = the model's own. The model was not trained with more.
        limit_prediction_length: refuse a horizon beyond the native one instead of warning.
        symmetric: the forecast f becomes the mean of f(x) and -f(-x), the latter with level 1 - q for q, so that the
            forecast of -x is exactly its mirror image. All rows of a window are negated, covariates too: what moves
            with a target still does. Costs twice the rows.
        nested: the steps of each patch come from the pass that forecasts no further, so that a forecast does not depend
            on how many more steps are asked for, but for the values known ahead of these. Costs as many passes as there
            are patches in the first round.
    """

    cross_learning: bool = False
    unrolled_quantiles: tuple[float, ...] = DECILES
    max_output_patches: int | None = None
    limit_prediction_length: bool = False
    symmetric: bool = False
    nested: bool = False

    @property
    def mixes_items(self) -> bool:
        """Equal to cross_learning."""
        return self.cross_learning


@dataclass(frozen=True)
class DecodedRows:
    """The rows to decode: a batch on its device, in the order of the layout."""

    context: Tensor  # (R, T) NaN = not observed; T is a multiple of the patch size
    layout: GroupLayout
    observed: Tensor | None = None  # (R, T) bool; None asserts that there is no NaN
    patches_observed: Tensor | None = None  # (R, T / patch size) bool; None asserts that no patch is empty
    covariates: Tensor | None = None  # (R, H) NaN = not known ahead; None = there are none
    wanted: Tensor | None = None  # (M,) rows to forecast, in the order of the result; None = all rows in order

    @classmethod
    def of(cls, batch: Batch) -> DecodedRows:
        """Return the rows of a batch from Chronos2.collate."""
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
    at_once: Mapping[str, int] | None = None,
) -> Tensor:
    """Return float32 forecasts (M, H, levels) of the wanted rows in the units of the data, not sorted.

    Levels between trained ones are interpolated; levels outside take the outermost trained one. Beyond the native
    horizon each of the unrolled_quantiles extends the context in its own branch, and the branches' forecasts are pooled
    as weighted samples. Branches run in passes of limited rows and never see each other. at_once limits what is
    computed at a time (memory.py). Raises ConfigError.
    """
    options, levels = options or Chronos2Options(), tuple(quantile_levels)
    opposite = opposite_levels(levels, network.config.quantiles) if options.symmetric else ()
    asked = tuple(dict.fromkeys((*levels, *opposite)))
    plan = Plan.make(network.config, prediction_length, asked, options, at_once or {})
    if options.cross_learning:
        rows = replace(rows, layout=one_group(rows.layout.rows))
    decode = _nested if options.nested else _decode
    if not options.symmetric:
        return decode(network, rows, plan)
    plain, mirrored = decode(network, with_mirror_images(rows), plan).chunk(2)
    own, other = (constant([asked.index(x) for x in chosen], plain.device) for chosen in (levels, opposite))
    return (plain.index_select(-1, own) - mirrored.index_select(-1, other)) / 2


def _decode(network: Chronos2Network, rows: DecodedRows, plan: Plan) -> Tensor:
    return _AutoregressiveDecoder(network, rows, plan).run()


def _nested(network: Chronos2Network, rows: DecodedRows, plan: Plan) -> Tensor:
    """Return (M, H, levels), the patches of the first round each from the pass of which it is the last patch."""
    size, found = network.config.patch_size, list[Tensor]()
    for stop in range(size, min(plan.horizon, plan.patches * size), size):
        cut = rows if rows.covariates is None else replace(rows, covariates=rows.covariates[:, :stop])
        found.append(_decode(network, cut, replace(plan, horizon=stop, branching=[]))[:, stop - size :])
    return torch.cat([*found, _decode(network, rows, plan)[:, len(found) * size :]], 1)


def opposite_levels(levels: Sequence[float], trained: Sequence[float]) -> tuple[float, ...]:
    """Return 1 - q for each level q, as the trained level that it is, if it is one.

    Raises ConfigError unless the opposites of all trained levels are trained.
    """

    def opposite(level: float) -> float:
        return next((other for other in trained if abs(level + other - 1) <= SAME_LEVEL), 1 - level)

    alone = [level for level in trained if opposite(level) not in trained]
    if alone:
        raise ConfigError(
            f"symmetric: the model was trained on level {alone[0]} and not on {1 - alone[0]:.6g}, so that it has no "
            "mirror image of its quantiles; leave the option out."
        )
    return tuple(map(opposite, levels))


def with_mirror_images(rows: DecodedRows) -> DecodedRows:
    """Return the rows and their negatives as one batch whose halves do not see each other; wanted rows first."""
    layout, order = repeat(rows.layout, 2)
    device, count = rows.context.device, len(rows.context)
    order = None if order is None else order.to(device, non_blocking=True)

    def joined(x: Tensor, image: Tensor) -> Tensor:
        found = torch.cat((x, image))
        return found if order is None else found[order]

    def mask(x: Tensor | None) -> Tensor | None:
        return None if x is None else joined(x, x)

    return DecodedRows(
        joined(rows.context, -rows.context),
        layout,
        mask(rows.observed),
        mask(rows.patches_observed),
        None if rows.covariates is None else joined(rows.covariates, -rows.covariates),
        copies_of(rows.wanted, count, 2, order, device),
    )


def copies_of(
    wanted: Tensor | None, count: int, copies: int, order: Tensor | None, device: torch.device
) -> Tensor | None:
    """Return the wanted rows (None = all) of each copy of a batch of `count` rows, copy by copy, as indices of a
    layout in this `order` (of repeat); None = all, already in order."""
    if wanted is None and order is None:
        return None
    rows = torch.arange(count, device=device) if wanted is None else wanted
    flat = (rows + count * torch.arange(copies, device=device)[:, None]).flatten()
    return flat if order is None else torch.argsort(order)[flat]


def one_group(rows: int) -> GroupLayout:
    """Return the layout in which all rows of a batch attend to each other."""
    return GroupLayout(rows) if rows < 2 else GroupLayout(0, (GroupBucket(rows, 1, rows),))


def repeat(layout: GroupLayout, copies: int) -> tuple[GroupLayout, Tensor | None]:
    """Return the layout of `copies` copies of a batch that do not see each other, and its row order.

    The order (copies * R,) has, for each row of the layout, its index in the concatenated copies; None = unchanged.
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
class Plan:
    """Lengths and levels of a forecast, which depend on the arguments alone."""

    horizon: int
    patches: int  # maximum patches of one pass
    levels: tuple[float, ...]  # requested levels
    needed: list[int]  # indices of the trained levels from which the requested ones are interpolated
    branching: list[int]  # indices of the trained levels that start a branch; empty = one pass is enough
    at_once: Mapping[str, int]  # units of memory.py's pieces; {} = no limit

    @classmethod
    def make(
        cls,
        config: Chronos2Config,
        horizon: int,
        levels: Sequence[float],
        options: Chronos2Options,
        at_once: Mapping[str, int],
    ) -> Plan:
        """Return the plan. Logs notes on horizon and levels; raises ConfigError for impossible options."""
        if horizon > config.native_horizon:
            _warn_or_refuse(horizon, config.native_horizon, options.limit_prediction_length)
        warn_outside_trained(_log, levels, config.quantiles)
        return cls.quiet(config, horizon, levels, options, at_once)

    @classmethod
    def quiet(
        cls,
        config: Chronos2Config,
        horizon: int,
        levels: Sequence[float],
        options: Chronos2Options,
        at_once: Mapping[str, int],
    ) -> Plan:
        """Like make, without notes."""
        trained = config.quantiles
        patches = config.max_output_patches if options.max_output_patches is None else options.max_output_patches
        if patches < 1:
            raise ConfigError(f"max_output_patches is {patches}, must be at least 1.")
        lower, upper, _ = bracket(levels, trained)
        one_pass = horizon <= patches * config.patch_size
        branching = options.unrolled_quantiles
        if branching == DECILES:  # a model trained on other levels branches at the deciles among them
            branching = tuple(level for level in DECILES if _is_trained(level, trained)) or (
                () if one_pass else branching
            )
        elif not branching:
            raise ConfigError("unrolled_quantiles is empty; give at least one trained level.")
        indices = [_index_of(level, trained) for level in branching]
        return cls(horizon, patches, tuple(levels), sorted({*lower, *upper}), [] if one_pass else indices, at_once)


def _warn_or_refuse(horizon: int, native: int, refuse: bool) -> None:
    fact = f"prediction_length {horizon} is beyond the {native} steps that the model was trained to forecast at once"
    if refuse:
        raise ConfigError(f"{fact}; shorten it or set limit_prediction_length=False.")
    counts = {"prediction_length": horizon, "trained": native}
    text = f"{fact}; the forecast is decoded autoregressively and may be worse."
    warn(_log, Note(Code.HORIZON_UNROLLED, text, counts))


def _is_trained(level: float, trained: Sequence[float]) -> bool:
    return any(abs(level - other) <= SAME_LEVEL for other in trained)


def _index_of(level: float, trained: Sequence[float]) -> int:
    nearest = min(range(len(trained)), key=lambda i: abs(trained[i] - level))
    if abs(trained[nearest] - level) > SAME_LEVEL:
        raise ConfigError(f"unrolled_quantiles: {level} is not among the trained levels {list(trained)}.")
    return nearest


class _AutoregressiveDecoder:
    """Decodes one batch; lives for one call of forecast."""

    def __init__(self, network: Chronos2Network, rows: DecodedRows, plan: Plan) -> None:
        self.network, self.rows, self.plan = network, rows, plan
        self.step = network.config.patch_size
        self.device = rows.context.device
        self.repeated: dict[int, tuple[GroupLayout, Tensor | None]] = {}

    def run(self) -> Tensor:
        """Return the forecasts (M, H, levels)."""
        plan = self.plan
        trained = self.network.config.quantiles
        if not plan.branching:
            values = self.one_pass(self.rows, 0, 1, plan.needed, self.rows.wanted)
        else:
            values = torch.cat(self.rounds(), dim=-1)
        needed = [trained[i] for i in plan.needed]
        return interpolate_levels(values[..., : plan.horizon], needed, plan.levels, dim=1).transpose(1, 2)

    def rounds(self) -> list[Tensor]:
        """Return the forecasts (M, K, h) of every round, of the wanted rows at the needed levels."""
        plan, wanted = self.plan, self.rows.wanted
        computed = sorted({*plan.needed, *plan.branching})
        keep = [computed.index(i) for i in plan.needed]
        branch = [computed.index(i) for i in plan.branching]
        latest = self.one_pass(self.rows, 0, 1, computed, None)  # (R, computed, h)
        results = [_select(latest, wanted, keep)]
        done = latest.shape[-1]
        generated = self.rows.context.new_empty(len(plan.branching), len(self.rows.context), 0)  # (U, R, done)
        while done < plan.horizon:
            generated = torch.cat(
                (generated, self.with_known_covariates(latest[:, branch].transpose(0, 1), done)), dim=-1
            )
            last = done + plan.patches * self.step >= plan.horizon
            latest = self.pooled(generated, done, plan.needed if last else computed, wanted if last else None)
            results.append(latest if last else _select(latest, wanted, keep))
            done += latest.shape[-1]
        return results

    def with_known_covariates(self, predicted: Tensor, done: int) -> Tensor:
        """Replace the predicted steps (U, R, h), which end at `done`, by known values where covariates are known."""
        if self.rows.covariates is None:
            return predicted
        truth = self.rows.covariates[:, done - predicted.shape[-1] : done]
        return torch.where(truth.isnan(), predicted, truth)

    def pooled(self, generated: Tensor, done: int, levels: list[int], wanted: Tensor | None) -> Tensor:
        """Run one round of all branches; return the weighted quantiles (rows, levels, h) of the branches' quantiles."""
        trained = self.network.config.quantiles
        branching = [trained[i] for i in self.plan.branching]
        all_levels = list(range(len(trained)))
        branches_per_pass = branches_at_once(len(self.rows.context))
        branches_per_pass = min(branches_per_pass, self.plan.at_once.get("branches", branches_per_pass))
        parts = []
        for part in generated.split(branches_per_pass):
            values = self.one_pass(self.extended(part), done, len(part), all_levels, wanted)
            parts.append(values.unflatten(0, (len(part), -1)))
        branches = torch.cat(parts)  # (U, rows, Q, h)
        del parts, values
        weights = torch.outer(
            torch.from_numpy(probability_mass(branching)), torch.from_numpy(probability_mass(trained))
        ).flatten()
        weights = (weights / weights.sum()).to(self.device, non_blocking=True)
        found = []
        for rows in pieces(branches.shape[1], 1, self.plan.at_once.get("pooled rows")):
            samples = branches[:, rows].permute(1, 3, 0, 2).flatten(2)  # (rows, h, U * Q)
            found.append(weighted_quantiles(samples, weights, [trained[i] for i in levels]).transpose(1, 2))
        return found[0] if len(found) == 1 else torch.cat(found)

    def extended(self, generated: Tensor) -> DecodedRows:
        """Return the contexts of some branches, copy by copy, extended by the generated steps (copies, R, done).

        Contexts are cut to the model's context length and left-padded to whole patches.
        """
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
        """Run copies of the batch (copies * R rows) through the network once.

        Returns (copies * wanted rows, levels, N * P), copy by copy, for the steps after `done`.
        """
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
        tokens = self.plan.at_once.get("tokens")
        hidden = network.encoder(
            network.embed_in_pieces(inputs, tokens), network.attention_context(inputs), patches, chosen, tokens
        )
        loc, scale = inputs.loc, inputs.scale
        if chosen is not None:
            loc, scale = loc[chosen], scale[chosen]
        found = [
            unscale(network.config, _head(network, hidden[part], levels), loc[part], scale[part])
            for part in pieces(len(hidden), patches, tokens)
        ]
        return found[0] if len(found) == 1 else torch.cat(found)

    def layout(self, copies: int) -> tuple[GroupLayout, Tensor | None]:
        """Return repeat's layout and row order on the device; cached per number of copies."""
        if copies not in self.repeated:
            layout, order = repeat(self.rows.layout, copies)
            self.repeated[copies] = layout, None if order is None else order.to(self.device, non_blocking=True)
        return self.repeated[copies]

    def chosen(self, copies: int, order: Tensor | None, wanted: Tensor | None) -> Tensor | None:
        """Return the indices, in the layout's order, of the wanted rows of every copy; None = all, already in order."""
        return wanted if copies == 1 else copies_of(wanted, len(self.rows.context), copies, order, self.device)


def branches_at_once(rows: int) -> int:
    """Return how many branches of a batch run in one pass."""
    return max(1, MAX_BRANCH_ROWS // rows)


def _select(values: Tensor, rows: Tensor | None, levels: list[int]) -> Tensor:
    chosen = values if rows is None else values[rows]
    return chosen if len(levels) == chosen.shape[1] else chosen[:, levels]


def _head(network: Chronos2Network, hidden: Tensor, levels: list[int]) -> Tensor:
    """Compute the output block for some trained levels only: (rows, N, D) -> (rows, levels, N * P) normalised."""
    count = len(network.config.quantiles)
    if len(levels) == count:
        return network.head(hidden)
    block, steps = network.output_patch_embedding, network.config.patch_size
    units = torch.tensor(levels)[:, None] * steps + torch.arange(steps)  # output units of these levels
    units = units.flatten().to(hidden.device, non_blocking=True)
    inner = block.hidden_layer(hidden).relu_()
    out = F.linear(inner, block.output_layer.weight[units], block.output_layer.bias[units])
    out = out + F.linear(hidden, block.residual_layer.weight[units], block.residual_layer.bias[units])
    return out.unflatten(-1, (len(levels), -1)).transpose(1, 2).flatten(2)


def embed(network: Chronos2Network, rows: DecodedRows) -> Embedding:
    """Return the final hidden states (M, n + 2, D) of the wanted rows, with each row's loc and scale (M, 1).

    Tokens are the context patches, REG and one empty forecast patch. States of patches without data are meaningless.
    """
    inputs = prepare(
        network.config, rows.context, rows.observed, rows.patches_observed, layout=rows.layout, num_output_patches=1
    )
    hidden = network.encoder(network.embed_tokens(inputs), network.attention_context(inputs))
    chosen = slice(None) if rows.wanted is None else rows.wanted
    return Embedding(hidden[chosen], inputs.loc[chosen], inputs.scale[chosen])
