"""Quantile tools against recorded numbers and against plain references."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from foretrain.errors import ConfigError
from foretrain.nn.quantiles import check_levels, interpolate_levels, probability_mass, weighted_quantiles

GOLDEN = Path(os.environ.get("FORETRAIN_GOLDEN_DIR") or Path(__file__).parents[1] / "golden") / "chronos2"


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "utils.safetensors")


@pytest.mark.golden
def test_interpolation_equals_the_reference(recorded):
    levels, query = recorded["interp.levels"].tolist(), recorded["interp.query"].tolist()
    found = interpolate_levels(recorded["interp.values"], levels, query)
    torch.testing.assert_close(found, recorded["interp.out"], rtol=1e-6, atol=1e-6)


@pytest.mark.golden
def test_weighted_quantiles_equal_the_reference(recorded):
    weights = recorded["wq.weights"] / recorded["wq.weights"].sum()
    found = weighted_quantiles(recorded["wq.samples"], weights, recorded["wq.query"].tolist())
    torch.testing.assert_close(found, recorded["wq.out"], rtol=1e-6, atol=1e-6)


@pytest.mark.golden
@pytest.mark.parametrize("name", ["dec", "tiny"])
def test_probability_masses_equal_the_reference(recorded, name):
    found = probability_mass(recorded[f"mass.{name}.levels"].tolist())
    np.testing.assert_allclose(found, recorded[f"mass.{name}.out"].numpy(), rtol=1e-6)


def test_interpolation_equals_numpy_on_any_axis():
    rng = np.random.default_rng(0)
    levels, query = [0.1, 0.25, 0.5, 0.9], [0.05, 0.1, 0.3, 0.5, 0.7, 0.95]
    values = rng.standard_normal((3, 4, 5)).astype(np.float32)
    found = interpolate_levels(torch.from_numpy(values), levels, query, dim=1).numpy()
    for i in range(3):
        for j in range(5):
            np.testing.assert_allclose(found[i, :, j], np.interp(query, levels, values[i, :, j]), atol=1e-6)


def test_trained_levels_are_read_exactly():
    values = torch.randn(7, 5)
    assert torch.equal(interpolate_levels(values, [0.1, 0.2, 0.5, 0.8, 0.9], [0.5, 0.1]), values[:, [2, 0]])


def test_weighted_quantiles_do_not_depend_on_the_order_of_samples():
    generator = torch.Generator().manual_seed(0)
    samples, weights = torch.randn(6, 30, generator=generator), torch.rand(30, generator=generator)
    weights = weights / weights.sum()
    order = torch.randperm(30, generator=generator)
    a = weighted_quantiles(samples, weights, [0.1, 0.5, 0.95])
    b = weighted_quantiles(samples[:, order], weights[order], [0.1, 0.5, 0.95])
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("levels", [[], [0.0], [0.5, 1.0], [0.5, 0.5], [10]])
def test_impossible_levels_are_refused(levels):
    with pytest.raises(ConfigError, match="quantile_levels"):
        check_levels(levels)


@pytest.mark.parametrize("levels", ["abc", 0.5, [None], [[0.5]]])
def test_levels_that_are_not_numbers_are_refused(levels):
    with pytest.raises(ConfigError, match="is not a list of numbers"):
        check_levels(levels)
