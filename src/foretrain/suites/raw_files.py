"""Raw public files, hub folders and corpora as series of a benchmark.

A file NAME of a raw source is found below the data root as NAME, NAME.gz, or in the source's .zip file.
"""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foretrain.data.importers.monash import read_monash
from foretrain.errors import DataError
from foretrain.evaluation.scored import Array
from foretrain.reading import Unreadable, believing, unpacking
from foretrain.suites.definition import RawSource, RawUse
from foretrain.suites.rda import RValue, read_rda
from foretrain.timeaxis import grid
from foretrain.timeaxis.frequency import Frequency

LARGEST = 1 << 30  # bytes of a file after decompression
Stamps = npt.NDArray[np.datetime64]


@dataclass(frozen=True)
class BenchmarkSeries:
    """One item: its variates over time."""

    item_id: str
    variates: tuple[str, ...]  # (V,)
    values: Array  # (V, T) NaN = not observed
    stamps: Stamps | None  # (T,) datetime64[us], None = steps without a calendar

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or len(self.values) != len(self.variates):
            raise DataError(f"item {self.item_id!r}: {len(self.variates)} variates, values of {self.values.shape}.")

    def select(self, targets: tuple[str, ...]) -> BenchmarkSeries:
        """Return the item with some of its variates. Raises DataError if one is missing."""
        missing = [name for name in targets if name not in self.variates]
        if missing:
            raise DataError(f"item {self.item_id!r} has no column {missing[0]!r}; it has {', '.join(self.variates)}.")
        rows = [self.variates.index(name) for name in targets]
        return BenchmarkSeries(self.item_id, targets, self.values[rows], self.stamps)

    def split(self) -> list[BenchmarkSeries]:
        """Return every variate as an item of its own; a single target keeps the item's id."""
        if self.variates == ("target",):
            return [self]
        return [
            BenchmarkSeries(f"{self.item_id}_{name}", ("target",), self.values[row : row + 1], self.stamps)
            for row, name in enumerate(self.variates)
        ]


def missing_files(root: Path, source: RawSource) -> list[str]:
    """Return the files of a raw source that are not below the data root."""
    return [name for name in source.files if not _exists(root, source, name)]


def read_raw(root: Path, source: RawSource, use: RawUse) -> list[BenchmarkSeries]:
    """Return the series of a raw source. Raises DataError for files that are missing, damaged or of another kind."""
    with believing(root / source.files[0], DataError, f"Fetch it anew from {source.origin}."):
        found = _read(root, source, use.period)
    if not found:
        raise DataError(f"{source.files[0]}: holds no series{f' of period {use.period}' if use.period else ''}.")
    if use.split:
        found = [part for series in found for part in series.split()]
    return [series for series in found if np.isfinite(series.values).all()] if use.complete else found


def _read(root: Path, source: RawSource, period: str | None) -> list[BenchmarkSeries]:
    if source.reader in ("competition", "matrix"):
        name = source.files[0]
        value = next(iter(read_rda(_content(root, source, name), root / name).values()))
        return _competition(value, period) if source.reader == "competition" else _matrix(value)
    if source.reader == "monash":
        return [one for name in source.files for one in _monash(root / name, _content(root, source, name))]
    frames = {name: _frame(root, source, name) for name in source.files}
    if source.reader == "m4":
        return _m4(*frames.values())
    read = _table if source.reader == "table" else _columns
    return [read(Path(name).stem, frame, source) for name, frame in frames.items()]


