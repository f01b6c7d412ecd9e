"""The table of markets in reports, and errors in the currency and with the decimal places of a symbol."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from foretrain.evaluation.page import esc, remark, rows_table

if TYPE_CHECKING:
    from foretrain.evaluation.result import EvaluationResult

_HEADER = (
    "market", "symbols", "origins each", "bars a year", "pct_mae", "naive's", "skill", "volatility a year %", "fee",
    "trades", "before fees %", "after fees %", "always long %",
)  # fmt: skip
_NOTE = (
    "Sessions, currency and fees are those of the library's asset_metadata.json; fees are shares of the value. A "
    "trade is held from the origin to the last step, in the direction of the median forecast, if that moves by more "
    "than both fees; its figures are means, in percent of the value, without slippage, financing and taxes. Always "
    "long buys in each window. Means of few origins are those of one market phase."
)


def amount(value: float, unit: tuple[str, int | None]) -> str:
    """Return a price error with its currency: at most the decimal places of the symbol's prices, four digits."""
    currency, precision = unit
    if not math.isfinite(value):
        return "n/a"
    size = math.floor(math.log10(abs(value))) if value else 0
    places = max(0, 3 - size)
    if precision is not None:
        places = min(places, max(precision, 1 - size))
    return f"{value:,.{places}f} {currency}".rstrip()


def market_lines(result: EvaluationResult) -> list[str]:
    """Return the table of markets as lines of plain text, [] without a library."""
    if not result.markets:
        return []
    rows = [_cells(row) for row in result.markets]
    widths = [max(len(row[k]) for row in [_HEADER, *rows]) for k in range(len(_HEADER))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in [_HEADER, *rows]]
    return ["", *lines, *_without_fee(result)]


def market_table(result: EvaluationResult) -> str:
    """Return the table of markets as HTML, "" without a library."""
    if not result.markets:
        return ""
    rows = []
    for row in result.markets:
        first, *others = _cells(row)
        rows.append(f"<tr><th>{esc(first)}</th>{''.join(f'<td>{esc(cell)}</td>' for cell in others)}</tr>")
    note = " ".join([_NOTE, *(f"{line}." for line in _without_fee(result))])
    return "<h2>By market</h2>" + rows_table([esc(name) for name in _HEADER], rows) + remark(note)


def _without_fee(result: EvaluationResult) -> list[str]:
    count = sum(row["symbols_without_fee"] for row in result.markets)
    return [f"{count:,} symbols have no fee in asset_metadata.json and no trades here"] if count else []


def _cells(row: dict[str, Any]) -> list[str]:
    def number(name: str, form: str) -> str:
        return format(row[name], form) if math.isfinite(row[name]) else "n/a"

    return [
        f"{row['asset_class']}, {row['currency']}",
        f"{row['symbols']:,}",
        f"{row['origins_a_symbol']:,}",
        f"{number('bars_per_year', ',.0f')} ({row['bars_per_year_from']})",
        number("pct_mae", ".3f"),
        number("naive_pct_mae", ".3f"),
        number("skill", "+.3f"),
        number("volatility_pct", ".1f"),
        "; ".join(row["fees"]) or "not known",
        f"{row['trades']:,} of {row['windows']:,}",
        number("trade_before_fees_pct", "+.3f"),
        number("trade_after_fees_pct", "+.3f"),
        number("always_long_pct", "+.3f"),
    ]
