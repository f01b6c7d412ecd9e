"""Files and corpora as frames: `read_table` reads a file as an import does, for every verb.

# N series, V columns, T rows of one item
"""

from __future__ import annotations

import logging
import os
import shutil
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foretrain.atomic import temporary_folder
from foretrain.data.asof import as_of
from foretrain.data.findings import example_text
from foretrain.data.importers import ImportOptions, ImportReport, import_corpus
from foretrain.data.importers.columns import corpus_name, plain
from foretrain.data.importers.facts import TableFacts
from foretrain.data.importers.job import Progress
from foretrain.data.importers.reading import FOLDER_MARKS, open_table
from foretrain.data.importers.stamps import Stamps
from foretrain.data.importers.tables import Part, table_parts
from foretrain.data.importers.zones import localise
from foretrain.data.rules import REPORTED
from foretrain.data.store import Column, Corpus
from foretrain.data.verification import Verification
from foretrain.data.windows import NO_TIME, FloatArray, IntArray
from foretrain.errors import ConfigError, DataError
from foretrain.hints import did_you_mean
from foretrain.notes import Code, Note, counted, warn
from foretrain.timeaxis.frequency import MINUTE

if TYPE_CHECKING:
    import pandas as pd

ITEM_ID, TIMESTAMP = "item_id", "timestamp"  # columns of every frame that is made here

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedData:
    """The data that a verb works on. report: how its files were read, None if it was a corpus already."""

    path: Path
    corpus: Corpus
    report: ImportReport | None
    verification: Verification | None = None

    def check_intact(self) -> None:
        """Wait until the shards of a corpus have been compared with their hashes; verbs do before they say a result.

        Raises DataError naming one that differs, or has changed since the corpus was opened.
        """
        self.corpus.check_unchanged()
        if self.verification is not None:
            self.verification.finish()

    def frame(self) -> pd.DataFrame:
        """Return all rows, as corpus_frame does. Raises DataError if a shard changes meanwhile."""
        frame = corpus_frame(self.corpus)
        self.corpus.check_unchanged()
        return frame

    @property
    def facts(self) -> TableFacts:
        """The columns of the first table that was read; without any if it was a corpus."""
        tables = self.report.tables.values() if self.report is not None else ()
        return next((facts for facts in tables if facts.read), TableFacts())

    @property
    def is_one_without_ids(self) -> bool:
        """True if a file held a single series and no column of ids."""
        return self.corpus.num_series == 1 and self.facts.read and not self.facts.items and not self.facts.panel

    def column_meant(self, name: str) -> str | None:
        """Return the corpus' column of a name, perhaps one in the file; None for an unknown one."""
        columns = self.corpus.columns
        final = dict(self.facts.values).get(name, name)
        return final if final in columns else corpus_name(name, columns)

    def columns_meant(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the corpus' columns that a user names, perhaps as in the file. Raises DataError for an unknown one."""
        found = []
        for name in names:
            meant = self.column_meant(name)
            if meant is None:
                columns = self.corpus.columns
                hint = did_you_mean(name, columns, f"It has {', '.join(columns)}.", cutoff=0.5)
                raise DataError(f"{self.path}: no column {name!r}. {hint}")
            found.append(meant)
        return tuple(found)

    def usual_target(self) -> str:
        """Return the column `target`, else the only numeric one that is no covariate. Raises DataError without any."""
        numeric = self.corpus.manifest.default_targets
        if "target" in numeric:
            return "target"
        if len(numeric) == 1:
            return numeric[0]
        raise DataError(
            f"{self.path}: no column 'target'; name what to forecast with --target ({', '.join(numeric) or 'none'})."
        )


def is_corpus(path: Path) -> bool:
    """Return True for a folder that Corpus.open opens: a corpus, or a datasets folder."""
    return path.is_dir() and any((path / mark).is_file() for mark in FOLDER_MARKS)


def read_table(path: str | Path, **options: Any) -> pd.DataFrame:
    """Return the rows of a file, a folder of files or a corpus as `foretrain data import` reads them.

    options are the fields of ImportOptions. Columns: item_id (text), timestamp (datetime64[us], in UTC if the file's
    stamps are instants; step numbers if it has no calendar), then the corpus' columns: numbers as float32, categories
    as text, NaN and None where nothing was observed. What the import changed or left out is logged as notes. Raises
    DataError naming the file and a remedy.
    """
    return open_input(path, **options).frame()


def open_data(path: str | Path, **options: Any) -> Corpus:
    """Return the corpus in a folder, or a file or folder of files imported into a scratch corpus.

    options are the fields of ImportOptions, for files only. The scratch folder is deleted with the corpus, or when the
    process ends. What the import changed or left out is logged as notes. Raises DataError, and ConfigError for options
    of a corpus.
    """
    return open_input(path, **options).corpus


def open_input(path: str | Path, *, progress: Progress | None = None, **options: Any) -> OpenedData:
    """Return what open_data opens, together with the report of the import."""
    path = Path(path)
    if is_corpus(path):
        given = sorted(name for name, value in options.items() if value is not None)
        if given:
            raise ConfigError(f"{path}: is a corpus; {given[0]} applies to files only. Leave it out.")
        verification = Verification([path])
        verification.start()
        return OpenedData(path, Corpus.open(path), None, verification)
    corpus, report = import_scratch([path], progress=progress, **options)
    for note in findings(report, path.name):
        warn(_log, note)
    return OpenedData(path, corpus, report)


def import_scratch(
    paths: Sequence[Path], *, progress: Progress | None = None, **options: Any
) -> tuple[Corpus, ImportReport]:
    """Import files into a scratch folder that is deleted with the corpus, or when the process ends."""
    scratch, name = temporary_folder(), ", ".join(map(str, paths))
    try:
        out = scratch / (ImportOptions().item_id(paths[0]) or "data")
        report = import_corpus(paths, out, name=name, progress=progress, **options)
        corpus = Corpus.open(out)
    except BaseException:  # an interrupt too must leave no scratch folder
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    corpus.origin = paths[0]
    weakref.finalize(corpus, _remove, scratch, os.getpid())
    return corpus, report


def _remove(scratch: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked process drops its copy of the corpus too
        shutil.rmtree(scratch, ignore_errors=True)


def findings(report: ImportReport, name: str) -> list[Note]:
    """Return what an import decided or found, one note a line: rules above severity note, items left out, notes."""
    found, filled = list[Note](), next((note for note in report.notes if note.code == Code.ROWS_ADDED), None)
    for rule, entry in report.rules.items():
        if not entry["items"] or entry["severity"] == "note" or (rule == "too_short" and entry["action"] == REPORTED):
            continue
        if rule == "gap" and filled is not None:
            continue  # the note on added rows tells it
        size, first = counted(entry["rows"], "row"), example_text(entry["examples"][0])
        text = f"{name}: {entry['meaning']}: {size} -> {entry['action']} (rule {rule}; first {first})"
        found.append(Note(Code.IMPORT_QUALITY, text, {"items": entry["items"], "rows": entry["rows"]}))
    if report.dropped:
        first, why = next(iter(report.dropped.items()))
        text = f"{name}: {counted(len(report.dropped), 'item')} left out, first {first!r}: {why}"
        found.append(Note(Code.ITEMS_LEFT_OUT, text, {"items": len(report.dropped)}))
    for note in report.notes:
        text = note.text if note.text.startswith(f"{name}: ") else f"{name}: {note.text}"
        if note is filled:
            text += f" (first {example_text(report.rules['gap']['examples'][0])})"
        found.append(replace(note, text=text))
    return found


def corpus_frame(corpus: Corpus) -> pd.DataFrame:
    """Return all rows of a corpus as a frame, in the format of read_table, items in the corpus' order.

    Prices of a corpus with dividends and splits are those as of each item's last row.
    """
    items = [
        (corpus.item_id(k), as_of(corpus, corpus.values(k), corpus.length(k)), _corpus_times(corpus, k))
        for k in range(corpus.num_series)
    ]
    return _frame(items, corpus.manifest.columns, str(corpus.origin or corpus.name), clock=_clock(corpus))


def _corpus_times(corpus: Corpus, series: int) -> IntArray:
    """Return the stamps (T,) of a series, or its step numbers if the corpus has no calendar."""
    times = corpus.times(series)
    if times is not None:
        return times
    return (corpus.first_step(series) or 0) + corpus.manifest.step * np.arange(corpus.length(series))


def _clock(corpus: Corpus) -> str:
    """Return the kind of a corpus' times: steps, utc or naive."""
    if corpus.manifest.time == "steps":
        return "steps"
    return "naive" if corpus.manifest.timezone is None else "utc"


def read_future(path: str | Path, history: OpenedData, **options: Any) -> pd.DataFrame:
    """Return the rows of a file of known covariates, under the names and roles that the history's file gave them.

    The rows stay as they are: none is left out or added, and no value is repaired. A single series is the only item of
    the history if one of the two files has no ids. Raises DataError.
    """
    path, settings = Path(path), ImportOptions.of(**options)
    bare = replace(settings, id_column=None, timestamp_column=None, column=(), columns=(), target=(), categorical=())
    table = open_table(path, bare)
    header = table.cells.column_names
    table = replace(table, options=_roles_of_history(settings, header, history))
    parts = list(table_parts(table, text_alone=True))
    for note in table.notes:
        warn(_log, note)
    columns = _future_columns(parts[0], history)
    without_ids = not table.facts.items and parts[0].item_id == settings.item_id(path)
    if without_ids or (len(parts) == 1 and history.is_one_without_ids):
        parts = [replace(parts[0], item_id=_only_item(path, history))]
    clock = _clock(history.corpus)
    items = [(p.item_id, p.values[list(columns)], _future_times(path, p, clock, settings, history)) for p in parts]
    return _frame(items, tuple(columns.values()), str(path), clock=clock)


def _roles_of_history(options: ImportOptions, header: Sequence[str], history: OpenedData) -> ImportOptions:
    """Return the options with the columns that the history's file used for ids, time and text, if the header has them.

    Without them a file of few columns may be recognised as another kind of table.
    """
    texts = {c.name for c in history.corpus.manifest.columns if c.categories is not None}
    facts, items, stamp = history.facts, options.id_column, options.timestamp_column
    if facts.items:
        named = [corpus_name(name, header) for name in facts.items]
        items = tuple(name for name in named if name is not None) if None not in named else None
    if stamp is None and len(facts.times) == 1:
        stamp = corpus_name(facts.times[0], header)
    return replace(
        options,
        id_column=items,
        timestamp_column=stamp,
        column=tuple((role, name) for role, name in options.column if corpus_name(name, header) is not None),
        columns=(),
        target=(),
        categorical=tuple(name for name in header if history.column_meant(name) in texts),
    )


def _future_columns(part: Part, history: OpenedData) -> dict[int, Column]:
    """Return the columns of a part by their place, under the names that they have in the history.

    Columns that the history's file has too, but its corpus has not, are left out; others stay, for the forecast refuses
    them by name.
    """
    found, known = {}, {plain(name) for name in history.facts.columns}
    for place, name in enumerate(part.columns):
        texts, final = (part.texts or {}).get(name), history.column_meant(name)
        if final is None and plain(name) in known:
            continue
        kind = "numeric" if texts is None else "categorical"
        found[place] = Column(name=final or name, kind=kind, categories=texts)
    return found


def _only_item(path: Path, history: OpenedData) -> str:
    if history.corpus.num_series == 1:
        return history.corpus.item_id(0)
    names = history.facts.items or (ITEM_ID,)
    raise DataError(
        f"{path}: has no column of item ids, and {history.path} has {history.corpus.num_series:,} items. Add the "
        f"column {' and '.join(map(repr, names))}."
    )


def _future_times(path: Path, part: Part, clock: str, options: ImportOptions, history: OpenedData) -> IntArray:
    """Return the times of a part in the clock of the history. Raises DataError if they are of another kind."""
    if clock == "steps" and part.clock == "none":
        step = history.corpus.manifest.step
        return _last_step(history.corpus, part.item_id) + step * np.arange(1, 1 + part.values.shape[1])
    if part.times is None or (part.clock == "steps") != (clock == "steps"):
        kinds = {"steps": "step numbers", "none": "no time"}
        raise DataError(
            f"{path}: has {kinds.get(part.clock, 'time stamps')}, but {history.path} has "
            f"{kinds.get(clock, 'time stamps')}. Give both the same; --timestamp-column names the column."
        )
    return _instants(path, part, part.times, options.timezone) if clock == "utc" else part.times


def _last_step(corpus: Corpus, item_id: str) -> int:
    ids = corpus.item_ids()
    if item_id not in ids:
        return -1  # the forecast refuses items that the history lacks
    series = ids.index(item_id)
    return int(_corpus_times(corpus, series)[-1])


def _instants(path: Path, part: Part, times: IntArray, zone: str | None) -> IntArray:
    """Return times in UTC; midnights, which an import takes for dates, are instants here too."""
    if part.clock == "utc":
        return times
    if len(part.offsets) == 1:
        return np.where(times == NO_TIME, NO_TIME, times - part.offsets[0] * MINUTE)
    if zone is None or part.offsets:
        return times
    try:
        return localise(Stamps(times, "naive"), zone).times
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _frame(
    items: Sequence[tuple[str, FloatArray, IntArray]], columns: Sequence[Column], source: str, *, clock: str
) -> pd.DataFrame:
    """Return items of (id, values (V, T), times (T,)) as a frame. Raises DataError if two columns collide."""
    import pandas as pd

    for column in columns:
        if column.name in (ITEM_ID, TIMESTAMP):
            raise DataError(
                f"{source}: a value column is called {column.name!r}, which names the ids or times of a frame. Leave "
                "it out with --columns, or rename it."
            )
    lengths = [values.shape[1] for _, values, _ in items]
    data: dict[str, Any] = {ITEM_ID: np.repeat(np.array([item for item, _, _ in items], object), lengths)}
    data[TIMESTAMP] = np.concatenate([times for _, _, times in items])
    if clock != "steps":
        stamps = pd.DatetimeIndex(data[TIMESTAMP].view("M8[us]"))
        data[TIMESTAMP] = stamps.tz_localize("UTC") if clock == "utc" else stamps
    values = np.concatenate([values for _, values, _ in items], axis=1)
    for column, row in zip(columns, values, strict=True):
        data[column.name] = row if column.categories is None else _texts(row, column.categories)
    return pd.DataFrame(data)


def _texts(codes: FloatArray, categories: tuple[str, ...]) -> Any:
    """Return the category of each code as text, None where it is NaN."""
    names = np.array([*categories, None], object)
    return names[np.where(np.isnan(codes), len(categories), np.nan_to_num(codes)).astype(np.int64)]
