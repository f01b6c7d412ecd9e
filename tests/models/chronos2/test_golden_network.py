"""The network against numbers recorded from chronos-forecasting 2.3.2."""

from __future__ import annotations

import copy
import json
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from tests.tolerance import assert_near, rounding

from foretrain.models.chronos2.config import Chronos2Config
from foretrain.models.chronos2.model import Chronos2Network

pytestmark = pytest.mark.golden

CASES = ("uni", "uni_nopred", "uni_masks", "uni_long", "uni_manypatches", "grp", "grp_fulltarget", "grp_fcmask",
         "grp_shuffled", "grp_all")  # fmt: skip
EXACT, FORECAST = 1e-5, 5e-5
STEP = 1e-5  # of central differences: its square is the error of the formula, 1e-16 / STEP that of float64


def arguments(case: dict[str, torch.Tensor]) -> dict:
    found = {name[3:]: value for name, value in case.items() if name.startswith("in.")}
    return found | {"num_output_patches": int(found["num_output_patches"])}


@pytest.mark.parametrize("name", CASES)
def test_forward_gives_the_recorded_numbers(name, cases, recorded_network, apart):
    case = cases[name]
    with torch.no_grad():
        out = recorded_network(**arguments(case))
    assert out.quantile_preds.shape == case["out.quantile_preds"].shape
    assert apart(out.quantile_preds, case["out.quantile_preds"]) < FORECAST
    assert apart(out.loc, case["out.loc"]) < EXACT
    assert apart(out.scale, case["out.scale"]) < EXACT
    assert (out.loss is None) == ("out.loss" not in case)
    if out.loss is not None:
        assert apart(out.loss, case["out.loss"][0]) < EXACT


@pytest.mark.parametrize("name", CASES)
def test_double_precision_by_plain_layers_gives_them_too(name, cases, recorded_network, apart):
    case = cases[name]
    network = copy.deepcopy(recorded_network).double()
    with torch.no_grad():
        out = network(**arguments(case))
    assert apart(out.quantile_preds, case["out.quantile_preds"]) < FORECAST


@pytest.mark.parametrize("name", ["uni", "grp"])
def test_hidden_states_of_observed_slots_are_the_recorded_ones(name, cases, recorded_network, apart):
    case = cases[name]
    call = {k: v for k, v in arguments(case).items() if not k.startswith("future_target")}
    with torch.no_grad():
        covariates = (call.get("future_covariates"), None, call["num_output_patches"])
        inputs, order = recorded_network.arranged(call["context"], None, call.get("group_ids"), *covariates)
        back = slice(None) if order is None else torch.argsort(order)
        seen = case["out.patch_mask"].bool()
        full = torch.cat((seen, torch.ones(len(seen), 1 + call["num_output_patches"], dtype=torch.bool)), 1)
        assert (inputs.patch_mask[back] == seen).all()
        hidden, ctx = recorded_network.embed_tokens(inputs), recorded_network.attention_context(inputs)
        patches = seen.shape[1]
        assert apart(hidden[back][:, :patches][seen], case["mid.input_patch_embedding.0"][seen]) < EXACT
        assert apart(hidden[back][:, patches + 1 :], case["mid.input_patch_embedding.1"]) < EXACT
        for i, block in enumerate(recorded_network.encoder.block):
            for layer, part in ((0, "time_attn"), (1, "group_attn")):
                hidden = block.layer[layer](hidden, ctx)
                assert apart(hidden[back][full], case[f"mid.block.{i}.{part}"][full]) < EXACT
            hidden = block.layer[2](hidden)
            assert apart(hidden[back][full], case[f"mid.block.{i}.out"][full]) < EXACT
        last = recorded_network.encode(call["context"], None, call.get("group_ids"), *covariates).hidden
        assert apart(last[full], case["mid.encoder.last_hidden_state"][full]) < EXACT


@pytest.mark.parametrize("name", ["uni", "grp"])
def test_gradients_are_the_recorded_ones(name, cases, recorded_network, apart):
    case = cases[name]
    recorded_network.zero_grad()
    recorded_network(**arguments(case)).loss.backward()
    for key, parameter in recorded_network.named_parameters():
        assert parameter.grad is not None, f"{key} has no gradient"
        if key.startswith("input_patch_embedding"):
            continue  # the recording took the embedding's outputs out of the graph, so its norms read 0 there
        assert apart(parameter.grad.norm(), case[f"grad_norm.{key}"].squeeze()) < EXACT, key
        if f"grad.{key}" in case:
            assert apart(parameter.grad, case[f"grad.{key}"]) < EXACT, key
    recorded_network.zero_grad()


