from __future__ import annotations

import numpy as np
import pytest

from foretrain.evaluation.significance import lag_in_origins, origins_needed
from foretrain.run.quick_parts import (
    Rehearsal,
    only_a_test_part,
    pace,
    rows_for_three_parts,
    three_parts,
    trailing_rows,
)


def lengths(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_every_series_of_the_length_that_it_takes_has_a_window_in_each_part():
    for horizon in (1, 7, 24, 60):
        for context in (1, 48, 504):
            needed = rows_for_three_parts(horizon, context)
            assert three_parts(lengths(needed - 1), horizon, context) is None
            for rows in range(needed, needed + 12 * horizon):
                parts = three_parts(lengths(rows), horizon, context)
                assert parts is not None and parts.trains
                assert parts.train_rows >= parts.min_context + horizon
                assert min(horizon, context) <= parts.min_context <= context
                for steps, origins, stride in (
                    (parts.validation_steps, parts.validation_origins, parts.validation_stride),
                    (parts.test_steps, parts.test_origins, parts.test_stride),
                ):
                    assert origins >= 1 and steps == (origins - 1) * stride + horizon


def test_a_long_series_has_twenty_forecasts_to_test_that_do_not_overlap():
    parts = three_parts(lengths(5000), 24, 504)
    assert parts is not None
    assert (parts.test_origins, parts.test_stride, parts.test_steps) == (20, 24, 480)
    assert parts.min_context == 504 and parts.validation_origins == 10


@pytest.mark.parametrize(("rows", "verdict"), [(900, True), (200, True), (144, False)])
def test_forecasts_overlap_only_where_that_allows_a_verdict(rows: int, verdict: bool):
    parts = three_parts(lengths(rows), 12, 504)
    assert parts is not None
    assert (parts.test_origins >= parts.origins_needed) is verdict
    assert parts.origins_needed == origins_needed(lag_in_origins(12, parts.test_stride))
    if not verdict:
        assert parts.test_stride == 12
    assert parts.test_steps <= rows / 3


def test_the_median_series_decides_unless_it_is_too_short():
    assert three_parts(lengths(40, 500, 3000), 10, 100).rows == 500  # type: ignore[union-attr]
    assert three_parts(lengths(15, 20, 3000), 10, 100).rows == 3000  # type: ignore[union-attr]
    assert three_parts(lengths(15, 20, 39), 10, 100) is None


def test_series_too_short_to_train_on_are_tested_on_where_they_have_a_window():
    parts = only_a_test_part(lengths(30), 10, 100)
    assert parts is not None and not parts.trains
    assert (parts.test_origins, parts.test_steps, parts.validation_steps) == (2, 20, 0)
    assert only_a_test_part(lengths(19), 10, 100) is None


def test_steps_and_validations_fit_the_minutes():
    measured = Rehearsal(step=0.1, window=0.01, metric="val_mase")
    found = pace(measured, 2.0, items=4, windows_per_item=10)
    assert found.max_items is None
    assert found.steps * 0.1 + 9 * 4 * 10 * 0.01 <= 120 and found.steps > 1000
    assert found.validate_every == -(-found.steps // 8)
    many = pace(measured, 2.0, items=100_000, windows_per_item=10)
    assert many.max_items is not None and 9 * many.max_items * 10 * 0.01 <= 120 / 5
    assert many.steps >= 900
    assert pace(measured, 2.0, 4, 10, max_steps=7).steps == 7
    assert pace(Rehearsal(1e9, 0.01, "val_mase"), 2.0, 4, 10).steps == 1


def test_rows_without_a_target_are_counted_from_the_end_of_each_series_that_has_one():
    observed = np.array([1, 0, 1, 0, 0, 0, 0, 1, 1, 0], bool)
    assert trailing_rows(observed, lengths(5, 2, 3)).tolist() == [2, 1]


@pytest.mark.parametrize("unobserved", [1, 24, 30])
def test_rows_without_a_target_at_the_end_cost_no_forecast_of_the_test_part(unobserved: int):
    whole, parts = three_parts(lengths(5000), 24, 504), three_parts(lengths(5000 + unobserved), 24, 504, unobserved)
    assert whole is not None and parts is not None
    assert (parts.rows, parts.test_origins, parts.test_steps) == (whole.rows, whole.test_origins, whole.test_steps)
    windows = parts.test_origins + parts.windows_beyond
    assert parts.steps_after_validation == (windows - 1) * parts.test_stride + 24
    ends = [k * parts.test_stride for k in range(windows)]  # before the end of the series
    assert sum(end >= unobserved for end in ends) == parts.test_origins
    alone = only_a_test_part(lengths(30 + unobserved), 10, 100, unobserved)
    assert alone is not None and (alone.rows, alone.test_origins) == (30, 2)
