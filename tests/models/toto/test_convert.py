"""Releases: every published form is read, the current one is written."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from foretrain.errors import ModelError
from foretrain.models.toto.model import TotoNetwork


@pytest.fixture
def release(tmp_path, recorded):
    """A copy of a recorded release with changed weights."""

    def made(name: str, change) -> object:
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(recorded / name / "config.json", folder)
        save_file(change(load_file(recorded / name / "model.safetensors")), folder / "model.safetensors")
        return folder

    return made


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def unfused(weights: dict) -> dict:
    return {n.replace("mlp.0.w12", "mlp.0").replace("mlp.0.w3", "mlp.2"): w for n, w in weights.items()}


@pytest.mark.golden
@pytest.mark.parametrize("name", ["base", "exog"])
def test_a_release_is_written_as_it_was_read(name, recorded, tmp_path):
    TotoNetwork.read_release(recorded / name).write_release(tmp_path)
    written, original = (load_file(folder / "model.safetensors") for folder in (tmp_path, recorded / name))
    assert written.keys() == original.keys()
    assert all(torch.equal(written[key], original[key]) for key in written)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (tmp_path, recorded / name)]
    assert configs[0] == configs[1]


@pytest.mark.golden
def test_names_written_without_xformers_are_read(release, recorded):
    keys = json.loads((recorded / "keys.json").read_text())["tiny_with_labels"]
    folder = release("exog", unfused)
    assert load_file(folder / "model.safetensors").keys() == keys["without_xformers"].keys()
    assert same(TotoNetwork.read_release(folder), TotoNetwork.read_release(recorded / "exog"))


def test_constants_of_older_files_are_left_out(release, recorded):
    extra = {f"model.transformer.layers.0.attention.rotary_emb.{n}": torch.ones(4) for n in ("freqs", "scale")}
    assert same(
        TotoNetwork.read_release(release("base", lambda w: w | extra)), TotoNetwork.read_release(recorded / "base")
    )


def test_labels_exist_if_the_file_has_them_or_on_request(recorded):
    assert TotoNetwork.read_release(recorded / "exog").labels == 1
    assert TotoNetwork.read_release(recorded / "base").labels == 0
    assert TotoNetwork.read_release(recorded / "exog", labels=False).labels == 0
    fresh = [
        TotoNetwork.read_release(recorded / "base", labels=True, seed=seed).target_variate_label for seed in (0, 0, 1)
    ]
    assert torch.equal(fresh[0], fresh[1]) and not torch.equal(fresh[0], fresh[2])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: {n: t for n, t in w.items() if "unembed.bias" not in n}, "lacks unembed.bias"),
        (lambda w: {n: t for n, t in w.items() if "target_var" not in n}, "lacks target_variate_label"),
        (lambda w: w | {"model.more": torch.ones(1)}, "has unknown more"),
        (lambda w: w | {"model.unembed.bias": torch.ones(3)}, r"unembed.bias has shape \(3,\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(release, change, words):
    with pytest.raises(ModelError, match=words):
        TotoNetwork.read_release(release("exog", change))


def test_random_weights_are_torchs_default(network_of, small_config):
    network = network_of(small_config, labels=True).requires_grad_(False)
    assert (network.transformer.layers[0].norm1.scale == 1).all()
    assert network.unembed.weight.abs().max() <= small_config.embed_dim**-0.5
    assert network.unembed.weight.std() == pytest.approx((3 * small_config.embed_dim) ** -0.5, rel=0.05)
    assert 0.5 < network.target_variate_label.std() < 1.6
