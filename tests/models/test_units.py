"""Forecasts do not depend on the unit of the data: those of c times the data are c times the forecasts.

Families whose published models have a constant in the unit of the data take part with the floor that replaces it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.models.zoo import CONTEXT, HORIZON, windows_of

from foretrain.data.windows import FloatArray, Window, stack_windows
from foretrain.forecasting.predictor import Predictor
from foretrain.models.base import Forecaster
from foretrain.notes import Code

UNITS = (1e-12, 3e-7, 1e-3, 7.0, 1e6, 1e12)
LEVELS = (0.1, 0.5, 0.9)
TOLERANCE = 1e-4  # of a row's deviation: float32 rounds values by 1e-5 of the deviations here, and forecasts use sums
FAMILIES = ("chronos2", "linear", "toto", "toto2")
FLOORED = ("toto", "toto2")
every_family = pytest.mark.parametrize("name", FAMILIES)
floored_families = pytest.mark.parametrize("name", FLOORED)


@pytest.fixture(scope="module")
def models(zoo) -> Callable[[str], Forecaster]:
    built = {name: zoo.built(name).eval() for name in FAMILIES}
    return built.__getitem__


def per_row(window: Window, factors: float | Sequence[float]) -> np.ndarray:
    """One factor a row; of several, as many as there are rows."""
    return np.resize(np.asarray(factors, np.float64), len(window.context))


def times(window: Window, factors: float | Sequence[float]) -> Window:
    """The window with every row, or each row, in another unit."""
    by = per_row(window, factors)[:, None]
    context, future = ((by * x).astype(np.float32) for x in (window.context, window.future))
    return replace(window, context=context, future=future)


def forecasts(model: Forecaster, windows: Sequence[Window], horizon: int = HORIZON) -> list[FloatArray]:
    return Predictor(model).forecast(list(windows), horizon, LEVELS)


def assert_same(
    found: FloatArray, expected: FloatArray, window: Window, factors: float | Sequence[float], tolerance=TOLERANCE
) -> None:
    """Forecasts of a window in other units are its forecasts in those units."""
    by = per_row(window, factors)[: window.num_targets, None, None]
    deviation = np.nanstd(window.context[: window.num_targets].astype(np.float64), axis=1)[:, None, None]
    assert np.abs(found / by - expected).max() <= tolerance * deviation.min(), factors


@every_family
@pytest.mark.parametrize("kind", ["univariate", "known covariate", "missing"])
def test_a_forecast_in_another_unit_is_the_forecast_times_the_unit(models, name, kind):
    kind = kind if name != "linear" else kind.replace("known covariate", "covariates left out")
    windows = windows_of(name, kind, 3)
    expected = forecasts(models(name), windows)
    for unit in UNITS:
        found = forecasts(models(name), [times(window, unit) for window in windows])
        for one, other, window in zip(found, expected, windows, strict=True):
            assert_same(one, other, window, unit)


@every_family
def test_every_row_of_a_window_may_have_a_unit_of_its_own(models, name):
    kind = "known covariate" if name != "linear" else "covariates left out"
    windows = [w for kind in ("multivariate", kind) for w in windows_of(name, kind, 2)]
    expected = forecasts(models(name), windows)
    for units in itertools.permutations((1e-6, 40.0, 1e6)):
        found = forecasts(models(name), [times(window, units) for window in windows])
        for one, other, window in zip(found, expected, windows, strict=True):
            assert_same(one, other, window, units)


def stalled(level: float, seed: int = 0) -> Window:
    """A window of two rows that stand still for half of their context, the first at a level and the second at 0."""
    walks = np.random.default_rng(seed).standard_normal((2, CONTEXT + HORIZON)).cumsum(1)
    walks[:, : CONTEXT // 2] = 0
    values = (walks + np.array([[level], [0]])).astype(np.float32)
    return Window(values[:, :CONTEXT], 2, future=values[:, CONTEXT:])


@floored_families
def test_rows_that_stood_still_at_first_have_forecasts_in_every_unit(models, name):
    windows = [stalled(level) for level in (5.0, 300.0)]
    expected = forecasts(models(name), windows)
    spread = max(np.ptp(window.context - window.context[:, :1]) for window in windows)
    for one, window in zip(expected, windows, strict=True):
        assert np.abs(one - window.context[:, -1:, None]).max() < 20 * spread
    for unit in UNITS:
        found = forecasts(models(name), [times(window, unit) for window in windows])
        for one, other, window in zip(found, expected, windows, strict=True):
            assert_same(one, other, window, unit, 1e-3)  # of a level of 300, float32 resolves less


@floored_families
@pytest.mark.parametrize("training", [True, False])
def test_the_loss_does_not_depend_on_the_unit(models, name, training):
    model = models(name).train(training)
    windows = [*windows_of(name, "univariate", 2), *windows_of(name, "known covariate", 2), stalled(5.0)]
    with torch.no_grad():
        losses = []
        for unit in (1.0, *UNITS):
            total, weight = model(model.collate(stack_windows([times(window, unit) for window in windows], HORIZON)))
            losses.append((float(total), float(weight)))
    model.eval()
    for total, weight in losses:
        assert weight == losses[0][1] > 0
        assert total == pytest.approx(losses[0][0], rel=1e-4)


@floored_families
def test_steps_whose_row_stood_still_so_far_are_not_scored(models, name):
    model = models(name).train()
    windows = [stalled(5.0)]
    batch = model.collate(stack_windows(windows, HORIZON))
    size = model.bucket_length
    moved = CONTEXT // 2 // size * size + size  # the first patch after the one with the first move
    with torch.no_grad():
        weight = model(batch).weight
    model.eval()
    assert weight == 2 * (CONTEXT + HORIZON - moved)


@floored_families
def test_powers_of_two_change_no_bit(models, name):
    windows = windows_of(name, "missing", 2)
    expected = forecasts(models(name), windows, 3 * HORIZON)
    for exponent in (-70, 70):
        found = forecasts(models(name), [times(window, 2.0**exponent) for window in windows], 3 * HORIZON)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one / np.float32(2.0**exponent), other)


@floored_families
@pytest.mark.parametrize("level", [0.0, 5.0, -3.0, 1e9, 1e-9])
def test_a_constant_row_is_forecast_as_that_constant(models, name, level):
    window = Window(np.full((1, CONTEXT), level, np.float32), 1)
    (found,) = forecasts(models(name), [window])
    assert np.abs(found - np.float32(level)).max() <= max(1e-3 * abs(level), 1e-12)


@floored_families
def test_the_published_floor_depends_on_the_unit(zoo, name):
    model, windows = zoo.built(name, scale_floor="upstream").eval(), windows_of(name, "univariate", 1)
    (expected,), unit = forecasts(model, windows), 1e-9
    (found,) = forecasts(model, [times(windows[0], unit)])
    assert np.abs(found / unit - expected).max() > np.std(windows[0].context)


def candles_of(kind: str) -> list[Window]:
    """Windows of candles whose columns all deviate by about 1."""
    return [times(window, [1, 1, 1, 1, 1e-5, 1e-7][: len(window.context)]) for window in windows_of("kronos", kind, 2)]


@pytest.mark.parametrize("kind", ["prices only", "close with past covariates", "missing"])
def test_candles_have_forecasts_in_their_unit(zoo, kind):
    """With the relative floor: prices in any unit, volumes in another one, amounts in that of both."""
    model, windows = zoo.built("kronos", scale_floor="relative").eval(), candles_of(kind)
    expected = forecasts(model, windows)
    for unit, volumes in zip(UNITS, (1.0, 1e-6, 1e12, 1e-12, 3e3, 1.0), strict=True):
        units = [unit, unit, unit, unit, volumes, unit * volumes][: len(windows[0].context)]
        found = forecasts(model, [times(window, units) for window in windows])
        for one, other, window in zip(found, expected, windows, strict=True):
            assert_same(one, other, window, units)


@pytest.mark.parametrize("units", [(1.0, 10.0, 1e6, 1e12), (1e-5, 1e-6, 1e-9, 1e-12)])
def test_with_the_published_floor_candles_have_them_in_either_of_two_ranges(zoo, units):
    """Kronos adds upstream's 1e-5 to large deviations, and 1% to those below 1e-3: each is invariant for itself."""
    model, window = zoo.built("kronos").eval(), windows_of("kronos", "prices only", 1)[0]
    (expected,) = forecasts(model, [times(window, units[0])])
    for unit in units[1:]:
        (found,) = forecasts(model, [times(window, unit)])
        assert_same(found / np.float32(unit), expected / np.float32(units[0]), window, 1.0)


