"""The grouping of rows into windows, computed once per batch on the CPU, so that no network needs an R x R mask.

# R rows (variates of all windows), W windows of one size, V rows in each of them
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_PREFIX = "windows"


@dataclass(frozen=True)
class RowLayout:
    """Row indices of the windows of each size, and the position of each row after grouping by window size."""

    members: tuple[Tensor, ...]  # (W, V) row indices for each size V, ascending
    places: Tensor | None = None  # (R,); None = rows are in grouped order already, so that a reshape is enough

    @classmethod
    def of(cls, window: npt.NDArray[np.integer]) -> RowLayout:
        """Return the layout of rows with the window ids (R,), in any order."""
        _, inverse, counts = np.unique(window, return_inverse=True, return_counts=True)
        order = np.argsort(inverse, kind="stable").astype(np.int64)
        first = np.cumsum(counts) - counts
        members = [order[first[counts == size][:, None] + np.arange(size)] for size in np.unique(counts)]
        grouped = np.concatenate([rows.ravel() for rows in members]) if members else order
        in_order = bool((grouped == np.arange(len(grouped))).all())
        places = None if in_order else torch.from_numpy(np.argsort(grouped).astype(np.int64))
        return cls(tuple(torch.from_numpy(rows) for rows in members), places)

    @property
    def rows(self) -> int:
        """Number of rows of the batch."""
        return sum(rows.numel() for rows in self.members)

    @property
    def windows(self) -> int:
        """Number of windows of the batch."""
        return sum(len(rows) for rows in self.members)

    @property
    def widest(self) -> int:
        """Most rows of a window."""
        return max((rows.shape[1] for rows in self.members), default=1)

    def spread(self, x: Tensor) -> list[Tensor]:
        """Group rows (R, ...) into windows (W, V, ...) of each size."""
        if self.places is None:
            parts = x.split([rows.numel() for rows in self.members])
        else:
            parts = [x[rows.flatten()] for rows in self.members]
        return [part.unflatten(0, rows.shape) for part, rows in zip(parts, self.members, strict=True)]

    def collect(self, parts: Sequence[Tensor]) -> Tensor:
        """Undo spread: windows (W, V, ...) of each size to rows (R, ...) in their original order."""
        flat = [part.flatten(0, 1) for part in parts]
        grouped = flat[0] if len(flat) == 1 else torch.cat(flat)
        return grouped if self.places is None else grouped[self.places]

    def repeat(self, count: int) -> RowLayout:
        """Return the layout of `count` concatenated copies of all rows."""
        members = tuple(
            (rows + self.rows * torch.arange(count, device=rows.device)[:, None, None]).flatten(0, 1)
            for rows in self.members
        )
        if count == 1 or (self.places is None and len(members) == 1):
            return RowLayout(members, self.places)
        return RowLayout(members, torch.cat([rows.flatten() for rows in members]).argsort())

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the layout as entries of a batch; sizes follow from shapes, so no device synchronisation is needed."""
        entries = {f"{_PREFIX}.{k}": rows for k, rows in enumerate(self.members)}
        return entries if self.places is None else entries | {f"{_PREFIX}.places": self.places}

    @classmethod
    def from_tensors(cls, batch: dict[str, Tensor]) -> RowLayout:
        """Return the layout written by to_tensors."""
        members = []
        while (rows := batch.get(f"{_PREFIX}.{len(members)}")) is not None:
            members.append(rows)
        return cls(tuple(members), batch.get(f"{_PREFIX}.places"))
