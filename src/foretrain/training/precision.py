"""Autocast, the loss scale of float16, and the seed of every random draw."""

from __future__ import annotations

import hashlib
import math
import struct
from contextlib import AbstractContextManager, nullcontext

import torch

from foretrain.training.train_state import TrainState

GROWTH_INTERVAL = 2000  # updates without overflow before the scale doubles, as in torch.amp.GradScaler
SMALLEST_SCALE = 2.0**-40  # below this it is not the scale that overflows


def draw_seed(seed: int, step: int, k: int) -> int:
    """Seed of the draws in micro-batch k of a step, whichever rank runs it; no random state needs saving."""
    digest = hashlib.blake2b(struct.pack("<qqq", seed, step, k), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_draws(seed: int, device: torch.device) -> None:
    """torch.manual_seed for the CPU and one device; the full one formats a stack trace per call where CUDA sleeps."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[object]:
    """Products in dtype; float32 means none of it."""
    return nullcontext() if dtype == "float32" else torch.autocast(device.type, getattr(torch, dtype))


class LossScaler:
    """The dynamic loss scale of float16; its state lives in Progress. For other types the scale is 1."""

    def __init__(self, progress: TrainState, dtype: str) -> None:
        self.on = dtype == "float16"
        self.progress = progress

    @property
    def needs_start(self) -> bool:
        """Whether start() must be called before the first backward pass."""
        return self.on and self.progress.scale is None

    def start(self, weight: float) -> None:
        """Begin at 2**16 of the mean loss; gradients here are of sums, hence the weight (a power of two near it)."""
        self.progress.scale = 2.0 ** (16 - math.ceil(math.log2(max(weight, 1.0))))

    @property
    def scale(self) -> float:
        """What the loss is multiplied by."""
        return self.progress.scale or 1.0

    @property
    def exhausted(self) -> bool:
        """Whether the scale is so small that an overflow is no longer its fault."""
        return not self.on or self.scale <= SMALLEST_SCALE

    def observe(self, overflow: bool) -> None:
        """Halve after an overflow, double after GROWTH_INTERVAL good updates."""
        if not self.on:
            return
        if overflow:
            self.progress.scale, self.progress.scale_streak = self.scale / 2, 0
            return
        self.progress.scale_streak += 1
        if self.progress.scale_streak == GROWTH_INTERVAL:
            self.progress.scale, self.progress.scale_streak = self.scale * 2, 0
