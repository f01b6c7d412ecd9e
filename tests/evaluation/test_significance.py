from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from tests.proofs import dm_simulation as simulation

from foretrain.errors import DataError
from foretrain.evaluation import significance
from foretrain.evaluation.significance import (
    Draws,
    compare,
    diebold_mariano,
    lag_in_origins,
    origin_losses,
    paired_p_values,
    paired_statistics,
)

DAY = 86_400_000_000


def test_with_every_term_of_the_series_it_is_the_classical_test_of_statsmodels():
    from statsmodels.tsa.stattools import diebold_mariano_test

    rng = np.random.default_rng(1)
    ours, theirs = rng.random(40), rng.random(40) + 0.1
    wanted = diebold_mariano_test(
        np.zeros(40), ours, theirs, criterion=lambda y, loss: loss, lags=0, harvey_adj=True, horizon=1
    )
    found = significance.statistics((ours - theirs)[None], terms=39)
    assert found[0] == pytest.approx(wanted.statistic, rel=1e-9)
    assert significance._student(found, 39)[0] == pytest.approx(wanted.pvalue, rel=1e-9)


@pytest.mark.parametrize(("count", "terms"), [(10, 2), (20, 2), (26, 2), (27, 3), (50, 4), (200, 11)])
def test_the_variance_is_the_mean_square_of_the_first_terms_of_the_cosine_transform(count, terms):
    from scipy.stats import t

    rng = np.random.default_rng(count)
    ours, theirs = rng.random(count), rng.random(count) + 0.2
    difference, at = ours - theirs, (np.arange(count) + 0.5) / count
    waves = [math.sqrt(2 / count) * np.cos(math.pi * k * at) @ difference for k in range(1, terms + 1)]
    found = diebold_mariano(ours, theirs)
    assert found.statistic == pytest.approx(difference.mean() * math.sqrt(count) / np.sqrt(np.mean(np.square(waves))))
    assert found.p_value == pytest.approx(2 * t.sf(abs(found.statistic), terms), rel=1e-9)
    assert (found.degrees_of_freedom, found.lag, found.over, found.count) == (terms, 0, "origins", count)
    assert (found.method, found.weak) == (significance.COSINE_SERIES, count < 20)


def _limit(share, draws):
    """An upper bound of a share found in `draws` draws: four standard errors above."""
    return share + 4 * math.sqrt(share * (1 - share) / draws)


@pytest.mark.parametrize("count", simulation.ORIGINS)
@pytest.mark.parametrize("kind", simulation.KINDS)
def test_equal_forecasters_are_seldom_called_different_even_if_their_losses_depend_on_each_other(kind, count):
    """tests/proofs/dm_simulation.py, with fewer draws. The classical test calls 32% different at AR .6."""
    called, abstained = simulation.false_positives(kind, count, draws=3000)
    allowed = 0.10 if count == 10 and kind in ("exponential", "AR .6") else 0.08
    assert called < _limit(allowed, 3000) and abstained == 0.0


@pytest.mark.parametrize("phi", [0.0, 0.6])
@pytest.mark.parametrize("cell", [*simulation.overlap_cells()], ids=str)
def test_the_same_holds_of_overlapping_forecasts_and_of_dependence_beyond_the_overlap(cell, phi):
    called, abstained = simulation.overlap_false_positives(*cell, draws=3000, phi=phi)
    assert called < _limit(0.10 if cell[0] == 10 and phi else 0.08, 3000) and abstained == 0.0


@pytest.mark.parametrize(("count", "wanted"), simulation.POWER.items())
def test_a_difference_of_one_standard_deviation_is_found(count, wanted):
    assert simulation.power(count, draws=3000) > wanted - 4 * math.sqrt(wanted * (1 - wanted) / 3000)


@pytest.mark.parametrize("count", simulation.ITEMS)
@pytest.mark.parametrize("kind", [kind for kind in simulation.ITEM_KINDS if kind != "shock"])
def test_over_independent_items_equal_forecasters_are_seldom_called_different(kind, count):
    draws = 1000 if count > 100 else 3000
    assert simulation.item_false_positives(kind, count, draws) < _limit(0.08, draws)


