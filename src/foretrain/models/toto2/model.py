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
from foretrain.nn.quantiles import constant


@dataclass(frozen=True)
class Toto2Output:
    """What the network says at each token of the patch after it: value = sinh(quantiles) * scale + loc."""

    quantiles: Tensor  # (R, n, P, Q) not sorted
    scaled: Scaled


class Transformer(nn.Module):
    """The layers and the final norm."""

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
    ) -> Tensor:
        """hidden (R, S, D) -> (R, S, D); with keep = n only the last n tokens come out, with rows only those rows."""
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden, ctx, caches[index] if caches else None, keep if index == last else None)
        return self.out_norm(hidden if rows is None else hidden[rows])


class _Projection(nn.Module):
    """Holds the head under upstream's name."""

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
        """Random weights as u-muP has them (arXiv 2407.17465, table 2), drawn on the CPU: the seed alone decides.

        Weights N(0, 1), those of the head too; biases 0; norms 1; query scales at their neutral 0. How the published
        models were initialised is not known.
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
            values: (R, T) in any units; whatever it is where not observed. T is a multiple of P.
            observed: (R, T) bool.
            layout: which rows form a window.
            groups: (R, S) whole numbers: tokens of a row, and rows of a window at a token, see each other where theirs
                are equal; None = everywhere. Upstream gives -1 to patches without any observation.
            min_observed: see scale_patches.
            keep: only what the last so many tokens say.
            rows: only what these rows say.
        """
        scaled = scale_patches(values, observed, self.config.patch_size, min_observed)
        hidden = self.embed(scaled.values, observed)
        hidden = self.transformer(hidden, self.attention_context(layout, hidden.shape[1], groups), keep=keep, rows=rows)
        return Toto2Output(self.output_head(hidden), scaled)

    def embed(self, values: Tensor, observed: Tensor) -> Tensor:
        """(R, S, D) of scaled patches (R, S, P), each with a mark for every step that is missing (R, S * P)."""
        dtype = next(self.buffers()).dtype  # a tau's, which is the parameters', whatever wraps the layers
        missing = ~observed.reshape(values.shape)
        hidden = self.patch_proj(torch.cat((values.to(dtype), missing.to(dtype)), dim=-1))
        return hidden.to(dtype)  # the stream keeps its precision under autocast

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
        """Masks, positions and windows of a pass over so many tokens from position start on.

        groups (R, start + tokens), see forward; over_variates (R, tokens) stands in for the new tokens' in variate
        layers. centre of the positions' scales: the middle of the pass where nobody fixes one, which keeps the scales
        in range and changes nothing in a single pass.
        """
        device = layout.members[0].device
        end = start + tokens
        middle = (end if centre is None else 2 * centre) // 2
        turn = rotary_tables(start, tokens, self.config.qk_dim // 2, middle if self.config.use_xpos else None, device)
        if groups is None:
            mask = None
            if start and tokens > 1:
                mask = _causal(start, tokens, device)[None, None]
            return AttentionContext(layout, turn, start, start == 0, mask)
        new = groups[:, start:]
        mask = (new[:, :, None] == groups[:, None, :]) & _causal(start, tokens, device)
        new = new if over_variates is None else over_variates
        masks = []
        for rows in layout.spread(new):
            own = rows.transpose(1, 2)  # (W, S, V)
            masks.append((own[..., :, None] == own[..., None, :])[:, :, None] if own.shape[2] > 1 else None)
        return AttentionContext(layout, turn, start, False, mask[:, None], tuple(masks))


def pinball(quantiles: Tensor, target: Tensor, scored: Tensor) -> Loss:
    """Pinball loss averaged over the levels, summed over the scored steps, and their number.

    quantiles (..., Q) and target (...) in the network's space; target may be anything finite where scored (...) is
    False. The published models' own loss is not known beyond its kind.
    """
    levels = constant(LEVELS, quantiles.device, quantiles.dtype)
    target, counted = target[..., None], scored[..., None]
    with torch.no_grad():  # what autograd would find, for one product instead of many
        slope = ((quantiles >= target).to(quantiles.dtype) - levels) * counted / len(LEVELS)
    return Loss(((quantiles - target) * slope).sum(), scored.sum().float())


def _causal(start: int, tokens: int, device: torch.device) -> Tensor:
    """(tokens, start + tokens) bool: no token sees a later one."""
    place = torch.arange(start + tokens, device=device)
    return place <= place[start:, None]
