"""Writes meanings.json: what aliases meant while time had three parsers. Runs on commit 31b686d, from its root."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from foretrain.data.frequency import Freq, ordinals, seasonality
from foretrain.data.times import stamps
from foretrain.forecasting.stamps import following, parse_freq

from foretrain.errors import DataError

BASES = ["us", "ms", "s", "min", "h", "D", "W", "W-SUN", "W-TUE", "B", "MS", "ME", "QS", "QE", "YS", "YE"]
ANCHORED = ["QS-FEB", "QE-JAN", "YS-JUL", "YE-MAR"]
OLD = ["U", "L", "S", "T", "H", "M", "Q", "A", "Y", "AS", "Q-FEB", "A-DEC", "AS-JUL"]
MULTIPLES = [1, 2, 3, 7, 15, 60]
STARTS = ["2019-12-31", "2020-01-01", "2020-02-29 09:30", "2021-08-15 23:59:59"]
STEPS = np.array([0, 1, 2, 7, 25])


def micros(index: Any) -> list[int]:
    return index.to_numpy().astype("M8[us]").astype(np.int64).tolist()


def meaning(alias: str) -> dict[str, Any]:
    """Stamps that a corpus holds, their step numbers, what an import writes, the season, what a forecast adds."""
    starts = [int(np.datetime64(start, "us").astype(np.int64)) for start in STARTS]
    grids = [stamps(start, alias, STEPS) for start in starts]
    counted = [ordinals(grid, alias) for grid in grids]
    found: dict[str, Any] = {
        "written": Freq.parse(alias).alias,
        "season": seasonality(alias),
        "stamps": [grid.tolist() for grid in grids],
        "ordinals": [[number.tolist(), bool(exact)] for number, exact in counted],
    }
    try:
        offset = parse_freq(alias)
    except DataError:  # old spellings, since pandas 3
        return found
    return found | {"forecast": [micros(following(pd.DatetimeIndex([start]), offset, 3)) for start in STARTS]}


if __name__ == "__main__":
    aliases = [f"{'' if n == 1 else n}{base}" for base in [*BASES, *ANCHORED, *OLD] for n in MULTIPLES]
    head = f'"starts": {json.dumps(STARTS)},\n"steps": {STEPS.tolist()},\n"meanings": {{\n'
    text = ",\n".join(f"{json.dumps(a)}: {json.dumps(meaning(a), separators=(',', ':'))}" for a in aliases)
    Path(sys.argv[1]).write_text("{\n" + head + text + "\n}\n}\n")
