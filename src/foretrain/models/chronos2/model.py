"""The Chronos-2 network, with upstream's parameter names, argument names and numbers.

Facts from chronos-forecasting 2.3.2 (src/chronos/chronos2/model.py) and the Chronos-2 report (arXiv 2510.15821).

# R rows (variates of all items), T context steps, P patch size, n context patches, N future patches, S = n + 1 + N tokens,
# D model width, Q quantiles
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrain.errors import ModelError
from foretrain.models.chronos2.attention import Encoder, Route, route
from foretrain.models.chronos2.config import Chronos2Config
from foretrain.models.chronos2.layout import GroupLayout, arrange
from foretrain.nn.rope import rope_table


@dataclass(frozen=True)
class Inputs:
    """One batch, rows arranged as its layout says, patches normalised and zero where not observed.

    An absent mask means that everything is observed; no tensor is looked at to find out.
    """

    values: Tensor  # (R, n, P)
    loc: Tensor  # (R, 1) float32
    scale: Tensor  # (R, 1) float32
    layout: GroupLayout
    num_output_patches: int
    observed: Tensor | None = None  # (R, n, P) bool
    patches_observed: Tensor | None = None  # (R, n) bool: patches with at least one observed step
    future: Tensor | None = None  # (R, N, P) covariates known ahead, normalised
    future_observed: Tensor | None = None  # (R, N, P) bool


@dataclass(frozen=True)
class Encoded:
    """Final hidden states of every token (context patches, REG, future patches) and what undoes the normalisation."""

    hidden: Tensor  # (R, S, D)
    loc: Tensor  # (R, 1)
    scale: Tensor  # (R, 1)
    patch_mask: Tensor  # (R, n) bool: context patches that hold data; hidden states elsewhere mean nothing


@dataclass(frozen=True)
class Chronos2Output:
    """Result of Chronos2Network.forward."""

    quantile_preds: Tensor  # (R, Q, N*P) in the units of the context; not sorted
    loc: Tensor  # (R, 1)
    scale: Tensor  # (R, 1)
    loss: Tensor | None = None
    time_attentions: tuple[Tensor, ...] | None = None  # per block (R, H, S, S)
    group_attentions: tuple[Tensor, ...] | None = None  # per block (S, H, R, R)


class ResidualBlock(nn.Module):
    """output_layer(relu(hidden_layer(x))) + residual_layer(x), dropout on the first branch."""

    def __init__(self, width_in: int, width_hidden: int, width_out: int, dropout: float) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(width_in, width_hidden)
        self.output_layer = nn.Linear(width_hidden, width_out)
        self.residual_layer = nn.Linear(width_in, width_out)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(..., width_in) -> (..., width_out)."""
        branch = self.output_layer(F.relu(self.hidden_layer(x)))
        return F.dropout(branch, self.dropout, self.training) + self.residual_layer(x)


