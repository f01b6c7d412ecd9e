"""Count the rows whose values an import would lose, and stop it if they are many.

Lost are rows that conflict with another row of their item and stamp, rows without a stamp, and all rows of an item of
which nothing is left. Equal and complementary rows, NaN cells, empty ends, and stored bars that --update meets again
lose no value; what the user asks for (--on-bad drop, --min-rows, --duplicates) is no loss either.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from foretrain.data.findings import ItemFindings
from foretrain.data.importers.facts import Telling
from foretrain.data.importers.job import ImportJob
from foretrain.data.importers.reading import Gathered
from foretrain.data.importers.report import reasons
from foretrain.data.importers.telling import is_many
from foretrain.data.quality import ItemRows
from foretrain.data.windows import IntArray
from foretrain.errors import DataError
from foretrain.notes import Code, Note, counted
from foretrain.timeaxis.clock_changes import may_repeat
from foretrain.timeaxis.frequency import HOUR
from foretrain.timeaxis.grid import iso


@dataclass(frozen=True)
class ItemLoss:
    """Lost rows of one item, by reason. rows: those read; found: the first ones as text."""

    item: str
    rows: int
    conflicting: int
    unstamped: int
    gone: int
    found: str
    repeated_hour: str | None

    @property
    def lost(self) -> int:
        """Lost rows in all."""
        return self.conflicting + self.unstamped + self.gone


class Losses:
    """Lost rows of all items of an import."""

    def __init__(self, job: ImportJob, gathered: Gathered) -> None:
        self.job, self.gathered = job, gathered
        self.rows = 0
        self.items: list[ItemLoss] = []

    def add(self, read: ItemRows, count: int, findings: ItemFindings, *, left: int) -> None:
        """Count the losses of an item of which `left` rows stay. count: rows in the files; read: those, and older."""
        self.rows += count
        lost, options = findings.lost, self.job.options
        unstamped = 0 if options.on_bad == "drop" else lost.unstamped
        asked = options.duplicates not in (None, "error")
        conflicting = 0 if asked else len(lost.stamps)
        gone = 0
        if not left and options.on_bad != "drop":
            gone = int((~np.isnan(read.values)).any(axis=0).sum()) - unstamped - conflicting
        if not (unstamped or conflicting or gone):
            return
        rule = "duplicate_timestamp" if conflicting else "missing_timestamp" if unstamped else None
        found = findings.first(rule) if rule else f"item {read.item_id!r}: no value is left"
        hour = _repeated_hour(lost.stamps) if conflicting and self.gathered.clock == "naive" else None
        self.items.append(ItemLoss(read.item_id, count, conflicting, unstamped, gone, found, hour))

    def settle(self) -> None:
        """Write the losses into the report. Raises DataError if an item's or all losses are more than is allowed."""
        job = self.job
        total = Counter(
            conflicting=sum(i.conflicting for i in self.items),
            unstamped=sum(i.unstamped for i in self.items),
            gone=sum(i.gone for i in self.items),
        )
        job.report.lost = {"rows": sum(total.values()), "of": self.rows, **total}
        self._name_actions()
        if job.options.on_bad != "error":  # which refuses any of these when all findings are known
            self._refuse(total)
        hours = [item for item in self.items if item.repeated_hour]
        if hours:
            text = (
                f"item {hours[0].item!r}: the hour {hours[0].repeated_hour} occurs twice, as at the end of summer "
                "time; name the zone with --timezone to keep both"
            )
            job.report.notes.append(Note(Code.HOUR_REPEATED, text, {"items": len(hours)}))

    def _name_actions(self) -> None:
        """Say in the quality report what was done, where the rule's entry names alternatives."""
        options, done = self.job.options, self.job.findings.done
        if options.on_bad == "error":
            return
        done["missing_timestamp"] = "row left out"
        kept = {"last": "last row kept", "first": "first row kept", "mean": "mean of the rows"}
        if options.duplicates in kept:
            done["duplicate_timestamp"] = f"{kept[options.duplicates]}, as --duplicates says"
        elif options.on_bad == "fix":
            done["duplicate_timestamp"] = "last row of the file kept"
        else:
            done["duplicate_timestamp"] = "all rows of that stamp left out"

    def _refuse(self, total: Counter[str]) -> None:
        options = self.job.options
        if options.duplicates == "error" and total["conflicting"]:
            bad = [item for item in self.items if item.conflicting]
            raise DataError(self._text(bad, "refused by --duplicates error"))
        over = [item for item in self.items if is_many(item.lost, item.rows, options.allow_loss)]
        if over or is_many(sum(total.values()), self.rows, options.allow_loss):
            raise DataError(self._text(over or self.items, ""))

    def _text(self, bad: list[ItemLoss], why: str) -> str:
        """Say what would be lost, of which items, and which options settle it. The worst item comes first."""
        bad = sorted(bad, key=lambda item: -item.lost / max(item.rows, 1))
        lost = self.job.report.lost
        share = lost["rows"] / max(self.rows, 1)
        first = bad[0]
        lines = [
            f"{self.gathered.origin.get(first.item, self.job.name)}: {lost['rows']:,} of {counted(self.rows, 'row')} "
            f"({share:.1%}) would be lost{f', {why}' if why else ''}: {reasons(lost)}. Nothing was written."
        ]
        for item in bad[:3]:
            lines.append(f"  {counted(item.lost, 'row')} of {item.rows:,}, first: {item.found}")
        if len(bad) > 3:
            lines.append(f"  and rows of {counted(len(bad) - 3, 'more item')}")
        if any(item.conflicting for item in bad):
            lines += self._ways_of_conflicts(bad)
        if any(item.unstamped for item in bad):
            lines.append("  Give the rows a stamp; --on-bad drop leaves rows without one out.")
        if any(item.gone for item in bad):
            lines.append("  --on-bad drop leaves such items out.")
        if why:
            return "\n".join(lines)
        worst = max(share, max(item.lost / max(item.rows, 1) for item in bad))
        allowed = min(1.0, np.ceil(worst * 100) / 100)
        lines.append(f"  To lose them all the same: --allow-loss {allowed:g}.")
        return "\n".join(lines)

    def _ways_of_conflicts(self, bad: list[ItemLoss]) -> list[str]:
        hours = [item for item in bad if item.repeated_hour]
        if len(hours) == len(bad):
            return [
                f"  Only the hour {hours[0].repeated_hour} repeats, as at the end of summer time: --timezone ZONE "
                "(such as Europe/Berlin) tells the two apart."
            ]
        lines = []
        telling, times = self._telling(bad)
        if telling is not None:
            lines.append("  " + _advice(telling, times))
        if len(self.gathered.sources) > 1 and not telling:
            lines.append("  If files hold the same stamps of different series, import them apart, or rename them.")
        lines.append("  If the rows are one series: --duplicates last, first or mean says what counts.")
        return lines

    def _telling(self, bad: list[ItemLoss]) -> tuple[Telling | None, tuple[str, ...]]:
        """Return the columns that tell the rows apart in the first of the files concerned, and its time columns."""
        files = {self.gathered.origin.get(item.item) for item in bad}
        for source in self.gathered.sources:
            if source.name in files and source.facts.telling is not None:
                return source.facts.telling, source.facts.times
        return None, ()