@pytest.mark.parametrize("mean", [1, 3, 10, 100])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", ["normal", "exponential"])
def test_over_items_a_larger_difference_is_found_whatever_the_skewness(kind, sign, mean):
    """Also one of many deviations, as of a model that is far better than naive on each of many like items."""
    rng = np.random.default_rng([len(kind), mean])
    noise = rng.standard_normal((500, 50)) if kind == "normal" else rng.exponential(1.0, (500, 50)) - 1
    found = paired_statistics(sign * noise - mean)
    assert (found < 0).all() and (paired_p_values(found, 50) < 0.05).mean() > 0.9


def test_a_shock_that_all_items_share_deceives_the_test_over_items():
    """Why its verdict says "at this one origin", and why prices get none without clusters."""
    assert simulation.item_false_positives("shock", 30, draws=1000) > 0.4


def _equal_models(kind, draws, count, horizon, stride, seed=11):
    """(draws, count) loss differences of two equally good forecasters, origins in time order."""
    rng = np.random.default_rng(seed)
    steps = (count - 1) * stride + horizon
    first = np.arange(count) * stride
    noise = rng.standard_normal((draws, steps))
    if kind == "independent errors":
        noise = np.abs(noise) - np.abs(rng.standard_normal((draws, steps)))
    total = np.concatenate([np.zeros((draws, 1)), noise.cumsum(1)], 1)
    if kind == "independent errors":
        return (total[:, first + horizon] - total[:, first]) / horizon
    moves = [total[:, first + h] - total[:, first] for h in range(1, horizon + 1)]  # a random walk, missed either way
    return np.mean([np.abs(move - 0.5) - np.abs(move + 0.5) for move in moves], axis=0)


CASES = [(count, *shape) for count in (10, 20, 48) for shape in ((1, 1), (6, 6), (6, 3), (4, 3))]
CASES += [(20, 4, 1), (20, 8, 2), (48, 4, 1), (48, 12, 1)]


@pytest.mark.parametrize("kind", ["independent errors", "random walk"])
@pytest.mark.parametrize(("count", "horizon", "stride"), CASES)
def test_equal_models_are_called_different_in_3_to_8_percent(kind, count, horizon, stride):
    draws = 4000
    losses = _equal_models(kind, draws, count, horizon, stride)
    found = significance.statistics(losses, significance.series_terms(count))
    p_values = significance.p_values(found, count, horizon, stride)
    assert 0.03 < (p_values < 0.05).mean() < 0.08


def test_a_large_positive_statistic_reads_as_worse():
    """A statistic of +11.28, model minus naive, was once published as a highly significant improvement."""
    rng = np.random.default_rng(0)
    naive = rng.random(40)
    wave = np.cos(math.pi * (np.arange(40) + 0.5) / 40)  # the first term of three, so the variance is 40 / 6
    apart = wave + 11.28 * math.sqrt(1 / 6)
    found = diebold_mariano(naive + apart, naive)
    assert found.statistic == pytest.approx(11.28, rel=1e-6)
    assert found.verdict == "worse than naive, p=0.001"
    assert diebold_mariano(naive, naive + apart).verdict == "better than naive, p=0.001"


@pytest.mark.parametrize(("origins", "shape", "weak"), [(19, (1, 1), True), (20, (1, 1), False), (39, (5, 1), True)])
def test_the_verdict_of_few_origins_says_that_the_test_is_weak(origins, shape, weak):
    """Few: less than twice those that a test needs, which are four times as many as overlap."""
    rng = np.random.default_rng(0)
    found = diebold_mariano(rng.random(origins), rng.random(origins), horizon=shape[0], stride=shape[1])
    assert found.weak == weak
    assert found.verdict.endswith(f" (weak test, {origins} origins)") == weak


