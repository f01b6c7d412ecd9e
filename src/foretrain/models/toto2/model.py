"""The Toto 2.0 network, with upstream's parameter names and numbers: patches in, quantiles of the next patch out.

Facts from DataDog/toto, commit 46bd92a.

# R rows (variates of all windows), T steps, P patch size, S = T / P tokens, D model width, Q quantile levels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foretrain.models.release import Network
from foretrain.models.toto2.config import LEVELS, Toto2Config
from foretrain.models.toto2.layers import AttentionContext, KVCache, Norm, ResidualMLP, TransformerLayer, residual_tau
from foretrain.models.toto2.rotary import rotary_tables
from foretrain.models.toto2.scaler import Scaled, scale_patches
from foretrain.models.types import Loss
from foretrain.nn.layout import RowLayout
from foretrain.nn.pieces import pieces
from foretrain.nn.quantiles import constant


@dataclass(frozen=True)
class Toto2Output:
    """Predictions at each token for the patch after it: value = sinh(quantiles) * scale + loc."""

    quantiles: Tensor  # (R, n, P, Q) not sorted
    scaled: Scaled


class Transformer(nn.Module):
    """The layers, followed by the final norm."""

    def __init__(self, config: Toto2Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(config, index) for index in range(config.num_layers))
        self.out_norm = Norm(config.d_model, config.norm_eps, config.norm_include_weight)

    def forward(
        self,
        hidden: Tensor,
        ctx: AttentionContext,
        *,
        caches: Sequence[KVCache] | None = None,
        keep: int | None = None,
        rows: Tensor | None = None,
        at_once: int | None = None,
    ) -> Tensor:
        """hidden (R, S, D) -> (R, S, D); with keep = n only of the last n tokens, with rows only of those rows.

        at_once: tokens that a layer computes at a time, see in_pieces; None = all.
        """
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            cache, kept = caches[index] if caches else None, keep if index == last else None
            if at_once is None:
                hidden = layer(hidden, ctx, cache, kept)
            else:
                assert isinstance(layer, TransformerLayer)
                hidden = layer.in_pieces(hidden, ctx, at_once, cache, kept)
        return self.out_norm(hidden if rows is None else hidden[rows])


class _Projection(nn.Module):
    """Container that gives the head upstream's parameter name."""

    def __init__(self, config: Toto2Config) -> None:
        super().__init__()
        width, out = config.d_model, len(LEVELS) * config.patch_size
        self.proj = ResidualMLP(width, 4 * width, out, readout=True)


class QuantileHead(nn.Module):
    """Hidden states to quantiles of every step of a patch."""

    def __init__(self, config: Toto2Config) -> None:
        super().__init__()
        self.param_projection = _Projection(config)

    def forward(self, hidden: Tensor) -> Tensor:
        """(R, S, D) -> (R, S, P, Q) float32 at least."""
        out = self.param_projection.proj(hidden).unflatten(-1, (-1, len(LEVELS)))
        return out if out.dtype == torch.float64 else out.float()


