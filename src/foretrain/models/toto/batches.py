"""Convert windows to batches of Toto 1.0, and batches to the rows that it is trained on.

Entries of a batch (Batch); covariates known ahead are shifted one patch to the left, so that the model reads the next
patch's covariates along with a patch's values, as upstream was fine-tuned. Those of a window's first patch are dropped:
only padding has room for them, and no forecast may depend on the lengths of other windows.

context         (R, C) float32, C a multiple of P, padded on the left; 0 where not observed
observed        (R, C) bool; absent if nothing is missing, unless the windows are static
late            empty tensor; present if a row starts after its first patch, or the windows are static
future_target   (M, F) float32 labels of the target rows, NaN = not scored
target_rows     (M,) row of each target; absent if every row is a target
known_rows      (X,) rows of covariates known ahead; absent if there are none
future_known    (X, F') float32 their remaining values, NaN = unknown; with known_rows
key             (R,) int64 seed of a row's draws
blanked         (R,) number of covariates known ahead in the row's window; with known_rows, only for upstream_compat
windows.*       which rows share a window, see nn/layout.py

# R rows, M target rows, X rows known ahead, C context steps, F steps after the cutoff, P patch size, n = C / P and
# N = ceil(F / P) patches before and after the cutoff
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from foretrain.data.windows import KNOWN, TARGET, Windows, window_starts
from foretrain.models.base import Batch
from foretrain.models.toto.draws import row_keys
from foretrain.nn.layout import RowLayout
from foretrain.nn.observed import forward_fill


def collate(windows: Windows, patch_size: int, longest: int, *, compat: bool = False) -> Batch:
    """Return the batch of windows, with at most `longest` steps of context; see the entries above."""
    context = np.ascontiguousarray(windows.context[:, -longest:])
    context = np.pad(context, ((0, 0), (-context.shape[1] % patch_size, 0)), constant_values=np.nan)
    future, role = windows.future, windows.role
    targets, known = np.flatnonzero(role == TARGET), np.flatnonzero(role == KNOWN)
    batch: Batch = {
        "future_target": torch.from_numpy(np.ascontiguousarray(future[targets], np.float32)),
        "key": row_keys(windows.window, windows.key),
        **RowLayout.of(windows.window).to_tensors(),
    }
    if len(targets) < len(role):
        batch["target_rows"] = torch.from_numpy(targets)
    if len(known):
        short = max(patch_size - future.shape[1], 0)
        joined = np.concatenate(
            [context[known], np.pad(future[known], ((0, 0), (0, short)), constant_values=np.nan)], 1
        )
        end = patch_size + context.shape[1]
        start = window_starts(context, windows.window)[known] // patch_size * patch_size
        context[known] = np.where(np.arange(end - patch_size) < start[:, None], np.nan, joined[:, patch_size:end])
        batch["known_rows"] = torch.from_numpy(known)
        batch["future_known"] = torch.from_numpy(np.ascontiguousarray(joined[:, end:], np.float32))
        if compat:
            batch["blanked"] = torch.from_numpy(
                np.bincount(windows.window[known], minlength=len(windows))[windows.window]
            )
    observed = np.isfinite(context)
    batch["context"] = torch.from_numpy(np.where(observed, context, 0.0).astype(np.float32))
    if windows.static_shapes or not observed.all():
        batch["observed"] = torch.from_numpy(observed)
        if windows.static_shapes or not observed[:, :patch_size].any(1).all():
            batch["late"] = torch.empty(0)
    return batch


class JoinedRows(NamedTuple):
    """Rows before and after the cutoff, (R, (n + N) * P)."""

    values: Tensor  # arbitrary where not observed
    observed: Tensor  # bool
    complete: bool  # True only if all inputs before and after the cutoff were observed


def sequence(batch: Batch, patch_size: int) -> JoinedRows:
    """Concatenate context and future, the future padded to whole patches; the last patch is a label, never an input."""
    context, target = batch["context"], batch["future_target"]
    ahead = F.pad(target, (0, -target.shape[1] % patch_size), value=torch.nan)
    if "target_rows" in batch:
        rows = context.new_full((len(context), ahead.shape[1]), torch.nan)
        rows[batch["target_rows"]] = ahead
        if "known_rows" in batch:
            known = batch["future_known"][:, : ahead.shape[1]]
            rows[batch["known_rows"]] = F.pad(known, (0, ahead.shape[1] - known.shape[1]), value=torch.nan)
        ahead = rows
    present = ahead.isfinite()
    before = batch["observed"] if "observed" in batch else torch.ones_like(context, dtype=torch.bool)
    return JoinedRows(
        torch.cat((context, torch.where(present, ahead, 0.0)), 1),
        torch.cat((before, present), 1),
        "observed" not in batch and ahead.shape[1] == patch_size,
    )


def exogenous(batch: Batch) -> Tensor | None:
    """Return a mask (R,) of the rows that are covariates known ahead; None if there are none."""
    if "known_rows" not in batch:
        return None
    mask = torch.zeros(len(batch["context"]), dtype=torch.bool, device=batch["context"].device)
    return mask.index_fill(0, batch["known_rows"], True)


def known_ahead(batch: Batch, steps: int) -> Tensor | None:
    """Return values (R, steps) to feed back instead of forecasts, NaN = feed back the forecast; None if there are none.

    Unknown values of a covariate are filled with its previous value, as in training.
    """
    if "known_rows" not in batch:
        return None
    context, rows, given = batch["context"], batch["known_rows"], batch["future_known"][:, :steps]
    observed = batch["observed"][rows] if "observed" in batch else torch.ones_like(context[rows], dtype=torch.bool)
    given = F.pad(given, (0, steps - given.shape[1]), value=torch.nan)
    before = forward_fill(context[rows], observed)[:, -1:]
    values = context.new_full((len(context), steps), torch.nan)
    values[rows] = forward_fill(given, ~given.isnan(), before)
    return values
