"""Stamps that tests of time share."""

from __future__ import annotations

import numpy as np

from foretrain.timeaxis import grid
from foretrain.timeaxis.frequency import SECOND

HOUR, MINUTE = 3600 * SECOND, 60 * SECOND


def micros(text: str) -> int:
    return int(np.datetime64(text, "us").astype(np.int64))


def axis(start: str, freq: str, count: int) -> np.ndarray:
    return grid.stamps(micros(start), freq, np.arange(count, dtype=np.int64))


def sessions(first_day: str, days: int, opening: str, bars: int, step: int) -> np.ndarray:
    """Stamps of `bars` bars from the opening on each business day."""
    dates = (
        np.busday_offset(np.datetime64(first_day), np.arange(days), roll="forward").astype("M8[us]").astype(np.int64)
    )
    hours, minutes = map(int, opening.split(":"))
    return (dates[:, None] + hours * HOUR + minutes * MINUTE + np.arange(bars) * step).ravel()
