"""Rows of one stamp become one row: by joining where they agree, by a rule where they conflict."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from foretrain.data.duplicates import join

NAN = np.nan


def rows(*cells: tuple[float, ...]) -> np.ndarray:
    """(V, T) values of rows."""
    return np.array(cells, np.float32).T


def test_rows_of_different_stamps_are_unchanged() -> None:
    values = rows((1, 2), (3, NAN))
    joined = join(values, np.array([1, 2]), "last")
    assert joined.values is values
    assert (joined.identical, joined.complementary, joined.conflicting, joined.first) == (0, 0, 0, None)


def test_equal_rows_are_one_and_complementary_rows_are_joined() -> None:
    values = rows((1, NAN), (1, NAN), (2, NAN), (NAN, 5), (3, 6), (3, NAN))
    joined = join(values, np.array([1, 1, 2, 2, 3, 3]), "last")
    assert np.array_equal(joined.values, rows((1, NAN), (2, 5), (3, 6)), equal_nan=True)
    assert joined.source.tolist() == [0, 2, 4]
    assert (joined.identical, joined.complementary, joined.conflicting) == (1, 2, 0)
    assert joined.lost is not None
    assert not len(joined.lost)


@pytest.mark.parametrize(
    ("rule", "kept", "lost"),
    [
        ("last", [(3, NAN), (9, 9)], [0, 1]),
        ("first", [(1, NAN), (9, 9)], [1, 2]),
        ("mean", [(2, 4), (9, 9)], [0, 2]),
        ("none", [(9, 9)], [0, 1, 2]),
    ],
)
def test_conflicting_rows_follow_the_rule_as_whole_rows(
    rule: Literal["last", "first", "mean", "none"], kept: list[tuple[float, float]], lost: list[int]
) -> None:
    values = rows((1, NAN), (2, 4), (3, NAN), (9, 9))
    joined = join(values, np.array([5, 5, 5, 6]), rule)
    assert np.array_equal(joined.values, rows(*kept), equal_nan=True)
    assert joined.conflicting == 2
    assert joined.lost is not None
    assert joined.lost.tolist() == lost
    assert joined.first == (0, 1, [0])


def test_a_row_whose_values_another_row_keeps_is_not_lost() -> None:
    joined = join(rows((1, NAN), (2, 5), (1, 5)), np.array([1, 1, 1]), "last")
    assert joined.lost is not None
    assert joined.lost.tolist() == [1]


def test_the_first_conflict_names_the_numeric_columns_that_differ() -> None:
    values = rows((0, 1, 7), (1, 2, 7))
    assert join(values, np.array([1, 1]), "last", np.array([True, False, False])).first == (0, 1, [1])
    assert join(values[:1], np.array([1, 1]), "last", np.array([True])).first == (0, 1, [0])


def test_infinite_values_are_compared_as_values() -> None:
    joined = join(rows((np.inf,), (np.inf,), (np.inf,), (1,)), np.array([1, 1, 2, 2]), "last")
    assert (joined.identical, joined.conflicting) == (1, 1)


def test_every_rule_gives_one_row_a_stamp_on_random_rows() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        count = int(rng.integers(1, 60))
        times = np.sort(rng.integers(0, 20, count))
        values = rng.integers(0, 3, (3, count)).astype(np.float32)
        values[rng.random(values.shape) < 0.3] = np.nan
        stamps = np.unique(times)
        for rule in ("last", "first", "mean"):
            joined = join(values, times, rule)
            assert np.array_equal(times[joined.source], stamps)
            surplus = joined.identical + joined.complementary + joined.conflicting
            assert surplus == count - len(stamps)
        for k, stamp in enumerate(stamps):  # where columns agree, nothing observed disappears
            group = values[:, times == stamp]
            seen = [set(column[~np.isnan(column)]) for column in group]
            if all(len(column) <= 1 for column in seen):
                assert [set(v[~np.isnan(v)]) for v in joined.values[:, k : k + 1]] == seen
