"""Find the files of an import, read each into parts, and select the items that share one kind of time."""

from __future__ import annotations

import hashlib
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from foretrain.data.importers.arrays import array_parts, corpus_parts
from foretrain.data.importers.categories import alike
from foretrain.data.importers.facts import TableFacts
from foretrain.data.importers.job import ImportJob
from foretrain.data.importers.monash import ENDINGS, monash_table, read_monash
from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.raw_table import RawTable
from foretrain.data.importers.records import unfold_lists
from foretrain.data.importers.stamps import Stamps
from foretrain.data.importers.table_files import (
    COLUMNAR,
    IGNORED,
    RECORDS,
    SUFFIXES,
    WORKBOOKS,
    is_metadata,
    members_of,
    read_bytes,
    read_columns,
    suffix_of,
    with_keys,
)
from foretrain.data.importers.tables import Part, table_parts
from foretrain.data.importers.text import read_text
from foretrain.data.importers.wide import find_wide, wide_parts
from foretrain.data.importers.workbook import sheet_as_csv
from foretrain.data.importers.zones import localise
from foretrain.data.store import Corpus
from foretrain.data.windows import NO_TIME, IntArray
from foretrain.errors import DataError
from foretrain.hints import missing_text
from foretrain.notes import Code, Note
from foretrain.reading import resolved
from foretrain.timeaxis.frequency import SECOND, Frequency

CALENDARS = ("dates", "naive", "utc")  # kinds of time that have a calendar
_ZIP = ".zip"
_ARRAYS = (".npy", ".npz")
_MODEL_MARKS = ("release.json", "model.safetensors", "release/release.json")  # of a release, weights, a run
FOLDER_MARKS = ("manifest.json", "state.json", "dataset_dict.json")
_KNOWN = (
    "CSV/TXT/TSV/TSF (plain or .gz), Parquet, Feather, .xlsx, .json, .jsonl, .zip of them, .npy, .npz, or a datasets "
    "folder"
)


@dataclass(frozen=True)
class Input:
    """A file or datasets folder to read. name: its name in reports.

    member: its name in the archive `path`; keys: columns from the names of folders (key=value) below `folder`;
    siblings: item ids of all files of the import, if items are named after files.
    """

    path: Path
    kind: str  # table, array or hf
    name: str
    member: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    siblings: frozenset[str] = frozenset()
    notes: tuple[Note, ...] = ()

    @property
    def title(self) -> Path:
        """The path in messages, whose last part names the item."""
        return self.path if self.member is None else self.path / self.member


@dataclass
class SourceInput:
    """Record of an input that was read."""

    name: str
    sha256: str = ""
    rows: int = 0
    truncated: tuple[int, str] | None = None  # number and text of the last line if it was cut off
    freq: str | None = None  # that the file states
    notes: list[Note] = field(default_factory=list)
    facts: TableFacts = field(default_factory=TableFacts)


@dataclass(frozen=True)
class Gathered:
    """Items of the files that were read; their rows are in the spool."""

    items: list[str]  # those that share one kind of time, in order of first appearance
    clock: str  # dates, naive, utc, steps or none
    sources: list[SourceInput]
    origin: dict[str, str]  # item -> the file it came from first
    market: bool  # at least one part is market data
    freq: str | None = None  # that all files state

    @property
    def calendar(self) -> bool:
        """True if times are stamps."""
        return self.clock in CALENDARS


def read_files(paths: Sequence[Path], job: ImportJob) -> Gathered:
    """Read all files into the job's spool. Raises DataError naming the file."""
    return _Reader(job).run(paths)


