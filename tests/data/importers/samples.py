"""Small files in the form in which vendors, agencies and programs publish theirs, each written anew.

SAMPLES holds them with what an import must make of each: the corpus (`read`), or the words of a refusal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any


@dataclass(frozen=True)
class Read:
    """What must be read. values: (item, column, row from 0) -> number, or a text of a category."""

    items: tuple[str, ...]
    columns: tuple[str, ...]
    start: str | None  # first stamp of the first item; None without a calendar
    freq: str | None
    values: dict[tuple[str, str, int], float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """A file, the options of its import, and the outcome: a corpus or a regular expression of the refusal."""

    file: str
    text: str
    outcome: Read | str
    options: dict[str, Any] = field(default_factory=dict)


SAMPLES: dict[str, Sample] = {}


def sample(name: str, file: str, text: str, outcome: Read | str, **options: Any) -> None:
    """Add a sample; its name is the test's."""
    SAMPLES[name] = Sample(file, text, outcome, options)


def every(start: str, count: int, **step: int) -> Iterator[tuple[int, datetime]]:
    """Number and time of `count` steps from `start`; step: the arguments of a timedelta."""
    first = datetime.fromisoformat(start)
    return ((i, first + i * timedelta(**step)) for i in range(count))


def months(year: int, count: int) -> Iterator[tuple[int, datetime]]:
    """Number and first day of `count` months from January."""
    return ((i, datetime(year + i // 12, i % 12 + 1, 1)) for i in range(count))


def weekdays(count: int) -> list[tuple[int, datetime]]:
    """Number and date of the weekdays among `count` days from Monday, 1 January 2024."""
    return [(i, day) for i, day in every("2024-01-01", count, days=1) if day.weekday() < 5]


def table(header: str, rows: Iterable[Iterable[object]], separator: str = ",") -> str:
    """Header and rows as text."""
    return "".join(line + "\n" for line in [header, *(separator.join(map(str, row)) for row in rows)])


def bar(i: int) -> tuple[float, float, float, float]:
    """Open, high, low and close."""
    return 100 + i, 101 + i, 99 + i, 100.5 + i


OHLC = ("open", "high", "low", "close")
BARS = (*OHLC, "volume")
