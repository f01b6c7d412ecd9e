"""Seasons found in values: no more than chance where there is none, and the right one where there is.

The full table is printed by tests/proofs/season_rates.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from tests.proofs import season_rates as rates

from foretrain.evaluation.seasons import History, find_seasons


@pytest.mark.parametrize("name", rates.NULLS)
def test_a_season_is_rarely_found_where_there_is_none(name):
    found = [
        rates.rate(rates.NULLS[name], candidates, items, steps, draws)
        for candidates, items, steps, draws in (
            ((7,), 1, 60, 40),
            ((24, 168), 1, 1000, 10),
            ((7,), 20, 100, 10),
            ((), 1, 200, 5),
        )
    ]
    assert max(found) <= 0.1 and np.mean(found) <= 0.025  # one draw of all may


@pytest.mark.parametrize(
    ("name", "items", "steps"),
    [
        ("weekly, like births", 1, 200),
        ("weekly, like births", 20, 60),
        ("weekly on a walk", 1, 200),
        ("pedestrians, hourly", 1, 1500),
        ("only a day, hourly", 1, 1500),
        ("weekly, like births, searched", 1, 200),
        ("pedestrians, searched", 1, 1500),
    ],
)
def test_the_right_season_is_found(name, items, steps):
    draw, candidates, wanted = rates.POWER[name]
    assert rates.rate(draw, candidates, items, steps, 10, wanted) == 1.0


def history(values):
    return [History(np.asarray(row, float), np.arange(len(row))) for row in values]


def week(items=1, steps=210, seed=0):
    return rates.weekly(np.random.default_rng(seed), items, steps)


def test_missing_values_and_jumps_do_not_hide_a_week():
    values, rng = week(steps=600), np.random.default_rng(1)
    values[0, rng.random(600) < 0.2] = np.nan
    values[0, rng.random(600) < 0.01] += 500.0
    assert find_seasons(history(values), (7,)).main == 7


def test_items_without_a_change_or_a_value_are_skipped():
    values = np.concatenate([week(), np.full((1, 210), 5.0), np.full((1, 210), np.nan)])
    assert find_seasons(history(values), (7,)).main == 7
    assert find_seasons(history(values[1:]), (7,)).main is None
    assert find_seasons([], (7,)).main is None


def test_an_unobserved_item_or_a_short_one_has_no_season():
    assert find_seasons(history(week(steps=14)), (7,)).main is None
    assert find_seasons(history(week(steps=3)), None).main is None


def test_the_unit_and_the_level_of_items_do_not_matter():
    values = week(items=4)
    scaled = values * np.array([[1e-9], [1.0], [1e9], [-3.0]]) + np.array([[0.0], [1e6], [0.0], [7.0]])
    assert find_seasons(history(scaled), (7,)).main == find_seasons(history(values), (7,)).main == 7


def test_items_of_unlike_lengths_are_compared_at_their_time():
    values = week(items=3, steps=210)
    items = [History(row[k * 40 :], np.arange(210)[k * 40 :]) for k, row in enumerate(values)]
    assert find_seasons(items, (7,)).main == 7


def test_a_week_of_days_is_told_from_a_day_that_repeats():
    hours = np.arange(1500)
    day = 10 * np.sin(hours * 2 * np.pi / 24) + np.random.default_rng(0).standard_normal(1500)
    assert find_seasons(history([day]), (24, 168)).main == 24
    assert find_seasons(history([day * np.where(hours // 24 % 7 < 5, 1.0, 0.2)]), (24, 168)).main == 168
