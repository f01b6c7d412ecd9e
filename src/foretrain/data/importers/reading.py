"""Read files into the spool, and select the items that share one kind of time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from foretrain.data.importers.inputs import SourceInput, find_inputs, read_input
from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.report import ImportReport
from foretrain.data.importers.spool import Spool
from foretrain.data.rules import Findings
from foretrain.errors import DataError

Progress = Callable[[int, int, str], None]
CALENDARS = ("dates", "naive", "utc")  # kinds of time that have a calendar


@dataclass(frozen=True)
class Gathered:
    """Items of the files that were read; their rows are in the spool."""

    items: list[str]  # those that share one kind of time, in order of first appearance
    clock: str  # dates, naive, utc, steps or none
    sources: list[SourceInput]
    origin: dict[str, str]  # item -> the file it came from first
    market: bool  # at least one part is market data

    @property
    def calendar(self) -> bool:
        """True if times are stamps."""
        return self.clock in CALENDARS


class Reader:
    """Reads inputs into a spool."""

    def __init__(
        self,
        options: ImportOptions,
        out: Path,
        spool: Spool,
        findings: Findings,
        report: ImportReport,
        progress: Progress,
    ) -> None:
        self.options, self.out, self.spool = options, out, spool
        self.findings, self.report, self.progress = findings, report, progress
        self.sources: list[SourceInput] = []
        self.origin: dict[str, str] = {}
        self.market = False

    def run(self, paths: list[Path]) -> Gathered:
        """Read all files. Raises DataError naming the file."""
        self._read(paths)
        items, clock = self._one_clock(list(self.spool.parts))
        return Gathered(items, clock, self.sources, self.origin, self.market)

    def _read(self, paths: list[Path]) -> None:
        inputs = find_inputs(paths, self.options)
        for done, entry in enumerate(inputs):
            self.progress(done, len(inputs), entry.name)
            source = SourceInput(entry.name)
            self.sources.append(source)
            for part in read_input(entry, self.options, source):
                self._claim(part.item_id, entry.name, keyed=entry.kind == "table" and part.item_id != "")
                self.market |= part.market
                try:
                    self.spool.add(part, len(self.sources) - 1, entry.name)
                except DataError as error:
                    raise DataError(f"{entry.path}: {error}") from None
            if source.truncated is not None:
                example = {"item": self.options.item_id(entry.path), "file": entry.name, "line": source.truncated}
                self.findings.add("truncated_row", 1, example)
            self.report.notes += source.notes
        self.progress(len(inputs), len(inputs), "read")
        self.report.files = len(inputs)

    def _claim(self, item_id: str, file: str, *, keyed: bool) -> None:
        """Raise DataError if two files of the same name give one item, since they may be different series."""
        first = self.origin.setdefault(item_id, file)
        if first == file:
            return
        by_name = all(self.options.item_id(Path(name)) == item_id for name in (first, file))
        if by_name and self.options.id_pattern is None:
            raise DataError(
                f"{file} and {first} both give the item {item_id!r}. Rename one, import them apart, or, if they are "
                "parts of one series, say so with --id-pattern."
            )

    def _one_clock(self, items: list[str]) -> tuple[list[str], str]:
        """Return the items that share one kind of time, and that kind; dates go with naive and with UTC stamps."""
        kinds = {item: self.spool.clocks[item] - {"dates"} or {"dates"} for item in items}
        counts = Counter(kind for held in kinds.values() for kind in held)
        real = [kind for kind in counts if kind != "dates"]
        if {"naive", "utc"} <= set(real) and len(real) == 2:
            return self._mixed_zones(items, kinds, counts)
        if len(real) > 1 or (real and real[0] in ("none", "steps") and "dates" in counts):
            first = {kind: next(item for item in items if kind in kinds[item]) for kind in counts}
            seen = "; ".join(
                f"{_KINDS[kind]}: {count:,} items, first {first[kind]!r}" for kind, count in counts.items()
            )
            raise DataError(f"{self.out}: items with different kinds of time ({seen}). Import them apart.")
        self._note_offsets(items)
        return items, real[0] if real else "dates"

    def _mixed_zones(self, items: list[str], kinds: dict[str, set[str]], counts: Counter[str]) -> tuple[list[str], str]:
        naive = next(item for item in items if "naive" in kinds[item])
        aware = next(item for item in items if "utc" in kinds[item])
        if self.options.on_bad != "drop":
            raise DataError(
                f"{self.origin.get(naive)}: item {naive!r} has stamps without offset, item {aware!r} has an offset "
                f"(rule mixed_timezones, {counts['naive']:,} and {counts['utc']:,} items). Say with --timezone what "
                "the naive ones are, or leave the rarer kind out with --on-bad drop."
            )
        rare = "naive" if counts["naive"] < counts["utc"] else "utc"
        kept = [item for item in items if rare not in kinds[item]]
        for item in items:
            if rare in kinds[item]:
                self.findings.add("mixed_timezones", 1, {"item": item, "file": self.origin.get(item)})
                self.report.dropped[item] = f"mixed_timezones ({_KINDS[rare]})"
        return kept, "utc" if rare == "naive" else "naive"

    def _note_offsets(self, items: list[str]) -> None:
        """Report items whose offset differs from the most frequent one; their stamps are in UTC already, or dates."""
        offsets = self.spool.offsets
        standard = {item: offsets[item][0] for item in items if item in offsets and "utc" in self.spool.clocks[item]}
        if len(set(standard.values())) < 2:
            return
        usual = Counter(standard.values()).most_common(1)[0][0]
        for item, minutes in standard.items():
            if minutes != usual:
                detail = f"offset {minutes / 60:+g} h, most have {usual / 60:+g} h"
                self.findings.add("mixed_timezones", 1, {"item": item, "file": self.origin.get(item), "detail": detail})


_KINDS = {"dates": "dates", "naive": "naive stamps", "utc": "stamps with an offset", "steps": "step numbers",
          "none": "no time at all"}  # fmt: skip
