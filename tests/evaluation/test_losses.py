from __future__ import annotations

import numpy as np
import pytest

from foretrain.data.splits import Origin, select
from foretrain.evaluation.backtest import Backtest
from foretrain.evaluation.losses import loss_units, validation_losses
from foretrain.evaluation.panel import ShardedWindows, make_panel
from foretrain.models.objective import LossConfig, Objective


def _panel(corpus, origins, **more):
    settings = {"prediction_length": 4, "context_length": 32, "stride": 4, **more}
    return make_panel([corpus], [select(corpus)], [origins], **settings)


def test_the_loss_is_the_models_own_over_all_windows_and_its_mode_is_restored(hourly, persistence):
    corpus = hourly(4, 120)
    panel = _panel(corpus, [Origin(i, c) for i in range(4) for c in (30, 70)])
    model = persistence(0.5)
    model.train()
    found = validation_losses(ShardedWindows(panel, 3), model)
    naive = Backtest(panel).naive
    observed = np.isfinite(naive.target)
    error = np.abs(naive.target - naive.last[:, None] - 0.5)
    assert set(found) == {"loss"}
    assert found["loss"] == pytest.approx(error[observed].mean(), rel=1e-5)
    assert model.training


def test_every_loss_is_a_ratio_of_sums_over_all_windows(bars, candles):
    corpus, model = bars(), candles(0.5)
    panel = _panel(corpus, [Origin(i, c) for i in range(3) for c in (30, 70)])
    found = validation_losses(ShardedWindows(panel, 5), model)  # a window a batch
    truth = Backtest(panel).naive.target
    assert found["width"] == pytest.approx((truth**2).sum() / (2 * truth.size), rel=1e-5)
    assert set(found) == {"loss", "width"}


def test_a_loss_of_predictions_is_reported_in_place_of_the_families_own_and_is_that_of_the_forecasts(hourly, zoo):
    corpus, model = hourly(3, 120), zoo.built("chronos2").eval()
    panel = _panel(corpus, [Origin(i, c) for i in range(3) for c in (30, 70)], context_length=24, prediction_length=6)
    model.objective = Objective(LossConfig(name="mse", space="price"))
    found = validation_losses(ShardedWindows(panel, 3), model)
    backtest = Backtest(panel)
    error = backtest.forecast(model).quantiles[..., backtest.levels.index(0.5)] - backtest.naive.target
    assert tuple(found) == tuple(loss_units(model)) == ("loss", "mse_price_squared", "mae_price")
    assert found["loss"] == found["mse_price_squared"] == pytest.approx(np.nanmean(error**2), rel=1e-4)
    assert found["mae_price"] == pytest.approx(np.nanmean(np.abs(error)), rel=1e-4)


def test_windows_without_truth_have_no_loss(hourly, persistence):
    corpus = hourly(1, 60)
    panel = _panel(corpus, [Origin(0, 60)])  # nothing is known beyond its end
    assert np.isnan(validation_losses(ShardedWindows(panel, 4), persistence())["loss"])
