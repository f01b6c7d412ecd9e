"""What layers over time remember, kept plainly: all keys and values read so far.

# R rows, H heads, m patches remembered, n new patches, d head width
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class KeyValues:
    """Memory of one layer, which grows with every call."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None  # (R, H, m, d), rotated
        self.values: Tensor | None = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """See layers.Memory."""
        causal = mask is None and self.keys is None
        if self.keys is not None and self.values is not None:
            key, value = torch.cat((self.keys, key), 2), torch.cat((self.values, value), 2)
        self.keys, self.values = key, value
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
