"""Zero-copy views of one Arrow record batch of series: offsets and values as numpy arrays, no object per series.

# n series of a batch, V variates, T steps
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from foretrain.data.windows import FloatArray, IntArray
from foretrain.errors import DataError

Counts = npt.NDArray[np.int32] | IntArray  # of 32 bits where these hold all of them
_UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}


@dataclass(frozen=True)
class Nested:
    """A flattened list column: series i owns variates[i] x length[i] consecutive values from start[i]."""

    values: pa.Array  # the leaves, of any numeric type, nulls possible
    start: Counts  # (n,)
    length: Counts  # (n,) T
    variates: npt.NDArray[np.int32]  # (n,) V; 0 for a null row
    floats: FloatArray | None  # the leaves as a numpy array if they are float32 without nulls

    def block(self, row: int, first: int, stop: int) -> FloatArray:
        """Return (V, stop - first) values of a series: a view if possible, else a float32 copy with nulls as NaN."""
        start, length, variates = int(self.start[row]), int(self.length[row]), int(self.variates[row])
        if self.floats is not None:
            return self.floats[start : start + variates * length].reshape(variates, length)[:, first:stop]
        leaves = self.values.slice(start, variates * length)
        return _as_float32(leaves).reshape(variates, length)[:, first:stop]


def _as_float32(leaves: pa.Array) -> FloatArray:
    if leaves.null_count:
        leaves = leaves.cast(pa.float64(), safe=False)
    return leaves.to_numpy(zero_copy_only=False).astype(np.float32)


def _view(array: pa.Array, dtype: type[np.generic]) -> np.ndarray:
    """View fixed-width values without nulls as a numpy array. (pyarrow's to_numpy would import pandas, 0.3 s.)"""
    if not len(array):
        return np.empty(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * np.dtype(dtype).itemsize)


def _offsets(array: pa.Array, where: str) -> tuple[IntArray, IntArray]:
    """Return (starts, lengths) of a list array's rows in array.values; null rows have length 0. Bounds are checked."""
    if isinstance(array.type, pa.FixedSizeListType):
        size = array.type.list_size
        starts = (array.offset + np.arange(len(array), dtype=np.int64)) * size
        lengths = np.full(len(array), size, np.int64)
    else:
        wide = isinstance(array.type, pa.LargeListType)
        offsets = _view(array.offsets, np.int64 if wide else np.int32).astype(np.int64)
        starts, lengths = offsets[:-1], np.diff(offsets)
    if len(array) and (lengths.min() < 0 or starts[0] < 0 or starts[-1] + lengths[-1] > len(array.values)):
        raise DataError(f"{where}: list offsets point outside the values; the file is damaged. Import the data again.")
    if array.null_count:
        lengths = np.where(array.is_valid().to_numpy(zero_copy_only=False), lengths, 0)
    return starts, lengths


def is_list(kind: pa.DataType) -> bool:
    """Return True for an Arrow list type in any of its three layouts."""
    return isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType)


def list_depth(kind: pa.DataType) -> int:
    """Return the number of nested lists of a type: 0 for a plain value."""
    return 1 + list_depth(kind.value_type) if is_list(kind) else 0


def flatten(array: pa.Array, where: str, first: int = 0) -> Nested:
    """Flatten a list<number> or list<list<number>> column. Raises DataError for other types and ragged variates.

    first: number of the first series, for messages.
    """
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    depth = list_depth(array.type)
    starts, lengths = _offsets(array, where) if depth else (np.empty(0, np.int64),) * 2
    leaves = array.values if depth else array
    variates = (lengths > 0).astype(np.int32)
    if depth == 2:
        variates = lengths.astype(np.int32)
        starts, lengths = _rows(leaves, starts, lengths, where, first)
        leaves = leaves.values
    kind = leaves.type
    if depth not in (1, 2) or not (
        pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    ):
        raise DataError(f"{where}: type {array.type} is not a list of numbers or a list of such lists.")
    plain = pa.types.is_float32(kind) and (leaves.buffers()[0] is None or leaves.null_count == 0)
    floats = _view(leaves, np.float32) if plain else None
    return Nested(leaves, compact(starts), compact(lengths), _shared(variates), floats)


