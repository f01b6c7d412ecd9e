"""One symbol's files as one series: their union checked, where its parts begin, and what a summary says of it.

Facts of files that did not change are taken from a cache, whose key is a hash of their content, the options and the
version.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from foretrain import __version__
from foretrain.atomic import empty_folder, remove, replacing_file, write_json
from foretrain.data.importers import ImportOptions, import_corpus
from foretrain.data.market.assets import decimals
from foretrain.data.market.calendars import ALWAYS, bars_per_year
from foretrain.data.market.layout import SymbolFiles
from foretrain.data.store import Corpus
from foretrain.errors import DataError
from foretrain.reading import read_object
from foretrain.timeaxis.grid import iso

_COMPARED = 20  # newest bars that both have
_SAME = 1e-3  # by which prices of one base may differ in the median
ANY_NAME = r"(.+)"  # pattern of ids that says that several files are parts of one series


@dataclass(frozen=True)
class Prepared:
    """Facts of one symbol. Times are microseconds of the corpus' clock; None = there is no such part."""

    symbol: str
    rows: int
    first: int
    last: int
    validation_from: int | None
    test_from: int | None
    freq: str | None
    timezone: str | None
    missing_share: float
    precision: int | None
    hashes: dict[str, str]  # file -> sha256


def as_parts(options: ImportOptions) -> ImportOptions:
    """Return the options with which several files are one series, and refused if they contradict each other."""
    return replace(options, id_pattern=options.id_pattern or ANY_NAME, duplicates=options.duplicates or "error")


def fields_of(options: ImportOptions) -> dict[str, Any]:
    """Return options as the keywords of import_corpus."""
    return {field.name: getattr(options, field.name) for field in fields(options)}


def prepare(
    files: SymbolFiles, folder: Path, options: ImportOptions, cache: Path, *, calendar: str | None = None
) -> Prepared:
    """Return the facts of a symbol. cache: a folder for those of files that do not change; it may be missing.

    calendar: the one that it is said to trade by. Raises DataError that names the file for files that contradict each
    other, parts in a wrong order, bars that contradict the calendar, and all that an import refuses.
    """
    if options.on_bad == "drop":  # markets are judged with all symbols, so that each has its peers
        options = replace(options, on_bad="fix")
    hashes = hashes_of(files, folder)
    parts = {part: path.relative_to(folder).as_posix() for part, path in files.parts.items()}
    head = json.dumps([__version__, hashes, parts, repr(as_parts(options)), calendar], sort_keys=True)
    entry = cache / f"{hashlib.sha256(head.encode()).hexdigest()}.json"
    known = _cached(entry, files.symbol, hashes)
    if known is not None:
        return known
    # of a symbol that trades always, an import needs no calendar; another one compares the bars with it
    options = replace(options, calendar=None if calendar == ALWAYS else calendar)
    found = _read(files, options, hashes, cache.with_name(f"{cache.name}-scratch"), calendar)
    cache.mkdir(parents=True, exist_ok=True)
    with replacing_file(entry) as scratch:
        write_json(scratch, asdict(found))
    return found


def other_base(files: SymbolFiles, options: ImportOptions, stored: Corpus, series: int, scratch: Path) -> float | None:
    """Return by which factor the prices of files differ from the newest ones of a stored series; None for the same.

    A source that adjusts prices for a split gives them another base: new rows must not follow the stored ones then.
    """
    empty_folder(scratch)
    try:
        options = replace(options, calendar=None)  # compared before
        found = _import(files.files, options, scratch / "all", files.symbol)
        old_times, new_times = stored.times(series), found.times(0)
        assert old_times is not None and new_times is not None
        _, at_old, at_new = np.intersect1d(old_times, new_times, return_indices=True)
        columns = [name for name in stored.manifest.price_columns if name in found.columns]
        if not len(at_old) or not columns:
            return None
        names, others = list(stored.columns), list(found.columns)
        before = stored.values(series)[[names.index(name) for name in columns]][:, at_old[-_COMPARED:]]
        after = found.values(0)[[others.index(name) for name in columns]][:, at_new[-_COMPARED:]]
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = after / before
        ratios = ratios[np.isfinite(ratios)]
        factor = float(np.median(ratios)) if len(ratios) else 1.0
        return None if abs(factor - 1) < _SAME else factor
    finally:
        remove(scratch)


def _cached(entry: Path, symbol: str, hashes: dict[str, str]) -> Prepared | None:
    try:
        tree: dict[str, Any] = read_object(entry)
        found = Prepared(**tree)
    except (OSError, ValueError, TypeError):
        return None
    return found if found.symbol == symbol and found.hashes == hashes else None


def _read(
    files: SymbolFiles, options: ImportOptions, hashes: dict[str, str], scratch: Path, calendar: str | None
) -> Prepared:
    empty_folder(scratch)  # what a kill left there would be found in the place of this symbol
    try:
        whole = _import(files.files, options, scratch / "all", files.symbol)
        times = whole.times(0)
        if times is None:
            raise DataError(f"{files.files[0]}: has no dates. A library needs a time stamp in each row.")
        begins = {}
        for part in ("train", "validation", "test"):
            if part in files.parts:
                held = _import([files.parts[part]], options, scratch / part, files.symbol).times(0)
                assert held is not None
                begins[part] = (int(held[0]), int(held[-1]))
        _check_order(files, begins)
        for part, (first, _) in begins.items():
            if times[min(int(np.searchsorted(times, first)), len(times) - 1)] != first:
                raise DataError(f"{files.parts[part]}: its first stamp is not one of all files: another clock?")
        values = whole.values(0)
        columns = list(whole.columns)
        closes = values[columns.index("close")] if "close" in columns else values[0]
        bars_per_year(files.symbol, times[np.isfinite(closes)], calendar)
        return Prepared(
            symbol=files.symbol,
            rows=len(times),
            first=int(times[0]),
            last=int(times[-1]),
            validation_from=begins["validation"][0] if "validation" in begins else None,
            test_from=begins["test"][0] if "test" in begins else None,
            freq=whole.manifest.freq,
            timezone=whole.manifest.timezone,
            missing_share=round(float(np.isnan(values).mean()), 4),
            precision=decimals(closes),
            hashes=hashes,
        )
    finally:
        remove(scratch)


def _import(paths: list[Path], options: ImportOptions, out: Path, symbol: str) -> Corpus:
    import_corpus(paths, out, name=symbol, **fields_of(as_parts(options)))
    corpus = Corpus.open(out)
    if corpus.num_series != 1:
        raise DataError(f"{paths[0]}: holds {corpus.num_series:,} items; a library has a file for each symbol.")
    return corpus


def _check_order(files: SymbolFiles, parts: dict[str, tuple[int, int]]) -> None:
    """Raise DataError unless each part ends before the next one begins."""
    order = [part for part in ("train", "validation", "test") if part in parts]
    for before, after in pairwise(order):
        if parts[before][1] >= parts[after][0]:
            raise DataError(
                f"{files.parts[before]} ends at {iso(parts[before][1])}, and {files.parts[after]} begins at "
                f"{iso(parts[after][0])}: the parts overlap, so a test of them would be of rows that training saw. "
                "Cut one of them."
            )


def hashes_of(files: SymbolFiles, folder: Path) -> dict[str, str]:
    """Return the sha256 of a symbol's files by their names in the folder."""
    found = {}
    for path in files.files:
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
