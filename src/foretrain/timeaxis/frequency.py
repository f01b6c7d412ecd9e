"""Frequencies of time axes: their names and seasons.

Stamps are int64 microseconds since 1970 (UTC, or naive local time taken at face value). A frequency is named by its
pandas >= 2.2 alias ("h", "15min", "D", "B", "W-SUN", "MS", "QE", "YS-JUL"); pandas itself is not imported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foretrain.errors import DataError

IntArray = npt.NDArray[np.int64]

SECOND = 1_000_000
DAY = 86_400 * SECOND
WEEK = 7 * DAY

_FIXED = {"W": WEEK, "D": DAY, "h": 3600 * SECOND, "min": 60 * SECOND, "s": SECOND, "ms": 1000, "us": 1}
_MONTHS = {"MS": 1, "ME": 1, "QS": 3, "QE": 3, "YS": 12, "YE": 12}
MONTH_NAMES = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
DAY_NAMES = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
# spellings of older pandas; a period's "M" carries no anchor, and month starts are what most files hold
_OLD = {"H": "h", "T": "min", "S": "s", "L": "ms", "U": "us", "M": "MS", "Q": "QS", "A": "YS", "Y": "YS", "AS": "YS"}
_OLD |= {"d": "D", "w": "W", "b": "B"}
# steps in the next longer cycle, as gluonts.time_feature.get_seasonality counts them
_SEASONS = {"s": 3600, "min": 1440, "h": 24, "D": 1, "W": 1, "B": 5}


@dataclass(frozen=True)
class Freq:
    """A parsed alias: multiple x base, with the anchor of weeks (weekday), quarters and years (month)."""

    multiple: int
    base: str
    anchor: str | None = None

    @classmethod
    def parse(cls, text: str) -> Freq:
        """The parts of an alias, old pandas spellings ("H", "T", "M", "A-DEC") included. DataError when it is none."""
        found = re.fullmatch(r"\s*(\d*)\s*([A-Za-z]+)(?:-([A-Za-z]{3}))?\s*", text)
        if found:
            multiple = int(found[1] or 1)
            base = _OLD.get(found[2], found[2])
            anchor = found[3].upper() if found[3] else None
            names = DAY_NAMES if base == "W" else MONTH_NAMES if base[0] in "QY" else ()
            known = base in _FIXED or base in _MONTHS or base == "B"
            if known and multiple > 0 and (anchor is None or anchor in names):
                return cls(multiple, base, anchor)
        raise DataError(
            f"frequency {text!r} is not known; use a pandas alias such as h, 15min, D, B, W-SUN, MS, QS or YS."
        )

    @property
    def alias(self) -> str:
        """pandas >= 2.2 spelling."""
        head = "" if self.multiple == 1 else str(self.multiple)
        return head + self.base + (f"-{self.anchor}" if self.anchor else "")

    @property
    def months(self) -> int | None:
        """Months in a step, None when the step is not made of months."""
        return self.multiple * _MONTHS[self.base] if self.base in _MONTHS else None

    @property
    def step(self) -> int | None:
        """Microseconds in a step, None for months and business days."""
        return self.multiple * _FIXED[self.base] if self.base in _FIXED else None


def seasonality(freq: str | None, bars_per_session: int | None = None) -> int | None:
    """Steps of the main cycle: a session's bars where there are sessions, else gluonts' get_seasonality(freq)."""
    if bars_per_session:
        return bars_per_session
    if freq is None:
        return None
    parsed = Freq.parse(freq)
    season = 12 // _MONTHS[parsed.base] if parsed.base in _MONTHS else _SEASONS.get(parsed.base, 1)
    return season // parsed.multiple if season % parsed.multiple == 0 else 1
