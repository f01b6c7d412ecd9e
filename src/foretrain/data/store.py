"""The corpus: named variates of many series in Arrow files, written once and atomically, read by memory map.

# N series, V variates (columns), T steps of a series

A corpus folder has the layout of datasets.save_to_disk (data-0000k-of-0000n.arrow, dataset_info.json, state.json) plus
manifest.json. Plain save_to_disk folders can be opened too. Opening reads only the manifest and the headers of the
record batches: no work and no Python object per series.
"""

from __future__ import annotations

import bisect
import copy
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pyarrow as pa

from foretrain.data.chunks import Chunk, flatten, is_list, list_depth
from foretrain.data.manifest import MANIFEST_NAME, Column, Manifest, make_manifest, read_manifest
from foretrain.data.mapped import MappedFile, Watch
from foretrain.data.staging import shards_of
from foretrain.data.verification import check_file, of_one_version, shard_file
from foretrain.data.windows import FloatArray, IntArray
from foretrain.data.writer import CorpusWriter, SeriesBuffer, complete_manifest, prepare_series
from foretrain.errors import DataError
from foretrain.reading import read_object
from foretrain.timeaxis import grid
from foretrain.timeaxis.frequency import Frequency
from foretrain.timeaxis.future import continue_stamps

__all__ = ["Column", "Corpus", "CorpusWriter", "Manifest"]

RECENT_ROWS = 4096  # newest stamps from which future ones are inferred: two weeks of 5-minute bars
_ID_NAMES = ("item_id", "id")
_TIME_NAMES = ("timestamp", "timestamps")
_Batch = tuple[pa.RecordBatch, str]  # with its file
_FEATURES = {"past": ("past_feat_dynamic_real", "past_feat"), "known": ("feat_dynamic_real", "feat")}


