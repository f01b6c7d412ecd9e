"""Groups of series that depend on each other, and covariates known ahead."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from foretrain.data.synthetic import multivariate
from foretrain.data.synthetic.covariates import Known
from foretrain.data.synthetic.multivariate import KINDS, Multivariate

RNG = np.random.default_rng


def noise(rng, count, length):
    """Base series without memory."""
    return rng.standard_normal((count, length))


def memory(rng, count, length):
    """Base series that wander."""
    return np.cumsum(rng.standard_normal((count, length)), axis=1)


def only(kind: str, **settings) -> Multivariate:
    return Multivariate(weights={name: float(name == kind) for name in KINDS}, **settings)


def gain(values: np.ndarray, columns: list[tuple[int, int]]) -> np.ndarray:
    """Return (N,) the logarithm of the squared error of target 0 with these (row, lag) over that without, fitted by
    least squares to the first two thirds of the steps and measured on the others; negative where they help."""
    reach = 10
    length = values.shape[2]
    out = np.empty(len(values))
    for n, rows in enumerate(values):
        rows = (rows - rows.mean(1, keepdims=True)) / np.maximum(rows.std(1, keepdims=True), 1e-9)

        def lagged(row, lag, rows=rows):
            return rows[row, reach - lag : length - lag]

        own = [np.ones(length - reach), *(lagged(0, lag) for lag in (1, 2, 3))]
        errors = []
        for more in ([lagged(row, lag) for row, lag in columns], []):
            x, y = np.stack([*own, *more], axis=1), rows[0, reach:]
            cut = 2 * len(y) // 3
            found, *_ = np.linalg.lstsq(x[:cut], y[:cut], rcond=None)
            errors.append(((y[cut:] - x[cut:] @ found) ** 2).mean() + 1e-9)
        out[n] = np.log(errors[0] / errors[1])
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [2, 3, 16, 200, 4096])
def test_every_kind_draws_finite_groups_of_any_length(kind, length):
    count = 60 if length < 1000 else 4
    values = only(kind).draw(RNG(3), count, length, 2, 1, 2, memory)
    assert values.shape == (count, 5, length)
    assert np.isfinite(values).all()
    assert np.abs(values).max() < 1e5
    if length >= 200:
        assert (values[:, :2].std(axis=2) > 0).all()


@pytest.mark.parametrize("layout", [(1, 0, 1), (3, 0, 0), (1, 2, 0), (2, 1, 3), (8, 0, 0)])
def test_any_layout_can_be_drawn(layout):
    values = Multivariate().draw(RNG(0), 30, 40, *layout, memory)
    assert values.shape == (30, sum(layout), 40) and np.isfinite(values).all()


def test_a_single_row_is_a_base_series():
    assert np.array_equal(Multivariate().draw(RNG(1), 5, 30, 1, 0, 0, memory)[:, 0], memory(RNG(1), 5, 30))


def test_draws_follow_their_seed_alone():
    first, again, other = (Multivariate().draw(RNG(seed), 20, 50, 2, 1, 1, memory) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_kinds_have_the_shares_of_their_weights():
    chosen = Multivariate(weights={"independent": 3.0, "linear": 1.0} | dict.fromkeys(KINDS[2:], 0.0))
    kinds = chosen.draw_named(RNG(0), 2000, 16, 1, 0, 1, memory)[1]
    assert {*kinds.tolist()} == {0, 1} and abs((kinds == 0).mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 2000)


def test_many_long_groups_are_drawn_in_parts(monkeypatch):
    monkeypatch.setattr(multivariate, "_MOST_VALUES", 600)
    values, kinds = Multivariate().draw_named(RNG(0), 25, 64, 2, 0, 1, memory)
    assert values.shape == (25, 3, 64) and len(kinds) == 25
    assert len({row.tobytes() for row in values[:, 0]}) == 25


def test_a_linear_mixture_of_one_series_makes_all_rows_alike():
    series = RNG(0).standard_normal((200, 3, 400))
    values, _ = Multivariate(noise=(0.02, 0.02)).mixed(RNG(1), series)
    found = np.array([np.abs(np.corrcoef(rows)[np.triu_indices(3, 1)]).min() for rows in values])
    assert 0.2 < (found > 0.99).mean() < 0.5  # one of up to three series
    assert (found < 0.5).mean() > 0.2


def test_nonlinear_mixtures_are_not_linear_ones():
    series = RNG(0).standard_normal((300, 2, 400))
    linear, bent = (getattr(Multivariate(noise=(0.02, 0.02)), name)(RNG(1), series)[0] for name in ("mixed", "bent"))

    def explained(values):  # by the base series, linearly
        left = [rows - rows @ np.linalg.pinv(x) @ x for rows, x in zip(values, series, strict=True)]
        return 1.0 - np.var(left, axis=2) / values.var(axis=2)

    assert explained(linear).min() > 0.99
    assert (explained(bent) < 0.8).mean() > 0.4


def test_the_cross_correlation_of_lead_lag_rows_peaks_at_the_lag():
    values, lags = Multivariate(noise=(0.02, 0.02)).led(RNG(2), RNG(3).standard_normal((60, 3, 900)), 20)
    driver = RNG(3).standard_normal((60, 3, 900))[:, 0]
    peaks = np.empty((60, 3), int)
    for group in range(60):
        for row in range(3):
            found = [abs(values[group, row, 40:] @ driver[group, 40 - lag : 900 - lag]) for lag in range(40)]
            peaks[group, row] = np.argmax(found)
    assert (peaks == lags).mean() > 0.9  # some rows follow over steps of nearly equal weight
    assert ((peaks >= lags) & (peaks < lags + 8)).all()


def test_past_covariates_run_ahead_of_the_targets():
    for kind in ("lead_lag", "linear"):
        chosen = only(kind, leading=1.0, noise=(0.02, 0.02), exponential=0.0)
        values = chosen.draw(RNG(4), 100, 600, 1, 1, 0, noise)
        values = values - values.mean(axis=2, keepdims=True)
        # sum of |cross-correlations| where the covariate's earlier values meet the target, and where its later ones do
        ahead, behind = (
            np.array([max(abs(g[0, 30:570] @ g[1, 30 - s : 570 - s]) for s in steps) for g in values])
            for steps in (range(1, 31), range(-30, 0))
        )
        assert (ahead > 3.0 * behind).mean() > 0.6
        assert (behind > 3.0 * ahead).mean() < 0.05


def spread(values: np.ndarray) -> np.ndarray:
    """Return the mean square of changes over 400 steps over that of 20 steps: 20 for a random walk."""
    return ((values[..., 400:] - values[..., :-400]) ** 2).mean(-1) / (
        (values[..., 20:] - values[..., :-20]) ** 2
    ).mean(-1)


def test_cointegrated_rows_wander_and_a_combination_of_them_does_not():
    values, _ = Multivariate().cointegrated(RNG(5), 60, 2, 4000)
    combined = np.empty((60, 4000))
    for n, (first, second) in enumerate(values):
        x = np.stack([np.ones(4000), first], axis=1)
        found, *_ = np.linalg.lstsq(x, second, rcond=None)
        combined[n] = second - x @ found
    assert np.median(spread(values)) > 5.0 and np.quantile(spread(values), 0.1) > 1.5
    assert np.median(spread(combined)) < 1.3 and np.quantile(spread(combined), 0.95) < 2.5


@pytest.fixture(scope="module")
def drawn():
    """Groups of all kinds with one target, one past and one known covariate, and their kinds."""
    return Multivariate().draw_named(RNG(6), 500, 300, 1, 1, 1, noise)


def test_known_covariates_inform_but_for_independent_rows(drawn):
    values, kinds = drawn
    found = gain(values, [(2, lag) for lag in range(9)])
    for number, kind in enumerate(KINDS):
        helped = found[kinds == number]
        if kind == "independent":
            assert helped.mean() > 0.0 and (helped < -0.1).mean() < 0.1  # nine columns of nothing cost a little
        else:
            assert helped.mean() < -0.1 and (helped < -0.1).mean() > 0.25, kind  # a nonlinear relation is seen in part
    strong, weak = (found[kinds > 0] < -1.0).mean(), (found[kinds > 0] > -0.05).mean()
    assert strong > 0.1 and weak > 0.15  # effects are of all sizes


def test_past_covariates_inform_where_they_lead(drawn):
    values, kinds = drawn
    found = gain(values, [(1, lag) for lag in range(1, 11)])
    assert found[kinds == KINDS.index("independent")].mean() > 0.0
    led = found[kinds == KINDS.index("lead_lag")]
    assert (led < -0.1).mean() > 0.2


def test_known_covariates_are_events_places_in_a_cycle_prices_or_waves():
    parts = ("events", "calendar", "steps", "smooth")
    drawn = {kind: Known(**{name: float(name == kind) for name in parts}).draw(RNG(7), 300, 200) for kind in parts}
    assert set(np.unique(drawn["events"])) == {0.0, 1.0}
    assert 0.02 < drawn["events"].mean() < 0.2
    assert all(len(np.unique(row)) <= 24 for row in drawn["calendar"])
    assert (drawn["steps"] > 0).all()
    assert np.median((np.diff(drawn["steps"], axis=1) != 0).mean(axis=1)) < 0.1
    smooth = drawn["smooth"] - drawn["smooth"].mean(1, keepdims=True)
    assert np.median((smooth[:, 1:] * smooth[:, :-1]).mean(1) / smooth.var(1)) > 0.8


def test_an_effect_never_comes_before_its_covariate():
    step = np.zeros((400, 1, 60))
    step[:, :, 30:] = 1.0
    found = Known(useless=0.0, reacting=1.0).effects(RNG(8), step, 1)[:, 0]
    assert np.abs(np.diff(found[:, :30], axis=1)).max() < 1e-12
    begins = np.argmax(np.abs(np.diff(found, axis=1)) > 1e-9, axis=1) + 1
    assert 0.1 < (begins > 30).mean() < 0.3  # lagged ones
    assert begins.max() <= 38
    assert ((found[:, -1] - found[:, 39]) != 0).mean() > 0.1  # some last


def test_a_useless_covariate_acts_on_no_target():
    wave = np.sin(np.arange(50) / 3)[None, None].repeat(500, axis=0)
    found = Known(useless=0.5, reacting=1.0).effects(RNG(9), wave, 3)
    acts = found.any(axis=2)
    assert (acts.all(axis=1) | ~acts.any(axis=1)).all()
    assert 0.4 < acts.any(axis=1).mean() < 0.6


@pytest.mark.parametrize(
    ("section", "settings", "message"),
    [
        (Multivariate, {"weights": dict.fromkeys(KINDS, 0.0)}, "at least one kind"),
        (Known, {"events": 0.0, "calendar": 0.0, "steps": 0.0, "smooth": 0.0}, "not all 0"),
        (Known, {"events": -1.0}, "none below 0"),
        (Known, {"longest_lag": 0}, "start at 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(section, settings, message):
    with pytest.raises(ValidationError, match=message):
        section(**settings)
