"""Suspicions: what is found in values alone, and what is not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from foretrain.data.suspicions import suspicious

NAMES = ("a", "b", "c")
WALK = 100 + np.cumsum(np.random.default_rng(0).normal(size=(3, 300)), axis=1) + np.array([[0], [300], [900]])


def found(values: np.ndarray, *, paired: bool = True) -> dict[str, tuple[int, int]]:
    """Rule -> (rows, first row)."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = suspicious(values.astype(np.float32), NAMES, np.arange(len(values)), paired=paired)
        return {rule: (count, row) for rule, count, row, _ in result}


def test_random_walks_are_not_suspicious() -> None:
    assert found(WALK) == {}
    assert found(np.random.default_rng(1).normal(size=(3, 5000))) == {}
    assert found(np.random.default_rng(2).lognormal(sigma=3, size=(3, 5000))) == {}
    assert found(np.random.default_rng(3).poisson(0.3, size=(3, 5000)).astype(float)) == {}


@pytest.mark.parametrize("factor", [100, 1000, 1e6, 0.01, 0.001])
def test_a_change_of_unit_is_found_where_it_begins_and_where_it_ends(factor: float) -> None:
    values = WALK.copy()
    values[1, 100:] *= factor
    assert found(values) == {"unit_change": (1, 100)}
    values[1, 200:] = WALK[1, 200:]
    assert found(values) == {"unit_change": (2, 100)}
    values = WALK.copy()
    values[2, 50] *= factor
    assert found(values) == {"unit_change": (1, 50)}


@pytest.mark.parametrize("factor", [2, 10, 30, 0.1])
def test_other_jumps_are_no_change_of_unit(factor: float) -> None:
    values = WALK.copy()
    values[1, 100:] *= factor
    assert "unit_change" not in found(values)


def test_missing_values_hide_nothing_and_are_nothing() -> None:
    values = WALK.copy()
    values[:, ::3] = np.nan
    values[1, 100:] *= 100
    assert found(values) == {"unit_change": (1, 100)}
    assert found(np.full((3, 300), np.nan)) == {}
    assert found(np.full((3, 300), np.inf)) == {}


def test_the_sum_of_all_rows_is_found_in_every_column_or_not_at_all() -> None:
    values = np.append(WALK, WALK.sum(axis=1, keepdims=True), axis=1)
    assert found(values)["totals_row"] == (1, 300)
    values[1, -1] *= 1.01
    assert "totals_row" not in found(values)
    values[1, -1] = np.nan
    assert found(values)["totals_row"] == (1, 300)


def test_copies_exchanges_and_constant_ends_name_their_first_row() -> None:
    values = WALK.copy()
    values[0, 150:180] = values[2, 150:180]
    assert found(values) == {"copied_values": (30, 150)}
    assert found(values, paired=False) == {}
    values = WALK.copy()
    values[[0, 1], 200:] = values[[1, 0], 200:]
    assert found(values) == {"swapped_columns": (100, 200)}
    values = WALK.copy()
    values[0, 280:] = values[0, 279]
    assert found(values) == {"constant_tail": (21, 279)}
    values[0, 100:150] = values[0, 100]  # it stood still before
    assert found(values) == {}


def test_short_items_are_not_judged() -> None:
    values = WALK[:, :11].copy()
    values[0, 5] = -9999
    assert found(values) == {}
    values = WALK[:, :40].copy()
    values[0, [5, 9]] = -9999
    assert found(values) == {"missing_code": (2, 5)}
