"""Covariates of a task's items, from the same data as its series.

Static ones, one value an item, are for functions of the user: no family has an input for them. Of the others, text and
truth values are categories. A window has them as numbers that its own history gives, as forecasts of frames do: the
mean of the first target in each category, shrunk, or in tasks of several targets the category's number.

# T steps of an item, C steps of history, H horizon
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.data.encoding import encode_codes
from foretrain.errors import DataError
from foretrain.evaluation.scored import Array
from foretrain.reading import believing
from foretrain.suites.definition import TaskDefinition
from foretrain.suites.raw_files import BenchmarkSeries
from foretrain.suites.rows import CovariateRows, StaticValue

_ONE_WINDOW = np.zeros(1, np.int64)  # without padding


@dataclass(frozen=True)
class TaskCovariates:
    """Covariates of all items of a task. Raises DataError if an item has another number of steps there."""

    past: tuple[str, ...]  # known up to the cutoff
    known: tuple[str, ...]  # known over the horizon too
    absent: tuple[str, ...]  # that the task names and the data lack
    values: list[dict[str, Array]]  # by item and name, (T,); of categories their numbers
    categories: dict[str, int]  # how many a name has; numbers have none
    by_number: bool  # categories are given by their numbers, not by means of the target
    static: tuple[str, ...] = ()
    static_absent: tuple[str, ...] = ()
    of_items: Sequence[dict[str, StaticValue]] = ()  # static ones by item and name

    def of(self, item: int, start: int, cutoff: int, end: int, target: Array) -> CovariateRows:
        """Return the covariates of a window (rows.CovariateSource)."""
        given = self.values[item] if self.values else {}

        def cut(name: str, last: int) -> Array:
            found, count = given[name][start:last], self.categories.get(name)
            if count is None:
                return found
            means = None if self.by_number else target[None].astype(np.float32)
            codes = encode_codes(found[None].astype(np.float32), _ONE_WINDOW, count, means, cutoff - start)
            return codes[0].astype(np.float64)

        return CovariateRows(
            past={name: cut(name, cutoff) for name in self.past},
            known={name: cut(name, end) for name in self.known},
            static={name: self.of_items[item][name] for name in self.static},
        )


def covariates_of(
    rule: TaskDefinition,
    series: Sequence[BenchmarkSeries],
    values: list[dict[str, Array]],
    categories: dict[str, int],
    static: Sequence[dict[str, StaticValue]] = (),
) -> TaskCovariates | None:
    """Return the covariates of a task; None if it names none. values, static: those that the data have, by item."""
    named = (*rule.past_covariates, *rule.known_covariates)
    if not named and not rule.static_covariates:
        return None
    if static and len(static) != len(series):
        raise DataError(f"{rule.dataset}: {len(series):,} series, and static covariates of {len(static):,} items.")
    fixed = tuple(name for name in rule.static_covariates if static and all(name in item for item in static))
    there = {name for name in named if values and all(name in item for item in values)}
    for one, item in zip(series, values, strict=True) if there else ():
        for name in there:
            if len(item[name]) != one.values.shape[1]:
                raise DataError(f"item {one.item_id!r}: {name!r} has {len(item[name])} steps. Fetch its file anew.")
    return TaskCovariates(
        past=tuple(name for name in rule.past_covariates if name in there),
        known=tuple(name for name in rule.known_covariates if name in there),
        absent=tuple(name for name in named if name not in there),
        values=values,
        categories={name: count for name, count in categories.items() if name in there},
        by_number=len(rule.targets or ()) > 1,
        static=fixed,
        static_absent=tuple(name for name in rule.static_covariates if name not in fixed),
        of_items=static,
    )


def corpus_covariates(folder: Path, names: Sequence[str]) -> tuple[list[dict[str, Array]], dict[str, int]]:
    """Return the columns of a corpus that have these names, by item, and the number of categories of some."""
    from foretrain.data.store import Corpus

    corpus = Corpus.open(folder)
    columns = {column.name: row for row, column in enumerate(corpus.manifest.columns) if column.name in names}
    categories = {c.name: len(c.categories) for c in corpus.manifest.columns if c.name in names and c.categories}
    items = [np.array(corpus.values(item), np.float64) for item in range(corpus.num_series)]
    return [{name: values[row] for name, row in columns.items()} for values in items], categories


def parquet_covariates(folder: Path, names: Sequence[str]) -> tuple[list[dict[str, Array]], dict[str, int]]:
    """Return the columns of lists of a suite's own files that have these names, as corpus_covariates does.

    Items are in the order of raw_files.read_hub_parquet. Raises DataError for files that cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[tuple[str, dict[str, Any]]] = []
    for path in sorted(folder.rglob("*.parquet")):
        with believing(path, DataError, "Fetch it anew."):
            schema = pq.read_schema(path)
            there = [field.name for field in schema if field.name in names and pa.types.is_nested(field.type)]
            table = pq.read_table(path, columns=["id", *there])
            for row in range(table.num_rows):
                found = {name: table.column(name)[row].values for name in there}
                rows.append((str(table.column("id")[row].as_py()), found))
    rows.sort(key=lambda row: row[0])
    items: list[dict[str, Array]] = [{} for _ in rows]
    categories: dict[str, int] = {}
    for name in {name for _, found in rows for name in found}:
        columns = [found[name] for _, found in rows if name in found]
        if len(columns) < len(rows):
            continue
        if all(pa.types.is_floating(column.type) or pa.types.is_integer(column.type) for column in columns):
            numbers = [np.asarray(column.to_numpy(zero_copy_only=False), np.float64) for column in columns]
        else:
            numbers, categories[name] = _numbered([column.to_pylist() for column in columns])
        for item, values in zip(items, numbers, strict=True):
            item[name] = values
    return items, categories