class _Reader:
    """Reads inputs into the spool of a job."""

    def __init__(self, job: ImportJob) -> None:
        self.job = job
        self.sources: list[SourceInput] = []
        self.origin: dict[str, str] = {}
        self.market = False

    def run(self, paths: Sequence[Path]) -> Gathered:
        """Read all files."""
        self._read(paths)
        self._tell_percent()
        items, clock = self._one_clock(list(self.job.spool.parts))
        if (pair := alike(items)) is not None:
            text = f"items {pair[0]!r} and {pair[1]!r} differ only in case or blanks; they are two items"
            self.job.report.notes.append(Note(Code.ITEMS_ALIKE, text))
        stated = {source.freq for source in self.sources}
        freq = stated.pop() if len(stated) == 1 else None
        return Gathered(items, clock, self.sources, self.origin, self.market, freq)

    def _tell_percent(self) -> None:
        """Note columns that have percent signs in some files and none in others: 5% is read as 5, 0.05 as 0.05."""
        seen: dict[str, dict[str, str]] = {}
        for source in self.sources:
            for name, mark in source.facts.marks.items():
                seen.setdefault(name, {}).setdefault(mark, source.name)
        for name, files in seen.items():
            if len(files) > 1:
                text = f"column {name!r} has percent signs in {files['%']} and none in {files['']}: 5% is read as 5"
                self.job.report.notes.append(Note(Code.PERCENT_IN_SOME_FILES, text))

    def _read(self, paths: Sequence[Path]) -> None:
        job = self.job
        inputs = find_inputs(paths, job.options)
        for done, entry in enumerate(inputs):
            job.progress(done, len(inputs), entry.name)
            source = SourceInput(entry.name, notes=list(entry.notes))
            self.sources.append(source)
            job.report.tables[entry.name] = source.facts
            for part in read_input(entry, job.options, source):
                self._claim(part.item_id, entry)
                self.market |= part.market
                try:
                    job.spool.add(part, len(self.sources) - 1, entry.name)
                except DataError as error:
                    raise DataError(f"{entry.path}: {error}") from None
            if source.truncated is not None:
                line, text = source.truncated
                detail = f"last line {text.strip()[:60]!r}"
                example = {"item": job.options.item_id(entry.title), "file": entry.name, "line": line, "detail": detail}
                job.findings.add("truncated_row", 1, example)
            job.report.notes += source.notes
        job.progress(len(inputs), len(inputs), "read")
        job.report.files = len(inputs)

    def _claim(self, item_id: str, entry: Input) -> None:
        """Raise DataError if two files give one item that may be different series.

        These are files that the item is named after, and those of the Monash archive, which hold whole series and call
        them T1, T2, ...
        """
        file, first = entry.name, self.origin.setdefault(item_id, entry.name)
        if first == file:
            return
        if suffix_of(file, ENDINGS):
            raise DataError(f"{file} and {first} both give the item {item_id!r}. Import them apart.")
        by_name = all(self.job.options.item_id(Path(name)) == item_id for name in (first, file))
        if by_name and self.job.options.id_pattern is None:
            raise DataError(
                f"{file} and {first} both give the item {item_id!r}. Rename one, import them apart, or, if they are "
                "parts of one series, say so with --id-pattern."
            )

    def _one_clock(self, items: list[str]) -> tuple[list[str], str]:
        """Return the items that share one kind of time, and that kind; dates go with naive and with UTC stamps."""
        kinds = {item: self.job.spool.clocks[item] - {"dates"} or {"dates"} for item in items}
        counts = Counter(kind for held in kinds.values() for kind in held)
        real = [kind for kind in counts if kind != "dates"]
        if {"naive", "utc"} <= set(real) and len(real) == 2:
            return self._mixed_zones(items, kinds, counts)
        if len(real) > 1 or (real and real[0] in ("none", "steps") and "dates" in counts):
            first = {kind: next(item for item in items if kind in kinds[item]) for kind in counts}
            seen = "; ".join(
                f"{_KINDS[kind]}: {count:,} items, first {first[kind]!r}" for kind, count in counts.items()
            )
            raise DataError(f"{self.job.name}: items with different kinds of time ({seen}). Import them apart.")
        if real == ["utc"]:
            for item in items:
                if {"dates", "utc"} <= self.job.spool.clocks[item]:
                    self.job.spool.dates_to_instants(item, partial(self._midnights, item))
        self._note_offsets(items)
        return items, real[0] if real else "dates"

    def _midnights(self, item: str, times: IntArray, offsets: tuple[int, ...]) -> IntArray:
        """Return in UTC the dates of a file whose item has times of day in other files, so that they are midnights."""
        zone = self.job.options.timezone
        if len(offsets) > 1:
            raise DataError(
                f"{self.origin.get(item)}: item {item!r} has times of day in some files, and in another midnights of "
                "several offsets only. Put the rows into one file."
            )
        if offsets:
            return np.where(times == NO_TIME, times, times - offsets[0] * 60 * SECOND)
        return times if zone is None else localise(Stamps(times, "naive"), zone).times

    def _mixed_zones(self, items: list[str], kinds: dict[str, set[str]], counts: Counter[str]) -> tuple[list[str], str]:
        naive = next(item for item in items if "naive" in kinds[item])
        aware = next(item for item in items if "utc" in kinds[item])
        held = Counter(kind for item in items if item in self.job.stored for kind in kinds[item]) or counts
        rare = "naive" if held["naive"] < held["utc"] else "utc"
        stored_too = any(rare in kinds[item] for item in self.job.stored.intersection(items))
        if self.job.options.on_bad != "drop" or stored_too:
            raise DataError(
                f"{self.origin.get(naive)}: item {naive!r} has stamps without offset, item {aware!r} has an offset "
                f"(rule mixed_timezones, {counts['naive']:,} and {counts['utc']:,} items). Say with --timezone what "
                "the naive ones are, or leave the rarer kind out with --on-bad drop."
            )
        kept = [item for item in items if rare not in kinds[item]]
        for item in items:
            if rare in kinds[item]:
                self.job.findings.add("mixed_timezones", 1, {"item": item, "file": self.origin.get(item)})
                self.job.report.dropped[item] = f"mixed_timezones ({_KINDS[rare]})"
        return kept, "utc" if rare == "naive" else "naive"

    def _note_offsets(self, items: list[str]) -> None:
        """Report items whose offset differs from the most frequent one; their stamps are in UTC already, or dates."""
        offsets = self.job.spool.offsets
        standard = {
            item: offsets[item][0] for item in items if item in offsets and "utc" in self.job.spool.clocks[item]
        }
        if len(set(standard.values())) < 2:
            return
        usual = Counter(standard.values()).most_common(1)[0][0]
        for item, minutes in standard.items():
            if minutes != usual:
                detail = f"offset {minutes / 60:+g} h, most have {usual / 60:+g} h"
                self.job.findings.add(
                    "mixed_timezones", 1, {"item": item, "file": self.origin.get(item), "detail": detail}
                )


