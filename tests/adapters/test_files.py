"""Adapter folders in PEFT's format; the merged numbers are checked by the golden tests."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from foretrain.errors import ForetrainError, ModelError
from foretrain.forecasting.predictor import load


@pytest.fixture
def adapter(golden_folder, tmp_path):
    for name in ("model", "lora_adapter"):
        shutil.copytree(golden_folder / name, tmp_path / name)
        (tmp_path / name).chmod(0o755)
        for path in (tmp_path / name).iterdir():
            path.chmod(0o644)
    return tmp_path / "lora_adapter"


def change(folder, **config):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


@pytest.mark.parametrize(("rslora", "scaling"), [(False, 8 / 4), (True, 8 / 2)])
def test_the_update_is_scaled_as_its_config_says(adapter, predictor, rslora, scaling):
    change(adapter, use_rslora=rslora)
    updates = load_file(adapter / "adapter_model.safetensors")
    name = "encoder.block.1.layer.0.self_attention.v"
    up, down = (updates[f"base_model.model.{name}.lora_{x}.weight"] for x in "BA")
    merged = load(adapter, device="cpu").network.get_parameter(f"{name}.weight")
    torch.testing.assert_close(merged, predictor.network.get_parameter(f"{name}.weight") + scaling * up @ down)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "only LORA"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"base_model_name_or_path": None}, "names no base model"),
        ({"base_model_name_or_path": "./nowhere"}, "no such folder"),
        ({"base_model_name_or_path": [1]}, "base_model_name_or_path is no text"),
        ({"revision": 5}, "revision is no text"),
        ({"r": 0}, "r is no positive number"),
        ({"r": None}, "r is no positive number"),
        ({"lora_alpha": "8"}, "lora_alpha is no positive number"),
        ({"lora_alpha": float("inf")}, "the number Infinity is not finite"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused(adapter, config, message):
    change(adapter, **config)
    with pytest.raises(ModelError, match=message):
        load(adapter)


def test_an_adapter_of_another_model_is_refused(adapter):
    path = adapter / "adapter_model.safetensors"
    updates = {name.replace("encoder", "decoder"): tensor for name, tensor in load_file(path).items()}
    save_file(updates, path)
    with pytest.raises(ModelError, match="does not fit its base model"):
        load(adapter)


def test_a_damaged_adapter_is_refused(adapter):
    (adapter / "adapter_model.safetensors").write_bytes(b"\0" * 50)
    with pytest.raises(ModelError, match="cannot read adapter_model"):
        load(adapter)


def rewrite(folder, **tensors):
    path = folder / "adapter_model.safetensors"
    save_file(load_file(path) | {f"base_model.model.{name}": value for name, value in tensors.items()}, path)


BIAS = "output_patch_embedding.output_layer.bias"


def test_a_fully_trained_layer_replaces_that_of_the_base(adapter, predictor):
    change(adapter, modules_to_save=["output_patch_embedding.output_layer"])
    bias = predictor.network.get_parameter(BIAS) + 1
    rewrite(adapter, **{BIAS: bias})
    network = load(adapter, device="cpu").network
    torch.testing.assert_close(network.get_parameter(BIAS), bias)


@pytest.mark.parametrize(
    ("name", "modules", "message"),
    [
        (BIAS, ["output_patch_embedding"], "output_layer.bias does not fit its base model"),
        ("nowhere.bias", ["nowhere"], r"nowhere\.bias does not fit its base model"),
        (BIAS, None, "not pairs of lora_A and lora_B"),
    ],
)
def test_a_fully_trained_layer_that_does_not_fit_is_refused(adapter, name, modules, message):
    change(adapter, modules_to_save=modules)
    rewrite(adapter, **{name: torch.ones(3)})
    with pytest.raises(ModelError, match=message):
        load(adapter)


@pytest.mark.parametrize(
    "facts",
    [
        {"adapter": []},
        {"adapter": 5},
        {"adapter": {"base": []}},
        {"adapter": {"base": {}}},
        {"adapter": {"base": {"model": {"family": "x"}}}},
        {"adapter": {"fresh": 5}},
    ],
)
def test_a_record_whose_values_are_of_other_types_is_one_line(adapter, facts):
    (adapter / "release.json").write_text(json.dumps(facts))
    if facts == {"adapter": []}:  # as good as none
        load(adapter)
        return
    with pytest.raises(ForetrainError) as raised:
        load(adapter)
    assert "\n" not in str(raised.value)
