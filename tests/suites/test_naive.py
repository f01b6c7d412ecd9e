"""Seasonal naive of published tables beside loops; tests/parity compares mode `point` with gluonts."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from foretrain.suites.naive import NORMAL, POINT, filled, seasonal_naive

LEVELS = (0.1, 0.5, 0.8)


@pytest.mark.parametrize("season", [1, 3, 6])
def test_normal_intervals_widen_by_the_season(season: int):
    history = np.random.default_rng(season).standard_normal(13) + 10
    found = seasonal_naive(history, season, 8, LEVELS, NORMAL)
    errors = [history[t] - history[t - season] for t in range(season, 13)]
    sigma = math.sqrt(sum(e * e for e in errors) / len(errors))
    for h in range(8):
        point = history[13 - season + h % season]
        width = sigma * math.sqrt(h // season + 1)
        expected = [point, *(point + NormalDist().inv_cdf(level) * width for level in LEVELS)]
        assert found[:, h] == pytest.approx(expected, rel=1e-12)


def test_a_point_forecast_is_every_level():
    found = seasonal_naive(np.array([1.0, 2.0, 3.0]), 2, 3, LEVELS, POINT)
    assert found.tolist() == [[2.0, 3.0, 2.0]] * 4


def test_a_history_shorter_than_a_season_has_a_mean_or_nothing():
    history = np.array([1.0, 5.0])
    assert seasonal_naive(history, 3, 2, LEVELS, POINT).tolist() == [[3.0, 3.0]] * 4
    assert np.isnan(seasonal_naive(history, 3, 2, LEVELS, NORMAL)).all()


def test_a_history_of_one_season_has_a_point_and_no_interval():
    found = seasonal_naive(np.array([1.0, 5.0]), 2, 2, LEVELS, NORMAL)
    assert found[0].tolist() == [1.0, 5.0] and np.isnan(found[1:]).all()


def test_missing_values_become_the_one_before_or_zero():
    history = np.array([np.nan, 2.0, np.nan, np.nan, 5.0])
    assert filled(history).tolist() == [0.0, 2.0, 2.0, 2.0, 5.0]
    whole = np.array([1.0, 2.0])
    assert filled(whole) is whole
