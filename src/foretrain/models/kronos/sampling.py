"""Which token is taken: filters of the likeliest ones, and draws that depend on seed, series, sample and step alone.

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
    """Logits (..., V) over the temperature, -inf where top_k or top_p leave a token out; one token at least stays.

    top_k keeps the k likeliest and those equal to the last of them. top_p then keeps the likeliest of these up to and
    including the one with which their probability, as a share of what top_k left, passes top_p. With compat top_p
    counts only where top_k is 0.
    """
    logits = logits.float() / options.temperature
    top_k = min(options.top_k, logits.shape[-1])
    by_share = options.top_p < 1 and not (options.compat and top_k)
    if not top_k and not by_share:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    out = torch.zeros_like(logits, dtype=torch.bool)
    if top_k:
        least = ordered[..., top_k - 1, None]
        out = logits < least
        ordered = ordered.masked_fill(ordered < least, float("-inf"))
    if by_share:
        before = ordered.softmax(-1).cumsum(-1).roll(1, -1)  # probability of the likelier ones
        before[..., 0] = 0.0
        out = out | torch.zeros_like(out).scatter(-1, order, before > options.top_p)
    return logits.masked_fill(out, float("-inf"))


def sample_tokens(logits: Tensor, draw: Tensor) -> Tensor:
    """Tokens (N, S) of logits (N, S or 1, V) by inversion of their distribution at draws (N, S) in [0, 1)."""
    wide = torch.float32 if logits.device.type == "mps" else torch.float64  # which that device lacks
    reached = logits.to(wide).softmax(-1).cumsum(-1).expand(*draw.shape, logits.shape[-1]).contiguous()
    total = reached[..., -1:]
    # below the total, so that rounding never reaches tokens without probability behind the last one
    place = torch.minimum(draw.to(wide)[..., None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(reached, place, right=True)[..., 0]


def uniform_draws(seed: int, keys: Tensor, samples: Sequence[int], steps: int) -> Tensor:
    """(N, S, H, 2) uniform numbers in [0, 1) on the CPU, for the two tokens of each bar.

    keys (N,) int64 name the series. A number depends on seed, key, the sample's own number and step, and on nothing
    else: not on the batch, its order or how many samples and steps there are.
    """
    series = hash64(derive(seed), keys.cpu().numpy().view(np.uint64))
    path = hash64(series[:, None], np.asarray(samples))
    return torch.from_numpy(uniform(path[..., None], np.arange(2 * steps))).view(*path.shape, steps, 2)


class TokenSampler:
    """Takes tokens by the options: the likeliest, by the numbers given, or as upstream draws them."""

    def __init__(self, options: KronosOptions, numbers: Tensor | None, samples: int) -> None:
        self._options, self._numbers, self._samples = options, numbers, samples

    def __call__(self, logits: Tensor, step: int, which: int) -> Tensor:
        """(N, S) of logits (N, S or 1, V) at a step, for the first (0) or second (1) token of its bar.

        With compat all rows are drawn jointly from torch's global generator.
        """
        shape = logits.shape[0], self._samples
        options = self._options
        if options.compat and options.temperature:
            chances = filter_logits(logits, options).softmax(-1).expand(*shape, -1)
            return torch.multinomial(chances.flatten(0, 1), 1).view(shape)
        if self._numbers is None:
            return logits.argmax(-1).expand(shape)
        return sample_tokens(filter_logits(logits, options), self._numbers[:, :, step, which])
