"""Reads the windows of an epoch by large sequential reads of shards into memory, not by page faults of a map.

The order is that of order.py. The shards of a group of pieces are read by a thread while the windows of the group
before are gathered, so two buffers are in memory at a time. Record batches are opened in the buffer as they are in a
map, and windows are gathered from them by the same code. Opening a corpus still maps its shards, and reads the headers
and offsets of their record batches.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from foretrain.data.chunks import Chunk
from foretrain.data.exclusive import kept_folder, target
from foretrain.data.mapped import MappedFile, shorter
from foretrain.data.order import ShardOrder, ShardPiece
from foretrain.data.sampling import Gather, Pool, SamplingPlan, of_slots
from foretrain.data.store import Corpus
from foretrain.data.windows import IntArray, Windows, joined_windows
from foretrain.errors import ConfigError, DataError

MB = 10**6
BUFFER_MB = 512
PIECES = 8  # of a full buffer, at least: shards are cut between record batches into pieces of an eighth of it
REQUEST = 8 << 20  # bytes of a read, at most
_ALIGNED = 64  # bytes; values keep the alignment that they have in their file
_WAY_OUT = "Set data.reader: mapped, for which data.stage_to can copy corpora to a local disk."

Read = Callable[[int, memoryview, int], int]


def read_range(descriptor: int, into: memoryview, offset: int) -> int:
    """Read a range of a file into memory; return the bytes read, fewer than asked for only at the file's end."""
    return os.preadv(descriptor, [into], offset)


class _Place(NamedTuple):
    """Neighbouring record batches of a shard, all with training series."""

    pool: int
    file: MappedFile
    ranges: list[tuple[int, int]]  # of the message of each record batch in the file
    chunks: list[Chunk]
    slots: range

    @property
    def bytes(self) -> int:
        return self.ranges[-1][1] - self.ranges[0][0]

    def joins(self, file: MappedFile, span: tuple[int, int], slots: range, most: int) -> bool:
        """Return whether a record batch is the next one of the shard, and both together have at most so many bytes."""
        next_one = self.file is file and self.ranges[-1][1] == span[0] and self.slots.stop == slots.start
        return next_one and span[1] - self.ranges[0][0] <= most

    def joined(self, span: tuple[int, int], chunk: Chunk, slots: range) -> _Place:
        """Return the place with the next record batch."""
        slots = range(self.slots.start, slots.stop)
        return _Place(self.pool, self.file, [*self.ranges, span], [*self.chunks, chunk], slots)


