"""Tables of benchmark figures as plain text, markdown and HTML, and the words that they share."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from foretrain.evaluation.page import esc, remark, rows_table
from foretrain.printing import printable
from foretrain.suites.contamination import mark_of
from foretrain.suites.definition import MIXED, UNKNOWN
from foretrain.suites.results import TaskResult

LABELS = {"mean_weighted_sum_quantile_loss": "WQL", "MASE[0.5]": "MASE", "ND[0.5]": "WAPE"}


@dataclass(frozen=True)
class Table:
    """A table: what it is over stands in its title and its notes."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    notes: tuple[str, ...] = ()
    left: int = 1  # columns of words at the left
    words: tuple[str, ...] = ("",)  # headings of other columns of words

    def text(self) -> list[str]:
        """Return its lines for a terminal."""
        shown = [[printable(cell) for cell in row] for row in (self.header, *self.rows)]
        widths = [max(len(row[k]) for row in shown) for k in range(len(self.header))]

        def line(row: Sequence[str]) -> str:
            cells = [
                c.ljust(w) if self._words(k) else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))
            ]
            return f"  {'  '.join(cells)}".rstrip()

        return [f"{self.title}:", *map(line, shown), *(f"  {note}" for note in self.notes)]

    def markdown(self) -> str:
        """Return it as a section of a markdown page."""

        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(printable(cell).replace("|", "\\|") for cell in cells) + " |"

        rule = "|" + "|".join("---" if self._words(k) else "---:" for k in range(len(self.header))) + "|"
        lines = [f"## {self.title}", "", line(self.header), rule, *map(line, self.rows)]
        return "\n".join([*lines, *(["", *self.notes] if self.notes else []), ""])

    def html(self) -> str:
        """Return it as a section of a page."""
        rows = [
            f"<tr><th>{esc(row[0])}</th>"
            + "".join(f"<td{' class=text' if self._words(k) else ''}>{esc(c)}</td>" for k, c in enumerate(row[1:], 1))
            + "</tr>"
            for row in self.rows
        ]
        head = [esc(name) for name in self.header]
        return f"<h2>{esc(self.title)}</h2>{rows_table(head, rows)}{''.join(map(remark, self.notes))}"

    def _words(self, column: int) -> bool:
        return column < self.left or self.header[column] in self.words


def label_of(metric: str) -> str:
    """Return what tables call a metric that suites call differently."""
    return LABELS.get(metric, metric)


def unit_of(metric: str, unit: str) -> str:
    """Return the unit of a metric of data in some unit, which may be unknown or mixed; "" for one without."""
    name = re.sub(r"\[[^]]*\]$", "", metric).lower()
    if name.startswith("pct_") and name != "pct_r2":
        return "squared percent" if name == "pct_mse" else "percent"
    kind = name.removeprefix("price_")
    if kind not in ("mae", "mse", "rmse"):
        return ""
    return f"squared {unit}" if kind == "mse" and unit not in (UNKNOWN, MIXED) else unit


def in_unit_of_data(metric: str) -> bool:
    """Return whether a metric has the unit of the data, or its square."""
    return unit_of(metric, "x").endswith("x")


def unit_lines(results: Sequence[TaskResult], shown: Sequence[str]) -> list[str]:
    """Return lines on the metrics of a suite's results that have the unit of the data, shown ones first."""
    every = dict.fromkeys((*shown, *(name for result in results for name in (*result.metrics, *result.baseline))))
    names = [label_of(name) for name in every if in_unit_of_data(name)]
    if not names:
        return []
    tasks: dict[str, list[str]] = {}
    for result in results:
        of = tasks.setdefault(result.unit or UNKNOWN, [])
        if result.task not in of:
            of.append(result.task)
    if len(tasks) == 1:
        text = next(iter(tasks))
    else:
        text = "; ".join(f"{unit}: {', '.join(of[:3])}{', ...' if len(of) > 3 else ''}" for unit, of in tasks.items())
    squared = ", squared in MSE" if any("MSE" in name.replace("RMSE", "").upper() for name in names) else ""
    return wrap(f"{', '.join(names)}: in the unit of the data{squared}: {text}.", 116, subsequent_indent="  ")


def number(value: float | None, digits: int = 5) -> str:
    """Return a figure with so many digits; "-" for one that is undefined."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}g}"


def remark_of(result: TaskResult) -> str:
    """Return what sets a result apart from others: failed, imputed, a sample, seen in training."""
    parts = [f"FAILED{', imputed with seasonal naive' if result.imputed else ''}"] if result.state == "failed" else []
    if result.max_items is not None:
        parts.append(f"SAMPLE of {result.items_of:,} items")
    if mark := mark_of(flag["code"] for flag in result.flags):
        parts.append(f"TRAINING: {mark}")
    return "; ".join(parts)
