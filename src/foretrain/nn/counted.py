"""Passes on "meta" by which the memory of a CPU's passes is counted: they take the CPU's ways and compute nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

_COUNTED = False  # a plain global: compiled code reads it without a break


@contextmanager
def as_on_cpu() -> Iterator[None]:
    """Let tensors on "meta" take the ways that tensors on a CPU take, inside the block."""
    global _COUNTED
    before, _COUNTED = _COUNTED, True
    try:
        yield
    finally:
        _COUNTED = before


def counted() -> bool:
    """Return True inside as_on_cpu."""
    return _COUNTED


def on_cpu(x: Tensor) -> bool:
    """Return True if a tensor takes the ways of a CPU."""
    return x.device.type == "cpu" or (_COUNTED and x.is_meta)
