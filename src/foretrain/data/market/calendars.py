"""The calendar that a symbol trades by, and how many bars a year it has.

Calendars are those of exchange_calendars (extra `market`). A pair of a coin trades always ("24/7"), which needs no
package.

# T bars of one symbol, ascending
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from foretrain.data.windows import IntArray
from foretrain.errors import ConfigError, DataError
from foretrain.timeaxis.exchange import Exchange
from foretrain.timeaxis.frequency import DAY

ALWAYS = "24/7"
YEAR = 365.25 * DAY
MOST_MISSING = 0.2  # share of a calendar's bars that a symbol may lack: more means another calendar
_FEWEST = 20  # bars that tell how many a year has


def has_calendars() -> bool:
    """Return whether the package with the exchanges' calendars is installed."""
    return importlib.util.find_spec("exchange_calendars") is not None


def calendar_of(symbol: str, entry: Mapping[str, Any]) -> str | None:
    """Return the calendar of a symbol's metadata: its own, else that of its exchange; None where neither is given.

    Coins trade always, whatever their exchange. Raises DataError for a calendar or an exchange that is not known.
    """
    calendar, exchange = entry.get("calendar"), entry.get("exchange")
    if calendar is not None:
        return calendar if calendar == ALWAYS else _known(symbol, "calendar", calendar)
    if entry.get("asset_class") == "crypto":
        return ALWAYS
    if exchange is None:
        return None
    return _known(symbol, "exchange", exchange)


def _known(symbol: str, key: str, code: str) -> str:
    if has_calendars():
        try:
            _exchange(code)
        except ConfigError as error:
            why = str(error).partition(" is not one that exchange_calendars knows. ")[2]
            way = "" if key == "calendar" else " Or say its calendar."
            raise DataError(
                f"{symbol}: {key} {code[:50]!r} is none that exchange_calendars knows. {why}{way}"
            ) from None
    return code


@cache
def _exchange(code: str) -> Exchange:
    return Exchange(code)


@dataclass(frozen=True)
class BarsPerYear:
    """How many bars a year of a symbol has. source: the calendar, or "its bars"."""

    count: float
    source: str


def bars_per_year(symbol: str, times: IntArray, calendar: str | None, *, given: bool = True) -> BarsPerYear | None:
    """Return how many bars (T,) a year has: by the calendar, else counted; None for too few bars to tell.

    given: the calendar was said, and not guessed from a name: then bars that contradict it are refused. Raises
    DataError if more than MOST_MISSING of a calendar's bars are not there, or if stamps lie in no session of it.
    """
    if len(times) < _FEWEST:
        return None
    years = float(times[-1] - times[0]) / YEAR
    counted = BarsPerYear((len(times) - 1) / years, "its bars")
    expected = None if calendar is None else _expected(symbol, times, calendar)
    if calendar is None or expected is None:
        return counted
    if len(times) < (1 - MOST_MISSING) * expected:
        if not given:
            return counted
        raise DataError(
            f"{symbol}: the calendar {calendar} has {(expected - 1) / years:,.0f} bars a year, and its bars come "
            f"{counted.count:,.0f} times a year. Correct the calendar, or leave it out."
        )
    return BarsPerYear((expected - 1) / years, f"calendar {calendar}")


def _expected(symbol: str, times: IntArray, calendar: str) -> int | None:
    """Return how many bars a calendar has from the first to the last one; None if that is not known here."""
    if calendar == ALWAYS:
        steps, counts = np.unique(np.diff(times), return_counts=True)
        return int((times[-1] - times[0]) // steps[counts.argmax()]) + 1
    if not has_calendars():
        return None
    found = _exchange(calendar).compare(times, symbol)
    return int((~found.outside).sum()) + len(found.missing)
