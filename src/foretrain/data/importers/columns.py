"""Roles of a table's columns (item id, time, price, volume), recognised by name or set by the options.

A table is a market table if it has a close and one more of open, high, low, volume or adjusted close; its columns then
get standard names (open, high, low, close, adj_close, volume, ...) for any case and spelling of the header.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foretrain.data.importers.options import ImportOptions
from foretrain.data.rules import MarketColumns
from foretrain.errors import DataError
from foretrain.hints import did_you_mean

_IDS = (("item_id", "unique_id"), ("symbol", "ticker", "series_id", "instrument", "isin"))
_MARKET_ID = "name"  # the symbol in some stock data sets; only in market tables
FINE_STAMPS = ("timestamp", "timestamps", "datetime", "date_time", "ds", "ts", "date", "time", "gmt_time", "local_time",
           "open_time", "unix", "unix_timestamp", "unix_time", "epoch", "trade_date", "trading_date")  # fmt: skip
_COARSE_STAMPS = ("month", "week", "quarter", "year", "period", "index", "")
_STEPS = ("t", "step", "time_idx", "time_step")
_MARKET = {
    "open": ("open", "o", "open_price", "price_open", "opening"),
    "high": ("high", "h", "high_price", "price_high", "max"),
    "low": ("low", "l", "low_price", "price_low", "min"),
    "close": ("close", "c", "close_price", "price_close", "close_last", "last", "price"),
    "adj_open": ("adj_open",),
    "adj_high": ("adj_high",),
    "adj_low": ("adj_low",),
    "adj_close": ("adj_close", "adjclose", "adjusted_close", "adj_close_price", "close_adj"),
    "volume": ("volume", "v", "vol", "volume_usd", "volumeto", "volumefrom"),
    "adj_volume": ("adj_volume",),
    "amount": ("amount", "amt", "turnover", "quote_volume", "quote_asset_volume"),
    "vwap": ("vwap", "vw", "weighted_average"),
}
USUAL_ORDER = ("open", "high", "low", "close", "adj_open", "adj_high", "adj_low", "adj_close", "volume", "adj_volume",
          "amount", "vwap")  # fmt: skip
_SIDES = ("open", "high", "low", "close")


def plain(name: str) -> str:
    """Normalise a header cell to lower case with underscores: 'Adj. Close' -> adj_close, 'adjClose' -> adjclose."""
    return re.sub(r"[\s._\-/()]+", "_", name.strip().lower()).strip("_")


@dataclass(frozen=True)
class Roles:
    """Roles of the columns of one table. values: (name in the file, name in the corpus), in corpus order."""

    item: str | None
    stamps: tuple[str, ...]  # candidates, best first; ("date", "time") may have to be joined
    step: str | None
    values: tuple[tuple[str, str], ...]
    market: bool


def recognise(path: Path, names: Sequence[str], options: ImportOptions) -> Roles:
    """Return the roles of a table's columns. DataError if two columns match a role and no option decides."""
    for wanted in (
        options.id_column,
        options.timestamp_column,
        *options.columns,
        *options.target,
        *options.categorical,
    ):
        if wanted is not None and not _given(wanted, names):
            _unknown(path, wanted, names)
    market = _market_names(names)
    item = _pick(options.id_column, names) or _item(path, names, market)
    chosen = _pick(options.timestamp_column, names)
    step = next((name for name in names if name.strip() in _STEPS and name not in market and name != item), None)
    if chosen is not None:
        stamps: tuple[str, ...] = (chosen,)
        step = None if chosen == step else step
    else:
        taken = {item, *market}
        fine = [name for name in names if plain(name) in FINE_STAMPS and name not in taken]
        coarse = [name for name in names if plain(name) in _COARSE_STAMPS and name not in taken]
        coarse += [name for name in names if re.fullmatch(r"unnamed(:_|_)\d+", plain(name)) and name not in taken]
        stamps = tuple(fine or coarse)
    roles = Roles(item, stamps, step, (), bool(market))
    free = [name for name in names if name not in (item, step) and (name not in stamps or chosen is None)]
    pairs = [(name, market.get(name, name.strip())) for name in free if name != chosen]
    pairs.sort(key=lambda pair: USUAL_ORDER.index(pair[1]) if pair[1] in USUAL_ORDER else len(USUAL_ORDER))
    return Roles(roles.item, stamps, step, tuple(pairs), roles.market)


