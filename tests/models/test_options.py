"""Forecast options by name, checked before anything is forecast."""

from __future__ import annotations

import numpy as np
import pytest

from foretrain.errors import ConfigError
from foretrain.models import family, forecast_options
from foretrain.models.chronos2.decode import Chronos2Options


def test_options_are_the_familys_own_with_its_defaults():
    assert forecast_options("chronos2", {"cross_learning": True}) == Chronos2Options(cross_learning=True)
    assert forecast_options(family("chronos2"), {}) == Chronos2Options()


def test_values_are_converted_to_the_fields_type():
    found = forecast_options("chronos2", {"unrolled_quantiles": [0.1, 0.5], "max_output_patches": np.int64(3)})
    assert found == Chronos2Options(unrolled_quantiles=(0.1, 0.5), max_output_patches=3)
    drawn = forecast_options("kronos", {"top_k": np.int64(3), "temperature": np.float32(0.5), "top_p": 1})
    assert (drawn.top_k, drawn.temperature, drawn.top_p) == (3, 0.5, 1.0) and type(drawn.top_k) is int


def test_an_unknown_option_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"no forecast option .croslearning.\. Did you mean .cross_learning."):
        forecast_options("chronos2", {"croslearning": True})
    with pytest.raises(ConfigError, match="Known: cross_learning"):
        forecast_options("chronos2", {"zzz": True})


@pytest.mark.parametrize(("option", "name"), [("repair", "repair_candles"), ("blank_missing", "blank_missing")])
def test_an_output_setting_among_the_options_is_refused_with_its_place(option, name):
    with pytest.raises(ConfigError, match=f"{option} is no forecast option of kronos, .* {name}=True .* output.{name}"):
        forecast_options("kronos", {option: True})


@pytest.mark.parametrize(("option", "value"), [("max_output_patches", "abc"), ("unrolled_quantiles", 3)])
def test_a_value_of_another_type_is_refused(option, value):
    with pytest.raises(ConfigError, match=f"forecast option {option} cannot be {value!r}"):
        forecast_options("chronos2", {option: value})
