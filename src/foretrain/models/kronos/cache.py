"""KV caches for autoregressive decoding: blocks with their caches, and the cache of a whole predictor.

# N series, S samples, C tokens a series' samples share, G of a sample's own, g new tokens, D width, V1, V2 vocabularies
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from foretrain.models.kronos.layers import AttentionMask, Block, KVCache, RotaryTables, rotary_tables, rotary_tables_at
from foretrain.models.kronos.model import KronosNetwork

EMPTY = -1  # position of a slot without a token


class CachedBlocks:
    """A stack of blocks with their KV caches for N series.

    If the series differ in length, shorter ones leave slots empty and every row has its own positions. A token attends
    to the newest `window` tokens up to itself, None = all.
    """

    def __init__(self, blocks: Iterable[Block], window: int | None) -> None:
        self.blocks = list(blocks)
        self.window = window
        self.caches: list[KVCache] = []
        self.next_position: int | Tensor = 0  # (N,) if rows differ
        self.slot_positions: Tensor | None = None  # (N, C), EMPTY = none; None = consecutive up to next_position
        self.own_length = 0  # G
        self.mask = AttentionMask()  # of the newest token

    @property
    def length(self) -> int:
        """Number of shared tokens in the cache (C)."""
        return self.caches[0].length

    def prefill(self, x: Tensor, lengths: Tensor | None = None, *, use_cache: bool = True) -> Tensor:
        """Run the blocks over x (N, C, D) and fill the empty caches; returns (N, C, D).

        lengths: (N,) tokens of each row, the rest is padding; None = all C. Without use_cache nothing is stored, which
        is faster, and neither `extend` nor `fork` is possible afterwards.
        """
        table = rotary_tables(x.shape[1], self._head_width, x.device)
        for block in self.blocks:
            if not use_cache:
                x = block(x, table)
                continue
            x, cache = block.prefill(x, table)
            self.caches.append(cache)
        self.next_position = x.shape[1]
        if lengths is not None:
            slot = torch.arange(x.shape[1], device=x.device)
            self.next_position, self.slot_positions = lengths, torch.where(slot < lengths[:, None], slot, EMPTY)
            self.mask = self._newest_mask()
        return x

    def fork(self, samples: int, capacity: int) -> CachedBlocks:
        """Return a copy that decodes S samples per series, up to `capacity` tokens each; `self` does not change."""
        forked = CachedBlocks(self.blocks, self.window)
        forked.caches = [cache.fork(samples, capacity) for cache in self.caches]
        forked.next_position, forked.slot_positions, forked.mask = self.next_position, self.slot_positions, self.mask
        return forked

    def extend(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Run the blocks over new tokens (N, S, g, D) and append them to the caches; returns (N, S, g, D).

        After `fork` the tokens belong to the samples; before it they are shared and S = 1, and row n appends only its
        first lengths[n] tokens, None = all.
        """
        new, device = x.shape[2], x.device
        forked = self.caches[0].own_keys is not None
        if lengths is not None and isinstance(self.next_position, int):
            first = self.next_position - self.length
            self.slot_positions = torch.arange(first, self.next_position, device=device).repeat(len(x), 1)
            self.next_position = torch.full((len(x),), self.next_position, device=device)
        mask = self._own_mask(new, device) if forked else self._shared_mask(new, device)
        table = self._table(new, device)
        for block, cache in zip(self.blocks, self.caches, strict=True):
            x = block.extend(x, table, cache, mask)
        if forked:
            self.own_length += new
        elif self.slot_positions is not None:
            slots = self._positions(new, device)
            if lengths is not None:
                slots = torch.where(torch.arange(new, device=device) < lengths[:, None], slots, EMPTY)
            self.slot_positions = torch.cat((self.slot_positions, slots), 1)
        self.next_position = self.next_position + (new if lengths is None else lengths)
        if not forked:
            self.mask = self._newest_mask()
        return x

    def evict(self, caches: Iterable[KVCache] = ()) -> None:
        """Once there are 2 * window shared tokens, free those out of reach; also in `caches` of other layers."""
        if self.window is None or self.length < 2 * self.window:
            return
        order = None
        if self.slot_positions is not None:
            slots, order = self.slot_positions.sort(1)  # empty slots come first
            self.slot_positions, order = slots[:, -self.window :], order[:, -self.window :]
        for cache in (*self.caches, *caches):
            cache.evict(self.window, order)
        self.mask = self._newest_mask()

    @property
    def _head_width(self) -> int:
        return self.blocks[0].self_attn.width

    def _positions(self, new: int, device: torch.device) -> Tensor:
        """Positions of the next tokens: (g,), or (N, g) if rows differ."""
        if isinstance(self.next_position, int):
            return torch.arange(self.next_position, self.next_position + new, device=device)
        return self.next_position[:, None] + torch.arange(new, device=device)

    def _table(self, new: int, device: torch.device) -> RotaryTables:
        """Rotary tables of the next tokens, broadcastable to (N, h, S, g, d/2)."""
        cos, sin = rotary_tables_at(self._positions(new, device), self._head_width)
        return (cos, sin) if cos.ndim == 2 else (cos[:, None, None], sin[:, None, None])

    def _newest_mask(self) -> AttentionMask:
        """Mask of the newest shared token."""
        if self.slot_positions is None:
            return AttentionMask(0 if self.window is None else max(self.length - self.window, 0))
        assert isinstance(self.next_position, Tensor)
        seen = self.slot_positions >= 0
        if self.window is not None:
            seen &= self.slot_positions >= (self.next_position - self.window)[:, None]
        return AttentionMask(shared=seen[:, None])

    def _own_mask(self, new: int, device: torch.device) -> AttentionMask:
        """Mask of the samples' next tokens; sets `mask` for the last one. Several at once must fit the window."""
        own = self.own_length + new
        shared_start = own_start = 0
        seen = None if self.slot_positions is None else self.slot_positions >= 0
        if self.window is not None:
            own_start = max(own - self.window, 0)
            near = max(self.window - own, 0)  # shared tokens within the window
            if self.slot_positions is None:
                shared_start = max(self.length - near, 0)
            else:
                assert isinstance(self.next_position, Tensor) and seen is not None
                seen = seen & (self.slot_positions >= (self.next_position - self.own_length - near)[:, None])
        causal = None
        if new > 1:
            causal = torch.ones(new, own, dtype=torch.bool, device=device).tril(self.own_length)
        self.mask = AttentionMask(shared_start, own_start, None if seen is None else seen[:, None])
        return self.mask._replace(own=causal)

    def _shared_mask(self, new: int, device: torch.device) -> AttentionMask:
        """Mask of the next shared tokens."""
        end = self.length + new
        if self.slot_positions is None and new == 1:
            return AttentionMask(0 if self.window is None else max(end - self.window, 0))
        positions = self._positions(new, device)
        if self.slot_positions is None:
            slots = (torch.arange(end, device=device) + (positions[-1] - end + 1))[None]
            positions = positions[None]
        else:
            slots = torch.cat((self.slot_positions, positions), 1)
        seen = (slots[:, None] >= 0) & (slots[:, None] <= positions[..., None])
        if self.window is not None:
            seen &= slots[:, None] > positions[..., None] - self.window
        return AttentionMask(shared=seen)


