"""A library of market symbols: corpora by frequency, of symbols to train on and of unseen ones, with their facts.

LIB/B/, LIB/D/, LIB/h/         corpora of the symbols that may be trained on, by frequency
LIB/unseen/B/, ...             corpora of the symbols that no training may see
LIB/data_summary.csv           a line for each symbol: rows of its parts, dates, files, class
LIB/asset_metadata.json        class, currency, exchange, calendar, precision, fees
LIB/quality.csv                what the rules found in each corpus, and what was done about it
LIB/quarantine/                files of symbols that cannot be used, and why (reasons.csv); bars left out (bars.csv)
LIB/library.json               what the library was made of; an update reads it
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from foretrain import __version__
from foretrain.atomic import new_folder, remove, replacing_file, write_json, write_text
from foretrain.data.cuts import OwnCuts, read_cuts
from foretrain.data.importers import ImportOptions, ImportReport, import_corpus
from foretrain.data.market import unseen
from foretrain.data.market.assets import NAME as METADATA
from foretrain.data.market.assets import asset_of, read_assets, read_downloads, read_own_assets
from foretrain.data.market.calendars import ALWAYS, calendar_of, has_calendars
from foretrain.data.market.layout import SymbolFiles, SymbolFolder, other_copies, scan
from foretrain.data.market.library_report import (
    BARS,
    OF_COPIES,
    QUALITY,
    REASONS,
    SUMMARY,
    LibraryReport,
    csv_text,
    quality_rows,
)
from foretrain.data.market.prepare import Prepared, as_parts, fields_of, hashes_of, other_base, prepare
from foretrain.data.market.record import FORMAT_VERSION, NAME, UNSEEN, Cuts, LibraryEntry, read_library
from foretrain.data.store import Corpus
from foretrain.data.windows import IntArray
from foretrain.errors import DataError, of_the_disk
from foretrain.locks import FileLock
from foretrain.reading import believing, read_object, read_text
from foretrain.timeaxis.grid import iso

Progress = Callable[[int, int, str], None]
_LARGEST = 1 << 30  # bytes of bars.csv


def build(
    folder: Path,
    out: Path,
    *,
    options: ImportOptions | None = None,
    held_out: str | None = None,
    cuts: Cuts | None = None,
    metadata: Path | None = None,
    seed: int = 0,
    command: str | None = None,
    progress: Progress | None = None,
) -> LibraryReport:
    """Build a library of the symbols of a folder into the new folder `out`.

    held_out: a number of symbols to keep unseen, or their names as "A,B"; those in folders of unseen ones are too.
    metadata: an asset_metadata.json, by default the folder's. Raises DataError; `out` is then not there.
    """
    if out.exists():
        raise DataError(f"{out}: exists already. Say --update to add what is new, or choose another --out.")
    options, cuts = options or ImportOptions(), cuts or Cuts()
    layout = scan(folder, options)
    with new_folder(out) as scratch:
        work = _Work(layout, scratch, options, cuts, seed, command, progress or _silent)
        work.know(_given_assets(layout, metadata, None))
        prepared = work.prepare(layout.symbols)
        if not prepared:
            symbol, why = next(iter(work.quarantine.items()))
            raise DataError(f"{folder}: no symbol can be used. {symbol}: {why}")
        hidden = _hidden(held_out, layout, prepared, work.assets, seed)
        work.add(prepared, {}, hidden)
        work.finish()
    return replace(work.report, out=out)


def update(
    folder: Path,
    out: Path,
    *,
    options: ImportOptions | None = None,
    metadata: Path | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> LibraryReport:
    """Add new rows and symbols of a folder to a library. Parts begin where they began, and unseen symbols stay unseen.

    Raises DataError; corpora that were updated before stay so, and the next update goes on.
    """
    read_library(out)  # before the lock, which makes a folder for its file
    options = options or ImportOptions()
    layout = scan(folder, options)
    with FileLock(out / ".library.lock", out, "is writing this library", DataError):
        remove(out / ".cache-scratch")  # of an update that was killed
        tree = read_library(out)
        with believing(out / NAME, DataError, "Build the library anew."):
            old = {symbol: LibraryEntry.of(entry) for symbol, entry in tree["symbols"].items()}
            cuts, seed = Cuts.read(tree["cuts"]), int(tree["seed"])
            quarantine = {str(symbol): str(why) for symbol, why in tree["quarantined"].items()}
        work = _Work(layout, out, options, cuts, seed, command, progress or _silent)
        work.quarantine = quarantine
        _refuse_moved(layout, old)
        work.know(_given_assets(layout, metadata, out / METADATA))
        changed = {
            symbol: files for symbol, files in layout.symbols.items()
            if symbol not in old or old[symbol].files != hashes_of(files, folder)
        }  # fmt: skip
        work.add(work.prepare(changed), old, frozenset(name for name in changed if layout.symbols[name].unseen))
        work.finish()
    return work.report


def _silent(done: int, total: int, text: str) -> None:
    """Report no progress."""


def _given_assets(layout: SymbolFolder, metadata: Path | None, own: Path | None) -> dict[str, dict[str, Any]]:
    """Return what is given of symbols: recorded by a download, kept by the library, and said by a file, over both.

    metadata: that file, in the place of the folder's. Raises DataError for an entry that cannot be, and for a calendar
    or an exchange that is not known.
    """
    given = metadata or layout.metadata
    found = read_downloads(layout.folder / "provenance.json")
    for path, read in ((own, read_own_assets), (given, read_assets)):
        if path is not None and (path.exists() or path == metadata):
            for symbol, entry in read(path).items():
                found[symbol] = {**found.get(symbol, {}), **{k: v for k, v in entry.items() if v is not None}}
    return found


def _hidden(
    held_out: str | None, layout: SymbolFolder, prepared: Mapping[str, Prepared], assets: Mapping[str, Any], seed: int
) -> frozenset[str]:
    """Return the symbols that no training may see."""
    hidden = {name for name in prepared if layout.symbols[name].unseen}
    kinds = {
        name: str(asset_of(name, assets.get(name), np.empty(0))["asset_class"])
        for name in prepared
        if name not in hidden
    }
    if held_out is not None and held_out.strip().isdecimal():
        hidden |= set(unseen.drawn(int(held_out), kinds, seed))
    elif held_out is not None:
        hidden |= set(unseen.named(held_out, dict.fromkeys(prepared, "")))
    if len(hidden) == len(prepared):
        raise DataError(f"{layout.folder}: all {len(prepared)} symbols are unseen, and none is left to train on.")
    return frozenset(hidden)


def _refuse_moved(layout: SymbolFolder, old: Mapping[str, LibraryEntry]) -> None:
    for symbol, files in layout.symbols.items():
        if symbol in old and files.unseen and old[symbol].set == "trained":
            raise DataError(
                f"{symbol} is in a folder of unseen symbols now, and the library has it among those that models were "
                "trained on. Build a new library, or move its files back."
            )


class _Work:
    """One build or update."""

    def __init__(
        self, layout: SymbolFolder, out: Path, options: ImportOptions, cuts: Cuts, seed: int, command: str | None,
        progress: Progress,
    ) -> None:  # fmt: skip
        self.layout, self.out, self.options, self.cuts = layout, out, options, cuts
        self.seed, self.command, self.progress = seed, command, progress
        self.assets: dict[str, dict[str, Any]] = {}
        self.calendars: dict[str, str | None] = {}  # None: of a symbol that trades always
        self.quarantine: dict[str, str] = {}
        self.entries: dict[str, LibraryEntry] = {}
        self.prepared: dict[str, Prepared] = {}
        self.bars: list[str] = []  # lines of bars.csv
        self.report = LibraryReport(out, self.entries)

    def know(self, assets: dict[str, dict[str, Any]]) -> None:
        """Take what is given of symbols. Raises DataError for a calendar or an exchange that is not known."""
        self.assets, unchecked = assets, list[str]()
        for symbol in self.layout.symbols:
            entry = asset_of(symbol, assets.get(symbol), np.empty(0))
            try:
                code = calendar_of(symbol, entry)
            except DataError as error:
                raise DataError(f"{METADATA}: {error}") from None
            if code == ALWAYS:
                self.calendars[symbol] = None
            elif code is not None and has_calendars():
                self.calendars[symbol] = code
            elif code is not None:
                unchecked.append(symbol)
        if unchecked:
            self.report.notes.append(
                f"the calendars of {len(unchecked):,} symbols, first {unchecked[0]}, are not compared with their bars: "
                'that needs exchange_calendars (pip install "foretrain[market]")'
            )

    def prepare(self, symbols: Mapping[str, SymbolFiles]) -> dict[str, Prepared]:
        """Return the facts of symbols; those that cannot be used go to quarantine. Raises DataError if none can."""
        found: dict[str, Prepared] = {}
        for done, (symbol, files) in enumerate(symbols.items()):
            self.progress(done, len(symbols), symbol)
            try:
                given = self.assets.get(symbol, {}).get("calendar")
                found[symbol] = prepare(
                    files, self.layout.folder, self.options, self.out / ".cache",
                    calendar=self.calendars[symbol] or given if symbol in self.calendars else self.options.calendar,
                )  # fmt: skip
                self.quarantine.pop(symbol, None)
            except DataError as error:
                if of_the_disk(error):  # no fault of the symbol
                    raise
                self.quarantine[symbol] = " ".join(str(error).splitlines()[:2])
        self.progress(len(symbols), len(symbols), "read")
        return found

    def add(self, new: Mapping[str, Prepared], old: Mapping[str, LibraryEntry], hidden: frozenset[str]) -> None:
        """Write the rows of symbols into the corpora of their frequency, and take over the entries of old ones."""
        self.entries |= old
        new = {symbol: prepared for symbol, prepared in new.items() if not self._has_other_base(symbol, old)}
        self.prepared |= new
        groups: dict[str, list[str]] = {}
        for symbol, prepared in new.items():
            if symbol in old:
                corpus = old[symbol].corpus
            else:
                folder = prepared.freq or "irregular"
                corpus = f"{UNSEEN}/{folder}" if symbol in hidden else folder
            groups.setdefault(corpus, []).append(symbol)
        for corpus, symbols in groups.items():
            paths = [path for symbol in symbols for path in self.layout.symbols[symbol].files]
            out = self.out / corpus
            found = import_corpus(
                paths, out, update=out.exists(), name=corpus, command=self.command, progress=self.progress,
                cut=self._cut, calendars={symbol: self.calendars[symbol] for symbol in symbols if symbol in
                self.calendars}, **fields_of(as_parts(self.options)),
            )  # fmt: skip
            self._take_report(corpus, found, of_parts=len(paths) > len(symbols))
            self._enter(corpus, symbols)
        self.report.added = len(set(new) - set(old))

    def _take_report(self, corpus: str, found: ImportReport, *, of_parts: bool) -> None:
        """Keep what the rules found in a corpus: in the report, and what they took out in quarantine.

        of_parts: several files are one series, which repeat each other's rows.
        """
        self.report.notes += [
            f"{corpus}: {rule} ({level}): {items}, {rows} -> {action}"
            for rule, level, items, rows, action in found.table()
            if not (of_parts and rule in OF_COPIES)
        ]
        for symbol, why in found.dropped.items():
            self.quarantine[symbol] = why
        for symbol, hits in found.hidden.items():
            if symbol not in found.dropped:
                bars = [(symbol, iso(time), rule) for rule, times in hits.items() for time in times.tolist()]
                self.bars += csv_text(bars[0], bars[1:]).splitlines()

    def _has_other_base(self, symbol: str, old: Mapping[str, LibraryEntry]) -> bool:
        """Return whether the files of a stored symbol have prices of another base, which is then left as it is."""
        if symbol not in old:
            return False
        stored = Corpus.open(self.out / old[symbol].corpus)
        files, number = self.layout.symbols[symbol], stored.item_ids().index(symbol)
        factor = other_base(files, self.options, stored, number, self.out / ".cache-scratch")
        if factor is None:
            return False
        self.report.notes.append(
            f"{symbol} is left as it was: its prices are {factor:.4g} times the stored ones, as after a split, and new "
            "rows would follow on another base. Build a new library to have them"
        )
        return True

    def _cut(self, symbol: str, times: IntArray) -> OwnCuts:
        return self.cuts.of(self.prepared[symbol], times)

    def _enter(self, corpus: str, symbols: Iterable[str]) -> None:
        held = set(Corpus.open(self.out / corpus).item_ids())
        for symbol in symbols:
            if symbol in held:
                kind = UNSEEN if corpus.startswith(f"{UNSEEN}/") else "trained"
                self.entries[symbol] = LibraryEntry(kind, corpus, self.prepared[symbol].hashes)

    def finish(self) -> None:
        """Write the summary, the metadata, the quarantine and library.json, which comes last."""
        rows, assets = list[tuple[Any, ...]](), dict[str, dict[str, Any]]()
        if self.layout.left:
            self.report.notes.append(f"not read: {', '.join(self.layout.left)}")
        others = [path.relative_to(self.layout.folder).as_posix() for path in other_copies(self.layout)]
        if others:
            more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
            self.report.notes.append(
                f"{others[0]}{more}: in a subset, with rows that the symbol's own files do not have; not read, since a "
                "subset is a list of symbols"
            )
        for corpus in sorted({entry.corpus for entry in self.entries.values()}):
            self._describe(corpus, rows, assets)
        _write_text(self.out / "data_summary.csv", csv_text(SUMMARY, sorted(rows)))
        _write_json(self.out / METADATA, {name: assets[name] for name in sorted(assets)})
        quality = [line for corpus in sorted(self.report.rows) for line in self._quality(corpus)]
        _write_text(self.out / "quality.csv", csv_text(QUALITY, quality))
        self._write_quarantine()
        self.report.quarantined = self.quarantine
        _write_json(
            self.out / NAME,
            {
                "format_version": FORMAT_VERSION,
                "foretrain_version": __version__,
                "command": self.command,
                "folder": str(self.layout.folder),
                "seed": self.seed,
                "cuts": self.cuts.__dict__,
                "symbols": {name: self.entries[name].__dict__ for name in sorted(self.entries)},
                "subsets": self._subsets(),
                "quarantined": dict(sorted(self.quarantine.items())),
            },
        )

    def _subsets(self) -> dict[str, list[str]]:
        return {name: [s for s in held if s in self.entries] for name, held in self.layout.subsets.items()}

    def _quality(self, corpus: str) -> list[tuple[Any, ...]]:
        of_parts = any(entry.corpus == corpus and len(entry.files) > 1 for entry in self.entries.values())
        path = self.out / corpus / "quality.json"
        with believing(path, DataError, "Build the library anew."):
            return quality_rows(corpus, read_object(path)["rules"], of_parts=of_parts)

    def _describe(self, corpus: str, rows: list[tuple[Any, ...]], assets: dict[str, dict[str, Any]]) -> None:
        """Add the lines and the metadata of a corpus' symbols, from the corpus itself."""
        stored = Corpus.open(self.out / corpus)
        self.report.rows[corpus] = stored.num_rows
        cuts = read_cuts(self.out / corpus, stored.manifest.cuts)
        columns = list(stored.columns)
        close = columns.index("close") if "close" in columns else 0
        for number, symbol in enumerate(stored.item_ids()):
            entry = self.entries.get(symbol)
            if entry is None:  # of an update that was killed before library.json was written
                kind = UNSEEN if corpus.startswith(f"{UNSEEN}/") else "trained"
                entry = self.entries[symbol] = LibraryEntry(kind, corpus, {})
            times, values, own = stored.times(number), stored.values(number), cuts.get(symbol, OwnCuts(None, None))
            assert times is not None
            # rows with a value: sessions that the files lack are stored too
            held = np.sort(times[~np.isnan(values).all(axis=0)])
            cut = {
                part: len(held) if at is None else int(np.searchsorted(held, at))
                for part, at in (("validation", own.validation_from), ("test", own.test_from))
            }
            test = len(held) - cut["test"]
            validation = max(0, cut["test"] - cut["validation"])
            asset = asset_of(symbol, self.assets.get(symbol), values[close])
            first, last = iso(int(times[0])), iso(int(times[-1]))
            file = next(iter(entry.files), "")
            train_file = _file_of(entry.files, "train") or file
            test_file = _file_of(entry.files, "test") or file
            rows.append(
                (
                    symbol, last, len(held), cut["test"], test, train_file, test_file, first, validation,
                    _iso(own.validation_from), _iso(own.test_from), stored.manifest.freq or "",
                    f"{np.isnan(values).mean():.4f}", asset["asset_class"], entry.set, corpus,
                )
            )  # fmt: skip
            assets[symbol] = asset | {
                "first_date": first, "latest_date": last, "total_rows": len(held), "train_rows": cut["test"],
                "test_rows": test, "source_file": file,
            }  # fmt: skip
            self.report.test_rows[symbol] = 0 if own.test_from is None else int((times >= own.test_from).sum())

    def _write_quarantine(self) -> None:
        """Copy the files of symbols that cannot be used, with the reasons; files of others leave. List the bars that
        rules took out of symbols that stay, with those of earlier builds."""
        folder, bars = self.out / "quarantine", [*self.bars]
        if (folder / "bars.csv").is_file():
            bars += read_text(folder / "bars.csv", _LARGEST).splitlines()[1:]
        remove(folder)
        if not self.quarantine and not bars:
            return
        folder.mkdir()
        if bars:
            _write_text(folder / "bars.csv", "\n".join([",".join(BARS), *sorted(set(bars))]) + "\n")
        self.report.hidden_bars = len(set(bars))
        lines = []
        for symbol, why in sorted(self.quarantine.items()):
            files = self.layout.symbols[symbol].files if symbol in self.layout.symbols else []
            for path in files:
                target = folder / path.relative_to(self.layout.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            names = [path.relative_to(self.layout.folder).as_posix() for path in files]
            lines.append((symbol, " ".join(names), why))
        if lines:
            _write_text(folder / "reasons.csv", csv_text(REASONS, lines))


def _file_of(files: Iterable[str], part: str) -> str | None:
    return next((name for name in files if part in Path(name).parent.name.lower()), None)


def _iso(time: int | None) -> str:
    return "" if time is None else iso(time)


def _write_text(path: Path, text: str) -> None:
    with replacing_file(path) as scratch:
        write_text(scratch, text)


def _write_json(path: Path, tree: Any) -> None:
    json.dumps(tree)
    with replacing_file(path) as scratch:
        write_json(scratch, tree)
