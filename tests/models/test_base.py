"""The model contract: all properties of a family that the trainer, the evaluator and the forecaster rely on.

A new family adds one entry to ZOO (zoo.py): a model of some thousand parameters and the kinds of windows it takes.
Tests of forecasts run for the families that forecast, tests of losses for windows that can be trained on.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.zoo import CONTEXT, HORIZON, ZOO, kinds_of, tokens_up_to_cutoff, windows_of
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from foretrain.data.windows import KNOWN, PAST, TARGET, Window, stack_windows
from foretrain.models import FAMILIES, family
from foretrain.models.base import Batch, Forecaster, Trainable, move
from foretrain.models.request import ForecastRequest

LEVELS = (0.1, 0.5, 0.9)
REQUEST = ForecastRequest(prediction_length=HORIZON, quantile_levels=LEVELS, num_samples=3)
LABELS = {"future_target", "future_observed"}  # entries of a batch that may depend on target values after the cutoff
FORECASTERS = [name for name, entry in ZOO.items() if entry.forecasts]

every_kind = pytest.mark.parametrize(("name", "kind"), kinds_of())
trainable_kinds = pytest.mark.parametrize(("name", "kind"), kinds_of(trains=True))
forecast_kinds = pytest.mark.parametrize(("name", "kind"), kinds_of(forecasts=True))
every_family = pytest.mark.parametrize("name", FAMILIES)


def collated(model: Trainable, windows: list[Window]) -> Batch:
    return model.collate(stack_windows(windows, HORIZON))


def batch_of(model: Trainable, name: str, kind: str) -> Batch:
    return collated(model, windows_of(name, kind))


@torch.no_grad()
def forecast(model: Trainable, batch: Batch) -> torch.Tensor:
    assert isinstance(model, Forecaster)
    return model.forecast(batch, REQUEST).quantiles


def flat(model: Trainable) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach()


# Batches


@every_kind
def test_a_batch_is_flat_and_of_cpu_tensors(zoo, name, kind):
    batch = batch_of(zoo.shared(name), name, kind)
    assert all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in batch.items())
    assert {value.device.type for value in batch.values()} == {"cpu"}
    assert move(batch, torch.device("meta")).keys() == batch.keys()


@every_kind
def test_collating_does_not_change_the_windows(zoo, name, kind):
    windows = stack_windows(windows_of(name, kind), HORIZON)
    before = copy.deepcopy(windows)
    model = zoo.built(name)
    batch = model.collate(windows)
    if ZOO[name].kinds[kind].trains:
        model(batch).total.backward()
    assert np.array_equal(windows.context, before.context, equal_nan=True)
    assert np.array_equal(windows.future, before.future, equal_nan=True)
    assert np.array_equal(windows.key, before.key)


# Losses


@trainable_kinds
def test_the_loss_is_a_sum_whose_gradient_reaches_every_parameter(zoo, name, kind):
    model = zoo.built(name)
    model.train()
    torch.manual_seed(0)
    total, weight = model(batch_of(model, name, kind))
    assert total.shape == weight.shape == ()
    assert torch.isfinite(total) and weight > 0 and not weight.requires_grad
    total.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@trainable_kinds
@torch.no_grad()
def test_parts_of_a_batch_sum_to_the_whole(zoo, name, kind):
    """In eval mode. Of losses that belong to a micro-batch and are not sums over windows only the weights are added."""
    model, windows = zoo.shared(name), windows_of(name, kind)
    whole = model.validation_losses(collated(model, windows))
    parts = [model.validation_losses(collated(model, part)) for part in (windows[:1], windows[1:])]
    assert whole.keys() > ZOO[name].of_micro_batches
    for key in whole:
        assert sum(p[key].weight.item() for p in parts) == pytest.approx(whole[key].weight.item())
        if key not in ZOO[name].of_micro_batches:
            assert sum(p[key].total.item() for p in parts) == pytest.approx(whole[key].total.item(), rel=1e-4), key


@trainable_kinds
@torch.no_grad()
def test_validation_returns_the_declared_losses_and_the_loss_is_among_them(zoo, name, kind):
    model = zoo.shared(name)
    batch = batch_of(model, name, kind)
    found = model.validation_losses(batch)
    assert tuple(found) == model.validation_names
    assert all(loss.total.isfinite() and loss.weight > 0 for loss in found.values())
    assert torch.equal(found["loss"].total, model(batch).total)


@every_family
@torch.no_grad()
def test_windows_without_values_have_no_weight(zoo, name):
    model = zoo.shared(name)
    kind = next(iter(ZOO[name].kinds))
    void = [
        replace(w, context=np.full_like(w.context, np.nan), future=np.full_like(w.future, np.nan))
        for w in windows_of(name, kind)
    ]
    for loss in model.validation_losses(collated(model, void)).values():
        assert loss.total == 0 and loss.total.isfinite()


@pytest.mark.parametrize(("training", "static"), [(False, False), (True, True)])
@trainable_kinds
def test_padding_windows_change_neither_loss_nor_gradients(zoo, name, kind, training, static):
    model = zoo.built(name).double().train(training)  # sums over more rows may have another order
    windows = windows_of(name, kind)
    void = replace(windows[0], context=windows[0].context * np.nan, future=windows[0].future * np.nan)
    found = []
    for extra in (0, 3):
        torch.manual_seed(0)
        stacked = replace(stack_windows([*windows, *[void] * extra], HORIZON), static_shapes=static)
        total, weight = model(model.collate(stacked))
        total.backward()
        found.append((total.detach(), weight, [parameter.grad.clone() for parameter in model.parameters()]))
        model.zero_grad()
    (total, weight, plain), (filled_total, filled_weight, filled) = found
    assert weight == filled_weight > 0
    assert torch.allclose(filled_total, total, rtol=1e-6, atol=1e-6)
    for one, other in zip(plain, filled, strict=True):
        assert torch.allclose(other, one, rtol=1e-5, atol=1e-6 * (1 + one.abs().max().item()))


@trainable_kinds
def test_batches_of_static_windows_have_the_same_shapes_for_all_values(zoo, name, kind):
    model, windows = zoo.shared(name), windows_of(name, kind)
    whole = replace(stack_windows(windows, HORIZON), static_shapes=True)
    some = np.where(np.random.default_rng(0).random(whole.context.shape) < 0.3, np.nan, whole.context)
    short = np.where(np.arange(whole.context.shape[1]) < 9, np.nan, whole.context)
    contents = (
        (whole.context, whole.future),
        (some.astype(np.float32), whole.future * np.nan),
        (short.astype(np.float32), whole.future),
        (whole.context * np.nan, whole.future * np.nan),
        (np.nan_to_num(whole.context), np.nan_to_num(whole.future)),
    )
    batches = [model.collate(replace(whole, context=context, future=future)) for context, future in contents]
    shapes = [{key: (x.shape, x.dtype, x.stride()) for key, x in batch.items()} for batch in batches]
    assert all(shape == shapes[0] for shape in shapes)


@every_family
def test_training_overfits_a_single_batch(zoo, name):
    model = zoo.built(name)
    kind = next(kind for kind, facts in ZOO[name].kinds.items() if facts.even)
    batch = batch_of(model, name, kind)
    optimizer = torch.optim.Adam(model.parameters(), lr=ZOO[name].learning_rate)

    def loss() -> float:
        with torch.no_grad():
            total, weight = model.eval()(batch)
        return (total / weight).item()

    before = loss()
    model.train()
    for step in range(60):
        torch.manual_seed(step)
        total, weight = model(batch)
        (total / weight).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss() < before / 2


@pytest.mark.parametrize(("name", "kind"), [case for case in kinds_of(trains=True) if not ZOO[case[0]].parts])
def test_a_batch_stays_on_its_device_and_is_never_read_by_the_host(zoo, name, kind):
    """The meta device rejects tensors of other devices and every read of a value, which would synchronise a GPU.
    Sampling reads the keys. (Parts of a model stay on their device.)"""
    model = zoo.built(name)
    batch = move(batch_of(model, name, kind), torch.device("meta"))
    model = model.to("meta")
    model.train()(batch).total.backward()
    if name in FORECASTERS and not ZOO[name].samples:
        assert forecast(model, batch).device.type == "meta"


# Causality


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    change=st.sampled_from([np.nan, np.inf, -1e30, 0.0, 7.0]),
    which=st.sampled_from([TARGET, PAST]),
)
@every_kind
def test_values_after_the_cutoff_change_only_labels(zoo, name, kind, seed, change, which):
    """Targets and past covariates beyond the cutoff reach no input, statistic, token or forecast."""
    model, windows = zoo.shared(name), windows_of(name, kind, count=3, seed=seed)
    changed = []
    for window in windows:
        future = window.future.copy()
        future[window.roles == which] = change
        changed.append(replace(window, future=future))
    before, after = (collated(model, w) for w in (windows, changed))
    assert before.keys() == after.keys()
    different = {key for key in before if not torch.equal(before[key].nan_to_num(), after[key].nan_to_num())}
    assert different <= (LABELS if which == TARGET else set())
    for one, other in zip(*(tokens_up_to_cutoff(model, batch) for batch in (before, after)), strict=True):
        assert torch.equal(one, other)
    if name in FORECASTERS:
        assert torch.equal(*(forecast(model, batch).nan_to_num() for batch in (before, after)))


@pytest.mark.parametrize(("name", "kind"), [case for case in kinds_of(forecasts=True) if case[1] == "known covariate"])
def test_known_covariates_after_the_cutoff_do_reach_the_forecast(zoo, name, kind):
    """A control of the test above: it detects a leak."""
    model, windows = zoo.shared(name), windows_of(name, kind)
    changed = [replace(w, future=np.where((w.roles == KNOWN)[:, None], 9.0, w.future)) for w in windows]
    before, after = (forecast(model, collated(model, w)) for w in (windows, changed))
    assert not torch.allclose(before, after)


@forecast_kinds
def test_values_before_the_cutoff_do_reach_the_forecast(zoo, name, kind):
    """Another control."""
    model, windows = zoo.shared(name), windows_of(name, kind)
    changed = [replace(w, context=w.context * np.linspace(1, 2, w.context.shape[1], dtype=np.float32)) for w in windows]
    before, after = (forecast(model, collated(model, w)) for w in (windows, changed))
    assert not torch.allclose(before, after)


# Forecasts


@forecast_kinds
def test_a_forecast_has_the_targets_in_order_and_does_not_depend_on_the_batch(zoo, name, kind):
    model, windows = copy.deepcopy(zoo.shared(name)).double(), windows_of(name, kind)  # for any order of sums
    together = forecast(model, collated(model, windows))
    alone = [forecast(model, collated(model, [window])) for window in windows]
    assert together.shape == (sum(w.num_targets for w in windows), HORIZON, len(LEVELS))
    assert torch.allclose(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FORECASTERS)
def test_a_forecast_has_its_levels_samples_mean_and_notes(zoo, name):
    model = zoo.shared(name)
    batch = batch_of(model, name, next(iter(ZOO[name].kinds)))
    found = model.forecast(batch, REQUEST)
    rows = len(found.quantiles)
    assert found.levels == LEVELS and found.quantiles.shape == (rows, HORIZON, len(LEVELS))
    assert found.samples is None or found.samples.shape == (rows, 3, HORIZON)
    assert found.mean is None or torch.allclose(found.mean, found.samples.mean(1))
    for tally in found.notes:  # its text is formatted with the counts of all batches
        assert all(isinstance(count, int) for count in tally.counts.values())
        assert tally.text.format_map(dict.fromkeys(tally.counts, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", FORECASTERS)
@torch.inference_mode()
def test_forecasts_are_made_in_other_precisions(zoo, name, dtype):
    """With weights of that type, and with float32 weights under autocast."""
    model = zoo.shared(name)
    for kind in ZOO[name].kinds:
        batch = batch_of(model, name, kind)
        plain, other = forecast(model, batch), forecast(copy.deepcopy(model).to(dtype), batch)
        if dtype != torch.float64:
            with torch.autocast("cpu", dtype):
                other = torch.stack((other, forecast(model, batch)))
        assert other.isfinite().all(), kind
        if not ZOO[name].samples:  # rounding may change a draw, which gives another path
            near = 1e-5 if dtype == torch.float64 else 0.1
            assert torch.allclose(other, plain, rtol=0, atol=near * plain.abs().max().item()), kind


@pytest.mark.parametrize("name", FORECASTERS)
def test_lengths_are_declared(zoo, name):
    model = zoo.shared(name)
    assert model.max_context_length >= CONTEXT
    assert 1 <= model.bucket_length <= CONTEXT


# Parameters and blocks


@every_family
def test_every_trainable_parameter_has_a_role(zoo, name):
    model = zoo.built(name)
    roles = model.parameter_groups()
    parameters = dict(model.named_parameters())
    assert roles.keys() == parameters.keys()
    for key, parameter in parameters.items():
        assert (roles[key].role == "vector") == (parameter.ndim == 1), key
    next(iter(parameters.values())).requires_grad_(False)
    assert len(model.parameter_groups()) == len(parameters) - 1


@every_family
def test_blocks_are_modules_of_the_model_without_shared_parameters(zoo, name):
    model = zoo.shared(name)
    blocks = model.blocks()
    assert blocks and all(any(block is module for module in model.modules()) for block in blocks)
    held = [id(parameter) for block in blocks for parameter in block.parameters()]
    assert len(held) == len(set(held))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@every_family
def test_recomputed_activations_give_the_same_gradients(zoo, name, dropout):
    grads = []
    kind = next(iter(ZOO[name].kinds))
    for recompute in (False, True):
        model = zoo.built(name, **dict.fromkeys(ZOO[name].dropout, dropout)).train()
        if recompute:
            for block in model.blocks():
                plain = block.forward
                block.forward = lambda *a, plain=plain, **k: checkpoint(plain, *a, use_reentrant=False, **k)
        torch.manual_seed(0)
        model(batch_of(model, name, kind)).total.backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@every_family
def test_dropout_acts_only_in_training(zoo, name):
    kind = next(iter(ZOO[name].kinds))
    batch = batch_of(zoo.shared(name), name, kind)
    for key in ZOO[name].dropout:
        model = zoo.built(name, **{key: 0.5})
        losses = {}
        for mode in (True, False):
            for seed in (0, 1):
                torch.manual_seed(seed)
                losses[mode, seed] = model.train(mode)(batch).total.item()
        assert losses[True, 0] != losses[True, 1], key
        assert losses[False, 0] == losses[False, 1], key


@every_family
def test_the_seed_decides_the_weights(zoo, name):
    first, again, other = (flat(zoo.built(name, seed=s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@every_family
def test_a_deep_copy_is_independent_of_the_model(zoo, name):
    model = zoo.built(name)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert not flat(copied).any() and torch.equal(flat(model), flat(zoo.built(name)))


@pytest.mark.parametrize(("name", "kind"), kinds_of(trains=True, even=True))
def test_flops_per_window_agrees_with_torchs_count(zoo, name, kind):
    """In training, of the plain layers; neither count includes element-wise operations."""
    model, windows = zoo.built(name).double().train(), windows_of(name, kind)
    batch = collated(model, windows)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        model(batch)
    claimed = len(windows) * model.flops_per_window(CONTEXT, HORIZON, len(windows[0].context))
    assert claimed == pytest.approx(counted.get_total_flops(), rel=0.03)


def both_passes(model: Trainable, batch: Batch) -> int:
    """Return torch's count of a forward and backward pass, of the plain layers."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        model(batch).total.backward()
    return counted.get_total_flops()


