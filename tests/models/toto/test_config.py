"""The published config.json, and the section of a run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from foretrain.config import build
from foretrain.errors import ModelError
from foretrain.models.toto.config import LONGEST, TotoConfig, TotoModelConfig, preset


@pytest.fixture(params=["base", "exog", "spacefirst"])
def raw(request, recorded) -> dict:
    return json.loads((recorded / request.param / "config.json").read_text())


def section(**keys) -> TotoModelConfig:
    return build(TotoModelConfig, {"random_init": True, **keys})


def test_a_published_config_comes_back_as_it_was(raw):
    assert TotoConfig.from_json(raw).to_json() == raw


def test_the_published_architecture_is_the_recorded_one(recorded):
    assert preset("base").to_json() == json.loads((recorded / "keys.json").read_text())["base_config"]


def test_unknown_keys_are_preserved(raw):
    config = TotoConfig.from_json({**raw, "pre_xformers_checkpoint": True, "model_type": "toto"})
    assert config.to_json() == {**raw, "pre_xformers_checkpoint": True, "model_type": "toto"}


def test_a_context_longer_than_the_published_models_is_written_and_read(raw):
    config = replace(TotoConfig.from_json(raw), max_context_length=8192)
    assert TotoConfig.from_json(config.to_json()).max_context_length == 8192
    assert "max_context_length" not in replace(config, max_context_length=LONGEST).to_json()


def test_layers_over_variates_are_the_last_or_the_first_of_their_group():
    values = {"num_layers": 6, "spacewise_every_n_layers": 3}
    assert preset("debug", **values).spacewise == (False, False, True) * 2
    assert preset("debug", **values, spacewise_first=True).spacewise == (True, False, False) * 2
    assert not any(preset("debug", num_layers=5, spacewise_every_n_layers=-1).spacewise)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stride": 4}, "stride 4 must equal patch_size 8"),
        ({"num_layers": 5}, "num_layers 5 must be a multiple of spacewise_every_n_layers 3"),
        ({"spacewise_every_n_layers": 0}, "spacewise_every_n_layers is 0"),
        ({"num_heads": 3}, "no even head width"),
        ({"patch_size": 8.0}, "patch_size is 8.0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"scale_factor_exponent": 0}, "scale_factor_exponent is 0"),
        ({"spacewise_first": "no"}, "spacewise_first is 'no'"),
        ({"scaler_cls": "<class 'model.scaler.Other'>"}, "known are CausalPatchStdMeanScaler"),
        ({"output_distribution_classes": []}, "known are MixtureOfStudentTsOutput"),
        ({"output_distribution_kwargs": None}, "k_components is None"),
    ],
)
def test_invalid_values_are_named(recorded, change, words):
    raw = json.loads((recorded / "base/config.json").read_text())
    with pytest.raises(ModelError, match=words):
        TotoConfig.from_json({**raw, **change}, "here/config.json")


def test_a_config_of_another_model_is_refused():
    with pytest.raises(ModelError, match=r"lacks patch_size, .*not a Toto 1\.0 model"):
        TotoConfig.from_json({"d_model": 3})


def test_a_preset_is_changed_by_the_keys_given():
    config = section(preset="debug", patch_size=16, k_components=3, dropout=0.3).architecture(64, 8)
    assert (config.patch_size, config.stride, config.components, config.dropout) == (16, 16, 3, 0.3)
    assert config.embed_dim == preset("debug").embed_dim


def test_a_run_may_choose_a_checkpoints_dropout_and_scaling_and_nothing_else():
    stored = preset("debug")
    assert section(dropout=0.25, k_components=4).fitted(stored, 64, 8) == replace(stored, dropout=0.25)
    other = replace(stored, scale_floor="relative")
    assert section(scale_floor="relative").fitted(stored, 64, 8) == section().fitted(other, 64, 8) == other
    assert section(rescale=True).fitted(stored, 64, 8) == replace(stored, rescale=True)
    with pytest.raises(ModelError, match="embed_dim is 8 here and 64 there"):
        section(embed_dim=8).fitted(stored, 64, 8)
    with pytest.raises(ModelError, match="k_components is 5 here and 4 there"):
        section(k_components=5).fitted(stored, 64, 8)


def test_labels_come_with_covariates_known_ahead_unless_decided():
    assert section().resolve_defaults(True).variate_labels is True
    assert section().resolve_defaults(False).variate_labels is None
    assert section(variate_labels=False).resolve_defaults(True).variate_labels is False


def test_the_scale_floor_is_stored_only_if_it_is_not_upstreams():
    plain, relative = preset("debug"), preset("debug", scale_floor="relative")
    assert "scale_floor" not in plain.to_json() and "rescale" not in plain.to_json()
    assert relative.to_json() == {**plain.to_json(), "scale_floor": "relative"}
    assert TotoConfig.from_json(relative.to_json()) == relative
    with pytest.raises(ModelError, match="scale_floor is 'none', must be upstream or relative"):
        preset("debug", scale_floor="none")
    with pytest.raises(ModelError, match="rescale has no effect with scale_floor relative"):
        preset("debug", scale_floor="relative", rescale=True)


def test_new_models_have_the_relative_floor_and_all_others_what_they_had():
    def floor(saved=None, **keys):
        return section(**keys).resolve_defaults(False, saved).scale_floor

    assert floor(random_init=True) == floor({"scale_floor": "relative"}, random_init=True) == "relative"
    assert floor({"family": "toto"}, random_init=True) is None  # a run of a version that had no such key goes on
    assert floor(random_init=True, scale_floor="upstream") == "upstream"
    assert floor(random_init=True, rescale=True) is floor(random_init=True, upstream_compat=True) is None
    assert floor(random_init=False, model_id="folder") is None
    assert section(random_init=True).architecture(64, 8).scale_floor == "upstream"
