"""Infer the frequency of an item's stamps, and the common frequency of many items.

# N stamps of one item
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from foretrain.timeaxis.frequency import DAY, DAY_NAMES, MONTH_NAMES, Frequency, IntArray
from foretrain.timeaxis.grid import fixed_alias, weekday

_WEAK_ROWS = 10  # an item with fewer rows takes the frequency of the others


@dataclass(frozen=True)
class Pattern:
    """Inferred frequency of an item, None if irregular. weak: too few rows to contradict the other items."""

    freq: str | None
    weak: bool = False


def infer(times: IntArray) -> Pattern:
    """Infer the frequency of (N,) strictly ascending stamps from the most frequent step."""
    weak = len(times) < _WEAK_ROWS
    if len(times) < 3:
        return Pattern(None, weak=True)
    if not ((times - times[0]) % DAY).any():
        return Pattern(_infer_days(times // DAY), weak)
    step, share = mode(np.diff(times))
    if share < 0.2 or ((np.diff(times) % step) != 0).mean() > 0.1:
        return Pattern(None, weak)
    return Pattern(fixed_alias(step), weak)


def _infer_days(days: IntArray) -> str | None:
    """Return the alias of stamps with the same time of day, None if irregular."""
    steps = np.diff(days)
    step, share = mode(steps)
    date = days.astype("datetime64[D]")
    month = date.astype("datetime64[M]")
    first = (month.astype("datetime64[D]") == date).mean()
    last = ((month + 1).astype("datetime64[D]") - 1 == date).mean()
    day_of_month = (date - month.astype("datetime64[D]")).astype(np.int64)
    if step >= 28 and (max(first, last) > 0.9 or (day_of_month == np.bincount(day_of_month).argmax()).mean() > 0.9):
        return _month_alias(month.astype(np.int64), "E" if last > max(first, 0.9) else "S")  # S keeps a 15th or 28th
    if share < 0.2 or (steps % step != 0).mean() > (0.5 if step == 1 else 0.1):
        return None
    if step % 7 == 0 and (weekday(days) == weekday(days)[0]).mean() > 0.9:
        return Frequency(int(step) // 7, "W", DAY_NAMES[int(np.bincount(weekday(days)).argmax())]).alias
    if step == 1 and days[-1] - days[0] >= 6 and (weekday(days) >= 5).mean() < 0.01:
        return "B"
    return fixed_alias(int(step) * DAY)


def _month_alias(months: IntArray, edge: str) -> str:
    """Return the alias of stamps at month starts (edge S) or ends (E), given month numbers since 1970."""
    unit, _ = mode(np.diff(months))
    anchor = int(np.bincount(months % 12).argmax())
    if unit % 12 == 0:
        default = anchor == (0 if edge == "S" else 11)
        return Frequency(unit // 12, f"Y{edge}", None if default else MONTH_NAMES[anchor]).alias
    if unit == 3:
        phase = anchor % 3  # quarters that start in January/April/... or end in March/June/... need no anchor
        default = phase == (0 if edge == "S" else 2)
        return Frequency(1, f"Q{edge}", None if default else MONTH_NAMES[phase]).alias
    return Frequency(unit, f"M{edge}").alias


def agree(patterns: Iterable[Pattern]) -> tuple[str | None, dict[str, int]]:
    """Return the common frequency of a corpus, None if items differ, and the number of items with each frequency.

    Weak items are ignored if there are others. "D" and "B" together give "D"; months, quarters and years with different
    anchors give a multiple of "MS" or "ME", which fits any anchor.
    """
    patterns = list(patterns)
    strong = Counter(p.freq or "irregular" for p in patterns if not p.weak)
    if not strong:
        strong = Counter(p.freq for p in patterns if p.freq)
    counts = dict(strong.most_common())
    names = set(counts)
    if len(names) == 1:
        name = names.pop()
        return (None if name == "irregular" else name), counts
    if names == {"B", "D"}:
        return "D", counts
    if "irregular" not in names and names:
        parsed = [Frequency.parse(name) for name in names]
        if len({(f.months, f.base[-1]) for f in parsed}) == 1 and parsed[0].months:
            return Frequency(parsed[0].months, f"M{parsed[0].base[-1]}").alias, counts
    return None, counts


def mode(values: IntArray) -> tuple[int, float]:
    """Return the most frequent value (the smallest in a tie) and its share."""
    if (values == values[0]).all():
        return int(values[0]), 1.0
    found, counts = np.unique(values, return_counts=True)
    best = int(counts.argmax())
    return int(found[best]), float(counts[best] / len(values))
