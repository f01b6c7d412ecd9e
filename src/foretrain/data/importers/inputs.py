"""Find the files of an import and read each into parts: text, Parquet, Feather, numpy, datasets folders."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet

from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.tables import Part, table_parts
from foretrain.data.importers.text import read_text
from foretrain.errors import DataError
from foretrain.notes import Code, Note
from foretrain.timeaxis.frequency import DAY

_TABLES = (".csv", ".txt", ".tsv", ".csv.gz", ".txt.gz", ".tsv.gz", ".parquet", ".pq", ".feather")
_ARRAYS = (".npy", ".npz")
_IGNORED = {"data_summary.csv", "manifest.csv", "readme.txt", "readme.csv", "requirements.txt", "license.txt"}
_FOLDER_MARKS = ("manifest.json", "state.json", "dataset_dict.json")
_KNOWN = "CSV/TXT/TSV (plain or .gz), Parquet, Feather, .npy, .npz, or a datasets folder"


@dataclass(frozen=True)
class Input:
    """A file or datasets folder to read. name: its name in reports."""

    path: Path
    kind: str  # table, array or hf
    name: str


@dataclass
class SourceInput:
    """Record of an input that was read."""

    name: str
    sha256: str = ""
    rows: int = 0
    truncated: int | None = None
    notes: list[Note] = field(default_factory=list)


def find_inputs(paths: Sequence[Path], options: ImportOptions) -> list[Input]:
    """Return all inputs under the given paths, in a stable order. DataError if there are none, or of several kinds."""
    if not paths:
        raise DataError("nothing to import: give files or folders.")
    found: list[Input] = []
    for path in paths:
        found += _inside(path) if path.is_dir() else [_file(path)]
    required = {"table": "table", "panel": "table", "array": "array", "hf": "hf"}.get(options.format or "")
    if required:
        found = [entry for entry in found if entry.kind == required]
    kinds = Counter(entry.kind for entry in found)
    if len(kinds) > 1:
        seen = ", ".join(f"{count} {kind} input(s)" for kind, count in kinds.items())
        raise DataError(
            f"{paths[0]}: found {seen}; one import takes one kind. Choose with --format {' or '.join(kinds)}."
        )
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no file to import. Known: {_KNOWN}.")
    return found


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return next((s for s in (*_TABLES, *_ARRAYS) if name.endswith(s)), "")


def _file(path: Path) -> Input:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder.")
    suffix = _suffix(path)
    if not suffix:
        raise DataError(f"{path}: not a kind of file that can be imported. Known: {_KNOWN}.")
    return Input(path, "array" if suffix in _ARRAYS else "table", path.name)


def _inside(folder: Path) -> list[Input]:
    if any((folder / mark).is_file() for mark in _FOLDER_MARKS):
        return [Input(folder, "hf", folder.name)]
    inputs = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts) or not path.is_file():
            continue
        suffix = _suffix(path)
        if suffix and path.name.lower() not in _IGNORED:
            inputs.append(Input(path, "array" if suffix in _ARRAYS else "table", relative.as_posix()))
    return inputs


def read_input(entry: Input, options: ImportOptions, source: SourceInput) -> Iterator[Part]:
    """Yield the parts of an input and fill in its record `source`. Raises DataError naming the file."""
    if entry.kind == "hf":
        yield from _corpus_parts(entry.path, source)
        return
    try:
        raw = entry.path.read_bytes()
    except OSError as error:
        raise DataError(f"{entry.path}: cannot be read: {error.strerror or error}.") from None
    source.sha256 = hashlib.sha256(raw).hexdigest()
    parts = (
        _array_parts(entry.path, options) if entry.kind == "array" else _file_parts(entry.path, raw, options, source)
    )
    for part in parts:
        source.rows += part.values.shape[1]
        yield part


def _file_parts(path: Path, raw: bytes, options: ImportOptions, source: SourceInput) -> Iterator[Part]:
    if _suffix(path) in (".parquet", ".pq", ".feather"):
        reader = pyarrow.feather.read_table if _suffix(path) == ".feather" else pyarrow.parquet.read_table
        try:
            table = reader(pa.BufferReader(raw))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: damaged or not of its kind: {' '.join(str(error).split())[:150]}.") from None
        if not table.num_rows:
            raise DataError(f"{path}: no rows.")
        return table_parts(path, table, options, source.notes)
    text = read_text(path, raw, options)
    source.truncated = text.truncated
    source.notes += text.notes
    return table_parts(path, text.table, options, source.notes, first_line=text.first_line)


def _array_parts(path: Path, options: ImportOptions) -> Iterator[Part]:
    """Yield the items of a (T,), (N, T) or (N, V, T) array, or of an archive of arrays (T,) or (V, T), one an item."""
    stem = options.item_id(path)
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {name: loaded[name] for name in loaded.files} if path.suffix == ".npz" else {stem: loaded}
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path}: not an array of numbers that can be loaded without pickle ({error}).") from None
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise DataError(f"{path}: array {name!r} holds {array.dtype}, not numbers.")
        if path.suffix == ".npz":
            array = array[None] if array.ndim == 1 else array
            if array.ndim != 2:
                raise DataError(f"{path}: array {name!r} has {array.ndim} dimensions; an item is (T,) or (V, T).")
            items = {name: array}
        elif array.ndim in (1, 2, 3):
            stack = array[None, None] if array.ndim == 1 else array[:, None] if array.ndim == 2 else array
            items = {stem if len(stack) == 1 else f"{stem}_{k}": values for k, values in enumerate(stack)}
        else:
            raise DataError(f"{path}: {array.ndim} dimensions; (T,), (N, T) or (N, V, T) are known.")
        for item_id, values in items.items():
            yield _array_part(path, item_id, values, options)


def _array_part(path: Path, item_id: str, values: np.ndarray, options: ImportOptions) -> Part:
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(values, np.float32)
    default = ("target",) if len(values) == 1 else tuple(f"value_{v}" for v in range(len(values)))
    names = options.names or options.columns or default
    if len(names) != len(values):
        raise DataError(
            f"{path}: item {item_id!r} has {len(values)} rows of values, but {len(names)} columns are named."
        )
    lines = np.zeros(values.shape[1], np.int64)
    return Part(item_id, tuple(names), values, None, lines, "none")


def corpus_clock(timezone: str | None, times: np.ndarray | None) -> str:
    """Return the clock of stored times, as in Part.clock."""
    if times is None:
        return "none"
    if timezone is not None:
        return "utc"
    return "naive" if (times % DAY).any() else "dates"


def _corpus_parts(path: Path, source: SourceInput) -> Iterator[Part]:
    from foretrain.data.store import Corpus

    corpus = Corpus.open(path)
    source.sha256 = corpus.fingerprint
    text = f"{path.name}: datasets folder, columns {', '.join(corpus.columns)}"
    source.notes.append(Note(Code.DATASETS_FOLDER, text, {"columns": len(corpus.columns)}))
    yield from corpus_parts(corpus)
    source.rows = corpus.num_rows


def corpus_parts(corpus: object) -> Iterator[Part]:
    """Yield every series of an open corpus as a part."""
    from foretrain.data.store import Corpus

    assert isinstance(corpus, Corpus)
    manifest = corpus.manifest
    texts = {column.name: column.categories for column in manifest.columns if column.categories is not None}
    for k in range(corpus.num_series):
        values, times = np.array(corpus.values(k)), corpus.times(k)
        lines = np.zeros(values.shape[1], np.int64)
        clock = corpus_clock(manifest.timezone, times)
        market = bool(manifest.price_columns)
        yield Part(corpus.item_id(k), corpus.columns, values, times, lines, clock, (), texts or None, market=market)