class PredictorCache:
    """KV caches of a predictor's blocks and dependency layer for N series, and the newest token's hidden state."""

    def __init__(self, network: KronosNetwork, window: int) -> None:
        self.network = network
        self.transformer = CachedBlocks(network.transformer, window)  # type: ignore[arg-type]
        self.hidden = torch.empty(0)  # (N, S, D) of the newest token; S = 1 before `fork`
        self._dependency: KVCache | None = None

    @classmethod
    def of(
        cls, network: KronosNetwork, x: Tensor, lengths: Tensor | None, window: int, *, use_cache: bool = True
    ) -> PredictorCache:
        """Return the cache after a prefill with inputs x (N, C, D); lengths and use_cache as CachedBlocks.prefill."""
        cache = cls(network, window)
        hidden = network.norm(cache.transformer.prefill(x, lengths, use_cache=use_cache))
        last = x.shape[1] - 1 if lengths is None else lengths - 1
        cache.hidden = hidden[torch.arange(len(x), device=x.device), last][:, None]
        attention = network.dep_layer.cross_attn
        keys, values = (attention.split(p(hidden)).contiguous() for p in (attention.k_proj, attention.v_proj))
        cache._dependency = KVCache(keys, values, keys.shape[2])
        return cache

    def fork(self, samples: int, capacity: int) -> PredictorCache:
        """Return a copy that decodes S samples per series, up to `capacity` tokens each; `self` does not change."""
        assert self._dependency is not None
        forked = PredictorCache(self.network, 0)
        forked.transformer, forked.hidden = self.transformer.fork(samples, capacity), self.hidden
        forked._dependency = self._dependency.fork(samples, capacity)
        return forked

    def extend(self, x: Tensor, lengths: Tensor | None = None) -> None:
        """Append new inputs (N, S, g, D): of the samples after `fork`, else shared; see CachedBlocks.extend."""
        assert self._dependency is not None
        hidden = self.network.norm(self.transformer.extend(x, lengths))
        attention = self.network.dep_layer.cross_attn
        self._dependency.append(
            attention.split_samples(attention.k_proj(hidden)), attention.split_samples(attention.v_proj(hidden))
        )
        if lengths is None:
            self.hidden = hidden[:, :, -1]
            return
        newest = hidden[torch.arange(len(x), device=x.device), :, (lengths - 1).clamp(min=0)]
        self.hidden = torch.where((lengths > 0)[:, None, None], newest, self.hidden)

    def evict(self) -> None:
        """Free shared slots that no later token attends to; see CachedBlocks.evict."""
        assert self._dependency is not None
        self.transformer.evict([self._dependency])

    def first_logits(self) -> Tensor:
        """Logits (N, S, V1) of the next bar's first token."""
        return self.network.head.proj_s1(self.hidden)

    def second_logits(self, s1: Tensor) -> Tensor:
        """Logits (N, S, V2) of the next bar's second token, given its first one (N, S).

        One query attends to all visible hidden states, without rotary positions, as published weights are used.
        """
        assert self._dependency is not None
        layer = self.network.dep_layer
        query = layer.cross_attn.split_samples(layer.cross_attn.q_proj(self.network.embedding.emb_s1(s1)[:, :, None]))
        mixed = layer.cross_attn.merge_samples(self._dependency.attend(query, self.transformer.mask))
        return self.network.head.proj_s2(layer.norm(self.hidden + mixed[:, :, 0]))
