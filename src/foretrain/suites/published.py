"""Figures that suites published: for their seasonal naive in published/*.csv, for models in published/models/*.csv."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import NamedTuple

from foretrain.suites.definition import BenchmarkTask

FOLDER = Path(__file__).parent / "published"
MODELS = FOLDER / "models"
_SOURCES = "sources.csv"


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


class PublishedScore(NamedTuple):
    """A model on a task, as published."""

    metrics: dict[str, float]
    seconds: float | None  # as published, on hardware that is not; None = not published
    seen: bool  # the table counts the task's data as seen in training


class PublishedModel(NamedTuple):
    """A model of a suite's table."""

    name: str
    parameters: int | None  # None = not published where it was looked for
    parameters_source: str
    source: str  # repository:path of the figures
    scores: dict[str, PublishedScore]  # by task


@cache
def published_models(suite: str) -> tuple[PublishedModel, ...]:
    """Return the models of a suite whose figures are shipped; () for a suite without any."""
    if not (MODELS / f"{suite}.csv").is_file():
        return ()
    scores: dict[str, dict[str, PublishedScore]] = {}
    for row in _rows(MODELS / f"{suite}.csv"):
        model, task, seconds, seen = (row.pop(name) for name in ("model", "task", "seconds", "seen"))
        metrics = {name: float(value) for name, value in row.items() if value}
        score = PublishedScore(metrics, float(seconds) if seconds else None, seen == "1")
        scores.setdefault(model, {})[task] = score
    return tuple(
        PublishedModel(
            row["model"],
            int(row["parameters"]) if row["parameters"] else None,
            row["parameters_source"],
            row["source"],
            scores[row["model"]],
        )
        for row in _rows(MODELS / _SOURCES)
        if row["suite"] == suite
    )


def _rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a shipped file whose first line is a comment."""
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()[1:]))