def find_inputs(paths: Sequence[Path], options: ImportOptions) -> list[Input]:
    """Return all inputs under the given paths, in a stable order. DataError if there are none, or of several kinds."""
    if not paths:
        raise DataError("nothing to import: give files or folders.")
    found: list[Input] = []
    for path in paths:
        found += _inside(path) if path.is_dir() else _file(path)
    required = {"table": "table", "panel": "table", "wide": "table", "array": "array", "hf": "hf"}.get(
        options.format or ""
    )
    if required:
        found = [entry for entry in found if entry.kind == required]
    kinds = Counter(entry.kind for entry in found)
    if len(kinds) > 1:
        seen = ", ".join(f"{count} {kind} input(s)" for kind, count in kinds.items())
        raise DataError(
            f"{paths[0]}: found {seen}; one import takes one kind. Choose with --format {' or '.join(kinds)}."
        )
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no file to import. Known: {_KNOWN}.")
    return _beside(found, options)


def _file(path: Path, name: str | None = None, keys: Mapping[str, str] | None = None) -> list[Input]:
    """Return the inputs in one file: itself, or the tables in an archive. name: its name in reports."""
    if not path.exists():
        raise DataError(missing_text(path))
    if not path.is_file():
        raise DataError(f"{path}: is no plain file. Write what it holds into one.")
    name, keys = name or path.name, keys or {}
    suffix = suffix_of(path.name, (*SUFFIXES, *_ARRAYS, _ZIP))
    if not suffix:
        raise DataError(f"{path}: not a kind of file that can be imported. Known: {_KNOWN}.")
    if suffix == _ZIP:
        return [Input(path, "table", f"{name}/{member}", member, keys) for member in members_of(path)]
    return [Input(path, "array" if suffix in _ARRAYS else "table", name, None, keys)]


def _inside(folder: Path) -> list[Input]:
    """Return the inputs in a folder. JSON and Excel files beside other tables describe them, and are not read."""
    if any((folder / mark).is_file() for mark in FOLDER_MARKS):
        return [Input(folder, "hf", folder.name)]
    if any((folder / mark).is_file() for mark in _MODEL_MARKS):
        raise DataError(f"{folder}: holds a model, not data. `forecast` and `evaluate` take the model first.")
    paths = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts) or not path.is_file():
            continue
        if suffix_of(path.name, (*SUFFIXES, *_ARRAYS, _ZIP)) and path.name.lower() not in IGNORED:
            paths.append(path)
    main = [path for path in paths if not suffix_of(path.name, RECORDS + WORKBOOKS)]
    inputs = []
    for path in main or paths:
        relative = path.relative_to(folder)
        inputs += _file(path, relative.as_posix(), _keys(relative))
    name = resolved(folder).name
    inputs = [replace(entry, folder=name) for entry in inputs]
    kept = set(main or paths)
    beside = [path.relative_to(folder).as_posix() for path in paths if path not in kept]
    if beside:
        text = f"{folder.name}: files beside the tables are not read: {', '.join(beside[:5])}"
        inputs[0] = replace(inputs[0], notes=(Note(Code.FILES_LEFT_OUT, text, {"files": len(beside)}),))
    return inputs


def _keys(relative: Path) -> dict[str, str]:
    """Return the columns in the names of folders: year=2024/symbol=A gives year and symbol."""
    pairs = [part.split("=", 1) for part in relative.parts[:-1] if "=" in part]
    return {key: urllib.parse.unquote(text) for key, text in pairs if key}


