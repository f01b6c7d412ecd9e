"""Batches of Toto 2.0 from windows, and the token sequence of each row from a batch.

Entries of a batch (Batch):

context           (R, C * P) float32, padded on the left; NaN = not observed
future_target     (M, F) float32 labels of the target rows, NaN = not scored
target_rows       (M,) row of each target; absent when that is every row
known_rows        (X,) rows of covariates known ahead; absent when there are none
known_begin       (X,) first token of their window; with known_rows
future_covariates (X, F) float32 their values after the cutoff, NaN = unknown; with known_rows
empty             (R, C) bool tokens to mask, see empty_tokens; absent when there are none, unless windows are static
row_window        (R,) window of each row
windows.*         rows of each window, see nn/layout.py

Covariates known ahead are read one patch early, so that the token that predicts a patch has seen the covariates of that
patch. Upstream reads them at their own time, so that they never reach the patch they are known for. The covariates of a
window's first patch are not read: only padding has room for them, and no forecast may depend on the lengths of other
windows.

# R rows, M target rows, X rows known ahead, C context patches, N patches ahead, F steps after the cutoff, P patch size
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from foretrain.data.windows import KNOWN, TARGET, Windows, window_starts
from foretrain.models.base import Batch
from foretrain.nn.layout import RowLayout


def collate(windows: Windows, patch_size: int, longest: int) -> Batch:
    """Return the batch of windows, with contexts cut to the newest `longest` steps; see the entries above."""
    context = windows.context[:, -longest:]
    context = np.pad(context, ((0, 0), (-context.shape[1] % patch_size, 0)), constant_values=np.nan)
    targets, known = np.flatnonzero(windows.role == TARGET), np.flatnonzero(windows.role == KNOWN)
    batch: Batch = {
        "context": torch.from_numpy(np.ascontiguousarray(context, np.float32)),
        "future_target": torch.from_numpy(np.ascontiguousarray(windows.future[targets], np.float32)),
        "row_window": torch.from_numpy(np.ascontiguousarray(windows.window, np.int64)),
        **RowLayout.of(windows.window).to_tensors(),
    }
    if len(targets) < len(context):
        batch["target_rows"] = torch.from_numpy(targets)
    begin = window_starts(context, windows.window)[known] // patch_size
    if len(known):
        batch["known_rows"] = torch.from_numpy(known)
        batch["known_begin"] = torch.from_numpy(begin)
        batch["future_covariates"] = torch.from_numpy(np.ascontiguousarray(windows.future[known], np.float32))
    empty = empty_tokens(context, known, begin, windows.future, patch_size)
    if windows.static_shapes or empty.any():
        batch["empty"] = torch.from_numpy(empty)
    return batch


def empty_tokens(
    context: npt.NDArray[np.floating],
    known: npt.NDArray[np.integer],
    begin: npt.NDArray[np.integer],
    future: npt.NDArray[np.floating],
    patch_size: int,
) -> npt.NDArray[np.bool_]:
    """Return the mask (R, C) of context tokens without any observation, except those after a row's newest observation.

    The excepted tokens are like patches to forecast: the row continues, but is not known yet. (Upstream masks them too,
    and therefore declares the last patch observed.) begin (X,) is the first token of each known row's window.
    """
    tokens, rest = context, np.zeros(len(context), bool)  # rest: True if anything is observed in later tokens
    if len(known):
        ahead = np.concatenate((context[known, patch_size:], future[known]), axis=1)
        width = context.shape[1]
        ahead = np.pad(ahead, ((0, 0), (0, max(width - ahead.shape[1], 0))), constant_values=np.nan)
        tokens = context.copy()
        tokens[known] = np.where(np.arange(width) < patch_size * begin[:, None], np.nan, ahead[:, :width])
        rest[known] = ~np.isnan(ahead[:, width:]).all(1)
    filled: npt.NDArray[np.bool_] = np.any(~np.isnan(tokens).reshape(len(tokens), -1, patch_size), axis=-1)
    later = np.maximum.accumulate(filled[:, ::-1], axis=1)[:, ::-1] | rest[:, None]
    return ~filled & (later | ~later.any(1, keepdims=True))


def sequence(
    batch: Batch, patch_size: int, ahead: int, *, context: Tensor | None = None, at_own_time: bool = False
) -> Tensor:
    """Return the values (R, (C + N) * P) of each row's tokens, N = ahead; NaN where unknown before the cutoff.

    `context`, if given, replaces the batch's. at_own_time does not shift covariates known ahead.
    """
    context = batch["context"] if context is None else context
    values = F.pad(context, (0, ahead * patch_size), value=torch.nan)
    known = batch.get("known_rows")
    if known is None:
        return values
    future = batch["future_covariates"][:, : ahead * patch_size]
    row = torch.cat((context[known], future), dim=1)
    if not at_own_time:
        row = row[:, patch_size:]
        step = torch.arange(row.shape[1], device=row.device)
        row = row.masked_fill(step < patch_size * batch["known_begin"][:, None], torch.nan)
    values[known] = F.pad(row, (0, values.shape[1] - row.shape[1]), value=torch.nan)
    return values


def contiguous_patch_mask(windows: int, patches: int, probability: float, longest: int) -> Tensor:
    """Draw the mask (W, C) of contiguous patch masking: with this probability a window has one masked run of 1 to
    `longest` patches, which never includes its first patch.

    Drawn from torch's CPU generator, which a training step seeds. The published models were trained with such masks
    too, but their distribution of lengths is not known; uniform lengths are our choice.
    """
    chance, size, place = torch.rand(windows, 3).unbind(1)
    longest = min(longest, patches - 1)
    if longest < 1:
        return torch.zeros(windows, patches, dtype=torch.bool)
    length = 1 + (size * longest).long()
    first = 1 + (place * (patches - length)).long()
    patch = torch.arange(patches)
    run = (patch >= first[:, None]) & (patch < (first + length)[:, None])
    return run & (chance < probability)[:, None]