class _Loading:
    """The pieces of a group, which a thread reads into memory.

    It does nothing else: a daemon thread that the end of the process meets inside of Arrow would abort it.
    """

    def __init__(self, places: list[_Place], fill: Callable[[_Place, np.ndarray, threading.Event], None]) -> None:
        self.places, self.memory = places, _memory_of(places)
        self.opened: tuple[IntArray, Gather] | None = None
        self._fill, self._error = fill, None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="reader", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for place, memory in zip(self.places, self.memory, strict=True):
                self._fill(place, memory, self._stop)
        except Exception as error:  # any: whoever waits for it raises it
            self._error = error

    def stop(self) -> None:
        """Read no further; what was read is of no use."""
        self._stop.set()

    def wait(self) -> None:
        """Wait until all is read. Raises what reading it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error


class SequentialReader:
    """The windows of a plan, by number, read group by group.

    Raises ConfigError for a corpus without shards and for a buffer that does not hold a record batch.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        plan: SamplingPlan,
        *,
        seed: int,
        buffer_mb: int,
        read: Read = read_range,
        **how: Any,
    ) -> None:
        """how: the settings of Gather, but `lengths` and `reserved`. The plan is told to follow the reader's order."""
        self._pools, self._plan, self._how, self._read = pools, plan, how, read
        buffer = buffer_mb * MB
        self._places = [place for k in range(len(pools)) for place in self._places_of(k, buffer)]
        pieces = []
        for place in self._places:
            windows = plan.stored_windows(place.slots)
            pieces.append(ShardPiece(place.bytes, windows.start, len(windows)))
        self.order = ShardOrder(pieces, seed=seed, buffer_bytes=buffer)
        plan.follow(self.order)
        self._buffer_mb = buffer_mb
        self._loading: dict[tuple[int, int], _Loading] = {}
        self._lock = threading.Lock()  # the thread that prepares batches, and whoever reads one again
        self._counting = threading.Lock()
        self.bytes_read: Counter[tuple[int, str]] = Counter()  # by epoch and path of the shard, of newest epochs
        self.requests = 0  # reads made
        self.waited = 0.0  # seconds for which windows waited for a group

    @property
    def fingerprint(self) -> str:
        """Hash of how shards are cut into pieces, on which the order depends beside seed and settings."""
        cuts = [[place.pool, place.bytes, place.slots.start, place.slots.stop] for place in self._places]
        return hashlib.sha256(json.dumps(cuts).encode()).hexdigest()

    def describe(self) -> list[str]:
        """Return a line on what an epoch reads."""
        groups = len(self.order.groups(0).ends)
        return [
            f"reader: sequential, {self.order.epoch_bytes / MB:,.1f} MB an epoch in {len(self._places):,} pieces of "
            f"shards, {groups:,} group{'s' * (groups != 1)} of at most {self._buffer_mb:,} MB"
        ]

    def windows(self, first: int, count: int) -> Windows:
        """Return windows first .. first + count - 1 of the run."""
        slot, cutoff = self._plan.draw(first, count)
        parts, done = list[Windows](), 0
        with self._lock:
            while done < count:
                epoch, position = divmod(first + done, self._plan.epoch_length)
                group, end = self.order.group_of(epoch, position)
                some = slice(done, min(count, done + end - position))
                slots, gather = self._group(epoch, group)
                parts.append(gather(np.searchsorted(slots, slot[some]), cutoff[some]))
                done = some.stop
        return joined_windows(parts)

    def _group(self, epoch: int, group: int) -> tuple[IntArray, Gather]:
        """Return the slots of a group and what gathers its windows; the next one is read meanwhile."""
        last = group + 1 == len(self.order.groups(epoch).ends)
        wanted = [(epoch, group), (epoch + 1, 0) if last else (epoch, group + 1)]
        for key in [key for key in self._loading if key not in wanted]:
            self._loading.pop(key).stop()
        loading, begun = self._begun(*wanted[0]), time.perf_counter()
        try:
            loading.wait()
        except Exception:
            del self._loading[epoch, group]  # to be tried again by the next call
            raise
        finally:
            self.waited += time.perf_counter() - begun
        self._begun(*wanted[1])
        if loading.opened is None:
            loading.opened = self._opened(loading)
        return loading.opened

    def _begun(self, epoch: int, group: int) -> _Loading:
        """Return the group that a thread reads, or has read."""
        key = epoch, group
        if key not in self._loading:
            places = [self._places[k] for k in self.order.pieces_of(*key)]
            self._loading[key] = _Loading(places, functools.partial(self._fill, epoch))
        return self._loading[key]

    # -- reading -------------------------------------------------------------------------------------------------

    def _opened(self, loading: _Loading) -> tuple[IntArray, Gather]:
        """Return the slots of a group that was read, and what gathers its windows."""
        chunks: list[list[Chunk]] = [[] for _ in self._pools]
        for place, memory in zip(loading.places, loading.memory, strict=True):
            begin = place.ranges[0][0]
            for (first, stop), chunk in zip(place.ranges, place.chunks, strict=True):
                chunks[place.pool].append(_opened(chunk, pa.py_buffer(memory[first - begin : stop - begin])))
        slots = np.concatenate([np.arange(place.slots.start, place.slots.stop) for place in loading.places])
        return slots, self._gather_of(slots, chunks)

    def _gather_of(self, slots: IntArray, chunks: list[list[Chunk]]) -> Gather:
        pools, before = list[Pool](), 0
        for pool, own in zip(self._pools, chunks, strict=True):
            last = before + len(pool.series)
            here = slots[(slots >= before) & (slots < last)] - before
            corpus = pool.corpus.with_chunks(own or pool.corpus.chunks[:1])
            reserved = of_slots(pool.reserved, here)
            pools.append(Pool(corpus, pool.selection, pool.series[here], pool.weight, reserved))
            before = last
        reserved = of_slots(self._plan.reserved, slots)
        return Gather(pools, self._plan.lengths[slots], reserved=reserved, **self._how)

    def _fill(self, epoch: int, place: _Place, memory: np.ndarray, stop: threading.Event) -> None:
        """Read a piece of a shard. Raises DataError if it cannot be read, or is no longer the one that was opened."""
        path, begin, view, done = place.file.path, place.ranges[0][0], memory.data, 0
        try:
            descriptor = _opened_again(place.file)
            try:
                while done < len(view) and not stop.is_set():
                    count = self._read(descriptor, view[done : done + REQUEST], begin + done)
                    if not count:
                        raise DataError(shorter(path, begin + done, place.file.buffer.size))
                    done += count
                    self._count(epoch, path, count)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}. Repeat with --resume.") from None

    def _count(self, epoch: int, path: Path, count: int) -> None:
        with self._counting:
            self.requests += 1
            self.bytes_read[epoch, str(path)] += count
            for key in [key for key in self.bytes_read if key[0] < epoch - 2]:
                del self.bytes_read[key]

    # -- cutting shards into pieces ------------------------------------------------------------------------------

    def _places_of(self, number: int, buffer: int) -> list[_Place]:
        """Return the pieces of one corpus: neighbouring record batches with training series, up to an eighth of the
        buffer."""
        pool, found = self._pools[number], list[_Place]()
        before = sum(len(other.series) for other in self._pools[:number])
        edges = before + np.searchsorted(pool.series, pool.corpus.chunk_starts())
        for k, (chunk, (file, span)) in enumerate(zip(pool.corpus.chunks, _ranges(pool.corpus), strict=True)):
            slots = range(int(edges[k]), int(edges[k + 1]))
            if not len(slots):
                continue
            _check_buffer(pool.corpus, span[1] - span[0], buffer)
            if found and found[-1].joins(file, span, slots, buffer // PIECES):
                found[-1] = found[-1].joined(span, chunk, slots)
            else:
                found.append(_Place(number, file, [span], [chunk], slots))
        return found


def _memory_of(places: Sequence[_Place]) -> list[np.ndarray]:
    """Return memory for each place, in one stretch, aligned as in its file."""
    whole = np.empty(sum(place.bytes + 2 * _ALIGNED for place in places) + _ALIGNED, np.uint8)
    found, free = list[np.ndarray](), -whole.ctypes.data % _ALIGNED
    for place in places:
        first = free + place.ranges[0][0] % _ALIGNED
        found.append(whole[first : first + place.bytes])
        free = first + place.bytes
        free += -(whole.ctypes.data + free) % _ALIGNED
    return found


def _check_buffer(corpus: Corpus, size: int, buffer: int) -> None:
    if size > buffer:
        raise ConfigError(
            f"data.read_buffer_mb: {buffer // MB} MB do not hold a record batch of {corpus.name}, which has {size:,} "
            f"bytes. Raise it to {-(-size // MB)} or more."
        )


def _ranges(corpus: Corpus) -> list[tuple[MappedFile, tuple[int, int]]]:
    """Return the file of each chunk, and the range of bytes of its message there."""
    if not corpus.watch.files:
        raise ConfigError(f"data.reader: sequential reads shards, and {corpus.name} is in memory. {_WAY_OUT}")
    found = [(file, span) for file in corpus.watch.files for span in _messages(corpus, file)]
    if [str(file.path) for file, _ in found] != [chunk.file for chunk in corpus.chunks]:
        raise DataError(f"{corpus.name}: its record batches cannot be told apart. Import it again. {_WAY_OUT}")
    return found


def _messages(corpus: Corpus, file: MappedFile) -> list[tuple[int, int]]:
    """Return the range of the message of each record batch with rows; reads only headers."""
    whole = file.buffer
    start = 8 if whole.slice(0, 6).to_pybytes() == b"ARROW1" else 0  # a file holds a stream after its magic number
    source, found = pa.BufferReader(whole.slice(start)), list[tuple[int, int]]()
    messages = pa.MessageReader.open_stream(source)
    schema = None
    while True:
        begin = start + source.tell()
        try:
            message = messages.read_next_message()
        except StopIteration:
            return found
        if message.type == "schema":
            schema = pa.ipc.read_schema(message)
        elif message.type != "record batch":
            raise ConfigError(
                f"data.reader: sequential reads record batches alone, and {file.path} has a {message.type} too. Import "
                f"it (`foretrain data import {corpus.path} --out CORPUS`). {_WAY_OUT}"
            )
        elif pa.ipc.read_record_batch(message, schema).num_rows:
            found.append((begin, start + source.tell()))


def _opened(chunk: Chunk, message: pa.Buffer) -> Chunk:
    """Return a chunk whose record batch is the one of a message that was read into memory."""
    try:
        batch = pa.ipc.read_record_batch(pa.ipc.read_message(message), chunk.batch.schema)
        batch.validate()
        if batch.num_rows != len(chunk):
            raise ValueError(f"{batch.num_rows} series in the place of {len(chunk)}")
    except (pa.ArrowException, OSError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise DataError(f"{chunk.file}: was overwritten while it was read ({why}). Copy the corpus again.") from None
    return chunk.elsewhere(batch)


def _opened_again(file: MappedFile) -> int:
    """Return a descriptor of the file that was mapped, also where an update keeps it. Raises DataError if not."""
    for path in (file.path, kept_folder(target(file.path.parent)) / file.path.name):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        about = os.fstat(descriptor)
        if file.inode in (None, (about.st_dev, about.st_ino)):
            return descriptor
        os.close(descriptor)
    raise DataError(f"{file.path}: was deleted or replaced while it was read, as by an update. Repeat with --resume.")
