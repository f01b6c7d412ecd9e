"""The windows of a benchmark task, cut as its suite cuts them.

* offset: one a series; the forecast starts at the offset from the series' end.
* gift-eval: the newest n windows, one after the other; n is a tenth of the shortest series over the horizon, between 1
  and 20, and 1 in the M4 competition.
* fev: num_windows, a horizon apart, of which the last ends with the series; or from initial_cutoff on, in steps of the
  frequency. A window leaves out series with too short a history, or without a whole horizon after the cutoff.
* ltsf: every step of the test part begins one, as long as a whole horizon of that part is left. Parts are steps that
  the task names, or 70%, 10% and 20% of them, rounded down but for the middle one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from foretrain.errors import DataError
from foretrain.suites.definition import BenchmarkTask
from foretrain.suites.raw_files import BenchmarkSeries
from foretrain.timeaxis.frequency import to_offset

_DAYS = ("THU", "FRI", "SAT", "SUN", "MON", "TUE", "WED")  # from that of 1970-01-01
GIFT_SHARE, GIFT_MOST = 0.1, 20  # of the shortest series; windows


class Cut(NamedTuple):
    """A window of an item: its history has the steps before the cutoff, its truth the horizon from there on."""

    series: int  # index of the item
    window: int  # 0 = first
    cutoff: int  # step of the first forecast value


def windows_of(task: BenchmarkTask, series: Sequence[BenchmarkSeries]) -> list[Cut]:
    """Return the windows of a task, item by item. Raises DataError if there is none, or a series is too short."""
    rules = {"offset": _by_offset, "gift-eval": _by_share, "fev": _by_window, "ltsf": _by_step}
    cuts = rules[task.suite.rule](task, series)
    if not cuts:
        needed = task.definition.min_context + task.definition.horizon
        raise DataError(f"{task.suite_name}/{task.name}: no series has the {needed} steps that a window needs.")
    return cuts


def _by_offset(task: BenchmarkTask, series: Sequence[BenchmarkSeries]) -> list[Cut]:
    back = task.definition.offset or task.definition.horizon
    return [Cut(item, 0, _checked(task, one, _length(one) - back)) for item, one in enumerate(series)]


def _by_share(task: BenchmarkTask, series: Sequence[BenchmarkSeries]) -> list[Cut]:
    horizon, count = task.definition.horizon, task.definition.num_windows
    if count is None:
        shortest = min(_length(one) for one in series)
        count = min(max(1, math.ceil(GIFT_SHARE * shortest / horizon)), GIFT_MOST)
    return [
        Cut(item, window, _checked(task, one, _length(one) - horizon * (count - window)))
        for item, one in enumerate(series)
        for window in range(count)
    ]


def _by_window(task: BenchmarkTask, series: Sequence[BenchmarkSeries]) -> list[Cut]:
    rule, count = task.definition, task.definition.num_windows or 1
    freq = rule.freq if rule.initial_cutoff is None else _anchored(rule.freq, series[0])
    cuts = []
    for item, one in enumerate(series):
        for window in range(count):
            if rule.initial_cutoff is None:
                cutoff = max(_length(one) - rule.horizon * (count - window), 0)
            else:
                cutoff = _rows_until(task, one, window, freq)
            if cutoff >= rule.min_context and _length(one) - cutoff >= rule.horizon:
                cuts.append(Cut(item, window, cutoff))
    return cuts


def _by_step(task: BenchmarkTask, series: Sequence[BenchmarkSeries]) -> list[Cut]:
    cuts = []
    for item, one in enumerate(series):
        _, begin, end = part_bounds(task, _length(one))
        first = max(begin, task.definition.min_context)
        cuts += [Cut(item, n, first + n) for n in range(max(end - task.definition.horizon + 1 - first, 0))]
    return cuts


def part_bounds(task: BenchmarkTask, length: int) -> tuple[int, int, int]:
    """Return where the train part of a series ends, and where its test part begins and ends. Of rule ltsf."""
    if task.definition.parts is not None:
        train, validation, test = task.definition.parts
        return train, train + validation, min(train + validation + test, length)
    return int(length * 0.7), length - int(length * 0.2), length  # in floating point, as published code does


def standardised(task: BenchmarkTask, series: Sequence[BenchmarkSeries]) -> list[BenchmarkSeries]:
    """Return series in standard deviations from the mean of their train part, variate by variate. Of rule ltsf.

    The deviation is that of a population; a constant is divided by 1, as scikit-learn does. Raises DataError for a
    variate without a value there.
    """
    found = []
    for one in series:
        train = one.values[:, : part_bounds(task, _length(one))[0]]
        if not np.isfinite(train).any(axis=1).all():
            raise DataError(f"{task.suite_name}/{task.name}: item {one.item_id!r} has a variate without train values.")
        mean, deviation = np.nanmean(train, axis=1, keepdims=True), np.nanstd(train, axis=1, keepdims=True)
        values = (one.values - mean) / np.where(deviation > 0, deviation, 1.0)
        found.append(replace(one, values=values))
    return found


def _anchored(freq: str, series: BenchmarkSeries) -> str:
    """Return a frequency, of weeks with the day of the week that the first stamp has."""
    if freq != "W" or series.stamps is None:
        return freq
    first = int(series.stamps[0].astype("datetime64[D]").astype(np.int64))
    return f"W-{_DAYS[first % 7]}"


def _rows_until(task: BenchmarkTask, series: BenchmarkSeries, window: int, freq: str) -> int:
    """Return the number of rows up to the cutoff of a window, the stamp itself included."""
    import pandas as pd

    if series.stamps is None:
        raise DataError(f"{task.suite_name}/{task.name}: item {series.item_id!r} has no stamps to find the cutoff by.")
    cutoff: Any = pd.Timestamp(task.definition.initial_cutoff)
    if window:  # not for the first: a multiple of 0 of an anchored frequency moves a stamp onto its anchor
        cutoff += window * task.definition.horizon * to_offset(freq)
    return int(np.searchsorted(series.stamps, cutoff.to_datetime64(), side="right"))


def _checked(task: BenchmarkTask, series: BenchmarkSeries, cutoff: int) -> int:
    if cutoff < 1:
        needed = _length(series) - cutoff + 1
        raise DataError(
            f"{task.suite_name}/{task.name}: item {series.item_id!r} has {_length(series)} steps; its windows need "
            f"{needed}. Fetch its file anew."
        )
    return cutoff


def _length(series: BenchmarkSeries) -> int:
    return series.values.shape[1]
