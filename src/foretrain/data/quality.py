"""Clean the rows of one item by the quality rules: order, duplicates, impossible values; and report what is doubtful.

# V columns, T rows of one item, in the order of its file until `order_rows`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from foretrain.data.duplicates import join
from foretrain.data.findings import Findings
from foretrain.data.suspicions import suspicious
from foretrain.data.windows import NO_TIME, FloatArray, IntArray, Mask
from foretrain.timeaxis.grid import iso


@dataclass(frozen=True)
class MarketColumns:
    """Indices of the columns of (V, T) values that the market rules check."""

    names: tuple[str, ...]
    categorical: Mask  # (V,)
    bars: tuple[tuple[int, int, int, int], ...] = ()  # open, high, low, close of each quoted side
    prices: tuple[int, ...] = ()
    volumes: tuple[int, ...] = ()

    @property
    def close(self) -> int | None:
        """Index of the close, by which jumps and stale prices are detected, None without one."""
        if self.bars:
            return self.bars[0][3]
        return next((i for i in self.prices if self.names[i] == "close"), None)


@dataclass(frozen=True)
class ItemRows:
    """One item's rows: values (V, T), stamps or step numbers (T,) or None, and the source of each row."""

    item_id: str
    values: FloatArray
    times: IntArray | None
    lines: IntArray  # (T,) line in the source file, 0 if unknown
    file: str = ""
    calendar: bool = True  # times are stamps; otherwise step numbers

    def __len__(self) -> int:
        return self.values.shape[1]

    def take(self, rows: npt.NDArray[Any]) -> ItemRows:
        """Return the rows selected by a mask or by indices."""
        times = None if self.times is None else self.times[rows]
        return replace(self, values=self.values[:, rows], times=times, lines=self.lines[rows])

    def example(self, row: int, detail: str = "") -> dict[str, Any]:
        """Return the location of a row, for reports."""
        found: dict[str, Any] = {"item": self.item_id, "file": self.file or None}
        found["line"] = int(self.lines[row]) or None
        if self.times is not None and self.times[row] != NO_TIME:
            found["time"] = iso(int(self.times[row])) if self.calendar else int(self.times[row])
        if detail:
            found["detail"] = detail
        return found


def clean(rows: ItemRows, layout: MarketColumns, findings: Findings, *, stored: int = 0) -> ItemRows:
    """Return the rows in order, without duplicates and invalid values, by the mode (fix, drop, error) of `findings`.

    The first `stored` rows are in a corpus already, in order; what is found in them is counted, and they stay.
    """
    rows = order_rows(rows, findings, layout)
    bad = np.zeros(len(rows), bool)
    values = rows.values.copy()
    for name, mask, repair in _value_checks(values, layout):
        hit = mask.any(axis=0)
        if not hit.any():
            continue
        first = int(hit.argmax())
        column = layout.names[int(mask[:, first].argmax())]
        detail = f"{column} = {values[int(mask[:, first].argmax()), first]:.6g}"
        findings.add(name, int(hit.sum()), rows.example(first, detail), _ohlc_details(name, values, layout))
        if repair:
            mask[:, :stored] = False
            values[mask] = np.nan
        bad |= hit
    rows = replace(rows, values=values)
    bad[:stored] = False
    if findings.on_bad == "drop" and bad.any():
        rows = rows.take(~bad)
    return trim(rows, layout, findings, stored=stored)


def order_rows(rows: ItemRows, findings: Findings, layout: MarketColumns | None = None) -> ItemRows:
    """Return the rows with strictly ascending stamps; rows without a stamp are removed."""
    if rows.times is None or not len(rows):
        return rows
    blank = rows.times == NO_TIME
    if blank.any():
        first = int(blank.argmax())
        cells = ", ".join(f"{value:.6g}" for value in rows.values[:4, first])
        findings.add("missing_timestamp", int(blank.sum()), rows.example(first, f"values {cells}"))
        findings.lost.unstamped = int((~np.isnan(rows.values[:, blank]).all(axis=0)).sum())
        rows = rows.take(~blank)
    assert rows.times is not None
    steps = np.diff(rows.times)
    if (steps > 0).all():
        return rows
    descending = (steps < 0).sum() > (steps > 0).sum()
    if descending:
        findings.add("unsorted", len(rows), rows.example(0))
    order = np.argsort(rows.times, kind="stable")
    ordered, places = _once(rows.take(order), findings, layout)
    against = (steps > 0) if descending else (steps < 0)
    if not against.any():
        return ordered
    findings.add("backward_timestamps", int(against.sum()), rows.example(int(against.argmax()) + 1))
    if findings.on_bad != "drop":
        return ordered
    in_file = np.argsort(order[places])
    assert ordered.times is not None
    return ordered.take(np.sort(in_file[_in_line(ordered.times[in_file], descending)]))


def _in_line(times: IntArray, descending: bool) -> Mask:
    """Return a mask of rows that are not out of order with an earlier row."""
    if descending:
        return times <= np.minimum.accumulate(times)
    return times >= np.maximum.accumulate(times)


def _once(rows: ItemRows, findings: Findings, layout: MarketColumns | None) -> tuple[ItemRows, IntArray]:
    """Return one row for each stamp, and which they are. Of conflicting rows one, their mean or (drop) none stays."""
    assert rows.times is not None
    if (np.diff(rows.times) > 0).all():
        return rows, np.arange(len(rows))
    rule: Literal["last", "first", "mean", "none"] = "none" if findings.on_bad == "drop" else "last"
    if findings.duplicates is not None and findings.duplicates != "error":
        rule = findings.duplicates
    joined = join(rows.values, rows.times, rule, None if layout is None else layout.categorical)
    second = int(np.flatnonzero(np.diff(rows.times) == 0)[0]) + 1
    if joined.identical:
        findings.add("identical_rows", joined.identical, rows.example(second))
    if joined.complementary:
        findings.add("complementary_rows", joined.complementary, rows.example(second))
    if joined.first is not None and joined.lost is not None:
        one, other, columns = joined.first
        detail = _conflict(rows, one, other, columns, layout)
        findings.add("duplicate_timestamp", joined.conflicting, rows.example(other, detail))
        findings.lost.stamps = rows.times[joined.lost]
    return replace(rows.take(joined.source), values=joined.values), joined.source