@pytest.mark.parametrize(("origins", "shape", "needed"), [(7, (4, 4), 10), (11, (3, 1), 12), (1, (1, 1), 10)])
def test_too_few_origins_say_so(origins, shape, needed):
    rng = np.random.default_rng(0)
    found = diebold_mariano(rng.random(origins), rng.random(origins), horizon=shape[0], stride=shape[1])
    plural = "" if origins == 1 else "s"
    assert found.verdict == f"too few windows to tell ({origins} origin{plural}, {needed} needed)"
    assert math.isnan(found.p_value) and not found.significant
    enough = diebold_mariano(rng.random(needed), rng.random(needed), horizon=shape[0], stride=shape[1])
    assert not enough.verdict.startswith("too few")


def test_identical_losses_are_no_difference():
    losses = np.random.default_rng(0).random(20)
    assert diebold_mariano(losses, losses.copy()).verdict == "no difference from naive (identical losses)"


def test_a_constant_difference_is_certain_and_divides_by_no_rounding_error():
    losses = np.random.default_rng(0).random(20)
    found = diebold_mariano(losses + 0.1, losses, horizon=4, stride=2)
    assert found.verdict == "worse than naive, p<0.001"
    assert found.p_value == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_losses_that_are_not_finite_give_no_verdict(value):
    losses = np.random.default_rng(0).random(20)
    assert "no verdict" in diebold_mariano(np.full(20, value), losses).verdict


def test_a_difference_that_is_only_rounding_is_none():
    """Means of the same errors, added in another order."""
    losses = np.random.default_rng(0).random(20) * 1e6
    found = diebold_mariano(losses * (1 + 2e-16), losses)
    assert found.verdict == "no difference from naive (identical losses)" and found.method is None


def test_a_constant_difference_of_large_losses_is_certain_too():
    losses = np.random.default_rng(0).random(20) * 1e6
    assert diebold_mariano(losses + 0.1, losses).statistic == math.inf


def test_many_origins_take_little_time_and_memory():
    """As many as the five-minute bars of a year, whose series has 718 terms."""
    rng = np.random.default_rng(0)
    losses = rng.random(100_000)
    tracemalloc.start()
    found = diebold_mariano(losses + 0.01 * rng.random(100_000), losses)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert found.degrees_of_freedom == 718 and found.verdict == "worse than naive, p<0.001"


def test_losses_of_different_origins_are_refused():
    with pytest.raises(DataError, match="equal length"):
        diebold_mariano(np.zeros(3), np.zeros(4))


def test_the_verdict_names_its_p_value():
    rng = np.random.default_rng(1)
    naive = rng.random(30)
    found = diebold_mariano(naive - 0.2 + 0.2 * rng.standard_normal(30), naive)
    assert found.verdict == f"better than naive, p={found.p_value:.3f}" and found.significant
    equal = diebold_mariano(naive + 0.2 * rng.standard_normal(30), naive)
    assert equal.verdict == f"no significant difference from naive, p={equal.p_value:.3f}"


def _panel(make_scored, *, starts, items, horizon=2, stride=2):
    """Rows of several items; start in days, forecasts of `horizon` days."""
    starts = np.asarray(starts, np.int64) * DAY
    rows = len(starts)
    rng = np.random.default_rng(0)
    scored = make_scored(
        rng.standard_normal((rows, horizon)),
        np.zeros((rows, horizon)),
        item=items,
        stride=stride,
        last=rng.uniform(1, 2, rows),
        seasonal_error=rng.uniform(1, 2, rows),
    )
    return replace(scored, start=starts, end=starts + (horizon - 1) * DAY)


def test_one_loss_per_origin_is_the_mean_over_its_items_and_steps_in_time_order(make_scored):
    scored = _panel(make_scored, starts=[5, 3, 3, 1, 5, 1], items=[0, 0, 1, 0, 1, 1])
    scored.target[0, 1] = np.nan
    ours, _, horizon, stride = origin_losses(scored, scored)
    errors = np.abs(scored.target) / scored.seasonal_error[:, None]
    wanted = [np.nanmean(errors[[3, 5]]), np.nanmean(errors[[1, 2]]), np.nanmean(errors[[0, 4]])]
    np.testing.assert_allclose(ours, wanted, rtol=1e-12)
    assert (horizon, stride) == (2, 2)