def _beside(inputs: list[Input], options: ImportOptions) -> list[Input]:
    """Tell each table which items the files of the import give, if they are named after their files."""
    if len(inputs) < 2:
        return inputs
    everyone = frozenset(filter(None, (options.found_id(entry.title) for entry in inputs)))
    return [replace(entry, siblings=everyone) for entry in inputs]


def read_input(entry: Input, options: ImportOptions, source: SourceInput) -> Iterator[Part]:
    """Yield the parts of an input and fill in its record `source`. Raises DataError naming the file."""
    if entry.kind == "hf":
        corpus = Corpus.open(entry.path, freq=options.freq)
        source.sha256, source.rows = corpus.fingerprint, corpus.num_rows
        text = f"{entry.path.name}: datasets folder, columns {', '.join(corpus.columns)}"
        source.notes.append(Note(Code.DATASETS_FOLDER, text, {"columns": len(corpus.columns)}))
        if corpus.left_out:
            text = f"{entry.path.name}: left out: {', '.join(corpus.left_out)}"
            source.notes.append(Note(Code.STATIC_LEFT_OUT, text, {"columns": len(corpus.left_out)}))
        if "start" in corpus.left_out and corpus.manifest.time == "steps":
            text = f"{entry.path.name}: column 'start' is of no use without one frequency; --freq gives it"
            source.notes.append(Note(Code.START_WITHOUT_FREQ, text))
        yield from corpus_parts(corpus)
        return
    parts = _array_parts if entry.kind == "array" else _table_parts
    for part in parts(entry, options, source):
        source.rows += part.values.shape[1]
        yield part


def _bytes_of(entry: Input, source: SourceInput) -> bytes:
    raw = read_bytes(entry.path, entry.member)
    source.sha256 = hashlib.sha256(raw).hexdigest()
    return raw


def _array_parts(entry: Input, options: ImportOptions, source: SourceInput) -> Iterator[Part]:
    _bytes_of(entry, source)
    return array_parts(entry.path, options)


def _table_parts(entry: Input, options: ImportOptions, source: SourceInput) -> Iterator[Part]:
    table = _raw_table(entry, _bytes_of(entry, source), options, source)  # nothing holds the bytes any more
    if is_metadata(table, entry.siblings):
        return iter(())
    wide = find_wide(table)
    return table_parts(table) if wide is None else wide_parts(table, wide)


def _raw_table(
    entry: Input, raw: bytes, options: ImportOptions, source: SourceInput, *, any_header: bool = False
) -> RawTable:
    """Return the table of a file by its kind, and fill in its record."""
    path, suffix = entry.title, suffix_of(entry.title.name, SUFFIXES)
    if suffix in COLUMNAR + RECORDS:
        cells, lines = read_columns(path, raw, options, source.notes)
    elif suffix in ENDINGS:
        found = read_monash(path, raw, encoding=options.encoding, freq=options.freq)
        cells, rows = unfold_lists(path, monash_table(path, found, options), options, source.notes)
        lines = None if rows is None else found.lines[rows - 1]
        source.freq = None if found.freq is None else Frequency.parse(found.freq, edge="S").alias
    else:
        raw = sheet_as_csv(path, raw, source.notes) if suffix in WORKBOOKS else raw
        text = read_text(path, raw, options, any_header=any_header)
        cells, lines, source.truncated = text.table, text.lines, text.truncated
        source.notes += text.notes
    if entry.keys:
        cells = with_keys(cells, entry.keys, options)
    folder = entry.folder if entry.keys else None
    return RawTable(path, cells.combine_chunks(), options, source.notes, lines, source.facts, folder)


def open_table(path: Path, options: ImportOptions, *, any_header: bool = False) -> RawTable:
    """Return the cells of one table. any_header: column names may be numbers. Raises DataError naming the file."""
    inputs = [] if path.is_dir() else _file(path)
    if len(inputs) != 1 or inputs[0].kind != "table":
        raise DataError(f"{path}: is not one table; give one file (CSV, Parquet, ...).")
    entry, source = inputs[0], SourceInput(inputs[0].name)
    table = _raw_table(entry, read_bytes(entry.path, entry.member), options, source, any_header=any_header)
    if source.truncated is not None:
        table.note(Code.LAST_LINE_LEFT_OUT, f"the last line, {source.truncated[0]}, has too few fields; left out")
    return table


_KINDS = {"dates": "dates", "naive": "naive stamps", "utc": "stamps with an offset", "steps": "step numbers",
          "none": "no time at all"}  # fmt: skip
