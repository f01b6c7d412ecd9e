"""Choose the columns of the corpus, and clean each item once: spool, rules, spool.

# V columns, T rows of one item
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from foretrain.data.findings import ItemFindings
from foretrain.data.importers.columns import SIDES, USUAL_ORDER, market_layout
from foretrain.data.importers.job import ImportJob
from foretrain.data.importers.losses import Losses
from foretrain.data.importers.reading import Gathered
from foretrain.data.importers.report import counted
from foretrain.data.importers.update import merge
from foretrain.data.market.review import MarketReview
from foretrain.data.market.traded import FACTORS, as_traded, has_events
from foretrain.data.quality import ItemRows, MarketColumns, clean, observe
from foretrain.data.suspicions import TOTALS
from foretrain.data.windows import NO_TIME
from foretrain.errors import DataError
from foretrain.notes import Code, Note


@dataclass(frozen=True)
class Schema:
    """The columns of the corpus to be written."""

    names: tuple[str, ...]
    order: list[int]  # their places among the spool's columns
    layout: MarketColumns
    adjusts: bool = False  # dividends or splits are among them: prices are as traded, with factors

    @property
    def written(self) -> tuple[str, ...]:
        """The columns of the corpus: those here, and factors that no earlier import wrote."""
        return self.names if not self.adjusts or FACTORS[0] in self.names else (*self.names, *FACTORS)


@dataclass(frozen=True)
class Cleaned:
    """Items whose cleaned rows are in the spool, and the columns of those rows."""

    items: list[str]
    schema: Schema
    gathered: Gathered
    review: MarketReview


def clean_items(gathered: Gathered, job: ImportJob) -> Cleaned:
    """Clean the rows of every item that was read; the spool then holds them. Raises DataError if no row is left."""
    return _Cleaner(job, gathered).run()


class _Cleaner:
    """Cleans the items of a job."""

    def __init__(self, job: ImportJob, gathered: Gathered) -> None:
        self.job, self.gathered = job, gathered

    def run(self) -> Cleaned:
        """Choose the columns, then clean item by item."""
        schema = self._schema()
        self.review = MarketReview(schema.layout, self.job.options.on_bad)
        items = self._clean(self._same_columns(schema), schema)
        self.job.spool.drop_read()
        return Cleaned(items, schema, self.gathered, self.review)

    def _schema(self) -> Schema:
        """Return the corpus' columns: those of the old corpus, else target, options.columns, then in file order."""
        spool = self.job.spool
        left_out, notes = spool.categories.settle(None if self.job.old is None else self.job.old.columns)
        self.job.report.notes += notes
        found = [name for name in spool.columns if name not in left_out]
        market = self.gathered.market or bool(self.job.old and self.job.old.manifest.price_columns)
        if self.job.old is not None:
            names = list(self.job.old.columns)
            extra = [name for name in found if name not in names]
            if extra:
                raise DataError(
                    f"{self.job.name}: the new files have columns the corpus lacks ({', '.join(extra)}). Choose with "
                    f"--columns {','.join(names)}, or import all files again."
                )
        else:
            wanted = [name for name in (*self.job.options.target, *self.job.options.columns) if name in found]
            usual = [name for name in USUAL_ORDER if name in found] if market else []
            names = list(dict.fromkeys([*wanted, *usual, *found]))
        layout = market_layout(names, [name in spool.categories.codes for name in names])
        if not market and not layout.bars:
            layout = replace(layout, prices=(), volumes=())
        if self.job.options.adjust and not {"close", "adj_close"} <= set(names):
            raise DataError(f"{self.job.name}: --adjust needs columns close and adj_close; found {', '.join(names)}.")
        old = self.job.old
        adjusts = old.manifest.adjustment is not None if old is not None else has_events(names, layout)
        adjusts = adjusts and not self.job.options.adjust
        return Schema(tuple(names), [spool.columns.index(name) for name in names], layout, adjusts)

    def _same_columns(self, schema: Schema) -> list[str]:
        """Report or drop items without columns that most items have; DataError for one that shares no column."""
        items, origin = self.gathered.items, self.gathered.origin
        lacks, names = self.job.spool.missing_columns, set(schema.names)
        missing_of = {item: missing for item in items if (missing := names.intersection(lacks(item)))}
        if not missing_of:
            return items
        holders = Counter({name: len(items) for name in schema.names})
        for missing in missing_of.values():
            holders.subtract(missing)
        rare = {name for name in schema.names if 2 * holders[name] < len(items)}
        for name in sorted(rare):
            text = f"column {name!r} is in {holders[name]:,} of {len(items):,} items; NaN elsewhere"
            counts = {"items": holders[name], "of": len(items)}
            self.job.report.notes.append(Note(Code.RARE_COLUMN, text, counts))
        for item, missing in missing_of.items():
            own = set(schema.names) - missing
            if all(holders[name] == 1 for name in own) and len(items) > 1:
                others = counted(len(items) - 1, "item")
                raise DataError(
                    f"{origin.get(item)}: item {item!r} shares no column with the other {others} "
                    f"(it has {', '.join(sorted(own))}). Import them apart."
                )
            if not missing - rare:
                continue
            detail = "lacks " + ", ".join(sorted(missing - rare))
            self.job.findings.add("missing_column", 1, {"item": item, "file": origin.get(item), "detail": detail})
            if self.job.options.on_bad == "drop" and item not in self.job.stored:
                self.job.report.dropped[item] = f"missing_column ({detail})"
        return [item for item in items if item not in self.job.report.dropped]

    def _clean(self, items: list[str], schema: Schema) -> list[str]:
        """Read every item from the spool, clean it, and store it there again; items without rows are dropped."""
        kept = []
        losses, empty = Losses(self.job, self.gathered), True
        for item in items:
            findings = ItemFindings(self.job.options.on_bad, self.job.options.duplicates)
            read, stored = self._rows(item, schema, findings)
            rows = clean(read, schema.layout, findings, stored=stored)
            empty = empty and bool(np.isnan(read.values).all())
            losses.add(read, self.job.spool.new_rows(item), findings, left=len(rows))
            if not len(rows):
                self._refuse_undated(read)
                self.job.report.dropped[item] = "no row is left after cleaning"
                continue
            observe(rows, schema.layout, findings)
            self.review.add(rows, stored=stored)
            if len(rows) == 1 < len(items) and item.strip().lower() in TOTALS:
                findings.add("totals_row", 1, rows.example(0, f"the only row of item {item!r}"))
            self.job.spool.keep(rows, findings, len(read))
            kept.append(item)
        losses.settle()
        if not kept and empty:
            raise DataError(f"{self.job.name}: every value of every row is missing; nothing to write.")
        if not kept:
            raise DataError(f"{self.job.name}: no item has a row left after cleaning; nothing to write.")
        return kept

    def _refuse_undated(self, rows: ItemRows) -> None:
        """Raise DataError for an item without any stamp, unless mode is drop: it may have step numbers instead."""
        if self.job.options.on_bad != "drop" and rows.times is not None and (rows.times == NO_TIME).all():
            raise DataError(
                f"{rows.file}: item {rows.item_id!r} has no time stamp in any row (rule missing_timestamp). Import "
                "such items with their step column (--timestamp-column), or leave them out with --on-bad drop."
            )

    def _rows(self, item: str, schema: Schema, findings: ItemFindings) -> tuple[ItemRows, int]:
        """Return the item's rows as read, after those of the old corpus, and how many these are.

        Prices are adjusted if the options say so.
        """
        gathered = self.gathered
        names = [source.name for source in gathered.sources]
        new = self.job.spool.rows(item, schema.order, names, calendar=gathered.calendar, old=False)
        if new is not None and schema.adjusts:
            new = as_traded(new, schema.names, schema.layout, findings)
        before = None
        if self.job.old is not None:
            before = self.job.spool.rows(item, schema.order, names, calendar=gathered.calendar, old=True)
            new = merge(before, new, schema.layout, findings)
        assert new is not None
        return (_adjusted(new, schema.names) if self.job.options.adjust else new), len(before) if before else 0


def _adjusted(rows: ItemRows, names: Sequence[str]) -> ItemRows:
    """Multiply open, high, low and close by adj_close / close."""
    values = rows.values.astype(np.float64)
    at = {name: i for i, name in enumerate(names)}
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = values[at["adj_close"]] / values[at["close"]]
    factor[~np.isfinite(factor)] = np.nan
    for name in SIDES:
        if name in at:
            values[at[name]] *= factor
    return replace(rows, values=values.astype(np.float32))
