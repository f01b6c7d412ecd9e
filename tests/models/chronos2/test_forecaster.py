"""Chronos-2 under the model contract: collate and the loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from foretrain.data.windows import KNOWN, TARGET, Window, Windows, stack_windows
from foretrain.errors import ModelError
from foretrain.models.chronos2.config import Chronos2ModelConfig
from foretrain.models.chronos2.forecaster import FAMILY, Chronos2
from foretrain.models.request import ForecastRequest

NAN = np.float32(np.nan)


@pytest.fixture
def model_of(network_of, small_config):
    return lambda normalisation="rows", **changes: Chronos2(network_of(small_config, **changes), normalisation)


def request_of(horizon, levels) -> ForecastRequest:
    return ForecastRequest(prediction_length=horizon, quantile_levels=levels)


def mixed(missing: bool = False) -> Windows:
    """Windows of 1, 3, 1, 2 and 5 rows with past and known covariates and different lengths."""
    rng = np.random.default_rng(0)
    made = []
    for rows, steps, past, known in ((1, 20, 0, 0), (3, 24, 1, 1), (1, 24, 0, 0), (2, 13, 0, 1), (5, 24, 1, 2)):
        values = rng.standard_normal((rows, steps + 7)).cumsum(1).astype(np.float32)
        if missing:
            values[rng.random(values.shape) < 0.2] = NAN
        made.append(Window(values[:, :steps], rows - past - known, past, values[:, steps:]))
    return stack_windows(made, 7)


def by_network(model: Chronos2, windows: Windows):
    """The same batch through upstream's arguments."""
    future, role = torch.from_numpy(windows.future), torch.from_numpy(windows.role)[:, None]
    return model.network(
        torch.from_numpy(windows.context),
        group_ids=torch.from_numpy(windows.window),
        future_covariates=future.where(role == KNOWN, NAN),
        future_target=future.where(role == TARGET, NAN),
        num_output_patches=2,
    )


@pytest.mark.parametrize("missing", [False, True])
def test_the_loss_is_upstreams_times_the_rows(model_of, apart, missing):
    model, windows = model_of(), mixed(missing)
    loss = model(model.collate(windows))
    assert float(loss.weight) == len(windows.context)
    assert apart(loss.total / loss.weight, by_network(model, windows).loss) < 1e-5


def test_the_loss_of_observed_steps_does_not_shrink_with_the_padding(model_of, apart):
    """A horizon of 5 fills a patch of 4 and a quarter of another; the mean over scored steps ignores the rest."""
    model, windows = model_of("observed"), mixed(missing=True)
    loss = model(model.collate(windows))
    scored = (windows.role == TARGET)[:, None] & ~np.isnan(windows.future)
    assert float(loss.weight) == scored.sum()
    whole = by_network(model, windows)
    assert apart(loss.total, whole.loss * 8 * len(windows.context)) < 1e-5


@pytest.mark.parametrize(("loss_horizon", "patches"), [("run", 4), ("batch", 2)])
def test_a_loss_predicts_to_the_runs_horizon_or_to_its_batches(model_of, monkeypatch, loss_horizon, patches):
    network = model_of().network
    section = Chronos2ModelConfig(preset="test", random_init=True, loss_horizon=loss_horizon)
    size = network.config.patch_size
    model, predicted = Chronos2.of_run(network, section, 4 * size), []
    predict = network.predict

    def watched(inputs, rows):
        predicted.append(inputs.num_output_patches)
        return predict(inputs, rows)

    monkeypatch.setattr(network, "predict", watched)
    context, future = np.ones((1, 3 * size), np.float32), np.ones((1, 2 * size), np.float32)
    window = Window(context=context, num_targets=1, num_past=0, future=future)
    model.native_loss(model.collate(stack_windows([window], 2 * size)))
    assert predicted == [patches]


@pytest.mark.parametrize("normalisation", ["rows", "observed"])
def test_a_windows_loss_uses_the_runs_horizon_for_any_padding_of_the_batch(model_of, normalisation):
    """In a batch of shorter futures the missing steps count as not observed."""
    model, windows = model_of(normalisation), mixed(missing=True)
    model.prediction_length = 14
    longer = replace(windows, future=np.pad(windows.future, ((0, 0), (0, 7)), constant_values=NAN))
    short, long = (model(model.collate(w)) for w in (windows, longer))
    assert short.weight == long.weight
    torch.testing.assert_close(short.total, long.total, rtol=1e-6, atol=0)


def test_forecasts_of_target_rows_are_the_networks(model_of, apart):
    model, windows = model_of().eval(), mixed(missing=True)
    with torch.no_grad():
        ours = model.forecast(
            model.collate(windows), ForecastRequest(prediction_length=7, quantile_levels=(0.1, 0.9))
        ).quantiles
        theirs = by_network(model, windows).quantile_preds
    targets = torch.from_numpy(windows.role == TARGET)
    assert apart(ours, theirs[targets][:, [0, 2], :7].transpose(1, 2)) < 5e-5


