"""Window and Windows: one item cut at a cutoff, and a batch of them, as every model receives them.

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
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Window:
    """One item cut at a cutoff: the context that a model sees and, in training and evaluation, the future.

    Rows are ordered targets, past-only covariates, known-future covariates.
    """

    context: FloatArray  # (V, T) NaN = not observed; any T >= 1
    num_targets: int
    num_past: int = 0
    future: FloatArray | None = None  # (V, H) targets: the truth or NaN; past-only: NaN; known: values
    context_times: IntArray | None = None  # (T,) microseconds
    future_times: IntArray | None = None  # (H,) microseconds
    item_id: str = ""
    key: int = 0  # hash of (item_id, cutoff): seeds per-window draws, in any batch alike
    names: tuple[str, ...] = ()  # (V,) names of the rows, or empty: for families that read columns by name
    # (V,) lowest value of each row before the context, NaN if none was observed; None = the context is all there is
    lowest_before: FloatArray | None = None

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

    Contexts are left padded with NaN, futures that end early are right padded. The future of past-only covariates is
    always NaN.
    """

    context: FloatArray  # (R, C)
    future: FloatArray  # (R, H)
    window: IntArray  # (R,) index of the row's window, ascending from 0
    role: npt.NDArray[np.int8]  # (R,) TARGET, PAST or KNOWN
    key: npt.NDArray[np.uint64]  # (B,) see Window.key
    context_times: IntArray | None = None  # (B, C) microseconds, NO_TIME where padded
    future_times: IntArray | None = None  # (B, H) NO_TIME where padded
    source: IntArray | None = None  # (B, 3) corpus, series, cutoff: where each window was cut, for reports and replay
    names: tuple[tuple[str, ...], ...] | None = None  # per window, the names of its rows; () if they have none
    num_padding_windows: int = 0  # windows at the end that are all NaN and fill the batch up to its fixed size
    # If True, the entries, shapes and types of the collated batch follow from the shapes and roles here, never from
    # values, so that one compiled graph serves all batches of a shape.
    static_shapes: bool = False
    parts: Sequence[Window] | None = None  # (B,) the windows that were stacked, their contexts uncut

    def __len__(self) -> int:
        return len(self.key)


def stack_windows(windows: Sequence[Window], prediction_length: int, context_length: int | None = None) -> Windows:
    """Stack windows of any lengths and variate counts into one left-padded batch; futures are cut or padded to H steps.

    If context_length is given, only the newest context_length steps are used. The batch is as wide as its longest
    context. Raises DataError if there are no windows.
    """
    if not windows:
        raise DataError("no windows to stack: the selection is empty.")
    contexts = [w.context[:, -context_length:] if context_length else w.context for w in windows]
    width = max(c.shape[1] for c in contexts)
    counts = np.array([len(c) for c in contexts])
    rows = int(counts.sum())
    context = np.full((rows, width), np.nan, np.float32)
    future = np.full((rows, prediction_length), np.nan, np.float32)
    role = np.empty(rows, np.int8)
    with_times = all(w.context_times is not None for w in windows)
    context_times = np.full((len(windows), width), NO_TIME, np.int64) if with_times else None
    with_future_times = with_times and all(w.future_times is not None for w in windows)
    future_times = np.full((len(windows), prediction_length), NO_TIME, np.int64) if with_future_times else None
    first = 0
    for b, (item, values) in enumerate(zip(windows, contexts, strict=True)):
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
        window=np.repeat(np.arange(len(windows)), counts),
        role=role,
        key=np.array([w.key for w in windows], np.uint64),
        context_times=context_times,
        future_times=future_times,
        names=tuple(w.names for w in windows),
        parts=windows,
    )


def joined_windows(parts: Sequence[Windows]) -> Windows:
    """Return batches of the same widths one after the other; padding windows are at the end of the last one alone."""
    if len(parts) == 1:
        return parts[0]

    def all_of(name: str) -> np.ndarray | None:
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays)

    arrays = ("context", "future", "role", "key", "context_times", "future_times", "source")
    before = np.cumsum([0, *(len(part) for part in parts)]).tolist()
    names = None if parts[0].names is None else tuple(name for part in parts for name in part.names or ())
    return Windows(
        **{name: all_of(name) for name in arrays},  # type: ignore[arg-type]
        window=np.concatenate([part.window + first for part, first in zip(parts, before, strict=False)]),
        names=names,
        num_padding_windows=parts[-1].num_padding_windows,
        static_shapes=parts[0].static_shapes,
    )


def lowest_values(windows: Windows) -> FloatArray:
    """Return (R,) the lowest value of each row before the cutoff, before its context too as far as that is known; NaN
    without any value."""
    if windows.parts is None:
        return np.fmin.reduce(windows.context, axis=1, initial=np.nan)
    return np.concatenate([_lowest(window) for window in windows.parts])


def _lowest(window: Window) -> FloatArray:
    lowest = np.fmin.reduce(window.context, axis=1, initial=np.nan)
    return lowest if window.lowest_before is None else np.fmin(lowest, window.lowest_before)


def window_starts(context: FloatArray, window: IntArray) -> IntArray:
    """Return (R,) the first step of context (R, C) at which any row of the same window (R,) is observed, or C - 1."""
    steps = context.shape[1]
    observed = ~np.isnan(context)
    starts = np.full(int(window.max(initial=-1)) + 1, steps - 1)
    np.minimum.at(starts, window, np.where(observed.any(1), observed.argmax(1), steps - 1))
    return starts[window]


def describe(windows: Windows) -> dict[str, Any]:
    """Return the sizes of a batch for messages and reports."""
    return {"windows": len(windows), "rows": len(windows.context), "context": windows.context.shape[1]}
