"""Frequencies mean what they meant while time had three parsers: tests/golden/timeaxis/README.md."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from foretrain.timeaxis.frequency import Frequency, seasonality
from foretrain.timeaxis.future import following
from foretrain.timeaxis.grid import ordinals, stamps

RECORDED = json.loads((Path(__file__).parents[1] / "golden/timeaxis/meanings.json").read_text())
MEANINGS = RECORDED["meanings"]
STEPS = np.array(RECORDED["steps"])
STARTS = np.array(RECORDED["starts"], "M8[us]")
BASES = sorted({alias.lstrip("0123456789") for alias in MEANINGS})
# Recorded as QS-FEB and YS-DEC, other periods: a quarter that ends in February starts in March (test_frequency.py).
CORRECTED = {"Q-FEB": "QS-MAR", "A-DEC": "YS"}


@pytest.mark.parametrize("base", BASES)
def test_an_alias_means_what_it_meant(base: str) -> None:
    for alias in [alias for alias in MEANINGS if alias.lstrip("0123456789") == base]:
        recorded = MEANINGS[alias]
        as_import = Frequency.parse(alias, edge="S")
        written = recorded["written"]
        assert as_import.alias == (alias.removesuffix(base) + CORRECTED[base] if base in CORRECTED else written), alias
        assert seasonality(alias) == as_import.seasonality == recorded["season"], alias
        found = [stamps(start, alias, STEPS) for start in STARTS.astype(np.int64)]
        assert [grid.tolist() for grid in found] == recorded["stamps"], alias
        numbers = [ordinals(grid, written) for grid in found]
        assert [[number.tolist(), exact] for number, exact in numbers] == recorded["ordinals"], alias
        if "forecast" not in recorded:  # an older spelling, which a forecast refused
            continue
        offset = Frequency.parse(alias).offset
        coming = [following(pd.DatetimeIndex([start]), offset, 3) for start in STARTS]
        assert [stamp.to_numpy().astype("M8[us]").astype(np.int64).tolist() for stamp in coming] == recorded["forecast"]