def _conflict(rows: ItemRows, one: int, other: int, columns: Sequence[int], layout: MarketColumns | None) -> str:
    """Say in which columns two rows of one stamp differ, with both values of up to three numeric ones."""
    before = f"line {rows.lines[one]}" if rows.lines[one] else "an earlier row"
    if layout is None:
        return f"other values than {before}"
    if layout.categorical[columns].all():
        return f"another {layout.names[columns[0]]} than {before}"
    both = [(layout.names[v], rows.values[v, other], rows.values[v, one]) for v in columns[:3]]
    here = ", ".join(f"{name} {value:.6g}" for name, value, _ in both)
    there = ", ".join(f"{value:.6g}" for _, _, value in both)
    return f"{here}, but {there} in {before}"


def _value_checks(values: FloatArray, layout: MarketColumns) -> list[tuple[str, Mask, bool]]:
    """Return (rule, cells (V, T), True if fix sets them to NaN), before any repair, so that no rule hides another."""
    found = [("non_finite", np.isinf(values), True)]
    if layout.prices:
        price = _only(values, layout.prices)
        found += [("negative_price", price < 0, False), ("zero_price", price == 0, True)]
    if layout.bars:
        cells = np.zeros(values.shape, bool)
        for kinds in _ohlc_kinds(values, layout).values():
            cells |= kinds
        found.append(("ohlc_inconsistent", cells, False))
    if layout.volumes:
        found.append(("negative_volume", _only(values, layout.volumes) < 0, True))
    return found


def _only(values: FloatArray, columns: Sequence[int]) -> FloatArray:
    """Return the values with all other columns NaN, so that comparisons are False there."""
    result = np.full(values.shape, np.nan, np.float32)
    result[list(columns)] = values[list(columns)]
    return result


def _ohlc_kinds(values: FloatArray, layout: MarketColumns) -> dict[str, Mask]:
    """Return masks (V, T) of highs and lows that contradict their bar; prices of NaN, 0 and inf are ignored."""
    kinds = {name: np.zeros(values.shape, bool) for name in ("high_below", "low_above", "high_below_low")}
    for o, h, low, c in layout.bars:
        bar = values[[o, h, low, c]]
        opened, high, lowest, close = np.where((bar == 0) | np.isinf(bar), np.nan, bar)
        kinds["high_below"][h] = (high < opened) | (high < close)
        kinds["low_above"][low] = (lowest > opened) | (lowest > close)
        kinds["high_below_low"][h] = high < lowest
    return kinds


def _ohlc_details(name: str, values: FloatArray, layout: MarketColumns) -> dict[str, int] | None:
    if name != "ohlc_inconsistent":
        return None
    return {kind: int(mask.any(axis=0).sum()) for kind, mask in _ohlc_kinds(values, layout).items() if mask.any()}


def trim(rows: ItemRows, layout: MarketColumns, findings: Findings, *, stored: int = 0) -> ItemRows:
    """Remove rows at both ends in which no numeric column has a value, but none of the first `stored` ones.

    Newest rows stay if a category has a value there that it does not have all along, as one known ahead; not in market
    data, where a row without prices is no bar.
    """
    numeric = rows.values[~layout.categorical] if not layout.categorical.all() else rows.values
    held = np.flatnonzero(~np.isnan(numeric).all(axis=0))
    if len(held) == len(rows) or not len(rows):
        return rows
    first, last = (int(held[0]), int(held[-1])) if len(held) else (0, -1)
    if len(held) and not layout.prices:
        for row in rows.values[layout.categorical]:
            filled = np.flatnonzero(~np.isnan(row))
            if len(filled) and len(np.unique(row[: filled[-1] + 1])) > 1:
                last = max(last, int(filled[-1]))
    first, last = (0 if stored else first), max(last, stored - 1)
    count = len(rows) - (last - first + 1)
    if count:
        findings.add("empty_rows", count, rows.example(0 if first else last + 1))
    return rows.take(np.s_[first : last + 1])  # type: ignore[arg-type]


def observe(rows: ItemRows, layout: MarketColumns, findings: Findings) -> None:
    """Count the findings of cleaned rows that no mode repairs row by row."""
    missing = np.isnan(rows.values)
    if missing.any():
        cells = {layout.names[v]: int(missing[v].sum()) for v in np.flatnonzero(missing.any(axis=1))}
        hit = missing.any(axis=0)
        findings.add("missing", int(hit.sum()), rows.example(int(hit.argmax())), cells)
    ahead = [name for i, name in enumerate(layout.names) if i in layout.prices and name.startswith("adj_")]
    if ahead:
        findings.add("adjusted_prices", len(rows), rows.example(0, ", ".join(ahead)))
    _doubts(rows, layout, findings)


def _doubts(rows: ItemRows, layout: MarketColumns, findings: Findings) -> None:
    """Report what is probably damage: in the close of a market table, in every numeric column of others."""
    market = layout.close is not None
    checked = np.array([layout.close]) if market else np.flatnonzero(~layout.categorical)
    for name, count, row, detail in suspicious(rows.values, layout.names, checked, paired=not market):
        findings.add(name, count, rows.example(row, detail))
