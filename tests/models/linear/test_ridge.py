"""The linear model in closed form, on generated series."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foretrain.models.linear.config import LEVELS
from foretrain.models.linear.ridge import Examples, fit_linear
from foretrain.models.request import ForecastRequest

STEPS, HORIZON = 20, 3


def examples(values: np.ndarray, share: float = 0.2) -> Examples:
    """All windows of a series; the newest share of them is held out."""
    cutoffs = np.arange(STEPS, len(values) - HORIZON + 1)
    contexts = np.stack([values[cut - STEPS : cut] for cut in cutoffs])
    futures = np.stack([values[cut : cut + HORIZON] for cut in cutoffs])
    newest = round(len(cutoffs) * (1 - share))
    order = np.arange(len(cutoffs))
    return Examples(contexts, futures, order <= newest - HORIZON, order >= newest)


def forecast(model, contexts: np.ndarray) -> np.ndarray:
    padded = np.pad(contexts, ((0, 0), (32 - STEPS, 0)), constant_values=np.nan).astype(np.float32)
    request = ForecastRequest(prediction_length=HORIZON, quantile_levels=LEVELS)
    with torch.no_grad():
        return model.forecast({"context": torch.from_numpy(padded)}, request).quantiles.numpy()


def test_a_rule_without_noise_is_found_and_its_intervals_are_narrow():
    values = 100 + 10 * np.sin(np.arange(400) / 7)
    found = forecast(fit_linear(examples(values)), values[None, 350:370])
    assert found.shape == (1, HORIZON, len(LEVELS))
    np.testing.assert_allclose(found[0, :, 4], values[370:373], atol=0.05)
    assert (found[0, :, -1] - found[0, :, 0] < 0.2).all()


def test_intervals_hold_what_they_say_on_steps_that_were_not_fitted_to():
    rng = np.random.default_rng(0)
    values = rng.normal(5, 2, 3000)
    model = fit_linear(examples(values[:2000]))
    unseen = examples(values[2000:])
    found = forecast(model, unseen.contexts)
    for level in (0.1, 0.5, 0.9):
        below = (unseen.futures <= found[:, :, LEVELS.index(level)]).mean()
        assert below == pytest.approx(level, abs=0.05)  # 3,000 values, a fifth of them independent at least


def test_few_examples_have_a_fixed_penalty_and_the_errors_of_all_steps_together():
    values = np.random.default_rng(1).normal(5, 2, 60)
    given = examples(values)
    without = given._replace(old=np.zeros_like(given.old))
    first, second = (forecast(fit_linear(one), given.contexts[-1:])[0] for one in (given, without))
    assert not np.array_equal(first, second)
    for one in (first, second):
        width = one[:, -1] - one[:, 0]
        np.testing.assert_allclose(width, width[0], rtol=1e-5)  # of each step alike


def test_missing_steps_and_constants_give_finite_forecasts():
    values = np.full(80, 3.0)
    holed = np.where(np.arange(80) % 3 == 0, np.nan, values)
    given = examples(values)
    for contexts in (given.contexts, examples(holed).contexts):
        model = fit_linear(given._replace(contexts=contexts))
        found = forecast(model, np.stack([contexts[-1], np.full(STEPS, np.nan)]))
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found[0], 3.0, rtol=1e-6)
