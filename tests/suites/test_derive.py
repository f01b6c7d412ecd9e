from __future__ import annotations

import numpy as np
import pytest
from tests.suites.tasks import series

from foretrain.errors import DataError
from foretrain.suites.definition import Derivation
from foretrain.suites.derive import derived


def stamps(first: str, count: int, minutes: int) -> np.ndarray:
    return np.datetime64(first, "us") + np.arange(count) * np.timedelta64(minutes, "m")


def test_hours_are_sums_or_means_of_their_rows():
    quarters = series(np.arange(10.0), stamps=stamps("2024-01-01T00:30", 10, 15))  # two, four and four rows
    assert derived(quarters, Derivation(every="h", how="sum")).values.tolist() == [[1.0, 14.0, 30.0]]
    found = derived(quarters, Derivation(every="h", how="mean", drop_first=True))
    assert found.values.tolist() == [[3.5, 7.5]]
    assert found.stamps is not None and str(found.stamps[0]) == "2024-01-01T01:00:00.000000"
    assert derived(quarters, Derivation(every="h", how="sum", drop_last=True)).values.tolist() == [[1.0, 14.0]]


def test_a_week_ends_on_the_day_it_names():
    days = series(np.ones(16), stamps=stamps("2024-01-05", 16, 24 * 60))  # a Friday
    assert derived(days, Derivation(every="W-THU", how="sum")).values.tolist() == [[7.0, 7.0, 2.0]]
    assert derived(days, Derivation(every="W-SUN", how="sum")).values.tolist() == [[3.0, 7.0, 6.0]]


def test_holes_of_a_grid_are_missing_and_are_no_part_of_a_period():
    rows = stamps("2024-01-01T00:00", 12, 10)
    kept = [0, 1, 1, 2, 5, *range(6, 12)]  # one row twice, two rows missing
    broken = series(np.array(kept, float), stamps=rows[kept])
    found = derived(broken, Derivation(grid="10min"))
    assert found.values.shape == (1, 12) and np.flatnonzero(np.isnan(found.values[0])).tolist() == [3, 4]
    hourly = derived(broken, Derivation(grid="10min", every="h", how="mean"))
    assert hourly.values.tolist() == [[2.0, 8.5]]


def test_a_period_without_rows_is_missing():
    rows = np.concatenate([stamps("2024-01-01T00:00", 2, 30), stamps("2024-01-01T02:00", 2, 30)])
    for how in ("sum", "mean"):
        found = derived(series(np.ones(4), stamps=rows), Derivation(every="h", how=how))
        assert np.isnan(found.values[0]).tolist() == [False, True, False]


def test_every_variate_is_derived():
    two = series([[1.0, 3.0], [2.0, 4.0]], variates=("x", "y"), stamps=stamps("2024-01-01", 2, 30))
    assert derived(two, Derivation(every="h", how="mean")).values.tolist() == [[2.0], [3.0]]


def test_steps_without_stamps_are_refused():
    with pytest.raises(DataError, match="no time stamps"):
        derived(series(np.ones(4)), Derivation(every="h"))
