"""config.json in and out, and the model section of a run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from foretrain.config import build as build_section
from foretrain.errors import ConfigError, ModelError
from foretrain.models.chronos2.config import QUANTILES, Chronos2Config, Chronos2ModelConfig
from foretrain.models.chronos2.forecaster import Chronos2

TINY = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 2, "patch_size": 8}


def minimal(**nested) -> dict:
    return {"chronos_config": {"context_length": 64, "input_patch_size": 8, "output_patch_size": 8,
                               "quantiles": [0.1, 0.5, 0.9], **nested}}  # fmt: skip


def test_the_recorded_config_survives_a_round_trip(recorded):
    raw = json.loads((recorded / "model" / "config.json").read_text())
    assert Chronos2Config.from_json(raw).to_json() == raw


def test_unknown_keys_are_kept():
    raw = minimal(novel=1) | {"mystery": {"a": [1]}}
    written = Chronos2Config.from_json(raw).to_json()
    assert written["mystery"] == {"a": [1]}
    assert written["chronos_config"]["novel"] == 1


def test_absent_keys_have_upstreams_defaults():
    config = Chronos2Config.from_json(minimal())
    assert (config.d_model, config.num_layers, config.d_ff, config.dropout_rate) == (512, 6, 2048, 0.1)
    assert (config.use_reg_token, config.use_arcsinh, config.max_output_patches) == (False, False, 1)
    assert config.time_encoding_scale == 64
    assert config.to_json()["chronos_config"]["input_patch_stride"] == 8


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"d_model": 8}, "chronos_config"),
        ({"chronos_config": {"context_length": 8}}, "input_patch_size"),
        (minimal(output_patch_size=4), "must be equal"),
        (minimal(quantiles=[0.5, 0.1]), "increasing"),
        (minimal(quantiles=[0.0, 0.1]), "between 0 and 1"),
        (minimal(context_length=0), "context_length"),
        (minimal() | {"d_kv": 7}, "even"),
        (minimal() | {"d_model": "wide"}, "d_model"),
        (minimal() | {"feed_forward_proj": "gated-gelu"}, "relu"),
        (minimal() | {"is_gated_act": True}, "gated"),
        (minimal() | {"dropout_rate": 1.0}, "dropout_rate"),
        (minimal(quantiles=5), "config.json"),
    ],
)
def test_impossible_configs_are_refused_in_one_line(raw, said):
    with pytest.raises(ModelError, match=said) as error:
        Chronos2Config.from_json(raw)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{", "[1]", '{"chronos_config": null}'])
def test_a_damaged_file_is_named(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ModelError, match="config"):
        Chronos2Config.read(path)


def test_resizing_raises_the_horizon_and_keeps_the_time_scale(small_config):
    grown = small_config.resized(context_length=512, prediction_length=100)
    assert (grown.context_length, grown.max_output_patches) == (512, 25)
    assert grown.time_encoding_scale == small_config.time_encoding_scale
    assert small_config.resized(prediction_length=1).max_output_patches == 4


def test_presets_are_the_published_architectures():
    base = Chronos2ModelConfig(random_init=True, preset="base").architecture(2048, 64)
    assert (base.d_model, base.d_ff, base.num_layers, base.num_heads) == (768, 3072, 12, 12)
    assert base.quantiles == QUANTILES and len(QUANTILES) == 21
    assert (base.context_length, base.time_encoding_scale, base.max_output_patches) == (2048, 8192, 64)


def test_the_section_follows_the_runs_lengths():
    config = Chronos2ModelConfig(random_init=True, max_output_patches=2, **TINY)
    made = config.architecture(100, 50)
    assert (made.context_length, made.max_output_patches) == (100, 7)


def test_a_section_needs_one_source_of_weights():
    for section in (Chronos2ModelConfig(), Chronos2ModelConfig(random_init=True, model_id="somewhere")):
        with pytest.raises(ConfigError, match="model_id"):
            Chronos2.build(section, context_length=64, prediction_length=8, seed=0)


def test_unknown_keys_of_the_section_are_errors():
    with pytest.raises(ConfigError, match="num_layers"):
        build_section(Chronos2ModelConfig, {"num_layer": 2})


def test_a_checkpoints_context_and_horizon_follow_the_run(recorded):
    section = Chronos2ModelConfig(model_id=str(recorded / "model"), dropout_rate=0.25)
    model = Chronos2.build(section, context_length=256, prediction_length=100, seed=0)
    assert model.config.context_length == 256
    assert model.config.max_output_patches == 13
    assert model.config.time_encoding_scale == 96
    assert model.network.encoder.dropout == 0.25
    kept = Chronos2.build(Chronos2ModelConfig(model_id=str(recorded / "model"), context_length=40), context_length=256,
                 prediction_length=8, seed=0)  # fmt: skip
    assert (kept.config.context_length, kept.config.max_output_patches) == (40, 4)


def test_architecture_keys_may_repeat_a_checkpoints_but_not_contradict_them(recorded):
    path = str(recorded / "model")
    section = Chronos2ModelConfig(model_id=path, d_model=32, num_layers=2)
    same = Chronos2.build(section, context_length=64, prediction_length=8, seed=0)
    assert same.config.d_model == 32
    with pytest.raises(ModelError, match="num_layers is 3 here and 2 there"):
        Chronos2.build(Chronos2ModelConfig(model_id=path, num_layers=3), context_length=64, prediction_length=8, seed=0)


def test_the_seed_alone_decides_random_weights():
    section = Chronos2ModelConfig(random_init=True, **TINY)

    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(99)  # the global generator must not matter
        model = Chronos2.build(section, context_length=64, prediction_length=8, seed=seed)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_random_weights_have_upstreams_scales():
    section = Chronos2ModelConfig(random_init=True, d_model=256, d_kv=64, d_ff=512, num_layers=1, num_heads=2)
    network = Chronos2.build(section, context_length=64, prediction_length=8, seed=0).network
    attention = network.encoder.block[0].layer[0].self_attention
    mlp = network.encoder.block[0].layer[2].mlp
    expected = {
        attention.q.weight: (256 * 64) ** -0.5,
        attention.k.weight: 256**-0.5,
        attention.o.weight: 128**-0.5,
        mlp.wo.weight: 512**-0.5,
        network.input_patch_embedding.hidden_layer.weight: 48**-0.5,
        network.output_patch_embedding.output_layer.weight: 512**-0.5,
    }
    for weight, scale in expected.items():
        assert weight.std().item() == pytest.approx(0.05 * scale, rel=0.05)
    assert network.input_patch_embedding.hidden_layer.bias.abs().max() == 0
    assert (network.encoder.final_layer_norm.weight == 0.05).all()


def test_a_model_is_built_without_memory_on_the_meta_device(recorded):
    section = Chronos2ModelConfig(random_init=True, preset="base")
    model = Chronos2.build(section, context_length=8192, prediction_length=1024, seed=0, device="meta")
    assert all(parameter.is_meta for parameter in model.parameters())
    section = Chronos2ModelConfig(model_id=str(recorded / "model"))
    stored = Chronos2.build(section, context_length=64, prediction_length=8, seed=0, device="meta")
    assert stored.network.shared.weight.is_meta


def test_problems_are_all_named_at_once(small_config):
    with pytest.raises(ModelError, match=r"num_layers.*dropout_rate"):
        replace(small_config, num_layers=0, dropout_rate=2.0)