@pytest.mark.parametrize("use_arcsinh", [True, False])
def test_predictions_for_training_are_the_forecasts_of_the_same_windows(model_of, apart, use_arcsinh):
    model, windows = model_of(use_arcsinh=use_arcsinh).eval(), mixed(missing=True)
    batch = model.collate(windows)
    with torch.no_grad():
        found = model.predict(batch)
        forecast = model.forecast(
            batch, ForecastRequest(prediction_length=7, quantile_levels=model.config.quantiles)
        ).quantiles
    assert apart(found.quantiles * found.scale[..., None] + found.loc[..., None], forecast) < 5e-5
    median = model.config.quantiles.index(0.5)
    assert apart(found.point * found.scale + found.loc, forecast[..., median]) < 5e-5
    truth = torch.from_numpy(windows.future[windows.role == TARGET])
    assert torch.equal(found.observed, ~truth.isnan())
    assert apart((found.target * found.scale + found.loc)[found.observed], truth[found.observed]) < 1e-5


def test_a_model_without_the_median_predicts_it_between_its_levels(model_of):
    model = model_of(quantiles=(0.2, 0.4, 0.8)).eval()
    found = model.predict(model.collate(mixed()))
    torch.testing.assert_close(found.point, found.quantiles[..., 1] * 0.75 + found.quantiles[..., 2] * 0.25)


def test_the_last_value_is_the_newest_observed_of_the_context_and_ignores_the_future(model_of):
    context = np.array([[1, 2, 3, 4], [5, 6, NAN, NAN], [NAN] * 4], np.float32)
    found = []
    for future in (np.ones((3, 4), np.float32), np.full((3, 4), 9e5, np.float32)):
        windows = stack_windows([Window(context, 2, 1, future), Window(context[2:], 1, 0, future[:1])], 4)
        found.append(model_of().predict(model_of().collate(windows)))
    assert found[0].last[:, 0].tolist()[:2] == [4, 6] and found[0].last[2:].isnan().all() and len(found[0].last) == 3
    for name in ("last", "loc", "scale", "point", "quantiles"):
        one, other = (getattr(p, name).nan_to_num() for p in found)
        assert torch.equal(one, other), name


def test_masks_are_absent_when_nothing_is_missing(model_of):
    whole = np.arange(48, dtype=np.float32).reshape(2, 24)
    gap = whole.copy()
    gap[0, 3] = NAN
    empty = gap.copy()
    empty[1, 4:8] = NAN
    found = []
    for context in (whole, gap, empty):
        batch = model_of().collate(stack_windows([Window(row[None], 1) for row in context], 4))
        found.append(tuple(key in batch for key in ("observed", "patches_observed", "target_rows", "groups.singles")))
    assert found == [(False,) * 4, (True, False, False, False), (True, True, False, False)]


def test_a_long_context_is_cut_to_the_newest_steps_and_a_short_one_padded_to_whole_patches(model_of):
    model = model_of()
    long = np.arange(60, dtype=np.float32)[None]
    assert model.collate(stack_windows([Window(long, 1)], 4))["context"].tolist() == [list(range(12, 60))]
    short = model.collate(stack_windows([Window(long[:, :6], 1)], 4))["context"]
    assert short.shape == (1, 8) and short[0, :2].isnan().all()


def test_another_order_of_windows_gives_the_same_loss(model_of):
    model, windows = model_of(), mixed()
    loss = model(model.collate(windows))
    parts = [windows.window == w for w in (3, 0, 4, 2, 1)]
    shuffled = Windows(
        context=np.concatenate([windows.context[p] for p in parts]),
        future=np.concatenate([windows.future[p] for p in parts]),
        window=np.repeat(np.arange(5), [p.sum() for p in parts]),
        role=np.concatenate([windows.role[p] for p in parts]),
        key=windows.key,
    )
    assert model(model.collate(shuffled)).total.item() == pytest.approx(loss.total.item(), rel=1e-5)


def test_inputs_and_statistics_do_not_depend_on_the_labels(model_of):
    model, windows = model_of(), mixed()
    batch = model.collate(windows)
    before = model.inputs(batch, 2)
    batch["future_target"] = batch["future_target"] * 1e6
    after = model.inputs(batch, 2)
    assert torch.equal(before.values, after.values)
    assert torch.equal(before.loc, after.loc) and torch.equal(before.scale, after.scale)


def test_dropout_is_drawn_from_torchs_seed(model_of):
    model, windows = model_of(dropout_rate=0.3).train(), mixed()
    batch = model.collate(windows)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(model(batch).total.item())
    assert losses[0] == losses[1] != losses[2]


def test_a_folder_of_another_family_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "t5", "d_model": 8}')
    with pytest.raises(ModelError, match="not a Chronos-2 model"):
        FAMILY.load(tmp_path)
    with pytest.raises(ModelError, match="no such file"):
        FAMILY.load(tmp_path / "nowhere")


@pytest.mark.parametrize("horizon", [7, 40])
def test_a_model_trained_without_the_deciles_still_forecasts(model_of, horizon):
    model = model_of(quantiles=(0.25, 0.5, 0.75)).eval()
    windows = stack_windows([Window(np.arange(24, dtype=np.float32)[None], 1)], horizon)
    found = model.forecast(
        model.collate(windows), ForecastRequest(prediction_length=horizon, quantile_levels=(0.5,))
    ).quantiles
    assert found.shape == (1, horizon, 1) and found.isfinite().all()
