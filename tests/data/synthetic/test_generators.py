"""The distributions that the generators draw from."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from foretrain.data.synthetic import kernel_synth
from foretrain.data.synthetic.base import autoregression, seasons_for, stable_coefficients
from foretrain.data.synthetic.chaos import Chaos
from foretrain.data.synthetic.counts import Demand
from foretrain.data.synthetic.kernel_synth import (
    OFFICIAL_PERIODS,
    TOLERANCE,
    Factors,
    Kernel,
    KernelSynth,
    _bank,
    pivoted_cholesky,
    terms,
)
from foretrain.data.synthetic.linear_models import Arma, Smoothing
from foretrain.data.synthetic.mixture import MAX_LENGTH
from foretrain.data.synthetic.regimes import Regimes
from foretrain.data.synthetic.shapes import Shapes
from foretrain.data.synthetic.trend_season import TrendSeason, irregular, profiles

RNG = np.random.default_rng


def dense(kernels: tuple[Kernel, ...], length: int) -> np.ndarray:
    """Return the (T, T) covariance of a product of kernels."""
    steps = np.arange(length, dtype=float)
    found = [kernel(steps[:, None], steps[None, :], length) for kernel in kernels]
    return np.prod(found, axis=0)


def test_the_bank_is_chronos():
    bank, _ = _bank(1024)
    assert len(bank) == 33
    periods = [kernel.value for kernel in bank if kernel.kind == "periodic"]
    assert periods == [float(period) for period in OFFICIAL_PERIODS]


def test_kernels_have_the_values_of_their_formulas():
    length, first = 101, np.float64(0.0)  # time runs from 0 to 1 in steps of 0.01
    at = {
        Kernel("periodic", 20.0): {0: 1.0, 10: np.exp(-2.0), 5: np.exp(-1.0), 20: 1.0},
        Kernel("smooth", 0.1): {0: 1.0, 10: np.exp(-0.5), 20: np.exp(-2.0)},
        Kernel("rational", 0.1): {0: 1.0, 100: 6.0**-0.1},
        Kernel("white", 0.1): {0: 0.1, 1: 0.0},
        Kernel("constant"): {0: 1.0, 100: 1.0},
    }
    for kernel, values in at.items():
        for step, value in values.items():
            assert kernel(first, np.float64(step), length) == pytest.approx(value, abs=1e-12)
    assert Kernel("linear", 10.0)(np.float64(50), np.float64(100), length) == pytest.approx(100.5)


def test_factors_of_every_kernel_reproduce_its_covariance():
    length = 300
    steps = np.arange(length, dtype=float)
    bank, stepped = _bank(length)
    for kernel in (*bank, *stepped):
        if kernel.kind == "white":
            continue
        factor = pivoted_cholesky(kernel, steps, length)
        covariance = dense((kernel,), length)
        assert np.abs(factor.T @ factor - covariance).max() <= 10 * TOLERANCE * covariance.max()
        assert len(factor) < 40


def test_factors_are_exact_at_the_longest_series():
    length = MAX_LENGTH
    chosen = np.sort(RNG(2).choice(length, 300, replace=False)).astype(float)
    bank, stepped = _bank(length)
    factors = Factors(length)
    for kernel in {*bank, *stepped}:
        if kernel.kind == "white":
            continue
        factor = factors.factor(kernel)[:, chosen.astype(int)].astype(np.float64)
        covariance = kernel(chosen[:, None], chosen[None, :], length)
        assert np.abs(factor.T @ factor - covariance).max() <= 10 * TOLERANCE * covariance.max()
        assert len(factor) < 40


@pytest.mark.processes
def test_series_have_the_same_bits_whatever_the_number_of_threads():
    code = """
import hashlib, numpy as np
from foretrain.data.synthetic.calendar import Calendar
from foretrain.data.synthetic.kernel_synth import KernelSynth
for kind, length in ((KernelSynth, 97), (KernelSynth, 640), (Calendar, 400)):
    print(hashlib.sha256(kind().draw(np.random.default_rng(1), 100, length).tobytes()).hexdigest())