class Toto2Network(Network):
    """Toto 2.0's tensor-level model."""

    architecture = Toto2Config

    def __init__(self, config: Toto2Config) -> None:
        super().__init__()
        self.config: Toto2Config = config
        width = config.d_model
        self.patch_proj = ResidualMLP(2 * config.patch_size, 4 * width, width)
        self.transformer = Transformer(config)
        self.output_head = QuantileHead(config)

    def initialise(self, seed: int) -> None:
        """Draw u-muP's random weights (arXiv 2407.17465, table 2) on the CPU, so that the seed alone decides them.

        Weights N(0, 1), including the head; biases 0; norms 1; query scales 0, which is neutral. The initialisation of
        the published models is not known.
        """
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim == 2:
                    parameter.copy_(torch.empty(parameter.shape).normal_(generator=generator))
                else:
                    parameter.fill_(float("norm" in name))
            for name, tau in self.named_buffers():
                index = 2 * int(name.split(".")[2]) + name.endswith("mlp_tau")
                tau.fill_(residual_tau(self.config, index))

    def forward(
        self,
        values: Tensor,
        observed: Tensor,
        layout: RowLayout,
        groups: Tensor | None = None,
        *,
        min_observed: int = 0,
        keep: int | None = None,
        rows: Tensor | None = None,
    ) -> Toto2Output:
        """One pass over whole series.

        Args:
            values: (R, T) in any units; arbitrary where not observed. T is a multiple of P.
            observed: (R, T) bool.
            layout: rows of each window.
            groups: (R, S) integers: tokens of a row, and rows of a window at a token, see each other if their groups
                are equal; None = all equal. Upstream gives -1 to patches without any observation.
            min_observed: see scale_patches.
            keep: return predictions of the last `keep` tokens only.
            rows: return predictions of these rows only.
        """
        c = self.config
        scaled = scale_patches(values, observed, c.patch_size, min_observed, relative=c.relative)
        hidden = self.embed(scaled.values, observed)
        hidden = self.transformer(hidden, self.attention_context(layout, hidden.shape[1], groups), keep=keep, rows=rows)
        return Toto2Output(self.output_head(hidden), scaled)

    def embed(self, values: Tensor, observed: Tensor) -> Tensor:
        """Embed scaled patches (R, S, P) and the mask of observed steps (R, S * P) -> (R, S, D)."""
        dtype = next(self.buffers()).dtype  # of a tau: the parameters' dtype even if adapters wrap the layers
        missing = ~observed.reshape(values.shape)
        hidden = self.patch_proj(torch.cat((values.to(dtype), missing.to(dtype)), dim=-1))
        return hidden.to(dtype)  # the residual stream keeps its dtype under autocast

    def embed_in_pieces(self, values: Tensor, observed: Tensor, at_once: int | None) -> Tensor:
        """Return embed's result, about at_once tokens at a time; None = all."""
        if at_once is None:
            return self.embed(values, observed)
        rows, tokens, _ = values.shape
        out = values.new_empty(rows, tokens, self.config.d_model, dtype=next(self.buffers()).dtype)
        for part in pieces(rows, tokens, at_once):
            out[part] = self.embed(values[part], observed[part])
        return out

    def attention_context(
        self,
        layout: RowLayout,
        tokens: int,
        groups: Tensor | None = None,
        *,
        start: int = 0,
        centre: int | None = None,
        over_variates: Tensor | None = None,
    ) -> AttentionContext:
        """Return masks, rotary tables and windows for a pass over `tokens` tokens from position `start` on.

        Args:
            layout: rows of each window.
            tokens: number of tokens of the pass.
            groups: (R, start + tokens), see forward.
            start: position of the first token.
            centre: position at which the rotary scales are 1. None = the middle of the pass, which keeps the scales in
                range and does not change the result of a single pass.
            over_variates: (R, tokens) groups of the tokens in variate layers; None = those in `groups`.
        """
        device = layout.members[0].device
        end = start + tokens
        middle = (end if centre is None else 2 * centre) // 2
        rotary = rotary_tables(start, tokens, self.config.qk_dim // 2, middle if self.config.use_xpos else None, device)
        if groups is None:
            mask = None
            if start and tokens > 1:
                mask = _causal_mask(start, tokens, device)[None, None]
            return AttentionContext(layout, rotary, start, start == 0, mask)
        new = groups[:, start:]
        mask = (new[:, :, None] == groups[:, None, :]) & _causal_mask(start, tokens, device)
        new = new if over_variates is None else over_variates
        masks = []
        for rows in layout.spread(new):
            own = rows.transpose(1, 2)  # (W, S, V)
            masks.append((own[..., :, None] == own[..., None, :])[:, :, None] if own.shape[2] > 1 else None)
        return AttentionContext(layout, rotary, start, False, mask[:, None], tuple(masks))


def pinball(quantiles: Tensor, target: Tensor, scored: Tensor) -> Loss:
    """Return the pinball loss, averaged over levels and summed over the scored steps, and the number of these.

    quantiles (..., Q) and target (...) are in the network's space; target may be any finite value where scored (...) is
    False. Of the published models' loss only the kind is known.
    """
    levels = constant(LEVELS, quantiles.device, quantiles.dtype)
    target, counted = target[..., None], scored[..., None]
    with torch.no_grad():  # the slope that autograd would compute, in one product instead of many
        slope = ((quantiles >= target).to(quantiles.dtype) - levels) * counted / len(LEVELS)
    return Loss(((quantiles - target) * slope).sum(), scored.sum().float())


def _causal_mask(start: int, tokens: int, device: torch.device) -> Tensor:
    """Return the causal mask (tokens, start + tokens), bool."""
    position = torch.arange(start + tokens, device=device)
    return position <= position[start:, None]
