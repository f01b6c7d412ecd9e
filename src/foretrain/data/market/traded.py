"""Rows with dividends and splits: prices as they were traded, and cumulative factors beside them.

# V columns, T rows of one item in order of time
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from foretrain.data.findings import Findings
from foretrain.data.market.adjustment import (
    DIVIDENDS,
    PRICE_FACTOR,
    SPLITS,
    VOLUME_FACTOR,
    Events,
    evidence,
    factors,
    later_splits,
)
from foretrain.data.quality import ItemRows, MarketColumns
from foretrain.data.windows import FloatArray

FACTORS = (PRICE_FACTOR, VOLUME_FACTOR)
EVENTS = (DIVIDENDS, SPLITS)


def has_events(names: Sequence[str], layout: MarketColumns) -> bool:
    """Return True if the columns hold a close and its dividends or splits, so that factors follow from them."""
    return layout.close is not None and any(name in names for name in EVENTS)


def scaled_columns(layout: MarketColumns) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the prices and the volumes that splits and dividends act on: not those that their source adjusted."""
    own = [i for i in (*layout.prices, *layout.volumes) if not layout.names[i].startswith("adj_")]
    return tuple(i for i in own if i in layout.prices), tuple(i for i in own if i in layout.volumes)


def events_of(values: FloatArray, names: Sequence[str]) -> Events:
    """Return the events in the columns (V, T) of an item."""
    dividends, splits = (values[list(names).index(name)] if name in names else None for name in EVENTS)
    return Events.of(splits, dividends, values.shape[1])


def as_traded(rows: ItemRows, names: Sequence[str], layout: MarketColumns, findings: Findings) -> ItemRows:
    """Return the rows of a file with prices, volumes and dividends as they were on each day.

    Sources that divide earlier prices by later splits are recognised split by split: prices that do not jump there were
    adjusted for it. A split too small to tell is taken as the item's others, and without others as the column is
    written: 0 where there is none means Yahoo's way, adjusted prices, and 1 means prices as traded.
    """
    if rows.times is None or SPLITS not in names or layout.close is None or not len(rows):
        return rows
    _, first, place = np.unique(rows.times, return_index=True, return_inverse=True)
    ordered = rows.values[:, first]  # one row a stamp: an event given twice is one
    events = events_of(ordered, names)
    column = ordered[list(names).index(SPLITS)]
    opened = ordered[layout.bars[0][0]] if layout.bars else None
    jumps, flat = evidence(ordered[layout.close], opened, events)
    values = rows.values.copy()
    at = list(names).index(SPLITS)
    values[at] = np.where((values[at] == 0) | np.isnan(values[at]), 1.0, values[at])
    if jumps.any() and flat.any():
        bar = int(flat.argmax())
        detail = f"no jump at the split {events.splits[bar]:g} of this bar, but at {int(jumps.sum())} others"
        findings.add("corporate_action", int(flat.sum()), rows.example(int(first[bar]), detail))
    were_adjusted = flat.sum() > jumps.sum() or (not jumps.any() and bool((column == 0).any()))
    undone = np.where(flat | (were_adjusted & ~jumps), events.splits, 1.0)
    back = later_splits(replace(events, splits=undone))[place.reshape(-1)]
    if (back == 1).all():
        return replace(rows, values=values)
    prices, volumes = scaled_columns(layout)
    for index in (*prices, *((list(names).index(DIVIDENDS),) if DIVIDENDS in names else ())):
        values[index] = (values[index] * back).astype(np.float32)
    for index in volumes:
        values[index] = (values[index] / back).astype(np.float32)
    return replace(rows, values=values)


def with_factors(rows: ItemRows, names: Sequence[str], layout: MarketColumns) -> ItemRows:
    """Return the rows with cumulative factors of prices and volumes as columns, at the end if names lack them."""
    assert layout.close is not None
    found = factors(rows.values[layout.close], events_of(rows.values, names))
    values = rows.values
    if PRICE_FACTOR not in names:
        return replace(rows, values=np.concatenate([values, np.stack(found)]))
    values = values.copy()
    for name, factor in zip(FACTORS, found, strict=True):
        values[list(names).index(name)] = factor
    return replace(rows, values=values)
