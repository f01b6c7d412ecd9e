"""Symbols that training never sees: named ones, or a share of each class."""

from __future__ import annotations

from collections import Counter

import pytest

from foretrain.data.market.unseen import drawn, named
from foretrain.errors import DataError

CLASSES = {f"E{k}": "equity" for k in range(80)} | {f"C{k}": "crypto" for k in range(20)}


def test_a_number_takes_its_share_of_each_class():
    chosen = drawn(15, CLASSES, 0)
    assert Counter(CLASSES[name] for name in chosen) == {"equity": 12, "crypto": 3}
    assert drawn(15, dict(reversed(CLASSES.items())), 0) == chosen
    assert drawn(15, CLASSES, 1) != chosen


def test_names_are_checked():
    assert named("E1, C2,E1", CLASSES) == ("E1", "C2")
    with pytest.raises(DataError, match="no symbol 'X' in the folder"):
        named("E1,X", CLASSES)
    with pytest.raises(DataError, match="some must be left"):
        drawn(100, CLASSES, 0)
