"""The layers of Toto 2.0: linear layers with the constants of u-muP, attention over time or variates, gated MLP.

Facts from DataDog/toto, commit 46bd92a, and u-muP (arXiv 2407.17465). Weights have unit variance; constants outside the
linear layers keep activations at unit scale. The linear layers are plain nn.Linear modules, so that published files
load by name and adapters can wrap them. Gradients are autograd's of this forward: unit scaling's own backward divides a
weight's gradient by the root of the number of tokens, so the parts of a batch would not sum to the whole.

# R rows, S tokens of a row, D model width, H heads, G heads of keys and values, d head width, W windows, V rows of one
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrain.models.toto2.config import Toto2Config
from foretrain.models.toto2.rotary import RotaryTables, rotate
from foretrain.nn.attention import attend
from foretrain.nn.layout import RowLayout
from foretrain.nn.pieces import pieces
from foretrain.nn.unused import attach

# Factor that gives silu(x), x ~ N(0, 1), unit scale: a weighted geometric mean of those for forward and backward.
SILU_SCALE = math.exp(0.2 * math.log(2) + 0.4 * math.log(2 / (1 - 1 / math.pi)))


class KVCache:
    """KV cache of one time-attention layer with room for `tokens` tokens; lives for one forecast."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._stored: list[Tensor] = []

    def update(
        self, start: int, keys: Tensor, values: Tensor, part: slice = slice(None), rows: int | None = None
    ) -> list[Tensor]:
        """Store keys and values (R, G, n, d) at positions start to start + n; return all up to start + n.

        part: rows of the cache that these are, of `rows` rows in all; None = all of them.
        """
        if not self._stored:
            count = len(keys) if rows is None else rows
            self._stored = [x.new_empty(count, x.shape[1], self.tokens, x.shape[3]) for x in (keys, values)]
        end = start + keys.shape[2]
        for stored, new in zip(self._stored, (keys, values), strict=True):
            stored[part, :, start:end] = new
        return [stored[part, :, :end] for stored in self._stored]

    def of_rows(self, part: slice, rows: int) -> RowsOfCache:
        """Return the cache of some of `rows` rows; what it stores is stored here."""
        return RowsOfCache(self, part, rows)


@dataclass(frozen=True)
class RowsOfCache:
    """Some rows of a KVCache."""

    whole: KVCache
    part: slice
    rows: int

    def update(self, start: int, keys: Tensor, values: Tensor) -> list[Tensor]:
        """See KVCache."""
        return self.whole.update(start, keys, values, self.part, self.rows)


@dataclass(frozen=True)
class AttentionContext:
    """Inputs of every layer besides the hidden states; computed once per pass."""

    layout: RowLayout
    rotary: RotaryTables
    start: int = 0  # position of the first token
    causal: bool = True  # causal mask, used if time_mask is None
    time_mask: Tensor | None = None  # (R, 1, S, start + S) bool, True = visible
    variate_masks: tuple[Tensor | None, ...] = ()  # for each window size (W, S, 1, V, V) bool

    def of_rows(self, part: slice) -> AttentionContext:
        """Return what time attention needs for some rows."""
        mask = self.time_mask
        return replace(self, time_mask=mask if mask is None or len(mask) == 1 else mask[part])

    def of_positions(self, part: slice) -> AttentionContext:
        """Return what attention over variates needs at some tokens."""
        return replace(self, variate_masks=tuple(None if m is None else m[:, part] for m in self.variate_masks))


class Norm(nn.Module):
    """constant * x / sqrt(mean(x^2) + eps) over the last axis, in float32 at least; with a weight if `weighted`."""

    def __init__(self, width: int, eps: float, weighted: bool, constant: float = 1.0) -> None:
        super().__init__()
        self.eps, self.constant = eps, constant
        self.weight = nn.Parameter(torch.ones(width)) if weighted else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        wide = x if x.dtype == torch.float64 else x.float()
        normed = wide * (torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.constant)
        return (normed if self.weight is None else normed * self.weight).to(x.dtype)


