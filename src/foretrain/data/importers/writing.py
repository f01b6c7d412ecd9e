"""Write the cleaned items of an import as a corpus, with its quality report and summary file."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from foretrain.data.cuts import OwnCuts, read_cuts
from foretrain.data.importers.axis import Axis, Placed, place_items
from foretrain.data.importers.cleaning import Cleaned
from foretrain.data.importers.job import ImportJob
from foretrain.data.importers.report import summary_csv
from foretrain.data.lineage import Lineage
from foretrain.data.manifest import Adjustment
from foretrain.data.market.adjustment import PRICE_FACTOR, VOLUME_FACTOR
from foretrain.data.market.traded import EVENTS, FACTORS, scaled_columns
from foretrain.data.quality import ItemRows
from foretrain.data.rules import REPORTED, SHORT_ROWS
from foretrain.data.store import Column, CorpusWriter
from foretrain.errors import DataError
from foretrain.notes import Code, Note, texts
from foretrain.timeaxis.grid import iso


def write_corpus(cleaned: Cleaned, axis: Axis, job: ImportJob) -> None:
    """Write the items that the rules leave, and complete the job's report. Raises DataError if none is left."""
    _Writer(cleaned, axis, job).run()


class _Writer:
    """Writes the corpus of a job."""

    def __init__(self, cleaned: Cleaned, axis: Axis, job: ImportJob) -> None:
        self.job, self.axis, self.cleaned = job, axis, cleaned
        self.items, self.schema, self.gathered = cleaned.items, cleaned.schema, cleaned.gathered
        self.seen: dict[bytes, str] = {}  # digest of rows -> item
        self.old_cuts = {} if job.old is None else read_cuts(job.old.path, job.old.manifest.cuts)
        self.cuts: dict[str, OwnCuts] = {}

    def run(self) -> None:
        """Write items, quality.json and data_summary.csv."""
        job = self.job
        summary: list[tuple[Any, ...]] = []
        lineage = None if job.old is None else Lineage(job.old)
        with self._open() as writer:
            for done, placed in enumerate(place_items(self.cleaned, self.axis, job)):
                if done % max(1, len(self.items) // 200) == 0:
                    job.progress(done, len(self.items), "writing")
                if self._stays(placed):
                    rows = placed.rows
                    self._cut(rows)
                    writer.append(rows.item_id, rows.values, times=rows.times)
                    summary.append(self._line(placed))
                    if lineage is not None and rows.times is not None:
                        lineage.add(rows.item_id, rows.times)
            if not summary:
                raise DataError(f"{job.name}: the rules left no item; nothing was written.\n{self._why()}")
            gone = job.stored.difference(line[0] for line in summary)
            if gone:  # no rule does this
                text = f"{job.name}: the update would lose the stored item {min(gone)!r}. Nothing was changed."
                raise DataError(text)
            job.findings.refuse_if_bad(job.name, min_rows=job.options.min_rows)
            self._finish_report()
            writer.extra_file("quality.json", json.dumps(self._quality(), indent=2, ensure_ascii=False) + "\n")
            writer.extra_file("data_summary.csv", summary_csv(summary))
            if lineage is not None:
                writer.follow(lineage.records())
            if self.cuts:
                writer.cut_at(self.cuts)
        self._fill_report(summary)

    def _open(self) -> CorpusWriter:
        return CorpusWriter(
            self.job.out,
            self._columns(),
            time=self.axis.time,
            freq=self.axis.freq,
            step=self.axis.step,
            timezone="UTC" if self.gathered.clock == "utc" else None,
            timezone_note=self._zone_note(),
            seasonality=self.axis.seasonality,
            bars_per_session=self.axis.bars_per_session,
            adjusted=self.job.options.adjust,
            price_columns=tuple(self.schema.names[i] for i in self.schema.layout.prices),
            adjustment=self._adjustment(),
            beside_prices=self._beside_prices(),
            past_covariates=self._covariates("past"),
            known_covariates=self._covariates("known"),
            provenance=self._provenance(),
            replaces=None if self.job.old is None else self.job.old.manifest,
            locked=True,
        )

    def _cut(self, rows: ItemRows) -> None:
        """Note where an item's parts begin, if items have parts: of a stored one where they began."""
        if not self.old_cuts and self.job.cut is None:
            return
        found = self.old_cuts.get(rows.item_id)
        if found is None and self.job.cut is None:
            raise DataError(
                f"{self.job.name}: item {rows.item_id!r} is new, and the items of this corpus have parts of their own. "
                "Add it with `foretrain data market build FOLDER --out LIBRARY --update`. Nothing was changed."
            )
        if found is None:
            assert self.job.cut is not None and rows.times is not None
            found = self.job.cut(rows.item_id, rows.times)
        self.cuts[rows.item_id] = found

    def _stays(self, placed: Placed) -> bool:
        """Return False if a rule drops an item; the report says why."""
        rows, findings, drop = placed.rows, self.job.findings, self.job.options.on_bad == "drop"
        placed.findings.count_in(findings)
        twin = self.seen.setdefault(_digest(rows), rows.item_id)
        why = self._too_short(rows)
        if twin != rows.item_id:
            findings.add("identical_items", len(rows), rows.example(0, f"equals {twin!r}"))
            why = why or (f"identical_items ({twin!r})" if drop else None)
        why = why or placed.why
        if rows.item_id in self.job.stored:
            why = None
        if why is not None:
            self.job.report.dropped[rows.item_id] = why
        return why is None

    def _too_short(self, rows: ItemRows) -> str | None:
        least = self.job.options.min_rows or SHORT_ROWS
        if len(rows) >= least:
            return None
        self.job.findings.add("too_short", len(rows), rows.example(0, f"{len(rows)} rows, fewer than {least}"))
        return f"too_short ({len(rows)} rows)" if self.job.options.min_rows else None

    def _line(self, placed: Placed) -> tuple[Any, ...]:
        """Return an item's line of data_summary.csv."""
        rows = placed.rows
        first = last = ""
        if self.gathered.calendar and rows.times is not None:
            first, last = iso(int(rows.times[0])), iso(int(rows.times[-1]))
        missing = f"{np.isnan(rows.values).mean():.4f}"
        freq = self.axis.item_freq(rows.item_id) or ""
        origin = self.gathered.origin.get(rows.item_id, "")
        return rows.item_id, last, len(rows), first, missing, freq, placed.read, origin

    def _columns(self) -> list[Column]:
        categories = self.job.spool.categories.codes
        return [
            Column(name=name, kind="categorical", categories=tuple(categories[name]))
            if name in categories
            else Column(name=name)
            for name in self.schema.written
        ]

    def _adjustment(self) -> Adjustment | None:
        if not self.schema.adjusts:
            return None
        names = self.schema.names
        prices, volumes = (tuple(names[i] for i in group) for group in scaled_columns(self.schema.layout))
        return Adjustment(price=PRICE_FACTOR, volume=VOLUME_FACTOR, prices=prices, volumes=volumes)

    def _beside_prices(self) -> tuple[str, ...]:
        """Return the columns of a market table that are forecast only if they are named."""
        if not self.schema.layout.prices:
            return ()
        beside = [name for name in self.schema.written if name in (*EVENTS, *FACTORS) or name.startswith("adj_")]
        return tuple(name for name in beside if name not in self.job.options.target)

    def _covariates(self, role: str) -> tuple[str, ...]:
        """Return the columns that the data calls covariates of a role, except targets that the user named."""
        found, targets = self.job.spool.covariates, self.job.options.target
        return tuple(name for name in self.schema.names if found.get(name) == role and name not in targets)

    def _zone_note(self) -> str | None:
        if self.gathered.clock == "utc":
            zone = self.job.options.timezone
            return f"naive stamps were read as {zone}" if zone else "offsets in the files were turned into UTC"
        known = {"naive": "naive local times, taken as the files have them", "dates": "dates without time of day"}
        return known.get(self.gathered.clock)

    def _provenance(self) -> dict[str, Any]:
        job = self.job
        new = [{"name": s.name, "sha256": s.sha256, "rows": s.rows} for s in self.gathered.sources]
        old = list(job.old.manifest.provenance["sources"]) if job.old is not None else []
        return {"kind": job.provenance, "sources": [*old, *new], "command": job.command}

    def _quality(self) -> dict[str, Any]:
        return {
            "on_bad": self.job.options.on_bad,
            "lost": self.job.report.lost,
            "rules": self.job.findings.to_json(),
            "left_out": self.job.report.dropped,
            "notes": texts(self.job.report.notes),
        }

    def _why(self) -> str:
        return "\n".join(f"  {item!r}: {why}" for item, why in list(self.job.report.dropped.items())[:5])

    def _finish_report(self) -> None:
        findings, fill = self.job.findings, self.axis.fill
        self.job.progress(len(self.items), len(self.items), "written")
        self._note_covariates()
        sessions = self.job.options.calendar is not None and self.axis.time == "stamps"
        findings.done["gap"] = "NaN rows added" if fill or sessions else REPORTED
        if self.job.options.min_rows is None:
            findings.done["too_short"] = REPORTED
        if fill:
            added = findings.count("gap")[1]
            why = "the axis is regular" if self.axis.grid is None else f"the rows are on the grid of {self.axis.grid}"
            text = f"{added:,} rows of NaN were added where stamps were missing: {why}"
            self.job.report.notes.append(Note(Code.ROWS_ADDED, text, {"rows": added}))

    def _note_covariates(self) -> None:
        past, known = self._covariates("past"), self._covariates("known")
        if not past + known:
            return
        kinds = [f"{', '.join(names)} ({kind})" for names, kind in ((past, "past"), (known, "known ahead")) if names]
        text = f"covariates by their names, forecast only if --target names them: {'; '.join(kinds)}"
        counts = {"past": len(past), "known": len(known)}
        self.job.report.notes.append(Note(Code.COVARIATES_BY_NAME, text, counts))

    def _fill_report(self, summary: list[tuple[Any, ...]]) -> None:
        report = self.job.report
        report.items = len(summary)
        report.rows = sum(line[2] for line in summary)
        report.columns = self.schema.written
        report.time, report.freq = self.axis.time, self.axis.freq
        report.rules = self.job.findings.to_json()


def _digest(rows: ItemRows) -> bytes:
    digest = hashlib.blake2b(rows.values.tobytes(), digest_size=16)
    if rows.times is not None:
        digest.update(rows.times.tobytes())
    return digest.digest()
