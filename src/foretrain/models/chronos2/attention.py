"""The three residual layers of a Chronos-2 block: attention over time, attention over the group, feed forward.

# R rows (variates), S tokens of a row, D model width, H heads, d head width, G groups, g rows of a group, N kept tokens

Attention has no 1/sqrt(d) factor (the initial weights of q absorb it). Masks are additive with the type's smallest
number, so that a slot without any observed key still gets a finite value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrain.models.chronos2 import fused
from foretrain.models.chronos2.config import Chronos2Config
from foretrain.models.chronos2.layout import GroupBucket, GroupLayout
from foretrain.nn.attention import attend
from foretrain.nn.counted import on_cpu
from foretrain.nn.dropout import drop
from foretrain.nn.pieces import pieces
from foretrain.nn.rms_norm import RMSNorm
from foretrain.nn.rope import rotate
from foretrain.nn.unused import attach


@dataclass(frozen=True)
class AttentionContext:
    """Inputs of every block besides the hidden states; computed once per forward."""

    layout: GroupLayout
    rope: tuple[Tensor, Tensor]  # rotary tables (cos, sin)
    time_mask: Tensor | None = None  # (R, 1, 1, S) additive; None = every patch is observed
    group_masks: tuple[Tensor | None, ...] = ()  # per bucket (G*S, 1, 1, g) additive
    last_group_masks: tuple[Tensor | None, ...] = ()  # the same for the kept tokens, which are always observed

    def of_rows(self, part: slice) -> AttentionContext:
        """Return what time attention needs for some rows."""
        return self if self.time_mask is None else replace(self, time_mask=self.time_mask[part])

    def of_positions(self, part: slice) -> AttentionContext:
        """Return what group attention needs at some positions, of all tokens or of the kept ones."""

        def masks(whole: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
            counted = zip(self.layout.buckets, whole, strict=True)
            return tuple(
                None if m is None else m.unflatten(0, (b.count, -1))[:, part].flatten(0, 1) for b, m in counted
            )

        return replace(self, group_masks=masks(self.group_masks), last_group_masks=masks(self.last_group_masks))


def use_cpu_kernels(hidden: Tensor, layer: nn.Module) -> bool:
    """Return True if the hand-written passes of fused.py can replace the plain layer.

    They support float32 on a CPU in eager mode, with products in bfloat16 under autocast to it, and unwrapped linear
    layers only: an adapter around one (LoRA) has its own forward, which must be called.
    """
    return (
        on_cpu(hidden)
        and hidden.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and product_dtype() in (None, torch.bfloat16)
        and all(type(m) in _PLAIN_MODULES and not m._forward_hooks for m in layer.modules() if m is not layer)
        and all(p.dtype == torch.float32 for p in layer.parameters())
    )


def product_dtype() -> torch.dtype | None:
    """Return the type of products with weights under the autocast that is on for the CPU; None without one."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


