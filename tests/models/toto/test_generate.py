"""Fast forecasts against recorded numbers, against the plain decoder, and against the distributions they draw from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from tests.models.toto.plain import Decoder, mixtures_along
from torch import Tensor

from foretrain.models.toto import generate
from foretrain.models.toto.distribution import StudentTMixture
from foretrain.models.toto.generate import TotoPrompt, forecast, prefill, sample
from foretrain.models.toto.options import TotoOptions
from foretrain.nn.layout import RowLayout

EXACT = 5e-6  # of the largest value
LEVELS = (0.1, 0.5, 0.9)


def prompt_of(case) -> TotoPrompt:
    series, observed, layout = case.context
    return TotoPrompt(series, observed, layout, case.exogenous)


@pytest.fixture
def prompt(small_config) -> TotoPrompt:
    """Two windows of three rows and one, with gaps and empty patches at the start."""
    torch.manual_seed(0)
    series = torch.randn(4, 24).cumsum(1)
    observed = torch.rand(4, 24) > 0.2
    observed[1, :9] = False
    return TotoPrompt(series, observed, RowLayout.of(np.array([0, 0, 0, 1])))


@pytest.fixture
def network(network_of, small_config):
    return network_of(small_config).requires_grad_(False)


@pytest.mark.golden
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("samples", [1, 3])
def test_mixtures_along_a_forced_path_are_the_recorded_ones(case, apart, samples, cached):
    """As upstream reads what was not observed, with its cache and without it."""
    forced = case.inputs["forced_path"].flatten(0, 1)
    options = TotoOptions(compat=True, reference_cache=cached)
    found = mixtures_along(case.network, prompt_of(case), forced, samples, options)
    for name, part in (("df", "df"), ("loc_param", "loc"), ("scale_param", "scale"), ("mix_probs", "weights")):
        wanted = case.expected.get(f"forced_{'' if cached else 'no'}cache.{name}")
        if wanted is None:
            assert case.network.config.components is None  # a single Student-T has no weights
            continue
        ours = torch.stack([getattr(mixtures, part) for mixtures in found], 1)  # (S * R, patches, P, K)
        assert apart(ours, wanted.reshape(len(forced), 4, 8, -1).repeat(samples, 1, 1, 1)) < EXACT, name


def test_every_sample_is_what_the_plain_decoder_gives_when_fed_its_path(network, prompt, apart):
    keys, count = torch.arange(4) + 7, 3
    found = sample(network, prompt, 14, num_samples=count, keys=keys, seed=5)
    assert found.paths.shape == (4, count, 14)
    along: list[StudentTMixture] = []
    for s in range(count):
        decoder = Decoder(network, prompt.series, prompt.observed, prompt.layout)
        for patch in range(3):
            along.append(decoder.mixtures)
            decoder.append(found.paths[:, s, 4 * patch : 4 * patch + 4])
    for s in range(count):
        mine = mixtures_along(network, prompt, found.paths[:, s, :12], 1)
        for patch in range(3):
            assert apart(mine[patch].loc, along[3 * s + patch].loc) < EXACT


def test_a_folded_head_gives_the_same_mixtures(network, prompt, monkeypatch, apart):
    path = torch.randn(4, 12).cumsum(1)
    monkeypatch.setattr(type(network), "folds_head", lambda *_: False)
    plain = mixtures_along(network, prompt, path, 2)
    monkeypatch.setattr(type(network), "folds_head", lambda *_: True)
    for a, b in zip(mixtures_along(network, prompt, path, 2), plain, strict=True):
        assert apart(a.log_weights, b.log_weights) < EXACT and apart(a.df, b.df) < EXACT


def test_a_path_does_not_depend_on_the_batch_or_the_number_of_samples(network, prompt):
    keys = torch.tensor([11, 12, 13, 14])
    together = sample(network, prompt, 10, num_samples=5, keys=keys, seed=1).paths
    assert prompt.observed is not None
    alone = TotoPrompt(prompt.series[3:], prompt.observed[3:], RowLayout.of(np.array([0])))
    own = sample(network, alone, 10, num_samples=2, keys=keys[3:], seed=1).paths
    assert torch.allclose(together[3:, :2], own, atol=1e-4)
    other = sample(network, alone, 10, num_samples=2, keys=keys[3:], seed=2).paths
    assert not torch.allclose(own, other)


def test_samples_drawn_in_chunks_are_the_same(network, prompt, monkeypatch):
    keys = torch.arange(4)
    whole = sample(network, prompt, 10, num_samples=5, keys=keys, seed=1).paths
    monkeypatch.setattr(generate, "MAX_SAMPLE_BYTES", 1)
    assert generate._samples_per_chunk(network, 4, 3) == 1
    assert torch.allclose(sample(network, prompt, 10, num_samples=5, keys=keys, seed=1).paths, whole, atol=1e-5)


def test_draws_of_the_first_patch_follow_its_distribution(network, prompt):
    """Kolmogorov and Smirnov's test of 4,000 samples of one step, by the probability transform."""
    found = sample(network, prompt, 4, num_samples=4000, keys=torch.arange(4), seed=3)
    loc, scale = (x[:, 0] for x in found.context.statistics)
    mixture = found.context.first[2, 1]
    drawn = (found.paths[2, :, 1] - loc[2]) / scale[2]
    levels = mixture.map(lambda x: x.expand(len(drawn), -1)).cdf(drawn)
    assert kstest(levels.numpy(), "uniform").pvalue > 0.01
    shifted = mixture.map(lambda x: x.expand(len(drawn), -1)).cdf(drawn + 0.2)
    assert kstest(shifted.numpy(), "uniform").pvalue < 1e-3  # the control


