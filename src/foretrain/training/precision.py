"""Autocast, the dynamic loss scale of float16, and seeds of random draws."""

from __future__ import annotations

import hashlib
import math
import struct
from contextlib import AbstractContextManager, nullcontext

import torch

from foretrain.training.train_state import TrainState

GROWTH_INTERVAL = 2000  # updates without overflow before the scale doubles, as in torch.amp.GradScaler
SMALLEST_SCALE = 2.0**-40  # an overflow at a lower scale is not caused by the scale


def draw_seed(seed: int, step: int, k: int) -> int:
    """Return the seed of the draws in micro-batch k of a step, the same on every rank; no random state is saved."""
    digest = hashlib.blake2b(struct.pack("<qqq", seed, step, k), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_draws(seed: int, device: torch.device) -> None:
    """Seed the CPU and one device. torch.manual_seed formats a stack trace per call while CUDA is not initialised."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[object]:
    """Return torch.autocast to a dtype; a null context for float32."""
    return nullcontext() if dtype == "float32" else torch.autocast(device.type, getattr(torch, dtype))


class LossScaler:
    """The dynamic loss scale of float16, stored in the TrainState. For other types the scale is 1."""

    def __init__(self, train_state: TrainState, dtype: str) -> None:
        self.enabled = dtype == "float16"
        self.train_state = train_state

    @property
    def needs_start(self) -> bool:
        """True if start() must be called before the first backward pass."""
        return self.enabled and self.train_state.scale is None

    def start(self, weight: float) -> None:
        """Set the scale to 2**16 / weight, rounded down to a power of two: gradients are of the loss sum."""
        self.train_state.scale = 2.0 ** (16 - math.ceil(math.log2(max(weight, 1.0))))

    @property
    def scale(self) -> float:
        """The factor of the loss."""
        return self.train_state.scale or 1.0

    @property
    def exhausted(self) -> bool:
        """True if a lower scale would not avoid an overflow."""
        return not self.enabled or self.scale <= SMALLEST_SCALE

    def update(self, overflow: bool) -> None:
        """Halve the scale after an overflow, double it after GROWTH_INTERVAL updates without one."""
        if not self.enabled:
            return
        state = self.train_state
        if overflow:
            state.scale, state.scale_streak = self.scale / 2, 0
            return
        state.scale_streak += 1
        if state.scale_streak == GROWTH_INTERVAL:
            state.scale, state.scale_streak = self.scale * 2, 0
