"""Series and Window, the two shapes in which every model meets data.

# B windows, R rows (all variates of all windows), V variates, T steps of a series, C context steps, H horizon steps
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from foretrain.errors import DataError

TARGET, PAST, KNOWN = 0, 1, 2  # roles of a row: forecast; covariate known up to the cutoff; covariate known beyond it
NO_TIME = np.iinfo(np.int64).min  # stamp of a padded slot, as numpy's NaT

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """One item cut at a cutoff: what a model may see, and (in training and evaluation) what came next.

    Rows are ordered targets, past-only covariates, known-future covariates.
    """

    context: FloatArray  # (V, T) NaN = not observed; any T >= 1
    num_targets: int
    num_past: int = 0
    future: FloatArray | None = None  # (V, H) targets: the truth or NaN; past-only: NaN; known: values
    context_times: IntArray | None = None  # (T,) microseconds
    future_times: IntArray | None = None  # (H,) microseconds
    item_id: str = ""
    key: int = 0  # hash of (item_id, cutoff): seeds per-window draws, whatever batch the window lands in
    names: tuple[str, ...] = ()  # (V,) names of the rows where they have any: for families whose columns have meaning

    @property
    def roles(self) -> npt.NDArray[np.int8]:
        """(V,) role of each row."""
        roles = np.full(len(self.context), KNOWN, np.int8)
        roles[: self.num_targets] = TARGET
        roles[self.num_targets : self.num_targets + self.num_past] = PAST
        return roles


@dataclass(frozen=True)
class Windows:
    """A batch of windows laid out as rows: all variates of window 0, then of window 1, ...

    The context is left padded with NaN, a future that ends early right padded. Rows of past-only covariates have an
    all-NaN future, always.
    """

    context: FloatArray  # (R, C)
    future: FloatArray  # (R, H)
    window: IntArray  # (R,) index of the row's window, ascending from 0
    role: npt.NDArray[np.int8]  # (R,) TARGET, PAST or KNOWN
    key: npt.NDArray[np.uint64]  # (B,) see Window.key
    context_times: IntArray | None = None  # (B, C) microseconds, NO_TIME where padded
    future_times: IntArray | None = None  # (B, H) NO_TIME where padded
    source: IntArray | None = None  # (B, 3) corpus, series, cutoff: where each window was cut, for reports and replay
    names: tuple[tuple[str, ...], ...] | None = None  # per window, the names of its rows; () where they have none
    num_padding_windows: int = (
        0  # so many windows at the end hold nothing but NaN: they make the batch as large as others
    )
    # Entries, shapes and types of a batch made of these follow from shapes and roles here alone, never from values:
    # what was compiled for one batch serves all that are alike.
    static_shapes: bool = False

    def __len__(self) -> int:
        return len(self.key)


def stack_windows(windows: Sequence[Window], prediction_length: int, context_length: int | None = None) -> Windows:
    """Windows of any lengths and variate counts as one left-padded batch; futures are cut or NaN-padded to H steps.

    context_length keeps the newest so many steps; the batch is as wide as its longest context.
    """
    if not windows:
        raise DataError("no windows to stack: the selection is empty.")
    kept = [w.context[:, -context_length:] if context_length else w.context for w in windows]
    width = max(c.shape[1] for c in kept)
    counts = np.array([len(c) for c in kept])
    rows = int(counts.sum())
    context = np.full((rows, width), np.nan, np.float32)
    future = np.full((rows, prediction_length), np.nan, np.float32)
    role = np.empty(rows, np.int8)
    with_times = all(w.context_times is not None for w in windows)
    context_times = np.full((len(kept), width), NO_TIME, np.int64) if with_times else None
    with_future_times = with_times and all(w.future_times is not None for w in windows)
    future_times = np.full((len(kept), prediction_length), NO_TIME, np.int64) if with_future_times else None
    first = 0
    for b, (item, values) in enumerate(zip(windows, kept, strict=True)):
        last = first + len(values)
        context[first:last, width - values.shape[1] :] = values
        role[first:last] = item.roles
        if item.future is not None:
            known = item.future[:, :prediction_length]
            future[first:last, : known.shape[1]] = known
        if context_times is not None and item.context_times is not None:
            context_times[b, width - values.shape[1] :] = item.context_times[-values.shape[1] :]
        if future_times is not None and item.future_times is not None:
            future_times[b, : len(item.future_times)] = item.future_times[:prediction_length]
        first = last
    future[role == PAST] = np.nan
    return Windows(
        context=context,
        future=future,
        window=np.repeat(np.arange(len(kept)), counts),
        role=role,
        key=np.array([w.key for w in windows], np.uint64),
        context_times=context_times,
        future_times=future_times,
        names=tuple(w.names for w in windows),
    )


def window_starts(context: FloatArray, window: IntArray) -> IntArray:
    """(R,) the first step of context (R, C) at which any row of a row's window (R,) is observed, the last one where
    none is."""
    steps = context.shape[1]
    seen = ~np.isnan(context)
    starts = np.full(int(window.max(initial=-1)) + 1, steps - 1)
    np.minimum.at(starts, window, np.where(seen.any(1), seen.argmax(1), steps - 1))
    return starts[window]


def describe(windows: Windows) -> dict[str, Any]:
    """Sizes of a batch, for messages and reports."""
    return {"windows": len(windows), "rows": len(windows.context), "context": windows.context.shape[1]}
