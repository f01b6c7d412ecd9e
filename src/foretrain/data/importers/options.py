"""Options of an import."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from foretrain.data.duplicates import Duplicates
from foretrain.data.importers.date_formats import check_date_format
from foretrain.data.importers.epochs import TimeUnit
from foretrain.data.rules import OnBad
from foretrain.errors import DataError
from foretrain.hints import did_you_mean
from foretrain.timeaxis.frequency import Frequency

Format = Literal["table", "panel", "wide", "array", "hf"]
USUAL_ORDER = ("open", "high", "low", "close", "adj_open", "adj_high", "adj_low", "adj_close", "volume", "adj_volume",
          "amount", "vwap", "dividends", "stock_splits")  # fmt: skip
ROLES = ("item_id", "timestamp", "target", *USUAL_ORDER)
_LISTS = ("target", "columns", "categorical", "names", "na_values")  # options that text may give as a,b


@dataclass(frozen=True)
class ImportOptions:
    """Settings of one import; None or empty means: infer it from the files, and fail if that is ambiguous.

    Attributes:
        format: "table" (rows of one or many items), "panel" (each column is an item), "wide" (each row is an item, each
            column a time), "array", "hf".
        id_column: column of item ids; several columns, as a tuple or as "a,b", are joined with "/".
        column: (role, column of the file) for columns whose names do not say their role; see ROLES.
        duplicates: which of several rows of one item and stamp that differ is kept, or their mean; "error" refuses.
        allow_loss: share of an item's and of all rows whose values may disappear; 0 refuses any loss.
        target: value columns that must exist; they come first, in this order.
        columns: the only value columns to keep, in this order.
        categorical: columns read as text even if some cells look like numbers.
        names: column names of text files without a header.
        decimal: "." or ",", the decimal mark of all text columns; needed only if a column such as 1,234 is ambiguous.
        na_values: further spellings of a missing value, for example "-9999".
        dayfirst: True if 01/02/2020 is 1 February; needed only if a column is ambiguous.
        date_format: pattern of strptime by which stamps are read, for example "%d/%m/%y".
        time_unit: unit of epoch numbers ("s", "ms", "us", "ns"), where their size does not show it.
        calendar: exchange whose sessions the bars have (XNYS); gaps and bars beside them are then known, not guessed.
        id_pattern: regular expression with one group that extracts the item id from a file's name.
    """

    on_bad: OnBad = "fix"
    format: Format | None = None
    id_column: str | tuple[str, ...] | None = None
    timestamp_column: str | None = None
    column: tuple[tuple[str, str], ...] = ()
    duplicates: Duplicates | None = None
    allow_loss: float | None = None
    target: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    freq: str | None = None
    timezone: str | None = None
    adjust: bool = False
    calendar: str | None = None
    min_rows: int | None = None
    encoding: str | None = None
    skip_rows: int | None = None
    header: bool = True
    names: tuple[str, ...] = ()
    na_values: tuple[str, ...] = ()
    decimal: str | None = None
    dayfirst: bool | None = None
    date_format: str | None = None
    time_unit: TimeUnit | None = None
    id_pattern: str | None = None

    @classmethod
    def of(cls, **options: Any) -> ImportOptions:
        """Build options from keywords: lists become tuples, None means the default.

        Options that hold several names take "a,b" too, and `column` a mapping, or texts ROLE=NAME.
        """
        unknown = sorted(set(options) - {field.name for field in fields(cls)})
        if unknown:
            raise TypeError(f"import_corpus has no option {unknown[0]!r}")
        given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
        for key, value in given.items():
            if key == "column":
                given[key] = _role_pairs(value)
            elif key in _LISTS and isinstance(value, str):
                given[key] = tuple(name.strip() for name in value.split(","))
            elif isinstance(value, list):
                given[key] = tuple(value)
        return cls(**given)

    def __post_init__(self) -> None:
        self._take_roles()
        if self.duplicates is not None and self.duplicates not in get_args(Duplicates):
            raise DataError(f"duplicates {self.duplicates!r}: choose {', '.join(get_args(Duplicates))}.")
        if self.allow_loss is not None and not 0 <= self.allow_loss <= 1:
            raise DataError(f"allow_loss {self.allow_loss:g} is no share; say one from 0 (no loss) to 1.")
        if self.on_bad not in get_args(OnBad):
            raise DataError(f"on_bad {self.on_bad!r}: choose fix, drop or error.")
        if self.format is not None and self.format not in get_args(Format):
            raise DataError(f"format {self.format!r}: choose {', '.join(get_args(Format))}, or leave it out.")
        if self.freq is not None:
            Frequency.storable(self.freq)
        if self.names and self.header:
            raise DataError("names are for files without a header; say header=False (--no-header) too.")
        if self.date_format is not None:
            check_date_format(self.date_format)
        if self.time_unit is not None and self.time_unit not in get_args(TimeUnit):
            raise DataError(f"time_unit {self.time_unit!r}: choose {', '.join(get_args(TimeUnit))}.")
        for other, given in (("time_unit", self.time_unit), ("dayfirst", self.dayfirst)):
            if self.date_format is not None and given is not None:
                raise DataError(f"date_format says how stamps are written; leave {other} out.")
        if self.decimal not in (None, ".", ","):
            raise DataError(f"decimal {self.decimal!r}: choose . or , (the decimal mark of the numbers).")
        twice = next((name for name in self.names if self.names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"names: {twice!r} is given twice. Give each column a name of its own.")
        if self.timezone is not None:
            _check_zone(self.timezone)
        if self.id_pattern is not None:
            _check_pattern(self.id_pattern)

    def _take_roles(self) -> None:
        """Check `column`, and move the item id and the time to the options that name those columns."""
        given: dict[str, Any] = {}
        for role, name in self.column:
            if role not in ROLES:
                hint = did_you_mean(role, ROLES, f"Roles are {', '.join(ROLES)}.")
                raise DataError(f"column {role}={name}: no role {role!r}. {hint}")
            if not isinstance(name, str) and role != "item_id":
                raise DataError(f"column {role}={name}: name one column.")
            if given.get(role, name) != name:
                raise DataError(f"column {role}={name}: {role} is {given[role]!r} already; name one column.")
            if name in given.values() and given.get(role) != name:
                raise DataError(f"column {role}={name}: {name!r} has another role already; give it one.")
            given[role] = name
        for role, option in (("item_id", "id_column"), ("timestamp", "timestamp_column")):
            name = given.pop(role, None)
            if name is None:
                continue
            if getattr(self, option) not in (None, name):
                raise DataError(f"column {role}={name}: {option} says {getattr(self, option)!r}; name one column.")
            object.__setattr__(self, option, name)
        object.__setattr__(self, "column", tuple(given.items()))

    def item_id(self, path: Path) -> str:
        """Return the item id of a file: its name without .csv, .csv.gz and so on, or the group of id_pattern."""
        found = self.found_id(path)
        if found is None:
            raise DataError(
                f"{path}: the name without folder and ending, {_stem(path)!r}, does not match id_pattern "
                f"{self.id_pattern!r}."
            )
        return found

    def found_id(self, path: Path) -> str | None:
        """Return the item id of a file, None if its name does not match id_pattern."""
        if self.id_pattern is None:
            return _stem(path)
        found = re.search(self.id_pattern, _stem(path))
        return found[1] if found else None


def _stem(path: Path) -> str:
    stem = path.name
    while Path(stem).suffix.lower() in _SUFFIXES:
        stem = Path(stem).stem
    return stem


_SUFFIXES = {".csv", ".txt", ".tsv", ".tsf", ".gz", ".zip", ".parquet", ".pq", ".feather", ".json", ".jsonl", ".ndjson",
             ".xlsx", ".xlsm", ".npy", ".npz"}  # fmt: skip


def _role_pairs(given: Any) -> tuple[tuple[str, Any], ...]:
    """Return (role, name) from a mapping, from pairs, from texts ROLE=NAME, or from one text with commas between."""
    if isinstance(given, Mapping):
        given = given.items()
    elif isinstance(given, str):
        given = re.split(rf",(?=\s*(?:{'|'.join(ROLES)})\s*=)", given)
    pairs = []
    for entry in given:
        role, name = entry.partition("=")[::2] if isinstance(entry, str) else entry
        name = tuple(name) if isinstance(name, list) else name.strip() if isinstance(name, str) else name
        if not role.strip() or not name:
            raise DataError(f"column {entry!r}: say ROLE=NAME, for example close=Settlement.")
        pairs.append((role.strip(), name))
    return tuple(pairs)


def _check_zone(name: str) -> None:
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):
        raise DataError(f"timezone {name!r} is not known; use an IANA name such as America/New_York or UTC.") from None


def _check_pattern(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise DataError(f"id_pattern {pattern!r} is not a regular expression: {error}.") from None
    if groups != 1:
        raise DataError(f"id_pattern {pattern!r} needs exactly one group, for example '^([A-Z]+)-'.")