class Corpus:
    """Many series with the same named variates, in files or in memory, read-only."""

    def __init__(
        self,
        name: str,
        manifest: Manifest,
        chunks: list[Chunk],
        path: Path | None,
        has_ids: bool,
        left_out: tuple[str, ...] = (),
        files: Sequence[MappedFile] = (),
        shards: Path | None = None,
    ) -> None:
        """shards: the folder that the shards are read from; None = path."""
        self.left_out = left_out  # columns of a foreign folder that are not read
        self.name = name
        self.path = path
        self.shards = path if shards is None else shards
        self.origin = path  # what the user named: the folder, or the file that was imported into it
        self.manifest = manifest
        self.chunks = chunks
        self._has_ids = has_ids
        self.watch = Watch(files)
        counts = [len(chunk) for chunk in chunks]
        self._first = [0, *np.cumsum(counts).tolist()]  # series before each chunk
        for chunk, first in zip(chunks, self._first, strict=False):
            chunk.first = first

    # -- opening -------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: str | Path, *, freq: str | None = None, staged: str | None = None) -> Corpus:
        """Open a corpus folder, or any datasets.save_to_disk folder with a `target` column.

        freq: that of a foreign folder whose series have a start and no freq. staged: a folder of copies, as of
        data.stage_to; the shards are read from that of the corpus, if it has one there. Raises DataError if the folder
        is neither, if a shard is missing, damaged or of another size than in the manifest, or if columns have
        unexpected types.
        """
        folder = Path(path)
        if folder.is_file():
            way = f"`foretrain data import {folder} --out CORPUS`"
            raise DataError(f"{folder}: is a file, no corpus. Make one with {way}.")
        if not folder.is_dir():
            raise DataError(f"{folder}: no such corpus folder. Make one with `foretrain data import`.")
        if (folder / MANIFEST_NAME).is_file():
            manifest, shards, files, batches = of_one_version(folder, functools.partial(_read_own, staged=staged))
            fields = _own_fields(manifest, batches)
            chunks = [Chunk(batch, file, fields, (len(manifest.columns),)) for batch, file in batches if batch.num_rows]
            return cls(folder.name, manifest, chunks, folder, has_ids=True, files=files, shards=shards)
        return _open_foreign(folder, freq)

    @classmethod
    def from_arrays(
        cls,
        name: str,
        items: Iterable[tuple[str, np.ndarray, np.ndarray | None]],
        columns: Sequence[Column | str],
        *,
        freq: str | None = None,
        time: str = "steps",
        provenance: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Corpus:
        """Build a corpus in memory from (item_id, values (V, T), times (T,) or None); fields are manifest fields."""
        declared = tuple(Column(name=c) if isinstance(c, str) else c for c in columns)
        buffer = SeriesBuffer(declared, time, freq)
        for item_id, values, times in items:
            buffer.add(*prepare_series(item_id, values, times, len(declared), time, freq, fields.get("step", 1)))
        if buffer.total_series == 0:
            raise DataError(f"{name}: no series. A corpus holds at least one.")
        batch = buffer.flush()
        manifest = complete_manifest(buffer, declared, time, freq, provenance, [], source=name, **fields)
        chunk = Chunk(batch, name, _own_fields(manifest, [(batch, name)]), (len(declared),))
        return cls(name, manifest, [chunk], None, has_ids=True)

    # -- facts ---------------------------------------------------------------------------------------------------

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the variates, in stored order."""
        return tuple(column.name for column in self.manifest.columns)

    @property
    def num_series(self) -> int:
        """Number of series."""
        return self._first[-1]

    @property
    def fingerprint(self) -> str:
        """Content hash of the manifest, or for foreign folders a hash of their headers."""
        return self.manifest.content_hash

    @property
    def num_rows(self) -> int:
        """Sum of the series' lengths."""
        known = self.manifest.num_rows
        return known if known >= 0 else int(self.lengths.sum())

    @functools.cached_property
    def lengths(self) -> IntArray:
        """(N,) steps of each series, computed from the offsets on first use."""
        lengths = np.concatenate([chunk.length for chunk in self.chunks], dtype=np.int64)
        lengths.flags.writeable = False
        return lengths

    def length(self, series: int) -> int:
        """Return the number of steps of one series."""
        chunk, row = self.locate(series)
        return int(chunk.length[row])

    def locate(self, series: int) -> tuple[Chunk, int]:
        """Return the record batch that holds a series, and its row there. Raises DataError if its file is cut."""
        if monotonic() >= self.watch.due:  # here, as this is called for every series that is read
            self.watch.check()
        first = self._first
        if not 0 <= series < first[-1]:
            raise DataError(f"{self.name}: series {series} does not exist; there are {first[-1]}.")
        k = bisect.bisect_right(first, series) - 1
        return self.chunks[k], series - first[k]

    def chunk_starts(self) -> list[int]:
        """Return the index of the first series of each chunk, followed by the number of series."""
        return self._first

    def with_chunks(self, chunks: Sequence[Chunk]) -> Corpus:
        """Return the same corpus of which only the series in the given chunks, by ascending numbers, can be read."""
        found = copy.copy(self)
        found.chunks = list(chunks)
        found._first = [*(chunk.first for chunk in chunks), self.num_series]
        return found

    # -- reading -------------------------------------------------------------------------------------------------

    def item_id(self, series: int) -> str:
        """Return the id of one series, or its number in a foreign folder without ids."""
        chunk, row = self.locate(series)
        return chunk.item_ids([row])[0] if self._has_ids else str(series)

    def item_ids(self, series: Sequence[int] | IntArray | None = None) -> list[str]:
        """Return the ids of the given series, or of all, in order."""
        if series is not None:
            return [self.item_id(int(i)) for i in series]
        return [item_id for ids in self.parts_of_ids() for item_id in ids]

    def parts_of_ids(self) -> Iterator[list[str]]:
        """Yield the ids of all series, in order, a record batch at a time: a list of all takes 100 bytes a series."""
        for chunk, first in zip(self.chunks, self._first, strict=False):
            yield chunk.item_ids() if self._has_ids else [str(i) for i in range(first, first + len(chunk))]

    def values(self, series: int) -> FloatArray:
        """Return (V, T) float32, NaN = not observed: a read-only view if the file's layout allows it (ours does)."""
        chunk, row = self.locate(series)
        return chunk.values(row)

    def times(self, series: int) -> IntArray | None:
        """Return (T,) microseconds, or None if the corpus has no calendar."""
        return self.times_slice(series, 0, self.length(series))

    def times_slice(self, series: int, start: int, stop: int) -> IntArray | None:
        """Return the stamps of steps start..stop-1 (all inside the series), or None if the corpus has no calendar."""
        if self.manifest.time == "steps":
            return None
        chunk, row = self.locate(series)
        if self.manifest.time == "stamps":
            return chunk.times(row, start, stop)
        return self._regular(int(chunk.starts[row]), np.arange(start, stop, dtype=np.int64))

    def first_step(self, series: int) -> int | None:
        """Return the number of the first step of a series, None if its steps are not numbered or have a calendar."""
        if self.manifest.time != "steps":
            return None
        chunk, row = self.locate(series)
        return chunk.first_step(row)

    def future_times(self, series: int, count: int) -> IntArray | None:
        """Return (count,) stamps after the series' end, or None if the corpus has no calendar.

        A regular axis continues by its freq; stored stamps as timeaxis.future.continue_stamps does.
        """
        if self.manifest.time == "steps":
            return None
        length = self.length(series)
        if self.manifest.time == "regular":
            return self.times_slice(series, length, length + count)
        recent = self.times_slice(series, max(0, length - RECENT_ROWS), length)
        assert recent is not None
        return continue_stamps(recent, self.frequency, count)

    @functools.cached_property
    def frequency(self) -> Frequency | None:
        """The parsed freq of the manifest."""
        return None if self.manifest.freq is None else Frequency.parse(self.manifest.freq)

    def _regular(self, start: int, steps: IntArray) -> IntArray:
        assert self.frequency is not None
        return grid.stamps(start, self.frequency, steps)

    def check_unchanged(self) -> None:
        """Raise DataError if a shard has become shorter or was overwritten since the corpus was opened.

        What is read is looked at as well, now and then; this is the last look before a result is told.
        """
        self.watch.check()

    def verify(self) -> None:
        """Compare every shard's sha256 with the manifest. Raises DataError naming the first that differs."""
        for shard in self.manifest.shards:
            assert self.shards is not None
            check_file(self.shards / shard["file"], shard["sha256"])

    def __repr__(self) -> str:
        return f"Corpus({self.name!r}, {self.num_series:,} series, columns {', '.join(self.columns)})"


def _own_fields(manifest: Manifest, batches: Sequence[tuple[pa.RecordBatch, str]]) -> dict[str, str]:
    fields = {"id": "item_id", "target": "target"}
    numbered = manifest.time == "steps" and batches and "start" in batches[0][0].schema.names
    if manifest.time == "regular" or numbered:
        fields["start"] = "start"
    if manifest.time == "stamps":
        fields["times"] = "timestamp"
    return fields


def _read_own(folder: Path, staged: str | None) -> tuple[Manifest, Path, list[MappedFile], list[_Batch]]:
    manifest = read_manifest(folder / MANIFEST_NAME)
    shards = shards_of(manifest, folder, staged)
    files, batches = list[MappedFile](), list[_Batch]()
    for shard in manifest.shards:
        file, more = read_batches(shard_file(shards, shard["file"], shard["bytes"]), shard["sha256"])
        files.append(file)
        batches += more
    found = sum(batch.num_rows for batch, _ in batches)
    if found != manifest.num_series:
        raise DataError(f"{folder}: {found:,} series in the shards, the manifest says {manifest.num_series:,}.")
    for batch, file in batches[:1]:
        missing = [name for name in _own_fields(manifest, batches).values() if name not in batch.schema.names]
        if missing:
            raise DataError(f"{file}: column {missing[0]!r} is missing. Import the data again.")
    return manifest, shards, files, batches


def read_batches(path: Path, sha256: str | None = None) -> tuple[MappedFile, list[_Batch]]:
    """Return an Arrow stream (or file) as a memory map, and the record batches in it; reads only their headers.

    sha256: what the manifest says of its content, which is not compared here.
    """
    try:
        mapped = MappedFile(path, sha256)
        whole = mapped.buffer
        if whole.size >= 6 and whole.slice(0, 6).to_pybytes() == b"ARROW1":
            reader = pa.ipc.open_file(whole)
            batches = [reader.get_batch(k) for k in range(reader.num_record_batches)]
        else:
            batches = list(pa.ipc.open_stream(whole))
        for batch in batches:
            batch.validate()  # lengths against sizes of buffers; reads no values
            _ = batch.schema.names  # raises for names that are no text
        return mapped, [(batch, str(path)) for batch in batches]
    except FileNotFoundError:
        raise DataError(f"{path}: missing, though the folder lists it. Copy the folder again, whole.") from None
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are no UTF-8
        raise DataError(f"{path}: not a readable Arrow stream ({_one_line(error)}). Copy or import it again.") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


# -- foreign folders -----------------------------------------------------------------------------------------------


def _open_foreign(folder: Path, freq: str | None) -> Corpus:
    """Open a plain datasets.save_to_disk folder: target, features over time, start + freq or timestamp, id."""
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(child.name for child in folder.iterdir() if child.is_dir())
        raise DataError(f"{folder}: holds several splits; open one of them: {', '.join(splits)}.")
    state = _read_state(folder)
    if state.get("_indices_files"):
        raise DataError(
            f"{folder}: its rows are selected by an indices file. Call flatten_indices() before save_to_disk."
        )
    files = [folder / entry["filename"] for entry in state["_data_files"]]
    read = [read_batches(path) for path in files]
    batches = [(batch, file) for _, more in read for batch, file in more if batch.num_rows]
    if not batches:
        raise DataError(f"{folder}: no rows.")
    manifest, fields, variates = _describe_foreign(folder, batches, state, files, freq)
    chunks = [Chunk(batch, file, fields, variates) for batch, file in batches]
    used = {*fields.values(), *(("start", "freq") if manifest.time != "steps" else ("freq",))}
    left_out = tuple(name for name in batches[0][0].schema.names if name not in used)
    return Corpus(folder.name, manifest, chunks, folder, "id" in fields, left_out, [file for file, _ in read])


def _read_state(folder: Path) -> dict[str, Any]:
    path = folder / "state.json"
    try:
        state = read_object(path)
        names = [entry["filename"] for entry in state["_data_files"]]
    except FileNotFoundError:
        raise DataError(
            f"{folder}: not a corpus (neither {MANIFEST_NAME} nor state.json). Make one with `foretrain data import`."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({_one_line(error)}).") from None
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise DataError(f"{path}: names {outside[0]!r}, which is not a plain file name.")
    return state


def _describe_foreign(
    folder: Path,
    batches: list[tuple[pa.RecordBatch, str]],
    state: dict[str, Any],
    files: list[Path],
    freq: str | None,
) -> tuple[Manifest, dict[str, str], tuple[int, ...]]:
    """Return (manifest, columns by role, variates of each block of columns)."""
    schema = batches[0][0].schema
    where = f"{folder}: "
    if "target" not in schema.names:
        raise DataError(f"{where}no `target` column (has {', '.join(schema.names)}). Import it with column options.")
    fields = {"target": "target"}
    names = [name for name in _ID_NAMES if name in schema.names]
    if names:
        fields["id"] = names[0]
    for role, (name, _) in _FEATURES.items():
        if name in schema.names and not pa.types.is_null(schema.field(name).type):
            fields[role] = name
    if "known" in fields and not _as_long_as_target(batches[0], fields):
        del fields["known"]  # it reaches beyond the target, over a horizon of its own
    axis = _foreign_time(batches, fields, freq)
    columns, variates = _foreign_columns(batches[0], fields)
    rows = [batch.num_rows for batch, _ in batches]
    head = json.dumps([str(schema), rows, [path.stat().st_size for path in files], state.get("_fingerprint")])
    manifest = make_manifest(
        {
            **axis,
            "columns": columns,
            **_foreign_covariates(columns),
            "num_series": sum(rows),
            "num_rows": -1,  # not known without reading every offset; see Corpus.num_rows
            "provenance": {"kind": "real", "sources": [], "command": None},
            "content_hash": hashlib.sha256(head.encode()).hexdigest(),
        },
        source=str(folder),
    )
    return manifest, fields, variates


def _as_long_as_target(first: tuple[pa.RecordBatch, str], fields: dict[str, str]) -> bool:
    batch, file = first
    names = (fields["target"], fields["known"])
    target, known = (flatten(batch.column(name), f"{file}: column {name!r}").length for name in names)
    return np.array_equal(target, known)


def _foreign_columns(
    first: tuple[pa.RecordBatch, str], fields: dict[str, str]
) -> tuple[list[dict[str, Any]], tuple[int, ...]]:
    """Return columns named target (or target_0, ...), past_feat_0, ..., feat_0, ..., and the variates of each block."""
    batch, file = first
    names: list[str] = []
    counts: list[int] = []
    for role, label in (("target", "target"), *((role, label) for role, (_, label) in _FEATURES.items())):
        if role not in fields:
            continue
        array = batch.column(fields[role])
        depth = list_depth(array.storage.type if isinstance(array, pa.ExtensionArray) else array.type)
        if depth not in (1, 2):
            raise DataError(f"{file}: column {fields[role]!r} of type {array.type} is not a list of numbers.")
        count = 1 if depth == 1 else int(flatten(array, f"{file}: column {fields[role]!r}").variates.max())
        counts.append(count)
        names += [label] if label == "target" and count == 1 else [f"{label}_{k}" for k in range(count)]
    return [{"name": name} for name in names], tuple(counts)


def _foreign_covariates(columns: list[dict[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Return the manifest fields that name the columns of features."""
    return {
        f"{role}_covariates": tuple(c["name"] for c in columns if c["name"].startswith(f"{label}_"))
        for role, (_, label) in _FEATURES.items()
    }


def _foreign_time(
    batches: list[tuple[pa.RecordBatch, str]], fields: dict[str, str], given: str | None
) -> dict[str, Any]:
    """Return the manifest fields of the time axis, and add the columns it needs to `fields`.

    Lists of timestamps give stamps, start and one freq of all series a regular axis, everything else steps.
    """
    schema = batches[0][0].schema
    freqs: set[Any] = set()
    if "freq" in schema.names:
        freqs = {freq for batch, _ in batches for freq in batch.column("freq").unique().to_pylist()}
    freq = next(iter(freqs)) if len(freqs) == 1 else None
    freq = freq if isinstance(freq, str) and freq else given if not freqs - {None, ""} else None
    if freq is not None:
        Frequency.storable(freq)
    for name in _TIME_NAMES:
        if name in schema.names and is_list(schema.field(name).type):
            fields["times"] = name
            return {"time": "stamps", "freq": freq, **_zone(schema.field(name).type.value_type)}
    if freq and "start" in schema.names and _is_stamp(schema.field("start").type):
        fields["start"] = "start"
        return {"time": "regular", "freq": freq, **_zone(schema.field("start").type)}
    note = "series of several frequencies: used without a calendar" if len(freqs) > 1 else None
    return {"time": "steps", "freq": None, "timezone_note": note}


def _is_stamp(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_timestamp(kind) or types.is_string(kind) or types.is_large_string(kind) or types.is_date(kind)


def _zone(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return {"timezone": "UTC", "timezone_note": f"stored for {kind.tz}, as UTC"}
    return {"timezone_note": "stamps are taken as they are in the foreign folder"}
