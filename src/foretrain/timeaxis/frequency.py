"""Frequencies of time axes: the only parser of their aliases, and their seasonality.

Stamps are int64 microseconds since 1970 (UTC, or naive local time without conversion). A frequency is written as its
pandas >= 2.2 alias ("h", "15min", "D", "B", "W-SUN", "MS", "QE", "BME", "WOM-3FRI"); older spellings are read too.
Common aliases are parsed without pandas, which is imported for the rest.
"""

from __future__ import annotations

import functools
import re
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from foretrain.errors import DataError

IntArray = npt.NDArray[np.int64]
Kind = Literal["fixed", "months", "business", "pandas"]

SECOND = 1_000_000
MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND
WEEK = 7 * DAY

MONTH_NAMES = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
DAY_NAMES = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
FIXED = {"W": WEEK, "D": DAY, "h": 3600 * SECOND, "min": 60 * SECOND, "s": SECOND, "ms": 1000, "us": 1}
CYCLE_MONTHS = {"MS": 1, "ME": 1, "QS": 3, "QE": 3, "YS": 12, "YE": 12}
_BUSINESS = ("B", "C")  # an alias cannot name the holidays of a custom calendar, so C equals B
# Spellings of older pandas. For those without an edge ("M") the caller of Frequency.parse chooses one.
_NO_EDGE = {"M": "M", "Q": "Q", "A": "Y", "Y": "Y"}
_OLD = {"H": "h", "T": "min", "S": "s", "sec": "s", "L": "ms", "U": "us", "N": "ns", "AS": "YS"}
_OLD |= {"d": "D", "w": "W", "b": "B", "c": "C", "BH": "bh", "CBH": "cbh"}
_OLD |= {"BM": "BME", "CBM": "CBME", "SM": "SME", "BQ": "BQE", "BA": "BYE", "BY": "BYE", "BAS": "BYS"}
# Steps to forecast where nothing else says how many: those of the M4 competition, two weeks, an hour of minutes
_HORIZONS = {"s": 60, "min": 60, "h": 48, "D": 14, "B": 10, "C": 10, "W": 13}
_HORIZONS |= {base: {1: 18, 3: 8, 12: 6}[n] for base, n in CYCLE_MONTHS.items()}
USUAL_HORIZON = 24  # of other frequencies, and of steps without a calendar
# Steps in the next longer cycle, as in gluonts.time_feature.get_seasonality; 1 for all other bases.
_SEASONS = {"s": 3600, "min": 1440, "h": 24, "B": 5} | {base: 12 // n for base, n in CYCLE_MONTHS.items()}


@dataclass(frozen=True)
class Frequency:
    """A parsed alias: multiple x base, with an anchor such as the weekday of weeks or the month of quarters and years.

    Equal spellings ("H" and "h", "15T" and "15min", "M" and "ME") give equal records.
    """

    multiple: int
    base: str
    anchor: str | None = None

    @classmethod
    def parse(cls, text: str, *, edge: Literal["S", "E"] = "E") -> Frequency:
        """Parse an alias.

        edge: the meaning of older spellings without an edge ("M", "Q", "A", "Y"): E, the last day of the period, as in
        pandas; S, the first day, for files whose stamps stand for whole periods. The anchor of such a spelling is the
        month in which a period ends, so "A-JUN" is "YE-JUN" or "YS-JUL". Raises DataError for other text and for steps
        that are not positive.
        """
        return _parse(text, edge)

    @classmethod
    def of(cls, freq: str | Frequency) -> Frequency:
        """Return a Frequency unchanged, or parse an alias."""
        return freq if isinstance(freq, Frequency) else cls.parse(freq)

    @classmethod
    def storable(cls, text: str) -> Frequency:
        """Parse the frequency of a corpus. Raises DataError also for nanoseconds, which stamps cannot represent."""
        found = cls.parse(text)
        if found.base == "ns":
            raise DataError(
                f"freq={text!r} is finer than a microsecond, the unit of a corpus' stamps; leave freq out and store "
                "steps without times."
            )
        return found

    @property
    def alias(self) -> str:
        """pandas >= 2.2 spelling."""
        head = "" if self.multiple == 1 else str(self.multiple)
        return head + self.base + (f"-{self.anchor}" if self.anchor else "")

    @property
    def kind(self) -> Kind:
        """Arithmetic of the steps: fixed duration, calendar months, business days, or a pandas offset."""
        if self.base in FIXED:
            return "fixed"
        if self.base in CYCLE_MONTHS:
            return "months"
        return "business" if self.base in _BUSINESS else "pandas"

    @property
    def micros(self) -> int | None:
        """Microseconds in a step, None if steps differ in length."""
        return self.multiple * FIXED[self.base] if self.base in FIXED else None

    @property
    def months(self) -> int | None:
        """Months in a step, None if the step is not a number of months."""
        return self.multiple * CYCLE_MONTHS[self.base] if self.base in CYCLE_MONTHS else None

    @property
    def seasonality(self) -> int:
        """Steps of the main cycle, as in gluonts' get_seasonality: 1 for bases outside its table."""
        season = _SEASONS.get(self.base, 1)
        return season // self.multiple if season % self.multiple == 0 else 1

    @property
    def usual_horizon(self) -> int:
        """Steps that are usually forecast at this frequency, whatever its multiple."""
        return _HORIZONS.get(self.base, USUAL_HORIZON)

    @property
    def offset(self) -> Any:
        """The pandas offset."""
        return to_offset(self.alias)


def seasonality(freq: str | Frequency | None, bars_per_session: int | None = None) -> int | None:
    """Return the steps of the main cycle: bars_per_session if given, else the seasonality of freq, else None."""
    if bars_per_session:
        return bars_per_session
    return None if freq is None else Frequency.of(freq).seasonality


def to_offset(freq: Any) -> Any:
    """Return the pandas offset of an alias or a timedelta. Raises ValueError if pandas cannot parse it."""
    from pandas.tseries import frequencies

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated spellings, and changes that pandas announces
        return frequencies.to_offset(freq)


@functools.lru_cache(maxsize=256)
def _parse(text: str, edge: str) -> Frequency:
    found = _known(text, edge) or _ask_pandas(text)
    if found is None:
        raise DataError(
            f"freq={text!r} is not a forward pandas frequency alias; use for example h, 15min, D, B, W-SUN, MS or QE."
        )
    return found


def _known(text: str, edge: str) -> Frequency | None:
    """Parse a common alias without pandas; None for the rest."""
    found = re.fullmatch(r"\s*(\d*)\s*([A-Za-z]+)(?:-([A-Za-z]{3}))?\s*", text)
    if not found:
        return None
    multiple, name, anchor = int(found[1] or 1), found[2], found[3].upper() if found[3] else None
    base = _NO_EDGE[name] + edge if name in _NO_EDGE else _OLD.get(name, name)
    anchors = DAY_NAMES if base == "W" else MONTH_NAMES if base in CYCLE_MONTHS and base[0] in "QY" else ()
    known = base in FIXED or base in CYCLE_MONTHS or base in _BUSINESS
    if not known or multiple < 1 or (anchor is not None and anchor not in anchors):
        return None
    if name in _NO_EDGE and edge == "S" and anchor is not None:
        first_month = (MONTH_NAMES.index(anchor) + 1) % 12
        anchor = MONTH_NAMES[first_month] if first_month else None  # January needs no anchor
    return Frequency(multiple, base, anchor)


def _ask_pandas(text: str) -> Frequency | None:
    """Parse any other text that pandas accepts: rare aliases and sums of durations ("1h30min"); None for the rest."""
    names, dash, anchor = text.partition("-")
    names = re.sub(r"[A-Za-z]+", lambda name: _OLD.get(name[0], name[0]), names)
    try:
        offset = to_offset(names + dash + anchor)
    except ValueError:
        return None
    if offset is None or offset.n < 1:
        return None
    if (common := _known(offset.freqstr, "E")) is not None:
        return common
    name, _, anchor = offset.rule_code.partition("-")
    if name == "ns" and offset.n % 1000 == 0:
        return Frequency(offset.n // 1000, "us")
    return Frequency(offset.n, name, anchor or None)
