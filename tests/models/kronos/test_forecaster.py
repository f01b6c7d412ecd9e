"""The predictor as a forecasting model: frozen tokenizer, loss, construction, quantiles."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from foretrain.config import build as build_section
from foretrain.data.windows import stack_windows
from foretrain.errors import ConfigError, DataError, ModelError
from foretrain.models import family
from foretrain.models.hub import release_hash
from foretrain.models.kronos.config import COLUMNS
from foretrain.models.kronos.forecaster import Kronos
from foretrain.models.kronos.inputs import collate
from foretrain.models.kronos.paths import HIGH, LOW, repair, sample_quantiles, summarise
from foretrain.models.request import ForecastRequest
from foretrain.notes import Code, codes
from foretrain.training.optimizer import OptimizerConfig, build_optimizer


def batch_of(model, *windows) -> dict[str, torch.Tensor]:
    return model.collate(stack_windows(windows, len(windows[0].future[0])))


def built(section: dict, **rest) -> Kronos:
    chosen = family("kronos")
    return chosen.build(build_section(chosen.config(), section), context_length=16, prediction_length=5, seed=0, **rest)


# The frozen tokenizer


def values(network: torch.nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in network.state_dict().values()]


def test_the_tokenizer_is_in_no_list_of_what_is_trained_or_saved(kit):
    model = kit.predictor()
    held = {id(p) for p in model.tokenizer.parameters()}
    assert held and not held & {id(p) for p in model.parameters()}
    assert not any("tokenizer" in key or "encoder" in key for key in model.state_dict())
    assert model.tokenizer not in set(model.modules())
    optimizer = build_optimizer(model, OptimizerConfig())
    assert not held & {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not any(p.requires_grad for p in model.tokenizer.parameters())


def test_the_tokenizer_stays_in_eval_mode(kit):
    model = kit.predictor()
    assert model.train().network.training
    assert not any(module.training for module in model.tokenizer.modules())


def test_training_leaves_the_tokenizer_as_it_was(kit, tmp_path):
    model = kit.predictor().train()
    before, weights = values(model.tokenizer), values(model.network)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    batch = batch_of(model, kit.window(1), kit.window(2))
    for _ in range(3):
        model(batch).total.backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, values(model.tokenizer), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights, values(model.network), strict=True))
    model.save_release(tmp_path)
    assert release_hash(tmp_path / "tokenizer") == release_hash(kit.tokenizer_folder) == model.parents["tokenizer"]


def test_the_tokenizer_stays_in_float32_beside_weights_of_another_type(kit):
    """A rounded latent near zero is another token."""
    model = kit.predictor().eval()
    batch = batch_of(model, kit.window(1), kit.window(2))
    before = model.tokens(batch)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(before, model.tokens(batch), strict=True))
    model.to(torch.bfloat16)
    assert {p.dtype for p in model.tokenizer.parameters()} == {torch.float32}
    assert all(torch.equal(a, b) for a, b in zip(before, model.tokens(batch), strict=True))
    with torch.no_grad():
        assert model(batch).total.isfinite()


def test_a_copy_has_its_own_tokenizer(kit):
    model = kit.predictor()
    copied = copy.deepcopy(model)
    assert copied.tokenizer is not model.tokenizer
    assert all(torch.equal(a, b) for a, b in zip(values(copied.tokenizer), values(model.tokenizer), strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_the_tokenizer_follows_the_predictor_to_a_device(kit):
    model = kit.predictor().to("cuda")
    assert {p.device.type for p in model.tokenizer.parameters()} == {"cuda"}


def test_a_tokenizer_of_other_bits_is_refused(kit):
    with pytest.raises(ModelError, match=r"tokens of 4 \+ 4 bits, this tokenizer writes 5 \+ 3\. Name the one"):
        Kronos(kit.predictor().network, kit.tokenizer(s1_bits=5, s2_bits=3).network)


# The loss


@torch.no_grad()
def test_the_loss_is_the_mean_cross_entropy_of_both_tokens_of_every_bar_but_the_first(kit):
    model = kit.predictor().eval()
    batch = batch_of(model, kit.window(1), kit.window(2))
    found = model.validation_losses(batch)
    s1, s2, _ = model.tokens(batch)
    stamps = torch.cat((batch["context_stamps"], batch["future_stamps"]), 1)
    logits = model.network(s1[:, :-1], s2[:, :-1], stamps[:, :-1], use_teacher_forcing=True, s1_targets=s1[:, 1:])
    expected = [
        F.cross_entropy(x.flatten(0, 1), y.flatten(), reduction="sum")
        for x, y in zip(logits, (s1[:, 1:], s2[:, 1:]), strict=True)
    ]
    assert found["loss"].weight.item() == 2 * 20
    torch.testing.assert_close(found["s1_cross_entropy"].total, expected[0])
    torch.testing.assert_close(found["s2_cross_entropy"].total, expected[1])
    torch.testing.assert_close(found["loss"].total, (expected[0] + expected[1]) / 2)


def test_training_draws_first_tokens_and_validation_is_given_them(kit):
    model = kit.predictor()
    batch = batch_of(model, kit.window(1), kit.window(2))
    losses = {}
    for mode in (True, False):
        for seed in (0, 1):
            torch.manual_seed(seed)
            losses[mode, seed] = model.train(mode)(batch).total.item()
    assert losses[True, 0] != losses[True, 1]
    assert losses[False, 0] == losses[False, 1]


@torch.no_grad()
def test_bars_that_were_not_observed_are_inputs_and_no_targets(kit):
    model = kit.predictor().eval()
    window = kit.window()
    assert window.future is not None
    holed = replace(window, context=window.context.copy(), future=window.future.copy())
    holed.context[0, 0], holed.context[2, 7], holed.future[0, 4] = np.nan, np.nan, np.nan
    found = model.validation_losses(batch_of(model, holed))["loss"]
    assert found.weight.item() == 17  # of 20 bars after the first that is complete, two are missing; one is cut
    changed = replace(holed, future=holed.future.copy())
    changed.future[1:, 4] = 1.0  # beside a missing open nothing of the bar counts
    assert torch.equal(model.validation_losses(batch_of(model, changed))["loss"].total, found.total)


@torch.no_grad()
def test_padding_does_not_change_the_loss(kit):
    model = kit.predictor().eval()
    windows = kit.window(1), kit.window(2, steps=9)
    together = model.validation_losses(batch_of(model, *windows))["loss"]
    alone = [model.validation_losses(batch_of(model, window))["loss"] for window in windows]
    assert together.weight.item() == 20 + 13
    assert together.total.item() == pytest.approx(sum(a.total.item() for a in alone), rel=1e-5)


def test_without_a_calendar_the_time_tables_get_gradients_of_zero(kit):
    model = kit.predictor().train()
    model(batch_of(model, kit.window(times=False))).total.backward()
    tables = list(model.network.time_emb.parameters())
    assert len(tables) == 5 and all(p.grad is not None and not p.grad.any() for p in tables)


def test_windows_to_forecast_some_columns_cannot_be_trained_on(kit):
    model = kit.predictor()
    window = replace(kit.window(rows=4), num_targets=1, num_past=3, names=("close", "open", "high", "low"))
    with pytest.raises(DataError, match=r"data.target"):
        model(batch_of(model, window))


def test_half_precision_products_give_nearly_the_same_loss(kit):
    model = kit.predictor().eval()
    batch = batch_of(model, kit.window(1), kit.window(2))
    plain = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(batch)
    assert found.total.dtype == torch.float32
    assert found.total.item() == pytest.approx(plain.total.item(), rel=0.02)


# Starting and loading


def test_a_random_start_reads_what_its_tokenizer_writes(kit, tmp_path):
    kit.tokenizer(s1_bits=5, s2_bits=3, clip=3.0, scale_floor="relative").save_release(tmp_path)
    model = built({"random_init": True, "preset": "mini", "n_layers": 1, "tokenizer": str(tmp_path)})
    config = model.config
    assert (config.s1_bits, config.s2_bits, config.clip, config.scale_floor) == (5, 3, 3.0, "relative")
    assert (config.n_layers, config.d_model) == (1, 256)
    assert model.parents == {"tokenizer": release_hash(tmp_path)}


def test_max_context_is_the_tokens_of_a_window_unless_configured(kit):
    assert kit.predictor().max_context_length == 16 + 5 - 1
    assert kit.predictor(max_context=64).max_context_length == 64


def test_fine_tuning_keeps_the_context_of_the_release_or_lengthens_it(kit, tmp_path):
    kit.predictor(max_context=64).save_release(tmp_path)
    chosen = family("kronos")
    section = build_section(chosen.config(), {"model_id": str(tmp_path)})
    for context_length, expected in ((16, 64), (100, 104)):
        model = chosen.build(section, context_length=context_length, prediction_length=5, seed=0)
        assert model.max_context_length == expected
    assert set(model.parents) == {"model", "tokenizer"}
    assert model.parents["model"] == release_hash(tmp_path)


def test_the_tokenizer_of_a_release_is_taken_unless_another_is_named(kit, tmp_path, logged_notes):
    kit.predictor().save_release(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    kit.tokenizer(seed=9).save_release(other)
    assert built({"model_id": str(tmp_path)}).parents["tokenizer"] == release_hash(kit.tokenizer_folder)
    assert built({"model_id": str(tmp_path), "tokenizer": str(other)}).parents["tokenizer"] == release_hash(other)
    loaded = [family("kronos").load(tmp_path, **parts) for parts in ({}, {"tokenizer": str(other)})]
    (note,) = logged_notes()
    assert note.code == Code.TOKENIZER_DIFFERS and note.text.startswith(str(other))
    assert not torch.equal(*(model.tokenizer.embed.weight for model in loaded))


def test_the_tokenizer_that_release_json_names_is_known_to_be_the_right_one(kit, tmp_path, logged_notes):
    kit.predictor().network.write_release(tmp_path)
    facts = {"parents": {"tokenizer": {"hash": release_hash(kit.tokenizer_folder)}}}
    (tmp_path / "release.json").write_text(json.dumps(facts))
    family("kronos").load(tmp_path, tokenizer=str(kit.tokenizer_folder))
    assert not logged_notes()
    (tmp_path / "other").mkdir()
    kit.tokenizer(seed=9).save_release(tmp_path / "other")
    family("kronos").load(tmp_path, tokenizer=str(tmp_path / "other"))
    assert codes(logged_notes()) == {Code.TOKENIZER_DIFFERS}


def test_an_unknown_part_of_a_release_is_refused(kit, tmp_path):
    kit.predictor().save_release(tmp_path)
    with pytest.raises(ModelError, match="has no tokeniser; its part is tokenizer"):
        family("kronos").load(tmp_path, tokeniser="x")


def test_a_predictor_without_a_tokenizer_is_refused_with_the_ways_out(kit, tmp_path):
    with pytest.raises(ConfigError, match=r"model.tokenizer: .* folder, a hub id .* stage:NAME"):
        built({"random_init": True})
    kit.predictor().network.write_release(tmp_path)
    with pytest.raises(ConfigError, match=r"model.tokenizer"):
        built({"model_id": str(tmp_path)})
    with pytest.raises(ModelError, match=r"has no folder `tokenizer`.*--tokenizer"):
        family("kronos").load(tmp_path)


@pytest.mark.parametrize(("name", "count"), [("mini", 4_108_032), ("small", 24_741_376), ("base", 102_310_592)])
def test_published_sizes_are_built_on_the_meta_device_without_network(name, count):
    model = built({"model_id": f"NeoQuasar/Kronos-{name}"}, device="meta", offline=True)
    assert sum(p.numel() for p in model.parameters()) == count
    assert model.max_context_length == (2048 if name == "mini" else 512)
    assert model.config.clip == 5.0


def test_a_release_may_be_written_into_a_folder_twice(kit, tmp_path):
    model = kit.predictor()
    model.save_release(tmp_path)
    model.save_release(tmp_path)
    assert (tmp_path / "tokenizer/config.json").exists()


# Forecasts


def test_quantiles_of_paths_are_numpys():
    paths = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0))
    levels = (0.0, 0.1, 0.5, 0.77, 1.0)
    expected = np.quantile(paths.numpy(), levels, axis=1).transpose(1, 2, 0)
    np.testing.assert_allclose(sample_quantiles(paths, levels), expected, rtol=1e-5, atol=1e-6)


def test_a_single_path_is_every_quantile():
    paths = torch.randn(2, 1, 4)
    assert torch.equal(sample_quantiles(paths, (0.1, 0.9)), paths.transpose(1, 2).expand(2, 4, 2))


def test_repaired_candles_enclose_open_and_close_and_are_counted():
    #        open high low close volume amount
    broken = [[2.0, 3.0, 1.0, 2.5, 7.0, 8.0], [2.0, 1.0, 1.5, 4.0, 7.0, 8.0], [2.0, 3.0, 2.2, 2.5, 7.0, 8.0]]
    candles = torch.tensor([[broken]])[0][:, :, None]  # one series, a step of three samples
    fixed = repair(candles)
    assert fixed[0, :, 0].tolist() == [[2, 3, 1, 2.5, 7, 8], [2, 4, 1, 4, 7, 8], [2, 3, 2, 2.5, 7, 8]]
    assert torch.equal(repair(fixed), fixed)
    for column, count in ((HIGH, 1), (LOW, 2), (COLUMNS.index("close"), 0)):  # of the targets alone
        rows = torch.tensor([0]), torch.tensor([column])
        (tally,) = summarise(candles, rows, (0.5,), repairs=True).notes
        assert tally.counts == {"repaired candles": count, "candles": 3}


def test_only_targets_are_forecast_and_each_gets_its_own_column(kit):
    model = kit.predictor().eval()
    window = kit.window()
    close_first = replace(
        window,
        context=window.context[[3, 0, 1, 2, 4, 5]],
        future=window.future[[3, 0, 1, 2, 4, 5]],
        names=tuple(window.names[k] for k in (3, 0, 1, 2, 4, 5)),
        num_targets=1,
        num_past=5,
    )
    request = ForecastRequest(prediction_length=5, quantile_levels=(0.5,), num_samples=4)
    whole, close = (model.forecast(batch_of(model, w), request) for w in (window, close_first))
    assert whole.quantiles.shape == (6, 5, 1) and close.quantiles.shape == (1, 5, 1)
    assert torch.equal(whole.samples[3], close.samples[0])
    assert float(close.mean[0, 0]) == pytest.approx(float(window.context[3].mean()), rel=0.1)


def test_a_window_without_a_bar_has_no_forecast_and_does_not_change_others(kit):
    model = kit.predictor().eval()
    void = replace(kit.window(1), context=np.full((6, 16), np.nan, np.float32))
    request = ForecastRequest(prediction_length=5, quantile_levels=(0.5,), num_samples=2)
    together = model.forecast(batch_of(model, void, kit.window(2)), request).quantiles
    alone = model.forecast(batch_of(model, kit.window(2)), request).quantiles
    assert together[:6].isnan().all()
    torch.testing.assert_close(together[6:], alone)


def test_a_repaired_candle_has_no_negative_volume():
    good, negative = [10.0, 12.0, 9.0, 11.0, 5.0, 50.0], [10.0, 12.0, 9.0, 11.0, -1.0, 50.0]
    fixed = repair(torch.tensor([[[good, negative]]]))
    assert fixed[0, 0].tolist() == [good, [10.0, 12.0, 9.0, 11.0, 0.0, 50.0]]


def test_prices_below_zero_stay_unless_the_history_has_none():
    candle = [-1.0, 2.0, -3.0, 1.0, 5.0, 50.0]
    fixed = repair(torch.tensor([[[candle]]] * 2), torch.tensor([True, False]))
    assert fixed[:, 0, 0].tolist() == [[0.0, 2.0, 0.0, 1.0, 5.0, 50.0], candle]
    assert repair(torch.tensor([[[candle]]]))[0, 0, 0].tolist() == candle  # not known


@pytest.mark.parametrize(("price", "positive"), [(5.0, True), (0.0, False), (-37.6, False)])
def test_a_price_at_or_below_zero_is_remembered_from_before_the_context(kit, price, positive):
    window = kit.window()
    windows = [window, replace(window, lowest_before=np.array([60, 60, price, 60, -1, -1], np.float32))]
    assert collate(stack_windows(windows, 5), clip=5.0)["positive"].tolist() == [True, positive]
    long = replace(window, context=window.context.copy(), context_times=None, future_times=None)
    long.context[3, 0] = price  # older than the four steps that the model reads
    assert collate(stack_windows([long], 5, 4), clip=5.0)["positive"].tolist() == [positive]
