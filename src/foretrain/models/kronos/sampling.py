"""Token sampling: temperature, top-k and top-p filters, and draws that depend only on seed, series, sample and step.

# N series, S samples, H steps, V tokens
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from foretrain.data.permutation import derive, hash64, uniform
from foretrain.models.kronos.options import KronosOptions


def filter_logits(logits: Tensor, options: KronosOptions) -> Tensor:
    """Return logits (..., V) divided by the temperature, -inf for filtered tokens; at least one token is kept.

    top_k keeps the k likeliest tokens and any tied with the last of them. top_p then keeps the likeliest of these up to
    and including the one at which their cumulative probability, renormalised after top_k, passes top_p. With compat
    top_p applies only if top_k is 0.
    """
    logits = logits.float() / options.temperature
    top_k = min(options.top_k, logits.shape[-1])
    use_top_p = options.top_p < 1 and not (options.compat and top_k)
    if not top_k and not use_top_p:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    removed = torch.zeros_like(logits, dtype=torch.bool)
    if top_k:
        least = ordered[..., top_k - 1, None]
        removed = logits < least
        ordered = ordered.masked_fill(ordered < least, float("-inf"))
    if use_top_p:
        before = ordered.softmax(-1).cumsum(-1).roll(1, -1)  # probability of all likelier tokens
        before[..., 0] = 0.0
        removed = removed | torch.zeros_like(removed).scatter(-1, order, before > options.top_p)
    return logits.masked_fill(removed, float("-inf"))


def sample_tokens(logits: Tensor, draw: Tensor) -> Tensor:
    """Sample tokens (N, S) from logits (N, S or 1, V): the inverse CDF at uniform draws (N, S) in [0, 1)."""
    dtype = torch.float32 if logits.device.type == "mps" else torch.float64  # MPS has no float64
    cdf = logits.to(dtype).softmax(-1).cumsum(-1).expand(*draw.shape, logits.shape[-1]).contiguous()
    total = cdf[..., -1:]
    # below the total, so that rounding never selects a token of probability 0 at the end
    level = torch.minimum(draw.to(dtype)[..., None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cdf, level, right=True)[..., 0]


def uniform_draws(seed: int, keys: Tensor, samples: Sequence[int], steps: int) -> Tensor:
    """Return uniform numbers (N, S, H, 2) in [0, 1) on the CPU, for the two tokens of each bar.

    keys: (N,) int64, one per series. A number depends only on seed, key, sample index and step: not on the batch, its
    order or the number of samples and steps.
    """
    series = hash64(derive(seed), keys.cpu().numpy().view(np.uint64))
    path = hash64(series[:, None], np.asarray(samples))
    return torch.from_numpy(uniform(path[..., None], np.arange(2 * steps))).view(*path.shape, steps, 2)


class TokenSampler:
    """Samples tokens as the options say: greedy, from given uniform numbers, or with compat as upstream does."""

    def __init__(self, options: KronosOptions, numbers: Tensor | None, samples: int) -> None:
        self._options, self._numbers, self._samples = options, numbers, samples

    def __call__(self, logits: Tensor, step: int, which: int) -> Tensor:
        """Return tokens (N, S) from logits (N, S or 1, V) of a step; which: 0 = first, 1 = second token of the bar.

        With compat all rows are drawn jointly from torch's global generator.
        """
        shape = logits.shape[0], self._samples
        options = self._options
        if options.compat and options.temperature:
            probabilities = filter_logits(logits, options).softmax(-1).expand(*shape, -1)
            return torch.multinomial(probabilities.flatten(0, 1), 1).view(shape)
        if self._numbers is None:
            return logits.argmax(-1).expand(shape)
        return sample_tokens(filter_logits(logits, options), self._numbers[:, :, step, which])
