"""Random long tables, from which tests/data/importers/dialects.py writes files.

# T rows of an item, V numeric columns
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000  # microseconds
STEPS = {"D": DAY, "h": HOUR, "15min": 15 * MINUTE}


@dataclass(frozen=True)
class Number:
    """A numeric column. digits: decimals that are written; values are rounded to them."""

    name: str
    digits: int


@dataclass(frozen=True)
class Item:
    """The rows of one item. keys: the parts of its id; texts: the cells of the category column, if there is one."""

    keys: tuple[str, ...]
    times: npt.NDArray[np.int64]  # (T,) microseconds, ascending
    values: npt.NDArray[np.float64]  # (V, T), NaN = missing
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """What every file that is written from it must be read as. kind: ohlcv, general or single."""

    kind: str
    step: str  # D, h, 15min or MS
    numbers: tuple[Number, ...]
    items: tuple[Item, ...]
    text: str | None = None  # name of the category column


OHLCV = (*(Number(name, 2) for name in ("open", "high", "low", "close")), Number("volume", 0))
GENERAL = (Number("load", 2), Number("temperature", 1), Number("ratio", 5))
SINGLE = (Number("target", 2),)
_KEYS = {
    1: (("north",), ("007",), ("1e5",), ("NA",), ("True",), ("A-1",), ("nan",)),
    2: (("north", "1"), ("north", "2"), ("south", "1"), ("south", "12")),
    3: (("north", "1", "tea"), ("north", "2", "tea"), ("south", "1", "tea"), ("south", "1", "rice")),
}
_WORDS = ("dry", "light rain", "storm")


def random_table(
    rng: np.random.Generator, kind: str, step: str, *, keys: int = 1, text: bool = False, accent: bool = False
) -> Table:
    """A table of two to four items of 24 to 40 rows each, on a regular axis without holes.

    kind: "ohlcv" (consistent bars), "general" (negatives, large, small and missing numbers), "single" (one column
    `target`). accent: one id has a letter beyond ASCII. Every item has a day beyond the twelfth of a month and a number
    above a million in its largest column, so that dates and thousands are decided by each item alone.
    """
    names = list(_KEYS[keys])
    rng.shuffle(names)
    names = names[: int(rng.integers(2, 5))]
    if accent:
        names[0] = ("Zürich", *names[0][1:])
    numbers = {"ohlcv": OHLCV, "general": GENERAL, "single": SINGLE}[kind]
    items = []
    for key in names:
        rows = int(rng.integers(24, 41))
        times = _times(rng, step, rows)
        values = _bars(rng, rows) if kind == "ohlcv" else _general(rng, rows)[: len(numbers)]
        values = np.array([np.round(row, number.digits) for row, number in zip(values, numbers, strict=True)])
        texts = tuple(_WORDS[i] for i in rng.integers(0, len(_WORDS), rows)) if text else ()
        items.append(Item(key, times, values, texts))
    return Table(kind, step, numbers, tuple(items), "weather" if text else None)


def _times(rng: np.random.Generator, step: str, rows: int) -> npt.NDArray[np.int64]:
    year = int(rng.integers(2010, 2023))
    if step == "MS":
        months = np.datetime64(f"{year}-01", "M") + int(rng.integers(0, 12)) + np.arange(rows)
        return months.astype("M8[us]").astype(np.int64)
    start = np.datetime64(f"{year}-{int(rng.integers(1, 12)):02d}-{int(rng.integers(13, 17)):02d}", "us")
    return start.astype(np.int64) + STEPS[step] * np.arange(rows)


def _bars(rng: np.random.Generator, rows: int) -> npt.NDArray[np.float64]:
    close = 10 ** rng.uniform(0.5, 4) * np.exp(np.cumsum(rng.normal(0, 0.01, rows)))
    opened = close * np.exp(rng.normal(0, 0.002, rows))
    high, low = np.maximum(opened, close) * 1.01, np.minimum(opened, close) * 0.99
    volume = 10 ** rng.uniform(3, 6, rows)
    volume[rng.integers(rows)] = rng.uniform(1e6, 9e6)
    return np.stack([opened, high, low, close, volume])


def _general(rng: np.random.Generator, rows: int) -> npt.NDArray[np.float64]:
    load = rng.normal(0, 10 ** rng.uniform(2, 5), rows)
    temperature = rng.normal(5, 15, rows)
    ratio = rng.uniform(0, 0.2, rows)
    ratio[rng.integers(rows)] = 2e-5
    values = np.stack([load, temperature, ratio])
    values[:, 1:-1][rng.random((3, rows - 2)) < 0.06] = (
        np.nan
    )  # the ends stay: rows without any value are cut off there
    values[0, rng.integers(1, rows - 1)] = -1_234_567.89  # decides the thousands
    return values
