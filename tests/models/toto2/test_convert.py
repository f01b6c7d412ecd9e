"""Release folders and random initialisation."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from foretrain.errors import ModelError
from foretrain.models.toto2.config import Toto2Config
from foretrain.models.toto2.model import Toto2Network


@pytest.fixture
def folder(recorded):
    return recorded / "like4m"


def test_a_release_is_written_as_it_was_read(folder, tmp_path):
    Toto2Network.read_release(folder).write_release(tmp_path)
    theirs, ours = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads((folder / "config.json").read_text())


def test_weights_in_several_files_are_found_by_their_index(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    files = {"model-1.safetensors": names[:20], "model-2.safetensors": names[20:]}
    for file, part in files.items():
        save_file({name: weights[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    found = Toto2Network.read_release(tmp_path).state_dict()
    assert all(torch.equal(found[name], weights[name]) for name in names)


def test_a_missing_tensor_is_an_error(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.layers.1.attn_tau"]
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ModelError, match=r"lacks transformer\.layers\.1\.attn_tau"):
        Toto2Network.read_release(tmp_path)


@pytest.mark.parametrize("name", ["like4m", "other"])
def test_random_weights_have_unit_variance_and_the_constants_of_the_recorded_model(recorded, name):
    config = Toto2Config.read(recorded / name / "config.json")
    network = Toto2Network.empty(config)
    network.initialise(0)
    matrices = torch.cat([p.detach().flatten() for p in network.parameters() if p.ndim == 2])
    assert matrices.mean().abs() < 0.02 and matrices.std() == pytest.approx(1, abs=0.02)
    for key, parameter in network.named_parameters():
        if parameter.ndim == 1:
            assert torch.all(parameter == (1.0 if "norm" in key else 0.0)), key
    stored = Toto2Network.read_release(recorded / name)
    for (key, ours), (_, theirs) in zip(network.named_buffers(), stored.named_buffers(), strict=True):
        assert ours == pytest.approx(theirs.item(), rel=1e-6), key


def test_a_random_network_keeps_activations_at_unit_scale(recorded):
    """The purpose of u-muP's constants."""
    network = Toto2Network.empty(Toto2Config.read(recorded / "like4m" / "config.json"))
    network.initialise(0)
    values = torch.randn(64, 10, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = network.embed(values, torch.rand(64, 80) > 0.5)
    assert hidden.std() == pytest.approx(1, abs=0.3)
