"""KV caches of the time-attention layers.

# R rows, S samples of each, H heads, m patches cached, n new patches, d head width
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class GrowingKVCache:
    """KV cache of one layer; every call appends to it."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None  # (R, H, m, d), rotated
        self.values: Tensor | None = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """See layers.KVCache."""
        causal = (
            mask is None and self.keys is None and query.shape[2] > 1
        )  # a single query is the newest patch and attends to all
        if self.keys is not None and self.values is not None:
            key, value = torch.cat((self.keys, key), 2), torch.cat((self.values, value), 2)
        self.keys, self.values = key, value
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)

    def of_rows(self, part: slice, rows: int) -> _Rows:
        """See layers.PrefillCache; the cache is empty before the first rows."""
        return _Rows(self, part, rows)


class _Rows:
    """Some rows of a cache, which is allocated for all rows with the first of them."""

    def __init__(self, whole: GrowingKVCache, part: slice, rows: int) -> None:
        self.whole, self.part, self.rows = whole, part, rows

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """See layers.KVCache."""
        own, whole = GrowingKVCache(), self.whole
        if whole.keys is None or whole.values is None:
            whole.keys, whole.values = (x.new_empty(self.rows, *x.shape[1:]) for x in (key, value))
        whole.keys[self.part], whole.values[self.part] = key, value
        return own.attend(query, key, value, mask)


class SharedContextCache:
    """KV cache of one layer for samples that share a context; rows are sample-major, one new patch per call."""

    def __init__(self, context: GrowingKVCache, samples: int) -> None:
        """Use the context's keys and values without copying or changing them."""
        assert context.keys is not None and context.values is not None
        self.context_keys, self.context_values, self.samples = context.keys, context.values, samples
        self.keys: Tensor | None = None  # (R, H, S, m, d) of each sample's own patches
        self.values: Tensor | None = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """See layers.KVCache; query, key and value are (S * R, H, 1, d)."""
        query, key, value = (self._by_row(x) for x in (query, key, value))
        if self.keys is not None and self.values is not None:
            key, value = torch.cat((self.keys, key), 3), torch.cat((self.values, value), 3)
        self.keys, self.values = key, value
        scaled_query = query[..., 0, :] * query.shape[-1] ** -0.5  # (R, H, S, d)
        past = scaled_query @ self.context_keys.transpose(-1, -2)  # one product for all samples
        own = (key @ scaled_query[..., None])[..., 0]
        split = past.shape[-1]
        scores = torch.cat((past, own), -1)
        if mask is not None:  # the same for all samples of a row
            scores = scores.masked_fill(~mask[: len(query)], float("-inf"))
        weights = scores.softmax(-1)
        mixed = weights[..., :split] @ self.context_values
        mixed = mixed + (weights[..., None, split:] @ value)[..., 0, :]
        return mixed.permute(2, 0, 1, 3).flatten(0, 1)[:, :, None]

    def _by_row(self, x: Tensor) -> Tensor:
        """(S * R, H, 1, d) -> (R, H, S, 1, d)."""
        return x.unflatten(0, (self.samples, -1)).permute(1, 2, 0, 3, 4)
