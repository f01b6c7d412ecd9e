"""The linear network's parts by plain loops, and its forecasts beyond the trained horizon."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from foretrain.data.windows import Window, stack_windows
from foretrain.models.linear.config import LEVELS, LinearConfig
from foretrain.models.linear.forecaster import Linear
from foretrain.models.linear.model import LinearNetwork, moving_average, scale
from foretrain.models.request import ForecastRequest
from foretrain.notes import Code, codes

NAN = float("nan")


@pytest.fixture
def model() -> Linear:
    network = LinearNetwork.empty(LinearConfig(20, 4, patch_size=8, d_model=6, trend_kernel=5))
    network.initialise(0)
    return Linear(network).eval()


def asked(prediction_length: int, quantile_levels: Sequence[float] = LEVELS) -> ForecastRequest:
    return ForecastRequest(prediction_length=prediction_length, quantile_levels=quantile_levels)


def batch_of(model: Linear, *contexts: np.ndarray, horizon: int = 4):
    windows = [Window(context[None].astype(np.float32), 1) for context in contexts]
    return model.collate(stack_windows(windows, horizon))


def walk(steps: int, seed: int = 0) -> np.ndarray:
    return 50 + np.random.default_rng(seed).standard_normal(steps).cumsum()


def test_scaling_looks_at_observed_steps_alone():
    scaled = scale(torch.tensor([[NAN, 1.0, NAN, 3.0, 5.0]]))
    assert scaled.loc.item() == 3.0 and scaled.scale.item() == pytest.approx((8 / 3) ** 0.5)
    assert scaled.observed.tolist() == [[False, True, False, True, True]]
    assert scaled.values[0, [0, 2, 3]].tolist() == [0.0, 0.0, 0.0]


def test_a_row_without_variation_is_scaled_by_its_size_and_one_without_values_by_one():
    found = scale(torch.tensor([[-7.0, -7.0], [0.0, 0.0], [NAN, NAN]]))
    assert found.scale.flatten().tolist() == [7.0, 1.0, 1.0] and found.loc.flatten().tolist() == [-7.0, 0.0, 0.0]
    assert not found.values.any()


def test_the_moving_average_is_the_mean_of_what_is_observed_around_a_step():
    values = torch.randn(2, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    observed = torch.rand(2, 12, generator=torch.Generator().manual_seed(1)) > 0.3
    observed[1, 3:10] = False
    found = moving_average(torch.where(observed, values, 0.0), observed, 5)
    for row in range(2):
        for step in range(12):
            near = slice(max(step - 2, 0), step + 3)
            seen = values[row, near][observed[row, near]]
            expected = seen.mean() if len(seen) else torch.tensor(0.0)
            torch.testing.assert_close(found[row, step], expected, check_dtype=False)


def test_forecasts_follow_the_units_of_the_data(model):
    """Powers of two, so that the same bits come out."""
    context = np.round(walk(20))
    plain, moved = (model.forecast(batch_of(model, x), asked(4)).quantiles for x in (context, context * 4))
    assert torch.equal(moved, plain * 4)
    assert (plain.diff(dim=-1) >= 0).all()


def test_only_the_newest_steps_count_and_shorter_contexts_are_padded(model):
    context = walk(33)
    batch = batch_of(model, context, context[-20:])
    assert batch["context"].shape == (2, 24)  # three patches; 20 steps are looked at
    assert torch.equal(batch["context"].isnan().sum(1), torch.tensor([4, 4]))
    torch.testing.assert_close(batch["context"][0], batch["context"][1], rtol=0, atol=0, equal_nan=True)
    assert model.forecast(batch_of(model, context[-3:]), asked(4)).quantiles.isfinite().all()


def test_longer_horizons_are_unrolled_on_the_median_and_told(model, logged_notes):
    batch = batch_of(model, walk(20), horizon=10)
    found = model.forecast(batch, asked(10))
    assert found.quantiles.shape == (1, 10, 9)
    assert codes(logged_notes()) == {Code.HORIZON_UNROLLED}
    first = model.forecast(batch, asked(4)).quantiles
    assert torch.equal(found.quantiles[:, :4], first)
    longer = np.concatenate((walk(20).astype(np.float32), first[0, :, 4].detach().numpy()))
    again = model.forecast(batch_of(model, longer), asked(4)).quantiles
    assert torch.equal(found.quantiles[:, 4:8], again)
    assert not logged_notes()


def test_levels_are_interpolated_and_those_outside_take_the_outermost(model, logged_notes):
    batch = batch_of(model, walk(20))
    trained = model.forecast(batch, asked(4)).quantiles
    found = model.forecast(batch, asked(4, (0.05, 0.15, 0.5))).quantiles
    assert codes(logged_notes()) == {Code.LEVEL_OUTSIDE_TRAINED}
    torch.testing.assert_close(found[..., 0], trained[..., 0])
    torch.testing.assert_close(found[..., 1], trained[..., :2].mean(-1))
    torch.testing.assert_close(found[..., 2], trained[..., 4])


def test_the_loss_is_the_pinball_loss_of_scaled_labels(model):
    context, future = walk(20), walk(4, seed=1)
    future[2] = NAN
    windows = [Window(context[None].astype(np.float32), 1, future=future[None].astype(np.float32))]
    batch = model.collate(stack_windows(windows, 4))
    with torch.no_grad():
        total, weight = model(batch)
        predicted = model.predict(batch)
    expected = 0.0
    for step in (0, 1, 3):
        for quantile, level in zip(predicted.quantiles[0, step].tolist(), LEVELS, strict=True):
            error = (future[step] - context.mean()) / context.std() - quantile
            expected += 2 / 9 * max(level * error, (level - 1) * error)
    assert weight == 3 and total.item() == pytest.approx(expected, rel=1e-4)


def test_labels_beyond_the_model_s_horizon_are_not_scored(model):
    windows = [Window(walk(20)[None].astype(np.float32), 1, future=walk(9)[None].astype(np.float32))]
    with torch.no_grad():
        assert model(model.collate(stack_windows(windows, 9))).weight == 4
