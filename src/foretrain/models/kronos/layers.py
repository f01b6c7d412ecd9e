"""Layers of tokenizer and predictor: causal attention with rotary positions, gated feed-forward, KV cache.

Parameter names and maths are upstream's (shiyu-coder/Kronos, commit 67b630e, model/module.py).

# B sequences, T tokens, D width, h heads, d head width
# decoding: N series, S samples of each, C cached tokens that the samples of a series share, G cached tokens of one
# sample, g new tokens
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrain.nn.attention import attend
from foretrain.nn.dropout import drop
from foretrain.nn.pieces import pieces
from foretrain.nn.rms_norm import RMSNorm
from foretrain.nn.rope import rope_table, rotate
from foretrain.nn.undrawn import table

THETA = 10000.0
EPS = 1e-5
MAX_SCORES = 2**24  # attention scores computed at once while decoding: 64 MiB a copy

RotaryTables = tuple[Tensor, Tensor]


def rotary_tables_at(positions: Tensor, dim: int) -> RotaryTables:
    """Return cos and sin (..., d/2), float32, of integer positions (...); equals rope_table at 0, 1, 2, ..."""
    exponent = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim
    angles = positions[..., None].to(torch.float32) / THETA**exponent
    return angles.cos(), angles.sin()


def rotary_tables(length: int, dim: int, device: torch.device) -> RotaryTables:
    """Return cos and sin (length, d/2) of positions 0 .. length - 1."""
    return rope_table(length, dim, THETA, device)


class Rotary(nn.Module):
    """Buffer of upstream's files; unused, since the tables are computed from the formula in float32."""

    inv_freq: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        frequencies = table(lambda: 1.0 / THETA ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
        self.register_buffer("inv_freq", frequencies)


class AttentionMask(NamedTuple):
    """Cached tokens that new tokens attend to, the new ones included; True = visible."""

    shared_start: int = 0  # shared tokens before this slot are masked
    own_start: int = 0  # a sample's own tokens before this slot are masked
    shared: Tensor | None = None  # (N or 1, g or 1, C - shared_start) bool of the shared tokens; None = all
    own: Tensor | None = None  # (g, G - own_start) bool of a sample's own tokens; None = all

    def of_queries(self, part: slice) -> AttentionMask:
        """Return the mask of some of the new tokens."""
        shared = self.shared if self.shared is None or self.shared.shape[1] == 1 else self.shared[:, part]
        return self._replace(shared=shared, own=None if self.own is None else self.own[part])


@dataclass
class KVCache:
    """KV cache of one attention layer: tokens that all samples of a series share, and tokens of each sample.

    Buffers may be longer than the tokens in them. New tokens are shared until `fork` adds buffers for samples.
    """

    keys: Tensor  # (N, h, K, d) rotated
    values: Tensor
    length: int  # C of the K slots are in use
    own_keys: Tensor | None = None  # (N, h, S, capacity, d)
    own_values: Tensor | None = None
    own_length: int = 0  # G of a sample's slots are in use

    def fork(self, samples: int, capacity: int) -> KVCache:
        """Return a cache with the same shared tokens and buffers for `capacity` tokens of each of S samples."""
        n, heads, _, width = self.keys.shape
        shape = n, heads, samples, capacity, width
        return KVCache(self.keys, self.values, self.length, self.keys.new_empty(shape), self.keys.new_empty(shape))

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Append keys and values (N, h, S, g, d); shared ones have S = 1."""
        new = keys.shape[3]
        if self.own_keys is not None and self.own_values is not None:
            self.own_keys[:, :, :, self.own_length : self.own_length + new] = keys
            self.own_values[:, :, :, self.own_length : self.own_length + new] = values
            self.own_length += new
            return
        end = self.length + new
        if end > self.keys.shape[2]:
            self.keys, self.values = (_resized(x, self.length, 2 * end) for x in (self.keys, self.values))
        self.keys[:, :, self.length : end] = keys[:, :, 0]
        self.values[:, :, self.length : end] = values[:, :, 0]
        self.length = end

    def evict(self, count: int, order: Tensor | None = None) -> None:
        """Keep only the newest `count` shared tokens, or those in slots `order` (N, count) if given."""
        for name in ("keys", "values"):
            x = getattr(self, name)
            chosen = x[:, :, self.length - count : self.length]
            if order is not None:
                n, heads, _, width = x.shape
                chosen = x.gather(2, order[:, None, :, None].expand(n, heads, count, width))
            setattr(self, name, _resized(chosen, count, x.shape[2]))
        self.length = count

    def attend(self, query: Tensor, mask: AttentionMask) -> Tensor:
        """Attention of rotated queries (N, h, S, g, d) over the cache -> (N, h, S, g, d), in pieces of samples, and of
        new tokens if those of one sample have too many scores."""
        n, heads, samples, new, _ = query.shape
        scores = n * heads * (self.length + self.own_length)  # of a new token of a sample
        if samples * new * scores <= MAX_SCORES:
            return self._attend(query, mask, slice(None))
        found = []
        for part in pieces(samples, new * scores, MAX_SCORES):
            queries = query[:, :, part]
            split = pieces(new, (part.stop - part.start) * scores, MAX_SCORES)
            own = [self._attend(queries[..., some, :], mask.of_queries(some), part) for some in split]
            found.append(own[0] if len(own) == 1 else torch.cat(own, 3))
        return found[0] if len(found) == 1 else torch.cat(found, 2)

    def _attend(self, query: Tensor, mask: AttentionMask, part: slice) -> Tensor:
        """`attend` for the samples in the slice `part`; query holds only these."""
        n, heads, samples, new, width = query.shape
        keys, values = (x[:, :, mask.shared_start : self.length] for x in (self.keys, self.values))
        flat = query.reshape(n, heads, samples * new, width) * width**-0.5
        scores = flat @ keys.transpose(-1, -2)  # (N, h, S g, C): the shared keys are read once for all samples
        if mask.shared is not None:
            by_sample = scores.view(n, heads, samples, new, -1)
            scores = by_sample.masked_fill_(~mask.shared[:, None, None], float("-inf")).view(scores.shape)
        if self.own_keys is None or self.own_values is None or not self.own_length:
            return (_softmax(scores) @ values).view(query.shape)
        own_keys, own_values = (
            x[:, :, part, mask.own_start : self.own_length] for x in (self.own_keys, self.own_values)
        )
        own = flat.view(query.shape) @ own_keys.transpose(-1, -2)  # (N, h, S, g, G)
        if mask.own is not None:
            own = own.masked_fill_(~mask.own, float("-inf"))
        own = own.view(n, heads, samples * new, -1)
        shared, mine = scores.shape[-1], own.shape[-1]
        weights = _softmax(torch.cat((scores, own), -1))
        mixed = (weights[..., :shared] @ values).view(query.shape)
        return mixed + weights[..., shared:].reshape(n, heads, samples, new, mine) @ own_values


def _softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis in at least float32, as fused attention computes it."""
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)


