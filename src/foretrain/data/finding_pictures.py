"""Pictures of what the rules for markets found in a corpus: the bars around the first finding of each rule.

# V columns, T bars of one series
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from foretrain.data.asof import as_of
from foretrain.data.rules import MARKET_RULES
from foretrain.data.store import Corpus
from foretrain.notes import counted
from foretrain.printing import printable

MOST = 8  # pictures, one a rule
_AROUND = 30  # bars on each side
_INK, _MUTED, _LINE, _MARK, _AFTER = "#222222", "#6b7280", "#9ca3af", "#dc2626", "#2563eb"


@dataclass(frozen=True)
class DrawnFinding:
    """The first finding of a rule that is still in the corpus: the series, the bar, and the bars and items in all."""

    rule: str
    series: int
    bar: int
    rows: int
    items: int
    action: str
    detail: str


def findings(corpus: Corpus, rules: dict[str, Any]) -> list[DrawnFinding]:
    """Return the findings to draw of the report of an import (quality.json); rules: rule -> its entry."""
    found = list[DrawnFinding]()
    ids = {item: k for k, item in enumerate(corpus.item_ids())} if corpus.manifest.price_columns else {}
    for rule in MARKET_RULES:
        entry = rules.get(rule, {})
        if rule == "adjusted_prices" or not entry.get("items") or corpus.manifest.time == "steps":
            continue
        for example in entry.get("examples", ()):
            series, stamp = ids.get(example.get("item")), example.get("time")
            if series is None or stamp is None:  # left out, or a row without a stamp
                continue
            times = corpus.times(series)
            assert times is not None
            bar = int(np.searchsorted(times, np.datetime64(stamp, "us").astype(np.int64)))
            if bar < len(times):
                detail = str(example.get("detail") or "")
                found.append(DrawnFinding(rule, series, bar, entry["rows"], entry["items"], entry["action"], detail))
                break
    return found[:MOST]


def draw(axes: Any, corpus: Corpus, found: DrawnFinding) -> None:
    """Draw the stored close around a finding, and where the corpus has factors the close as of the last bar shown."""
    names = list(corpus.columns)
    close = next((name for name in corpus.manifest.price_columns if name.endswith("close")), names[0])
    first, stop = max(0, found.bar - _AROUND), min(corpus.length(found.series), found.bar + _AROUND + 1)
    values, at = corpus.values(found.series), np.arange(first, stop)
    row = names.index(close)
    axes.plot(at, values[row, first:stop], color=_LINE, linewidth=0.8, marker=".", markersize=3, label=printable(close))
    scaled = as_of(corpus, values, stop)[row, first:stop]
    if not np.array_equal(scaled, values[row, first:stop], equal_nan=True):
        axes.plot(at, scaled, color=_AFTER, linewidth=0.8, label="as of the last bar")
        axes.legend(loc="best", fontsize=7, frameon=False)
    axes.axvline(found.bar, color=_MARK, linewidth=0.8)
    if np.isfinite(values[row, found.bar]):
        axes.plot([found.bar], [values[row, found.bar]], color=_MARK, marker="o", markersize=4)
    else:
        axes.text(found.bar, 0.04, " not observed", color=_MARK, fontsize=7, transform=axes.get_xaxis_transform())
    times = corpus.times(found.series)
    assert times is not None
    ticks = np.linspace(first, stop - 1, 4).astype(int)
    axes.set_xticks(ticks, [str(times[k].astype("M8[us]").astype("M8[D]")) for k in ticks], fontsize=7)
    axes.tick_params(labelsize=7, colors=_MUTED)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_title(
        f"{found.rule}: {counted(found.rows, 'bar')} of {counted(found.items, 'item')} ({_short(found.action)})\n"
        f"{printable(corpus.item_id(found.series))} {times[found.bar].astype('M8[us]').astype('M8[m]')!s}"
        + (f", {printable(found.detail)[:44]}" if found.detail else ""),
        loc="left", fontsize=8, color=_INK,
    )  # fmt: skip


def _short(action: str) -> str:
    return action.split(";")[0][:60]
