from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from foretrain.errors import DataError
from foretrain.evaluation import significance
from foretrain.evaluation.significance import compare, diebold_mariano, lag_in_origins, origin_losses

DAY = 86_400_000_000


@pytest.mark.parametrize(("horizon", "stride"), [(1, 1), (8, 8), (8, 4), (9, 3), (5, 1)])
def test_the_statistic_is_that_of_statsmodels(horizon, stride):
    from statsmodels.tsa.stattools import diebold_mariano_test

    rng = np.random.default_rng(horizon)
    ours, theirs = rng.random(40), rng.random(40) + 0.1
    lag = lag_in_origins(horizon, stride)
    wanted = diebold_mariano_test(
        np.zeros(40), ours, theirs, criterion=lambda y, loss: loss, lags=lag, harvey_adj=True, horizon=lag + 1
    )
    found = diebold_mariano(ours, theirs, horizon=horizon, stride=stride)
    assert found.statistic == pytest.approx(wanted.statistic, rel=1e-9)
    if lag == 0:
        assert found.p_value == pytest.approx(wanted.pvalue, rel=1e-9)
    assert found.lag == lag


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
    found = significance.statistics(_equal_models(kind, draws, count, horizon, stride), lag_in_origins(horizon, stride))
    p_values = np.array([significance._p_value(float(value), count, horizon, stride) for value in found])
    assert 0.03 < (p_values < 0.05).mean() < 0.08


def test_a_large_positive_statistic_reads_as_worse():
    """A statistic of +11.28, model minus naive, was once published as a highly significant improvement."""
    rng = np.random.default_rng(0)
    naive = rng.random(40)
    noise = rng.standard_normal(40)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    found = diebold_mariano(naive + noise + 11.28 / math.sqrt(40), naive)
    assert found.statistic == pytest.approx(11.28, rel=1e-6)
    assert found.verdict == "worse than naive, p<0.001"
    assert diebold_mariano(naive, naive + noise + 11.28 / math.sqrt(40)).verdict == "better than naive, p<0.001"


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


def test_losses_that_are_not_finite_give_no_verdict():
    losses = np.random.default_rng(0).random(20)
    assert "no verdict" in diebold_mariano(np.full(20, np.nan), losses).verdict


def test_losses_of_different_origins_are_refused():
    with pytest.raises(DataError, match="equal length"):
        diebold_mariano(np.zeros(3), np.zeros(4))


def test_the_verdict_names_its_p_value():
    rng = np.random.default_rng(1)
    naive = rng.random(30)
    found = diebold_mariano(naive - 0.09 + 0.2 * rng.standard_normal(30), naive)
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
    rows = 24
    target = rng.standard_normal((rows, 3))
    starts = np.arange(rows, dtype=np.int64) * 3 * DAY
    scored = replace(
        make_scored(target, target * 0.9, item=np.zeros(rows, int)), start=starts, end=starts + 2 * DAY, stride=3
    )
    naive = scored.forecast(np.zeros_like(scored.quantiles))
    assert compare(scored, naive, "naive").verdict == "better than naive, p<0.001"
    assert compare(naive, scored, "the model").verdict == "worse than the model, p<0.001"