class Chronos2Network(nn.Module):
    """Chronos-2's tensor-level model: rows of numbers in, quantiles out."""

    def __init__(self, config: Chronos2Config) -> None:
        super().__init__()
        self.config = config
        patch, width = config.patch_size, config.d_model
        self.shared = nn.Embedding(2 if config.use_reg_token else 1, width)
        self.input_patch_embedding = ResidualBlock(3 * patch, config.d_ff, width, config.dropout_rate)
        self.encoder = Encoder(config)
        self.output_patch_embedding = ResidualBlock(
            width, config.d_ff, len(config.quantiles) * patch, config.dropout_rate
        )
        self._levels: dict[torch.device, Tensor] = {}  # constants, kept out of the state on purpose

    # ---- upstream's interface -------------------------------------------------------------------------------------

    def forward(
        self,
        context: Tensor,
        context_mask: Tensor | None = None,
        group_ids: Tensor | None = None,
        future_covariates: Tensor | None = None,
        future_covariates_mask: Tensor | None = None,
        num_output_patches: int = 1,
        future_target: Tensor | None = None,
        future_target_mask: Tensor | None = None,
        output_attentions: bool = False,
    ) -> Chronos2Output:
        """Forecast every row, and score it when future_target is given.

        Args:
            context: (R, T) history, NaN = not observed; only the newest context_length steps count.
            context_mask: (R, T) 1 = observed; default: not NaN. It does not change loc and scale, as upstream.
            group_ids: (R,) rows with one id attend to each other; default: every row alone.
            future_covariates: (R, F <= N*P) values known ahead, NaN = unknown.
            future_covariates_mask: (R, F) 1 = known.
            num_output_patches: N.
            future_target: (R, F <= N*P) truth, NaN = not scored.
            future_target_mask: (R, F) 1 = scored.
            output_attentions: also return the attention weights of every block (slow).

        Raises:
            ValueError: shapes that do not fit together.
        """
        _check_shapes(context, context_mask, group_ids, future_covariates, future_covariates_mask, num_output_patches,
                      future_target, future_target_mask, self.config.patch_size)  # fmt: skip
        order, layout = _arrangement(group_ids, len(context), context.device)
        rows = [context, context_mask, future_covariates, future_covariates_mask]
        if order is not None:
            rows = [None if x is None else x[order] for x in rows]
        inputs = self.prepare(*rows, layout=layout, num_output_patches=num_output_patches)  # type: ignore[arg-type]
        normalised = self.head(self.encoder(self.embed_tokens(inputs), self.route(inputs), num_output_patches))
        loc, scale = inputs.loc, inputs.scale
        if order is not None:
            back = torch.argsort(order)
            normalised, loc, scale = normalised[back], loc[back], scale[back]
        loss = None
        if future_target is not None:
            known = _known(future_covariates, future_covariates_mask)
            total = self.loss_sum(normalised, future_target, loc, scale, future_target_mask, known)
            loss = total / len(context)
        time, group = self._attentions(inputs, order) if output_attentions else (None, None)
        return Chronos2Output(self.unscale(normalised, loc, scale), loc, scale, loss, time, group)

    def encode(
        self,
        context: Tensor,
        context_mask: Tensor | None = None,
        group_ids: Tensor | None = None,
        future_covariates: Tensor | None = None,
        future_covariates_mask: Tensor | None = None,
        num_output_patches: int = 1,
    ) -> Encoded:
        """Final hidden states of all tokens; arguments as forward."""
        _check_shapes(context, context_mask, group_ids, future_covariates, future_covariates_mask, num_output_patches,
                      None, None, self.config.patch_size)  # fmt: skip
        order, layout = _arrangement(group_ids, len(context), context.device)
        rows = [context, context_mask, future_covariates, future_covariates_mask]
        if order is not None:
            rows = [None if x is None else x[order] for x in rows]
        inputs = self.prepare(*rows, layout=layout, num_output_patches=num_output_patches)  # type: ignore[arg-type]
        hidden = self.encoder(self.embed_tokens(inputs), self.route(inputs))
        mask = inputs.patches_observed
        if mask is None:
            mask = torch.ones(inputs.values.shape[:2], dtype=torch.bool, device=context.device)
        back = slice(None) if order is None else torch.argsort(order)
        return Encoded(hidden[back], inputs.loc[back], inputs.scale[back], mask[back])

    # ---- the steps, each on arranged rows -------------------------------------------------------------------------

    def prepare(
        self,
        context: Tensor,
        context_mask: Tensor | None,
        future_covariates: Tensor | None,
        future_covariates_mask: Tensor | None,
        *,
        layout: GroupLayout,
        num_output_patches: int,
    ) -> Inputs:
        """Raw rows (already arranged) to normalised patches. On a CPU masks that mask nothing are dropped; on a device
        they stay, since looking would wait for it."""
        config = self.config
        context = context[:, -config.context_length :]
        observed = ~context.isnan() if context_mask is None else context_mask[:, -config.context_length :].bool()
        loc, scale = instance_statistics(context)
        values = self.normalise(context, loc, scale)
        left = -context.shape[1] % config.patch_size
        values, observed = F.pad(values, (left, 0)), F.pad(observed, (left, 0))
        values = torch.where(observed, values, 0.0)
        patches = _patches(observed, config.patch_size)
        whole = not context.is_cuda and bool(observed.all())
        seen = patches.any(-1)
        all_seen = whole or (not context.is_cuda and bool(seen.all()))
        future, known = None, None
        if future_covariates is not None:
            future, known = self.future_patches(
                future_covariates, future_covariates_mask, loc, scale, num_output_patches
            )
        return Inputs(
            values=_patches(values, config.patch_size),
            loc=loc,
            scale=scale,
            layout=layout,
            num_output_patches=num_output_patches,
            observed=None if whole else patches,
            patches_observed=None if all_seen else seen,
            future=future,
            future_observed=known,
        )

    def normalise(self, x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        """Original units to the network's: (x - loc) / scale, then arcsinh, in float32."""
        scaled = (x.float() - loc) / scale
        return scaled.arcsinh() if self.config.use_arcsinh else scaled

    def unscale(self, normalised: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        """(R, Q, H) in the network's units to float32 in the row's own."""
        wide = normalised.float()
        if self.config.use_arcsinh:
            wide = wide.sinh()
        return wide * scale[..., None] + loc[..., None]

    def future_patches(
        self, covariates: Tensor, mask: Tensor | None, loc: Tensor, scale: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        """Covariates known ahead (R, F) as normalised patches (R, N, P) with their mask."""
        if mask is not None and not covariates.is_cuda and bool((covariates.isnan() & mask.bool()).any()):
            raise ValueError("future_covariates has NaN where future_covariates_mask says that it is known.")
        known = ~covariates.isnan() if mask is None else mask.bool()
        values = torch.where(known, self.normalise(covariates, loc, scale), 0.0)
        right = count * self.config.patch_size - covariates.shape[1]
        size = self.config.patch_size
        return _patches(F.pad(values, (0, right)), size), _patches(F.pad(known, (0, right)), size)

    def embed_tokens(self, inputs: Inputs) -> Tensor:
        """(R, S, D): context patches, the REG token, future patches."""
        dtype = self.shared.weight.dtype
        rows, patches, size = inputs.values.shape
        count = inputs.num_output_patches
        time = torch.arange(-patches * size, count * size, device=inputs.values.device, dtype=torch.float32)
        time = (time / self.config.time_encoding_scale).view(-1, size).to(dtype)

        def features(time: Tensor, values: Tensor | None, observed: Tensor | None, rows: int) -> Tensor:
            shape = (rows, *time.shape)
            seen = time.new_full(shape, float(values is not None)) if observed is None else observed.to(dtype)
            numbers = time.new_zeros(shape) if values is None else values.to(dtype)
            return torch.cat((time.expand(shape), numbers, seen), dim=-1)

        past = self.input_patch_embedding(features(time[:patches], inputs.values, inputs.observed, rows))
        future = self.input_patch_embedding(features(time[patches:], inputs.future, inputs.future_observed, rows))
        if not self.config.use_reg_token:
            return torch.cat((past, future), dim=1)
        return torch.cat((past, self.shared.weight[1].expand(rows, 1, -1), future), dim=1)

    def route(self, inputs: Inputs) -> Route:
        """Masks, groups and rotary tables for the blocks."""
        rows, patches, _ = inputs.values.shape
        length = patches + int(self.config.use_reg_token) + inputs.num_output_patches
        observed = inputs.patches_observed
        if observed is not None:
            observed = F.pad(observed, (0, length - patches), value=True)
        table = rope_table(length, self.config.d_kv, self.config.rope_theta, inputs.values.device)
        return route(inputs.layout, observed, table, inputs.num_output_patches)

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden states of the N future tokens (R, N, D) to normalised quantiles (R, Q, N*P)."""
        out = self.output_patch_embedding(hidden)
        return out.unflatten(-1, (len(self.config.quantiles), -1)).transpose(1, 2).flatten(2)

    def loss_sum(
        self,
        normalised: Tensor,
        future_target: Tensor,
        loc: Tensor,
        scale: Tensor,
        target_mask: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """Sum over rows of upstream's loss: pinball, mean over N*P steps (unobserved ones count), sum over quantiles.

        normalised (R, Q, N*P), future_target (R, F); known (R, F) marks covariates given as input, never scored.
        """
        elements = self.pinball(normalised, future_target, loc, scale, target_mask, known)
        return elements.sum() / normalised.shape[-1]

    def pinball(
        self,
        normalised: Tensor,
        future_target: Tensor,
        loc: Tensor,
        scale: Tensor,
        target_mask: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """2 * pinball of every scored element (R, Q, N*P), zero elsewhere, in float32."""
        scored = ~future_target.isnan() if target_mask is None else target_mask.bool()
        if known is not None:
            scored = scored & ~known
        target = torch.where(scored, self.normalise(future_target, loc, scale), 0.0)
        right = normalised.shape[-1] - future_target.shape[1]
        target, scored = F.pad(target, (0, right))[:, None], F.pad(scored, (0, right))[:, None]
        error = target - normalised.float()
        levels = self.levels(normalised.device)[:, None]
        return 2 * error * (levels - (error <= 0).float()) * scored

    def levels(self, device: torch.device) -> Tensor:
        """The quantile levels (Q,) on a device."""
        if device not in self._levels:
            self._levels[device] = torch.tensor(self.config.quantiles, dtype=torch.float32, device=device)
        return self._levels[device]

    def _attentions(self, inputs: Inputs, order: Tensor | None):
        raise NotImplementedError


def instance_statistics(context: Tensor) -> tuple[Tensor, Tensor]:
    """loc and scale (R, 1) of rows (R, T) in float32: mean and population deviation of what is not NaN.

    A row without values gets 0 and 1; a constant one gets scale 1e-5.
    """
    context = context.float()
    loc = context.nanmean(dim=-1, keepdim=True).nan_to_num(nan=0.0)
    scale = (context - loc).square().nanmean(dim=-1, keepdim=True).sqrt().nan_to_num(nan=1.0)
    return loc, torch.where(scale == 0, 1e-5, scale)


def _arrangement(group_ids: Tensor | None, rows: int, device: torch.device) -> tuple[Tensor | None, GroupLayout]:
    if group_ids is None:
        return None, GroupLayout(rows)
    order, layout = arrange(np.asarray(group_ids.cpu()))
    return None if order is None else torch.from_numpy(order).to(device), layout.to(device)


def _known(covariates: Tensor | None, mask: Tensor | None) -> Tensor | None:
    if covariates is None:
        return None
    return ~covariates.isnan() if mask is None else mask.bool()


def _patches(x: Tensor, size: int) -> Tensor:
    return x.unflatten(-1, (-1, size))


def _check_shapes(
    context: Tensor,
    context_mask: Tensor | None,
    group_ids: Tensor | None,
    covariates: Tensor | None,
    covariates_mask: Tensor | None,
    patches: int,
    target: Tensor | None,
    target_mask: Tensor | None,
    size: int,
) -> None:
    if context.ndim != 2:
        raise ValueError(f"context has shape {tuple(context.shape)}, must be (rows, steps).")
    rows = len(context)
    if context_mask is not None and context_mask.shape != context.shape:
        raise ValueError(f"context_mask {tuple(context_mask.shape)} and context {tuple(context.shape)} differ in shape.")
    if group_ids is not None and group_ids.shape != (rows,):
        raise ValueError(f"group_ids has shape {tuple(group_ids.shape)}, must be ({rows},).")
    if patches < 1:
        raise ValueError(f"num_output_patches is {patches}, must be at least 1.")
    for name, x, mask in (("future_covariates", covariates, covariates_mask), ("future_target", target, target_mask)):
        if x is None:
            if mask is not None:
                raise ValueError(f"{name}_mask is given without {name}.")
            continue
        if x.ndim != 2 or len(x) != rows:
            raise ValueError(f"{name} has shape {tuple(x.shape)}, must be ({rows}, steps).")
        if x.shape[1] > patches * size:
            raise ValueError(f"{name} has {x.shape[1]} steps, more than num_output_patches {patches} x {size}.")
        if mask is not None and mask.shape != x.shape:
            raise ValueError(f"{name}_mask {tuple(mask.shape)} and {name} {tuple(x.shape)} differ in shape.")
    if covariates is not None and target is not None and covariates.shape != target.shape:
        raise ValueError(
            f"future_covariates {tuple(covariates.shape)} and future_target {tuple(target.shape)} differ in shape."
        )
