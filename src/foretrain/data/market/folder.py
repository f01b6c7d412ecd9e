"""The folder of a library: a CSV file for each symbol, and provenance.json, which says where each comes from.

provenance.json names the hash of every file. A record whose file is about to be written stands in it as `next`
beforehand, so that a kill at any moment leaves records that fit their files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from foretrain.atomic import remove_empty, replacing_file, write_json, write_text
from foretrain.data.market.bars import Bars, csv_text, read_bars
from foretrain.errors import ConfigError, DataError
from foretrain.locks import FileLock
from foretrain.reading import Unreadable, believing, read_bytes, read_object

NAME = "provenance.json"
FORMAT = "foretrain market library 1"
SETTINGS = ("source", "exchange", "interval", "start")
_REMEDY = "Download the library anew into another folder."
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # that Windows takes for devices
_LARGEST = 4 << 30  # bytes of a file


class MarketFolder:
    """A library of one source, exchange and interval, which one process writes at a time.

    settings: source, exchange, interval, start of all its symbols; symbols: the record of each by its name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings: dict[str, Any] = {}
        self.symbols: dict[str, dict[str, Any]] = {}
        self._next: dict[str, dict[str, Any]] = {}
        self._missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        self._lock = FileLock(path / ".download.lock", path, "is downloading into this folder", DataError)

    def __enter__(self) -> MarketFolder:
        """Take the lock, and read the records. Raises DataError."""
        self._lock.__enter__()
        try:
            self._read()
        except BaseException:  # any: the lock must not outlive this
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.__exit__()
        remove_empty(self._missing)  # if nothing was downloaded

    def bars(self, symbol: str) -> Bars:
        """Return the stored bars of a symbol. Raises DataError if its file is not the one that was written."""
        self.check(symbol)
        return read_bars(self.path / self.symbols[symbol]["file"])

    def check(self, symbol: str) -> None:
        """Raise DataError if the file of a symbol is not the one that was written."""
        record = self.symbols[symbol]
        if _hash(self.path / record["file"]) != record["sha256"]:
            raise DataError(
                f"{self.path / record['file']}: is not the file that was downloaded. Delete it to have it anew"
            )

    def has(self, symbol: str) -> bool:
        """Return whether a symbol was downloaded and its file, whatever it holds, is there."""
        return symbol in self.symbols and (self.path / self.symbols[symbol]["file"]).exists()

    def store(self, symbol: str, bars: Bars, facts: Mapping[str, Any]) -> None:
        """Write the file of a symbol and its record."""
        text = csv_text(bars)
        record = {
            "file": f"{file_stem(symbol)}.csv",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "rows": len(bars),
            "first": bars.stamp(0),
            "last": bars.stamp(-1),
            **facts,
        }
        self._next[symbol] = record
        self._write()
        with replacing_file(self.path / record["file"]) as scratch:
            write_text(scratch, text)
        self.symbols[symbol] = self._next.pop(symbol)
        self._write()

    def _read(self) -> None:
        path = self.path / NAME
        if not path.exists():
            others = [entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")]
            if others:
                raise ConfigError(f"{self.path}: holds {others[0]!r} and no {NAME}. Choose a new folder.")
            return
        try:
            found = read_object(path)
        except (OSError, Unreadable) as error:
            raise DataError(f"{path}: cannot be read ({error}). {_REMEDY}") from None
        if found.get("format") != FORMAT:
            raise DataError(f"{path}: is no record of a library of this version. {_REMEDY}")
        with believing(path, DataError, _REMEDY):
            self.settings = {name: _text(found["settings"][name]) for name in SETTINGS}
            for symbol, entry in found["symbols"].items():
                self._take(symbol, entry)

    def _take(self, symbol: str, entry: dict[str, Any]) -> None:
        """Take the record of a symbol, or the one that follows it if its file was written before a kill."""
        following = entry.pop("next", None)
        for record in filter(None, (following, entry)):
            if record["file"] != f"{file_stem(symbol)}.csv" or not _text(record["sha256"]):
                raise ValueError(f"the file {record['file']!r} of {symbol!r}")
        if following and _hash(self.path / following["file"]) == following["sha256"]:
            entry = following
        if entry:
            self.symbols[symbol] = entry

    def _write(self) -> None:
        names = sorted(self.symbols.keys() | self._next.keys())
        entries = {name: dict(self.symbols.get(name, {})) for name in names}
        for name, record in self._next.items():
            entries[name]["next"] = record
        with replacing_file(self.path / NAME) as scratch:
            write_json(scratch, {"format": FORMAT, "settings": self.settings, "symbols": entries})


def file_stem(symbol: str) -> str:
    """Return the name of a symbol's file, without .csv, that every file system takes: BTC/USDT is BTC-USDT."""
    name = re.sub(r"[^A-Za-z0-9.-]", "_", symbol.replace("/", "-"))
    name = re.sub(r"^[.-]", "_", re.sub(r"\.$", "_", name))
    return f"{name}_" if _RESERVED.fullmatch(name) else name


def check_names(symbols: Iterable[str]) -> None:
    """Raise ConfigError if two symbols have one file name, also where upper and lower case are one."""
    taken: dict[str, str] = {}
    for symbol in symbols:
        if not symbol or len(symbol) > 100:
            raise ConfigError(f"{symbol[:20]!r}: is no symbol.")
        other = taken.setdefault(file_stem(symbol).casefold(), symbol)
        if other != symbol:
            raise ConfigError(
                f"{symbol!r} and {other!r}: would both be written to {file_stem(symbol)}.csv. Download them into two "
                "folders."
            )


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _hash(path: Path) -> str:
    """Return the sha256 of a file; "" if it cannot be read."""
    try:
        return hashlib.sha256(read_bytes(path, _LARGEST)).hexdigest()
    except (OSError, Unreadable):
        return ""
