from __future__ import annotations

import pytest

from foretrain.errors import ConfigError, DataError
from foretrain.forecasting.request import FrameRequest
from foretrain.models.request import ForecastRequest


def test_a_frame_request_has_the_keys_of_a_request_and_those_of_a_frame():
    schema = FrameRequest.model_json_schema()
    assert list(schema["properties"]) == [
        *ForecastRequest.model_json_schema()["properties"],
        "id_column",
        "timestamp_column",
        "target",
        "past_covariates",
        "known_covariates",
        "freq",
        "calendar",
        "outputs",
        "aggregates",
        "trailing_rows",
        "allow_unequal_ends",
    ]
    assert schema["required"] == ["prediction_length"]
    assert schema["properties"]["outputs"]["items"]["enum"] == ["long", "candles", "paths"]
    assert schema["properties"]["trailing_rows"]["anyOf"][0]["enum"] == ["future", "history", "drop"]


def test_a_frame_request_survives_a_round_trip_through_json():
    request = FrameRequest(
        prediction_length=3,
        quantile_levels=(0.1, 0.9),
        target="close",
        outputs=["long", "paths"],
        aggregates="mean",
        options={"top_k": 1},
    )
    assert FrameRequest.model_validate_json(request.model_dump_json()) == request
    assert (request.target, request.outputs, request.aggregates) == (("close",), ("long", "paths"), ("mean",))


def test_the_median_is_requested_beside_the_levels():
    assert FrameRequest(prediction_length=3, quantile_levels=(0.1,)).levels_with_median == (0.1, 0.5)
    assert FrameRequest(prediction_length=3, quantile_levels=(0.5, 0.1)).levels_with_median == (0.5, 0.1)


def test_columns_of_a_frame_have_their_usual_names():
    assert FrameRequest(prediction_length=3).columns == ("item_id", "timestamp")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"prediction_length": 0}, DataError, "prediction_length is 0; it counts steps"),
        ({"outputs": ("wide",)}, ConfigError, "choose long, candles, paths"),
        ({"aggregates": ("trimed_mean_10",)}, ConfigError, "trimed_mean_10"),
        ({"batch_size": 0}, ConfigError, "batch_size is 0"),
        ({"targets": "close"}, ConfigError, "targets: unknown key. Did you mean 'target'"),
    ],
)
def test_impossible_values_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        FrameRequest(**{"prediction_length": 2, **given})


@pytest.mark.parametrize("kind", [ForecastRequest, FrameRequest])
def test_a_horizon_that_no_memory_holds_is_refused(kind):
    assert kind(prediction_length=1_000_000).prediction_length == 1_000_000
    with pytest.raises((ConfigError, DataError), match=r"prediction_length is 9,999,999,999; at most 1,000,000 steps"):
        kind(prediction_length=9_999_999_999)
