"""What is known of each symbol: class, currency, exchange, calendar, precision and fees; asset_metadata.json.

A library's own file says of each entry which keys were told by the symbol's name (`from_name`) or are usual of its
class or were read off its bars (`from_default`): where that file is read again, these are not taken for given ones.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.errors import DataError
from foretrain.reading import believing, read_object

FEES = {"equity": 0.0005, "crypto": 0.001}  # share of a trade, the defaults of the layout that is read
_TEXTS = ("asset_class", "currency", "exchange", "calendar")
_NUMBERS = ("default_trading_fee", "precision")
_TOLD = ("from_name", "from_default")
_QUOTES = ("USDT", "USDC", "BUSD", "USD", "EUR", "GBP", "JPY")
_COINS = frozenset({
    "AAVE", "ADA", "ALGO", "ATOM", "AVAX", "BCH", "BNB", "BTC", "DOGE", "DOT", "ETC", "ETH", "FIL", "LINK", "LTC",
    "MATIC", "NEAR", "SHIB", "SOL", "SUI", "TRX", "UNI", "XLM", "XRP",
})  # fmt: skip
_MONEY = frozenset({
    "AUD", "CAD", "CHF", "CNH", "DKK", "EUR", "GBP", "HKD", "JPY", "MXN", "NOK", "NZD", "PLN", "SEK", "SGD", "TRY",
    "USD", "ZAR",
})  # fmt: skip
# Market identifier codes of exchanges as Yahoo calls them
_YAHOO = {
    "NMS": "XNAS", "NGM": "XNAS", "NCM": "XNAS", "NYQ": "XNYS", "PCX": "ARCX", "ASE": "XASE", "BTS": "BATS",
    "TOR": "XTSE", "LSE": "XLON", "GER": "XETR", "FRA": "XFRA", "PAR": "XPAR", "AMS": "XAMS", "JPX": "XTKS",
    "HKG": "XHKG", "SHH": "XSHG", "ASX": "XASX", "EBS": "XSWX", "MIL": "XMIL",
}  # fmt: skip
_SAMPLE = 1000  # newest closes that show the precision
MAX_PRECISION = 18  # decimal places, of coins
MAX_FEE = 0.1  # share of a trade: more is a percentage, or basis points
NAME = "asset_metadata.json"


def read_assets(path: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of an asset_metadata.json by symbol. Raises DataError naming the entry that is wrong."""
    try:
        tree = read_object(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read: {' '.join(str(error).split())}. Repair it, or move it away."
        ) from None
    for symbol, entry in tree.items():
        if not isinstance(entry, dict):
            raise DataError(f"{path}: {symbol}: not an object with asset_class, currency and so on. Repair the file.")
        for key in _TEXTS:
            if not isinstance(entry.get(key), str | None):
                raise DataError(f"{path}: {symbol}: {key} is {entry[key]!r}, no text. Repair the file.")
        _check_numbers(f"{path}: {symbol}", entry)
    return tree


def _check_numbers(where: str, entry: dict[str, Any]) -> None:
    for key in _NUMBERS:
        value = entry.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0):
            raise DataError(f"{where}: {key} is {str(value)[:50]!r}, no number from 0. Repair the file.")
    fee, precision = (entry.get(key) for key in _NUMBERS)
    if fee is not None and fee > MAX_FEE:
        raise DataError(
            f"{where}: default_trading_fee is {str(fee)[:50]}; it is a share of the value traded, at most {MAX_FEE:g} "
            "(0.1% is 0.001). Repair the file."
        )
    if precision is not None and (precision != int(precision) or precision > MAX_PRECISION):
        raise DataError(
            f"{where}: precision is {str(precision)[:50]}; it is a number of decimal places, 0 to {MAX_PRECISION}. "
            "Repair the file."
        )


def read_own_assets(path: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of a library's own file without what names, classes and bars told. Raises DataError."""
    found = {}
    for symbol, entry in read_assets(path).items():
        told = [key for name in _TOLD if isinstance(entry.get(name), list) for key in entry[name]]
        found[symbol] = {key: value for key, value in entry.items() if key not in (*told, *_TOLD)}
    return found


def read_downloads(path: Path) -> dict[str, dict[str, Any]]:
    """Return what `data market download` recorded of the symbols of a folder, by the names of their files; {} for a
    folder without its record. Raises DataError for a record that cannot be read."""
    if not path.is_file():
        return {}
    found: dict[str, dict[str, Any]] = {}
    with believing(path, DataError, "Download the folder anew, or move the file away."):
        try:
            tree = read_object(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from None
        for record in tree.get("symbols", {}).values():
            if "file" in record:
                fees, places = record.get("fees") or {}, (record.get("precision") or {}).get("price")
                kind = record.get("class")
                found[Path(record["file"]).stem] = {
                    "asset_class": "equity" if kind in ("stock", "etf") else kind,
                    "kind": kind,
                    "currency": record.get("currency"),
                    "exchange": record.get("exchange") if kind == "crypto" else _YAHOO.get(str(record.get("exchange"))),
                    "default_trading_fee": fees.get("taker"),
                    "precision": None if not places or not 0 < places < 1 else round(-math.log10(places)),
                }
    return found


def asset_of(symbol: str, given: dict[str, Any] | None, closes: np.ndarray) -> dict[str, Any]:
    """Return the entry of a symbol: what was given, and what its name and its closes tell where nothing was.

    `from_name` lists the keys that the name told, `from_default` those that are usual of the class (the fee) or read
    off the closes (the precision). The exchange and the calendar of a stock are never guessed; what is not known is
    null.
    """
    told = _by_name(symbol)
    entry: dict[str, Any] = {"symbol": symbol}
    guessed = list[str]()
    for key in _TEXTS:
        entry[key] = (given or {}).get(key)
        if entry[key] is None and told.get(key) is not None:
            entry[key] = told[key]
            guessed.append(key)
    usual = {"default_trading_fee": FEES.get(str(entry["asset_class"])), "precision": decimals(closes)}
    default = list[str]()
    for key in _NUMBERS:
        entry[key] = (given or {}).get(key)
        if entry[key] is None and usual[key] is not None:
            entry[key] = usual[key]
            default.append(key)
    entry |= {"from_name": guessed, "from_default": default}
    return {**{key: value for key, value in (given or {}).items() if key not in entry}, **entry}


def _by_name(symbol: str) -> dict[str, str | None]:
    """Return the class that a symbol's name tells: a pair of a coin or of two currencies, else a stock or fund."""
    plain = re.sub(r"[-_/:=. ]", "", symbol.upper().removesuffix("=X"))
    for quote in _QUOTES:
        base = plain.removesuffix(quote)
        if base == plain or not base:
            continue
        if base in _MONEY:
            return {"asset_class": "forex", "currency": quote, "exchange": None, "calendar": None}
        if base in _COINS or quote in ("USDT", "USDC", "BUSD") or re.search(rf"[-_/]{quote}$", symbol.upper()):
            return {"asset_class": "crypto", "currency": quote, "exchange": None, "calendar": "24/7"}
    return {"asset_class": "equity", "currency": None, "exchange": None, "calendar": None}


def decimals(closes: np.ndarray) -> int | None:
    """Return the decimal places that prices have, by the newest ones: 99% have no more. None without prices."""
    newest = closes[np.isfinite(closes)][-_SAMPLE:]
    if not len(newest):
        return None
    texts = [np.format_float_positional(np.float32(value), unique=True, trim="-") for value in newest]
    places = np.sort([len(text.partition(".")[2]) for text in texts])
    return int(places[max(0, int(np.ceil(0.99 * len(places))) - 1)])
