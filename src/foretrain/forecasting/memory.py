"""Batches within a bound on memory: what results and libraries take is set apart, the rest is a batch's.

What is bounded is what a call of forecast_paths takes besides the model and the windows that it gets: on a CPU the
growth of the process' resident memory, on a GPU that of the memory which PyTorch has allocated there.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from foretrain.adapters.layers import adapter_of
from foretrain.data.windows import Window
from foretrain.errors import ConfigError
from foretrain.models.base import Forecaster, ForecastRequest
from foretrain.models.memory import BatchSize, in_words, least_bytes, most_bytes

SHARE = 0.85  # of the bound, since an allocator keeps more than is in use
RESERVE = 40 * 10**6  # bytes of libraries: buffers of matrix products, first uses
_FLOAT = 4
_M_MMAP_THRESHOLD, _LARGE = -3, 2**20  # glibc's number of the setting; bytes


@dataclass(frozen=True)
class Bound:
    """The bound of one call: bytes in all, for results and copies of weights, and what is left for a batch."""

    total: int
    kept: int

    @property
    def of_batch(self) -> int:
        """Bytes that a batch may take; below 1 if nothing is left."""
        return int(self.total * SHARE) - RESERVE - self.kept

    def total_for(self, batch: int) -> int:
        """Return the bound with which a batch may take `batch` bytes."""
        return int((batch + RESERVE + self.kept) / SHARE) + 1

    def fits(self, model: Forecaster, size: BatchSize, request: ForecastRequest) -> bool:
        """Return whether a batch can be computed in pieces that are as large as is of use."""
        return most_bytes(model.memory_phases(size, request)) <= self.of_batch

    def check(self, model: Forecaster, sizes: Sequence[tuple[BatchSize, str]], request: ForecastRequest) -> None:
        """Raise ConfigError if one of the batches, each with a word for it, takes more even in the smallest pieces."""
        needs: dict[BatchSize, int] = {}
        for size, what in sizes:
            if size not in needs:
                needs[size] = least_bytes(model.memory_phases(size, request))
            if needs[size] > self.of_batch:
                least = in_words(self.total_for(needs[size]))
                raise ConfigError(
                    f"max_memory is {in_words(self.total)}; {what} ({size.rows:,} rows of {size.steps:,} steps, "
                    f"{request.prediction_length:,} steps ahead) takes at least {least} with this model. Raise it, or "
                    "shorten context_length or prediction_length."
                )


def bound_of(
    model: Forecaster,
    windows: Sequence[Window],
    request: ForecastRequest,
    *,
    keep_samples: bool,
    dtype: torch.dtype | None,
) -> Bound | None:
    """Return the bound of a forecast of these windows; None if the request has none."""
    if request.max_memory is None:
        return None
    _return_large_pieces()
    levels, paths = len(request.quantile_levels), 0
    if keep_samples:
        paths = request.num_samples or model.default_samples or 1
    values = sum(window.num_targets for window in windows) * request.prediction_length
    # quantiles, and again while they are sorted; means; whether they crossed
    results = values * (2 * levels * _FLOAT + _FLOAT + 1 + paths * _FLOAT)
    return Bound(request.max_memory, results + _copies_of_weights(model, dtype))


@functools.cache
def _return_large_pieces() -> None:
    """Let glibc give large pieces back to the system as soon as they are freed, for the rest of the process.

    Left alone, it raises the size from which it does so up to 32 MiB, and holes between pieces that live on stay with
    the process: a forecast of many items then takes more than is in use. Other C libraries have no such setting.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


def _copies_of_weights(model: Forecaster, dtype: torch.dtype | None) -> int:
    """Return the bytes of merged layers of an adapter, and of weights that autocast keeps in a lower precision."""
    adapter = adapter_of(model)
    merged = [layer.wrapped.base_layer.weight.nbytes for layer in adapter.layers] if adapter else []
    lower = 0 if dtype is None or dtype == torch.float32 else sum(2 * weight.numel() for weight in model.parameters())
    return sum(merged) + 2 * max(merged, default=0) + lower
