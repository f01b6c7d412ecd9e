"""KV caches of blocks, so that a new token costs one row.

# N series, S samples, C tokens a series' samples share, G of a sample's own, g new tokens, D width, V1, V2 vocabularies
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from foretrain.models.kronos.layers import Block, KVCache, Table, Visible, causal_table, table_at
from foretrain.models.kronos.model import KronosNetwork

EMPTY = -1  # position of a slot without a token


class Stack:
    """Blocks and their KV caches of N series.

    Series of different lengths leave slots empty, and every row has its own positions then. A token sees the newest
    `window` tokens up to itself, None = all.
    """

    def __init__(self, blocks: Iterable[Block], window: int | None) -> None:
        self.blocks = list(blocks)
        self.window = window
        self.memories: list[KVCache] = []
        self.following: int | Tensor = 0  # position of the next token, (N,) where rows differ
        self.slots: Tensor | None = None  # (N, C) positions of the shared tokens; None = the newest ones in order
        self.own = 0  # G
        self.sight = Visible()  # of the newest token

    @property
    def held(self) -> int:
        """C."""
        return self.memories[0].held

    def read(self, x: Tensor, lengths: Tensor | None = None, *, keep: bool = True) -> Tensor:
        """x (N, C, D), of which row n counts lengths[n] tokens -> (N, C, D); nothing was read before.

        Without keep nothing is remembered, which is faster, and the stack cannot go on.
        """
        table = causal_table(x.shape[1], self._head_width, x.device)
        for block in self.blocks:
            if not keep:
                x = block(x, table)
                continue
            x, memory = block.keep(x, table)
            self.memories.append(memory)
        self.following = x.shape[1]
        if lengths is not None:
            slot = torch.arange(x.shape[1], device=x.device)
            self.following, self.slots = lengths, torch.where(slot < lengths[:, None], slot, EMPTY)
            self.sight = self._newest_sight()
        return x

    def fork(self, samples: int, capacity: int) -> Stack:
        """A stack that goes on for S samples of each series, up to `capacity` tokens, and leaves this one alone."""
        forked = Stack(self.blocks, self.window)
        forked.memories = [memory.fork(samples, capacity) for memory in self.memories]
        forked.following, forked.slots, forked.sight = self.following, self.slots, self.sight
        return forked

    def extend(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """New tokens (N, S, g, D) -> (N, S, g, D): a sample's own after `fork`, else shared and S = 1.

        Of shared ones row n counts the first lengths[n], None = all.
        """
        new, device = x.shape[2], x.device
        forked = self.memories[0].own_keys is not None
        if lengths is not None and isinstance(self.following, int):
            first = self.following - self.held
            self.slots = torch.arange(first, self.following, device=device).repeat(len(x), 1)
            self.following = torch.full((len(x),), self.following, device=device)
        visible = self._own_sight(new, device) if forked else self._shared_sight(new, device)
        table = self._table(new, device)
        for block, memory in zip(self.blocks, self.memories, strict=True):
            x = block.extend(x, table, memory, visible)
        if forked:
            self.own += new
        elif self.slots is not None:
            slots = self._positions(new, device)
            if lengths is not None:
                slots = torch.where(torch.arange(new, device=device) < lengths[:, None], slots, EMPTY)
            self.slots = torch.cat((self.slots, slots), 1)
        self.following = self.following + (new if lengths is None else lengths)
        if not forked:
            self.sight = self._newest_sight()
        return x

    def forget(self, memories: Iterable[KVCache] = ()) -> None:
        """Free the shared slots that no later token sees, now and then; `memories` (of other layers) follow."""
        if self.window is None or self.held < 2 * self.window:
            return
        order = None
        if self.slots is not None:
            slots, order = self.slots.sort(1)  # empty slots come first
            self.slots, order = slots[:, -self.window :], order[:, -self.window :]
        for memory in (*self.memories, *memories):
            memory.forget(self.window, order)
        self.sight = self._newest_sight()

    @property
    def _head_width(self) -> int:
        return self.blocks[0].self_attn.width

    def _positions(self, new: int, device: torch.device) -> Tensor:
        """(g,), or (N, g) where rows differ, of the next tokens."""
        if isinstance(self.following, int):
            return torch.arange(self.following, self.following + new, device=device)
        return self.following[:, None] + torch.arange(new, device=device)

    def _table(self, new: int, device: torch.device) -> Table:
        """Broadcastable to (N, h, S, g, d/2)."""
        cos, sin = table_at(self._positions(new, device), self._head_width)
        return (cos, sin) if cos.ndim == 2 else (cos[:, None, None], sin[:, None, None])

    def _newest_sight(self) -> Visible:
        """What the newest shared token sees."""
        if self.slots is None:
            return Visible(0 if self.window is None else max(self.held - self.window, 0))
        assert isinstance(self.following, Tensor)
        past = self.slots >= 0
        if self.window is not None:
            past &= self.slots >= (self.following - self.window)[:, None]
        return Visible(past=past[:, None])

    def _own_sight(self, new: int, device: torch.device) -> Visible:
        """What a sample's next tokens see, and from then on its newest one. Several at once must all fit the window."""
        own = self.own + new
        first = own_first = 0
        past = None if self.slots is None else self.slots >= 0
        if self.window is not None:
            own_first = max(own - self.window, 0)
            shared = max(self.window - own, 0)  # so many of the shared ones are near enough
            if self.slots is None:
                first = max(self.held - shared, 0)
            else:
                assert isinstance(self.following, Tensor) and past is not None
                past = past & (self.slots >= (self.following - self.own - shared)[:, None])
        causal = None
        if new > 1:
            causal = torch.ones(new, own, dtype=torch.bool, device=device).tril(self.own)
        self.sight = Visible(first, own_first, None if past is None else past[:, None])
        return self.sight._replace(own=causal)

    def _shared_sight(self, new: int, device: torch.device) -> Visible:
        """What the next shared tokens see."""
        end = self.held + new
        if self.slots is None and new == 1:
            return Visible(0 if self.window is None else max(end - self.window, 0))
        positions = self._positions(new, device)
        if self.slots is None:
            slots = (torch.arange(end, device=device) + (positions[-1] - end + 1))[None]
            positions = positions[None]
        else:
            slots = torch.cat((self.slots, positions), 1)
        past = (slots[:, None] >= 0) & (slots[:, None] <= positions[..., None])
        if self.window is not None:
            past &= slots[:, None] > positions[..., None] - self.window
        return Visible(past=past)


