"""The option symmetric: the mean of a forecast and of the mirror image of that of the negated rows, in one pass."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from tests.models.chronos2.test_decode import GOLDEN, GROUPS, assert_close, batch
from tests.models.zoo import HORIZON, ZOO, windows_of

from foretrain.errors import ConfigError
from foretrain.forecasting.predictor import Predictor
from foretrain.models.chronos2.decode import Chronos2Options, DecodedRows, forecast
from foretrain.models.chronos2.model import Chronos2Network

LEVELS, OPPOSITE = [0.1, 0.35, 0.5, 0.97], [0.9, 0.65, 0.5, 0.03]
HORIZONS = [8, 70]  # in one pass, and unrolled


@pytest.fixture(scope="module")
def network() -> Chronos2Network:
    return Chronos2Network.read_release(GOLDEN / "model").eval()


def negated(rows: DecodedRows) -> DecodedRows:
    return replace(rows, context=-rows.context, covariates=None if rows.covariates is None else -rows.covariates)


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("groups", list(GROUPS))
def test_it_is_the_mean_of_two_calls(network, groups, cross, horizon):
    rows, _ = batch(GROUPS[groups])
    rows = replace(rows, wanted=torch.tensor([4, 0, 3]))
    with torch.inference_mode():
        found = forecast(network, rows, horizon, LEVELS, Chronos2Options(symmetric=True, cross_learning=cross))
        plain = forecast(network, rows, horizon, LEVELS, Chronos2Options(cross_learning=cross))
        mirrored = forecast(network, negated(rows), horizon, OPPOSITE, Chronos2Options(cross_learning=cross))
    assert_close(found, (plain - mirrored) / 2)
    assert float((found - plain).abs().max()) > 0.01


@pytest.mark.parametrize("horizon", HORIZONS)
def test_the_forecast_of_the_negated_rows_is_the_mirror_image(network, horizon):
    """Covariates are negated like targets."""
    rows, _ = batch(GROUPS["mixed"])
    options = Chronos2Options(symmetric=True)
    with torch.inference_mode():
        found = forecast(network, rows, horizon, LEVELS, options)
        assert_close(forecast(network, negated(rows), horizon, OPPOSITE, options), -found, 1e-5)


@pytest.mark.parametrize("kind", list(ZOO["chronos2"].kinds))
def test_windows_of_every_kind_have_a_mirror_image(zoo, kind):
    predictor, windows = Predictor(zoo.shared("chronos2").eval()), windows_of("chronos2", kind, 3)
    mirrored = [replace(w, context=-w.context, future=-w.future) for w in windows]
    for horizon in (HORIZON, 3 * HORIZON):
        if kind == "known covariate" and horizon > HORIZON:
            continue  # its covariates end with the horizon
        found = predictor.forecast(windows, horizon, LEVELS, symmetric=True)
        other = predictor.forecast(mirrored, horizon, OPPOSITE, symmetric=True)
        for one, two in zip(found, other, strict=True):
            np.testing.assert_allclose(two, -one, atol=1e-5)


def test_both_halves_share_one_pass(network):
    rows, seen = batch(GROUPS["mixed"])[0], []
    handle = network.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    with torch.inference_mode():
        forecast(network, rows, 8, [0.5], Chronos2Options(symmetric=True))
    handle.remove()
    assert seen == [2 * len(rows.context)]


def test_it_never_waits_for_its_device():
    """Tensors on the meta device have no values."""
    rows, _ = batch(GROUPS["mixed"])
    meta = {f.name: getattr(rows, f.name) for f in fields(rows)}
    meta = {name: x if x is None else x.to(torch.device("meta")) for name, x in meta.items()}
    with torch.inference_mode():
        found = forecast(
            Chronos2Network.read_release(GOLDEN / "model").eval().to("meta"),
            DecodedRows(**meta),
            70,
            [0.1, 0.35],
            Chronos2Options(symmetric=True),
        )
    assert found.device.type == "meta" and found.shape == (len(GROUPS["mixed"]), 70, 2)


def test_a_model_without_opposite_levels_is_refused(zoo):
    model = zoo.built("chronos2", quantiles=[0.1, 0.5, 0.8]).eval()
    with pytest.raises(ConfigError, match=r"symmetric: the model was trained on level 0\.1 and not on 0\.9"):
        Predictor(model).forecast(windows_of("chronos2", "univariate", 1), HORIZON, [0.5], symmetric=True)
    assert Predictor(model).forecast(windows_of("chronos2", "univariate", 1), HORIZON, [0.5])
