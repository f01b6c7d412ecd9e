"""Temporary files between reading and writing: an item may have several parts, and the axis depends on all items.

Parts are stored, an item's rows are read once to be cleaned, and the cleaned rows are stored until the axis of all
items is chosen. Memory use is one file plus a small record a part. The spool is a folder beside the corpus that is
deleted when the import ends.

# V columns of the corpus, T rows
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from foretrain.data.exclusive import scratch
from foretrain.data.findings import ItemFindings
from foretrain.data.importers.categories import Categories
from foretrain.data.importers.tables import Part
from foretrain.data.quality import ItemRows
from foretrain.data.windows import IntArray

OLD = -1  # source number of rows that come from the corpus being updated


@dataclass(frozen=True)
class _StoredPart:
    source: int
    columns: tuple[int, ...]  # indices into Spool.columns
    at_values: int  # float32 items before it
    at_rows: int  # rows before it
    rows: int
    timed: bool
    clock: str = ""
    offsets: tuple[int, ...] = ()


@dataclass(frozen=True)
class _StoredItem:
    at_values: int  # float32 items before it
    at_rows: int  # rows before it
    at_findings: int  # bytes before it
    findings: int  # bytes
    timed: bool
    rows: int
    columns: int
    read: int  # rows before cleaning
    file: str
    calendar: bool


class Spool:
    """Rows of all items, stored part by part; a context manager that deletes its files."""

    def __init__(self, out: Path) -> None:
        """out: the corpus folder; the caller is in `exclusive(out)`."""
        self.folder = scratch(out, "import")
        self._files: dict[str, IO[bytes]] = {}
        self._maps: dict[str, np.ndarray] = {}
        self._values = self._rows = 0
        self._cleaned_values = self._cleaned_rows = self._findings = 0
        self.parts: dict[str, list[_StoredPart]] = {}
        self.columns: list[str] = []
        self.categories = Categories()
        self.covariates: dict[str, str] = {}  # column -> past or known
        self.clocks: dict[str, set[str]] = {}  # item -> clocks of its parts
        self.offsets: dict[str, tuple[int, ...]] = {}
        self._cleaned: dict[str, _StoredItem] = {}

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):  # a full disk was reported when it refused a write
                file.close()
        self._maps.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, part: Part, source: int, file: str) -> None:
        """Store a part. Raises DataError if a column has text here and numbers in another file."""
        self.categories.keep(part.explicit)
        self.covariates |= dict.fromkeys(part.past, "past") | dict.fromkeys(part.known, "known")
        texts = part.texts or {}
        columns = {name: () if name in part.empty else texts.get(name) for name in part.columns}
        values = self.categories.recode(part.values, columns, file)
        index = tuple(self._column(name) for name in part.columns)
        rows = values.shape[1]
        self._write("values", np.ascontiguousarray(values, np.float32))
        self._write("lines", part.lines)
        if part.times is not None:
            self._write("times", part.times)
        else:
            self._write("times", np.zeros(rows, np.int64))
        stored = _StoredPart(source, index, self._values, self._rows, rows, part.times is not None,
                             part.clock, part.offsets)  # fmt: skip
        self.parts.setdefault(part.item_id, []).append(stored)
        self._values += values.size
        self._rows += rows
        if part.clock:
            self.clocks.setdefault(part.item_id, set()).add(part.clock)
        if part.offsets:
            self.offsets[part.item_id] = tuple(sorted({*self.offsets.get(part.item_id, ()), *part.offsets}))

    def _column(self, name: str) -> int:
        if name not in self.columns:
            self.columns.append(name)
        return self.columns.index(name)

    def _write(self, name: str, array: np.ndarray) -> None:
        if name not in self._files:
            self._files[name] = (self.folder / name).open("wb")
        self._files[name].write(array.tobytes())  # unlike tofile, raises the reason of a disk error

    def _map(self, name: str, kind: str) -> np.ndarray:
        if name not in self._maps:
            self._files[name].flush()
            path = self.folder / name
            self._maps[name] = np.memmap(path, kind, "r") if path.stat().st_size else np.empty(0, kind)
        return self._maps[name]

    def dates_to_instants(self, item_id: str, convert: Callable[[IntArray, tuple[int, ...]], IntArray]) -> None:
        """Replace the times (T,) of an item's parts that hold dates; convert takes them and their offsets."""
        self._files["times"].flush()
        times = np.memmap(self.folder / "times", "<i8", "r+")
        for part in self.parts[item_id]:
            if part.clock == "dates" and part.timed and part.source != OLD:
                rows = slice(part.at_rows, part.at_rows + part.rows)
                times[rows] = convert(np.array(times[rows]), part.offsets)
        times.flush()

    def missing_columns(self, item_id: str) -> list[str]:
        """Return the columns of the corpus that none of the item's parts has."""
        held = {index for part in self.parts[item_id] for index in part.columns}
        return [name for index, name in enumerate(self.columns) if index not in held]

    def new_rows(self, item_id: str) -> int:
        """Return the number of the item's rows in the files, without those of the corpus being updated."""
        return sum(part.rows for part in self.parts[item_id] if part.source != OLD)

    def rows(
        self, item_id: str, order: Sequence[int], files: Sequence[str], *, calendar: bool, old: bool
    ) -> ItemRows | None:
        """Return the item's rows in columns `order`, from the old corpus (old) or from the files; None without any."""
        parts = [part for part in self.parts[item_id] if (part.source == OLD) is old]
        if not parts:
            return None
        values, times, lines = self._map("values", "<f4"), self._map("times", "<i8"), self._map("lines", "<i8")
        count = sum(part.rows for part in parts)
        result = np.full((len(order), count), np.nan, np.float32)
        position = {column: row for row, column in enumerate(order)}
        at = 0
        for part in parts:
            block = values[part.at_values : part.at_values + len(part.columns) * part.rows]
            for column, row in zip(part.columns, block.reshape(-1, part.rows), strict=True):
                if column in position:
                    result[position[column], at : at + part.rows] = row
            at += part.rows
        timed = all(part.timed for part in parts)
        stamps = np.concatenate([times[p.at_rows : p.at_rows + p.rows] for p in parts]) if timed else None
        numbers = np.concatenate([lines[p.at_rows : p.at_rows + p.rows] for p in parts])
        names = {part.source for part in parts}
        file = files[names.pop()] if len(names) == 1 and not old else ""
        return ItemRows(item_id, result, stamps, numbers, file, calendar)

    def drop_read(self) -> None:
        """Remove the rows as they were read, from memory and disk, once the cleaned rows of every item are stored."""
        for name in ("values", "lines", "times"):
            self._maps.pop(name, None)
            if name in self._files:
                self._files.pop(name).close()
                (self.folder / name).unlink()

    def keep(self, rows: ItemRows, findings: ItemFindings, read: int) -> None:
        """Store an item's cleaned rows, their findings, and the number of rows before cleaning."""
        text = findings.dumps().encode()
        cleaned = _StoredItem(
            at_values=self._cleaned_values,
            at_rows=self._cleaned_rows,
            at_findings=self._findings,
            findings=len(text),
            timed=rows.times is not None,
            rows=len(rows),
            columns=len(rows.values),
            read=read,
            file=rows.file,
            calendar=rows.calendar,
        )
        times = np.zeros(len(rows), np.int64) if rows.times is None else rows.times
        self._write("cleaned-values", np.ascontiguousarray(rows.values, np.float32))
        self._write("cleaned-times", np.ascontiguousarray(times, np.int64))
        self._write("cleaned-lines", np.ascontiguousarray(rows.lines, np.int64))
        self._write("findings", np.frombuffer(text, np.uint8))
        self._cleaned[rows.item_id] = cleaned
        self._cleaned_values += rows.values.size
        self._cleaned_rows += len(rows)
        self._findings += len(text)

    def times(self, item_id: str) -> IntArray:
        """Return the stamps or step numbers (T,) of an item's cleaned rows, empty if it has none."""
        entry = self._cleaned[item_id]
        if not entry.timed:
            return np.zeros(0, np.int64)
        return np.asarray(self._map("cleaned-times", "<i8")[entry.at_rows : entry.at_rows + entry.rows])

    def cleaned(self, item_id: str) -> tuple[ItemRows, ItemFindings, int]:
        """Return what keep stored for an item: rows, findings, and the number of rows before cleaning."""
        entry = self._cleaned[item_id]
        size = entry.rows * entry.columns
        values = self._map("cleaned-values", "<f4")[entry.at_values : entry.at_values + size]
        lines = self._map("cleaned-lines", "<i8")[entry.at_rows : entry.at_rows + entry.rows]
        text = self._map("findings", "u1")[entry.at_findings : entry.at_findings + entry.findings].tobytes()
        rows = ItemRows(
            item_id,
            np.array(values).reshape(entry.columns, entry.rows),
            self.times(item_id) if entry.timed else None,
            np.asarray(lines),
            entry.file,
            entry.calendar,
        )
        return rows, ItemFindings.loads(text.decode()), entry.read