def read_hub_parquet(folder: Path, targets: tuple[str, ...] | None) -> list[BenchmarkSeries]:
    """Return the series of a folder of Parquet files, a row an item: id, timestamp and columns that are lists.

    targets: the columns to take; None = all lists but timestamp, each a series of its own.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: list[BenchmarkSeries] = []
    for path in sorted(folder.rglob("*.parquet")):
        try:
            lists = [field.name for field in pq.read_schema(path) if _is_list(field.type)]
            names = list(targets) if targets else [name for name in lists if name != "timestamp"]
            lacking = [name for name in ("timestamp", *(names or ["target"])) if name not in lists]
            if lacking:
                raise DataError(f"{path}: has no column {lacking[0]!r} of lists. Fetch it anew.")
            table = pq.read_table(path, columns=["id", "timestamp", *names])
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: cannot be read: {_one_line(error)}. Fetch it anew.") from None
        with believing(path, DataError, "Fetch it anew."):
            items = [_hub_row(table, row, names) for row in range(table.num_rows)]
        found += items if targets else [part for item in items for part in item.split()]
    return sorted(found, key=lambda series: series.item_id) if targets else found


def _hub_row(table: Any, row: int, names: list[str]) -> BenchmarkSeries:
    columns = [table.column(name)[row].values for name in names]
    values = np.stack([np.asarray(column.to_numpy(zero_copy_only=False), np.float64) for column in columns])
    stamps = table.column("timestamp")[row].values.to_numpy(zero_copy_only=False).astype("datetime64[us]")
    if len(stamps) != values.shape[1]:
        raise DataError(f"item {row}: {len(stamps)} stamps and {values.shape[1]} values. Fetch its file anew.")
    return BenchmarkSeries(str(table.column("id")[row].as_py()), tuple(names), values, stamps)


def read_corpus(folder: Path, targets: tuple[str, ...] | None, *, together: bool = False) -> list[BenchmarkSeries]:
    """Return the series of a corpus, or of a folder of datasets.save_to_disk; targets as in read_hub_parquet.

    together: without targets, the columns of an item stay together.
    """
    from foretrain.data.store import Corpus

    corpus = Corpus.open(folder)
    found: list[BenchmarkSeries] = []
    for item in range(corpus.num_series):
        times = corpus.times(item)
        stamps = None if times is None else np.asarray(times, np.int64).astype("datetime64[us]")
        values = np.array(corpus.values(item), np.float64)
        series = BenchmarkSeries(corpus.item_id(item), corpus.columns, values, stamps)
        found += [series.select(targets)] if targets else [series] if together else series.split()
    return found


def _is_list(kind: Any) -> bool:
    """Return whether an Arrow type is a list of numbers or stamps."""
    import pyarrow as pa

    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(test(kind) for test in kinds):
        return False
    inner = kind.value_type
    return pa.types.is_floating(inner) or pa.types.is_integer(inner) or pa.types.is_timestamp(inner)


def _exists(root: Path, source: RawSource, name: str) -> bool:
    if (root / name).is_file() or (root / f"{name}.gz").is_file():
        return True
    return source.archive is not None and (root / source.archive).is_file()


def _content(root: Path, source: RawSource, name: str) -> bytes:
    """Return the bytes of a file of a source, of at most LARGEST. Raises DataError."""
    try:
        if (root / name).is_file():
            with (root / name).open("rb") as file:
                content = file.read(LARGEST + 1)
        elif (root / f"{name}.gz").is_file():
            with gzip.open(root / f"{name}.gz") as file:
                content = file.read(LARGEST + 1)
        else:
            content = _member(root / str(source.archive), name)
    except (OSError, EOFError, zlib.error, Unreadable) as error:
        raise DataError(f"{root / name}: cannot be read: {error}. Fetch it anew from {source.origin}.") from None
    if len(content) > LARGEST:
        raise DataError(f"{root / name}: has more than {LARGEST:,} bytes.")
    return content


def _member(archive: Path, name: str) -> bytes:
    with unpacking(), zipfile.ZipFile(archive) as packed:
        for member in packed.namelist():
            if member.rpartition("/")[2] == name:
                with packed.open(member) as file:
                    return file.read(LARGEST + 1)
    raise DataError(f"{archive}: holds no file {name}.")


def _frame(root: Path, source: RawSource, name: str) -> Any:
    import pandas as pd

    content = io.BytesIO(_content(root, source, name))
    header = None if source.reader == "columns" and not source.header else 0
    try:
        frame = pd.read_csv(content, header=header, sep=source.separator, encoding="latin-1", low_memory=False)
    except (ValueError, pd.errors.ParserError) as error:
        text = f"is no table of text: {_one_line(error)}. Fetch it anew from {source.origin}."
        raise DataError(f"{root / name}: {text}") from None
    return frame.rename(columns=lambda column: source.rename.get(str(column).strip(), str(column).strip()))


def _one_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:100].rstrip(".")


def _numbers(frame: Any, source: RawSource, what: str) -> Array:
    """Return the cells of a frame as numbers, transposed: (V, T). Raises DataError."""
    try:
        values = frame.to_numpy(np.float64).T.copy()
    except (ValueError, TypeError) as error:
        raise DataError(f"{what}: holds cells that are no numbers: {_one_line(error)}. Fetch it anew.") from None
    return values if source.missing is None else np.where(values == source.missing, np.nan, values)


def _table(name: str, frame: Any, source: RawSource) -> BenchmarkSeries:
    """Return a table with stamps in its first columns as one item."""
    import pandas as pd

    first = source.stamp_columns
    try:
        texts = frame.iloc[:, 0].astype(str)
        for column in range(1, first):
            texts = texts + " " + frame.iloc[:, column].astype(str)
        stamps = pd.to_datetime(texts, format=source.stamp_format).to_numpy().astype("datetime64[us]")
    except (ValueError, TypeError) as error:
        raise DataError(f"{name}: the first column holds no time stamps: {_one_line(error)}") from None
    return BenchmarkSeries(name, tuple(frame.columns[first:]), _numbers(frame.iloc[:, first:], source, name), stamps)


def _columns(name: str, frame: Any, source: RawSource) -> BenchmarkSeries:
    """Return a table of numbers alone as one item."""
    return BenchmarkSeries(name, tuple(frame.columns), _numbers(frame, source, name), None)


def _m4(train: Any, test: Any) -> list[BenchmarkSeries]:
    """Return the series of the M4 competition: rows of an id and its values, training and test rows joined."""
    history, future = ({str(row[0]): row[1:] for row in frame.to_numpy(object)} for frame in (train, test))
    found = []
    for item, values in history.items():
        if item not in future:
            raise DataError(f"M4: {item} has training values and no test values. Fetch both files anew.")
        joined = [np.asarray(part, np.float64) for part in (values, future[item])]
        joined = np.concatenate([part[np.isfinite(part)] for part in joined])
        found.append(BenchmarkSeries(item, ("target",), joined[None], None))
    return found


def _monash(path: Path, content: bytes) -> list[BenchmarkSeries]:
    """Return the series of a file of the Monash archive; stamps where it has starts and a frequency."""
    found = read_monash(path, content, encoding="latin-1")  # which no byte of a name contradicts
    names = found.attributes[found.id_attribute] if found.id_attribute else map(str, range(len(found.counts)))
    parts = np.split(found.values, np.cumsum(found.counts)[:-1])
    freq = None if found.freq is None else Frequency.parse(found.freq, edge="S")
    series = []
    for row, (name, values) in enumerate(zip(names, parts, strict=True)):
        stamps = None
        if found.starts is not None and freq is not None:
            stamps = grid.stamps(int(found.starts[row]), freq, np.arange(len(values))).astype("datetime64[us]")
        series.append(BenchmarkSeries(name, ("target",), values[None], stamps))
    return series


def _competition(value: RValue, period: str | None) -> list[BenchmarkSeries]:
    """Return the series of a competition as R's packages Mcomp and Tcomp hold them: x, then xx."""
    found = []
    for item, series in value.named().items():
        parts = series.named()
        if period is None or list(parts["period"].values) == [period]:
            joined = np.concatenate([np.asarray(parts[name].values, np.float64) for name in ("x", "xx")])
            found.append(BenchmarkSeries(item, ("target",), joined[None], None))
    return found


def _matrix(value: RValue) -> list[BenchmarkSeries]:
    """Return the columns of an R matrix as items, each from its first to its last row."""
    if "dim" not in value.attributes:
        raise DataError("R data: no matrix where one was expected.")
    rows, columns = (int(size) for size in value.attributes["dim"].values)
    matrix = np.asarray(value.values, np.float64).reshape(columns, rows)
    return [BenchmarkSeries(str(item), ("target",), matrix[item : item + 1], None) for item in range(columns)]
