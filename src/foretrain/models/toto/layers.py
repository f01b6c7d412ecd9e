"""Layers of Toto 1.0, with upstream's parameter names: attention over time or over variates, then a gated MLP.

# R rows (variates of all windows), S patches of a row, D width, H heads, d head width, W windows, V rows of a window
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrain.models.toto.config import TotoConfig
from foretrain.models.toto.rotary import RotaryTables, rotate
from foretrain.nn.attention import attend
from foretrain.nn.layout import RowLayout
from foretrain.nn.pieces import pieces

EPS = 1e-8  # added to the mean square in the norms


class KVCache(Protocol):
    """KV cache of a time-attention layer: rotated keys and values of the patches so far."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Append n new patches (R, H, n, d) and attend to all cached ones -> (R, H, n, d).

        mask broadcasts to (R, H, n, patches cached), True = visible; None = causal.
        """
        ...


class PrefillCache(KVCache, Protocol):
    """A KVCache that can be filled some rows at a time."""

    def of_rows(self, part: slice, rows: int) -> KVCache:
        """Return the cache of some of `rows` rows; what it appends is appended here."""
        ...


@dataclass(frozen=True)
class AttentionContext:
    """Inputs of every layer besides the hidden states, built once per forward pass."""

    layout: RowLayout
    rotary: RotaryTables  # of the input patches: (S, d), or (R, 1, S, d) if rows differ
    time_mask: Tensor | None = None  # broadcasts to (R, H, n, patches up to now), True = visible; None = causal
    caches: Sequence[KVCache] | None = None  # one per time-attention layer, in order

    def of_rows(self, part: slice) -> AttentionContext:
        """Return what time attention needs for some rows."""
        rotary, mask = self.rotary.of_rows(part), self.time_mask
        return replace(self, rotary=rotary, time_mask=mask if mask is None or mask.ndim < 4 else mask[part])


class TotoRMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, in at least float32."""

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
        """Project (..., S, D) to queries, keys and values (..., H, S, d)."""
        projected = self.wQKV(x).unflatten(-1, (3, -1, self.heads))
        return tuple(part.movedim(-1, -3) for part in projected.unbind(-3))  # type: ignore[return-value]

    def merge(self, mixed: Tensor) -> Tensor:
        """Merge the heads: (..., H, S, d) -> (..., S, D), the input of wO."""
        return mixed.transpose(-2, -3).flatten(-2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
        """Scaled dot-product attention: (..., H, S, d) each -> (..., H, S, d)."""
        rate = self.dropout if self.training else 0.0
        return attend(query, key, value, mask, dropout_p=rate, is_causal=causal)

    def over_time(self, x: Tensor, ctx: AttentionContext, cache: KVCache | None, newest: bool = False) -> Tensor:
        """Time attention (R, S, D) -> (R, S, D): each patch attends to its row's patches up to itself, rotated.

        newest: return only the last patch's result, (R, 1, D).
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
        """Variate attention (R, S, D) -> (R, S, D): at each patch every variate attends to those of its window."""
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
        """hidden (R, S, D) -> (R, S, D), with newest (R, 1, D) of the last patch; cache is for time attention only."""
        normed = self.norm1(hidden)
        if newest:
            hidden = hidden[:, -1:]
        if self.over_variates:
            hidden = hidden + self.attention.over_variates(normed[:, -1:] if newest else normed, ctx)
        else:
            hidden = hidden + self.attention.over_time(normed, ctx, cache, newest)
        return hidden + F.dropout(self.mlp(self.norm2(hidden)), self.dropout, self.training)

    def in_pieces(
        self, hidden: Tensor, ctx: AttentionContext, at_once: int, cache: PrefillCache | None, newest: bool
    ) -> Tensor:
        """Like forward, at most about at_once tokens at a time; in eval mode without a gradient, and hidden is
        overwritten.

        Time attention and MLP compute rows apart, attention over variates positions.
        """
        count, length, width = hidden.shape
        if self.over_variates:
            hidden = hidden[:, -1:].clone() if newest else hidden
            for part in pieces(hidden.shape[1], count, at_once):
                hidden[:, part] = hidden[:, part] + self.attention.over_variates(self.norm1(hidden[:, part]), ctx)
        else:
            out = hidden.new_empty(count, 1, width) if newest else hidden
            for part in pieces(count, length, at_once):
                own = None if cache is None else cache.of_rows(part, count)
                mixed = self.attention.over_time(self.norm1(hidden[part]), ctx.of_rows(part), own, newest)
                out[part] = (hidden[part, -1:] if newest else hidden[part]) + mixed
            hidden = out
        for part in pieces(count, hidden.shape[1], at_once):
            hidden[part] = hidden[part] + self.mlp(self.norm2(hidden[part]))
        return hidden


class Transformer(nn.Module):
    """The layers; no norm after the last one."""

    def __init__(self, config: TotoConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([TransformerLayer(config, over) for over in config.spacewise])
        self._over_variates = tuple(config.spacewise)

    def forward(
        self, hidden: Tensor, ctx: AttentionContext, newest_only: bool = False, at_once: int | None = None
    ) -> Tensor:
        """hidden (R, S, D) -> (R, S, D); with newest_only (R, 1, D) of the last patch, which alone is computed from the
        last time-attention layer on.

        at_once: tokens that a layer computes at a time, see in_pieces; caches are then PrefillCaches. None = all.
        """
        caches = iter(ctx.caches) if ctx.caches is not None else None
        for i, layer in enumerate(self.layers):
            cache = None if caches is None or self._over_variates[i] else next(caches)
            newest = newest_only and all(self._over_variates[i + 1 :])
            if at_once is None:
                hidden = layer(hidden, ctx, cache, newest)
            else:
                assert isinstance(layer, TransformerLayer)
                hidden = layer.in_pieces(hidden, ctx, at_once, cast("PrefillCache | None", cache), newest)
        return hidden
