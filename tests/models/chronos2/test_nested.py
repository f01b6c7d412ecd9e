"""The option nested: a forecast does not depend on how many more steps are asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.models.chronos2.test_decode import GOLDEN, GROUPS, assert_close, batch

from foretrain.models.chronos2.decode import Chronos2Options, forecast
from foretrain.models.chronos2.model import Chronos2Network

LEVELS = [0.1, 0.35, 0.5, 0.9]
NESTED = Chronos2Options(nested=True)


@pytest.fixture(scope="module")
def network() -> Chronos2Network:
    return Chronos2Network.read_release(GOLDEN / "model").eval()


def rows_of(groups: str, covariates: bool, steps: int):
    rows, _ = batch(GROUPS[groups])
    ahead = rows.covariates
    if not covariates or ahead is None:
        return replace(rows, covariates=None)
    return replace(rows, covariates=ahead[:, :steps])


@pytest.mark.parametrize("symmetric", [False, True])
def test_steps_are_the_same_however_many_more_are_asked_for(network, symmetric: bool):
    size, native = network.config.patch_size, network.config.native_horizon
    options, rows = replace(NESTED, symmetric=symmetric), rows_of("mixed", False, 0)
    with torch.inference_mode():
        longest = forecast(network, rows, native + size + 3, LEVELS, options)
        plain = forecast(network, rows, native + size + 3, LEVELS, replace(options, nested=False))
        for steps in range(1, native + 1, max(1, size // 3)):
            found = forecast(network, rows, steps, LEVELS, options)
            assert_close(found, longest[:, :steps])
    first = slice(0, native - size)
    assert float((longest[:, first] - plain[:, first]).abs().max()) > 1e-3
    assert_close(longest[:, native - size :], plain[:, native - size :])


@pytest.mark.parametrize("groups", list(GROUPS))
def test_each_patch_is_the_last_one_of_a_plain_forecast(network, groups):
    size, native = network.config.patch_size, network.config.native_horizon
    with torch.inference_mode():
        found = forecast(network, rows_of(groups, True, native), native, LEVELS, NESTED)
        for stop in range(size, native + 1, size):
            plain = forecast(network, rows_of(groups, True, stop), stop, LEVELS)
            assert_close(found[:, stop - size : stop], plain[:, stop - size :])