def _resized(x: Tensor, length: int, capacity: int) -> Tensor:
    """Return a buffer (N, h, capacity, d) that starts with the first `length` slots of x."""
    n, heads, _, width = x.shape
    buffer = x.new_empty(n, heads, capacity, width)
    buffer[:, :, :length] = x[:, :, :length]
    return buffer


class Attention(nn.Module):
    """Multi-head attention with biases; forward is causal self-attention."""

    def __init__(self, width: int, heads: int, attn_dropout: float = 0.0, resid_dropout: float = 0.0) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.heads, self.width = heads, width // heads
        self.rotary = Rotary(self.width)
        self.attn_dropout, self.resid_dropout = attn_dropout, resid_dropout

    def split(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, h, T, d)."""
        return x.view(*x.shape[:-1], self.heads, self.width).transpose(1, 2)

    def forward(self, x: Tensor, table: RotaryTables) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return self.prefill(x, table)[0]

    def prefill(self, x: Tensor, table: RotaryTables) -> tuple[Tensor, Tensor, Tensor]:
        """Like forward, but also return the rotated keys and the values (B, h, T, d)."""
        query, key = rotate(self.split(self.q_proj(x)), table), rotate(self.split(self.k_proj(x)), table)
        value = self.split(self.v_proj(x))
        return self.merge(self.attend(query, key, value, causal=True)), key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
        """Scaled dot-product attention of (B, h, T, d)."""
        rate = self.attn_dropout if self.training else 0.0
        return attend(query, key, value, dropout_p=rate, is_causal=causal)

    def merge(self, x: Tensor) -> Tensor:
        """Merge the heads and project: (B, h, T, d) -> (B, T, D)."""
        return drop(self.out_proj(x.transpose(1, 2).flatten(2)), self.resid_dropout, self.training)

    def extend(self, x: Tensor, table: RotaryTables, cache: KVCache, mask: AttentionMask) -> Tensor:
        """Append new tokens x (N, S, g, D) to the cache and attend to it -> (N, S, g, D).

        table: rotary tables of their positions, broadcastable to (N, h, S, g, d/2).
        """
        query, key, value = (self.split_samples(p(x)) for p in (self.q_proj, self.k_proj, self.v_proj))
        cache.append(rotate(key, table), value)
        return self.merge_samples(cache.attend(rotate(query, table), mask))

    def split_samples(self, x: Tensor) -> Tensor:
        """(N, S, g, D) -> (N, h, S, g, d)."""
        return x.view(*x.shape[:-1], self.heads, self.width).permute(0, 3, 1, 2, 4)

    def merge_samples(self, x: Tensor) -> Tensor:
        """Merge the heads and project: (N, h, S, g, d) -> (N, S, g, D)."""
        return self.out_proj(x.permute(0, 2, 3, 1, 4).flatten(3))


class FeedForward(nn.Module):
    """w2(silu(w1 x) * w3 x), without biases."""

    def __init__(self, width: int, inner: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, inner, bias=False)
        self.w3 = nn.Linear(width, inner, bias=False)
        self.w2 = nn.Linear(inner, width, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return drop(self.w2(F.silu(self.w1(x)) * self.w3(x)), self.dropout, self.training)


class Block(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(
        self, width: int, heads: int, inner: int, *, ffn_dropout: float, attn_dropout: float, resid_dropout: float
    ) -> None:
        super().__init__()
        self.norm1 = RMSNorm(width, EPS)
        self.self_attn = Attention(width, heads, attn_dropout, resid_dropout)
        self.norm2 = RMSNorm(width, EPS)
        self.ffn = FeedForward(width, inner, ffn_dropout)

    def forward(self, x: Tensor, table: RotaryTables) -> Tensor:
        """(B, T, D) -> (B, T, D); token t attends to tokens 0 .. t."""
        x = x + self.self_attn(self.norm1(x), table)
        return x + self.ffn(self.norm2(x))

    def prefill(self, x: Tensor, table: RotaryTables) -> tuple[Tensor, KVCache]:
        """Like forward, but also return the KV cache for `extend`."""
        mixed, keys, values = self.self_attn.prefill(self.norm1(x), table)
        x = x + mixed
        # contiguous, so that products with later tokens do not copy it each time
        return x + self.ffn(self.norm2(x)), KVCache(keys.contiguous(), values.contiguous(), keys.shape[2])

    def extend(self, x: Tensor, table: RotaryTables, cache: KVCache, mask: AttentionMask) -> Tensor:
        """Process new tokens (N, S, g, D) -> (N, S, g, D) with the cache; see Attention.extend."""
        x = x + self.self_attn.extend(self.norm1(x), table, cache, mask)
        return x + self.ffn(self.norm2(x))
