"""Parts of inputs that are not tables: numpy files and datasets folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from foretrain.data.importers.numpy_files import read_arrays
from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.tables import Part
from foretrain.data.store import Corpus
from foretrain.errors import DataError
from foretrain.timeaxis.frequency import DAY


def array_parts(path: Path, options: ImportOptions) -> Iterator[Part]:
    """Yield the items of a (T,), (N, T) or (N, V, T) array, or of an archive of arrays (T,) or (V, T), one an item."""
    stem = options.item_id(path)
    arrays, is_archive = read_arrays(path)
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise DataError(f"{path}: array {name!r} holds {array.dtype}, not numbers.")
        if is_archive:
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


def corpus_parts(corpus: Corpus) -> Iterator[Part]:
    """Yield every series of an open corpus as a part. Raises DataError if a shard changes meanwhile."""
    manifest = corpus.manifest
    texts = {column.name: column.categories for column in manifest.columns if column.categories is not None}
    for k in range(corpus.num_series):
        values, times, first = np.array(corpus.values(k)), corpus.times(k), corpus.first_step(k)
        lines = np.zeros(values.shape[1], np.int64)
        clock = corpus_clock(manifest.timezone, times)
        if first is not None:
            times, clock = first + manifest.step * np.arange(values.shape[1]), "steps"
        market = bool(manifest.price_columns)
        yield Part(
            corpus.item_id(k),
            corpus.columns,
            values,
            times,
            lines,
            clock,
            texts=texts or None,
            market=market,
            past=manifest.past_covariates,
            known=manifest.known_covariates,
        )
    corpus.check_unchanged()