class ResidualMLP(nn.Module):
    """(linear2(SiLU(linear1 x)) + skip_proj x) / sqrt 2. A readout divides by the width instead of its root."""

    def __init__(self, width_in: int, width_hidden: int, width_out: int, readout: bool = False) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width_in, width_hidden)
        self.linear2 = nn.Linear(width_hidden, width_out)
        self.skip_proj = nn.Linear(width_in, width_out)
        power = -1.0 if readout else -0.5
        self.inner = width_in**-0.5
        self.outer, self.skip = (width**power * 0.5**0.5 for width in (width_hidden, width_in))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width_in) -> (..., width_out)."""
        hidden = F.silu(self.linear1(x) * self.inner) * SILU_SCALE
        return self.linear2(hidden) * self.outer + self.skip_proj(x) * self.skip


class QueryScale(nn.Module):
    """A positive factor for each dimension of a query: softplus(per_dim_scale) / ln 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.per_dim_scale = nn.Parameter(torch.zeros(width))

    def forward(self, query: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return query * (F.softplus(self.per_dim_scale) / math.log(2)).to(query.dtype)


class Attention(nn.Module):
    """Attention over time (causal, with rotary positions) or over the variates of a window (without both)."""

    def __init__(self, config: Toto2Config, over_variates: bool) -> None:
        super().__init__()
        c = config
        self.over_variates = over_variates
        self.heads, self.groups = c.num_heads, c.num_groups
        self.widths = [c.num_heads * c.qk_dim, c.num_groups * c.qk_dim, c.num_groups * c.v_dim]
        self.in_proj = nn.Linear(c.d_model, sum(self.widths), bias=c.attn_bias)
        self.out_proj = nn.Linear(c.num_heads * c.v_dim, c.d_model, bias=c.attn_bias)
        # u-muP multiplies in_proj's output by inner. Here only values are multiplied; for queries and keys the factor
        # is part of score_scale, or of eps if they are normalised, since a norm cancels it otherwise.
        self.inner = c.d_model**-0.5
        weighted, eps = bool(c.qk_norm_include_weight), c.norm_eps / self.inner**2
        self.q_norm = Norm(c.qk_dim, eps, weighted) if c.qk_norm else None
        self.k_norm = Norm(c.qk_dim, eps, weighted) if c.qk_norm else None
        self._pds = QueryScale(c.qk_dim) if c.per_dim_scale else None
        # Scores are divided by the head's width, not by its root.
        self.score_scale = (1.0 if c.qk_norm else self.inner**2) / c.qk_dim

    def forward(
        self, x: Tensor, ctx: AttentionContext, cache: KVCache | RowsOfCache | None = None, keep: int | None = None
    ) -> Tensor:
        """x (R, S, D) -> (R, S, D), or (R, n, D) of the last keep = n tokens (with all S keys). The caller applies the
        constant of out_proj."""
        mixed = self._over_variates(x, ctx, keep) if self.over_variates else self._over_time(x, ctx, cache, keep)
        return self.out_proj(mixed)

    def _over_time(
        self, x: Tensor, ctx: AttentionContext, cache: KVCache | RowsOfCache | None, keep: int | None
    ) -> Tensor:
        q, k, v = self._split(self.in_proj(x))
        mask, causal, table = ctx.time_mask, ctx.causal, ctx.rotary.query
        if keep is not None and keep < q.shape[-2]:
            q, table = q[..., -keep:, :], (table[0][-keep:], table[1][-keep:])
            mask = (
                mask[..., -keep:, :]
                if mask is not None
                else _causal_mask(keep, x.shape[1], x.device)
                if causal
                else None
            )
            causal = False
        q, k = rotate(self._query(q), table), rotate(self._key(k), ctx.rotary.key)
        if cache is not None:
            k, v = cache.update(ctx.start, k, v)
        return self._attend(q, k, v, mask, causal).transpose(1, 2).flatten(2)

    def _over_variates(self, x: Tensor, ctx: AttentionContext, keep: int | None) -> Tensor:
        if keep is not None:
            x = x[:, -keep:]
        windows = ctx.layout.spread(x)
        masks = ctx.variate_masks or (None,) * len(windows)
        parts = []
        for rows, mask in zip(windows, masks, strict=True):
            if rows.shape[1] == 1:
                parts.append(self._single_variate(rows))
                continue
            tokens = rows.transpose(1, 2)  # (W, S, V, D)
            if mask is not None:
                mask = mask[:, -tokens.shape[1] :].flatten(0, 1)
            q, k, v = self._split(self.in_proj(tokens.flatten(0, 1)))
            out = self._attend(self._query(q), self._key(k), v, mask, causal=False)
            parts.append(out.transpose(1, 2).flatten(2).unflatten(0, tokens.shape[:2]).transpose(1, 2))
        mixed = ctx.layout.collect(parts)
        if all(rows.shape[1] == 1 for rows in windows):  # queries and keys were not used
            unused = [m for m in (self._pds, self.q_norm, self.k_norm) if m is not None]
            mixed = attach(mixed, [p for m in unused for p in m.parameters()])
        return mixed

    def _single_variate(self, x: Tensor) -> Tensor:
        """Attention of single-variate rows: the weight is one for any query and key, so only the value path remains."""
        first = self.widths[0] + self.widths[1]
        layer = self.in_proj
        if type(layer) is nn.Linear and not layer._forward_hooks:  # an adapter around it has its own forward
            value = F.linear(x, layer.weight[first:], None if layer.bias is None else layer.bias[first:]) * self.inner
        else:
            value = layer(x)[..., first:] * self.inner
        if self.heads == self.groups:
            return value
        return value.unflatten(-1, (self.groups, -1)).repeat_interleave(self.heads // self.groups, -2).flatten(-2)

    def _split(self, x: Tensor) -> list[Tensor]:
        """(B, S, widths) -> q (B, H, S, d), k and v (B, G, S, d)."""
        counts = (self.heads, self.groups, self.groups)
        q, k, v = x.split(self.widths, dim=-1)
        parts = (q, k, v * self.inner)
        return [part.unflatten(-1, (n, -1)).transpose(1, 2) for part, n in zip(parts, counts, strict=True)]

    def _query(self, q: Tensor) -> Tensor:
        q = q if self.q_norm is None else self.q_norm(q)
        return q if self._pds is None else self._pds(q)

    def _key(self, k: Tensor) -> Tensor:
        return k if self.k_norm is None else self.k_norm(k)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        shared = self.heads != self.groups
        return attend(q, k, v, mask, is_causal=causal, scale=self.score_scale, enable_gqa=shared)


class FeedForward(nn.Module):
    """fc2(a * silu(b)), with a and b the halves of fc1(x).

    The caller multiplies x by fc1's constant unless fc1 has a bias, and applies the constant of fc2.
    """

    def __init__(self, config: Toto2Config) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.d_model, 2 * config.d_ff, bias=config.mlp_bias)
        self.fc2 = nn.Linear(config.d_ff, config.d_model, bias=config.mlp_bias)
        self.inner = config.d_model**-0.5 if config.mlp_bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(R, S, D) -> (R, S, D)."""
        both = self.fc1(x)
        value, gate = (both if self.inner is None else both * self.inner).chunk(2, dim=-1)
        return self.fc2(value * F.silu(gate))


class TransformerLayer(nn.Module):
    """Attention, then feed forward; each pre-normed, and added to the residual stream by u-muP's rule."""

    attn_tau: Tensor
    mlp_tau: Tensor

    def __init__(self, config: Toto2Config, index: int) -> None:
        super().__init__()
        self.attn = Attention(config, config.over_variates[index])
        self.ffn = FeedForward(config)
        width, eps, weighted = config.d_model, config.norm_eps, config.norm_include_weight
        self.norm1 = Norm(width, eps, weighted)
        self.norm2 = Norm(width, eps, weighted, 1.0 if config.mlp_bias else width**-0.5)
        self.attn_constant = (config.num_heads * config.v_dim) ** -0.5
        self.mlp_constant = config.d_ff**-0.5
        taus = (residual_tau(config, 2 * index), residual_tau(config, 2 * index + 1))
        self.register_buffer("attn_tau", torch.tensor(taus[0]))
        self.register_buffer("mlp_tau", torch.tensor(taus[1]))

    def forward(
        self, hidden: Tensor, ctx: AttentionContext, cache: KVCache | RowsOfCache | None = None, keep: int | None = None
    ) -> Tensor:
        """hidden (R, S, D) -> (R, S, D), or (R, n, D) of the last keep = n tokens only."""
        branch = self.attn(self.norm1(hidden), ctx, cache, keep)
        hidden = _add_residual(hidden if keep is None else hidden[:, -keep:], branch, self.attn_constant, self.attn_tau)
        return _add_residual(hidden, self.ffn(self.norm2(hidden)), self.mlp_constant, self.mlp_tau)

    def in_pieces(
        self, hidden: Tensor, ctx: AttentionContext, at_once: int, cache: KVCache | None = None, keep: int | None = None
    ) -> Tensor:
        """Like forward, at most about at_once tokens at a time; without a gradient, and hidden is overwritten.

        Time attention and feed forward compute rows apart, attention over variates tokens.
        """
        count, length, width = hidden.shape
        kept = length if keep is None else min(keep, length)
        if self.attn.over_variates:
            hidden = hidden if kept == length else hidden[:, -kept:].clone()
            ctx = ctx.of_positions(slice(length - kept, length))
            for part in pieces(kept, count, at_once):
                branch = self.attn(self.norm1(hidden[:, part]), ctx.of_positions(part))
                hidden[:, part] = _add_residual(hidden[:, part], branch, self.attn_constant, self.attn_tau)
        else:
            out = hidden if kept == length else hidden.new_empty(count, kept, width)
            for part in pieces(count, length, at_once):
                own = None if cache is None else cache.of_rows(part, count)
                branch = self.attn(self.norm1(hidden[part]), ctx.of_rows(part), own, keep)
                out[part] = _add_residual(hidden[part, -kept:], branch, self.attn_constant, self.attn_tau)
            hidden = out
        for part in pieces(count, kept, at_once):
            branch = self.ffn(self.norm2(hidden[part]))
            hidden[part] = _add_residual(hidden[part], branch, self.mlp_constant, self.mlp_tau)
        return hidden


def residual_tau(config: Toto2Config, index: int) -> float:
    """Return the weight of residual branch `index` (attention of layer i is 2i, its MLP 2i + 1) relative to the stream.

    With q = residual_attn_ratio and r = residual_mult: m = r sqrt(2 / (1 + q^2)) for MLPs, a = q m for attention; tau =
    own / sqrt(L + (attentions before or at) a^2 + (MLPs before) m^2). (u-muP, arXiv 2407.17465, appendix G.)
    """
    ratio = config.residual_attn_ratio
    mlp = config.residual_mult * math.sqrt(2 / (1 + ratio**2))
    attention = ratio * mlp
    before = config.num_layers + (index + 1) // 2 * attention**2 + index // 2 * mlp**2
    return (mlp if index % 2 else attention) / math.sqrt(before)


def _add_residual(stream: Tensor, branch: Tensor, constant: float, tau: Tensor) -> Tensor:
    """Return (tau * constant * branch + stream) / sqrt(1 + tau^2)."""
    weight = (1 + tau.square()).rsqrt()
    return stream * weight + branch * (tau * weight * constant)


def _causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """Return the causal mask (queries, keys), bool; the queries are at the last positions of the keys."""
    position = torch.arange(keys, device=device)
    return position <= position[keys - queries :, None]
