"""The CRPS of mixtures of Student-Ts against its integral."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import integrate
from tests.models.toto.test_distribution import mixtures, scipy_cdf

from foretrain.models.toto.crps import crps
from foretrain.models.toto.distribution import StudentTMixture


def integrated(m: StudentTMixture, value: float) -> float:
    """Integral of (F(x) - 1{x >= value})^2 for one mixture (1, K), by adaptive quadrature in float64."""

    def square(x: float) -> float:
        return float(scipy_cdf(m, np.array([x]))[0] - (x >= value)) ** 2

    edges = sorted({value, *m.loc[0].tolist()})
    inner = [integrate.quad(square, *pair, limit=200)[0] for pair in itertools.pairwise(edges)]
    return sum(inner) + integrate.quad(square, -np.inf, edges[0])[0] + integrate.quad(square, edges[-1], np.inf)[0]


@pytest.mark.parametrize("components", [1, 2, 6])
def test_it_is_its_integral_up_to_a_thousandth_of_the_spread(components):
    m = mixtures(6, components)
    values = m.mean + m.scale[:, 0] * torch.linspace(-4, 4, 6, dtype=torch.float64)
    expected = np.array([integrated(m[k : k + 1], float(values[k])) for k in range(6)])
    spread = np.array([0.5 * float((m.weights[k] * m.scale[k]).sum()) for k in range(6)])
    np.testing.assert_array_less(np.abs(crps(m, values).numpy() - expected), 1e-3 * np.maximum(expected, spread))


def test_gradients_in_every_parameter_and_in_the_value_are_those_of_numeric_differentiation():
    m = mixtures(4, 3)
    values = torch.linspace(-3, 3, 4, dtype=torch.float64)
    inputs = [x.clone().requires_grad_() for x in (m.df, m.loc, m.scale, m.log_weights, values)]
    assert torch.autograd.gradcheck(lambda *p: crps(StudentTMixture(*p[:4]), p[4]), inputs)


def test_the_mean_over_draws_of_a_distribution_is_lowest_for_that_distribution():
    df, scale = torch.tensor([[4.0]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    draws = torch.from_numpy(np.random.default_rng(0).standard_t(4.0, 20_000))
    zero = torch.zeros_like(df)

    def mean(stretch: float) -> float:
        one = StudentTMixture(df, zero, stretch * scale, zero).map(lambda x: x.expand(len(draws), 1))
        return float(crps(one, draws).mean())

    assert mean(1.0) < min(mean(0.8), mean(1.25))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_parameters_and_values_have_finite_scores_and_gradients(dtype):
    df, loc = torch.tensor([[2.0, 1e30]], dtype=dtype), torch.tensor([[0.0, 1e6]], dtype=dtype)
    scale, weights = torch.tensor([[1.2e-7, 1e4]], dtype=dtype), torch.tensor([[1e-7, 1.0]], dtype=dtype)
    m = StudentTMixture(df, loc, scale, weights.log()).map(lambda x: x.expand(5, 2).clone().requires_grad_())
    values = torch.tensor([0.0, -1.0, 1e6, 1e20, -1e30], dtype=dtype)
    found = crps(m, values)
    found.sum().backward()
    assert found.isfinite().all() and (found >= 0).all()
    assert found[-1].item() == pytest.approx(1e30)  # far away it is the distance
    for parameter in (m.df, m.loc, m.scale, m.log_weights):
        assert parameter.grad.isfinite().all()