"""
    found = set[str]()
    for threads in ("1", "2"):
        environment = os.environ | {name: threads for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1


@pytest.mark.parametrize(
    "term",
    [
        (Kernel("periodic", 12.0), Kernel("linear", 1.0)),
        (Kernel("periodic", 12.0), Kernel("periodic", 5.0), Kernel("smooth", 0.1)),
        (Kernel("smooth", 0.1), Kernel("white", 0.1)),
        (Kernel("constant", 1.0), Kernel("rational", 0.1)),
    ],
    ids=lambda term: "*".join(kernel.kind for kernel in term),
)
def test_draws_have_the_covariance_of_the_product_within_monte_carlo_error(term):
    length, draws = 40, 2000
    factors, rng = Factors(length), RNG(5)
    sample = np.stack([factors.draw(rng, term) for _ in range(draws)])
    covariance = dense(term, length)
    found = sample.T @ sample / draws
    variance = np.diag(covariance)
    # the variance of a product of two Gaussian values is c_ii c_jj + c_ij**2
    error = np.sqrt((variance[:, None] * variance[None, :] + covariance**2) / draws)
    assert np.abs((found - covariance) / error).max() < 5.0
    assert np.abs(sample.mean(0) / np.sqrt(variance / draws)).max() < 5.0


def test_a_product_of_many_columns_is_drawn_as_one_of_few(monkeypatch):
    term = (Kernel("periodic", 12.0), Kernel("periodic", 5.3), Kernel("smooth", 0.1))
    monkeypatch.setattr(kernel_synth, "_MOST_COLUMNS", 200)
    factors, rng = Factors(30), RNG(5)
    sample = np.stack([factors.draw(rng, term) for _ in range(500)])
    assert np.abs(sample.T @ sample / 500 - dense(term, 30)).max() < 5.0 * np.sqrt(2 / 500)


def test_an_expression_is_the_sum_of_its_products():
    a, b, c, d = (Kernel("periodic", float(value)) for value in (3, 5, 7, 9))
    assert terms([a, b, c], np.array([True, True, False])) == [(a, c), (b, c)]
    assert terms([a, b, c, d], np.array([False, False, True, False])) == [(a, b, d), (c, d)]
    length = 30
    for operations in itertools.product([True, False], repeat=3):
        added = np.array([False, *operations])
        whole = dense((a,), length)
        for kernel, plus in zip((b, c, d), operations, strict=True):
            whole = whole + dense((kernel,), length) if plus else whole * dense((kernel,), length)
        parts = sum(dense(term, length) for term in terms([a, b, c, d], added))
        np.testing.assert_allclose(parts, whole, rtol=1e-12)


def test_kernel_synth_draws_as_many_kernels_as_asked():
    smooth = KernelSynth(kernels=(1, 1), periods_in_steps=0.0).draw(RNG(0), 300, 200)
    assert (np.abs(np.diff(smooth, axis=1)).mean(1) < 2.0).mean() > 0.7


def test_autoregressions_are_stationary_and_their_coefficients_are_recovered():
    coefficients = stable_coefficients(RNG(1), 500, 3, 0.97)
    for row in coefficients:
        assert np.abs(np.roots([1.0, *-row])).max() < 1.0
    chosen = np.array([[0.6, -0.3, 0.2]])
    series = autoregression(RNG(2).standard_normal((1, 40_000)), chosen)[0]
    lagged = np.stack([series[2 - k : -1 - k] for k in range(3)], axis=1)
    found, *_ = np.linalg.lstsq(lagged, series[3:], rcond=None)
    assert np.abs(found - chosen[0]).max() < 0.03


def test_arma_is_stationary_unless_it_is_summed():
    still = Arma(integrated=0.0, memory=0.8, scale=(1.0, 1.0), level=(0.0, 0.0)).draw(RNG(3), 400, 400)
    halves = still[:, :200].std(1), still[:, 200:].std(1)
    assert 0.9 < np.median(halves[0] / halves[1]) < 1.1
    walks = Arma(order=(0, 0), moving=(0, 0), integrated=1.0, drift=(0.0, 0.0), scale=(1.0, 1.0)).draw(RNG(3), 400, 400)
    moves = np.diff(walks, axis=1)
    moves /= moves.std(1, keepdims=True)
    assert abs((moves[:, 1:] * moves[:, :-1]).mean()) < 0.01  # the steps of a walk are independent


def test_smoothing_with_a_season_repeats_it():
    fixed = Smoothing(alpha=(0.02, 0.02), beta=(0.0, 0.0), gamma=(0.0, 0.0), trend=0.0, season=1.0, periods=(12,),
                      multiplicative=0.0)  # fmt: skip
    values = fixed.draw(RNG(4), 200, 240)
    values = values - values.mean(1, keepdims=True)
    agreement = (values[:, 12:] * values[:, :-12]).mean(1) / values.var(1)
    assert np.median(agreement) > 0.6


def test_regimes_return_to_their_mean_with_the_stationary_variance():
    one = Regimes(calm_pull=(1.0, 1.0), wild_pull=(1.0, 1.0), stay=(1.0, 1.0), step=(0.1, 0.1))
    values = one.process(RNG(6), 3000, 200)
    later = values[:, 100:]
    spread, mean = later.std(1), later.mean(1)
    assert set(np.round(np.log(spread)).astype(int)) <= {-2, -1, 0, 1, 2, 3}
    # with pull 1 and step 0.1 neighbours correlate by e**-0.1
    centred = later - mean[:, None]
    correlation = (centred[:, 1:] * centred[:, :-1]).sum() / (centred**2).sum()
    assert abs(correlation - np.exp(-0.1)) < 0.03
    assert abs(values[:, -1].mean() - values[:, 100].mean()) < 0.3


def test_counts_are_whole_and_have_the_stated_dispersion():
    values = Demand().draw(RNG(7), 300, 200)
    assert (values >= 0).all()
    assert (values == np.round(values)).all()
    assert ((values == 0).mean(1) > 0.5).mean() > 0.2  # intermittent ones
    rates = np.full((400, 500), 20.0)
    for dispersion in (0.05, 1.0):
        drawn = Demand(poisson=0.0, dispersion=(dispersion, dispersion)).counts(RNG(8), rates)
        assert abs(drawn.mean() / 20.0 - 1.0) < 0.02
        assert abs(drawn.var() / (20.0 + dispersion * 400.0) - 1.0) < 0.05
    plain = Demand(poisson=1.0).counts(RNG(9), rates)
    assert abs(plain.var() / 20.0 - 1.0) < 0.03


def test_noise_has_unit_deviation_in_all_its_kinds():
    noise = irregular(RNG(10), 2000, 400)
    assert 0.9 < np.median(noise.std(1)) < 1.1
    assert np.abs(noise.mean()) < 0.02


def test_a_trend_with_season_shows_both():
    clean = TrendSeason(noise=(1e-6, 1e-6), seasons=(1, 1), periods=(10.0,), movement=(0.0, 0.0), multiplicative=0.0,
                        modulated=0.0)  # fmt: skip
    values = clean.draw(RNG(11), 50, 100)
    np.testing.assert_allclose(values[:, 10:], values[:, :-10], rtol=1e-3, atol=1e-3 * values.std())
    risen = TrendSeason(noise=(1e-6, 1e-6), seasons=(0, 0), movement=(5.0, 5.0), multiplicative=0.0, scale=(1.0, 1.0))
    rise = np.ptp(risen.draw(RNG(12), 200, 100), axis=1)
    assert (rise > 1.0).mean() > 0.6


def test_shapes_hold_their_pulses_and_steps():
    generator = Shapes(clean=1.0)
    jumps, pulses, square, *_ = generator.shapes(RNG(13), 100, 300)
    assert ((np.abs(np.diff(jumps, axis=1)) > 0).sum(1) <= 8).all()
    assert set(np.unique(square)) == {-1.0, 1.0}
    assert (np.abs(pulses).max(1) > 0).mean() > 0.9


def test_chaos_stays_on_its_attractor_and_forgets_its_start():
    values = Chaos(clean=1.0, scale=(1.0, 1.0), level=(0.0, 0.0)).draw(RNG(14), 400, 500)
    assert np.abs(values).max() < 20
    assert (values.std(1) > 0.5).all()


def test_seasons_fit_the_length_twice():
    assert seasons_for(25) == (4, 5, 7, 12)
    assert seasons_for(3) == (4,)


@pytest.mark.parametrize("period", [4, 7, 12, 24, 52, 168])
def test_profiles_repeat_exactly_with_their_period(period):
    phase = np.tile(np.arange(3 * period + 5) / period, (200, 1))
    found = profiles(RNG(0), phase, np.full((200, 1), float(period)))
    assert np.abs(found[:, period:] - found[:, :-period]).max() < 1e-6
    spread = found[:, : 3 * period].std(axis=1)
    assert np.isclose(found.std(axis=1), 1.0).sum() >= 180  # the others have no high place at all
    assert ((spread > 0.5) | (spread == 0.0)).all()


def test_half_of_the_short_profiles_have_a_value_of_their_own_at_each_step():
    period = 12
    found = profiles(RNG(1), np.tile(np.arange(2 * period) / period, (400, 1)), np.full((400, 1), 12.0))[:, :period]
    # joined knots leave no more than so many free values: second differences vanish between them
    bends = (np.abs(found - (np.roll(found, 1, axis=1) + np.roll(found, -1, axis=1)) / 2) > 1e-6).sum(axis=1)
    assert 0.3 < (bends == period).mean() < 0.9


def test_nested_seasons_are_weeks_of_days():
    settings = {"seasons": (2, 2), "periods": (24.0,), "noise": (1e-9, 1e-9), "movement": (0.0, 0.0)}
    drawn = TrendSeason(**settings, nested=1.0, modulated=0.0, multiplicative=0.0).draw(RNG(2), 40, 600)
    drawn = drawn - drawn.mean(axis=1, keepdims=True)
    unexplained = [np.abs(drawn[:, lag:] - drawn[:, :-lag]).mean(axis=1) for lag in (120, 168)]
    best = np.minimum(*unexplained) / np.abs(drawn).mean(axis=1)
    assert (best < 1e-3).all()


def test_the_factors_that_are_held_are_of_the_lengths_used_last(monkeypatch):
    monkeypatch.setattr(kernel_synth, "_MOST_STEPS", 100)
    held = kernel_synth._Cache()
    first = held(40)
    assert held(50) is not first
    assert held(40) is first
    held(30)  # 50 was used longest ago
    assert held(40) is first and list(held._held) == [30, 40]
    held(500)  # longer than all that is held together
    assert list(held._held) == [500]
