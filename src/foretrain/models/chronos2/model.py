"""The Chronos-2 network, with upstream's parameter names, argument names and numbers.

Facts from chronos-forecasting 2.3.2 (src/chronos/chronos2/model.py) and the Chronos-2 report (arXiv 2510.15821).

# R rows (variates of all items), T context steps, P patch size, n context patches, N future patches,
# S = n + 1 + N tokens, D model width, Q quantiles, H heads
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrain.models.chronos2 import fused
from foretrain.models.chronos2.attention import AttentionContext, Block, Encoder, attention_context, use_cpu_kernels
from foretrain.models.chronos2.config import Chronos2Config
from foretrain.models.chronos2.inputs import Chronos2Inputs, check_shapes, normalise, prepare, to_patches, unscale
from foretrain.models.chronos2.layout import GroupLayout, arrange
from foretrain.models.release import Network
from foretrain.nn.pieces import pieces
from foretrain.nn.rope import rope_table
from foretrain.nn.unused import attach


@dataclass(frozen=True)
class Encoded:
    """Final hidden states of every token (context patches, REG, future patches), and loc and scale of each row."""

    hidden: Tensor  # (R, S, D)
    loc: Tensor  # (R, 1)
    scale: Tensor  # (R, 1)
    patch_mask: Tensor  # (R, n) bool: context patches that hold data; other hidden states are meaningless


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
    """output_layer(relu(hidden_layer(x))) + residual_layer(x), with dropout on the first term."""

    def __init__(self, width_in: int, width_hidden: int, width_out: int, dropout: float) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(width_in, width_hidden)
        self.output_layer = nn.Linear(width_hidden, width_out)
        self.residual_layer = nn.Linear(width_in, width_out)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(..., width_in) -> (..., width_out)."""
        if use_cpu_kernels(x, self):
            hidden, output, residual = (
                (m.weight, m.bias) for m in (self.hidden_layer, self.output_layer, self.residual_layer)
            )
            spec = fused.Spec(1, 0.0, self.dropout if self.training else 0.0, torch.is_grad_enabled())
            return fused.residual_block(x, hidden, output, residual, spec)
        branch = self.output_layer(F.relu(self.hidden_layer(x)))
        return F.dropout(branch, self.dropout, self.training) + self.residual_layer(x)