def _advice(telling: Telling, times: tuple[str, ...]) -> str:
    """Say which columns tell the rows apart, and the option for it."""
    ids, clock = " and ".join(map(repr, telling.ids)), " and ".join(map(repr, telling.clock))
    lines = []
    if telling.labels:
        one = "column" if len(telling.labels) == 1 else "columns"
        lines.append(
            f"the rows differ in little but text ({one} {' and '.join(map(repr, telling.labels))}): if it says the "
            "same in several words, name the other columns with --columns."
        )
    if telling.clock:
        read = " and ".join(map(repr, times)) or "one column"
        lines.append(
            f"the time was read from {read} alone, and {clock} {'are' if len(telling.clock) > 1 else 'is'} a part of "
            "it: write the whole time in one column and name it with --timestamp-column."
        )
    if telling.ids:
        before = "together with that, " if telling.clock else "but if it names items, " if telling.labels else ""
        what = f"column {ids} tells" if len(telling.ids) == 1 else f"columns {ids} tell"
        option = ",".join(telling.ids)
        option = f'"{option}"' if " " in option else option
        lines.append(f"{before}{what} the rows apart: --id-column {option}.")
    return " ".join(line[0].upper() + line[1:] for line in lines)


def _repeated_hour(stamps: IntArray) -> str | None:
    """Return the first repeated hour if all are hours that clocks repeat, one a year."""
    hours = np.unique(stamps // HOUR * HOUR)
    once = len(np.unique(hours.astype("M8[us]").astype("M8[Y]"))) == len(hours)
    return iso(int(hours[0])) if len(hours) and once and may_repeat(hours) else None
