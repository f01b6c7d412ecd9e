"""Layout of a batch: groups of rows as blocks, computed once on the CPU, so that no rows x rows mask is ever built.

# R rows, G groups of one size, g rows in each of them
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Up to this many different group sizes each get an unpadded block; with more, sizes are rounded up to a class, so that
# a batch of many different sizes does not run many tiny kernels.
_EXACT_SIZES = 6
_PREFIX = "groups"


@dataclass(frozen=True)
class GroupBucket:
    """Consecutive rows that form `count` groups of `size` rows each.

    If groups are padded to a common size, `gather` (count * size) has the row in each slot (counted from the bucket's
    first), `scatter` (rows) the slot of each row, and `valid` (count, size) is True for slots that are not padding.
    """

    rows: int
    count: int
    size: int
    gather: Tensor | None = None
    scatter: Tensor | None = None
    valid: Tensor | None = None


@dataclass(frozen=True)
class GroupLayout:
    """Groups of the rows of an arranged batch: first `singles` single-variate rows, then the buckets in order."""

    singles: int
    buckets: tuple[GroupBucket, ...] = ()

    @property
    def rows(self) -> int:
        """Number of rows of the batch."""
        return self.singles + sum(bucket.rows for bucket in self.buckets)

    def ids(self, device: torch.device) -> Tensor:
        """Return the number of each row's group (R,), ascending in the arranged order."""
        ids = [torch.arange(self.singles, device=device)]
        first = self.singles
        for bucket in self.buckets:
            groups = torch.arange(bucket.count, device=device).repeat_interleave(bucket.size)
            ids.append(first + (groups if bucket.scatter is None else groups[bucket.scatter]))
            first += bucket.count
        return torch.cat(ids)

    def to(self, device: torch.device) -> GroupLayout:
        """Return the layout with its index tensors on a device."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return GroupLayout(
            self.singles,
            tuple(GroupBucket(b.rows, b.count, b.size, moved(b.gather), moved(b.scatter), moved(b.valid))
                  for b in self.buckets),
        )  # fmt: skip

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the layout as entries of a batch; a layout of single-variate rows only has none.

        Counts are stored as shapes of empty tensors, so that reading them never synchronises a device.
        """
        if not self.buckets:
            return {}
        entries = {f"{_PREFIX}.singles": torch.empty(self.singles, 0)}
        for k, bucket in enumerate(self.buckets):
            entries[f"{_PREFIX}.{k}.shape"] = torch.empty(bucket.rows, bucket.count, bucket.size, 0)
            if bucket.gather is not None and bucket.scatter is not None and bucket.valid is not None:
                entries[f"{_PREFIX}.{k}.gather"] = bucket.gather
                entries[f"{_PREFIX}.{k}.scatter"] = bucket.scatter
                entries[f"{_PREFIX}.{k}.valid"] = bucket.valid
        return entries

    @classmethod
    def from_tensors(cls, batch: dict[str, Tensor], rows: int) -> GroupLayout:
        """Read the layout that to_tensors wrote into a batch of `rows` rows."""
        if f"{_PREFIX}.singles" not in batch:
            return cls(rows)
        buckets = []
        while f"{_PREFIX}.{len(buckets)}.shape" in batch:
            name = f"{_PREFIX}.{len(buckets)}"
            shape = batch[f"{name}.shape"].shape
            padding = (batch.get(f"{name}.gather"), batch.get(f"{name}.scatter"), batch.get(f"{name}.valid"))
            buckets.append(GroupBucket(shape[0], shape[1], shape[2], *padding))
        return cls(batch[f"{_PREFIX}.singles"].shape[0], tuple(buckets))


def arrange(group_ids: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.int64] | None, GroupLayout]:
    """Return the order of rows (None = unchanged) and their layout, for any integer ids (R,), contiguous or not."""
    _, inverse, counts = np.unique(group_ids, return_inverse=True, return_counts=True)
    size = counts[inverse]  # of each row's group
    order = np.lexsort((inverse, size))
    sizes = size[order]
    singles = int(np.searchsorted(sizes, 2))
    distinct = np.unique(sizes[singles:])
    classes = distinct if len(distinct) <= _EXACT_SIZES else np.array([_size_class(int(s)) for s in distinct])
    buckets = []
    for padded in np.unique(classes):
        members = sizes[np.isin(sizes, distinct[classes == padded])]
        buckets.append(_bucket(members, int(padded)))
    identity = bool((order == np.arange(len(order))).all())
    return (None if identity else order), GroupLayout(singles, tuple(buckets))


def _size_class(size: int) -> int:
    """Round up to 2, 3, 4, 6, 8, 12, 16, 24, ...: at most half of a block is padding, on average much less."""
    power = 1 << (size - 1).bit_length()
    return power * 3 // 4 if power >= 4 and size <= power * 3 // 4 else power


def _bucket(sizes: npt.NDArray[np.int64], padded: int) -> GroupBucket:
    """Return the bucket of consecutive groups; `sizes` has each row's group size."""
    rows = len(sizes)
    if sizes[0] == padded and sizes[-1] == padded:
        return GroupBucket(rows, rows // padded, padded)
    firsts = []
    first = 0
    while first < rows:
        firsts.append(first)
        first += int(sizes[first])
    start = np.array(firsts)
    length = sizes[start]
    slot = np.arange(padded)
    valid = slot < length[:, None]
    gather = np.where(valid, start[:, None] + slot, start[:, None])  # a padded slot repeats its group's first row
    scatter = np.flatnonzero(valid.ravel())  # slots in row order
    return GroupBucket(
        rows, len(start), padded, torch.from_numpy(gather.ravel()), torch.from_numpy(scatter), torch.from_numpy(valid)
    )