@every_family
def test_step_flops_agree_with_torchs_count_of_both_passes(zoo, name):
    """A first layer has no gradient of its inputs, which torch leaves out and the claim does not."""
    kind = next(kind for family, kind in kinds_of(trains=True, even=True) if family == name)
    model, windows = zoo.built(name).double().train(), windows_of(name, kind)
    claimed = len(windows) * model.step_flops(CONTEXT, HORIZON, len(windows[0].context))
    assert claimed == pytest.approx(both_passes(model, collated(model, windows)), rel=0.05)


def test_step_flops_of_kronos_with_a_table_of_tokens_leave_the_tokenizer_out(zoo):
    model, windows = zoo.built("kronos").double().train(), windows_of("kronos", "candles")
    batch = collated(model, windows)
    batch["tokens"] = torch.stack(model.tokens(batch)[:2], -1)
    model.cached_tokens = True  # any: the batch has what would be looked up
    claimed = len(windows) * model.step_flops(CONTEXT, HORIZON)
    assert claimed == pytest.approx(both_passes(model, batch), rel=0.05)


def test_the_flops_of_frozen_weights_are_left_out(zoo):
    model = zoo.built("linear")
    full = model.step_flops(CONTEXT, HORIZON)
    assert full == 3 * model.flops_per_window(CONTEXT, HORIZON)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert model.step_flops(CONTEXT, HORIZON) == 2 * model.flops_per_window(CONTEXT, HORIZON)


