"""What a build of a library says: symbols, rows, what its test parts can show, findings and quarantine."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.data.findings import example_text
from foretrain.data.market.record import LibraryEntry
from foretrain.data.windows import IntArray
from foretrain.notes import counted

SUMMARY = (
    "symbol", "latest_date", "total_rows", "train_rows", "test_rows", "train_file", "test_file", "first_date",
    "validation_rows", "validation_from", "test_from", "frequency", "missing_share", "asset_class", "set", "corpus",
)  # fmt: skip
BARS = ("symbol", "timestamp", "rule")
REASONS = ("symbol", "files", "reason")
QUALITY = ("corpus", "rule", "severity", "symbols", "rows", "action", "first")
# A file of the whole series repeats the rows of its parts, and the parts follow it in time or not
OF_COPIES = ("identical_rows", "backward_timestamps")


@dataclass
class LibraryReport:
    """What a build or an update did."""

    out: Path
    entries: dict[str, LibraryEntry]
    rows: dict[str, int] = field(default_factory=dict)  # corpus -> rows
    test_rows: dict[str, int] = field(default_factory=dict)  # symbol -> rows of its test part
    quarantined: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    added: int = 0
    hidden_bars: int = 0  # that rules took out of symbols that stay

    def text(self, horizons: Mapping[str, int] | None = None) -> str:
        """Return the report as lines. horizons: name of a config -> steps that it forecasts."""
        lines = [f"{self.out}: {counted(len(self.entries), 'symbol')}"]
        for corpus, rows in sorted(self.rows.items()):
            count = sum(entry.corpus == corpus for entry in self.entries.values())
            lines.append(f"  {corpus}: {counted(count, 'symbol')}, {counted(rows, 'row')}")
        lines += [f"  {line}" for line in part_lines(self.test_rows, horizons)]
        lines += [f"  quarantined {symbol}: {why}" for symbol, why in list(self.quarantined.items())[:10]]
        if len(self.quarantined) > 10:
            lines.append(f"  quarantined {len(self.quarantined) - 10:,} more symbols, see quarantine/reasons.csv")
        if self.hidden_bars:
            bars = f"{counted(self.hidden_bars, 'bar')} of symbols that stay"
            lines.append(f"  quarantined {bars}: they are missing values now, see quarantine/bars.csv")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def part_lines(test_rows: Mapping[str, int], horizons: Mapping[str, int] | None = None) -> list[str]:
    """Return what can be said by test parts of these sizes. horizons: name of a config -> steps that it forecasts."""
    sizes = np.array([rows for rows in test_rows.values() if rows])
    if not len(sizes):
        return ["no symbol has a test part"]
    usual = int(np.median(sizes))
    lines = [
        f"test parts: {usual:,} rows (median; {sizes.min():,} to {sizes.max():,}) in {counted(len(sizes), 'symbol')}"
    ]
    for name, steps in (horizons or {}).items():
        lines.append(f"  {name}, {counted(steps, 'step')} ahead: {_origins(np.array(list(test_rows.values())), steps)}")
    if usual < 120:
        lines.append(
            f"a forecast of {usual:,} steps has one origin in such a part, one of 5 steps {usual // 5}: enough for a "
            "mean over symbols of one market phase, and no ground for a claim about a single symbol, nor for an "
            "interval over origins"
        )
    return lines


def _origins(sizes: IntArray, steps: int) -> str:
    """Return how many origins whose forecasts do not overlap test parts of these sizes hold, as text."""
    counts = sizes // steps
    if not counts.any():
        return "no origin in any symbol"
    least, most = int(counts[counts > 0].min()), int(counts.max())
    text = f"{least:,} to {most:,} origins a symbol" if least < most else f"{counted(least, 'origin')} a symbol"
    without = int((counts == 0).sum())
    return f"{text}, none in {without:,} of {len(sizes):,}" if without else text


def csv_text(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def quality_rows(corpus: str, rules: Mapping[str, Any], *, of_parts: bool) -> list[tuple[Any, ...]]:
    """Return a line of quality.csv for each rule that found anything in a corpus.

    of_parts: several files are one series, which repeat each other's rows.
    """
    return [
        (corpus, name, found["severity"], found["items"], found["rows"], found["action"],
         example_text(found["examples"][0]) if found["examples"] else "")
        for name, found in rules.items()
        if found["items"] and not (of_parts and name in OF_COPIES)
    ]  # fmt: skip
