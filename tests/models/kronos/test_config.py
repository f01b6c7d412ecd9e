"""Configurations: published files, presets, and the `model:` sections of a run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from pydantic import ValidationError

from foretrain.config import build as build_section
from foretrain.errors import ConfigError, ModelError
from foretrain.models import infer_family
from foretrain.models.kronos.config import (
    PREDICTOR_PRESETS,
    PUBLISHED,
    PUBLISHED_TOKENIZERS,
    TOKENIZER_PRESETS,
    KronosConfig,
    KronosModelConfig,
    KronosTokenizerModelConfig,
    TokenizerConfig,
)

TOKENIZER, PREDICTOR = TOKENIZER_PRESETS["base"], PREDICTOR_PRESETS["small"]


def written(folder, values) -> object:
    path = folder / "config.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


def test_the_published_tokenizers_file_is_read(tmp_path):
    """Word for word as on the hub."""
    text = """{
  "attn_dropout_p": 0.0,
  "beta": 0.05,
  "d_in": 6,
  "d_model": 256,
  "ff_dim": 512,
  "ffn_dropout_p": 0.0,
  "gamma": 1.1,
  "gamma0": 1.0,
  "group_size": 4,
  "n_dec_layers": 4,
  "n_enc_layers": 4,
  "n_heads": 4,
  "resid_dropout_p": 0.0,
  "s1_bits": 10,
  "s2_bits": 10,
  "zeta": 0.05
}"""
    config = TokenizerConfig.read(written(tmp_path, text))
    assert config == TokenizerConfig(**TOKENIZER)
    assert json.dumps(config.to_json(), indent=2) == text


def test_unknown_keys_are_preserved(tmp_path):
    config = KronosConfig.read(written(tmp_path, {**PREDICTOR, "later": {"a": 1}}))
    assert config.extra == {"later": {"a": 1}}
    assert config.to_json()["later"] == {"a": 1}


def test_our_own_keys_are_written_only_if_not_default():
    assert not {"clip", "max_context", "scale_floor"} & KronosConfig(**PREDICTOR).to_json().keys()
    assert KronosConfig(**PREDICTOR, clip=3.0, max_context=99).to_json()["max_context"] == 99
    assert TokenizerConfig(**TOKENIZER, scale_floor="relative").to_json()["scale_floor"] == "relative"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"d_model": 0}, "d_model is 0, must be a whole number of at least 1"),
        ({"n_heads": True}, "n_heads is True"),
        ({"n_enc_layers": 1}, "n_enc_layers is 1, must be a whole number of at least 2"),
        ({"ffn_dropout_p": 1.0}, r"ffn_dropout_p is 1.0, must be in \[0, 1\)"),
        ({"beta": "x"}, "beta is 'x', must be a number"),
        ({"s1_bits": 21}, "s1_bits is 21, must be at most 20"),
        ({"scale_floor": "none"}, "scale_floor is 'none', must be upstream or relative"),
        ({"n_heads": 3}, "d_model 256 over n_heads 3 is no even head width"),
        ({"d_in": 5}, "d_in is 5, candles have 6 columns"),
        ({"group_size": 3}, "group_size 3 does not divide 20 bits"),
    ],
)
def test_an_impossible_tokenizer_is_refused_naming_file_and_key(tmp_path, changes, said):
    path = written(tmp_path, {**TOKENIZER, **changes})
    with pytest.raises(ModelError, match=said) as error:
        TokenizerConfig.read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learn_te": 1}, "learn_te is 1, must be true or false"),
        ({"d_model": 20, "n_heads": 2}, "d_model is 20, must be a multiple of 8"),
        ({"token_dropout_p": -0.1}, "token_dropout_p is -0.1"),
    ],
)
def test_an_impossible_predictor_is_refused(tmp_path, changes, said):
    with pytest.raises(ModelError, match=said):
        KronosConfig.read(written(tmp_path, {**PREDICTOR, **changes}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "not a JSON object"),
        ('{"d_model": 8}', "not a Kronos predictor: attn_dropout_p"),
    ],
)
def test_a_file_that_is_no_predictors_is_refused(tmp_path, text, said):
    with pytest.raises(ModelError, match=said):
        KronosConfig.read(written(tmp_path, text))


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        KronosConfig.read(tmp_path / "config.json")


def test_a_value_that_json_writes_as_a_whole_number_is_a_rate_too(tmp_path):
    assert KronosConfig.read(written(tmp_path, {**PREDICTOR, "ffn_dropout_p": 0})).ffn_dropout_p == 0


def test_every_preset_can_be_built():
    assert {name: KronosConfig(**values).max_context for name, values in PREDICTOR_PRESETS.items()} == {
        "mini": 2048, "small": 512, "base": 512,
    }  # fmt: skip
    assert all(TokenizerConfig(**values) for values in TOKENIZER_PRESETS.values())


def test_published_models_name_tokenizers_that_are_published():
    assert {tokenizer for _, tokenizer in PUBLISHED.values()} <= PUBLISHED_TOKENIZERS.keys()
    assert {preset for preset, _ in PUBLISHED.values()} == PREDICTOR_PRESETS.keys()


@pytest.mark.parametrize("name", [*PUBLISHED, *PUBLISHED_TOKENIZERS])
def test_published_names_and_files_tell_their_family(name, tmp_path):
    expected = "kronos" if name in PUBLISHED else "kronos_tokenizer"
    assert infer_family(name) == expected
    kind = KronosConfig(**PREDICTOR) if expected == "kronos" else TokenizerConfig(**TOKENIZER)
    written(tmp_path, kind.to_json())
    assert infer_family(str(tmp_path)) == expected
    (tmp_path / "run" / "release").mkdir(parents=True)
    (tmp_path / "config.json").rename(tmp_path / "run" / "release" / "config.json")
    assert infer_family(str(tmp_path / "run")) == expected


# The sections of a run


@pytest.mark.parametrize("kind", [KronosModelConfig, KronosTokenizerModelConfig])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "give either model_id .* or random_init: true"),
        ({"model_id": "x", "random_init": True}, "give either model_id"),
        ({"model_id": "x", "preset": "base"}, "model.preset: has no effect with model_id"),
        ({"model_id": "x", "architecture_of": "y"}, "model.architecture_of: has no effect with model_id"),
        ({"random_init": True, "preset": "base", "architecture_of": "y"}, "both name an architecture"),
    ],
)
def test_a_start_that_contradicts_itself_is_refused(kind, given, said):
    with pytest.raises(ConfigError, match=said):
        build_section(kind, given).check_start()


def test_an_unknown_preset_is_refused():
    with pytest.raises((ConfigError, ValidationError), match="preset"):
        build_section(KronosModelConfig, {"random_init": True, "preset": "large"})


def test_fine_tuning_may_change_rates_clip_scale_and_length_and_nothing_else():
    stored = KronosConfig(**PREDICTOR)
    section = build_section(KronosModelConfig, {"model_id": "x", "ffn_dropout_p": 0.3, "clip": 4.0, "max_context": 64})
    found = section.adjusted(stored)
    assert (found.ffn_dropout_p, found.clip, found.max_context) == (0.3, 4.0, 64)
    assert found.scale_floor == "upstream"
    relative = build_section(KronosModelConfig, {"model_id": "x", "scale_floor": "relative"}).adjusted(stored)
    assert relative == replace(stored, scale_floor="relative")
    assert build_section(KronosModelConfig, {"model_id": "x"}).adjusted(relative) == relative
    assert found.d_model == stored.d_model and found.attn_dropout_p == stored.attn_dropout_p
    wrong = build_section(KronosModelConfig, {"model_id": "x", "d_model": 256, "n_layers": 8})
    with pytest.raises(ModelError, match=r"d_model is 256 here and 512 there\. Leave these keys out"):
        wrong.adjusted(stored)


def test_fine_tuning_a_tokenizer_may_weigh_its_losses_otherwise_but_not_cut_its_bits_otherwise():
    stored = TokenizerConfig(**TOKENIZER)
    assert build_section(KronosTokenizerModelConfig, {"model_id": "x", "beta": 0.1}).adjusted(stored).beta == 0.1
    with pytest.raises(ModelError, match="s1_bits is 8 here and 10 there"):
        build_section(KronosTokenizerModelConfig, {"model_id": "x", "s1_bits": 8}).adjusted(stored)


def test_new_tokenizers_have_the_relative_floor_and_resumed_ones_of_earlier_versions_do_not():
    new = build_section(KronosTokenizerModelConfig, {"random_init": True})
    assert new.resolve_defaults(False).scale_floor == "relative"
    assert new.resolve_defaults(False, saved={"random_init": True}).scale_floor is None
    chosen = build_section(KronosTokenizerModelConfig, {"random_init": True, "scale_floor": "upstream"})
    assert chosen.resolve_defaults(False).scale_floor == "upstream"
    tuned = build_section(KronosTokenizerModelConfig, {"model_id": "x"})
    assert tuned.resolve_defaults(False).scale_floor is None
