"""Which rows form a window: computed once per batch on the CPU, so that the network never builds a rows x rows mask.

# R rows (variates of all windows, window after window), W windows of one size, V rows in each of them
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_PREFIX = "windows"


@dataclass(frozen=True)
class Layout:
    """The rows (W, V) of the windows of each size; with one size alone they are all rows in order."""

    members: tuple[Tensor, ...]

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return sum(index.numel() for index in self.members)

    @property
    def even(self) -> bool:
        """Whether all windows have equally many rows, so that a reshape divides them."""
        return len(self.members) == 1

    def to_tensors(self) -> dict[str, Tensor]:
        """As entries of a batch; sizes are read from shapes, which never waits for a device."""
        return {f"{_PREFIX}.{k}": index for k, index in enumerate(self.members)}

    @classmethod
    def from_tensors(cls, batch: dict[str, Tensor]) -> Layout:
        """The layout written by to_tensors."""
        members = []
        while (index := batch.get(f"{_PREFIX}.{len(members)}")) is not None:
            members.append(index)
        return cls(tuple(members))


def arrange(window: npt.NDArray[np.integer]) -> Layout:
    """The layout of rows whose windows (R,) ascend."""
    _, first, counts = np.unique(window, return_index=True, return_counts=True)
    members = []
    for size in np.unique(counts):
        rows = first[counts == size][:, None] + np.arange(size)
        members.append(torch.from_numpy(rows.astype(np.int64)))
    return Layout(tuple(members))
