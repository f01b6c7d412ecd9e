"""Items that attend to each other: none sees values of others from after its own end."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from foretrain.errors import ConfigError, DataError
from foretrain.notes import Code

HOURS = pd.date_range("2024-01-01", periods=60, freq="h")


def frame(ends: dict[str, int], *, steps: bool = False, later: float = 1.0) -> pd.DataFrame:
    """Items from a common start to their ends; values after the earliest end are multiplied by `later`."""
    first = min(ends.values())
    parts = []
    for seed, (name, end) in enumerate(ends.items()):
        values = np.random.default_rng(seed).standard_normal(end).cumsum()
        values[first:] *= later
        parts.append(pd.DataFrame({"item_id": name, "timestamp": HOURS[:end], "target": values}))
    joined = pd.concat(parts, ignore_index=True)
    return joined.assign(timestamp=(joined["timestamp"] - HOURS[0]) // pd.Timedelta("1h")) if steps else joined


@pytest.mark.parametrize("steps", [False, True])
def test_items_with_unequal_ends_are_refused_with_their_numbers(predictor, steps):
    unequal = frame({"A": 30, "B": 50, "C": 50}, steps=steps)
    with pytest.raises(DataError, match=r"1 of 3 items end before others \(item 'A' at .*, item 'B' at ") as caught:
        predictor.forecast_df(unequal, 4, cross_learning=True)
    assert "allow_unequal_ends=True (--allow-unequal-ends)" in str(caught.value)
    assert len(predictor.forecast_df(unequal, 4)) == 12


def test_an_option_allows_them_and_a_note_says_what_they_see(predictor, logged_notes):
    how = {"cross_learning": True, "allow_unequal_ends": True}
    found = [predictor.forecast_df(frame({"A": 30, "B": 50}, later=by), 4, [0.5], **how) for by in (1.0, -3.0)]
    notes = logged_notes()
    assert {(note.code, *note.counts.values()) for note in notes} == {(Code.CROSS_LEARNING_SEES_LATER, 1, 2)}
    of_a = [table[table["item_id"] == "A"]["0.5"].to_numpy() for table in found]
    assert not np.allclose(*of_a)  # which is why it is refused
    with pytest.raises(ConfigError, match="no effect without cross_learning"):
        predictor.forecast_df(frame({"A": 30, "B": 50}), 4, allow_unequal_ends=True)


def test_equal_ends_and_known_rows_of_the_future_are_fine(predictor, logged_notes):
    table = frame({"A": 40, "B": 40}).assign(temp=1.0)
    shorter = table[(table["item_id"] == "B") | (table["timestamp"] >= HOURS[10])]
    future = pd.DataFrame({"item_id": np.repeat(["A", "B"], 4), "timestamp": [*HOURS[40:44]] * 2, "temp": 2.0})
    assert len(predictor.forecast_df(shorter, 4, future_df=future, cross_learning=True)) == 8
    assert not logged_notes()


def test_arrays_have_no_times_and_are_aligned_at_their_ends(predictor):
    rng = np.random.default_rng(0)
    assert len(predictor.forecast([rng.standard_normal(30), rng.standard_normal(50)], 4, cross_learning=True)) == 2
