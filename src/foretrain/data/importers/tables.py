"""Split a table into parts: the rows of one item each, as numbers, with stamps or step numbers and line numbers.

# V columns, T rows of a part
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from foretrain.data.importers.columns import USUAL_ORDER, Roles, feature_role, keep, plain, recognise
from foretrain.data.importers.facts import Telling
from foretrain.data.importers.raw_table import RawTable
from foretrain.data.importers.telling import (
    LOSS_ROWS,
    conflicts,
    known_key,
    repeated_groups,
    restarting_key,
    telling_columns,
)
from foretrain.data.importers.times import TableTimes, read_column_times, read_times
from foretrain.data.importers.values import TableValues, is_row_number, read_values
from foretrain.data.windows import IntArray
from foretrain.errors import DataError
from foretrain.notes import Code

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see

_Codes = npt.NDArray[np.integer]
_TEXT_ALONE = 0.02  # share of conflicting rows up to which other values may differ besides text


@dataclass(frozen=True)
class Part:
    """Rows of one item in one file. texts: categories of text columns; empty: columns without any value."""

    item_id: str
    columns: tuple[str, ...]
    values: npt.NDArray[np.float32]  # (V, T); categorical columns hold indices into texts[column]
    times: IntArray | None  # stamps (microseconds) or step numbers
    lines: IntArray  # (T,)
    clock: str  # dates, naive, utc, steps or none
    offsets: tuple[int, ...] = ()
    texts: dict[str, tuple[str, ...]] | None = None
    empty: frozenset[str] = frozenset()
    market: bool = False
    explicit: frozenset[str] = frozenset()  # columns that the user calls categorical
    past: tuple[str, ...] = ()  # columns that the data calls covariates, of the past and known ahead
    known: tuple[str, ...] = ()


def table_parts(table: RawTable, *, text_alone: bool = False) -> Iterator[Part]:
    """Yield the parts of a table in order of first appearance. Raises DataError naming file, line and column.

    text_alone: a table without one number is no error.
    """
    path, options = table.path, table.options
    roles = recognise(path, table.cells.column_names, options)
    time = read_times(table, roles)
    _refuse_second_times(table, time)
    pairs = [pair for pair in roles.values if pair[0] not in (*time.used, *time.left_out)]
    pairs = [pair for pair in pairs if not is_row_number(table, pair[0])]
    roles = roles if roles.item or options.format == "panel" else _with_known_key(table, roles, time, pairs)
    pairs = keep([pair for pair in pairs if pair[0] not in roles.item], options)
    found = read_values(table, pairs, text_alone=text_alone)
    if not found.columns:
        raise DataError(f"{path}: no value column (has {', '.join(map(repr, table.cells.column_names))}).")
    whole = Part(
        "",
        found.columns,
        found.values,
        time.times,
        table.lines,
        time.clock,
        time.offsets,
        found.texts,
        found.empty,
        roles.market,
        explicit=found.explicit,
        past=tuple(name for name in found.columns if feature_role(name) == "past"),
        known=tuple(name for name in found.columns if feature_role(name) == "known"),
    )
    _record(table, roles, time, found)
    if options.format == "panel":
        yield from _panel(whole, table)
        return
    if not roles.item:
        _tell_apart(table, whole)
        yield from _quoted_items(replace(whole, item_id=table.item_id))
        return
    encoded = pc.dictionary_encode(_ids(table, roles.item))
    codes = np.asarray(encoded.indices)
    order = None if (codes[1:] >= codes[:-1]).all() else np.argsort(codes, kind="stable")
    _tell_apart(table, whole, codes, order)
    yield from _by_item(whole, encoded.dictionary.to_pylist(), codes, order)


def _refuse_second_times(table: RawTable, time: TableTimes) -> None:
    """Raise DataError if a column like date.1 holds other times than date: two tables stand side by side."""
    if time.times is None or table.options.timestamp_column is not None or table.options.columns:
        return
    for name in time.used:
        for other in table.cells.column_names:
            if not re.fullmatch(re.escape(name) + r"(\.|_|\.\.\.)\d+", other):
                continue
            try:
                times = read_column_times(table, other).times
            except DataError:
                continue
            if times is not None and not np.array_equal(times, time.times):
                raise DataError(
                    f"{table.path}: columns {name!r} and {other!r} hold different times, as where two tables stand "
                    f"side by side. Give each a file of its own, or choose with --timestamp-column and --columns."
                )


def _with_known_key(table: RawTable, roles: Roles, time: TableTimes, pairs: list[tuple[str, str]]) -> Roles:
    """Return the roles with an item column, if stamps repeat and a column with an id's usual name tells them apart."""
    group = None if time.times is None else repeated_groups(time.times)
    wanted = {*table.options.columns, *table.options.target, *table.options.categorical}
    names = [name for name, final in pairs if not {name, final} & wanted and final not in USUAL_ORDER]
    key, why = None if group is None else known_key(table, group, names), "stamps repeat without it"
    if key is None and time.times is not None and time.clock != "none":
        key, why = restarting_key(table, time.times, names), "time starts anew where it changes"
    if key is None:
        return roles
    table.note(Code.ITEM_COLUMN_FOUND, f"column {key!r} names the items, since {why}")
    return replace(roles, item=(key,))