def corpus_static(folder: Path, names: Sequence[str]) -> list[dict[str, StaticValue]]:
    """Return the columns of a corpus that have these names and hold one value in each item, by item.

    None for an item without a value.
    """
    from foretrain.data.store import Corpus

    corpus = Corpus.open(folder)
    columns = {column.name: (row, column) for row, column in enumerate(corpus.manifest.columns) if column.name in names}
    items: list[dict[str, StaticValue]] = [{} for _ in range(corpus.num_series)]
    for name, (row, column) in columns.items():
        found: list[StaticValue] = []
        for item in range(corpus.num_series):
            held = np.asarray(corpus.values(item)[row], np.float64)
            held = held[np.isfinite(held)]
            if len(held) and (held != held[0]).any():
                break  # it changes over time
            code = float(held[0]) if len(held) else None
            found.append(code if code is None or column.categories is None else column.categories[int(code)])
        if len(found) == len(items):
            for own, value in zip(items, found, strict=True):
                own[name] = value
    return items


def parquet_static(folder: Path, names: Sequence[str]) -> list[dict[str, StaticValue]]:
    """Return the columns of a suite's own files that have these names and one value an item, by item.

    Items are in the order of raw_files.read_hub_parquet. None for an item without a value, and for NaN. Raises
    DataError for files that cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[tuple[str, dict[str, StaticValue]]] = []
    for path in sorted(folder.rglob("*.parquet")):
        with believing(path, DataError, "Fetch it anew."):
            schema = pq.read_schema(path)
            there = [field.name for field in schema if field.name in names and not pa.types.is_nested(field.type)]
            table = pq.read_table(path, columns=list(dict.fromkeys(["id", *there])))
            columns = {name: table.column(name).to_pylist() for name in there}
            for row, name in enumerate(table.column("id").to_pylist()):
                rows.append((str(name), {key: _static(values[row]) for key, values in columns.items()}))
    rows.sort(key=lambda row: row[0])
    return [found for _, found in rows]


def _static(value: Any) -> StaticValue:
    """Return a cell as a number, a truth value or text; None if it is missing."""
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return None
    return value if isinstance(value, bool | int | float | str) else str(value)


def _numbered(columns: Sequence[list[Any]]) -> tuple[list[Array], int]:
    """Return the places of values among all of them, sorted by their text; NaN for a missing one."""
    texts = sorted({str(value) for column in columns for value in column if value is not None})
    place = {text: float(k) for k, text in enumerate(texts)}
    return [
        np.array([np.nan if value is None else place[str(value)] for value in column], np.float64) for column in columns
    ], len(texts)
