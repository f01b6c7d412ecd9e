from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foretrain.errors import DataError
from foretrain.evaluation.scored import concatenate, seasonal_errors


def _plain(values, cutoff, season):
    past = values[:cutoff].astype(np.float64)
    lag = season if season < len(past) else 1
    gaps = np.abs(past[lag:] - past[:-lag])
    gaps = gaps[np.isfinite(gaps)]
    return gaps.mean() if len(gaps) and gaps.mean() > 0 else np.nan


@pytest.mark.parametrize("season", [1, 4, 50])
def test_seasonal_errors_equal_the_plain_formula_at_every_cutoff(season):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((3, 60)).astype(np.float32)
    values[rng.random(values.shape) < 0.3] = np.nan
    values[2, :20] = np.nan
    cutoffs = np.arange(1, 61)
    found = seasonal_errors(values, cutoffs, season)
    wanted = np.array([[_plain(row, cutoff, season) for row in values] for cutoff in cutoffs])
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_a_constant_history_has_no_seasonal_error():
    assert np.isnan(seasonal_errors(np.full((1, 30), 5.0), [30], 1)).all()


def test_values_after_the_cutoff_do_not_touch_the_seasonal_error():
    values = np.random.default_rng(1).standard_normal((1, 50))
    changed = values.copy()
    changed[:, 30:] = 1e9
    assert np.array_equal(seasonal_errors(values, [30], 7), seasonal_errors(changed, [30], 7))


def test_prices_are_scaled_by_the_last_close_and_mixtures_by_the_seasonal_error(make_scored):
    scored = make_scored(np.ones((2, 3)), np.ones((2, 3)), last=[-50.0, 0.0], seasonal_error=[2.0, np.nan], price=True)
    np.testing.assert_array_equal(scored.error_scale, [50.0, np.nan])
    mixed = replace(scored, price=np.array([True, False]))
    np.testing.assert_array_equal(mixed.error_scale, [2.0, np.nan])


def test_a_missing_median_is_refused(make_scored):
    scored = make_scored(np.ones((1, 2)), np.ones((1, 2)))
    with pytest.raises(DataError, match=r"\.5"):
        replace(scored, levels=(0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95))


def test_items_of_two_corpora_stay_apart(make_scored):
    part = make_scored(np.ones((2, 3)), np.zeros((2, 3)))
    joined = concatenate([part, part])
    assert joined.item.tolist() == [0, 1, 2, 3]
    assert joined.items == part.items * 2
    assert len(joined) == 4