def test_known_values_are_read_in_place_of_draws(network, prompt):
    known = torch.full((4, 10), torch.nan)
    known[1] = 50.0
    keys = torch.arange(4)
    given = sample(network, replace(prompt, known=known), 10, num_samples=3, keys=keys, seed=1).paths
    free = sample(network, prompt, 10, num_samples=3, keys=keys, seed=1).paths
    assert (given[1] == 50.0).all()
    assert torch.equal(given[[0, 2, 3], :, :4], free[[0, 2, 3], :, :4])  # the first patch is drawn before it is read
    assert not torch.allclose(given[0, :, 4:], free[0, :, 4:])  # of the same window
    assert torch.allclose(given[3], free[3], atol=1e-5)  # of another window


def test_without_use_cache_nothing_is_cached(network, prompt):
    plain, cached = (prefill(network, prompt, use_cache=use_cache) for use_cache in (False, True))
    assert not plain.caches and len(cached.caches) == network.layers_over_time
    assert torch.equal(plain.first.loc, cached.first.loc)


def test_one_patch_needs_no_paths(network, prompt):
    keys = torch.arange(4)
    found = forecast(network, prompt, 4, LEVELS, keys=keys)
    assert found.samples is None and found.mean is not None
    drawn = forecast(network, prompt, 4, LEVELS, keys=keys, num_samples=3000)
    assert drawn.samples is not None and drawn.samples.shape == (4, 3000, 4)
    assert torch.equal(found.quantiles, drawn.quantiles)  # both from the distribution
    plain = forecast(network, prompt, 4, LEVELS, keys=keys, num_samples=3000, options=TotoOptions(False))
    spread = (found.quantiles[..., 2] - found.quantiles[..., 0]).amin()
    assert (plain.quantiles - found.quantiles).abs().max() < 0.2 * spread
    assert not torch.equal(plain.quantiles, found.quantiles)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_another_precision_give_nearly_the_same_quantiles(network, prompt, apart, dtype):
    plain = forecast(network, prompt, 4, LEVELS, keys=torch.arange(4))
    other = forecast(network.to(dtype), prompt, 4, LEVELS, keys=torch.arange(4))
    assert apart(other.quantiles, plain.quantiles) < (1e-5 if dtype == torch.float64 else 0.02)


def test_beyond_the_first_patch_quantiles_are_those_of_the_paths(network, prompt):
    found = forecast(network, prompt, 7, LEVELS, keys=torch.arange(4), num_samples=50, targets=torch.tensor([2, 0]))
    assert found.samples is not None and found.mean is not None
    wanted: Tensor = found.samples.quantile(torch.tensor(LEVELS), dim=1).permute(1, 2, 0)
    assert found.quantiles.shape == (2, 7, 3)
    assert torch.allclose(found.quantiles[:, 4:], wanted[:, 4:], atol=1e-6)
    assert not torch.allclose(found.quantiles[:, :4], wanted[:, :4], atol=1e-6)
    assert torch.allclose(found.mean, found.samples.mean(1))
