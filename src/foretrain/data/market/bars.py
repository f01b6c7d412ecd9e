"""Bars of a symbol: stamps, prices, volume and corporate actions, and the CSV file that holds them.

# T bars, C columns
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from foretrain.data.windows import IntArray
from foretrain.errors import DataError
from foretrain.reading import Unreadable, read_text

PRICES = ("open", "high", "low", "close")
CANDLE = (*PRICES, "volume")
ACTIONS = ("dividends", "stock_splits")
DAY = 86_400_000  # milliseconds
LENGTHS = {  # milliseconds of a bar; a month has no one length
    "1m": 60_000, "2m": 120_000, "3m": 180_000, "5m": 300_000, "15m": 900_000, "30m": 1_800_000, "1h": 3_600_000,
    "2h": 7_200_000, "4h": 14_400_000, "6h": 21_600_000, "8h": 28_800_000, "12h": 43_200_000, "1d": DAY, "1w": 7 * DAY,
    "1mo": 31 * DAY,
}  # fmt: skip
_LARGEST = 4 << 30  # bytes of a file: a minute's bars of 60 years


@dataclass(frozen=True)
class Bars:
    """Bars of a symbol, without duplicates, in order of time.

    times (T,) are milliseconds since 1970 in UTC at which bars begin; those of sessions of an exchange are the midnight
    of their date. values (T, C) belong to `columns`; NaN is a missing value. Prices are in the currency of the symbol.
    """

    times: IntArray
    columns: tuple[str, ...]
    values: npt.NDArray[np.float64]

    @classmethod
    def of(cls, times: IntArray, columns: tuple[str, ...], values: npt.NDArray[np.float64]) -> Bars:
        """Return bars in order of time; of several with one stamp, the last one given stays."""
        values = np.asarray(values, dtype=np.float64).reshape(len(times), len(columns))
        order = np.argsort(times, kind="stable")
        times = np.asarray(times, dtype=np.int64)[order]
        last = np.append(times[1:] != times[:-1], True)[: len(times)]
        return cls(times[last], columns, values[order][last])

    def __len__(self) -> int:
        return len(self.times)

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """Return the values (T,) of a column."""
        return self.values[:, self.columns.index(name)]

    def where(self, kept: np.ndarray | slice) -> Bars:
        """Return the bars that a mask (T,) or a slice selects."""
        return Bars(self.times[kept], self.columns, self.values[kept])

    def followed_by(self, later: Bars) -> Bars:
        """Return these bars and later ones of the same columns."""
        assert self.columns == later.columns
        return Bars(
            np.concatenate([self.times, later.times]), self.columns, np.concatenate([self.values, later.values])
        )

    def stamp(self, row: int) -> str:
        """Return the stamp of a bar, as the file has it."""
        return stamps(self.times)[row]


def ends(times: IntArray, interval: str) -> IntArray:
    """Return when bars (T,) that begin at some times end, in milliseconds; months have the length of the calendar."""
    if interval != "1mo":
        return times + LENGTHS[interval]
    months = times.astype("datetime64[ms]").astype("datetime64[M]")
    begun = months.astype("datetime64[ms]").astype(np.int64)
    return (months + 1).astype("datetime64[ms]").astype(np.int64) + times - begun


def stamps(times: IntArray) -> list[str]:
    """Return stamps (T,): dates if all are midnights, else seconds in UTC."""
    exact = times.astype("datetime64[ms]")
    if not (times % DAY).any():
        return np.datetime_as_string(exact, unit="D").tolist()
    return [f"{text}Z" for text in np.datetime_as_string(exact, unit="s").tolist()]


def csv_text(bars: Bars) -> str:
    """Return the CSV file of bars: the stamp and then the columns; a missing value is an empty cell.

    Numbers have the digits that give the same float64 when they are read.
    """
    cells = [stamps(bars.times), *([_number(value) for value in column] for column in bars.values.T.tolist())]
    lines = [",".join(("timestamp", *bars.columns)), *(",".join(row) for row in zip(*cells, strict=True))]
    return "\n".join(lines) + "\n"


def read_bars(path: Path) -> Bars:
    """Return the bars of a file that csv_text made. Raises DataError."""
    try:
        header, *lines = read_text(path, _LARGEST).splitlines()
        names, rows = header.split(","), [line.split(",") for line in lines]
        if tuple(names[: len(CANDLE) + 1]) != ("timestamp", *CANDLE) or not rows:
            raise ValueError("no bars in it")
        times = np.array([row[0].removesuffix("Z") for row in rows], dtype="datetime64[ms]").astype(np.int64)
        values = np.array([[float(cell or "nan") for cell in row[1:]] for row in rows], dtype=np.float64)
        return Bars.of(times, tuple(names[1:]), values)
    except (OSError, ValueError) as error:  # Unreadable is a ValueError
        why = error.strerror if isinstance(error, OSError) else str(error)
        what = why if isinstance(error, Unreadable) else " ".join(str(why).split())[:100]
        raise DataError(f"{path}: cannot be read as bars ({what}). Delete it, and download it again.") from None


def _number(value: float) -> str:
    if value != value:
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
