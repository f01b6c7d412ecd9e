"""Layers of Toto 1.0, with upstream's parameter names: attention over time or over variates, then a gated MLP.

# R rows (variates of all windows), S patches of a row, D width, H heads, d head width, W windows, V rows of one
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrain.models.toto.config import TotoConfig
from foretrain.models.toto.rotary import RotaryTables, rotate
from foretrain.nn.layout import RowLayout

EPS = 1e-8  # of the norms, inside the root


class KVCache(Protocol):
    """KV cache of a layer over time: rotated keys, and values, of the patches it has read."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """(R, H, n, d) of n new patches -> (R, H, n, d): caches them and attends to everything cached.

        mask broadcasts to (R, H, n, patches cached), True = seen; None = all up to the query itself.
        """
        ...


@dataclass(frozen=True)
class AttentionContext:
    """What every layer needs besides the hidden states; made once per forward."""

    layout: RowLayout
    rotary: RotaryTables  # of the patches that are read: (S, d), or (R, 1, S, d) where rows differ
    time_mask: Tensor | None = None  # broadcasts to (R, H, n, patches up to now), True = seen; None = causal
    caches: Sequence[KVCache] | None = None  # of each layer over time, in order


class TotoRMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, in float32 at least."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        wide = x if x.dtype == torch.float64 else x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)).to(self.scale.dtype) * self.scale


class SwiGLU(nn.Module):
    """w3(silu(first half of w12(x)) * second half)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(width, 2 * inner)
        self.w3 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        gated, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gated) * value)


class Attention(nn.Module):
    """Multi-head attention whose projections put the head last: wQKV's outputs are (3, d, H), wO's inputs (H, d)."""

    def __init__(self, config: TotoConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.num_heads, config.dropout
        self.wQKV = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.wO = nn.Linear(config.embed_dim, config.embed_dim)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., S, D) -> queries, keys and values (..., H, S, d)."""
        found = self.wQKV(x).unflatten(-1, (3, -1, self.heads))
        return tuple(part.movedim(-1, -3) for part in found.unbind(-3))  # type: ignore[return-value]

    def merge(self, mixed: Tensor) -> Tensor:
        """(..., H, S, d) -> (..., S, D), what wO takes."""
        return mixed.transpose(-2, -3).flatten(-2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
        """(..., H, S, d) each -> (..., H, S, d)."""
        rate = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate, is_causal=causal)

    def over_time(self, x: Tensor, ctx: AttentionContext, cache: KVCache | None, newest: bool = False) -> Tensor:
        """x (R, S, D) -> (R, S, D): each patch sees its row's patches up to itself, at rotated positions.

        newest: only the last patch's result is wanted, (R, 1, D).
        """
        query, key, value = self.split(x)
        query, key = rotate(query, ctx.rotary.query), rotate(key, ctx.rotary.key)
        mask = ctx.time_mask
        if newest:
            query, mask = query[..., -1:, :], None if mask is None else mask[..., -1:, :]
        if cache is not None:
            return self.wO(self.merge(cache.attend(query, key, value, mask)))
        return self.wO(self.merge(self.attend(query, key, value, mask, causal=mask is None and not newest)))

    def over_variates(self, x: Tensor, ctx: AttentionContext) -> Tensor:
        """x (R, S, D) -> (R, S, D): at each patch every variate sees those of its window."""
        parts = []
        for rows in ctx.layout.spread(x):
            mixed = self.attend(*self.split(rows.transpose(1, 2)), mask=None)  # (W, S, H, V, d)
            parts.append(self.merge(mixed).transpose(1, 2))
        return self.wO(ctx.layout.collect(parts))


class TransformerLayer(nn.Module):
    """Attention, then the MLP; each pre-normed and residual."""

    def __init__(self, config: TotoConfig, over_variates: bool) -> None:
        super().__init__()
        self.over_variates = over_variates
        self.dropout = config.dropout
        self.norm1 = TotoRMSNorm(config.embed_dim)
        self.norm2 = TotoRMSNorm(config.embed_dim)
        self.attention = Attention(config)
        self.mlp = nn.Sequential(SwiGLU(config.embed_dim, config.mlp_hidden_dim))

    def forward(
        self, hidden: Tensor, ctx: AttentionContext, cache: KVCache | None = None, newest: bool = False
    ) -> Tensor:
        """hidden (R, S, D) -> (R, S, D), of the last patch alone with newest; cache is that of a layer over time."""
        normed = self.norm1(hidden)
        if newest:
            hidden = hidden[:, -1:]
        if self.over_variates:
            hidden = hidden + self.attention.over_variates(normed[:, -1:] if newest else normed, ctx)
        else:
            hidden = hidden + self.attention.over_time(normed, ctx, cache, newest)
        return hidden + F.dropout(self.mlp(self.norm2(hidden)), self.dropout, self.training)


class Transformer(nn.Module):
    """The layers; no norm after the last one."""

    def __init__(self, config: TotoConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([TransformerLayer(config, over) for over in config.spacewise])
        self._over_variates = tuple(config.spacewise)

    def forward(self, hidden: Tensor, ctx: AttentionContext, newest_only: bool = False) -> Tensor:
        """hidden (R, S, D) -> (R, S, D), or (R, 1, D) of the last patch: from the last layer over time on the others
        are not computed then."""
        caches = iter(ctx.caches) if ctx.caches is not None else None
        for i, layer in enumerate(self.layers):
            cache = None if caches is None or self._over_variates[i] else next(caches)
            hidden = layer(hidden, ctx, cache, newest_only and all(self._over_variates[i + 1 :]))
        return hidden