# Releases


@trainable_kinds
def test_a_release_has_the_loss_of_the_model_that_wrote_it(zoo, name, kind, tmp_path):
    model = zoo.built(name, seed=3).eval()
    model.save_release(tmp_path)
    loaded = family(name).load(tmp_path)
    assert not loaded.training
    batch = batch_of(model, name, kind)
    with torch.no_grad():
        assert torch.equal(model(batch).total, loaded(batch).total)


@forecast_kinds
def test_a_release_forecasts_as_the_model_that_wrote_it(zoo, name, kind, tmp_path):
    model = zoo.built(name, seed=3).eval()
    model.save_release(tmp_path)
    batch = batch_of(model, name, kind)
    assert torch.equal(forecast(model, batch), forecast(family(name).load(tmp_path), batch))


@every_family
def test_a_given_state_is_released_instead_of_the_models_own(zoo, name, tmp_path):
    model, averaged = zoo.built(name, seed=3), zoo.built(name, seed=4)
    model.save_release(tmp_path, averaged.state_dict())
    loaded = family(name).load(tmp_path).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in averaged.state_dict().items())


@every_family
def test_only_its_own_family_matches_a_release(zoo, name, tmp_path):
    zoo.built(name).save_release(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert [other for other in FAMILIES if family(other).matches(raw)] == [name]
    assert not family(name).matches({"model_type": "t5"})