def _ids(table: RawTable, names: tuple[str, ...]) -> pa.Array:
    """Return the item id (T,) of each row, several columns joined with a slash. DataError for a blank one."""
    columns = [table.texts(name) for name in names]
    for name, cells in zip(names, columns, strict=True):
        blank = np.asarray(pc.equal(pc.utf8_trim_whitespace(pc.fill_null(cells, "")), ""))
        if blank.any():
            row = int(blank.argmax())
            raise DataError(
                f"{table.path}: line {table.lines[row]}: column {name!r} has no item id. Name the item, or drop the "
                "row."
            )
    if len(columns) == 1:
        return columns[0]
    ids = pc.binary_join_element_wise(*columns, "/")
    slashes = [np.asarray(pc.count_substring(cells, "/")).astype(np.int64) for cells in columns]
    if any(count.any() for count in slashes):
        _refuse_collision(table, ids, names, columns)
    return ids


def _refuse_collision(table: RawTable, ids: pa.Array, names: tuple[str, ...], columns: list[pa.Array]) -> None:
    """Raise DataError if two different rows of id cells are joined to one id, as a/b with c and a with b/c are."""
    seen: dict[str, tuple[str, ...]] = {}
    for joined, *parts in zip(ids.to_pylist(), *(cells.to_pylist() for cells in columns), strict=True):
        first = seen.setdefault(joined, tuple(parts))
        if first != tuple(parts):
            raise DataError(
                f"{table.path}: columns {' and '.join(map(repr, names))} give the item id {joined!r} for both "
                f"{first} and {tuple(parts)}. Replace the slash in one of them."
            )


def _record(table: RawTable, roles: Roles, time: TableTimes, found: TableValues) -> None:
    """Write down what became of the columns."""
    finals = set(found.columns)
    facts = table.facts
    facts.read, facts.items, facts.times = True, roles.item, time.used
    facts.values = tuple(
        pair for pair in roles.values if pair[1] in finals and pair[0] not in (*roles.item, *time.used)
    )
    facts.categorical, facts.panel = tuple(found.texts), table.options.format == "panel"
    facts.columns = tuple(table.cells.column_names)
    facts.marks = found.marks


def _tell_apart(table: RawTable, whole: Part, codes: _Codes | None = None, order: IntArray | None = None) -> None:
    """Find which columns tell rows of one item and stamp apart, if so many conflict that the import may stop."""
    if whole.times is None or table.options.duplicates not in (None, "error"):
        return
    group = repeated_groups(whole.times, codes, order)
    few = 0 if table.options.allow_loss == 0 or table.options.duplicates else LOSS_ROWS
    if group is None:
        return
    differ = conflicts(group, whole.values)
    if differ.any(axis=0).sum() <= few:
        return
    facts = table.facts
    telling = telling_columns(table, group, facts.times, facts.items)
    text = np.array([name in (whole.texts or {}) for name in whole.columns])
    if differ[~text].any(axis=0).sum() <= _TEXT_ALONE * differ.any(axis=0).sum():
        names = {final: name for name, final in facts.values}
        labels = tuple(names[whole.columns[v]] for v in np.flatnonzero(text & differ.any(axis=1)))
        telling = replace(telling or Telling(), labels=labels)
    facts.telling = telling


def _by_item(whole: Part, names: list[str], codes: _Codes, order: IntArray | None) -> Iterator[Part]:
    """Yield one part for each id, with its rows in order.

    codes: the id (T,) of each row; order: rows sorted by it, None if they are.
    """
    values, times, lines = whole.values, whole.times, whole.lines
    if order is not None:
        codes, values, lines = codes[order], values[:, order], lines[order]
        times = None if times is None else times[order]
    edges = np.searchsorted(codes, np.arange(len(names) + 1))
    for k, name in enumerate(names):
        rows = slice(edges[k], edges[k + 1])
        yield replace(
            whole,
            item_id=name,
            values=values[:, rows],
            times=None if times is None else times[rows],
            lines=lines[rows],
        )


def _panel(whole: Part, table: RawTable) -> Iterator[Part]:
    if whole.texts:
        raise DataError(
            f"{table.path}: text column {next(iter(whole.texts))!r} in a panel. Leave it out with --columns."
        )
    for k, name in enumerate(whole.columns):
        empty = frozenset(["target"]) if name in whole.empty else frozenset()
        yield replace(
            whole, item_id=name, columns=("target",), values=whole.values[k : k + 1], empty=empty, market=False
        )


def _quoted_items(whole: Part) -> Iterator[Part]:
    """Yield an item for each prefix if columns are named BTC:open, BTC:close, ETH:open, ..., else one item."""
    heads = [name.split(":") for name in whole.columns]
    names = list(dict.fromkeys(head[0] for head in heads if len(head) == 2))
    sides = [tuple(plain(h[1]) for h in heads if len(h) == 2 and h[0] == name) for name in names]
    if any(len(head) != 2 for head in heads) or len(set(sides)) != 1 or "close" not in sides[0]:
        yield whole
        return
    for name in names:
        rows = [i for i, head in enumerate(heads) if head[0] == name]
        texts = {plain(c.split(":")[1]): found for c, found in (whole.texts or {}).items() if c.startswith(name + ":")}
        yield replace(
            whole,
            item_id=name,
            columns=sides[0],
            values=whole.values[rows],
            texts=texts,
            empty=frozenset(plain(c.split(":")[1]) for c in whole.empty if c.startswith(name + ":")),
            market=True,
        )
