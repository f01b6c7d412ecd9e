"""Split a table into parts: the rows of one item each, as numbers, with stamps or step numbers and line numbers.

# V columns, T rows of a part
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from foretrain.data.importers.columns import keep, plain, recognise
from foretrain.data.importers.raw_table import RawTable
from foretrain.data.importers.times import read_times
from foretrain.data.importers.values import is_row_number, read_values
from foretrain.data.windows import IntArray
from foretrain.errors import DataError

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see


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


def table_parts(table: RawTable) -> Iterator[Part]:
    """Yield the parts of a table in order of first appearance. Raises DataError naming file, line and column."""
    path, options = table.path, table.options
    roles = recognise(path, table.cells.column_names, options)
    time = read_times(table, roles)
    pairs = [pair for pair in roles.values if pair[0] not in time.used]
    pairs = [pair for pair in pairs if not is_row_number(table, pair[0])]
    found = read_values(table, keep(pairs, options))
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
    )
    if options.format == "panel":
        yield from _panel(whole, table)
        return
    if roles.item is None:
        yield from _quoted_items(replace(whole, item_id=options.item_id(path)))
        return
    ids = table.texts(roles.item)
    blank = np.asarray(pc.equal(pc.fill_null(ids, ""), ""))
    if blank.any():
        row = int(blank.argmax())
        raise DataError(
            f"{path}: line {table.lines[row]}: column {roles.item!r} has no item id. Name the item, or drop the row."
        )
    yield from _by_item(whole, ids)


def _by_item(whole: Part, ids: pa.Array) -> Iterator[Part]:
    """Yield one part for each id, with its rows in order."""
    encoded = pc.dictionary_encode(ids)
    codes = np.asarray(encoded.indices)
    names = encoded.dictionary.to_pylist()
    order = np.argsort(codes, kind="stable")
    edges = np.searchsorted(codes[order], np.arange(len(names) + 1))
    values = whole.values if (np.diff(order) == 1).all() else whole.values[:, order]
    times = None if whole.times is None else whole.times[order]
    lines = whole.lines[order]
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
