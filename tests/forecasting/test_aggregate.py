"""Aggregations of sampled paths against scipy and plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import trim_mean

from foretrain.errors import ConfigError
from foretrain.forecasting.aggregate import FORMS, aggregate, aggregation


@pytest.fixture
def samples():
    return np.random.default_rng(0).standard_t(3, (2, 33, 5)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("mean", lambda x: x.mean(1)),
        ("median", lambda x: np.median(x, axis=1)),
        ("trimmed_mean_10", lambda x: trim_mean(x, 0.1, axis=1)),
        ("trimmed_mean_33.4", lambda x: trim_mean(x, 0.334, axis=1)),
        ("quantile_0.35", lambda x: np.quantile(x, 0.35, axis=1)),
        ("mean_quantile_mix_0.15_0.3", lambda x: 0.7 * x.mean(1) + 0.3 * np.quantile(x, 0.15, axis=1)),
        ("mean_plus_std_0.5", lambda x: x.mean(1) + 0.5 * x.std(1)),
        ("mean_minus_std_2", lambda x: x.mean(1) - 2 * x.std(1)),
    ],
)
def test_aggregations_equal_scipy_and_numpy(samples, name, plain):
    (found,) = aggregate([samples], name)
    assert found.shape == (2, 5)
    assert np.allclose(found, plain(samples.astype(np.float64)), rtol=1e-6)


def test_an_outlier_path_changes_the_mean_and_not_the_trimmed_mean(samples):
    wild = samples.copy()
    wild[:, 7] = 1e6
    assert np.abs(aggregation("mean")(wild)).min() > 1e4
    assert np.abs(aggregation("trimmed_mean_10")(wild)).max() < 10


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("trimed_mean_10", "Did you mean trimmed_mean_PERCENT"),
        ("trimmed_mean_50", "greater than 0 and less than 50"),
        ("trimmed_mean_0.15", "cuts 0.15%; for that fraction write trimmed_mean_15"),
        ("quantile_1.5", "greater than 0 and less than 1"),
        ("mean_quantile_mix_0.5_1.2", "at most 1"),
        ("quantile_", "Known: " + ", ".join(FORMS)),
    ],
)
def test_an_error_for_a_wrong_name_lists_the_right_ones(name, says):
    with pytest.raises(ConfigError, match=says):
        aggregation(name)