class Attention(nn.Module):
    """Multi-head projections without bias; upstream's parameter names."""

    def __init__(self, config: Chronos2Config) -> None:
        super().__init__()
        self.heads, self.head_dim = config.num_heads, config.d_kv
        self.q = nn.Linear(config.d_model, config.inner_dim, bias=False)
        self.k = nn.Linear(config.d_model, config.inner_dim, bias=False)
        self.v = nn.Linear(config.d_model, config.inner_dim, bias=False)
        self.o = nn.Linear(config.inner_dim, config.d_model, bias=False)

    def split(self, x: Tensor) -> Tensor:
        """(B, S, H*d) -> (B, H, S, d)."""
        return x.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the weights of q, k, v and o."""
        return self.q.weight, self.k.weight, self.v.weight, self.o.weight

    def spec(self, layer: TimeAttention | GroupAttention, hidden: Tensor) -> fused.Spec:
        """Return the constants of a layer for the hand-written passes."""
        rate = layer.dropout if layer.training else 0.0
        return fused.Spec(self.heads, layer.layer_norm.eps, rate, torch.is_grad_enabled(), product_dtype())

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        """(B, H, S, d) each -> (B, S, D), output projection included."""
        mixed = attend(q, k, v, mask, dropout_p=dropout, scale=1.0)
        return self.o(mixed.transpose(1, 2).flatten(2))


class TimeAttention(nn.Module):
    """Attention over a row's own tokens, with rotary positions."""

    def __init__(self, config: Chronos2Config) -> None:
        super().__init__()
        self.self_attention = Attention(config)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = config.dropout_rate

    def forward(self, hidden: Tensor, ctx: AttentionContext, keep: int | None = None) -> Tensor:
        """hidden (R, S, D) -> (R, S, D), or (R, N, D) of the last keep = N tokens."""
        attention = self.self_attention
        if use_cpu_kernels(hidden, self):
            factors, spec = fused.rotary_factors(ctx.rope), attention.spec(self, hidden)
            out = fused.attention(hidden.unsqueeze(1), self.layer_norm.weight, attention.weights(), spec, turn=factors,
                                  mask=ctx.time_mask, keep=keep)  # fmt: skip
            return out.squeeze(1)
        x = self.layer_norm(hidden)
        length = x.shape[1]
        first = 0 if keep is None else length - keep
        q_table = (ctx.rope[0][first:], ctx.rope[1][first:])
        q = rotate(attention.split(attention.q(x[:, first:])), q_table)
        k = rotate(attention.split(attention.k(x)), ctx.rope)
        v = attention.split(attention.v(x))
        rate = self.dropout if self.training else 0.0
        out = attention.attend(q, k, v, _cast(ctx.time_mask, q), rate)
        return hidden[:, first:] + F.dropout(out, rate, self.training)

    def weights(self, hidden: Tensor, ctx: AttentionContext) -> Tensor:
        """Return the attention probabilities (R, H, S, S), for inspection."""
        x, attention = self.layer_norm(hidden), self.self_attention
        q, k = (rotate(attention.split(project(x)), ctx.rope) for project in (attention.q, attention.k))
        scores = q @ k.transpose(-1, -2)
        return (scores if ctx.time_mask is None else scores + ctx.time_mask).softmax(-1)


class GroupAttention(nn.Module):
    """Attention over the rows of a group, separately at each position and without positional encoding."""

    def __init__(self, config: Chronos2Config) -> None:
        super().__init__()
        self.self_attention = Attention(config)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = config.dropout_rate

    def forward(self, hidden: Tensor, ctx: AttentionContext, keep: int | None = None) -> Tensor:
        """hidden (R, S, D) -> (R, S, D); with keep, the S tokens are the last ones, which are always observed."""
        if use_cpu_kernels(hidden, self) and all(bucket.gather is None for bucket in ctx.layout.buckets):
            return self._with_cpu_kernels(hidden, ctx, keep)
        x = self.layer_norm(hidden)
        if not ctx.layout.buckets:  # the weight of a single-variate row is one, so queries and keys are unused
            x = attach(x, [*self.self_attention.q.parameters(), *self.self_attention.k.parameters()])
        masks = ctx.group_masks if keep is None else ctx.last_group_masks
        parts = [self._single_variate(x[: ctx.layout.singles])] if ctx.layout.singles else []
        first = ctx.layout.singles
        for bucket, mask in zip(ctx.layout.buckets, masks, strict=True):
            parts.append(self._bucket(x[first : first + bucket.rows], bucket, mask))
            first += bucket.rows
        rate = self.dropout if self.training else 0.0
        return hidden + F.dropout(parts[0] if len(parts) == 1 else torch.cat(parts), rate, self.training)

    def weights(self, hidden: Tensor, ctx: AttentionContext) -> Tensor:
        """Return the attention probabilities (S, H, R, R) over all rows of the batch, for inspection."""
        x, attention = self.layer_norm(hidden).transpose(0, 1), self.self_attention
        scores = attention.split(attention.q(x)) @ attention.split(attention.k(x)).transpose(-1, -2)
        ids = ctx.layout.ids(hidden.device)
        allowed = (ids[:, None] == ids)[None, None]
        if ctx.time_mask is not None:
            allowed = allowed & (ctx.time_mask == 0).permute(3, 1, 2, 0)
        return (scores + _additive(allowed)).softmax(-1)

    def _with_cpu_kernels(self, hidden: Tensor, ctx: AttentionContext, keep: int | None) -> Tensor:
        """Compute forward with the hand-written passes; buckets must be unpadded."""
        attention, layout = self.self_attention, ctx.layout
        spec, norm = attention.spec(self, hidden), self.layer_norm.weight
        q, k, v, o = attention.weights()
        if not layout.buckets:
            return fused.lone_attention(attach(hidden, [q, k]), norm, v, o, spec)
        singles, *bucket_rows = hidden.split([layout.singles, *(bucket.rows for bucket in layout.buckets)])
        parts = [fused.lone_attention(singles, norm, v, o, spec)] if layout.singles else []
        masks = ctx.group_masks if keep is None else ctx.last_group_masks
        for bucket, rows, mask in zip(layout.buckets, bucket_rows, masks, strict=True):
            groups = rows.view(bucket.count, bucket.size, *rows.shape[1:]).transpose(1, 2)
            out = fused.attention(groups, norm, (q, k, v, o), spec, mask=mask)
            parts.append(out.transpose(1, 2).reshape(rows.shape))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _single_variate(self, x: Tensor) -> Tensor:
        """Attention of rows that are alone in their group: the weight is one, so only the value path remains, and
        dropout of that weight per row, position and head."""
        attention = self.self_attention
        v = attention.v(x)
        if self.training and self.dropout:
            heads = v.unflatten(-1, (attention.heads, attention.head_dim))
            weight = F.dropout(heads.new_ones(*heads.shape[:-1], 1), self.dropout)
            v = (heads * weight).flatten(-2)
        return attention.o(v)

    def _bucket(self, x: Tensor, bucket: GroupBucket, mask: Tensor | None) -> Tensor:
        """x (rows, S, D) of groups of one size, or padded to one -> (rows, S, D)."""
        attention = self.self_attention
        rows, length, width = x.shape
        if bucket.gather is not None:
            x = x[bucket.gather]
        x = x.view(bucket.count, bucket.size, length, width).transpose(1, 2).reshape(-1, bucket.size, width)
        q, k, v = (attention.split(project(x)) for project in (attention.q, attention.k, attention.v))
        out = attention.attend(q, k, v, _cast(mask, q), self.dropout if self.training else 0.0)
        out = out.view(bucket.count, length, bucket.size, width).transpose(1, 2)
        if bucket.scatter is None:
            return out.reshape(rows, length, width)
        return out.flatten(0, 1)[bucket.scatter]


