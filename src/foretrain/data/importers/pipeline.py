"""Import files into a corpus: read, clean each item once, choose the time axis, write, and report."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.atomic import replace_folder
from foretrain.data.importers import axis as axes
from foretrain.data.importers.columns import USUAL_ORDER, market_layout
from foretrain.data.importers.options import ImportOptions
from foretrain.data.importers.reading import Gathered, Progress, Reader
from foretrain.data.importers.report import ImportReport, summary_csv
from foretrain.data.importers.spool import Spool
from foretrain.data.importers.update import load_old, merge
from foretrain.data.rules import REPORTED, SHORT_ROWS, Findings, ItemFindings, ItemRows, MarketColumns, clean, observe
from foretrain.data.store import Column, CorpusWriter
from foretrain.data.windows import NO_TIME
from foretrain.errors import DataError
from foretrain.notes import Code, Note, texts
from foretrain.timeaxis.grid import iso


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
    called with (done, total, text). Raises DataError naming the file and a remedy; `out` is then unchanged.
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
    """Report no progress."""


def _check(out: Path, update: bool, provenance: str, options: ImportOptions) -> None:
    if provenance not in ("real", "synthetic"):
        raise DataError(f"provenance {provenance!r}: choose real or synthetic.")
    if not update and out.exists():
        raise DataError(f"{out}: exists already. Say --update to append new bars to it, or choose another --out.")
    if update and not out.exists():
        raise DataError(f"{out}: no corpus to update. Leave --update out to create it.")
    if update and options.adjust:
        raise DataError("--update with --adjust: every dividend changes all adjusted history; import all files again.")


@dataclass(frozen=True)
class _Schema:
    """The columns of the corpus to be written."""

    names: tuple[str, ...]
    order: list[int]  # their places among the spool's columns
    layout: MarketColumns


class _Import:
    """One import: the state that its steps share. Each step returns its decision."""

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
        self.old = load_old(out, spool, provenance) if update else None

    def run(self, paths: list[Path]) -> ImportReport:
        """Run the import."""
        reader = Reader(self.options, self.out, self.spool, self.findings, self.report, self.progress)
        gathered = reader.run(paths)
        schema = self._schema(gathered.market or bool(self.old and self.old.manifest.price_columns))
        items = self._same_columns(gathered, schema)
        items = self._clean(items, gathered, schema)
        axis = axes.decide(items, self.spool.times, clock=gathered.clock, freq=self.options.freq)
        if self.old is not None and not self._has_new_rows(items):
            self.report.changed = False
            return self.report
        items, axis = self._one_frequency(items, axis, gathered)
        self._write(items, axis, gathered, schema)
        return self.report

    # decisions about all items

    def _schema(self, market: bool) -> _Schema:
        """Return the corpus' columns: those of the old corpus, else target, options.columns, then in file order."""
        spool = self.spool
        if self.old is not None:
            names = list(self.old.columns)
            extra = [name for name in spool.columns if name not in names]
            if extra:
                raise DataError(
                    f"{self.out}: the new files have columns the corpus lacks ({', '.join(extra)}). Choose with "
                    f"--columns {','.join(names)}, or import all files again."
                )
        else:
            wanted = [name for name in (*self.options.target, *self.options.columns) if name in spool.columns]
            usual = [name for name in USUAL_ORDER if name in spool.columns] if market else []
            names = list(dict.fromkeys([*wanted, *usual, *spool.columns]))
        layout = market_layout(names, [name in spool.categories for name in names])
        if not market and not layout.bars:
            layout = replace(layout, prices=(), volumes=())
        if self.options.adjust and not {"close", "adj_close"} <= set(names):
            raise DataError(f"{self.out}: --adjust needs columns close and adj_close; found {', '.join(names)}.")
        return _Schema(tuple(names), [spool.columns.index(name) for name in names], layout)

    def _same_columns(self, gathered: Gathered, schema: _Schema) -> list[str]:
        """Report or drop items without columns that most items have; DataError for one that shares no column."""
        items, origin = gathered.items, gathered.origin
        missing_of = {item: set(missing) for item in items if (missing := self.spool.missing_columns(item))}
        if not missing_of:
            return items
        holders = Counter({name: len(items) for name in schema.names})
        for missing in missing_of.values():
            holders.subtract(missing)
        rare = {name for name in schema.names if 2 * holders[name] < len(items)}
        for name in sorted(rare):
            text = f"column {name!r} is in {holders[name]:,} of {len(items):,} items; NaN elsewhere"
            counts = {"items": holders[name], "of": len(items)}
            self.report.notes.append(Note(Code.RARE_COLUMN, text, counts))
        for item, missing in missing_of.items():
            own = set(schema.names) - missing
            if all(holders[name] == 1 for name in own) and len(items) > 1:
                raise DataError(
                    f"{origin.get(item)}: item {item!r} shares no column with the other {len(items) - 1:,} items "
                    f"(it has {', '.join(sorted(own))}). Import them apart."
                )
            if not missing - rare:
                continue
            detail = "lacks " + ", ".join(sorted(missing - rare))
            self.findings.add("missing_column", 1, {"item": item, "file": gathered.origin.get(item), "detail": detail})
            if self.options.on_bad == "drop":
                self.report.dropped[item] = f"missing_column ({detail})"
        return [item for item in items if item not in self.report.dropped]

    def _clean(self, items: list[str], gathered: Gathered, schema: _Schema) -> list[str]:
        """Read every item from the spool, clean it, and store it there again; items without rows are dropped."""
        kept = []
        for item in items:
            findings = ItemFindings(self.options.on_bad)
            read = self._rows(item, gathered, schema, findings)
            rows = clean(read, schema.layout, findings)
            if not len(rows):
                self._refuse_undated(read)
                self.report.dropped[item] = "no row is left after cleaning"
                continue
            self.spool.keep(rows, findings, len(read))
            kept.append(item)
        if not kept:
            raise DataError(f"{self.out}: no item has a row left after cleaning; nothing to write.")
        return kept

    def _refuse_undated(self, rows: ItemRows) -> None:
        """Raise DataError for an item without any stamp, unless mode is drop: it may have step numbers instead."""
        if self.options.on_bad != "drop" and rows.times is not None and (rows.times == NO_TIME).all():
            raise DataError(
                f"{rows.file}: item {rows.item_id!r} has no time stamp in any row (rule missing_timestamp). Import "
                "such items with their step column (--timestamp-column), or leave them out with --on-bad drop."
            )

    def _rows(self, item: str, gathered: Gathered, schema: _Schema, findings: Findings) -> ItemRows:
        """Return the item's rows as read, merged with the old corpus, and adjusted if the options say so."""
        names = [source.name for source in gathered.sources]
        new = self.spool.rows(item, schema.order, names, calendar=gathered.calendar, old=False)
        if self.old is not None:
            before = self.spool.rows(item, schema.order, names, calendar=gathered.calendar, old=True)
            new = merge(before, new, schema.layout, findings)
        assert new is not None
        return _adjusted(new, schema.names) if self.options.adjust else new

    def _one_frequency(self, items: list[str], axis: axes.Axis, gathered: Gathered) -> tuple[list[str], axes.Axis]:
        """Report items of several frequencies, or drop the rarer ones and choose the axis again."""
        if not axis.mixed:
            return items, axis
        own, counts = axis.own or {}, axis.counts or {}
        usual = max(counts, key=lambda name: counts[name])
        seen = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        rare = [item for item in items if (own[item] or "irregular") != usual]
        for item in rare:
            detail = f"{own[item] or 'irregular'}; items: {seen}"
            self.findings.add(
                "mixed_frequencies", 1, {"item": item, "file": gathered.origin.get(item), "detail": detail}
            )
        if self.options.on_bad != "drop":
            text = f"items of several frequencies ({seen}): seasonality is unknown to evaluation"
            self.report.notes.append(Note(Code.SEVERAL_FREQUENCIES, text, {"frequencies": len(counts)}))
            return items, axis
        for item in rare:
            self.report.dropped[item] = f"mixed_frequencies ({own[item] or 'irregular'})"
        kept = [item for item in items if item not in self.report.dropped]
        return kept, axes.decide(kept, self.spool.times, clock="dates", freq=self.options.freq)

    def _has_new_rows(self, items: list[str]) -> bool:
        """Return True if the files add a bar or an item to the old corpus."""
        assert self.old is not None
        before = {self.old.item_id(k): self.old.length(k) for k in range(self.old.num_series)}
        return any(len(self.spool.times(item)) > before.get(item, 0) for item in items)

    # writing

    def _write(self, items: list[str], axis: axes.Axis, gathered: Gathered, schema: _Schema) -> None:
        target = self.out if self.old is None else self.out.with_name(f".{self.out.name}-new-{os.getpid()}")
        writer = CorpusWriter(
            target,
            self._columns(schema),
            time=axis.time,
            freq=axis.freq,
            timezone="UTC" if gathered.clock == "utc" else None,
            timezone_note=self._zone_note(gathered.clock),
            seasonality=axis.seasonality,
            bars_per_session=axis.bars_per_session,
            adjusted=self.options.adjust,
            price_columns=tuple(schema.names[i] for i in schema.layout.prices),
            provenance=self._provenance(gathered),
        )
        summary: list[tuple[Any, ...]] = []
        seen: dict[bytes, str] = {}
        with writer:
            for done, item in enumerate(items):
                if done % max(1, len(items) // 200) == 0:
                    self.progress(done, len(items), "writing")
                rows, findings, read = self.spool.cleaned(item)
                findings.count_in(self.findings)
                rows = self._finished(rows, axis, schema.layout, seen)
                if rows is not None:
                    writer.append(item, rows.values, times=rows.times if gathered.calendar else None)
                    summary.append(_line(rows, read, axis, gathered))
            if not summary:
                raise DataError(f"{self.out}: the rules left no item; nothing was written.\n{self._why()}")
            self.findings.refuse_if_bad(str(self.out), min_rows=self.options.min_rows)
            self._finish_report(len(items), axis)
            writer.extra_file("quality.json", json.dumps(self._quality(), indent=2, ensure_ascii=False) + "\n")
            writer.extra_file("data_summary.csv", summary_csv(summary))
        if self.old is not None:
            replace_folder(target, self.out)
        self._fill_report(summary, axis, schema)

    def _finished(
        self, rows: ItemRows, axis: axes.Axis, layout: MarketColumns, seen: dict[bytes, str]
    ) -> ItemRows | None:
        """Return a cleaned item as it is stored, or None if a rule drops it (the report says why)."""
        item, drop = rows.item_id, self.options.on_bad == "drop"
        after, missing = axes.gaps(rows, axis)
        if len(after):
            self.findings.add("gap", int(missing.sum()), rows.example(int(after[0]), f"{missing[0]:,} steps missing"))
        jumped = observe(rows, layout, self.findings)
        twin = seen.setdefault(_digest(rows), item)
        if axis.fill and axis.time != "stamps":
            rows = axes.fill(rows, axis)
        why = self._too_short(rows)
        if twin != item:
            self.findings.add("identical_items", len(rows), rows.example(0, f"equals {twin!r}"))
            why = why or (f"identical_items ({twin!r})" if drop else None)
        why = why or ("split_like_jump" if jumped and drop else None)
        if why is None:
            return rows
        self.report.dropped[item] = why
        return None

    def _too_short(self, rows: ItemRows) -> str | None:
        least = self.options.min_rows or SHORT_ROWS
        if len(rows) >= least:
            return None
        self.findings.add("too_short", len(rows), rows.example(0, f"{len(rows)} rows, fewer than {least}"))
        return f"too_short ({len(rows)} rows)" if self.options.min_rows else None

    def _columns(self, schema: _Schema) -> list[Column]:
        return [
            Column(name=name, kind="categorical", categories=tuple(self.spool.categories[name]))
            if name in self.spool.categories
            else Column(name=name)
            for name in schema.names
        ]

    def _zone_note(self, clock: str) -> str | None:
        if clock == "utc":
            zone = self.options.timezone
            return f"naive stamps were read as {zone}" if zone else "offsets in the files were turned into UTC"
        return {"naive": "naive local times, taken as the files have them", "dates": "dates without time of day"}.get(
            clock
        )

    def _provenance(self, gathered: Gathered) -> dict[str, Any]:
        new = [{"name": s.name, "sha256": s.sha256, "rows": s.rows} for s in gathered.sources]
        old = list(self.old.manifest.provenance["sources"]) if self.old is not None else []
        return {"kind": self.provenance, "sources": [*old, *new], "command": self.command}

    def _quality(self) -> dict[str, Any]:
        return {
            "on_bad": self.options.on_bad,
            "rules": self.findings.to_json(),
            "left_out": self.report.dropped,
            "notes": texts(self.report.notes),
        }

    def _why(self) -> str:
        return "\n".join(f"  {item!r}: {why}" for item, why in list(self.report.dropped.items())[:5])

    def _finish_report(self, total: int, axis: axes.Axis) -> None:
        self.progress(total, total, "written")
        self.findings.done["gap"] = "NaN rows added" if axis.fill else REPORTED
        if self.options.min_rows is None:
            self.findings.done["too_short"] = REPORTED
        if axis.fill:
            added = self.findings.count("gap")[1]
            text = f"{added:,} rows of NaN were added where stamps were missing: the axis is regular"
            self.report.notes.append(Note(Code.ROWS_ADDED, text, {"rows": added}))

    def _fill_report(self, summary: list[tuple[Any, ...]], axis: axes.Axis, schema: _Schema) -> None:
        self.report.items = len(summary)
        self.report.rows = sum(line[2] for line in summary)
        self.report.columns = schema.names
        self.report.time, self.report.freq = axis.time, axis.freq
        self.report.rules = self.findings.to_json()


def _adjusted(rows: ItemRows, names: Sequence[str]) -> ItemRows:
    """Multiply open, high, low and close by adj_close / close."""
    values = rows.values.astype(np.float64)
    at = {name: i for i, name in enumerate(names)}
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = values[at["adj_close"]] / values[at["close"]]
    factor[~np.isfinite(factor)] = np.nan
    for name in ("open", "high", "low", "close"):
        if name in at:
            values[at[name]] *= factor
    return replace(rows, values=values.astype(np.float32))


def _line(rows: ItemRows, read: int, axis: axes.Axis, gathered: Gathered) -> tuple[Any, ...]:
    """Return an item's line of data_summary.csv."""
    first = last = ""
    if gathered.calendar and rows.times is not None:
        first, last = iso(int(rows.times[0])), iso(int(rows.times[-1]))
    missing = f"{np.isnan(rows.values).mean():.4f}"
    freq = axis.item_freq(rows.item_id) or ""
    return rows.item_id, last, len(rows), first, missing, freq, read, gathered.origin.get(rows.item_id, "")


def _digest(rows: ItemRows) -> bytes:
    digest = hashlib.blake2b(rows.values.tobytes(), digest_size=16)
    if rows.times is not None:
        digest.update(rows.times.tobytes())
    return digest.digest()
