"""Parts, forward passes, loss and gradients against numbers recorded from the reference code."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from foretrain.models.toto2.config import LEVELS, Toto2Config, Toto2ModelConfig
from foretrain.models.toto2.layers import SILU_SCALE, QueryScale, residual_tau
from foretrain.models.toto2.model import Toto2Network, pinball
from foretrain.models.toto2.rotary import rotary_tables, rotate
from foretrain.models.toto2.scaler import fill_gaps, scale_patches

CLOSE = 2e-6  # of the largest value


@pytest.mark.parametrize("least", [0, 1, 8, 20])
def test_statistics_equal_the_references(parts, apart, least):
    target, mask = parts["scaler.target"].flatten(0, 1), parts["scaler.mask"].flatten(0, 1)
    found = scale_patches(target, mask, 8, least)
    name = f"scaler.fallback{least}" if least else "scaler"
    for what, ours in (("loc", found.loc), ("scale", found.scale)):
        assert apart(ours, parts[f"{name}.{what}"].flatten(0, 1)[:, ::8]) < CLOSE
    if not least:
        assert apart(found.values.sinh().flatten(1), parts["scaler.scaled"].flatten(0, 1)) < CLOSE


@pytest.mark.parametrize(("suffix", "start", "centre"), [("", 0, 3), ("_ids9", 9, 8)])
def test_rotary_tables_equal_the_references(parts, apart, suffix, start, centre):
    x = parts["rope.x"]
    plain, scaled = (rotary_tables(start, 7, 8, c, x.device) for c in (None, centre))
    assert apart(rotate(x, plain.query), parts[f"rope.plain{suffix}"]) < CLOSE
    assert apart(rotate(x, plain.key), parts[f"rope.plain{suffix}"]) < CLOSE
    assert apart(rotate(x, scaled.query), parts[f"rope.xpos_q{suffix}"]) < CLOSE
    assert apart(rotate(x, scaled.key), parts[f"rope.xpos_k{suffix}"]) < CLOSE


def test_operators_equal_the_references(parts, apart, recorded):
    assert apart(F.silu(parts["op.x"]) * SILU_SCALE, parts["op.silu"]) < CLOSE
    scale = QueryScale(8)
    scale.per_dim_scale.data = parts["op.per_dim_scale_param"]
    assert apart(scale(parts["rope.x"]), parts["op.per_dim_scale_out"]) < CLOSE
    config = Toto2Config.read(recorded / "like4m" / "config.json")
    taus = torch.tensor([residual_tau(config, index) for index in range(8)], dtype=torch.float64)
    assert apart(taus, parts["op.tau_4_layers"]) < 1e-12


@pytest.mark.parametrize("how", ["ffill", "linear"])
def test_gaps_are_filled_as_the_reference_does_from_the_first_value_on(parts, how):
    given = parts["impute.in"]
    found = fill_gaps(given, how)
    assert torch.equal(found.nan_to_num(0.0), parts[f"impute.{how}"])
    assert torch.equal(found.isnan(), given.nan_to_num(0.0).cumsum(1) == 0)


@pytest.mark.parametrize("name", ["ones", "cpm"])
def test_a_training_pass_equals_the_references(case, apart, name):
    with torch.no_grad():
        found = case.forward(~case.inputs["cpm_mask"] if name == "cpm" else None)
    assert apart(case.back(found.quantiles), case.expected[f"forward_{name}.quantiles"]) < CLOSE
    for what, ours in (("loc", found.scaled.loc), ("scale", found.scaled.scale)):
        assert apart(ours, case.expected[f"forward_{name}.{what}"].flatten(0, 1)[:, ::8]) < CLOSE


def test_the_last_tokens_computed_alone_are_the_same(case, apart):
    with torch.no_grad():
        found = case.forward(~case.inputs["cpm_mask"], keep=2)
    assert apart(case.back(found.quantiles), case.expected["forward_cpm_last2.quantiles"]) < CLOSE


def test_loss_and_gradients_are_the_recorded_ones(case, apart):
    """Each token's quantiles against the patch after it, scaled as the token's own patch was."""
    case.network.zero_grad()
    found = case.forward(~case.inputs["cpm_mask"])
    loc, scale = (x[:, :-1, None] for x in (found.scaled.loc, found.scaled.scale))
    after = case.inputs["target"].flatten(0, 1).unflatten(-1, (-1, 8))[:, 1:]
    target = ((after - loc) / scale).asinh().float()
    assert apart(target, case.expected["loss.target"].flatten(0, 1)) < CLOSE
    scored = case.inputs["target_mask"].flatten(0, 1).unflatten(-1, (-1, 8))[:, 1:]
    loss = pinball(found.quantiles[:, :-1], target, scored).total / scored.sum()
    assert loss.item() == pytest.approx(case.expected["loss"].item(), rel=CLOSE)
    loss.backward()
    parameters = dict(case.network.named_parameters())
    assert parameters.keys() == case.grads.keys()
    for name, parameter in parameters.items():
        assert apart(parameter.grad, case.grads[name]) < CLOSE, name


def test_names_and_shapes_are_the_published_ones(recorded):
    for name, facts in json.loads((recorded / "keys.json").read_text()).items():
        config = Toto2Config.from_json(facts["config"])
        network = Toto2Network.empty(config, "meta")
        ours = {key: list(value.shape) for key, value in network.state_dict().items()}
        theirs = facts["state_dict"]
        left_out = {key for key in ours.keys() - theirs.keys() if key.startswith("transformer.layers.")}
        assert len(left_out) == 0 or "note" in facts
        assert {key: shape for key, shape in ours.items() if key not in left_out} == theirs
        assert sum(p.numel() for p in network.parameters()) == facts["parameters"]
        if not name.startswith("tiny"):
            assert Toto2ModelConfig.published_architecture(f"Datadog/{name}") == config
    assert tuple(round(0.1 * i, 1) for i in range(1, 10)) == LEVELS
