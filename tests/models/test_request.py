from __future__ import annotations

import json

import numpy as np
import pytest

from foretrain.errors import ConfigError
from foretrain.models import resolved
from foretrain.models.chronos2.decode import Chronos2Options
from foretrain.models.kronos.options import KronosOptions
from foretrain.models.request import DECILES, ForecastRequest


def test_the_schema_names_every_key():
    schema = ForecastRequest.model_json_schema()
    assert list(schema["properties"]) == [
        "prediction_length",
        "quantile_levels",
        "context_length",
        "batch_size",
        "max_memory",
        "num_samples",
        "seed",
        "rescale",
        "options",
        "sort_quantiles",
        "repair_candles",
        "blank_missing",
    ]
    raw = ForecastRequest(prediction_length=5)  # goldens and comparisons with upstream rest on this
    assert not (raw.sort_quantiles or raw.repair_candles or raw.blank_missing)
    assert schema["required"] == ["prediction_length"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["prediction_length"]["type"] == "integer"


def test_a_request_comes_back_from_json():
    request = ForecastRequest(
        prediction_length=np.int64(5), quantile_levels=[0.1, np.float32(0.5)], seed=3, options={"top_k": 1}
    )
    text = request.model_dump_json()
    assert ForecastRequest.model_validate_json(text) == request
    assert json.loads(text)["prediction_length"] == 5
    assert ForecastRequest(prediction_length=2).quantile_levels == DECILES


def test_options_become_the_familys_record_once_and_stay_json():
    request = resolved(ForecastRequest(prediction_length=2, options={"top_k": 1}), "kronos")
    assert request.options_of(KronosOptions) == KronosOptions(top_k=1)
    assert resolved(request, "kronos") is request
    again = ForecastRequest.model_validate_json(request.model_dump_json())
    assert resolved(again, "kronos") == request


def test_no_options_are_the_familys_defaults():
    assert ForecastRequest(prediction_length=2, options=None).options_of(KronosOptions) == KronosOptions()
    assert not ForecastRequest(prediction_length=2).mixes_items


def test_options_that_mix_items_are_seen():
    assert ForecastRequest(prediction_length=2, options=Chronos2Options(cross_learning=True)).mixes_items
    given = ForecastRequest(prediction_length=2, options={"cross_learning": True})
    assert resolved(given, "chronos2").mixes_items


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prediction_length": 0}, "prediction_length is 0; it must be a whole number of at least 1"),
        ({"prediction_length": "3"}, "prediction_length is '3'"),
        ({"quantile_levels": []}, "quantile_levels is empty"),
        ({"quantile_levels": [0.5, 1.0]}, "1.0 is not between 0 and 1"),
        ({"quantile_levels": 0.5}, "is not a list of numbers"),
        ({"context_length": 0}, "context_length is 0; it counts steps and is at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_samples": 1.5}, "num_samples is 1.5"),
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number"),
        ({"options": 3}, "not a set of forecast options"),
        ({"num_sample": 3}, "num_sample: unknown key. Did you mean 'num_samples'"),
    ],
)
def test_impossible_values_and_unknown_keys_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        ForecastRequest(**{"prediction_length": 2, **given})


def test_a_request_without_a_horizon_is_refused():
    with pytest.raises(ConfigError, match="prediction_length: required"):
        ForecastRequest.model_validate({})


def test_an_unknown_option_is_refused_when_the_family_is_known():
    with pytest.raises(ConfigError, match="kronos has no forecast option 'top_q'"):
        resolved(ForecastRequest(prediction_length=2, options={"top_q": 1}), "kronos")


def test_a_changed_request_is_checked_again():
    request = ForecastRequest(prediction_length=2, seed=3)
    assert request.changed(batch_size=8) == ForecastRequest(prediction_length=2, seed=3, batch_size=8)
    with pytest.raises(ConfigError, match="seed is None"):
        request.changed(seed=None)
