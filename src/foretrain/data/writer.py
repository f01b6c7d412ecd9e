"""Write a corpus: series by series into a temporary sibling folder that is renamed when it is complete.

# V variates, T steps of a series
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from foretrain import __version__
from foretrain.atomic import replace_folder, sync, sync_new, sync_tree
from foretrain.data.cuts import NAME as cuts_file
from foretrain.data.cuts import OwnCuts, cuts_text, with_cuts
from foretrain.data.exclusive import exclusive, kept_folder, scratch
from foretrain.data.manifest import (
    MANIFEST_NAME,
    Column,
    ContentHash,
    Earlier,
    Manifest,
    make_manifest,
    read_manifest,
)
from foretrain.data.windows import NO_TIME
from foretrain.errors import DataError
from foretrain.timeaxis import grid
from foretrain.timeaxis.frequency import Frequency

BATCH_BYTES = 32 << 20  # few record batches, so that opening stays cheap
SHARD_BYTES = 256 << 20
_SHARD = "data-{:05d}-of-{:05d}.arrow"

Series = tuple[str, np.ndarray, np.ndarray | None]


def prepare_series(
    item_id: str,
    values: np.ndarray,
    times: np.ndarray | None,
    variates: int,
    time: str,
    freq: str | None,
    step: int = 1,
) -> Series:
    """Check one series and convert it to float32 values and int64 times. Raises DataError naming the item."""
    if not isinstance(item_id, str) or not item_id:
        raise DataError(f"item id {item_id!r} is not a non-empty text.")
    values = np.atleast_2d(np.asarray(values))
    if values.ndim != 2 or len(values) != variates:
        raise DataError(f"item {item_id!r}: values have shape {values.shape}, needed ({variates}, steps).")
    if values.shape[1] == 0:
        raise DataError(f"item {item_id!r}: no rows. Leave the item out.")
    if values.dtype != np.float32:
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
    if np.isinf(values).any():
        raise DataError(f"item {item_id!r}: infinite value (or beyond float32's range). Replace it by NaN.")
    if time == "steps":
        return item_id, values, None if times is None else _first_step(times, values.shape[1], step)
    if times is None:
        raise DataError(f"item {item_id!r}: no times, but the corpus has a {time} time axis.")
    times = np.asarray(times)
    if times.dtype.kind == "M":
        times = times.astype("M8[us]").astype(np.int64)
    times = times.astype(np.int64)
    if times.shape != values.shape[1:]:
        raise DataError(f"item {item_id!r}: {len(times)} times for {values.shape[1]} rows.")
    if (times == NO_TIME).any():
        raise DataError(f"item {item_id!r}: row {int(np.argmax(times == NO_TIME))} has no time. Drop the row.")
    if time == "stamps" and (np.diff(times) <= 0).any():
        raise DataError(f"item {item_id!r}: times are not strictly ascending. Sort them and drop duplicates.")
    if time == "regular":
        assert freq is not None
        expected = grid.stamps(int(times[0]), freq, np.arange(len(times), dtype=np.int64))
        if not np.array_equal(expected, times):
            at = int(np.flatnonzero(expected != times)[0])
            if at == 0:
                raise DataError(
                    f"item {item_id!r}: its first row, at {grid.iso(int(times[0]))}, is no stamp of freq {freq!r}. "
                    "Choose the freq of the rows, or store the stamps (time='stamps')."
                )
            raise DataError(
                f"item {item_id!r}: row {at} is not one {freq} step after the row before. Fill the gap with NaN rows, "
                "or store the stamps (time='stamps')."
            )
        times = times[:1]
    return item_id, values, times


def _first_step(steps: np.ndarray, length: int, step: int) -> np.ndarray:
    """Return (1,) the number of the first row if all rows up to the last are `step` apart, without a hole."""
    return np.asarray(steps[-1:], np.int64) - step * (length - 1)


class SeriesBuffer:
    """Collects checked series, converts them to record batches, and tracks totals and the content hash."""

    def __init__(self, columns: Sequence[Column], time: str, freq: str | None) -> None:
        if time not in ("regular", "stamps", "steps"):
            raise DataError(f"time axis {time!r}: choose regular, stamps or steps.")
        if time == "regular" and not freq:
            raise DataError("a regular time axis needs a freq, for example 'h' or 'D'.")
        if freq:
            Frequency.storable(freq)
        self._categorical = [(k, column) for k, column in enumerate(columns) if column.categories is not None]
        self._time = time
        self._freq = freq
        self._numbered: bool | None = None  # the series have step numbers
        self._pending: list[Series] = []
        self._seen: set[str] = set()
        self.bytes = 0
        self.total_series = self.total_rows = 0
        self.first_time: int | None = None
        self.last_time: int | None = None
        self.hash = ContentHash(tuple(columns), time, freq)

    def add(self, item_id: str, values: np.ndarray, times: np.ndarray | None) -> None:
        """Add a series returned by prepare_series. Raises DataError for a repeated id or an invalid category code."""
        if item_id in self._seen:
            raise DataError(f"item {item_id!r}: given twice. Merge its rows, or rename one.")
        for row, column in self._categorical:
            codes, count = values[row][~np.isnan(values[row])], len(column.categories or ())
            wrong = codes[(codes < 0) | (codes >= count) | (codes != np.floor(codes))]
            if len(wrong):
                raise DataError(
                    f"item {item_id!r}: column {column.name!r} holds {wrong[0]:g}, which is no code of its {count} "
                    "categories. Codes count them from 0."
                )
        if self._time == "steps":
            if self._numbered not in (None, times is not None):
                raise DataError(f"item {item_id!r}: step numbers are given for some items only. Number all, or none.")
            self._numbered = times is not None
        self._seen.add(item_id)
        self._pending.append((item_id, values, times))
        self.bytes += values.nbytes + (times.nbytes if times is not None else 0)
        self.total_series += 1
        self.total_rows += values.shape[1]
        if times is not None and self._time != "steps":
            last = int(times[-1])
            if self._time == "regular":
                assert self._freq is not None
                last = int(grid.stamps(last, self._freq, np.array(values.shape[1] - 1)))
            self.first_time = int(times[0]) if self.first_time is None else min(self.first_time, int(times[0]))
            self.last_time = last if self.last_time is None else max(self.last_time, last)

    def schema(self) -> pa.Schema:
        """Return the Arrow schema of the batches."""
        fields = [("item_id", pa.string()), ("target", pa.list_(pa.list_(pa.float32())))]
        if self._time == "regular":
            fields.append(("start", pa.timestamp("us")))
        if self._numbered:
            fields.append(("start", pa.int64()))
        if self._time == "stamps":
            fields.append(("timestamp", pa.list_(pa.int64())))
        return pa.schema(fields)

    def flush(self) -> pa.RecordBatch:
        """Return the series added since the last flush as one record batch."""
        ids = [item_id for item_id, _, _ in self._pending]
        shapes = np.array([values.shape for _, values, _ in self._pending], np.int64).reshape(-1, 2)
        flat = np.concatenate([values.reshape(-1) for _, values, _ in self._pending])
        if len(flat) >= 2**31:
            raise DataError(f"item {ids[-1]!r}: longer than 2 billion values. Split it into several items.")
        clocks = [times for _, _, times in self._pending if times is not None]
        stamps = np.concatenate(clocks) if clocks else np.empty(0, np.int64)
        self.hash.update(ids, shapes, flat, stamps if self._time != "steps" else stamps[:0])
        rows = np.repeat(shapes[:, 1], shapes[:, 0])
        inner = pa.ListArray.from_arrays(_offsets(rows), _numbers(flat))
        arrays = [_texts(ids), pa.ListArray.from_arrays(_offsets(shapes[:, 0]), inner)]
        if self._time == "regular":
            arrays.append(_numbers(stamps).view(pa.timestamp("us")))
        if self._numbered:
            arrays.append(_numbers(stamps))
        if self._time == "stamps":
            arrays.append(pa.ListArray.from_arrays(_offsets(shapes[:, 1]), _numbers(stamps)))
        self._pending, self.bytes = [], 0
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema())

    def __len__(self) -> int:
        return len(self._pending)


def _offsets(sizes: np.ndarray) -> pa.Array:
    offsets = np.zeros(len(sizes) + 1, np.int32)
    np.cumsum(sizes, out=offsets[1:])
    return _numbers(offsets)


def _numbers(values: np.ndarray) -> pa.Array:
    """View a numpy array as an Arrow array. (pa.array would import pandas, 0.3 s, to check for a Series.)"""
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def _texts(texts: list[str]) -> pa.Array:
    raw = [text.encode() for text in texts]
    data = b"".join(raw)
    return pa.Array.from_buffers(
        pa.string(),
        len(raw),
        [None, _offsets(np.array([len(r) for r in raw], np.int64)).buffers()[1], pa.py_buffer(data)],
    )


def complete_manifest(
    buffer: SeriesBuffer,
    columns: Sequence[Column],
    time: str,
    freq: str | None,
    provenance: dict[str, Any] | None,
    shards: list[dict[str, Any]],
    *,
    source: str,
    **fields: Any,
) -> Manifest:
    """Return the manifest of all series added to a buffer. Raises DataError naming source if a field is invalid."""
    return make_manifest(
        {
            **fields,
            "columns": [column.model_dump() for column in columns],
            "time": time,
            "freq": freq,
            "num_series": buffer.total_series,
            "num_rows": buffer.total_rows,
            "first_time": _iso(buffer.first_time),
            "last_time": _iso(buffer.last_time),
            "provenance": {"kind": "real", "sources": [], "command": None, **(provenance or {})},
            "shards": shards,
            "content_hash": with_cuts(buffer.hash.hexdigest(), fields.get("cuts")),
            "foretrain_version": __version__,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
        source=source,
    )


def _iso(micros: int | None) -> str | None:
    return None if micros is None else str(np.datetime64(micros, "us"))


class CorpusWriter:
    """Writes a corpus folder; use it as a context manager. `out` appears only after everything was written.

    replaces: the manifest of a corpus in `out`, which is exchanged at the end if it still has this manifest, and stays
    as `.NAME.old` until the next exchange, since readers may have mapped its files. locked: the caller is in
    `exclusive(out)`, and out is the folder that it yielded; otherwise the writer enters it.

    Raises DataError if `out` exists and is not replaced, if another process writes it, if a series is malformed, or if
    there are no series.
    """

    def __init__(
        self,
        out: str | Path,
        columns: Sequence[Column | str],
        *,
        time: str,
        freq: str | None = None,
        timezone: str | None = None,
        provenance: dict[str, Any] | None = None,
        replaces: Manifest | None = None,
        locked: bool = False,
        batch_bytes: int = BATCH_BYTES,
        shard_bytes: int = SHARD_BYTES,
        **fields: Any,
    ) -> None:
        self.out = Path(out)
        self.columns = tuple(Column(name=c) if isinstance(c, str) else c for c in columns)
        self.manifest: Manifest | None = None
        unknown = sorted(set(fields) - set(Manifest.model_fields))
        if unknown:
            raise DataError(f"{self.out}: the manifest has no field {unknown[0]!r}.")
        self._time, self._freq, self._provenance = time, freq, provenance
        self._fields = {**fields, "timezone": timezone}
        self._replaces, self._locked = replaces, locked
        self._stack = contextlib.ExitStack()
        self._batch_bytes, self._shard_bytes = batch_bytes, shard_bytes
        self._buffer = SeriesBuffer(self.columns, time, freq)
        self._shards: list[dict[str, Any]] = []
        self._texts: dict[str, str] = {}
        self._writer: pa.RecordBatchStreamWriter | None = None
        if self.out.exists() and replaces is None:
            raise DataError(f"{self.out}: exists already, and a corpus is never overwritten. Choose another folder.")

    def append(self, item_id: str, values: np.ndarray, *, times: np.ndarray | None = None) -> None:
        """Add one series: values (V, T), times (T,) int64 microseconds or datetime64.

        For time="steps" they are step numbers, `step` apart, of which the last is kept; None counts from 0.
        """
        step = self._fields.get("step", 1)
        series = prepare_series(item_id, values, times, len(self.columns), self._time, self._freq, step)
        incoming = series[1].nbytes + (series[2].nbytes if series[2] is not None else 0)
        if len(self._buffer) and self._buffer.bytes + incoming > self._batch_bytes:
            self._flush()
        self._buffer.add(series[0], _owned(series[1], values), _owned(series[2], times))

    def extra_file(self, name: str, text: str) -> None:
        """Add a text file beside the shards."""
        if Path(name).name != name or name in (MANIFEST_NAME, cuts_file, "state.json", "dataset_info.json"):
            raise DataError(f"{self.out}: {name!r} cannot be the name of an extra file.")
        self._texts[name] = text

    def cut_at(self, cuts: Mapping[str, OwnCuts]) -> None:
        """Record where the parts of each series begin."""
        self._texts[cuts_file] = cuts_text(cuts)
        self._fields["cuts"] = hashlib.sha256(self._texts[cuts_file].encode()).hexdigest()

    def follow(self, earlier: Sequence[Earlier]) -> None:
        """Record the contents that the corpus had before updates."""
        self._fields["earlier"] = earlier

    def __enter__(self) -> CorpusWriter:
        with self._disk_errors():
            if not self._locked:
                self.out = self._stack.enter_context(exclusive(self.out))
            self._folder = scratch(self.out, "writing")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with self._disk_errors():
                    self._finish()
        finally:
            if self._writer is not None:
                with contextlib.suppress(OSError):  # the disk may be full; the file is deleted anyway
                    self._writer.close()
                with contextlib.suppress(OSError):
                    self._sink.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._stack.close()

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Raise an OSError of the disk as a DataError."""
        try:
            yield
        except OSError as problem:
            reason = problem.strerror or " ".join(str(problem).split())
            raise DataError(f"{self.out}: cannot be written: {reason}. Nothing was created.") from None

    def _flush(self) -> None:
        """Write the pending series as one record batch, opening and closing shards by size."""
        with self._disk_errors():
            self._write(self._buffer.flush())

    def _write(self, batch: pa.RecordBatch) -> None:
        if self._writer is None:
            name = f"part-{len(self._shards):05d}.arrow"
            self._sink = pa.OSFile(str(self._folder / name), "wb")
            self._writer = pa.ipc.new_stream(self._sink, batch.schema)
            self._shards.append({"file": name, "series": 0, "rows": 0, "values": 0})
        shard = self._shards[-1]
        self._writer.write_batch(batch)
        values = len(batch.column("target").values.values)
        shard["series"] += batch.num_rows
        shard["values"] += values
        shard["rows"] += values // len(self.columns)
        if self._sink.tell() >= self._shard_bytes:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._sink.close()
        self._writer = None

    def _finish(self) -> None:
        if len(self._buffer):
            self._flush()
        self._close_shard()
        if not self._shards:
            raise DataError(f"{self.out}: no series to write. Nothing was created.")
        for k, shard in enumerate(self._shards):
            final = _SHARD.format(k, len(self._shards))
            path = (self._folder / shard["file"]).rename(self._folder / final)
            with path.open("rb") as file:
                shard.update(
                    file=final, bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest()
                )
        self.manifest = complete_manifest(
            self._buffer,
            self.columns,
            self._time,
            self._freq,
            self._provenance,
            self._shards,
            source=str(self.out),
            **self._fields,
        )
        for name, text in {**self._texts, **_datasets_files(self.manifest)}.items():
            (self._folder / name).write_text(text, encoding="utf-8")
        (self._folder / MANIFEST_NAME).write_text(self.manifest.to_json(), encoding="utf-8")
        self._publish()

    def _publish(self) -> None:
        """Sync every file to disk, then rename the folder to its final name."""
        sync_tree(self._folder)
        if self._replaces is not None:
            if read_manifest(self.out / MANIFEST_NAME) != self._replaces:
                raise DataError(f"{self.out}: was changed while it was being updated. Repeat the command.")
            replace_folder(self._folder, self.out, keep=kept_folder(self.out))
            try:
                sync(self.out.parent)
            except OSError as problem:
                raise DataError(
                    f"{self.out}: is updated, but the disk does not confirm that it is stored "
                    f"({problem.strerror or problem}). After a power cut, check it with `foretrain data verify`."
                ) from None
        elif self.out.exists():
            raise DataError(f"{self.out}: appeared while it was being written. Choose another folder.")
        else:
            self._folder.rename(self.out)
            sync_new(self.out)


def _owned(array: Any, given: Any) -> Any:
    """Copy the array if the caller could still change its memory, since pending series outlive the call."""
    return array.copy() if array is not None and np.may_share_memory(array, given) else array


def _datasets_files(manifest: Manifest) -> dict[str, str]:
    """Return the files that datasets.load_from_disk needs; all its versions can read features from the Arrow schema."""
    state = {
        "_data_files": [{"filename": shard["file"]} for shard in manifest.shards],
        "_fingerprint": manifest.content_hash[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    info = {"citation": "", "description": "foretrain corpus; see manifest.json", "homepage": "", "license": ""}
    return {"state.json": json.dumps(state, indent=2), "dataset_info.json": json.dumps(info, indent=2)}
