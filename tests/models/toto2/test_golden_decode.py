"""Forecasts against numbers recorded from the reference code."""

from __future__ import annotations

import pytest
import torch

from foretrain.models.toto2.decode import Toto2Options, decode

CLOSE = 2e-6  # of the largest value
HORIZON = 29
FORECASTS = {
    "none": ("plain", {}),
    "block1": ("plain", {"decode_block_size": 8}),
    "block2": ("plain", {"decode_block_size": 16}),
    "knobs_none": ("plain", {"scaler_fallback_min_obs": 8, "quantile_real_cap_k": 0.5}),
    "knobs_block1": ("plain", {"scaler_fallback_min_obs": 8, "quantile_real_cap_k": 0.5, "decode_block_size": 8}),
    "known_none": ("known", {}),
    "known_block2": ("known", {"decode_block_size": 16}),
    "clean_flag_true": ("clean", {}),
    "clean_flag_false": ("clean", {}),
    "clean_block1_flag_false": ("clean", {"decode_block_size": 8}),
    "one_variate": ("one", {}),
}


def given(case, which: str) -> dict[str, torch.Tensor]:
    if which == "known":
        return case.plain | {key: case.inputs[key] for key in case.inputs if key.startswith("known_dynamic")}
    if which == "one":
        return {name: x[:, :1] for name, x in case.clean.items()}
    return getattr(case, which)


@torch.no_grad()
def forecast(case, prompt, **options) -> torch.Tensor:
    """(Q, B, V, H)."""
    wanted = {"scaler_fallback_min_obs": 0, "quantile_real_cap_k": 0, "compat": True, **options}
    found = decode(case.network, prompt, Toto2Options(**wanted))[:, :HORIZON]
    return found.permute(2, 0, 1).unflatten(1, (case.inputs["target"].shape[0], -1))


@pytest.mark.parametrize("name", FORECASTS)
def test_forecasts_equal_the_references(case, prompt, apart, name):
    which, options = FORECASTS[name]
    found = forecast(case, prompt(**given(case, which), horizon=HORIZON), **options)
    assert apart(found, case.expected[f"forecast.{name}"]) < CLOSE


def test_every_recorded_forecast_is_compared(case):
    assert {f"forecast.{name}" for name in FORECASTS} == {key for key in case.expected if key.startswith("forecast.")}


def test_our_blocks_differ_from_upstreams_if_a_context_starts_with_an_empty_patch(case, prompt, apart):
    """Upstream's later blocks use the groups of the context's first tokens."""
    made = prompt(**case.plain, horizon=HORIZON)
    ours, theirs = (forecast(case, made, decode_block_size=8, compat=compat) for compat in (False, True))
    empty = ~case.inputs["target_mask"][..., :8].any(-1).any(-1)
    assert empty.tolist() == [False, False]
    window = case.inputs["target_mask"][..., :8].any(-1).all(-1)  # windows whose variates all start with values
    assert window.tolist() == [True, False]
    assert apart(ours[:, 1], theirs[:, 1]) > 1e-3