def compact(values: IntArray) -> Counts:
    """Return integers of 0 or more in 32 bits if these hold all of them: they are kept for every series."""
    return values.astype(np.int32) if values.max(initial=0) < 2**31 else values


def _shared(values: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return equal values as views of one."""
    if len(values) and (values == values[0]).all():
        return np.broadcast_to(values[0], values.shape)
    return values


def _rows(inner: pa.Array, starts: IntArray, counts: IntArray, where: str, first: int) -> tuple[IntArray, IntArray]:
    """Return the flat start and the length of rows of lists; all variates of a row must have the same length."""
    inner_starts, inner_lengths = _offsets(inner, where)
    filled = counts > 0
    at = np.where(filled, starts, 0)
    length = np.where(filled, inner_lengths[at], 0) if len(inner_lengths) else np.zeros_like(counts)
    begin = np.where(filled, inner_starts[at], 0) if len(inner_starts) else np.zeros_like(counts)
    for variate in range(1, int(counts.max(initial=0))):
        has = counts > variate
        ragged = has & (inner_lengths[np.where(has, starts + variate, 0)] != length)
        if ragged.any():
            row = int(np.flatnonzero(ragged)[0])
            raise DataError(
                f"{where}: series {first + row} has variates of different lengths. "
                "Pad them with NaN to one length, import again."
            )
    return begin, length


def timestamps(array: pa.Array, where: str) -> tuple[IntArray, IntArray, IntArray]:
    """Return (microseconds, start, length) of a list<int64 microseconds> or list<timestamp> column."""
    starts, lengths = _offsets(array, where)
    leaves = array.values
    if leaves.null_count:
        raise DataError(f"{where}: a timestamp is missing. Drop rows without a time and import again.")
    return _micros(leaves, where), starts, lengths


def starts(array: pa.Array, where: str) -> IntArray:
    """Return (n,) microseconds of a column of timestamps, dates or ISO text."""
    if array.null_count:
        raise DataError(f"{where}: a series has no start. Give every series one, or none.")
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_date(array.type):
        try:
            array = array.cast(pa.timestamp("us"))
        except pa.ArrowInvalid:
            raise DataError(f"{where}: {array[0].as_py()!r} and the others are not all plain ISO stamps.") from None
    return _micros(array, where)


def _micros(leaves: pa.Array, where: str) -> IntArray:
    kind = leaves.type
    if pa.types.is_timestamp(kind):
        values = _view(leaves, np.int64)
        return values // 1_000 if kind.unit == "ns" else values * _UNITS[kind.unit] if kind.unit != "us" else values
    if pa.types.is_int64(kind):
        return _view(leaves, np.int64)
    raise DataError(f"{where}: type {kind} is not a timestamp; store timestamps, or int64 microseconds.")


class Chunk:
    """One record batch whose rows are series; views are created on first use."""

    def __init__(self, batch: pa.RecordBatch, file: str, fields: dict[str, str], variates: tuple[int, ...]) -> None:
        self.batch = batch
        self.file = file
        self._fields = fields  # role ("id", "target", "past", "known", "start", "times") -> column name
        self.variates = variates  # of each block
        self.first = 0  # number of its first series in the corpus, for messages

    def __len__(self) -> int:
        return self.batch.num_rows

    def elsewhere(self, batch: pa.RecordBatch) -> Chunk:
        """Return the same chunk with a record batch that lies elsewhere in memory."""
        found = Chunk(batch, self.file, self._fields, self.variates)
        found.first = self.first
        return found

    def _column(self, role: str) -> tuple[pa.Array, str]:
        name = self._fields[role]
        return self.batch.column(name), f"{self.file}: column {name!r}"

    @functools.cached_property
    def blocks(self) -> tuple[Nested, ...]:
        """The target block and, in foreign folders, the blocks of past_feat_dynamic_real and feat_dynamic_real."""
        roles = [role for role in ("target", "past", "known") if role in self._fields]
        blocks = tuple(flatten(*self._column(role), self.first) for role in roles)
        length = blocks[0].length
        for nested, role in zip(blocks, roles, strict=True):
            if not np.array_equal(nested.length, length):
                row = int(np.flatnonzero(nested.length != length)[0])
                raise DataError(
                    f"{self.file}: series {self.first + row}: {self._fields[role]} has {nested.length[row]} steps, "
                    f"the target {length[row]}. Give both the same length."
                )
        for nested, role, variates in zip(blocks, roles, self.variates, strict=True):
            odd = np.flatnonzero((nested.variates != variates) & (length > 0))
            if len(odd):
                raise DataError(
                    f"{self.file}: series {self.first + odd[0]}: {self._fields[role]} has {nested.variates[odd[0]]} "
                    f"variates, other series {variates}. Import items with different variates into separate corpora."
                )
        return blocks

    @property
    def length(self) -> Counts:
        """(n,) steps of each series."""
        return self.blocks[0].length

    def values(self, row: int, first: int = 0, stop: int | None = None) -> FloatArray:
        """Return (V, stop - first) values of a series, a view if the file's layout allows it."""
        stop = int(self.length[row]) if stop is None else stop
        parts = [nested.block(row, first, stop) for nested in self.blocks]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @functools.cached_property
    def starts(self) -> IntArray:
        """(n,) microseconds, or the number, of each series' first step."""
        return starts(*self._column("start"))

    def first_step(self, row: int) -> int | None:
        """Return the number of a series' first step; None if steps are not numbered."""
        return int(self.starts[row]) if "start" in self._fields else None

    @functools.cached_property
    def _times(self) -> tuple[IntArray, IntArray, IntArray]:
        values, first, length = timestamps(*self._column("times"))
        if not np.array_equal(length, self.length):
            row = int(np.flatnonzero(length != self.length)[0])
            raise DataError(
                f"{self.file}: series {self.first + row} has {length[row]} timestamps for {self.length[row]} values."
            )
        return values, first, length

    def times(self, row: int, first: int, stop: int) -> IntArray:
        """Return (stop - first,) microsecond stamps stored with a series, as a view."""
        values, start, _ = self._times
        begin = int(start[row])
        return values[begin + first : begin + stop]

    def rows_before(self, times: IntArray) -> IntArray:
        """Return how many stamps of each series, ascending ones, are before its time, (n,): all series are bisected at
        once."""
        values, first, length = self._times
        low, high = np.zeros(len(self), np.int64), length.astype(np.int64)
        while (some := np.flatnonzero(low < high)).size:
            middle = (low[some] + high[some]) // 2
            before = values[first[some] + middle] < times[some]
            low[some[before]] = middle[before] + 1
            high[some[~before]] = middle[~before]
        return low

    def first_backward_row(self) -> int | None:
        """Return the first series whose stored stamps do not ascend, None if all do; reads every stamp."""
        values, first, length = self._times
        down = np.flatnonzero(values[1:] <= values[:-1]) + 1
        row = np.searchsorted(first, down, side="right") - 1
        inside = (row >= 0) & (down > first[row]) & (down < first[row] + length[row])
        return int(row[inside].min()) if inside.any() else None

    @functools.cached_property
    def _ids(self) -> tuple[pa.Array, str]:
        """The ids, whose offsets and text have been looked at: wrong ones would be followed out of the buffer."""
        array, where = self._column("id")
        try:
            array.validate(full=True)
        except pa.ArrowException as error:
            why = " ".join(str(error).split())[:150]
            raise DataError(f"{where}: the ids are damaged ({why}). Copy or import the data again.") from None
        return array, where

    def item_ids(self, rows: Any = None) -> list[str]:
        """Return the ids of the given rows, or of all, as text. The batch must have an id column."""
        array, where = self._ids
        values = array.to_pylist() if rows is None else [array[int(row)].as_py() for row in rows]
        if any(value is None for value in values):
            raise DataError(f"{where}: an id is missing. Give every series an id.")
        return [str(value) for value in values]
