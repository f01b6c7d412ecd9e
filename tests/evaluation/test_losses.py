from __future__ import annotations

import numpy as np
import pytest

from foretrain.data.splits import Origin, select
from foretrain.evaluation.backtest import Backtest
from foretrain.evaluation.losses import validation_losses
from foretrain.evaluation.panel import Dealer, make_panel


def _panel(corpus, origins, **more):
    settings = {"prediction_length": 4, "context_length": 32, "stride": 4, **more}
    return make_panel([corpus], [select(corpus)], [origins], **settings)


def test_the_loss_is_the_models_own_over_all_windows_and_leaves_its_mode_alone(hourly, persistence):
    corpus = hourly(4, 120)
    panel = _panel(corpus, [Origin(i, c) for i in range(4) for c in (30, 70)])
    model = persistence(0.5)
    model.train()
    found = validation_losses(Dealer(panel, 3), model)
    naive = Backtest(panel).naive
    observed = np.isfinite(naive.target)
    error = np.abs(naive.target - naive.last[:, None] - 0.5)
    assert set(found) == {"loss"}
    assert found["loss"] == pytest.approx(error[observed].mean(), rel=1e-5)
    assert model.training
