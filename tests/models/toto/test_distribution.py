"""Mixtures of Student-Ts against scipy's, and against torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import distributions

from foretrain.models.toto.distribution import MixtureHead, StudentTMixture

LEVELS = (0.001, 0.1, 0.5, 0.9, 0.999)


def mixtures(
    count: int = 40, components: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64
) -> StudentTMixture:
    g = torch.Generator().manual_seed(seed)

    def normal() -> torch.Tensor:
        return torch.randn(count, components, generator=g, dtype=torch.float64)

    found = StudentTMixture(2 + normal().exp(), 3 * normal(), normal().exp(), (2 * normal()).log_softmax(-1))
    return found.map(lambda x: x.to(dtype))


def scipy_cdf(m: StudentTMixture, x: np.ndarray) -> np.ndarray:
    z = (x[..., None] - m.loc.numpy()) / m.scale.numpy()
    return (m.weights.numpy() * stats.t.cdf(z, m.df.numpy())).sum(-1)


def scipy_pdf(m: StudentTMixture, x: np.ndarray) -> np.ndarray:
    parts = stats.t.pdf(x[..., None], m.df.numpy(), m.loc.numpy(), m.scale.numpy())
    return (m.weights.numpy() * parts).sum(-1)


def torchs(m: StudentTMixture) -> distributions.Distribution:
    return distributions.MixtureSameFamily(
        distributions.Categorical(logits=m.log_weights), distributions.StudentT(m.df, m.loc, m.scale)
    )


def test_densities_are_scipys():
    m = mixtures()
    x = 10 * torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(m.log_prob(x), np.log(scipy_pdf(m, x.numpy())), rtol=1e-10)


def test_mean_and_variance_are_those_of_the_density():
    m = mixtures(count=3)
    m = StudentTMixture(m.df + 3, m.loc, m.scale, m.log_weights)  # so that the integrals converge
    x = np.tan(np.linspace(-1, 1, 100_001)[1:-1] * np.pi / 2)  # dense in the middle, far out at the ends
    for k in range(3):
        pdf = scipy_pdf(m[k : k + 1], x)
        mean = integrate.trapezoid(x * pdf, x)
        assert m.mean[k].item() == pytest.approx(mean, rel=1e-5)
        assert m.variance[k].item() == pytest.approx(integrate.trapezoid((x - mean) ** 2 * pdf, x), rel=1e-4)


def test_mean_and_variance_are_torchs():
    m = mixtures()
    assert torch.allclose(m.mean, torchs(m).mean)
    assert torch.allclose(m.variance, torchs(m).variance)


def test_the_variance_stays_finite_at_the_smallest_df():
    m = mixtures(dtype=torch.float32)
    m = StudentTMixture(torch.full_like(m.df, 2.0), m.loc, m.scale, m.log_weights)
    assert m.variance.isfinite().all()


def test_cdfs_are_scipys():
    m = mixtures()
    x = torch.linspace(-20, 20, 40, dtype=torch.float64)
    np.testing.assert_allclose(m.cdf(x), scipy_cdf(m, x.numpy()), atol=1e-12)


@pytest.mark.parametrize("components", [1, 2, 24])
def test_quantiles_are_where_scipys_distribution_reaches_their_level(components):
    m = mixtures(200, components)
    found = m.quantiles(LEVELS)
    for k, level in enumerate(LEVELS):
        np.testing.assert_allclose(scipy_cdf(m, found[:, k].numpy()), level, atol=1e-9)


def test_quantiles_of_modes_far_apart_are_found():
    """Where the density in between is so low that Newton's steps lead away."""
    parameters = [[30.0, 30.0]], [[-1e4, 1e4]], [[0.01, 0.01]], [[0.3, 0.7]]
    df, loc, scale, weights = (torch.tensor(x, dtype=torch.float64) for x in parameters)
    m = StudentTMixture(df, loc, scale, weights.log())
    for level in (0.1, 0.29999, 0.30001, 0.9):
        assert scipy_cdf(m, m.quantiles([level])[:, 0].numpy())[0] == pytest.approx(level, abs=1e-9)


def test_quantiles_near_a_component_without_weight_do_not_move():
    m = mixtures(30, 3)
    weightless = m.log_weights.clone()
    weightless[:, 0] = -60.0
    one = StudentTMixture(m.df, m.loc, m.scale, weightless.log_softmax(-1))
    far = StudentTMixture(m.df, m.loc + torch.tensor([1e6, 0.0, 0.0]), m.scale, one.log_weights)
    assert torch.allclose(one.quantiles(LEVELS), far.quantiles(LEVELS), rtol=1e-9)


def test_quantiles_come_in_the_shape_and_type_of_the_parameters():
    m = mixtures(12, dtype=torch.float32).map(lambda x: x.view(3, 4, -1))
    found = m.quantiles([0.2, 0.5, 0.6])
    assert found.shape == (3, 4, 3) and found.dtype == torch.float32
    assert (found.diff(dim=-1) > 0).all()


def test_quantiles_move_with_the_parameters_as_numeric_differentiation_says():
    m = mixtures(4, 3)
    inputs = [x.clone().requires_grad_() for x in (m.df, m.loc, m.scale, m.log_weights)]
    assert torch.autograd.gradcheck(lambda *p: StudentTMixture(*p).quantiles([0.05, 0.5, 0.8]), inputs)


def test_a_gradient_changes_no_quantile():
    m = mixtures(dtype=torch.float32)
    with torch.no_grad():
        plain = m.quantiles(LEVELS)
    assert torch.equal(plain, m.map(lambda x: x.clone().requires_grad_()).quantiles(LEVELS))


def test_a_quantile_between_modes_far_apart_has_a_finite_gradient():
    parameters = [[30.0, 30.0]], [[-1e4, 1e4]], [[0.01, 0.01]], [[0.3, 0.7]]
    df, loc, scale, weights = (torch.tensor(x).requires_grad_() for x in parameters)
    StudentTMixture(df, loc, scale, weights.log()).quantiles([0.3, 0.01, 0.9]).sum().backward()
    for parameter in (df, loc, scale, weights):
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() < 1e9


def test_an_unlikely_component_is_raised_to_the_smallest_probability_and_gets_no_gradient():
    head = MixtureHead(4, 2)
    weights = torch.tensor([[0.0, 40.0]], requires_grad=True)
    zeros = torch.zeros(1, 2)
    found = head.shape(zeros, zeros, zeros, weights)
    assert found.weights[0, 0].item() == pytest.approx(torch.finfo(torch.float32).eps, rel=1e-3)
    found.log_prob(torch.ones(1)).sum().backward()
    assert not weights.grad.any()


def test_parameters_are_valid_for_any_features():
    head = MixtureHead(4, 3)
    found = head(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)) * 1e4)
    assert (found.df >= 2).all() and (found.scale > 0).all()
    assert torch.allclose(found.weights.sum(-1), torch.ones(5))
    assert found.log_prob(torch.zeros(5)).isfinite().all()


def test_a_single_student_t_has_no_weights():
    head = MixtureHead(4, None)
    assert not hasattr(head, "mixture_weights")
    assert torch.equal(head(torch.ones(2, 4)).weights, torch.ones(2, 1))
