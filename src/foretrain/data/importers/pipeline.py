"""From files to a corpus: read, gather, decide the axis, clean, write, and report what was found and done."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.atomic import replace_folder
from foretrain.data.frequency import iso
from foretrain.data.importers import axis as axes
from foretrain.data.importers.columns import USUAL_ORDER, market_layout
from foretrain.data.importers.inputs import Source, find_inputs, read_input
from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.report import ImportReport, summary_csv
from foretrain.data.importers.spool import Spool
from foretrain.data.importers.update import load_old, merge
from foretrain.data.rules import REPORTED, SHORT_ROWS, Findings, Rows, clean, observe
from foretrain.data.store import Column, CorpusWriter
from foretrain.errors import DataError

Progress = Callable[[int, int, str], None]


def import_corpus(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    update: bool = False,
    provenance: str = "real",
    progress: Progress | None = None,
    command: str | None = None,
    **options: Any,
) -> ImportReport:
    """Import files or folders into the corpus folder `out`; options are the fields of ImportOptions.

    With update, new bars and items are appended to an existing corpus. provenance is "real" or "synthetic". progress is
    called with (done, total, text). Raises DataError, naming file, fact and way out, and then leaves nothing behind.
    """
    settings = ImportOptions.of(**options)
    out = Path(out)
    _check(out, update, provenance, settings)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with Spool(out.parent) as spool:
            job = _Import(settings, out, spool, update, provenance, progress or _silent, command)
            return job.run([Path(path) for path in paths])
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}. Nothing was changed.") from None


def _silent(done: int, total: int, text: str) -> None:
    """No progress wanted."""


def _check(out: Path, update: bool, provenance: str, options: ImportOptions) -> None:
    if provenance not in ("real", "synthetic"):
        raise DataError(f"provenance {provenance!r}: choose real or synthetic.")
    if not update and out.exists():
        raise DataError(f"{out}: exists already. Say --update to append new bars to it, or choose another --out.")
    if update and not out.exists():
        raise DataError(f"{out}: no corpus to update. Leave --update out to create it.")
    if update and options.adjust:
        raise DataError("--update with --adjust: every dividend changes all adjusted history; import the files anew.")


class _Import:
    """State of one import: what was read (spool), found (findings) and decided (layout, axis)."""

    def __init__(
        self,
        options: ImportOptions,
        out: Path,
        spool: Spool,
        update: bool,
        provenance: str,
        progress: Progress,
        command: str | None,
    ) -> None:
        self.options, self.out, self.spool = options, out, spool
        self.provenance, self.progress, self.command = provenance, progress, command
        self.findings = Findings(options.on_bad)
        self.report = ImportReport(out, on_bad=options.on_bad)
        self.sources: list[Source] = []
        self.origin: dict[str, str] = {}  # item -> the file it came from first
        self.old = load_old(out, spool, provenance) if update else None
        self.market = bool(self.old and self.old.manifest.price_columns)

    def run(self, paths: list[Path]) -> ImportReport:
        """The whole import."""
        self._read(paths)
        items, clock = self._one_clock(list(self.spool.pieces))
        self._arrange_columns()
        items = self._same_columns(items)
        self.calendar = clock in ("dates", "naive", "utc")
        items = self._gather_times(items)
        self.axis = axes.decide(items, self.spool.kept_times, clock=clock, freq=self.options.freq)
        if self.old is not None and not self._news(items):
            self.report.changed = False
            self.report.files = len(self.sources)
            return self.report
        items = self._one_frequency(items)
        self._write(items, "UTC" if clock == "utc" else None, clock)
        return self.report

    # reading

    def _read(self, paths: list[Path]) -> None:
        inputs = find_inputs(paths, self.options)
        for done, entry in enumerate(inputs):
            self.progress(done, len(inputs), entry.name)
            source = Source(entry.name)
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
        """An item named after its file may come from one file only: two files of one name are two things."""
        first = self.origin.setdefault(item_id, file)
        if first == file:
            return
        by_name = all(self.options.item_id(Path(name)) == item_id for name in (first, file))
        if by_name and self.options.id_pattern is None:
            raise DataError(
                f"{file} and {first} both give the item {item_id!r}. Rename one, import them apart, or, if they are "
                "parts of one series, say so with --id-pattern."
            )

    # decisions about the whole

    def _one_clock(self, items: list[str]) -> tuple[list[str], str]:
        """Items that share one kind of time, and that kind; dates agree with naive and with UTC stamps."""
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
        """Items whose offsets differ from most others' are reported; their stamps were turned into UTC or are dates."""
        offsets = self.spool.offsets
        standard = {item: offsets[item][0] for item in items if item in offsets and "utc" in self.spool.clocks[item]}
        if len(set(standard.values())) < 2:
            return
        usual = Counter(standard.values()).most_common(1)[0][0]
        for item, minutes in standard.items():
            if minutes != usual:
                detail = f"offset {minutes / 60:+g} h, most have {usual / 60:+g} h"
                self.findings.add("mixed_timezones", 1, {"item": item, "file": self.origin.get(item), "detail": detail})

    def _arrange_columns(self) -> None:
        """Order of the corpus' columns: the old corpus', else target first, then as options.columns, then as found."""
        spool = self.spool
        if self.old is not None:
            names = list(self.old.columns)
            extra = [name for name in spool.columns if name not in names]
            if extra:
                raise DataError(
                    f"{self.out}: the new files have columns the corpus lacks ({', '.join(extra)}). Choose with "
                    f"--columns {','.join(names)}, or import everything anew."
                )
        else:
            wanted = [name for name in (*self.options.target, *self.options.columns) if name in spool.columns]
            usual = [name for name in USUAL_ORDER if name in spool.columns] if self.market else []
            names = list(dict.fromkeys([*wanted, *usual, *spool.columns]))
        self.order = [spool.columns.index(name) for name in names]
        self.names = tuple(names)
        textual = [name in spool.categories for name in names]
        layout = market_layout(names, textual)
        self.layout = layout if self.market or layout.bars else replace(layout, prices=(), volumes=())
        if self.options.adjust and not {"close", "adj_close"} <= set(names):
            raise DataError(f"{self.out}: --adjust needs columns close and adj_close; found {', '.join(names)}.")

    def _same_columns(self, items: list[str]) -> list[str]:
        """Items without columns that most have: reported, or dropped; one that shares no column is refused."""
        lacking = {item: set(missing) for item in items if (missing := self.spool.missing_columns(item))}
        if not lacking:
            return items
        holders = Counter({name: len(items) for name in self.names})
        for missing in lacking.values():
            holders.subtract(missing)
        rare = {name for name in self.names if 2 * holders[name] < len(items)}
        for name in sorted(rare):
            self.report.notes.append(f"column {name!r} is in {holders[name]:,} of {len(items):,} items; NaN elsewhere")
        for item, missing in lacking.items():
            own = set(self.names) - missing
            if all(holders[name] == 1 for name in own) and len(items) > 1:
                raise DataError(
                    f"{self.origin.get(item)}: item {item!r} shares no column with the other {len(items) - 1:,} items "
                    f"(it has {', '.join(sorted(own))}). Import them apart."
                )
            if not missing - rare:
                continue
            detail = "lacks " + ", ".join(sorted(missing - rare))
            self.findings.add("missing_column", 1, {"item": item, "file": self.origin.get(item), "detail": detail})
            if self.options.on_bad == "drop":
                self.report.dropped[item] = f"missing_column ({detail})"
        return [item for item in items if item not in self.report.dropped]

    def _gather_times(self, items: list[str]) -> list[str]:
        """Cleaned stamps of every item, kept for the axis; items without a row are left out."""
        scratch = Findings(self.options.on_bad)
        kept = []
        for item in items:
            rows = clean(self._rows(item, scratch), self.layout, scratch)
            if not len(rows):
                self._refuse_undated(item)
                self.report.dropped[item] = "no row is left after cleaning"
                continue
            self.spool.keep_times(item, rows.times if rows.times is not None else np.zeros(0, np.int64))
            kept.append(item)
        if not kept:
            raise DataError(f"{self.out}: no item has a row left after cleaning; nothing to write.")
        return kept

    def _refuse_undated(self, item: str) -> None:
        """An item whose every stamp is blank is not dropped in silence: it may have step numbers instead."""
        rows = self._rows(item, Findings("fix"))
        if self.options.on_bad != "drop" and rows.times is not None and (rows.times == np.iinfo(np.int64).min).all():
            raise DataError(
                f"{rows.file}: item {item!r} has no time stamp in any row (rule missing_timestamp). Import such items "
                "with their step column (--timestamp-column), or leave them out with --on-bad drop."
            )

    def _one_frequency(self, items: list[str]) -> list[str]:
        if not self.axis.mixed:
            return items
        own, counts = self.axis.own or {}, self.axis.counts or {}
        usual = max(counts, key=lambda name: counts[name])
        seen = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        rare = [item for item in items if (own[item] or "irregular") != usual]
        for item in rare:
            detail = f"{own[item] or 'irregular'}; items: {seen}"
            self.findings.add("mixed_frequencies", 1, {"item": item, "file": self.origin.get(item), "detail": detail})
        if self.options.on_bad != "drop":
            self.report.notes.append(f"items of several frequencies ({seen}): seasonality is unknown to evaluation")
            return items
        for item in rare:
            self.report.dropped[item] = f"mixed_frequencies ({own[item] or 'irregular'})"
        kept = [item for item in items if item not in self.report.dropped]
        self.axis = axes.decide(kept, self.spool.kept_times, clock="dates", freq=self.options.freq)
        return kept

    def _news(self, items: list[str]) -> bool:
        """Whether the files add a bar or an item to the old corpus."""
        assert self.old is not None
        before = {self.old.item_id(k): self.old.length(k) for k in range(self.old.num_series)}
        return any(len(self.spool.kept_times(item)) > before.get(item, 0) for item in items)

    # writing

    def _rows(self, item: str, findings: Findings) -> Rows:
        """The item's rows out of the spool, merged with the old corpus and adjusted where asked."""
        names = [source.name for source in self.sources]
        new = self.spool.rows(item, self.order, names, calendar=self.calendar, old=False)
        if self.old is not None:
            before = self.spool.rows(item, self.order, names, calendar=self.calendar, old=True)
            new = merge(before, new, self.layout, findings)
        assert new is not None
        return self._adjusted(new) if self.options.adjust else new

    def _adjusted(self, rows: Rows) -> Rows:
        values = rows.values.astype(np.float64)
        at = {name: i for i, name in enumerate(self.names)}
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = values[at["adj_close"]] / values[at["close"]]
        factor[~np.isfinite(factor)] = np.nan
        for name in ("open", "high", "low", "close"):
            if name in at:
                values[at[name]] *= factor
        return replace(rows, values=values.astype(np.float32))

    def _write(self, items: list[str], timezone: str | None, clock: str) -> None:
        target = self.out if self.old is None else self.out.with_name(f".{self.out.name}-new-{os.getpid()}")
        writer = CorpusWriter(
            target,
            self._columns(),
            time=self.axis.time,
            freq=self.axis.freq,
            timezone=timezone,
            timezone_note=self._zone_note(clock),
            seasonality=self.axis.seasonality,
            bars_per_session=self.axis.bars_per_session,
            adjusted=self.options.adjust,
            price_columns=tuple(self.names[i] for i in self.layout.prices),
            provenance=self._provenance(),
        )
        summary: list[tuple[Any, ...]] = []
        seen: dict[bytes, str] = {}
        with writer:
            for done, item in enumerate(items):
                if done % max(1, len(items) // 200) == 0:
                    self.progress(done, len(items), "writing")
                read = self._rows(item, self.findings)
                rows = self._finished(read, seen)
                if rows is not None:
                    writer.append(item, rows.values, times=rows.times if self.calendar else None)
                    summary.append(self._line(rows, len(read)))
            if not summary:
                raise DataError(f"{self.out}: the rules left no item; nothing was written.\n{self._why()}")
            self.findings.refuse_if_bad(str(self.out), min_rows=self.options.min_rows)
            self._finish_report(len(items))
            writer.extra_file("quality.json", json.dumps(self._quality(), indent=2, ensure_ascii=False) + "\n")
            writer.extra_file("data_summary.csv", summary_csv(summary))
        if self.old is not None:
            replace_folder(target, self.out)
        self._fill_report(summary)

    def _finished(self, rows: Rows, seen: dict[bytes, str]) -> Rows | None:
        """The item as it is stored; None when the rules leave it out (the report then says why)."""
        rows = clean(rows, self.layout, self.findings)
        item, drop = rows.item_id, self.options.on_bad == "drop"
        after, missing = axes.gaps(rows, self.axis)
        if len(after):
            self.findings.add("gap", int(missing.sum()), rows.example(int(after[0]), f"{missing[0]:,} steps missing"))
        jumped = observe(rows, self.layout, self.findings)
        twin = seen.setdefault(_digest(rows), item)
        if self.axis.fill and self.axis.time != "stamps":
            rows = axes.fill(rows, self.axis)
        why = self._too_short(rows)
        if twin != item:
            self.findings.add("identical_items", len(rows), rows.example(0, f"equals {twin!r}"))
            why = why or (f"identical_items ({twin!r})" if drop else None)
        why = why or ("split_like_jump" if jumped and drop else None)
        if why is None:
            return rows
        self.report.dropped[item] = why
        return None

    def _too_short(self, rows: Rows) -> str | None:
        least = self.options.min_rows or SHORT_ROWS
        if len(rows) >= least:
            return None
        self.findings.add("too_short", len(rows), rows.example(0, f"{len(rows)} rows, fewer than {least}"))
        return f"too_short ({len(rows)} rows)" if self.options.min_rows else None

    def _columns(self) -> list[Column]:
        return [
            Column(name=name, kind="categorical", categories=tuple(self.spool.categories[name]))
            if name in self.spool.categories
            else Column(name=name)
            for name in self.names
        ]

    def _zone_note(self, clock: str) -> str | None:
        if clock == "utc":
            zone = self.options.timezone
            return f"naive stamps were read as {zone}" if zone else "offsets in the files were turned into UTC"
        return {"naive": "naive local times, taken as the files have them", "dates": "dates without time of day"}.get(
            clock
        )

    def _provenance(self) -> dict[str, Any]:
        new = [{"name": s.name, "sha256": s.sha256, "rows": s.rows} for s in self.sources]
        old = list(self.old.manifest.provenance["sources"]) if self.old is not None else []
        return {"kind": self.provenance, "sources": [*old, *new], "command": self.command}

    def _line(self, rows: Rows, read: int) -> tuple[Any, ...]:
        first = last = ""
        if self.calendar and rows.times is not None:
            first, last = iso(int(rows.times[0])), iso(int(rows.times[-1]))
        missing = f"{np.isnan(rows.values).mean():.4f}"
        freq = self.axis.item_freq(rows.item_id) or ""
        return rows.item_id, last, len(rows), first, missing, freq, read, self.origin.get(rows.item_id, "")

    def _quality(self) -> dict[str, Any]:
        return {
            "on_bad": self.options.on_bad,
            "rules": self.findings.to_json(),
            "left_out": self.report.dropped,
            "notes": self.report.notes,
        }

    def _why(self) -> str:
        return "\n".join(f"  {item!r}: {why}" for item, why in list(self.report.dropped.items())[:5])

    def _finish_report(self, total: int) -> None:
        self.progress(total, total, "written")
        self.findings.done["gap"] = "NaN rows added" if self.axis.fill else REPORTED
        if self.options.min_rows is None:
            self.findings.done["too_short"] = REPORTED
        if self.axis.fill:
            added = self.findings.count("gap")[1]
            self.report.notes.append(f"{added:,} rows of NaN were added where stamps were missing: the axis is regular")

    def _fill_report(self, summary: list[tuple[Any, ...]]) -> None:
        self.report.items = len(summary)
        self.report.rows = sum(line[2] for line in summary)
        self.report.columns = self.names
        self.report.time, self.report.freq = self.axis.time, self.axis.freq
        self.report.rules = self.findings.to_json()


_KINDS = {"dates": "dates", "naive": "naive stamps", "utc": "stamps with an offset", "steps": "step numbers",
          "none": "no time at all"}  # fmt: skip


def _digest(rows: Rows) -> bytes:
    digest = hashlib.blake2b(rows.values.tobytes(), digest_size=16)
    if rows.times is not None:
        digest.update(rows.times.tobytes())
    return digest.digest()