def test_rows_without_a_scale_are_left_out_of_the_losses(make_scored):
    scored = _panel(make_scored, starts=[1, 1, 3, 3], items=[0, 1, 0, 1])
    scored = replace(scored, seasonal_error=np.array([1.0, np.nan, 1.0, np.nan]))
    ours, *_ = origin_losses(scored, scored)
    np.testing.assert_allclose(ours, np.abs(scored.target[[0, 2]]).mean(1), rtol=1e-12)


def test_items_with_different_cutoffs_overlap_and_the_lag_counts_it(make_scored):
    """Two items whose windows interleave: an origin starts within the forecast of the previous one."""
    together = _panel(make_scored, starts=[0, 2, 4, 6], items=[0, 0, 0, 0])
    assert lag_in_origins(*origin_losses(together, together)[2:]) == 0
    interleaved = _panel(make_scored, starts=[0, 2, 4, 1, 3, 5], items=[0, 0, 0, 1, 1, 1])
    losses, _, horizon, stride = origin_losses(interleaved, interleaved)
    assert len(losses) == 6 and lag_in_origins(horizon, stride) == 1


def test_without_stamps_origins_are_counted_from_the_end_of_each_item(make_scored):
    from foretrain.data.windows import NO_TIME

    scored = _panel(make_scored, starts=[0, 0, 0, 0], items=[0, 0, 1, 1])
    nowhere = np.full(4, NO_TIME)
    scored = replace(scored, start=nowhere, end=nowhere, rank=np.array([0, 1, 0, 1]))
    losses, *_ = origin_losses(scored, scored)
    errors = np.abs(scored.target) / scored.seasonal_error[:, None]
    np.testing.assert_allclose(losses, [errors[[1, 3]].mean(), errors[[0, 2]].mean()], rtol=1e-12)


def test_a_model_much_nearer_the_truth_than_naive_is_called_better(make_scored):
    rng = np.random.default_rng(4)
    rows = 60
    target = rng.standard_normal((rows, 3))
    starts = np.arange(rows, dtype=np.int64) * 3 * DAY
    scored = replace(
        make_scored(target, target * 0.9, item=np.zeros(rows, int)), start=starts, end=starts + 2 * DAY, stride=3
    )
    naive = scored.forecast(np.zeros_like(scored.quantiles))
    assert compare(scored, naive, "naive").verdict == "better than naive, p<0.001"
    assert compare(naive, scored, "the model").verdict == "worse than the model, p<0.001"


def _one_origin(make_scored, *, items=40, better=0.8, seed=0, **more):
    """One window of each item: a model whose errors are `better` times those of naive, and naive."""
    rng = np.random.default_rng(seed)
    errors = rng.standard_normal((items, 4)) * rng.lognormal(0.0, 1.0, (items, 1))
    scored = make_scored(errors, errors * (1 - better), **more)
    return scored, scored.forecast(np.zeros_like(scored.quantiles))


def _draws(groups, over="items"):
    return Draws(over, np.asarray(groups, np.int64))


def test_one_origin_of_many_items_is_tested_over_items_and_says_so(make_scored):
    from scipy.stats import ttest_rel

    scored, naive = _one_origin(make_scored)
    assert compare(scored, naive, "naive").verdict == "too few windows to tell (1 origin, 10 needed)"
    found = compare(scored, naive, "naive", _draws(range(40)))
    assert found.verdict == "better than naive over items, at this one origin, p<0.001"
    assert (found.over, found.count, found.origins, found.degrees_of_freedom) == ("items", 40, 1, 39)
    assert found.method == significance.PAIRED_T
    ours, theirs = (np.abs(who.target - who.median).mean(1) for who in (scored, naive))
    classical = ttest_rel(ours, theirs)
    assert found.p_value >= classical.pvalue and abs(found.statistic) <= abs(classical.statistic)
    assert compare(naive, scored, "drift", _draws(range(40))).verdict.startswith("worse than drift over items, at this")


