"""Roles of a table's columns (item id, time, price, volume), recognised by name or set by the options.

A table is a market table if it has a close and one more of open, high, low, volume or adjusted close; its columns then
get standard names (open, high, low, close, adj_close, volume, ...) for any case and spelling of the header.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from foretrain.data.importers.options import USUAL_ORDER, ImportOptions
from foretrain.data.importers.time_names import FINE_STAMPS, PARTS, YEARS_WITH, is_saved_index
from foretrain.data.quality import MarketColumns
from foretrain.errors import DataError
from foretrain.hints import did_you_mean

_IDS = (
    ("item_id", "unique_id"),
    ("symbol", "ticker", "series_id", "instrument", "isin", "ts_code", "股票代码", "证券代码"),
)
ID_NAMES = tuple(name for group in _IDS for name in group)
_MARKET_IDS = ("name", "code", "代码")  # the symbol in some stock data sets; only in market tables
# ids in public long tables; also names of values and categories, so they are ids only where the stamps demand one
_KEY_NAMES = {
    "accountid", "airport", "areaname", "article", "asset", "assetid", "balancingauthority",
    "biddingzone", "branch", "branchid", "building", "buildingid", "busid", "categoryid", "cellid", "channelid",
    "city", "cityname", "clientid", "coin", "company", "companyid", "companyname", "contract", "contractid",
    "country", "countrycode", "countryname", "county", "currency", "cusip", "customer", "customerid",
    "department", "dept", "detector", "detectorid", "device", "deviceid", "district", "engineid", "entity",
    "fips", "fund", "fundid", "geo", "geoid", "gvkey", "hospital", "hospitalid", "house", "household",
    "householdid", "houseid", "hub", "id", "iso3", "isocode", "item", "itemcode", "itemnbr", "itemnumber", "key",
    "lclid", "lineid", "location", "locationid", "locationname", "machine", "machineid", "meter", "meterid",
    "municipality", "node", "nodeid", "outlet", "pageid", "pair", "parkingid", "patient",
    "patientid", "permno", "plant", "plantid", "pnodeid", "predictionunitid", "pricearea", "product",
    "productcode", "productid", "province", "pulocationid", "pumpid", "region", "regionid", "regionname",
    "respondent", "roadid", "route", "routeid", "security", "segmentid", "sensor", "sensorcode", "sensorid",
    "sensorname", "series", "seriesname", "settlementpoint", "settlementpointname", "shop", "shopid", "site",
    "siteid", "sitename", "sku", "skuid", "state", "statename", "station", "stationcode", "stationid",
    "stationname", "stockcode", "stockid", "stockname", "store", "storeid", "storenbr", "storenumber",
    "subject", "subjectid", "systemcodenumber", "tankid", "turbid", "turbine", "turbineid", "uid", "unitid",
    "userid", "vehicleid", "warehouse", "warehouseid", "wellid", "zipcode", "zone", "zoneid",
}  # fmt: skip
_COARSE_STAMPS = ("month", "week", "quarter", "year", "period", "index", "", "day", "hour")
_STEPS = ("t", "step", "time_idx", "time_step")
_MARKET = {
    "open": ("open", "o", "open_price", "price_open", "opening", "开盘", "开盘价"),
    "high": ("high", "h", "high_price", "price_high", "max", "最高", "最高价"),
    "low": ("low", "l", "low_price", "price_low", "min", "最低", "最低价"),
    "close": ("close", "c", "close_price", "price_close", "close_last", "last", "price", "latest", "收盘", "收盘价"),
    "adj_open": ("adj_open",),
    "adj_high": ("adj_high",),
    "adj_low": ("adj_low",),
    "adj_close": ("adj_close", "adjclose", "adjusted_close", "adj_close_price", "close_adj"),
    "volume": ("volume", "v", "vol", "volume_usd", "volumeto", "volumefrom", "tickvol", "成交量"),
    "adj_volume": ("adj_volume",),
    "amount": ("amount", "amt", "turnover", "quote_volume", "quote_asset_volume", "成交额", "成交金额"),
    "vwap": ("vwap", "vw", "weighted_average"),
    "dividends": ("dividends", "dividend", "ex_dividend", "dividend_amount", "divcash"),
    "stock_splits": ("stock_splits", "split_ratio", "split_coefficient", "splitfactor"),
}
_VAGUE = ("o", "h", "l", "c", "v", "max", "min", "last", "price", "opening")  # prices only beside all others
SIDES = ("open", "high", "low", "close")


@functools.lru_cache(maxsize=4096)
def plain(name: str) -> str:
    """Normalise a header cell to lower case with underscores: 'Adj. Close' -> adj_close, '<CLOSE>' -> close."""
    return re.sub(r"[\s._\-/()<>]+", "_", name.strip().lower()).strip("_")


@functools.lru_cache(maxsize=4096)
def market_name(name: str) -> str | None:
    """Return the standard name of a column of prices or volumes, None for any other column."""
    known = plain(name)
    return next((final for final, aliases in _MARKET.items() if known in aliases), None)


def is_market(names: Sequence[str]) -> bool:
    """Return True if the names are those of a market table."""
    return bool(market_names(names))


def has_role(name: str) -> bool:
    """Return True if a column of this name may be the item id, the time, or a price or volume."""
    known = plain(name)
    return known in (*ID_NAMES, *FINE_STAMPS, *_COARSE_STAMPS, *_STEPS) or market_name(name) is not None


def is_key_name(name: str) -> bool:
    """Return True if a column of this name usually says which item a row belongs to: Store ID, storeId, store_id."""
    return plain(name).replace("_", "") in _KEY_NAMES


def feature_role(name: str) -> str | None:
    """Return "past" or "known" for the names that GluonTS gives to covariates over time, None for any other name."""
    found = re.fullmatch(r"(past_)?feat_dynamic_(?:real|cat)(?:_\d+)?", name)
    return None if found is None else "past" if found[1] else "known"


@dataclass(frozen=True)
class Roles:
    """Roles of the columns of one table. values: (name in the file, name in the corpus), in corpus order."""

    item: tuple[str, ...]  # columns whose texts together are the item id; none: the file is one item
    stamps: tuple[str, ...]  # candidates, best first; ("date", "time") may have to be joined
    step: str | None
    values: tuple[tuple[str, str], ...]
    market: bool


def recognise(path: Path, names: Sequence[str], options: ImportOptions) -> Roles:
    """Return the roles of a table's columns. DataError if two columns match a role and no option decides."""
    ids = id_columns(path, names, options)
    given = _given_roles(path, names, options)
    for wanted in (
        options.timestamp_column,
        *options.columns,
        *options.target,
        *options.categorical,
    ):
        if wanted is not None and not _given(wanted, names, given):
            _unknown(path, wanted, names)
    market = market_names(names, given)
    found = _item(path, [name for name in names if name not in given], market) if not ids else None
    item = ids or ((found,) if found is not None else ())
    chosen = _pick(options.timestamp_column, names)
    step = next((name for name in names if name.strip() in _STEPS and name not in (*item, *market, *given)), None)
    if chosen is not None:
        stamps: tuple[str, ...] = (chosen,)
        step = None if chosen == step else step
    else:
        taken = {*item, *market, *given}
        fine = [name for name in names if plain(name) in FINE_STAMPS and name not in taken]
        coarse = [name for name in names if _is_coarse(plain(name)) and name not in {*taken, *fine}]
        stamps = (*fine, *coarse)
    roles = Roles(item, stamps, step, (), bool(market))
    free = [name for name in names if name not in item and (name not in stamps or chosen is None)]
    pairs = [(name, given.get(name) or market.get(name, name.strip())) for name in free if name != chosen]
    order = ("target", *USUAL_ORDER) if "target" in given.values() else USUAL_ORDER
    pairs.sort(key=lambda pair: order.index(pair[1]) if pair[1] in order else len(order))
    return Roles(roles.item, stamps, step, tuple(pairs), roles.market)


