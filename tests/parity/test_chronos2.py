"""Round trips with the official chronos-forecasting package: files, forecasts, frames, loss and gradients."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from foretrain.data.windows import Window, stack_windows
from foretrain.forecasting.predictor import Predictor, load
from foretrain.models.chronos2.config import Chronos2ModelConfig
from foretrain.models.chronos2.forecaster import Chronos2

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
chronos = pytest.importorskip("chronos")

GOLDEN = Path(os.environ.get("FORETRAIN_GOLDEN_DIR") or Path(__file__).parents[1] / "golden") / "chronos2"
LEVELS = [0.1, 0.37, 0.5, 0.9]
FORECAST = 5e-5  # largest |a - b| / (|b| + 1) of forecasts in original units
EXACT = 1e-5  # of loss and gradients


def random_model(**changes) -> Chronos2:
    """A small model with weights of realistic scale: 2 blocks, patches of 8, native horizon 24, context 60."""
    config = Chronos2ModelConfig(
        random_init=True,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        patch_size=8,
        quantiles=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
        max_output_patches=3,
        time_encoding_scale=96,
        initializer_factor=1.0,
        dropout_rate=0.0,
        **changes,
    )
    return Chronos2.build(config, context_length=60, prediction_length=8, seed=3).eval()


@pytest.fixture(scope="module", params=["random", "recorded"])
def ours(request) -> Predictor:
    if request.param == "recorded":
        return load(GOLDEN / "model", device="cpu")
    return Predictor(random_model())


@pytest.fixture(scope="module")
def theirs(ours, tmp_path_factory):
    """Our release, loaded by the official package."""
    folder = tmp_path_factory.mktemp("ours") / "release"
    ours.save(folder)
    return chronos.BaseChronosPipeline.from_pretrained(str(folder), device_map="cpu")


@pytest.fixture(scope="module")
def back(theirs, tmp_path_factory) -> Predictor:
    """The release that the official package writes from ours, loaded by us."""
    folder = tmp_path_factory.mktemp("theirs") / "saved"
    theirs.save_pretrained(folder)
    return load(folder, device="cpu")


def difference(found, expected) -> float:
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        a, b = torch.as_tensor(np.asarray(a)), torch.as_tensor(np.asarray(b))
        assert a.shape == b.shape
        worst = max(worst, float(((a - b).abs() / (b.abs() + 1)).max()))
    return worst


def series(*lengths, rows=(1,), seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for i, steps in enumerate(lengths):
        values = rng.standard_normal((rows[i % len(rows)], steps)).cumsum(1).astype(np.float32)
        values[:, rng.random(steps) < 0.04] = np.nan
        made.append(values)
    return made


def dicts(horizon, count=4, targets=1, text=False):
    rng = np.random.default_rng(1)
    items = []
    for _ in range(count):
        steps = int(rng.integers(9, 90))
        past = {"a": rng.standard_normal(steps), "z": rng.standard_normal(steps)}
        ahead = {"z": rng.standard_normal(horizon)}
        if text:
            past["k"] = rng.choice(["sun", "rain", "fog"], steps)
            ahead["k"] = rng.choice(["sun", "rain", "snow"], horizon)
        target = rng.standard_normal((targets, steps)).cumsum(1).astype(np.float32)
        items.append({"target": target, "past_covariates": past, "future_covariates": ahead})
    return items


INPUTS = {
    "univariate": lambda h: [values[0] for values in series(40, 5, 90, 63, 64, 8)],
    "multivariate": lambda h: series(40, 5, 90, 64, rows=(3, 1, 2)),
    "covariates": dicts,
    "two targets with covariates": lambda h: dicts(h, targets=2),
    "text covariates": lambda h: dicts(h, text=True),
    "two targets with text": lambda h: dicts(h, targets=2, text=True),
}


def test_the_official_loader_opens_our_release_with_equal_weights(ours, theirs):
    assert type(theirs).__name__ == "Chronos2Pipeline"
    state = theirs.model.state_dict()
    assert state.keys() == ours.network.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in ours.network.state_dict().items())


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("horizon", [7, 60])
@pytest.mark.parametrize("inputs", list(INPUTS))
def test_forecasts_are_equal(ours, theirs, inputs, horizon, cross):
    given = INPUTS[inputs](horizon)
    expected, _ = theirs.predict_quantiles(given, horizon, LEVELS, cross_learning=cross)
    found = ours.forecast(given, horizon, LEVELS, cross_learning=cross)
    assert difference(found, expected) <= FORECAST


def test_forecasts_of_their_folder_are_equal(theirs, back):
    for horizon in (7, 60):
        given = INPUTS["covariates"](horizon)
        expected, _ = theirs.predict_quantiles(given, horizon, LEVELS)
        assert difference(back.forecast(given, horizon, LEVELS), expected) <= FORECAST


def test_options_mean_the_same(ours, theirs):
    given = INPUTS["univariate"](0)
    for options in ({"context_length": 20}, {"max_output_patches": 1}, {"unrolled_quantiles": [0.2, 0.8]}):
        expected, _ = theirs.predict_quantiles(given, 50, LEVELS, **options)
        assert difference(ours.forecast(given, 50, LEVELS, **options), expected) <= FORECAST


def test_embeddings_are_equal_where_there_is_data(ours, theirs):
    given = [values[:, ~np.isnan(values[0])] for values in series(40, 9, 64, rows=(1, 2))]
    expected, statistics = theirs.embed(given)
    found, own = ours.embed(given)
    for a, b, values in zip(found, expected, given, strict=True):
        slots = -(-min(values.shape[1], 60) // 8) + 2
        assert a.shape == b.shape
        assert difference([a[:, -slots:]], [b[:, -slots:]]) <= EXACT
    for (loc, scale), (their_loc, their_scale) in zip(own, statistics, strict=True):
        assert difference([loc, scale], [their_loc, their_scale]) <= EXACT


def long_frame(freq, text):
    rng = np.random.default_rng(2)
    past, ahead = [], []
    for name, steps in (("b", 70), ("a", 30), ("c", 12)):
        times = pd.date_range("2024-01-31", periods=steps + 9, freq=freq)
        table = pd.DataFrame({"item_id": name, "timestamp": times, "target": rng.standard_normal(len(times)).cumsum()})
        table["other"] = rng.standard_normal(len(times))
        table["temp"] = rng.standard_normal(len(times))
        if text:
            table["kind"] = rng.choice(["sun", "rain", "fog"], len(times))
        past.append(table[:steps])
        ahead.append(table[steps:].drop(columns=["target", "other"]))
    return pd.concat(past, ignore_index=True), pd.concat(ahead, ignore_index=True)


@pytest.mark.parametrize("target", ["target", ["target", "other"]])
@pytest.mark.parametrize(("freq", "text", "known"), [("h", True, True), ("B", False, True), ("ME", True, False)])
def test_forecast_frames_are_equal(ours, theirs, freq, text, known, target):
    past, ahead = long_frame(freq, text)
    arguments = {"prediction_length": 9, "quantile_levels": LEVELS, "future_df": ahead if known else None}
    expected = theirs.predict_df(past, target=target, **arguments)
    found = ours.forecast_df(past, target=target, sort_quantiles=False, **arguments)
    names = ["item_id", "timestamp", "target_name"]
    assert list(found.columns) == list(expected.columns)
    pd.testing.assert_frame_equal(found[names], expected[names], check_dtype=False)
    numbers = list(expected.columns[3:])
    assert difference([found[numbers].to_numpy()], [expected[numbers].to_numpy()]) <= FORECAST


def test_training_loss_and_gradients_are_equal(ours, theirs):
    """One batch of groups of 1 to 4 rows, covariates past-only and known ahead, missing values everywhere."""
    rng = np.random.default_rng(4)
    horizon, windows = 13, []
    for i in range(7):
        rows, steps = 1 + i % 4, int(rng.integers(3, 60))
        whole = rng.standard_normal((rows, steps + horizon)).cumsum(1).astype(np.float32)
        whole[rng.random(whole.shape) < 0.1] = np.nan
        targets = 1 if rows < 4 else 2
        past = 1 if rows == 3 else 0
        windows.append(Window(whole[:, :steps], targets, past, future=whole[:, steps:]))
    batch = stack_windows(windows, horizon)
    total, weight = ours.model(ours.model.collate(batch))
    loss = total / weight
    loss.backward()
    known = batch.role == 2
    reference = theirs.model(
        context=torch.from_numpy(batch.context),
        group_ids=torch.from_numpy(batch.window),
        future_covariates=torch.from_numpy(np.where(known[:, None], batch.future, np.nan).astype(np.float32)),
        future_target=torch.from_numpy(np.where((batch.role == 0)[:, None], batch.future, np.nan).astype(np.float32)),
        num_output_patches=2,
    ).loss
    reference.backward()
    expected = {name: p.grad for name, p in theirs.model.named_parameters()}
    found = {name: p.grad for name, p in ours.network.named_parameters()}
    ours.model.zero_grad(set_to_none=True)
    theirs.model.zero_grad(set_to_none=True)
    assert difference([loss.detach()], [reference.detach()]) <= EXACT
    assert found.keys() == expected.keys()
    assert difference([found[n] for n in found], [expected[n] for n in found]) <= EXACT
