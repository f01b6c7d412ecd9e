"""config.json of Toto 2.0, presets, and the `model:` section of a run."""

from __future__ import annotations

import json
import math

import pytest

from foretrain.config import build
from foretrain.errors import ConfigError, ModelError
from foretrain.models.toto2.config import PRESETS, PUBLISHED, Toto2Config, Toto2ModelConfig, attention_ratio
from foretrain.models.toto2.model import Toto2Network

SMALL = {"patch_size": 8, "d_model": 32, "num_heads": 4, "num_layers": 4, "layer_group_size": 2,
         "num_variate_layers_per_group": 1, "variate_layer_first": False, "residual_attn_ratio": 5.0}  # fmt: skip
COUNTS = {"4m": 4_144_448, "22m": 21_915_584, "313m": 312_684_608, "1B": 1_041_033_024, "2.5B": 2_454_281_792}


def section(**keys) -> Toto2ModelConfig:
    return build(Toto2ModelConfig, keys)


@pytest.mark.parametrize("size", PRESETS)
def test_published_sizes_have_their_published_number_of_parameters(size):
    config = Toto2ModelConfig.published_architecture(f"Datadog/Toto-2.0-{size}")
    assert config is not None
    assert sum(p.numel() for p in Toto2Network.empty(config, "meta").parameters()) == COUNTS[size]


def test_random_initialisation_uses_a_presets_architecture():
    for size in PRESETS:
        made = section(random_init=True, preset=size).architecture(4096, 64)
        assert made == Toto2ModelConfig.published_architecture(f"Datadog/Toto-2.0-{size}")
    assert PUBLISHED.keys() == {f"Datadog/Toto-2.0-{size}" for size in COUNTS}


def test_a_config_survives_a_json_round_trip_with_unknown_keys():
    raw = {**SMALL, "heads_per_group": 1, "d_ff": None, "model_type": "toto2", "note": [1]}
    config = Toto2Config.from_json(raw)
    assert config.to_json()["note"] == [1]
    again = Toto2Config.from_json(json.loads(json.dumps(config.to_json())))
    assert again == config and again.extra == config.extra


def test_widths_of_0_are_derived_from_the_others():
    config = Toto2Config.from_json(SMALL)
    assert (config.d_ff, config.qk_dim, config.v_dim, config.num_groups) == (88, 8, 8, 4)
    assert config.qk_norm_include_weight is False
    assert Toto2Config.from_json({**SMALL, "qk_dim": 12}).v_dim == 12


def test_our_own_key_is_written_only_if_it_differs_from_upstreams_value():
    assert "context_length" not in Toto2Config.from_json(SMALL).to_json()
    assert Toto2Config.from_json({**SMALL, "context_length": 64}).to_json()["context_length"] == 64


@pytest.mark.parametrize(
    ("changes", "over_variates"),
    [
        ({}, [False, True, False, True]),
        ({"variate_layer_first": True}, [True, False, True, False]),
        ({"layer_group_size": 4}, [False, False, False, True]),
        ({"layer_group_size": 4, "num_variate_layers_per_group": 2}, [False, False, True, True]),
        ({"num_variate_layers_per_group": 0}, [False] * 4),
    ],
)
def test_time_and_variate_layers_alternate_as_the_config_says(changes, over_variates):
    assert list(Toto2Config.from_json({**SMALL, **changes}).over_variates) == over_variates


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 0}, "patch_size is 0"),
        ({"d_model": 32.0}, "d_model is 32.0, must be a whole number"),
        ({"dropout_p": 0.1}, "dropout_p is 0.1"),
        ({"num_output_patches": 2}, "num_output_patches is 2"),
        ({"norm_eps": 0.0}, "norm_eps is 0.0, must be positive"),
        ({"residual_mult": "big"}, "residual_mult is 'big', must be a number"),
        ({"attn_bias": 1}, "attn_bias is 1, must be true or false"),
        ({"num_groups": 3}, "num_groups 3 does not divide num_heads 4"),
        ({"qk_dim": 6}, "qk_dim is 6, must be a multiple of 4"),
        ({"num_variate_layers_per_group": 3}, "more than layer_group_size 2"),
        ({"heads_per_group": 2}, "heads_per_group is 2, but 4 heads in 4 groups"),
        ({"d_model": None}, "not a Toto 2.0 model: d_model missing"),
    ],
)
def test_an_impossible_config_says_what_is_wrong(changes, message):
    with pytest.raises(ModelError, match=message):
        Toto2Config.from_json({**SMALL, **changes})


def test_the_attention_ratio_is_that_of_the_training_contexts():
    assert attention_ratio(128) == 5.136215466577748  # as published, for contexts of 4096
    made = section(random_init=True, patch_size=16).architecture(512, 64)
    assert made.residual_attn_ratio == math.sqrt(32 / math.log(32)) and made.context_length == 512
    assert section(random_init=True).architecture(16, 64).residual_attn_ratio > 0  # less than a patch


def test_given_keys_replace_the_presets_derived_values():
    made = section(random_init=True, d_model=64, num_heads=2, num_layers=2).architecture(512, 64)
    assert (made.d_ff, made.qk_dim, made.v_dim, made.layer_group_size) == (176, 32, 32, 2)
    deep = section(random_init=True, preset="22m", num_layers=12, layer_group_size=6).architecture(512, 64)
    assert (deep.layer_group_size, deep.d_ff, deep.qk_dim) == (6, 1368, 64)


def test_a_checkpoint_keeps_its_architecture_and_at_least_its_context():
    stored = Toto2Config.from_json(SMALL)
    assert section(model_id="x").fitted(stored, 512, 64) == stored
    assert section(model_id="x").fitted(stored, 8192, 64).context_length == 8192
    assert section(model_id="x", context_length=256).fitted(stored, 8192, 64).context_length == 256
    with pytest.raises(ModelError, match="d_model is 64 here and 32 there"):
        section(model_id="x", d_model=64).fitted(stored, 512, 64)


def test_a_mask_length_without_masking_is_refused():
    assert section(cpm_probability=0.5, cpm_patches=4).cpm_patches == 4
    with pytest.raises(ConfigError, match="cpm_patches has no effect with cpm_probability 0"):
        section(cpm_patches=4)
