"""Releases on disk: the files we write, and damaged files that we refuse."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from foretrain.errors import ModelError
from foretrain.models.chronos2.model import Chronos2Network


@pytest.fixture
def release(tmp_path, network_of, small_config):
    network_of(small_config).write_release(tmp_path)
    return tmp_path


def test_a_release_restores_the_weights_and_the_config(release, network_of, small_config):
    network = Chronos2Network.read_release(release)
    assert network.config == small_config
    for ours, theirs in zip(network.parameters(), network_of(small_config).parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_release_has_the_keys_by_which_the_official_loader_dispatches(release):
    raw = json.loads((release / "config.json").read_text())
    assert raw["architectures"] == ["Chronos2Model"]
    assert raw["chronos_pipeline_class"] == "Chronos2Pipeline"
    assert raw["dtype"] == "float32"
    with safe_open(release / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_given_state_is_written_instead_of_the_weights(tmp_path, network_of, small_config):
    network, other = network_of(small_config), network_of(small_config, seed=1)
    network.write_release(tmp_path, other.state_dict())
    assert torch.equal(Chronos2Network.read_release(tmp_path).shared.weight, other.shared.weight)


def test_half_precision_files_are_read_as_float32_and_a_written_config_states_its_dtype(
    tmp_path, network_of, small_config
):
    network = network_of(small_config).bfloat16()
    network.write_release(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert load_file(tmp_path / "model.safetensors")["shared.weight"].dtype == torch.bfloat16
    back = Chronos2Network.read_release(tmp_path)
    assert back.shared.weight.dtype == torch.float32
    back.write_release(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"


def test_weights_in_several_files_are_read_through_their_index(release, network_of, small_config):
    weights = load_file(release / "model.safetensors")
    (release / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, release / file)
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (release / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(Chronos2Network.read_release(release).shared.weight, network_of(small_config).shared.weight)


def damage(folder, how: str) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    if how == "garbage":
        path.write_bytes(b"not safetensors")
    if how == "absent":
        path.unlink()
    if how == "missing key":
        weights.pop("shared.weight")
        save_file(weights, path)
    if how == "unknown key":
        save_file(weights | {"extra.weight": torch.zeros(1)}, path)
    if how == "other shape":
        save_file(weights | {"shared.weight": torch.zeros(2, 3)}, path)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("truncated", "damaged"),
        ("garbage", "damaged"),
        ("absent", "no such file"),
        ("missing key", "lacks shared.weight"),
        ("unknown key", "unknown extra.weight"),
        ("other shape", r"shared.weight has shape \(2, 3\), config.json needs \(2, 24\)"),
    ],
)
def test_damaged_weights_are_refused_in_one_line(release, how, said):
    damage(release, how)
    with pytest.raises(ModelError, match=said) as error:
        Chronos2Network.read_release(release)
    assert str(release) in str(error.value) and "\n" not in str(error.value)
