"""The report of an import, and its summary file with one line an item."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foretrain.data.findings import example_text
from foretrain.data.importers.facts import TableFacts
from foretrain.data.windows import IntArray
from foretrain.notes import Note, counted

SUMMARY = (
    "symbol",
    "latest_date",
    "total_rows",
    "first_date",
    "missing_share",
    "frequency",
    "rows_read",
    "source_file",
)


@dataclass
class ImportReport:
    """Summary of an import. rules: the quality report, rule name -> counts, action and examples.

    lost: rows whose values were lost, by reason, and the rows read ("of"); importers/losses.py. tables: file -> what
    became of its columns. hidden: item -> rule -> stamps of the bars that the rules of markets made missing.
    """

    out: Path
    items: int = 0
    rows: int = 0
    columns: tuple[str, ...] = ()
    time: str = "steps"
    freq: str | None = None
    files: int = 0
    changed: bool = True
    on_bad: str = "fix"
    rules: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)  # item -> why it was left out
    notes: list[Note] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)
    tables: dict[str, TableFacts] = field(default_factory=dict)
    hidden: dict[str, dict[str, IntArray]] = field(default_factory=dict)

    def table(self) -> list[tuple[str, str, str, str, str]]:
        """Return (rule, severity, "2 items", "9 rows", action) of every rule with findings."""
        return [
            (name, found["severity"], counted(found["items"], "item"), counted(found["rows"], "row"), found["action"])
            for name, found in self.rules.items()
            if found["items"]
        ]

    def lost_text(self) -> str:
        """Return "2 of 100 rows (2 without a time stamp)"."""
        why = reasons(self.lost)
        return f"{self.lost.get('rows', 0):,} of {counted(self.lost.get('of', 0), 'row')}{f' ({why})' if why else ''}"

    def text(self) -> str:
        """Return the report as a few lines: what was written, findings of the rules, dropped items, notes."""
        axis = f"{self.time} {self.freq}" if self.freq else self.time
        size = f"{counted(self.items, 'item')}, {counted(self.rows, 'row')}"
        head = f"{self.out}: {size}, columns {', '.join(self.columns)}, time {axis}"
        lines = [head if self.changed else f"{self.out}: nothing new in {counted(self.files, 'file')}; left as it was"]
        return "\n".join([*lines, *self.found()])

    def found(self) -> list[str]:
        """Return the lines of the report about findings, losses, dropped items and notes."""
        lines = []
        for name, level, n, rows, action in self.table():
            first = self.rules[name]["examples"][0]
            where = f"; first {example_text(first)}" if level != "note" and first.get("detail") else ""
            lines.append(f"  {name} ({level}): {n}, {rows} -> {action}{where}")
        if self.lost.get("rows"):
            lines.append(f"  lost: {self.lost_text()}")
        lines += [f"  left out {item!r}: {why}" for item, why in list(self.dropped.items())[:10]]
        if len(self.dropped) > 10:
            lines.append(f"  left out {len(self.dropped) - 10:,} more items, see quality.json")
        return lines + [f"  note: {note.text}" for note in self.notes[:20]]


def reasons(lost: dict[str, int]) -> str:
    """Return the reasons of lost rows as text, "" for none."""
    named = {
        "conflicting": "conflicting with another row of their item and stamp",
        "unstamped": "without a time stamp",
        "gone": "of items with no value left",
    }
    return ", ".join(f"{lost[key]:,} {text}" for key, text in named.items() if lost.get(key))


def summary_csv(summary: Iterable[tuple[Any, ...]]) -> str:
    """Return the text of data_summary.csv: one line an item, with the columns SUMMARY."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(SUMMARY)
    writer.writerows(summary)
    return text.getvalue()
