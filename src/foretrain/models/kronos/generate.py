"""Candles drawn one after the other: one prefill a series, shared by its samples, and a key-value cache.

# N series, S samples of each, C context bars, H horizon, F features of a bar
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from foretrain.models.kronos.model import KronosNetwork
from foretrain.models.kronos.options import KronosOptions
from foretrain.models.kronos.tokenizer import TokenizerNetwork


class Prompt(NamedTuple):
    """What is known at the cutoff."""

    bars: Tensor  # (N, C, F) normalised, every series from the left, 0 beyond its own length
    keys: Tensor  # (N,) int64 seeds a series' draws
    lengths: Tensor | None = None  # (N,) bars of each series; None = all C
    stamps: Tensor | None = None  # (N, C, 5); None = no calendar
    future_stamps: Tensor | None = None  # (N, H, 5)


class Generated(NamedTuple):
    """Sampled continuations."""

    s1: Tensor  # (N, S, H) int64
    s2: Tensor  # (N, S, H)
    bars: Tensor  # (N, S, H, F) normalised


def generate(
    network: KronosNetwork,
    tokenizer: TokenizerNetwork,
    prompt: Prompt,
    prediction_length: int,
    *,
    num_samples: int,
    seed: int,
    options: KronosOptions,
) -> Generated:
    """Draw num_samples continuations of every series."""
    raise NotImplementedError