class Chronos2Network(Network):
    """Chronos-2's tensor-level model: rows of numbers in, quantiles out."""

    architecture = Chronos2Config

    def __init__(self, config: Chronos2Config) -> None:
        super().__init__()
        self.config: Chronos2Config = config
        patch, width = config.patch_size, config.d_model
        self.shared = nn.Embedding(2 if config.use_reg_token else 1, width)
        self.input_patch_embedding = ResidualBlock(3 * patch, config.d_ff, width, config.dropout_rate)
        self.encoder = Encoder(config)
        self.output_patch_embedding = ResidualBlock(
            width, config.d_ff, len(config.quantiles) * patch, config.dropout_rate
        )
        self._levels: dict[torch.device, Tensor] = {}  # constants by device; not part of the state dict

    def initialise(self, seed: int) -> None:
        """Draw upstream's random initialisation on the CPU, so that the seed alone decides the weights.

        With f = initializer_factor: norms f; q ~ N(0, f (D d)^-1/2); tokens N(0, f); other weights N(0, f fan_in^-1/2);
        biases 0.
        """
        config = self.config
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            with torch.no_grad():
                if "layer_norm" in name:
                    parameter.fill_(config.initializer_factor)
                elif name.endswith("bias"):
                    parameter.zero_()
                else:
                    values = torch.empty(parameter.shape).normal_(generator=generator)
                    parameter.copy_(values * _init_std(name, parameter, config))

    def config_of(self, weights: Mapping[str, Tensor]) -> Chronos2Config:
        """Return the config with the dtype of these weights, which upstream's config.json states."""
        dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
        return replace(self.config, dtype=dtype)

    # ---- upstream's interface: rows in any order, masks computed here ---------------------------------------------

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
            context: (R, T) history, NaN = not observed; only the newest context_length steps are used.
            context_mask: (R, T) 1 = observed; default: not NaN. It does not change loc and scale, as upstream.
            group_ids: (R,) rows with the same id attend to each other; default: every row is its own group.
            future_covariates: (R, F <= N*P) values known ahead, NaN = unknown.
            future_covariates_mask: (R, F) 1 = known.
            num_output_patches: N; not limited by the config's max_output_patches.
            future_target: (R, F <= N*P) truth, NaN = not scored.
            future_target_mask: (R, F) 1 = scored.
            output_attentions: also return the attention weights of every block (slow, R x R for the groups).

        Raises:
            ValueError: shapes that do not fit together.
        """
        check_shapes(self.config, context, context_mask, group_ids, future_covariates, future_covariates_mask,
                     num_output_patches, future_target, future_target_mask)  # fmt: skip
        inputs, order = self.arranged(
            context, context_mask, group_ids, future_covariates, future_covariates_mask, num_output_patches
        )
        normalised = self.predict(inputs)
        back = slice(None) if order is None else torch.argsort(order)
        normalised, loc, scale = normalised[back], inputs.loc[back], inputs.scale[back]
        loss = None
        if future_target is not None:
            known = None
            if future_covariates is not None:
                known = ~future_covariates.isnan() if future_covariates_mask is None else future_covariates_mask.bool()
            elements, _ = self.pinball(normalised, future_target, loc, scale, future_target_mask, known)
            loss = elements.sum() / (normalised.shape[-1] * len(context))
        time, group = self.attentions(inputs, order) if output_attentions else (None, None)
        return Chronos2Output(unscale(self.config, normalised, loc, scale), loc, scale, loss, time, group)

    def encode(
        self,
        context: Tensor,
        context_mask: Tensor | None = None,
        group_ids: Tensor | None = None,
        future_covariates: Tensor | None = None,
        future_covariates_mask: Tensor | None = None,
        num_output_patches: int = 1,
    ) -> Encoded:
        """Return the final hidden states of all tokens; arguments and errors as in forward."""
        arguments = (context, context_mask, group_ids, future_covariates, future_covariates_mask, num_output_patches)
        check_shapes(self.config, *arguments)
        inputs, order = self.arranged(*arguments)
        hidden = self.encoder(self.embed_tokens(inputs), self.attention_context(inputs))
        back = slice(None) if order is None else torch.argsort(order)
        return Encoded(hidden[back], inputs.loc[back], inputs.scale[back], inputs.patch_mask[back])

    def arranged(
        self,
        context: Tensor,
        context_mask: Tensor | None = None,
        group_ids: Tensor | None = None,
        covariates: Tensor | None = None,
        covariates_mask: Tensor | None = None,
        num_output_patches: int = 1,
    ) -> tuple[Chronos2Inputs, Tensor | None]:
        """Return the inputs for forward's arguments, and the order of their rows (None = as given).

        On a CPU, masks that are all True are dropped; on a GPU they stay, since reading them would synchronise.
        """
        order, layout = None, GroupLayout(len(context))
        if group_ids is not None:
            index, layout = arrange(np.asarray(group_ids.cpu()))
            layout = layout.to(context.device)
            order = None if index is None else torch.from_numpy(index).to(context.device)
        if order is not None:
            context = context[order]
            rest = (context_mask, covariates, covariates_mask)
            context_mask, covariates, covariates_mask = (None if x is None else x[order] for x in rest)
        config = self.config
        context = context[:, -config.context_length :]
        context = F.pad(context, (-context.shape[1] % config.patch_size, 0), value=torch.nan)
        observed = ~context.isnan()
        if context_mask is not None:
            given = context_mask[:, -config.context_length :].bool()
            observed = observed & F.pad(given, (context.shape[1] - given.shape[1], 0))
        patches = to_patches(observed, config.patch_size).any(-1)
        may_read = not context.is_cuda
        inputs = prepare(
            config,
            context,
            None if may_read and bool(observed.all()) else observed,
            None if may_read and bool(patches.all()) else patches,
            layout=layout,
            num_output_patches=num_output_patches,
            covariates=covariates,
            known=None if covariates_mask is None else covariates_mask.bool(),
        )
        return inputs, order

    # ---- the steps, each on arranged rows -------------------------------------------------------------------------

    def predict(self, inputs: Chronos2Inputs, rows: Tensor | None = None) -> Tensor:
        """Return normalised quantiles (R, Q, N*P) of all rows, or of those in an index tensor at less cost."""
        hidden = self.encoder(
            self.embed_tokens(inputs), self.attention_context(inputs), inputs.num_output_patches, rows
        )
        return self.head(hidden)

    def embed_in_pieces(self, inputs: Chronos2Inputs, at_once: int | None) -> Tensor:
        """Return embed_tokens' result, about at_once tokens at a time; None = all."""
        rows, patches, _ = inputs.values.shape
        length = patches + int(self.config.use_reg_token) + inputs.num_output_patches
        if at_once is None:
            return self.embed_tokens(inputs)
        out = self.shared.weight.new_empty(rows, length, self.config.d_model)
        for part in pieces(rows, length, at_once):
            out[part] = self.embed_tokens(inputs.of_rows(part))
        return out

    def embed_tokens(self, inputs: Chronos2Inputs) -> Tensor:
        """Return the token embeddings (R, S, D): context patches, the REG token, future patches."""
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
        # Without covariates every row has the same future tokens, unless dropout makes them differ.
        shared = inputs.future is None and not (self.training and self.config.dropout_rate)
        ahead = features(time[patches:], inputs.future, inputs.future_observed, 1 if shared else rows)
        future = self.input_patch_embedding(ahead).expand(rows, -1, -1)
        if not self.config.use_reg_token:
            return attach(torch.cat((past, future), dim=1), [self.shared.weight])
        return torch.cat((past, self.shared.weight[1].expand(rows, 1, -1), future), dim=1)

    def attention_context(self, inputs: Chronos2Inputs) -> AttentionContext:
        """Return the masks, groups and rotary tables for the blocks."""
        patches = inputs.values.shape[1]
        length = patches + int(self.config.use_reg_token) + inputs.num_output_patches
        observed = inputs.patches_observed
        if observed is not None:
            observed = F.pad(observed, (0, length - patches), value=True)
        table = rope_table(length, self.config.d_kv, self.config.rope_theta, inputs.values.device)
        return attention_context(inputs.layout, observed, table, inputs.num_output_patches)

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden states of the N future tokens (R, N, D) to normalised quantiles (R, Q, N*P)."""
        out = self.output_patch_embedding(hidden)
        return out.unflatten(-1, (len(self.config.quantiles), -1)).transpose(1, 2).flatten(2)

    def pinball(
        self,
        normalised: Tensor,
        future_target: Tensor,
        loc: Tensor,
        scale: Tensor,
        target_mask: Tensor | None = None,
        known: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return 2 * pinball of every element (R, Q, N*P) in float32, zero where not scored, and the mask (R, N*P).

        normalised (R, Q, N*P); future_target (R, F), NaN = not scored; known (R, F) marks covariates given as input,
        which are never scored. Upstream's loss is the sum / (R * N*P): the denominator includes unobserved steps.
        """
        scored = ~future_target.isnan()
        if target_mask is not None:
            scored = scored & target_mask.bool()
        if known is not None:
            scored = scored & ~known
        target = torch.where(scored, normalise(self.config, future_target, loc, scale), 0.0)
        right = normalised.shape[-1] - future_target.shape[1]
        target, scored = F.pad(target, (0, right)), F.pad(scored, (0, right))
        wide = normalised.float()
        with torch.no_grad():  # the slope of each element, as autograd would compute it, in one product instead of many
            slope = 2 * ((wide >= target[:, None]).float() - self.levels(wide.device)[:, None]) * scored[:, None]
        return (wide - target[:, None]) * slope, scored

    def levels(self, device: torch.device) -> Tensor:
        """Return the quantile levels (Q,) on a device."""
        if device not in self._levels:
            self._levels[device] = torch.tensor(self.config.quantiles, dtype=torch.float32, device=device)
        return self._levels[device]

    def attentions(
        self, inputs: Chronos2Inputs, order: Tensor | None = None
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return the attention weights of every block: time (R, H, S, S) and group (S, H, R, R), rows in given order.

        A separate pass through the plain layers, for inspection. Weights of slots without data are meaningless.
        """
        ctx, hidden = self.attention_context(inputs), self.embed_tokens(inputs)
        rows = inputs.values.shape[0]
        back = torch.arange(rows, device=hidden.device) if order is None else torch.argsort(order)
        time, group = [], []
        for block in self.encoder.block:
            assert isinstance(block, Block)
            hidden, across_time, across_group = block.inspect(hidden, ctx)
            time.append(across_time[back])
            group.append(across_group[..., back, :][..., back])
        return tuple(time), tuple(group)


def _init_std(name: str, weight: Tensor, config: Chronos2Config) -> float:
    factor = config.initializer_factor
    if name == "shared.weight":
        return factor
    fan_in = weight.shape[1] * (config.d_kv if name.endswith("attention.q.weight") else 1)
    return factor * fan_in**-0.5
