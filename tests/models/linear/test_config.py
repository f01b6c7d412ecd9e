"""config.json of the linear model, and the `model:` section of a run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foretrain.config import build
from foretrain.errors import ConfigError, ModelError
from foretrain.models.linear.config import LinearConfig, LinearModelConfig
from foretrain.run.config import load_config, shipped_config


def section(**keys) -> LinearModelConfig:
    return build(LinearModelConfig, keys)


def test_a_random_start_takes_the_lengths_of_the_run():
    config = section(random_init=True, d_model=8).architecture(50, 7)
    assert config == LinearConfig(50, 7, d_model=8)
    assert config.patches == 4  # of 16 steps


def test_a_moving_average_needs_a_middle_step():
    with pytest.raises(ModelError, match="trend_kernel is 24, must be odd"):
        section(random_init=True, trend_kernel=24).architecture(64, 8)
    with pytest.raises(ConfigError, match="trend_kernel"):
        section(random_init=True, trend_kernel=0)


def test_a_checkpoint_serves_shorter_runs_and_refuses_longer_ones():
    stored = LinearConfig(64, 8)
    chosen = section(model_id="a/release")
    assert chosen.fitted(stored, 32, 4) == stored
    with pytest.raises(ModelError, match=r"data\.prediction_length is 9 here and at most 8 there"):
        chosen.fitted(stored, 64, 9)
    with pytest.raises(ModelError, match=r"data\.context_length is 65 here and at most 64 there"):
        chosen.fitted(stored, 65, 8)
    with pytest.raises(ModelError, match="d_model is 4 here and 32 there"):
        section(model_id="a/release", d_model=4).fitted(stored, 64, 8)


def test_config_json_is_read_as_it_was_written():
    config = replace(LinearConfig(64, 8, patch_size=4), extra={"note": 1})
    again = LinearConfig.from_json(config.to_json())
    assert again == config and again.extra == {"note": 1}


def test_the_quick_config_has_the_data_and_lengths_of_the_debug_config():
    quick, debug = (load_config(shipped_config(name)).data for name in ("linear/quick.yaml", "debug.yaml"))
    assert replace_test_steps(quick) == replace_test_steps(debug)


def replace_test_steps(data):
    return data.model_copy(update={"test_steps": None})