class Cache:
    """A predictor's memory of N series: its blocks', its dependency layer's, and the state of the newest token."""

    def __init__(self, network: KronosNetwork, window: int) -> None:
        self.network = network
        self.stack = Stack(network.transformer, window)  # type: ignore[arg-type]
        self.hidden = torch.empty(0)  # (N, S, D) of the newest token; S = 1 while all is shared
        self._dependency: KVCache | None = None

    @classmethod
    def of(cls, network: KronosNetwork, x: Tensor, lengths: Tensor | None, window: int, *, keep: bool = True) -> Cache:
        """After reading inputs x (N, C, D), of which row n counts lengths[n] tokens; see Stack.read."""
        cache = cls(network, window)
        hidden = network.norm(cache.stack.read(x, lengths, keep=keep))
        newest = x.shape[1] - 1 if lengths is None else lengths - 1
        cache.hidden = hidden[torch.arange(len(x), device=x.device), newest][:, None]
        attention = network.dep_layer.cross_attn
        keys, values = (attention.split(p(hidden)).contiguous() for p in (attention.k_proj, attention.v_proj))
        cache._dependency = KVCache(keys, values, keys.shape[2])
        return cache

    def fork(self, samples: int, capacity: int) -> Cache:
        """A cache that goes on for S samples of each series, up to `capacity` tokens, and leaves this one alone."""
        assert self._dependency is not None
        forked = Cache(self.network, 0)
        forked.stack, forked.hidden = self.stack.fork(samples, capacity), self.hidden
        forked._dependency = self._dependency.fork(samples, capacity)
        return forked

    def extend(self, x: Tensor, lengths: Tensor | None = None) -> None:
        """Read new inputs (N, S, g, D): a sample's own after `fork`, else shared and S = 1; see Stack.extend."""
        assert self._dependency is not None
        hidden = self.network.norm(self.stack.extend(x, lengths))
        attention = self.network.dep_layer.cross_attn
        self._dependency.append(attention.spread(attention.k_proj(hidden)), attention.spread(attention.v_proj(hidden)))
        if lengths is None:
            self.hidden = hidden[:, :, -1]
            return
        newest = hidden[torch.arange(len(x), device=x.device), :, (lengths - 1).clamp(min=0)]
        self.hidden = torch.where((lengths > 0)[:, None, None], newest, self.hidden)

    def forget(self) -> None:
        """Free shared slots that no later token sees, now and then."""
        assert self._dependency is not None
        self.stack.forget([self._dependency])

    def first_logits(self) -> Tensor:
        """(N, S, V1) of the next bar's first token."""
        return self.network.head.proj_s1(self.hidden)

    def second_logits(self, s1: Tensor) -> Tensor:
        """(N, S, V2) of the next bar's second token, given its first one (N, S).

        One query over all states in sight, neither side rotated, as published weights are used.
        """
        assert self._dependency is not None
        layer = self.network.dep_layer
        query = layer.cross_attn.spread(layer.cross_attn.q_proj(self.network.embedding.emb_s1(s1)[:, :, None]))
        mixed = layer.cross_attn.gather(self._dependency.attend(query, self.stack.sight))
        return self.network.head.proj_s2(layer.norm(self.hidden + mixed[:, :, 0]))
