"""Scaled dot-product attention, in float32 where torch's own half-precision kernel for CPUs trains slower.

# B sequences, H heads, N queries, S keys, d head width
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from foretrain.nn.counted import on_cpu


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
    """Return torch's scaled_dot_product_attention (B, H, N, d) of query (B, H, N, d), key and value (B, H, S, d).

    mask is its attn_mask, options are its other keywords. On a CPU, bfloat16 and float16 are widened if a backward pass
    may follow, also under autocast: forward and backward in bfloat16 took 1.5 to 3.3 times the time of float32, casts
    included, from 33 to 2,048 tokens (Intel, avx512_bf16), and the scores are not rounded. The result has query's type.
    """
    half = query.dtype in (torch.bfloat16, torch.float16)
    if not on_cpu(query) or not torch.is_grad_enabled() or not (half or torch.is_autocast_enabled("cpu")):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, **options)
    with torch.autocast("cpu", enabled=False):
        wide = [x.float() if x.dtype in (torch.bfloat16, torch.float16) else x for x in (query, key, value)]
        if mask is not None and mask.is_floating_point():
            mask = mask.to(wide[0].dtype)
        return F.scaled_dot_product_attention(*wide, attn_mask=mask, **options).to(query.dtype)
