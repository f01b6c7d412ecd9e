"""The model contract: every family through every promise that the trainer, the evaluator and the forecaster rely on.

A new family adds one line to SMALL: the `model:` section of a model of some thousand parameters.
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
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from foretrain.config import build as build_section
from foretrain.data.windows import KNOWN, PAST, TARGET, Window, stack_windows
from foretrain.models import FAMILIES, family
from foretrain.models.base import Forecaster, move

SMALL = {
    "chronos2": {"random_init": True, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 2,
                 "patch_size": 4, "quantiles": [0.1, 0.5, 0.9], "initializer_factor": 1.0, "dropout_rate": 0.0},
}  # fmt: skip
CONTEXT, HORIZON, LEVELS = 24, 6, (0.1, 0.5, 0.9)
KINDS = ("univariate", "multivariate", "past covariate", "known covariate", "ragged", "missing")


def built(name: str, seed: int = 0, **changes) -> Forecaster:
    chosen = family(name)
    section = build_section(chosen.config(), {"family": name, **SMALL[name], **changes})
    model = chosen.build(section, context_length=CONTEXT, prediction_length=HORIZON, seed=seed)
    assert isinstance(model, Forecaster)
    return model


@pytest.fixture(params=FAMILIES)
def name(request) -> str:
    return request.param


def windows_of(kind: str, count: int = 4, seed: int = 0) -> list[Window]:
    """Windows with a future for every row, as an evaluator that knows the truth would hold them."""
    rng = np.random.default_rng([KINDS.index(kind), seed])
    made = []
    for i in range(count):
        rows = {"univariate": 1, "multivariate": 3, "ragged": 1 + i % 3}.get(kind, 2)
        steps = CONTEXT if kind != "ragged" else CONTEXT - 3 * i
        values = rng.standard_normal((rows, steps + HORIZON)).cumsum(1).astype(np.float32)
        if kind == "missing":
            values[rng.random(values.shape) < 0.3] = np.nan
            values[0, :9] = np.nan
        covariates = int("covariate" in kind)
        past = int(kind == "past covariate")
        made.append(Window(values[:, :steps], rows - covariates, past, values[:, steps:], item_id=f"{kind}{i}", key=i))
    return made


def batch_of(model: Forecaster, kind: str):
    return model.collate(stack_windows(windows_of(kind), HORIZON))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_flat_and_of_cpu_tensors(name, kind):
    batch = batch_of(built(name), kind)
    assert all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in batch.items())
    assert {value.device.type for value in batch.values()} == {"cpu"}
    assert move(batch, torch.device("meta")).keys() == batch.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_a_sum_whose_gradient_reaches_every_parameter(name, kind):
    model = built(name)
    model.train()
    total, weight = model(batch_of(model, kind))
    assert total.shape == weight.shape == ()
    assert torch.isfinite(total) and weight > 0 and not weight.requires_grad
    total.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_batch_sum_to_the_whole(name, kind):
    model, windows = built(name), windows_of(kind)
    whole = model(model.collate(stack_windows(windows, HORIZON)))
    parts = [model(model.collate(stack_windows(part, HORIZON))) for part in (windows[:1], windows[1:])]
    assert sum(p.total.item() for p in parts) == pytest.approx(whole.total.item(), rel=1e-4)
    assert sum(p.weight.item() for p in parts) == pytest.approx(whole.weight.item())


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 1000),
    change=st.sampled_from([np.nan, np.inf, -1e30, 0.0, 7.0]),
    which=st.sampled_from([TARGET, PAST]),
)
@pytest.mark.parametrize("name", FAMILIES)
def test_values_after_the_cutoff_change_only_labels(name, kind, seed, change, which):
    """Targets and past covariates beyond the cutoff reach no input, statistic or token; known covariates may."""
    model, windows = built(name), windows_of(kind, count=3, seed=seed)
    changed = []
    for window in windows:
        future = window.future.copy()
        future[window.roles == which] = change
        changed.append(replace(window, future=future))
    before, after = (model.collate(stack_windows(w, HORIZON)) for w in (windows, changed))
    assert before.keys() == after.keys()
    different = {key for key in before if not torch.equal(before[key].nan_to_num(), after[key].nan_to_num())}
    assert different <= ({"future_target"} if which == TARGET else set())
    with torch.no_grad():
        forecasts = [model.forecast(batch, HORIZON, LEVELS).quantiles for batch in (before, after)]
    assert torch.equal(*forecasts)


@pytest.mark.parametrize("kind", ["known covariate"])
def test_known_covariates_after_the_cutoff_do_reach_the_forecast(name, kind):
    """The control of the test above: it would notice a leak."""
    model, windows = built(name), windows_of(kind)
    changed = [replace(w, future=np.where((w.roles == KNOWN)[:, None], 9.0, w.future)) for w in windows]
    with torch.no_grad():
        before, after = (
            model.forecast(model.collate(stack_windows(w, HORIZON)), HORIZON, LEVELS) for w in (windows, changed)
        )
    assert not torch.allclose(before.quantiles, after.quantiles)


@pytest.mark.parametrize("kind", KINDS)
def test_a_forecast_has_the_targets_in_order_whatever_else_is_in_the_batch(name, kind):
    model, windows = built(name).eval(), windows_of(kind)
    with torch.no_grad():
        together = model.forecast(model.collate(stack_windows(windows, HORIZON)), HORIZON, LEVELS)
        alone = [model.forecast(model.collate(stack_windows([w], HORIZON)), HORIZON, LEVELS).quantiles for w in windows]
    assert together.levels == LEVELS
    assert together.quantiles.shape == (sum(w.num_targets for w in windows), HORIZON, len(LEVELS))
    assert torch.allclose(together.quantiles, torch.cat(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_collating_leaves_the_windows_as_they_were(name, kind):
    model, windows = built(name), stack_windows(windows_of(kind), HORIZON)
    kept = copy.deepcopy(windows)
    model(model.collate(windows)).total.backward()
    assert np.array_equal(windows.context, kept.context, equal_nan=True)
    assert np.array_equal(windows.future, kept.future, equal_nan=True)


def test_every_trainable_parameter_has_a_role(name):
    model = built(name)
    roles = model.parameter_groups()
    parameters = dict(model.named_parameters())
    assert roles.keys() == parameters.keys()
    for key, parameter in parameters.items():
        assert (roles[key].role == "vector") == (parameter.ndim == 1), key
    next(iter(parameters.values())).requires_grad_(False)
    assert len(model.parameter_groups()) == len(parameters) - 1


def test_blocks_are_the_models_own_and_apart(name):
    model = built(name)
    blocks = model.blocks()
    assert blocks and all(any(block is module for module in model.modules()) for block in blocks)
    held = [id(parameter) for block in blocks for parameter in block.parameters()]
    assert len(held) == len(set(held))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_recomputed_activations_give_the_same_gradients(name, dropout):
    grads = []
    for recompute in (False, True):
        model = built(name, dropout_rate=dropout).train()
        if recompute:
            for block in model.blocks():
                plain = block.forward
                block.forward = lambda *a, plain=plain, **k: checkpoint(plain, *a, use_reentrant=False, **k)
        torch.manual_seed(0)
        model(batch_of(model, "multivariate")).total.backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_release_forecasts_as_the_model_that_wrote_it(name, kind, tmp_path):
    model = built(name, seed=3).eval()
    model.save_release(tmp_path)
    batch = batch_of(model, kind)
    loaded = family(name).load(tmp_path)
    assert not loaded.training
    assert torch.equal(
        model.forecast(batch, HORIZON, LEVELS).quantiles, loaded.forecast(batch, HORIZON, LEVELS).quantiles
    )


def test_a_given_state_is_released_instead_of_the_models_own(name, tmp_path):
    model, averaged = built(name, seed=3), built(name, seed=4)
    model.save_release(tmp_path, averaged.state_dict())
    loaded = family(name).load(tmp_path).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in averaged.state_dict().items())


def test_a_release_belongs_to_its_family_alone(name, tmp_path):
    built(name).save_release(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert [other for other in FAMILIES if family(other).matches(raw)] == [name]
    assert not family(name).matches({"model_type": "t5"})


def test_the_seed_decides_the_weights(name):
    first, again, other = (torch.nn.utils.parameters_to_vector(built(name, seed=s).parameters()) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("kind", ["univariate", "multivariate"])
def test_the_operations_claimed_are_those_done(name, kind):
    """Against torch's own count of the plain layers; element-wise work is not counted by either."""
    model, windows = built(name).double().eval(), windows_of(kind)
    batch = model.collate(stack_windows(windows, HORIZON))
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        model(batch)
    claimed = len(windows) * model.flops_per_window(CONTEXT, HORIZON, len(windows[0].context))
    assert claimed == pytest.approx(counted.get_total_flops(), rel=0.03)


def test_lengths_are_told(name):
    model = built(name)
    assert model.max_context_length == CONTEXT
    assert 1 <= model.bucket_length <= CONTEXT