@torch.no_grad()
def plain_loss(network: Chronos2Network, case: dict[str, torch.Tensor]) -> float:
    """Of a float64 network's forecasts: 2 * pinball of scaled values, summed over levels, by all rows and steps."""
    given = arguments(case)
    with mock.patch.object(network, "pinball", wraps=network.pinball) as seen:
        out = network(**given)
    scaled = seen.call_args.args[0]  # (R, Q, steps) float64; what the network returns in the data's units is float32
    target, known = given["future_target"].double(), given.get("future_covariates")
    scored = ~target.isnan() if known is None else ~target.isnan() & known.isnan()
    away = ((target - out.loc) / out.scale).arcsinh()[:, None] - scaled[..., : target.shape[1]]
    levels = torch.tensor(network.config.quantiles, dtype=torch.float64)[:, None]
    pinball = torch.where(scored[:, None], torch.maximum(levels * away, (levels - 1) * away), 0.0)
    return (2 * pinball.sum() / len(target) / scaled.shape[-1]).item()


@pytest.mark.parametrize("name", ["uni", "grp"])
def test_gradients_of_the_patch_embedding_are_the_slopes_of_the_loss(name, cases, recorded_network):
    """The recording lacks them, but its loss is the plain one: by differences of that one along each gradient."""
    case = cases[name]

    def gradients(network: Chronos2Network) -> dict[str, torch.Tensor]:
        network.zero_grad()
        network(**arguments(case)).loss.backward()
        named = network.input_patch_embedding.named_parameters()
        return {key: parameter.grad for key, parameter in named if parameter.grad is not None}

    exact, moved = rounding(gradients, recorded_network)
    wide = copy.deepcopy(recorded_network).double()
    parameters = dict(wide.input_patch_embedding.named_parameters())
    assert exact.keys() == parameters.keys()

    @torch.no_grad()
    def loss_at(key: str, place: torch.Tensor) -> float:
        kept = parameters[key].clone()
        parameters[key].copy_(place)
        loss = plain_loss(wide, case)
        parameters[key].copy_(kept)
        return loss

    assert plain_loss(wide, case) == pytest.approx(case["out.loss"].item(), rel=EXACT)
    for key, gradient in exact.items():
        place, along = parameters[key].detach().clone(), gradient / gradient.norm()
        slope = (loss_at(key, place + STEP * along) - loss_at(key, place - STEP * along)) / (2 * STEP)
        assert slope == pytest.approx(gradient.norm().item(), rel=1e-6), key
    for key, gradient in gradients(recorded_network).items():
        assert_near(gradient, exact[key], moved[key], key)
    recorded_network.zero_grad()


def test_attention_weights_of_observed_slots_are_the_recorded_ones(recorded, recorded_network, apart):
    case = load_file(recorded / "attentions.safetensors")
    with torch.no_grad():
        out = recorded_network(**arguments(case), output_attentions=True)
    assert apart(out.quantile_preds, case["out.quantile_preds"]) < FORECAST
    patches = recorded_network.config.patch_size
    seen = ~case["in.context"].isnan()
    seen = torch.nn.functional.pad(seen, (-seen.shape[1] % patches, 0)).unflatten(1, (-1, patches)).any(-1)
    seen = torch.cat((seen, torch.ones(len(seen), 3, dtype=torch.bool)), 1)  # REG and two future patches
    for i in range(recorded_network.config.num_layers):
        time, group = out.time_attentions[i], out.group_attentions[i]
        rows = seen[:, None, :].expand(time.shape[:3])
        assert apart(time[rows], case[f"out.time_attn.{i}"][rows]) < EXACT
        rows = seen.T[:, None, :].expand(group.shape[:3])
        assert apart(group[rows], case[f"out.group_attn.{i}"][rows]) < EXACT


@pytest.mark.parametrize(
    ("name", "count"), [("amazon/chronos-2", 119_477_664), ("autogluon/chronos-2-small", 28_262_560)]
)
def test_published_architectures_have_the_recorded_keys_and_sizes(name, count, recorded):
    keys = json.loads((recorded / "keys.json").read_text())[name]["state_dict"]
    shape = {"base": (768, 3072, 12, 12), "small": (512, 2048, 6, 8)}["small" if "small" in name else "base"]
    config = Chronos2Config(
        context_length=8192,
        input_patch_size=16,
        output_patch_size=16,
        quantiles=(0.01, *[i / 20 for i in range(1, 20)], 0.99),
        use_reg_token=True,
        use_arcsinh=True,
        d_model=shape[0],
        d_ff=shape[1],
        num_layers=shape[2],
        num_heads=shape[3],
    )
    network = Chronos2Network.empty(config, "meta")
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == keys
    assert sum(parameter.numel() for parameter in network.parameters()) == count