def _is_coarse(known: str) -> bool:
    parts = (*PARTS["year"], *PARTS["month"], *(name for names in YEARS_WITH.values() for name in names))
    return known in _COARSE_STAMPS or known in parts or is_saved_index(known)


def id_columns(path: Path, names: Sequence[str], options: ImportOptions) -> tuple[str, ...]:
    """Return the columns that the user named as the item id; a column whose own name has a comma comes first."""
    wanted = options.id_column
    if wanted is None:
        return ()
    if isinstance(wanted, str):
        whole = _pick(wanted, names)
        parts = (wanted,) if whole is not None or "," not in wanted else tuple(p.strip() for p in wanted.split(","))
    else:
        parts = wanted
    found = []
    for part in parts:
        name = _pick(part, names)
        if name is None:
            _unknown(path, part, names)
        found.append(str(name))
    return tuple(dict.fromkeys(found))


def _given_roles(path: Path, names: Sequence[str], options: ImportOptions) -> dict[str, str]:
    """Return name in the file -> name in the corpus for the columns whose role the user named."""
    given: dict[str, str] = {}
    for role, wanted in options.column:
        name = _pick(wanted, names)
        if name is None:
            _unknown(path, wanted, names)
        given[str(name)] = role
    return given


def market_names(names: Sequence[str], given: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """Return name in the file -> standard name for the columns of a market table, {} for other tables.

    given: roles that the user named. One of a price or volume makes it a market table.
    """
    chosen = {name: role for name, role in given.items() if role in USUAL_ORDER}
    found = _market_aliases([name for name in names if name not in given], sure=bool(chosen))
    # a role that the user gave is free of the column that it would have by name, unless that one is called just so
    found = {name: role for name, role in found.items() if role not in chosen.values() or plain(name) == role}
    return {**found, **chosen}


def _market_aliases(names: Sequence[str], *, sure: bool) -> dict[str, str]:
    """Return name -> standard name by the names alone, {} unless they are those of bars. sure: the table is known."""
    by_plain: dict[str, str] = {}
    for name in names:
        by_plain.setdefault(plain(name), name)
    found: dict[str, str] = {}
    for canonical, aliases in _MARKET.items():
        alias = next((alias for alias in aliases if alias in by_plain), None)
        if alias is not None and by_plain[alias] not in found:
            found[by_plain[alias]] = canonical
    if sure:
        return {name: role for name, role in found.items() if plain(name) not in _VAGUE}
    kinds = set(found.values())
    explicit = ({*_MARKET["close"]} - {"price"}) & by_plain.keys()
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
    return next((name for name in names if market and plain(name) in _MARKET_IDS), None)


def _given(wanted: str, names: Sequence[str], given: Mapping[str, str]) -> bool:
    known = {*given.values(), *market_names(names, given).values()}
    return _pick(wanted, names) is not None or wanted in known


def _pick(wanted: str | None, names: Sequence[str]) -> str | None:
    """Return the column that a user named: the exact name, else the only one that is equal after normalisation."""
    if wanted is None:
        return None
    if wanted in names:
        return wanted
    close = [name for name in names if plain(name) == plain(wanted)]
    return close[0] if len(close) == 1 else None


def corpus_name(wanted: str, names: Sequence[str]) -> str | None:
    """Return the corpus column that a user means by a name, perhaps one in the file: Close/Last is close.

    None if no column, or more than one, may be meant.
    """
    found = _pick(wanted, names)
    if found is not None:
        return found
    standard = [canonical for canonical, aliases in _MARKET.items() if plain(wanted) in aliases]
    return standard[0] if len(standard) == 1 and standard[0] in names else None


def _unknown(path: Path, wanted: str, names: Sequence[str]) -> None:
    hint = did_you_mean(wanted, names, f"It has {', '.join(map(repr, names))}.")
    raise DataError(f"{path}: no column {wanted!r}. {hint}")


def keep(pairs: Sequence[tuple[str, str]], options: ImportOptions) -> list[tuple[str, str]]:
    """Return the value columns selected by the options, in their order."""
    by_name = {**{name: (name, final) for name, final in pairs}, **{final: (name, final) for name, final in pairs}}
    given = dict(options.column)
    by_name |= {final: (name, final) for name, final in pairs if final in given and plain(given[final]) == plain(name)}
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
        tuple(index[prefix + side] for side in SIDES)
        for prefix in sorted(prefixes, key=lambda p: (p != "", p))
        if all(prefix + side in index for side in SIDES)
    )
    prices = {i for bar in bars for i in bar}
    prices |= {index[name] for name in ("close", "adj_close", "vwap") if name in index}
    for name in ("open", "high", "low"):
        if name in index and "close" in index:
            prices.add(index[name])
    volumes = tuple(index[name] for name in ("volume", "adj_volume") if name in index) if prices else ()
    return MarketColumns(tuple(names), np.array(categorical, bool), bars, tuple(sorted(prices)), volumes)  # type: ignore[arg-type]
