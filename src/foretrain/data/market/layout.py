"""The files of a folder of symbols by what they are: whole series, parts of them, unseen symbols, subsets.

FOLDER/AAPL.csv                the series, or the union of its parts
FOLDER/{train,val,test}/       parts of series
FOLDER/unseen15/               symbols that no training may see, as files or in parts
FOLDER/cache/                  not read
FOLDER/any/                    a subset, if its symbols are all known from elsewhere: a list of names, not read itself
"""

from __future__ import annotations

import filecmp
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.table_files import COLUMNAR, IGNORED, TEXTS, suffix_of
from foretrain.errors import DataError

PARTS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
WHOLE = "whole"
_UNSEEN = re.compile(r"unseen_?\d*", re.IGNORECASE)
_LEFT = ("cache", ".cache", "__pycache__")
_PLAIN = (".csv", ".tsv", ".txt")
_KINDS = (*TEXTS, *COLUMNAR)


@dataclass
class SymbolFiles:
    """The files of one symbol by part: whole, train, validation, test."""

    symbol: str
    unseen: bool = False
    parts: dict[str, Path] = field(default_factory=dict)
    copies: list[Path] = field(default_factory=list)  # in folders of unseen symbols beside others
    listed: list[Path] = field(default_factory=list)  # copies in folders of subsets, which are not read

    @property
    def files(self) -> list[Path]:
        """All files that are read of the symbol, parts first, in the order of time."""
        order = (WHOLE, "train", "validation", "test")
        return [*(self.parts[part] for part in order if part in self.parts), *self.copies]


@dataclass
class SymbolFolder:
    """What a folder holds."""

    folder: Path
    symbols: dict[str, SymbolFiles]
    subsets: dict[str, tuple[str, ...]]  # name of the folder -> symbols
    left: tuple[str, ...]  # folders that are not read
    metadata: Path | None  # asset_metadata.json


def scan(folder: Path, options: ImportOptions) -> SymbolFolder:
    """Return the files of a folder by symbol. Raises DataError for two files of one part, and without any table."""
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "no such folder"
        raise DataError(f"{folder}: {what}. Name the folder that holds a file for each symbol.")
    known: dict[str, SymbolFiles] = {}
    left, others = list[str](), list[Path]()
    _take(known, _tables(folder, options), WHOLE)
    for child in sorted(path for path in folder.iterdir() if path.is_dir()):
        name = child.name.lower()
        if name in _LEFT or name.startswith("."):
            left.append(child.name)
        elif name in PARTS:
            _take(known, _tables(child, options), PARTS[name])
        elif _UNSEEN.fullmatch(name):
            _take_unseen(known, child, options)
        else:
            others.append(child)
    subsets = {child.name: _take_subset(known, child, options) for child in others}
    if not known:
        raise DataError(f"{folder}: holds no table of a symbol ({', '.join(_KINDS)}), nor do train/, test/ or unseen/.")
    metadata = folder / "asset_metadata.json"
    return SymbolFolder(
        folder,
        {name: known[name] for name in sorted(known)},
        {name: symbols for name, symbols in subsets.items() if symbols},
        (*left, *(name for name, symbols in subsets.items() if not symbols)),
        metadata if metadata.is_file() else None,
    )


def _tables(folder: Path, options: ImportOptions) -> dict[str, Path]:
    """Return the tables in a folder, not those in folders of it, by symbol."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file() or path.name.lower() in IGNORED:
            continue
        if not suffix_of(path.name, _KINDS):
            continue
        symbol = options.item_id(path)
        if symbol in found:
            raise DataError(f"{path} and {found[symbol].name} both give the symbol {symbol!r}. Delete or rename one.")
        found[symbol] = path
    _refuse_alike(folder, found)
    return found


def _refuse_alike(folder: Path, symbols: Iterable[str]) -> None:
    """Raise DataError for symbols that are one name where a file system knows no case."""
    seen: dict[str, str] = {}
    for symbol in symbols:
        other = seen.setdefault(symbol.casefold(), symbol)
        if other != symbol:
            raise DataError(f"{folder}: symbols {other!r} and {symbol!r} differ in case alone. Rename one.")


def _take(known: dict[str, SymbolFiles], tables: dict[str, Path], part: str, *, unseen: bool = False) -> None:
    for symbol, path in tables.items():
        files = known.setdefault(symbol, SymbolFiles(symbol, unseen))
        if part in files.parts:
            files.copies.append(path)
        else:
            files.parts[part] = path
        files.unseen |= unseen


def _take_unseen(known: dict[str, SymbolFiles], folder: Path, options: ImportOptions) -> None:
    """Take the symbols of a folder of unseen ones: files, or train/, val/ and test/ in it."""
    _take(known, _tables(folder, options), WHOLE, unseen=True)
    for child in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        part = PARTS.get(child.name.lower())
        if part is None:
            raise DataError(f"{child}: not a part of unseen symbols (train, val, test). Move it elsewhere.")
        _take(known, _tables(child, options), part, unseen=True)


def _take_subset(known: dict[str, SymbolFiles], folder: Path, options: ImportOptions) -> tuple[str, ...]:
    """Take the copies of known symbols in another folder, wherever they are in it; return these symbols.

    Raises DataError if some of its symbols are known and others not: it may be a subset, or a folder of more symbols.
    """
    found: dict[str, list[Path]] = {}
    for place in (folder, *sorted(path for path in folder.rglob("*") if path.is_dir())):
        for symbol, path in _tables(place, options).items():
            found.setdefault(symbol, []).append(path)
    new = [symbol for symbol in found if symbol not in known]
    if new:
        raise DataError(
            f"{folder}: holds {new[0]!r}{f' and {len(new) - 1:,} more' if len(new) > 1 else ''}, which are neither in "
            f"{folder.parent} nor in its train/, test/ or unseen folders, so it is no subset of them. Move these files "
            f"to {folder.parent}, or the folder elsewhere."
        )
    for symbol, paths in found.items():
        known[symbol].listed += paths
    return tuple(sorted(found))


def other_copies(layout: SymbolFolder) -> list[Path]:
    """Return the copies in folders of subsets that hold a line which no file of their symbol has.

    Of compressed and columnar files, those of other bytes.
    """
    found = []
    for files in layout.symbols.values():
        own: set[bytes] = set()
        for copy in files.listed:
            alike = [path for path in files.files if path.stat().st_size == copy.stat().st_size]
            if any(filecmp.cmp(copy, path, shallow=False) for path in alike):
                continue
            plain = all(path.suffix.lower() in _PLAIN for path in (copy, *files.files))
            own = own or {line for path in files.files if plain for line in path.read_bytes().splitlines()}
            if not plain or not own.issuperset(copy.read_bytes().splitlines()):
                found.append(copy)
    return found
