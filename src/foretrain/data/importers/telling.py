"""Find the columns that tell rows of one item and stamp apart: the ids of items that nobody named.

# T rows, D rows whose item and stamp occur more than once
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from foretrain.data.importers.columns import is_key_name, plain
from foretrain.data.importers.facts import Telling
from foretrain.data.importers.raw_table import RawTable, is_text
from foretrain.data.importers.time_names import SMALLER_PARTS
from foretrain.data.windows import NO_TIME, FloatArray, IntArray, Mask

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers cannot see

LOSS_SHARE, LOSS_ROWS = 0.01, 3  # a loss of more than both of these stops an import (importers/losses.py)
_SHARED = 0.1  # least share of rows that meet a stamp again if a column is to be an id without being named one
_SAMPLE = 20_000  # rows on which candidates are tried before all rows decide
_MAX_CANDIDATES = 24
_OF_THREE = 10  # first candidates of which three may name the items together
_MOST_ITEMS = 5  # most items, as a multiple of those that meet at one stamp, where a column may be a measurement
_LEFT = 0.02  # share of rows that may still repeat once the columns are named: files have real duplicates too
_CLOCK = SMALLER_PARTS | {"season", "mmwr_year", "he", "settlement_period"}
_GENERIC = ("id", "uid", "key")  # may number the rows
_DATE_WORDS = ("date", "time", "updated")


def repeated_groups(
    times: IntArray, codes: npt.NDArray[np.integer] | None = None, order: IntArray | None = None
) -> IntArray | None:
    """Return a number (T,) for each row's item and stamp, or None if no item has a stamp twice.

    codes: the item (T,) of each row, None for one item; order: the rows sorted by item, None if they are.
    """
    if _steady(times if order is None else times[order], codes if codes is None or order is None else codes[order]):
        return None
    codes = np.zeros(len(times), np.int64) if codes is None else codes.astype(np.int64)
    stamps, at = np.unique(times, return_inverse=True)
    blank = np.flatnonzero(times == NO_TIME)
    pairs = codes * len(stamps) + at
    pairs[blank] = -1 - blank  # rows without a stamp repeat none
    found, group = np.unique(pairs, return_inverse=True)
    return group if len(found) < len(group) else None


def _steady(times: IntArray, codes: npt.NDArray[np.integer] | None) -> bool:
    """Return True if times only ascend, or only descend, in each run of equal codes."""
    fresh = np.False_ if codes is None else codes[1:] != codes[:-1]
    return any((fresh | turn(times[1:], times[:-1])).all() for turn in (np.greater, np.less))


def conflicts(group: IntArray, values: FloatArray) -> Mask:
    """Return a mask (V, D) of (V, T) values that differ from those of the row before of their group."""
    order = np.argsort(group, kind="stable")
    same = np.diff(group[order]) == 0
    a, b = values[:, order[1:][same]], values[:, order[:-1][same]]
    return (a != b) & ~np.isnan(a) & ~np.isnan(b)


def is_many(lost: int, rows: int, share: float | None = None) -> bool:
    """Return True if a loss stops the import: more than 3 rows and more than 1 %, or the share that the user allows."""
    if share == 0:
        return lost > 0
    return lost > max((LOSS_SHARE if share is None else share) * rows, LOSS_ROWS)


def known_key(table: RawTable, group: IntArray, names: Iterable[str]) -> str | None:
    """Return the column with an id's usual name that makes every stamp occur once, if stamps repeat throughout.

    None if several such columns divide the rows differently.
    """
    if _repeats(group) <= _SHARED * len(group):
        return None
    fitting: list[Candidate] = []
    single = int(group.max()) == 0
    for name in names:
        if is_key_name(name) and (found := _candidate(table, name, single=single)) is not None:
            fitting += [found] if _repeats(group, found[1]) == 0 else []
    if not fitting or fitting[0][2] > _MOST_ITEMS * int(np.bincount(group).max()):
        return None  # items that hardly meet may be values, such as a stock that differs by chance
    first = fitting[0]
    alike = all(_different(first[1], codes) == first[2] == count for _, codes, count in fitting)  # a code and its name
    return first[0] if alike else None


def restarting_key(table: RawTable, times: IntArray, names: Iterable[str]) -> str | None:
    """Return the column with an id's usual name whose cells are blocks of rows, if time starts anew only with a block.

    It then names items although their stamps hardly meet, as those of items of different years. None if several such
    columns divide the rows differently.
    """
    steps = np.diff(times)
    if len(steps) < 2 or (times == NO_TIME).any():
        return None
    steps = -steps if (steps < 0).sum() > (steps > 0).sum() else steps
    back = steps <= 0
    if not back.any():
        return None
    fitting: list[tuple[str, Mask]] = []
    for name in names:
        if is_key_name(name) and (found := _candidate(table, name)) is not None:
            change = np.diff(found[1]) != 0
            if not (back & ~change).any() and change.sum() == found[2] - 1:
                fitting.append((name, change))
    alike = all(np.array_equal(change, fitting[0][1]) for _, change in fitting)
    return fitting[0][0] if fitting and alike else None


def telling_columns(table: RawTable, group: IntArray, times: tuple[str, ...], items: tuple[str, ...]) -> Telling | None:
    """Return the columns, at most three besides parts of the time, that make the stamps of each item occur once.

    None if there are none. Parts of the time come first: if they help, the stamp was read from a part of it.
    """
    names = [name for name in table.cells.column_names if name not in (*times, *items)]
    candidates = [found for name in names if (found := _candidate(table, name)) is not None]
    clock, group = _clock(group, [entry for entry in candidates if plain(entry[0]) in _CLOCK])
    if clock and _few(_repeats(group), len(group)):
        return Telling((), clock)
    keys = [entry for entry in candidates if plain(entry[0]) not in _CLOCK]
    sure = {name for name, _, _ in keys if is_key_name(name) or _is_text(table, name)}
    keys.sort(key=lambda entry: (not is_key_name(entry[0]), entry[0] not in sure, entry[2]))
    rows, together = _sample(group), int(np.bincount(group).max())
    for few in _choices(keys[:_MAX_CANDIDATES]):
        columns = [codes for _, codes, _ in few]
        if not _tells(group[rows], [codes[rows] for codes in columns]) or not _tells(group, columns):
            continue
        # whole numbers that are no ids divide the rows, too, but into many more items than meet at one stamp
        if all(name in sure for name, _, _ in few) or _different(*columns) <= _MOST_ITEMS * together:
            chosen = {name for name, _, _ in few}
            return Telling((*items, *(name for name in names if name in chosen)), clock)
    return None


Candidate = tuple[str, IntArray, int]  # column, codes (T,), number of different cells


def _clock(group: IntArray, candidates: list[Candidate]) -> tuple[tuple[str, ...], IntArray]:
    """Return the parts of the time that divide the groups, none of them needlessly, and the groups so divided."""
    used = list(candidates)
    fewest = _repeats(group, *(codes for _, codes, _ in used))
    if fewest > 0.9 * _repeats(group):
        return (), group
    for entry in sorted(candidates, key=lambda entry: entry[2]):  # quarters before the months that imply them
        rest = [other for other in used if other is not entry]
        if rest and _repeats(group, *(codes for _, codes, _ in rest)) <= fewest:
            used = rest
    for _, codes, _ in used:
        group = np.unique(group * (int(codes.max()) + 1) + codes, return_inverse=True)[1]
    return tuple(name for name, _, _ in used), group


def _choices(candidates: list[Candidate]) -> Iterator[tuple[Candidate, ...]]:
    yield from combinations(candidates, 1)
    yield from combinations(candidates, 2)
    yield from combinations(candidates[:_OF_THREE], 3)


def _candidate(table: RawTable, name: str, *, single: bool = False) -> Candidate | None:
    """Return a column of text or whole numbers without blanks, with few enough different cells to name items.

    single: all rows have one stamp, so that an item has one row.
    """
    if plain(name) not in _CLOCK and any(word in plain(name) for word in _DATE_WORDS):
        return None
    kind = table.column(name).type
    if not (_is_text(table, name) or pa.types.is_string(kind) or pa.types.is_integer(kind)):
        return None
    encoded = pc.dictionary_encode(table.texts(name), null_encoding="encode")
    cells = pc.utf8_trim_whitespace(pc.fill_null(encoded.dictionary, ""))
    most = len(encoded) if single and plain(name) not in _GENERIC else len(encoded) / 2
    if not 1 < len(cells) <= most or pc.any(pc.equal(cells, "")).as_py():
        return None
    if pc.any(pc.match_substring_regex(cells, pattern=r"^[-+]?\d*[.,]\d+([eE][-+]?\d+)?$")).as_py():
        return None  # measurements
    return name, np.asarray(encoded.indices).astype(np.int64), len(cells)


def _is_text(table: RawTable, name: str) -> bool:
    """Return True for a column of words; text files hold numbers as text, too."""
    kind = table.column(name).type
    if pa.types.is_dictionary(kind):
        return True
    if not is_text(kind):
        return False
    return not pc.all(pc.match_substring_regex(table.texts(name)[:200], pattern=r"^\s*[-+]?[\d.,]*\s*$")).as_py()


def _sample(group: IntArray) -> IntArray:
    """Return rows of whole groups, evenly chosen, so that repeats among them are repeats among all."""
    if len(group) <= _SAMPLE:
        return np.arange(len(group))
    every = -(-len(group) // _SAMPLE)
    return np.flatnonzero(group % every == 0)


def _tells(group: IntArray, columns: list[IntArray]) -> bool:
    """Return True if the columns name items of several rows, and leave almost no row that repeats another's stamp."""
    left, before = _repeats(group, *columns), _repeats(group)
    return left <= before / 4 and _few(left, len(group)) and _different(*columns) <= len(group) / 2


def _few(repeats: int, rows: int) -> bool:
    return repeats <= _LEFT * rows


def _different(*columns: IntArray) -> int:
    return len(columns[0]) - _repeats(*columns)


def _repeats(group: IntArray, *columns: IntArray) -> int:
    """Return the number of rows that an earlier one equals in all of these."""
    key = group
    for codes in columns:
        key = np.unique(key * (int(codes.max()) + 1) + codes, return_inverse=True)[1]
    return len(key) - len(np.unique(key))