@pytest.mark.parametrize("unit", [1e-12, 3e-7, 1e-3, 0.1])
def test_rescaled_candles_have_the_forecast_of_large_ones_with_the_published_floor(zoo, unit):
    model, windows, units = zoo.built("kronos").eval(), candles_of("missing"), [*[unit] * 4, 1e-9, 1e-9 * unit]
    large = forecasts(model, [times(window, 1e6) for window in windows])
    small = [times(window, units) for window in windows]
    found = Predictor(model).forecast(small, HORIZON, LEVELS, rescale=True)
    for one, other, window in zip(found, large, windows, strict=True):
        assert_same(one, other / 1e6, window, units)


@pytest.mark.parametrize(("level", "deviation", "hidden"), [(1.6, 3e-4, 1), (1.6, 3e-3, 0), (5e-5, 5e-7, 0)])
def test_candles_whose_moves_the_published_floor_hides_are_counted(zoo, logged_notes, level, deviation, hidden):
    """A rate that stands nearly still is hidden, a rate and a coin are not."""
    window = windows_of("kronos", "prices only", 1)[0]
    prices = window.context - window.context.mean()
    window = replace(window, context=(level + deviation * prices / prices.std()).astype(np.float32))
    predictor = Predictor(zoo.built("kronos").eval())
    predictor.forecast([window], HORIZON, LEVELS)
    found = [(note.code, note.counts["floored windows"]) for note in logged_notes()]
    assert found == [(Code.SCALE_FLOORED, 1)] * hidden
    predictor.forecast([window], HORIZON, LEVELS, rescale=True)
    Predictor(zoo.built("kronos", scale_floor="relative").eval()).forecast([window], HORIZON, LEVELS)
    assert not logged_notes()
