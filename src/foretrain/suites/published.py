"""Figures that suites published for their seasonal naive: suites/published/*.csv, one row a task."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import NamedTuple

from foretrain.suites.definition import BenchmarkTask

FOLDER = Path(__file__).parent / "published"


class PublishedTable(NamedTuple):
    """The figures of a suite by task and metric, and where they were published."""

    source: str
    figures: dict[str, dict[str, float]]


@cache
def published_table(file: str) -> PublishedTable:
    """Return a shipped table. Its first line is a comment that names the source."""
    first, *lines = (FOLDER / file).read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(lines))
    figures = {row["task"]: {name: float(value) for name, value in row.items() if name != "task"} for row in rows}
    return PublishedTable(first.removeprefix("# Seasonal naive as published: "), figures)


def published_figures(task: BenchmarkTask) -> dict[str, float]:
    """Return the published figures of a task by metric."""
    return published_table(task.suite.published).figures[task.name]
