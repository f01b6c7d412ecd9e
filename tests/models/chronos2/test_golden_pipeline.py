"""Forecasts and embeddings of the official pipeline, recorded, against ours."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from foretrain.forecasting.frame import read_frame
from foretrain.forecasting.inputs import read_inputs
from foretrain.forecasting.predictor import Predictor, load

pytestmark = pytest.mark.golden

GOLDEN = Path(os.environ.get("FORETRAIN_GOLDEN_DIR") or Path(__file__).parents[2] / "golden") / "chronos2"
TOLERANCE = 5e-5  # of |a - b| / (|b| + 1), for forecasts in original units (sinh amplifies rounding)
LEVELS = [0.1, 0.5, 0.9]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load(GOLDEN / "model", device="cpu")


@pytest.fixture(scope="module")
def univariate() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "pipeline_univariate.safetensors")


def assert_close(found, recorded, tolerance=TOLERANCE):
    found, recorded = torch.as_tensor(found), torch.as_tensor(recorded)
    assert found.shape == recorded.shape
    assert float(((found - recorded).abs() / (recorded.abs() + 1)).max()) <= tolerance


def series(recorded):
    return [recorded[f"uni.in.{i}"] for i in range(5)]


RECORDED = [(h, 256) for h in (1, 13, 32, 45, 101)] + [(13, 2), (45, 2)]


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize(("horizon", "batch_size"), RECORDED)
def test_univariate_forecasts_equal_the_reference(predictor, univariate, horizon, cross, batch_size):
    found = predictor.forecast(series(univariate), horizon, LEVELS, cross_learning=cross, batch_size=batch_size)
    for i, values in enumerate(found):
        name = f"uni.h{horizon}.cross{int(cross)}.bs{batch_size}"
        assert_close(values, univariate[f"{name}.quantiles.{i}"])
        assert_close(values[..., 1], univariate[f"{name}.mean.{i}"])  # the reference's "mean" is the median


@pytest.mark.parametrize(
    ("case", "horizon", "levels", "arguments"),
    [
        ("interp", 20, [0.005, 0.15, 0.5, 0.975, 0.995], {}),
        ("ctx24", 45, LEVELS, {"context_length": 24}),
        ("maxpatch2", 45, LEVELS, {"max_output_patches": 2}),
        ("unroll3", 45, LEVELS, {"unrolled_quantiles": (0.1, 0.5, 0.9)}),
    ],
)
def test_forecast_options_equal_the_reference(predictor, univariate, case, horizon, levels, arguments):
    found = predictor.forecast(series(univariate), horizon, levels, **arguments)
    for i, values in enumerate(found):
        assert_close(values, univariate[f"uni.{case}.quantiles.{i}"])


def test_all_trained_levels_of_an_unrolled_forecast_equal_the_reference(predictor, univariate):
    found = predictor.forecast(series(univariate), 45, predictor.network.config.quantiles)
    for i, values in enumerate(found):
        assert_close(values.transpose(0, 2, 1), univariate[f"uni.raw45.{i}"])


def tasks(recorded):
    def of(i):
        return {
            "target": recorded[f"in.{i}.target"],
            "past_covariates": {name: recorded[f"in.{i}.past.{name}"] for name in "za"},
            "future_covariates": {"z": recorded[f"in.{i}.future.z"]},
        }

    return [of(i) for i in range(3)]


@pytest.mark.parametrize("horizon", [13, 45])
def test_rows_of_multivariate_tasks_equal_the_reference(horizon):
    recorded = load_file(GOLDEN / f"pipeline_covariates_h{horizon}.safetensors")
    for i, window in enumerate(read_inputs(tasks(recorded), horizon)):
        np.testing.assert_array_equal(window.context, recorded[f"prepared.{i}.context"])
        np.testing.assert_array_equal(window.future, recorded[f"prepared.{i}.future_covariates"])
        assert (window.num_targets, window.num_past) == (2, 1)


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("horizon", [13, 45])
def test_forecasts_with_covariates_equal_the_reference(predictor, horizon, cross):
    recorded = load_file(GOLDEN / f"pipeline_covariates_h{horizon}.safetensors")
    found = predictor.forecast(tasks(recorded), horizon, LEVELS, cross_learning=cross)
    for i, values in enumerate(found):
        assert_close(values, recorded[f"cross{int(cross)}.quantiles.{i}"])
        assert_close(values[..., 1], recorded[f"cross{int(cross)}.mean.{i}"])


def test_embeddings_of_slots_with_data_equal_the_reference(predictor):
    recorded = load_file(GOLDEN / "embed.safetensors")
    inputs = [recorded[f"in.{i}"] for i in range(3)]
    found, statistics = predictor.embed(inputs)
    for i, values in enumerate(inputs):
        slots = -(-values.shape[-1] // 8) + 2  # patches with data, REG, the empty forecast patch
        assert found[i].shape == recorded[f"embed.{i}"].shape
        assert_close(found[i][:, -slots:], recorded[f"embed.{i}"][:, -slots:], 1e-5)
        assert_close(statistics[i][0], recorded[f"loc.{i}"], 1e-6)
        assert_close(statistics[i][1], recorded[f"scale.{i}"], 1e-6)


def frames():
    return pd.read_csv(GOLDEN / "df_in.csv"), pd.read_csv(GOLDEN / "df_future.csv")


def test_the_forecast_frame_equals_the_reference(predictor):
    history, future = frames()
    expected = pd.read_csv(GOLDEN / "df_out.csv")
    found = predictor.forecast_df(history, 10, LEVELS, future_df=future, sort_quantiles=False)
    assert list(found.columns) == list(expected.columns)
    assert found["item_id"].tolist() == expected["item_id"].tolist()
    assert found["timestamp"].tolist() == pd.to_datetime(expected["timestamp"]).tolist()
    assert found["target_name"].tolist() == expected["target_name"].tolist()
    numbers = list(expected.columns[3:])
    assert_close(found[numbers].to_numpy(np.float64), expected[numbers].to_numpy(np.float64))


@pytest.mark.parametrize(("kind", "ordinal"), [("prepared", None), ("ordinal", True)])
def test_encoded_rows_of_a_frame_equal_the_reference(kind, ordinal):
    history, future = frames()
    recorded = load_file(GOLDEN / "df_prepared.safetensors")
    for i, window in enumerate(read_frame(history, 10, future_df=future, ordinal=ordinal).windows):
        np.testing.assert_allclose(window.context, recorded[f"{kind}.{i}.context"], rtol=1e-6)
        np.testing.assert_allclose(window.future, recorded[f"{kind}.{i}.future_covariates"], rtol=1e-6)
        targets, covariates, ahead = recorded[f"prepared.{i}.counts"].tolist()
        assert (window.num_targets, len(window.context) - 1, window.num_past) == (
            targets,
            covariates,
            covariates - ahead,
        )


def test_a_merged_lora_adapter_forecasts_as_the_reference(logged_notes):
    recorded = load_file(GOLDEN / "fit_lora.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merged = load(GOLDEN / "lora_adapter", device="cpu")
    assert not logged_notes()
    found = merged.forecast([recorded["test.0"]], 16, merged.network.config.quantiles)
    assert_close(found[0].transpose(0, 2, 1), recorded["after.raw16"])
