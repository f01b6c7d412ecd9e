"""Every family in bfloat16 on a CPU: losses, gradients and forecasts are those of float32 up to its rounding."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.models.zoo import HORIZON, ZOO, windows_of

from foretrain.data.windows import stack_windows
from foretrain.forecasting.batching import forecast_paths
from foretrain.models.base import ForecastRequest
from foretrain.models.request import DECILES

EPS = 2.0**-8  # of bfloat16: the largest relative error of one rounding, twice over


def kind_of(name: str) -> str:
    """Windows of several rows, so that every kind of attention takes part."""
    return "prices only" if ZOO[name].candles else "multivariate"


@pytest.mark.parametrize("name", ZOO)
def test_a_step_is_near_that_of_float32(zoo, name):
    """Weights, sums and gradients stay in float32; what remains is the rounding of factors, some eps in some layers."""
    model = zoo.built(name)
    batch = model.collate(stack_windows(windows_of(name, kind_of(name)), HORIZON))
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = []
    for dtype in (None, torch.bfloat16):
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            loss = model(batch)
        grads = torch.autograd.grad(loss.total / loss.weight, parameters, allow_unused=True)
        assert loss.total.dtype == torch.float32
        assert all(grad is None or grad.dtype == torch.float32 for grad in grads)
        grad = torch.cat([grad.flatten() for grad in grads if grad is not None])
        assert grad.isfinite().all()
        found.append((float(loss.total.detach() / loss.weight), grad))
    (exact, slope), (rough, other) = found
    assert 0 < abs(rough - exact) < 2 * EPS * (1 + abs(exact))
    assert (other - slope).norm() < 16 * EPS * slope.norm()


@pytest.mark.parametrize("name", [name for name, entry in ZOO.items() if entry.forecasts])
@pytest.mark.parametrize("cast", ["weights", "autocast"])
def test_a_forecast_keeps_the_level_of_its_series(zoo, name, cast):
    """bfloat16 resolves a level of a million to 4,000: a row's statistics, and what is made of them, are in float32."""
    exact = zoo.shared(name)
    model = copy.deepcopy(exact).bfloat16() if cast == "weights" else exact
    windows = [replace(w, context=w.context + np.float32(1e6)) for w in windows_of(name, kind_of(name))]
    options = {"num_samples": 4, "seed": 0} if ZOO[name].samples else {}
    request = ForecastRequest(prediction_length=HORIZON, quantile_levels=DECILES, **options)
    rough, plain = (
        forecast_paths(m, windows, request, keep_samples=False, dtype=dtype).quantiles
        for m, dtype in ((model, None if cast == "weights" else torch.bfloat16), (exact, None))
    )
    spread = max(float(w.context.std()) for w in windows)
    away = max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(rough, plain, strict=True))
    assert away < 0.5 * spread
