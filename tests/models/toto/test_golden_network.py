"""The network and its output against numbers recorded from the reference code."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from foretrain.models.toto.config import TotoConfig
from foretrain.models.toto.inputs import prepare
from foretrain.models.toto.model import TotoNetwork
from foretrain.models.toto.rotary import rotary_tables, rotate
from foretrain.models.toto.scaler import Scaler

pytestmark = pytest.mark.golden

EXACT, DENSITY = 5e-6, 2e-5
NAMES = {"df": "df", "loc": "loc_param", "scale": "scale_param", "weights": "mix_probs"}


def components(case, mixtures) -> dict[str, torch.Tensor]:
    """By their recorded names; a single Student-T was recorded without an axis of components and without weights."""
    found = {name: getattr(mixtures, ours) for ours, name in NAMES.items()}
    if case.network.config.components is None:
        del found["mix_probs"]
        return {name: value[..., 0] for name, value in found.items()}
    return found


@torch.no_grad()
def test_scaling_gives_the_recorded_numbers(case, apart):
    series, observed, _ = case.context
    inputs = prepare(case.network.scaler, series, observed, compat=True)
    assert apart(inputs.scaled, case.expected["scaled_input"]) < EXACT
    assert apart(inputs.statistics.loc, case.expected["loc"]) < EXACT
    assert apart(inputs.statistics.scale, case.expected["scale"]) < EXACT


@torch.no_grad()
def test_features_and_distributions_are_the_recorded_ones(case, apart):
    network = case.network
    hidden = network.hidden_states(case.expected["scaled_input"], case.layout, exogenous=case.exogenous)
    features = network.unembed(hidden).unflatten(-1, (network.config.patch_size, -1)).flatten(1, 2)
    assert apart(features, case.expected["backbone"]) < EXACT
    mixtures = network.mixtures(hidden).map(lambda x: x.flatten(1, 2))
    for name, value in components(case, mixtures).items():
        assert apart(value, case.expected[name]) < EXACT, name
    assert apart(mixtures.mean, case.expected["mean"]) < EXACT


@torch.no_grad()
def test_densities_are_the_recorded_ones(case, apart):
    hidden = case.network.hidden_states(case.expected["scaled_input"], case.layout, exogenous=case.exogenous)
    mixtures = case.network.mixtures(hidden).map(lambda x: x.flatten(1, 2))
    assert apart(mixtures.log_prob(case.expected["scaled_target"]), case.expected["log_prob"]) < DENSITY


@pytest.mark.parametrize("name", ["patch", "patch_plain", "patch_exp05", "causal", "causal_exp05", "std"])
@pytest.mark.parametrize("prefix", [None, 16])
def test_scalers_give_the_recorded_edge_cases(name, prefix, recorded, apart):
    parts = load_file(recorded / "parts.safetensors")
    kind = {"patch": "CausalPatchStdMeanScaler", "causal": "CausalStdMeanScaler", "std": "StdMeanScaler"}
    scaler = Scaler(
        kind[name.partition("_")[0]],
        8,
        stabilize=name not in ("patch_plain", "causal"),
        exponent=0.5 if name.endswith("exp05") else 10.0,
    )
    series, observed = (parts[f"scaler.{key}"].flatten(0, 1) for key in ("series", "padding_mask"))
    at = f"scaler.{name}" + (f".prefix{prefix}" if prefix else "")
    found = prepare(scaler, series, observed, prefix_length=prefix, compat=True)
    assert apart(found.statistics.loc, parts[f"{at}.loc"].flatten(0, 1)) < EXACT
    assert apart(found.statistics.scale, parts[f"{at}.scale"].flatten(0, 1)) < EXACT
    for row, expected in enumerate(parts[f"{at}.scaled"].flatten(0, 1)):  # of different sizes by far
        assert torch.equal(found.scaled[row], expected) or apart(found.scaled[row], expected) < EXACT


@pytest.mark.parametrize(("first", "count", "name"), [(0, 7, "off0"), (9, 7, "all_off9"), (9, 1, "one_off9")])
def test_rotations_with_decay_are_the_recorded_ones(first, count, name, recorded, apart):
    parts = load_file(recorded / "parts.safetensors")
    last = first + count - 1
    found = rotary_tables(torch.arange(first, last + 1).float(), 8, centre=float(last // 2))
    for part, turn in (("q", found.query), ("k", found.key)):
        assert apart(rotate(parts[f"rope.{part}"][..., :count, :], turn), parts[f"rope.{part}_{name}"]) < EXACT


@pytest.mark.parametrize("name", ["tiny", "tiny_with_labels", "Toto_Open_Base_1_0"])
def test_architectures_have_the_recorded_keys_and_sizes(name, recorded):
    keys = json.loads((recorded / "keys.json").read_text())
    raw = keys["base_config"] if name.startswith("Toto") else json.loads((recorded / "base/config.json").read_text())
    network = TotoNetwork.empty(TotoConfig.from_json(raw), "meta", labels=name.endswith("labels"))
    shapes = {TotoNetwork.published_name(key): list(value.shape) for key, value in network.state_dict().items()}
    assert shapes == keys[name]["published"]
    assert sum(parameter.numel() for parameter in network.parameters()) == keys[name]["parameters"]
