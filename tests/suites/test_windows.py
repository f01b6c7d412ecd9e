"""Cutoffs, worked out by hand for series of a few steps."""

from __future__ import annotations

import numpy as np
import pytest
from tests.suites.tasks import series, task

from foretrain.errors import DataError
from foretrain.suites.windows import windows_of


def cutoffs(suite_rule: str, lengths, **definition) -> list[list[int]]:
    """Cutoffs by item."""
    items = [series(np.arange(float(n))) for n in lengths]
    cuts = windows_of(task(rule=suite_rule, **definition), items)
    return [[cut.cutoff for cut in cuts if cut.series == item] for item in range(len(lengths))]


def test_an_offset_is_counted_from_the_end_of_each_series():
    assert cutoffs("offset", [10, 7], horizon=3) == [[7], [4]]
    assert cutoffs("offset", [10, 7], horizon=3, offset=5) == [[5], [2]]


def test_gift_eval_s_windows_are_a_tenth_of_the_shortest_series():
    assert cutoffs("gift-eval", [90, 61], horizon=3) == [[81, 84, 87], [52, 55, 58]]  # ceil(6.1 / 3) = 3
    assert cutoffs("gift-eval", [5], horizon=3) == [[2]]
    assert len(cutoffs("gift-eval", [700], horizon=1)[0]) == 20
    assert cutoffs("gift-eval", [90, 61], horizon=3, num_windows=1) == [[87], [58]]


def test_fev_s_windows_end_with_the_series_a_horizon_apart():
    assert cutoffs("fev", [20], horizon=3, num_windows=2) == [[14, 17]]


def test_fev_leaves_out_a_series_where_its_history_is_too_short():
    assert cutoffs("fev", [20, 8, 3], horizon=3, num_windows=2, min_context=3) == [[14, 17], [5], []]
    assert cutoffs("fev", [20, 6], horizon=3, num_windows=2) == [[14, 17], [3]]


def test_fev_s_first_cutoff_may_be_a_stamp_that_belongs_to_the_history():
    days = np.arange("2024-01-01", "2024-01-21", dtype="datetime64[D]").astype("datetime64[us]")
    items = [series(np.arange(20.0), stamps=days), series(np.arange(9.0), stamps=days[:9])]
    rule = {"horizon": 4, "num_windows": 3, "initial_cutoff": "2024-01-05", "freq": "D"}
    cuts = windows_of(task(rule="fev", **rule), items)
    assert [(cut.series, cut.window, cut.cutoff) for cut in cuts] == [(0, 0, 5), (0, 1, 9), (0, 2, 13), (1, 0, 5)]


def test_later_cutoffs_of_weeks_fall_on_the_day_of_the_data():
    """As pandas adds weeks that end on Sunday to a Wednesday: the first one ends after four days."""
    weeks = np.arange("2024-01-07", "2024-03-31", 7, dtype="datetime64[D]").astype("datetime64[us]")
    rule = {"horizon": 2, "num_windows": 2, "initial_cutoff": "2024-01-10", "freq": "W"}
    cuts = windows_of(task(rule="fev", **rule), [series(np.arange(12.0), stamps=weeks)])
    assert [cut.cutoff for cut in cuts] == [1, 3]  # up to January 7, then up to January 21


def test_what_has_no_window_is_refused_with_its_needs():
    with pytest.raises(DataError, match="no series has the 5 steps"):
        cutoffs("fev", [4, 3], horizon=3, min_context=2)
    with pytest.raises(DataError, match="has 6 steps; its windows need 7"):
        cutoffs("offset", [10, 6], horizon=3, offset=6)
    with pytest.raises(DataError, match="no stamps"):
        cutoffs("fev", [10], horizon=3, initial_cutoff="2024-01-05")