def test_equal_models_are_no_better_over_items(make_scored):
    scored, _ = _one_origin(make_scored, items=60)
    rng = np.random.default_rng(5)
    other = scored.forecast(np.repeat((scored.target + rng.permuted(scored.target, axis=0))[:, :, None], 9, 2))
    found = compare(scored.forecast(np.zeros_like(scored.quantiles)), other, "naive", _draws(range(60)))
    assert (
        found.verdict == f"no significant difference from naive over items, at this one origin, p={found.p_value:.3f}"
    )


def test_the_columns_of_an_item_are_one_draw(make_scored):
    scored, naive = _one_origin(make_scored, items=60)
    assert compare(scored, naive, "naive", _draws(np.arange(60) // 2)).count == 30
    assert compare(scored, naive, "naive", _draws(np.arange(60) // 3)).verdict.startswith("too few windows to tell")


def test_several_origins_are_counted_and_ten_of_them_are_tested_over_origins(make_scored):
    few, naive = _one_origin(make_scored, items=90, rank=np.arange(90) // 30, item=np.arange(90) % 30)
    few = replace(few, start=np.full(90, -(2**63)), end=np.full(90, -(2**63)))
    found = compare(few, naive, "naive", _draws(few.item))
    assert found.verdict == "better than naive over items, at these 3 origins, p<0.001"
    enough, naive = _one_origin(make_scored, items=360, rank=np.arange(360) // 30, item=np.arange(360) % 30)
    enough = replace(enough, start=np.full(360, -(2**63)), end=np.full(360, -(2**63)))
    assert compare(enough, naive, "naive", _draws(enough.item)).over == "origins"


def test_clusters_are_the_draws_if_they_are_named(make_scored):
    scored, naive = _one_origin(make_scored, items=120)
    found = compare(scored, naive, "naive", _draws(np.arange(120) % 12, "clusters"))
    assert found.verdict.startswith("better than naive over 12 clusters of items, at this one origin, p")
    assert found.verdict.endswith(" (weak test)") and found.weak
    assert (found.over, found.count, found.degrees_of_freedom) == ("clusters", 12, 11)
    few = compare(scored, naive, "naive", _draws(np.arange(120) % 7, "clusters"))
    assert few.verdict == "too few windows to tell (1 origin, 10 needed; 7 clusters, 10 needed)"
    assert math.isnan(few.p_value) and few.over == "origins"


def test_identical_losses_are_no_difference_over_items_either(make_scored):
    scored, _ = _one_origin(make_scored)
    assert compare(scored, scored, "naive", _draws(range(40))).verdict == "no difference from naive (identical losses)"


def test_one_item_of_enormous_losses_makes_no_verdict_over_items(make_scored):
    """The seasonal error of a near-constant series, the divisor of its losses, may be tiny."""
    scored, naive = _one_origin(make_scored, better=1.05)
    assert compare(scored, naive, "naive", _draws(range(40))).verdict.startswith("worse than naive over items")
    scored.target[0] *= 1e9
    scored.quantiles[0] = scored.target[0][:, None]
    assert "no significant difference" in compare(scored, naive, "naive", _draws(range(40))).verdict


def test_adjusted_p_values_are_those_of_scipy_and_leave_out_what_was_not_tested():
    from scipy.stats import false_discovery_control

    found = np.random.default_rng(4).random(50) ** 3
    holed = np.concatenate([found[:20], [np.nan, np.nan], found[20:]])
    adjusted = significance.adjusted_p_values(holed)
    assert np.isnan(adjusted[20:22]).all()
    np.testing.assert_allclose(np.delete(adjusted, [20, 21]), false_discovery_control(found), rtol=1e-12)
    assert len(significance.adjusted_p_values(np.empty(0))) == 0