def _market_names(names: Sequence[str]) -> dict[str, str]:
    """Return name in the file -> standard name for the columns of a market table, {} for other tables."""
    by_plain: dict[str, str] = {}
    for name in names:
        by_plain.setdefault(plain(name), name)
    found: dict[str, str] = {}
    for canonical, aliases in _MARKET.items():
        alias = next((alias for alias in aliases if alias in by_plain), None)
        if alias is not None and by_plain[alias] not in found:
            found[by_plain[alias]] = canonical
    kinds = set(found.values())
    explicit = {"close", "last", "close_last", "close_price", "price_close", "c"} & set(by_plain)
    others = kinds & {"open", "high", "low", "volume", "adj_close"}
    sides = len(kinds & {"open", "high", "low"})
    # "price" and single letters count as prices only if open, high and low are there too
    if "close" not in kinds or not others or (not explicit and sides < 3) or ("c" in by_plain and sides < 3):
        return {}
    return found


def _item(path: Path, names: Sequence[str], market: dict[str, str]) -> str | None:
    for group in _IDS:
        found = [name for name in names if plain(name) in group]
        if len(found) > 1:
            raise DataError(
                f"{path}: columns {' and '.join(map(repr, found))} both look like the item id; choose with --id-column."
            )
        if found:
            return found[0]
    return next((name for name in names if market and plain(name) == _MARKET_ID), None)


def _given(wanted: str, names: Sequence[str]) -> bool:
    return _pick(wanted, names) is not None or wanted in _market_names(names).values()


def _pick(wanted: str | None, names: Sequence[str]) -> str | None:
    """Return the column that a user named: the exact name, else the only one that is equal after normalisation."""
    if wanted is None:
        return None
    if wanted in names:
        return wanted
    close = [name for name in names if plain(name) == plain(wanted)]
    return close[0] if len(close) == 1 else None


def _unknown(path: Path, wanted: str, names: Sequence[str]) -> None:
    hint = did_you_mean(wanted, names, f"It has {', '.join(map(repr, names))}.")
    raise DataError(f"{path}: no column {wanted!r}. {hint}")


def keep(pairs: Sequence[tuple[str, str]], options: ImportOptions) -> list[tuple[str, str]]:
    """Return the value columns selected by the options, in their order."""
    by_name = {**{name: (name, final) for name, final in pairs}, **{final: (name, final) for name, final in pairs}}
    files = [name for name, _ in pairs]

    def find(wanted: str) -> tuple[str, str]:
        return by_name.get(wanted) or by_name[_pick(wanted, files) or wanted]

    chosen = [find(wanted) for wanted in options.columns if wanted in by_name or _pick(wanted, files)]
    pairs = chosen if options.columns else list(pairs)
    first = [find(wanted) for wanted in options.target if wanted in by_name or _pick(wanted, files)]
    return first + [pair for pair in pairs if pair not in first]


def market_layout(names: Sequence[str], categorical: Sequence[bool]) -> MarketColumns:
    """Find bars, prices and volumes among corpus columns; prefixed names such as bid_open .. bid_close are bars too."""
    index = {plain(name): i for i, name in enumerate(names) if not categorical[i]}
    prefixes = [name.removesuffix("close") for name in index if name.endswith("close")]
    bars = tuple(
        tuple(index[prefix + side] for side in _SIDES)
        for prefix in sorted(prefixes, key=lambda p: (p != "", p))
        if all(prefix + side in index for side in _SIDES)
    )
    prices = {i for bar in bars for i in bar}
    prices |= {index[name] for name in ("close", "adj_close", "vwap") if name in index}
    for name in ("open", "high", "low"):
        if name in index and "close" in index:
            prices.add(index[name])
    volumes = tuple(index[name] for name in ("volume", "adj_volume") if name in index) if prices else ()
    return MarketColumns(tuple(names), np.array(categorical, bool), bars, tuple(sorted(prices)), volumes)  # type: ignore[arg-type]
