"""What an import would read, as text: files, roles of columns, items, time, first and last rows, losses, notes.

# V columns, T rows of the first item
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.atomic import copy_folder, temporary_files
from foretrain.data.importers.columns import plain
from foretrain.data.importers.facts import TableFacts
from foretrain.data.importers.job import Progress
from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.pipeline import check_target, import_corpus
from foretrain.data.importers.report import ImportReport
from foretrain.data.store import Corpus
from foretrain.data.windows import NO_TIME
from foretrain.errors import DataError
from foretrain.notes import counted
from foretrain.timeaxis.grid import iso

_FILES, _KINDS, _ITEMS, _COLUMNS, _ROWS = 5, 4, 8, 8, 3  # most that are shown of each; rows at either end
_WIDTH = 24  # most characters of a cell


@dataclass(frozen=True)
class ImportPreview:
    """What an import would do. text: for people; report: that of the import into a scratch folder."""

    report: ImportReport
    text: str


def preview_text(paths: Sequence[str | Path], **options: Any) -> str:
    """Return what an import of these files would read, as text; options are those of import_preview."""
    return import_preview(paths, **options).text


def import_preview(
    paths: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    update: bool = False,
    provenance: str = "real",
    progress: Progress | None = None,
    **options: Any,
) -> ImportPreview:
    """Import into a scratch folder and describe the result; nothing is written at `out`.

    options are the fields of ImportOptions. With out, and update if that corpus is to be extended, all is refused that
    import_corpus would refuse, in the same words. Raises DataError.
    """
    paths = [Path(path) for path in paths]
    target = None if out is None else Path(out)
    if target is not None:
        check_target(target, update, provenance, ImportOptions.of(**options))
    with temporary_files() as folder:
        scratch = folder / (target.name if target is not None else "corpus")
        if update and target is not None:
            copy_folder(target, scratch)
        name = str(target) if target is not None else ", ".join(map(str, paths))
        try:
            report = import_corpus(
                paths, scratch, update=update, provenance=provenance, progress=progress, name=name, **options
            )
        except DataError as error:
            raise DataError(str(error).replace(str(scratch), name)) from None
        report.out = target or Path(name)
        return ImportPreview(report, _text(report, Corpus.open(scratch)))


def _text(report: ImportReport, corpus: Corpus) -> str:
    lines = [*_files(report.tables, corpus.columns), *_items(corpus), *_time(corpus), *_rows(corpus)]
    lines.append(f"lost: {report.lost_text()}")
    found = [line for line in report.found() if not line.startswith("  lost:")]
    return "\n".join([*lines, *(["findings:"] if found else []), *found])


def _files(tables: dict[str, TableFacts], stored: Sequence[str]) -> list[str]:
    """Return the files and the roles of their columns; files with the same columns share their lines."""
    alike: dict[str, list[str]] = {}
    for name, facts in tables.items():
        alike.setdefault("\n".join(_roles(facts, stored)), []).append(name)
    lines = [f"{counted(len(tables), 'file')}:"]
    for roles, names in list(alike.items())[:_KINDS]:
        more = f" and {len(names) - _FILES:,} more" if len(names) > _FILES else ""
        lines.append(f"  {', '.join(names[:_FILES])}{more}")
        lines += roles.split("\n") if roles else []
    if len(alike) > _KINDS:
        lines.append(f"  and {len(tables) - sum(map(len, list(alike.values())[:_KINDS])):,} files with other columns")
    return lines


def _roles(facts: TableFacts, stored: Sequence[str]) -> list[str]:
    if not facts.read:
        return []
    # a column may be an item of its own (BTC:close), and texts that hardly come back are left out when all are known
    held = [pair for pair in facts.values if facts.panel or {pair[1], plain(pair[1].split(":")[-1])} & {*stored}]
    numbers = [pair for pair in held if pair[1] not in facts.categorical]
    words = [pair for pair in held if pair[1] in facts.categorical]
    left_out = [*facts.left_out, *(pair[0] for pair in facts.values if pair not in held)]
    rows = [
        ("item id", "name of the column" if facts.panel else _named(facts.items) or "name of the file"),
        ("time", _named(facts.times) or "none: rows are steps"),
        ("numbers", _renamed(numbers)),
        ("categories", _renamed(words)),
        ("left out", _named(left_out)),
    ]
    return [f"    {role}: {names}" for role, names in rows if names]


def _named(columns: Sequence[str]) -> str:
    return ", ".join(name or "(no name)" for name in columns)


def _renamed(pairs: Sequence[tuple[str, str]]) -> str:
    """Return columns as text, with their name in the file where that differs by more than its spelling."""
    return ", ".join(final if plain(name) == plain(final) else f"{final} (from {name})" for name, final in pairs)


def _items(corpus: Corpus) -> list[str]:
    names = [corpus.item_id(k) for k in range(min(_ITEMS, corpus.num_series))]
    more = f" and {corpus.num_series - _ITEMS:,} more" if corpus.num_series > _ITEMS else ""
    lengths = corpus.lengths
    least, most = int(lengths.min()), int(lengths.max())
    rows = (counted(least, "row") if least == most else f"{least:,} to {most:,} rows") + " each" * (len(lengths) > 1)
    return [f"{counted(corpus.num_series, 'item')} ({rows}): {', '.join(names)}{more}"]


def _time(corpus: Corpus) -> list[str]:
    manifest = corpus.manifest
    kinds = {"regular": "regular", "stamps": "stamps, not regular", "steps": "steps, no calendar"}
    text = f"time: {kinds[manifest.time]}{f', frequency {manifest.freq}' if manifest.freq else ''}"
    if manifest.first_time:
        zone = manifest.timezone or manifest.timezone_note or "naive"
        text += f", {_short(manifest.first_time)} .. {_short(manifest.last_time)} ({zone})"
    return [text]


def _short(stamp: str | None) -> str:
    """Return a stamp as people write it: no T, no zeros that say nothing."""
    return re.sub(r"T00:00:00(\.0+)?$|\.0+$", "", stamp or "").replace("T", " ")


def _rows(corpus: Corpus) -> list[str]:
    """Return the first and last rows of the first item as a table."""
    count, shown = corpus.length(0), corpus.columns[:_COLUMNS]
    picked = list(range(count)) if count <= 2 * _ROWS else [*range(_ROWS), *range(count - _ROWS, count)]
    values, times = np.asarray(corpus.values(0)), corpus.times(0)
    number = 0 if times is not None else corpus.first_step(0) or 0
    categories = [column.categories for column in corpus.manifest.columns]
    more = len(corpus.columns) - len(shown)
    table = [["step" if times is None else "time", *shown, *([f"({more} more)"] if more else [])]]
    for row in picked:
        stamp = str(number + row) if times is None else iso(int(times[row])) if times[row] != NO_TIME else ""
        table.append([stamp, *(_cell(values[v, row], categories[v]) for v in range(len(shown)))])
    if len(picked) < count:
        table.insert(1 + _ROWS, ["..."])
    widths = [max(len(line[k]) for line in table if k < len(line)) for k in range(len(table[0]))]
    lines = ["  " + "  ".join(cell.rjust(widths[k]) for k, cell in enumerate(line)).rstrip() for line in table]
    return [f"first item {corpus.item_id(0)!r}:", *lines]


def _cell(value: float, categories: tuple[str, ...] | None) -> str:
    if np.isnan(value):
        return "NaN"
    text = f"{value:.7g}" if categories is None else categories[int(value)]
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."
