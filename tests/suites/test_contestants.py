"""Contestants and the windows that models of this package get."""

from __future__ import annotations

import numpy as np
import pytest
from tests.models.zoo import Zoo
from tests.suites.tasks import LEVELS, series, task

from foretrain.data.windows import KNOWN, PAST, TARGET
from foretrain.errors import ConfigError
from foretrain.models import forecast_options
from foretrain.models.output import OutputSettings
from foretrain.suites.contestants import LoadedModel, model_window, with_point
from foretrain.suites.rows import BenchmarkWindow, CovariateRows, TaskRows

STAMPS = np.datetime64("2024-01-01", "us") + np.arange(8) * np.timedelta64(1, "D")


def window(**covariates):
    history = np.array([[1.0, np.nan, 1e300, 4.0, 5.0, 6.0]])
    return BenchmarkWindow("a", 6, ("y",), history, STAMPS[:6], STAMPS[6:], CovariateRows(**covariates))


def test_a_model_s_window_has_the_newest_steps_and_nothing_of_the_truth():
    found = model_window(window(past={"p": np.arange(6.0)}, known={"k": np.arange(8.0)}), 4)
    np.testing.assert_array_equal(found.context, [[np.nan, 4, 5, 6], [2, 3, 4, 5], [2, 3, 4, 5]])
    np.testing.assert_array_equal(found.roles, [TARGET, PAST, KNOWN])
    assert found.future is not None and np.isnan(found.future[:2]).all()
    np.testing.assert_array_equal(found.future[2], [6, 7])
    assert found.context_times is not None and found.future_times is not None
    assert [len(found.context_times), len(found.future_times)] == [4, 2] and found.names == ("y", "p", "k")
    assert found.future_times[0] - found.context_times[-1] == 86_400_000_000


def test_a_window_without_covariates_has_no_future():
    assert model_window(window(), 100).future is None and model_window(window(), 100).context.shape == (1, 6)


def test_the_median_stands_before_the_quantiles():
    quantiles = np.arange(6.0).reshape(1, 3, 2)
    np.testing.assert_array_equal(with_point(quantiles, LEVELS)[0], [[2, 3], [0, 1], [2, 3], [4, 5]])


def test_options_that_mix_items_are_refused(zoo: Zoo):
    joint = forecast_options("chronos2", {"cross_learning": True})
    with pytest.raises(ConfigError, match="cross_learning"):
        LoadedModel("m", zoo.shared("chronos2"), options=joint)  # type: ignore[arg-type]


def test_quantiles_are_sorted_as_the_release_says_and_known_covariates_change_forecasts(zoo: Zoo):
    rng = np.random.default_rng(0)
    rows = TaskRows(task(horizon=6, offset=6), [series(rng.normal(5, 2, 30)) for _ in range(4)])
    windows = [rows.window(k, with_covariates=False) for k in range(4)]
    network = zoo.shared("chronos2")
    plain = LoadedModel("m", network, output=OutputSettings(sort_quantiles=False))  # type: ignore[arg-type]
    given = LoadedModel("m", network)  # type: ignore[arg-type]
    raw, ordered = plain.forecast(windows, rows.task), given.forecast(windows, rows.task)
    assert (np.diff(raw[:, 1:], axis=1) < 0).any() and (np.diff(ordered[:, 1:], axis=1) >= 0).all()
    known = CovariateRows(known={"k": rng.normal(0, 1, 30)})
    with_known = [BenchmarkWindow(**{**vars(one), "covariates": known}) for one in windows]
    assert not np.allclose(given.forecast(with_known, rows.task), ordered)