class Mlp(nn.Module):
    """The two weights of a feed-forward layer; upstream's parameter names."""

    def __init__(self, config: Chronos2Config) -> None:
        super().__init__()
        self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)


class FeedForward(nn.Module):
    """wo relu(wi x), with dropout after relu."""

    def __init__(self, config: Chronos2Config) -> None:
        super().__init__()
        self.mlp = Mlp(config)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = config.dropout_rate

    def forward(self, hidden: Tensor) -> Tensor:
        """(R, S, D) -> (R, S, D)."""
        if use_cpu_kernels(hidden, self):
            rate = self.dropout if self.training else 0.0
            spec = fused.Spec(1, self.layer_norm.eps, rate, torch.is_grad_enabled(), product_dtype())
            wi, wo = self.mlp.wi.weight, self.mlp.wo.weight
            return fused.feed_forward(hidden, self.layer_norm.weight, wi, wo, spec)
        inner = F.dropout(F.relu(self.mlp.wi(self.layer_norm(hidden))), self.dropout, self.training)
        return hidden + F.dropout(self.mlp.wo(inner), self.dropout, self.training)


class Block(nn.Module):
    """Time attention, group attention, feed forward; each pre-normed and residual."""

    def __init__(self, config: Chronos2Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList([TimeAttention(config), GroupAttention(config), FeedForward(config)])

    def forward(
        self, hidden: Tensor, ctx: AttentionContext, keep: int | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """hidden (R, S, D) -> (R, S, D). With keep = N, only the last N tokens are computed and returned; with rows,
        only those rows."""
        hidden = self.layer[0](hidden, ctx, keep)
        hidden = self.layer[1](hidden, ctx, keep)
        return self.layer[2](hidden if rows is None else hidden[rows])

    def in_pieces(
        self, hidden: Tensor, ctx: AttentionContext, at_once: int, keep: int | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """Like forward, at most about at_once tokens at a time; without a gradient, and hidden is overwritten.

        Time attention and feed forward compute rows apart, group attention positions.
        """
        time, group, feed_forward = self.layer[0], self.layer[1], self.layer[2]
        count, length, width = hidden.shape
        out = hidden if keep is None else hidden.new_empty(count, keep, width)
        for part in pieces(count, length, at_once):
            out[part] = time(hidden[part], ctx.of_rows(part), keep)
        for part in pieces(out.shape[1], count, at_once):
            out[:, part] = group(out[:, part], ctx.of_positions(part), keep)
        out = out if rows is None else out[rows]
        for part in pieces(len(out), out.shape[1], at_once):
            out[part] = feed_forward(out[part])
        return out

    def inspect(self, hidden: Tensor, ctx: AttentionContext) -> tuple[Tensor, Tensor, Tensor]:
        """Return the block's output and its attention weights over time (R, H, S, S) and over groups (S, H, R, R)."""
        time, group, feed_forward = self.layer
        assert isinstance(time, TimeAttention) and isinstance(group, GroupAttention)
        across_time = time.weights(hidden, ctx)
        hidden = time(hidden, ctx)
        across_group = group.weights(hidden, ctx)
        return feed_forward(group(hidden, ctx)), across_time, across_group


class Encoder(nn.Module):
    """The blocks, followed by the final norm."""

    def __init__(self, config: Chronos2Config) -> None:
        super().__init__()
        self.block = nn.ModuleList([Block(config) for _ in range(config.num_layers)])
        self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = config.dropout_rate

    def forward(
        self,
        hidden: Tensor,
        ctx: AttentionContext,
        keep: int | None = None,
        rows: Tensor | None = None,
        at_once: int | None = None,
    ) -> Tensor:
        """Token embeddings (R, S, D) -> final hidden states, of all tokens or of the last keep = N (of some rows).

        at_once: tokens that a layer computes at a time, without a gradient and overwriting the embeddings; None = all.
        """
        hidden = drop(hidden, self.dropout, self.training)
        *inner, last = self.block
        if at_once is not None:
            for block in self.block:
                assert isinstance(block, Block)
                only = (keep, rows) if block is last else (None, None)
                hidden = block.in_pieces(hidden, ctx, at_once, *only)
            return self.final_layer_norm(hidden)
        for block in inner:
            hidden = block(hidden, ctx)
        hidden = last(hidden, ctx, keep, rows)
        return drop(self.final_layer_norm(hidden), self.dropout, self.training)


def attention_context(
    layout: GroupLayout, observed: Tensor | None, rope: tuple[Tensor, Tensor], keep: int
) -> AttentionContext:
    """Return the context of a batch.

    observed (R, S): True where a token holds data, None = everywhere. Its last `keep` columns are always True.
    """
    time_mask = None if observed is None else _additive(observed)[:, None, None, :]
    masks, last = [], []
    first = layout.singles
    for bucket in layout.buckets:
        rows = None if observed is None else observed[first : first + bucket.rows]
        masks.append(_bucket_mask(bucket, rows, rope[0].shape[0]))
        last.append(_bucket_mask(bucket, None, keep))
        first += bucket.rows
    return AttentionContext(layout, rope, time_mask, tuple(masks), tuple(last))


def _bucket_mask(bucket: GroupBucket, observed: Tensor | None, length: int) -> Tensor | None:
    """Return the additive mask (G*S, 1, 1, g) of a bucket's keys; None if no key is masked."""
    if observed is None and bucket.valid is None:
        return None
    valid = None if bucket.valid is None else bucket.valid[:, None, :].expand(-1, length, -1)
    if observed is not None:
        rows = observed if bucket.gather is None else observed[bucket.gather]
        seen = rows.view(bucket.count, bucket.size, length).transpose(1, 2)
        valid = seen if valid is None else valid & seen
    assert valid is not None
    return _additive(valid.reshape(-1, 1, 1, bucket.size))


def _additive(valid: Tensor) -> Tensor:
    """Return an additive mask: 0 where valid, float32's smallest number elsewhere."""
    return (~valid).float() * torch.finfo(torch.float32).min


def _cast(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """Return the additive mask in the type of the scores, still finite."""
    if mask is None or mask.dtype == like.dtype:
        return mask
    return mask.clamp(min=max(torch.finfo(like.dtype).min, torch.finfo(mask.dtype).min)).to(like.dtype)


_PLAIN_MODULES = (nn.Linear, Mlp, RMSNorm, Attention)  # submodules of a layer in which nothing is wrapped
