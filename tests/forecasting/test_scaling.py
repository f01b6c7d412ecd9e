"""Rows whose scale a model cannot represent are counted and, on request, rescaled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tests.models.zoo import CONTEXT, HORIZON, windows_of

from foretrain.data.windows import Window
from foretrain.forecasting.predictor import Predictor
from foretrain.notes import Code

FAMILIES = ("toto", "toto2")
LEVELS = (0.1, 0.5, 0.9)


def upstreams(zoo, name: str):
    """A model with the floor of published ones."""
    return zoo.built(name, scale_floor="upstream").eval()


def times(window: Window, unit: float) -> Window:
    context, future = ((unit * x).astype(np.float32) for x in (window.context, window.future))
    return replace(window, context=context, future=future)


@pytest.mark.parametrize("name", FAMILIES)
def test_rescaled_rows_have_the_forecast_of_large_ones(zoo, name):
    predictor = Predictor(upstreams(zoo, name))
    for kind in ("univariate", "known covariate", "missing"):
        windows = windows_of(name, kind, 2)
        large = predictor.forecast([times(window, 1e6) for window in windows], HORIZON, LEVELS)
        small = predictor.forecast([times(window, 1e-9) for window in windows], HORIZON, LEVELS, rescale=True)
        for one, other, window in zip(small, large, windows, strict=True):
            deviation = np.nanstd(window.context[: window.num_targets], axis=1).min()
            assert np.abs(one * 1e9 - other / 1e6).max() < 1e-4 * deviation


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_that_move_enough_are_left_alone(zoo, name):
    predictor, windows = Predictor(upstreams(zoo, name)), [times(w, 1e5) for w in windows_of(name, "missing", 3)]
    plain, asked = (predictor.forecast(windows, HORIZON, LEVELS, rescale=rescale) for rescale in (False, True))
    assert all(np.array_equal(one, other) for one, other in zip(plain, asked, strict=True))


def test_means_and_paths_are_in_the_units_of_the_data(zoo):
    predictor, window = Predictor(upstreams(zoo, "toto")), times(windows_of("toto", "univariate", 1)[0], 1e-6)
    (paths,) = predictor.forecast_paths([window], HORIZON, num_samples=50, rescale=True)
    assert np.abs(paths - window.context[:, None, -1:]).max() < 1e-3
    frame = pd.DataFrame(
        {"timestamp": pd.date_range("2024", periods=CONTEXT, freq="h"), "target": window.context[0].astype(float)}
    )
    found = predictor.forecast_df(frame, HORIZON, num_samples=50, rescale=True)
    assert (found["mean"] - frame.target.iloc[-1]).abs().max() < 1e-3


@pytest.mark.parametrize(("name", "unit"), [("toto", 1e-2), ("toto2", 1e-8)])
def test_a_floor_that_hides_moves_gives_a_coded_warning(zoo, logged_notes, name, unit):
    predictor, windows = Predictor(upstreams(zoo, name)), windows_of(name, "univariate", 3)
    mixed = [times(windows[0], unit), *(times(window, 1e3) for window in windows[1:])]
    predictor.forecast(mixed, HORIZON, LEVELS, batch_size=1)
    (note,) = logged_notes()
    assert (note.code, note.counts) == (Code.SCALE_FLOORED, {"floored windows": 1, "windows": 3})
    assert "--rescale" in note.text
    predictor.forecast(mixed, HORIZON, LEVELS, rescale=True)
    constant = Window(np.full((1, CONTEXT), 5.0, np.float32), 1)
    predictor.forecast([*mixed[1:], constant], HORIZON, LEVELS)
    assert not logged_notes()


def test_a_model_without_a_floor_says_that_rescaling_has_no_effect(zoo, logged_notes):
    windows = [times(window, 1e-9) for window in windows_of("chronos2", "univariate", 2)]
    predictor = Predictor(zoo.shared("chronos2"))
    plain = predictor.forecast(windows, HORIZON, LEVELS)
    assert not logged_notes()
    asked = predictor.forecast(windows, HORIZON, LEVELS, rescale=True)
    assert [note.code for note in logged_notes()] == [Code.RESCALE_UNUSED]
    assert all(np.array_equal(one, other) for one, other in zip(plain, asked, strict=True))


@pytest.mark.parametrize(
    ("unit", "code"), [(1e30, Code.VALUES_TOO_LARGE), (1e20, Code.VALUES_TOO_LARGE), (1e-30, Code.VALUES_TOO_SMALL)]
)
def test_values_beyond_the_arithmetic_are_named_before_their_forecast_is_judged(zoo, logged_notes, unit, code):
    windows = windows_of("chronos2", "univariate", 2)
    Predictor(zoo.shared("chronos2")).forecast([windows[0], times(windows[1], unit)], HORIZON, LEVELS)
    (note,) = logged_notes()
    assert (note.code, note.counts) == (code, {"items": 1}) and repr(windows[1].item_id) in note.text


def test_statistics_in_float64_need_no_such_warning(zoo, logged_notes):
    predictor = Predictor(zoo.shared("toto"))
    predictor.forecast([times(w, unit) for w in windows_of("toto", "univariate", 1) for unit in (1e30, 1e-20)], HORIZON)
    assert not logged_notes()


def test_a_model_trained_on_rescaled_rows_forecasts_them(zoo):
    small = [times(window, 1e-6) for window in windows_of("toto", "univariate", 2)]
    plain = Predictor(upstreams(zoo, "toto"))
    trained = Predictor(zoo.built("toto", scale_floor="upstream", rescale=True).eval())
    found = trained.forecast(small, HORIZON, LEVELS)
    for one, other in zip(found, plain.forecast(small, HORIZON, LEVELS, rescale=True), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(
        trained.forecast(small, HORIZON, LEVELS, rescale=False), plain.forecast(small, HORIZON, LEVELS), strict=True
    ):
        np.testing.assert_array_equal(one, other)
