"""Tables whose cells are records of JSON, or lists with a whole series in each row, as one row a time.

# N series, T rows of the long table
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from foretrain.data.chunks import flatten, is_list, list_depth
from foretrain.data.importers.cells import BadCell
from foretrain.data.importers.columns import ID_NAMES, feature_role, id_columns, plain
from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.stamps import arrow_stamps, parse_stamps
from foretrain.data.importers.time_names import FINE_STAMPS
from foretrain.data.windows import NO_TIME, IntArray
from foretrain.errors import DataError
from foretrain.notes import Code, Note
from foretrain.reading import Unreadable, check_bounds
from foretrain.timeaxis import grid
from foretrain.timeaxis.frequency import Frequency

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see


_WAY = "A table is an array of objects, or one object a line, with a key a column."


def read_records(path: Path, text: str) -> pa.Table:
    """Read an array of JSON objects, or one object a line. Raises DataError naming the line, or what the file holds."""
    stripped = text.lstrip("\ufeff \t\r\n")
    if not stripped:
        raise DataError(f"{path}: the file is empty.")
    try:
        whole = json.loads(stripped)
    except RecursionError:
        raise DataError(f"{path}: JSON nested too deep for a table. {_WAY}") from None
    except ValueError:
        whole = _lines(path, text)
    try:
        check_bounds(whole)
    except Unreadable as error:
        raise DataError(f"{path}: JSON of no table ({error}). {_WAY}") from None
    records = whole if isinstance(whole, list) else [whole]
    if not all(isinstance(record, dict) for record in records):
        raise DataError(f"{path}: JSON, but not of objects ({stripped[:40]!r}). {_WAY}")
    if not isinstance(whole, list) and not any(isinstance(value, list) for value in whole.values()):
        keys = ", ".join(map(repr, list(whole)[:4]))
        raise DataError(f"{path}: one JSON object with the keys {keys}, not a table. {_WAY}")
    if not records:
        raise DataError(f"{path}: no rows.")
    names = list(dict.fromkeys(name for record in records for name in record))
    return pa.table({name: _cells(path, name, [record.get(name) for record in records]) for name in names})


def _lines(path: Path, text: str) -> list[Any]:
    records = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number} is not JSON ({error}). Fetch the file again.") from None
    return records


def _cells(path: Path, name: str, values: list[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if dict in kinds:
        raise DataError(f"{path}: key {name!r} holds objects in objects. Write one key a column.")
    if str in kinds and list not in kinds:
        return pa.array(
            [None if v is None else v if isinstance(v, str) else json.dumps(v) for v in values], pa.string()
        )
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        seen = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise DataError(f"{path}: key {name!r} holds values of several kinds ({seen}). Write one kind.") from None


def unfold_lists(
    path: Path, table: pa.Table, options: ImportOptions, notes: list[Note]
) -> tuple[pa.Table, IntArray | None]:
    """Return the long table of one that holds a series in each row, and the (T,) row that each came from.

    Such tables, those of chronos_datasets and GluonTS among them, have lists of values, and lists of stamps or a start
    and a freq. Other tables are returned as they are, with None. Raises DataError for lists of different lengths.
    """
    lists = [field.name for field in table.schema if is_list(field.type) and not _is_static(field.name)]
    stamped = [name for name in lists if plain(name) in FINE_STAMPS]
    if not lists or not (stamped or "target" in lists or "start" in table.column_names):
        return table, None
    table = table.combine_chunks()
    wanted = [name for name in lists if name in stamped or not options.columns or name in
              (*options.columns, *options.target)]  # fmt: skip
    key = next((name for name in ("target", *stamped) if name in lists), lists[0])
    counts = _counts(path, table, key)
    if not counts.all():
        if not counts.any():
            raise DataError(f"{path}: every list {key!r} is empty.")
        text = f"{path.name}: {int((counts == 0).sum()):,} series with an empty list left out"
        notes.append(Note(Code.EMPTY_SERIES_LEFT_OUT, text, {"series": int((counts == 0).sum())}))
    columns: dict[str, pa.Array] = {}
    ahead = [] if stamped else _reaching_ahead(path, table, wanted, counts)
    whole = _counts(path, table, ahead[0]) if ahead else counts
    for name in wanted:
        for final, cells in _variates(
            path, table.column(name).combine_chunks(), name, whole if name in ahead else counts
        ):
            columns[final] = cells if name in ahead or not ahead else _padded(cells, counts, whole)
    parents = np.repeat(np.arange(table.num_rows), whole)
    if set(wanted) <= set(stamped):
        raise DataError(f"{path}: column {lists[0]!r} holds lists, but no column holds lists of values.")
    ids = _ids(path, table, options)
    made = [] if stamped else _stamps(path, table, whole, options, notes)
    known = {*(source for source, _ in ids.values()), *lists, *(("start", "freq") if made or stamped else ())}
    static = [name for name in table.column_names if name not in known]
    if static:
        text = f"{path.name}: columns with one value a series left out: {', '.join(static[:8])}"
        notes.append(Note(Code.STATIC_LEFT_OUT, text, {"columns": len(static)}))
    head = {name: cells.take(pa.array(parents)) for name, (_, cells) in ids.items()} | dict(made)
    return pa.table({**head, **columns}), parents + 1


def _is_static(name: str) -> bool:
    """Return True for the names that GluonTS gives to lists of one value for each property of a series."""
    return name in ("feat_static_cat", "feat_static_real")


def _counts(path: Path, table: pa.Table, name: str) -> IntArray:
    """Return the (N,) number of times of each series."""
    column = table.column(name).combine_chunks()
    if column.null_count:
        row = int(np.asarray(pc.is_null(column)).argmax())
        raise DataError(f"{path}: row {row + 1}: {name!r} has no list. Drop the series.")
    if list_depth(column.type) == 2:
        return flatten(column, f"{path}: column {name!r}").length.astype(np.int64)
    return np.asarray(pc.list_value_length(column)).astype(np.int64)


def _variates(path: Path, column: pa.Array, name: str, counts: IntArray) -> list[tuple[str, pa.Array]]:
    """Return the cells of a column of lists, one column for each variate of a list of lists."""
    where = f"{path}: column {name!r}"
    if list_depth(column.type) == 1:
        found = np.asarray(pc.fill_null(pc.list_value_length(column), 0)).astype(np.int64)
        _same_lengths(path, name, found, counts)
        return [(name, pc.list_flatten(column))]
    nested = flatten(column, where)
    _same_lengths(path, name, nested.length.astype(np.int64), counts)
    kinds = set(nested.variates.tolist())
    if len(kinds) > 1:
        raise DataError(f"{where}: series of {min(kinds)} and of {max(kinds)} variates. Import them apart.")
    result = []
    variates = kinds.pop()
    for v in range(variates):
        at = [
            np.arange(s + v * n, s + (v + 1) * n)
            for s, n in zip(nested.start.tolist(), nested.length.tolist(), strict=True)
        ]
        result.append((name if variates == 1 else f"{name}_{v}", nested.values.take(pa.array(np.concatenate(at)))))
    return result


def _reaching_ahead(path: Path, table: pa.Table, names: list[str], counts: IntArray) -> list[str]:
    """Return the features known ahead that are longer than the target in every series: they reach over a horizon."""
    known = [name for name in names if feature_role(name) == "known"]
    return known if known and all((_counts(path, table, name) > counts).all() for name in known) else []


def _padded(cells: pa.Array, counts: IntArray, whole: IntArray) -> pa.Array:
    """Return the cells of series of `counts` steps with empty ones behind them, up to `whole` steps."""
    number = np.arange(whole.sum()) - np.repeat(np.cumsum(whole) - whole, whole)
    rows = np.repeat(np.cumsum(counts) - counts, whole) + number
    return cells.take(pa.array(rows, mask=number >= np.repeat(counts, whole)))


def _same_lengths(path: Path, name: str, found: IntArray, counts: IntArray) -> None:
    odd = np.flatnonzero(found != counts)
    if len(odd):
        row = int(odd[0])
        raise DataError(f"{path}: row {row + 1}: the list {name!r} has {found[row]:,} values, others of the row "
                        f"{counts[row]:,}. Leave the column out with --columns, or give lists one length.")  # fmt: skip


def _ids(path: Path, table: pa.Table, options: ImportOptions) -> dict[str, tuple[str | None, pa.Array]]:
    """Return name -> (column, (N,) texts) of the item id; numbered names of the file where no column is one."""
    chosen = id_columns(path, table.column_names, options)
    found = chosen or [name for name in table.column_names if plain(name) in (*ID_NAMES, "id")][:1]
    if not chosen and (not found or is_list(table.schema.field(found[0]).type)):
        stem, count = options.item_id(path), table.num_rows
        names = [stem] if count == 1 else [f"{stem}_{k}" for k in range(count)]
        return {"item_id": (None, pa.array(names, pa.string()))}
    result = {}
    for name in found:
        try:
            cells = table.column(name).combine_chunks().cast(pa.string())
        except pa.ArrowException:
            raise DataError(f"{path}: column {name!r} of type {table.schema.field(name).type} is no item id.") from None
        result["item_id" if name == "id" and not chosen else name] = (name, cells)
    return result


def _stamps(
    path: Path, table: pa.Table, counts: IntArray, options: ImportOptions, notes: list[Note]
) -> list[tuple[str, pa.Array]]:
    """Return the column of stamps that start and freq of each series give, nothing if one of the two is missing."""
    if "start" not in table.column_names:
        return []
    freqs = [options.freq] * table.num_rows
    if options.freq is None and "freq" in table.column_names:
        freqs = table.column("freq").to_pylist()
    if not all(isinstance(freq, str) and freq for freq in freqs):
        text = f"{path.name}: column 'start' is of no use without a freq column or --freq: steps, no calendar"
        notes.append(Note(Code.START_WITHOUT_FREQ, text))
        return []
    column = table.column("start").combine_chunks()
    try:
        stamps = (
            parse_stamps(column.cast(pa.string()))
            if pa.types.is_string(column.type)
            else arrow_stamps(column, f"{path}: column 'start'")
        )
    except BadCell as bad:
        raise DataError(f"{path}: row {bad.row + 1}, column 'start': {bad.text!r} is {bad.why}.") from None
    except pa.ArrowException:
        raise DataError(f"{path}: column 'start' of type {column.type} holds no time stamps.") from None
    if (stamps.times == NO_TIME).any():
        raise DataError(f"{path}: row {int((stamps.times == NO_TIME).argmax()) + 1} has no start.")
    times = [
        grid.stamps(int(start), Frequency.parse(str(freq), edge="S"), np.arange(count, dtype=np.int64))
        for start, freq, count in zip(stamps.times, freqs, counts, strict=True)
    ]
    zone = "UTC" if stamps.clock == "utc" else None
    return [("timestamp", pa.array(np.concatenate(times), pa.int64()).cast(pa.timestamp("us", zone)))]
