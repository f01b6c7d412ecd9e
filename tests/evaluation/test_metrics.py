from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from foretrain.evaluation import metrics


def _random(make_scored, seed=0, rows=20, horizon=5, missing=0.2, **more):
    rng = np.random.default_rng(seed)
    target = rng.standard_normal((rows, horizon)) * 10
    target[rng.random(target.shape) < missing] = np.nan
    quantiles = np.sort(rng.standard_normal((rows, horizon, 9)), axis=2) * 10
    error = rng.uniform(0.5, 2, rows)
    error[3] = np.nan
    return make_scored(
        target, quantiles, last=rng.uniform(5, 50, rows), seasonal_error=error, item=np.arange(rows) % 4, **more
    )


def _plain(scored, rows):
    """Every metric by loops over single steps: slow and obvious."""
    pinball = size = inside = steps = absolute = squared = right = moved = percent = 0.0
    mase, sql, smape = [], [], []
    for n in rows:
        ae, ql, sm = [], [], []
        for h in range(scored.horizon):
            y = scored.target[n, h]
            if math.isnan(y):
                continue
            q = dict(zip(scored.levels, scored.quantiles[n, h], strict=True))
            loss = sum(2 * max(level * (y - f), (level - 1) * (y - f)) for level, f in q.items())
            error, last = abs(y - q[0.5]), scored.last[n]
            ae.append(error)
            ql.append(loss / len(q))
            sm.append(200 * error / (abs(y) + abs(q[0.5])))
            pinball, size, steps = pinball + loss / len(q), size + abs(y), steps + 1
            absolute, squared, percent = absolute + error, squared + error**2, percent + error / abs(last)
            inside += q[0.1] <= y <= q[0.9]
            moved += y != last
            right += y != last and np.sign(q[0.5] - last) == np.sign(y - last)
        if ae:
            smape.append(np.mean(sm))
            if not math.isnan(scored.seasonal_error[n]):
                mase.append(np.mean(ae) / scored.seasonal_error[n])
                sql.append(np.mean(ql) / scored.seasonal_error[n])
    return {
        "wql": pinball / size,
        "mase": np.mean(mase),
        "sql": np.mean(sql),
        "smape_pct": np.mean(smape),
        "coverage_80_share": inside / steps,
        "pct_mae": 100 * percent / steps,
        "direction_accuracy_share": right / moved,
        "price_mae": absolute / steps,
        "mae": absolute / steps,
        "rmse": math.sqrt(squared / steps),
    }


@pytest.mark.parametrize("seed", range(3))
def test_pooled_metrics_equal_plain_loops(make_scored, seed):
    scored = _random(make_scored, seed, price=True)
    wanted = _plain(scored, range(len(scored)))
    found = {name: float(column[0]) for name, column in metrics.table(scored).items()}
    assert found == pytest.approx(wanted, rel=1e-12)


def test_metrics_of_an_item_equal_plain_loops_over_its_rows(make_scored):
    scored = _random(make_scored, price=True)
    found = metrics.per_item(scored)
    for item in range(4):
        wanted = _plain(scored, np.flatnonzero(scored.item == item))
        assert {name: column[item] for name, column in found.items()} == pytest.approx(wanted, rel=1e-12)


def test_metrics_of_a_step_equal_plain_loops_over_that_step(make_scored):
    scored = _random(make_scored, missing=0.0)
    found = metrics.per_step(scored)
    wanted = _plain(scored.step(2), range(len(scored)))
    assert {name: found[name][2] for name in ("wql", "mase", "sql", "coverage_80_share")} == pytest.approx(
        {name: wanted[name] for name in ("wql", "mase", "sql", "coverage_80_share")}, rel=1e-12
    )


def test_dollars_are_never_averaged_over_symbols(make_scored):
    many = metrics.pooled(_random(make_scored, price=True))
    assert not {"price_mae", "mae", "rmse"} & set(many)
    assert "pct_mae" in many
    one = metrics.pooled(make_scored(np.ones((3, 2)), np.zeros((3, 2)), item=[0, 0, 0], price=True))
    assert one["price_mae"] == 1.0


def test_price_metrics_are_absent_from_general_data(make_scored):
    assert not set(metrics.PRICE_METRICS) & set(metrics.pooled(_random(make_scored)))


def test_squared_errors_of_prices_equal_plain_loops_and_currencies_are_not_mixed(make_scored):
    scored = _random(make_scored, price=True)
    error, last = scored.target - scored.median, np.repeat(scored.last[:, None], scored.horizon, 1)
    seen = np.isfinite(scored.target)
    returns = (100 * (scored.target - last) / last)[seen]
    pct_mse = ((100 * error / last)[seen] ** 2).mean()
    price_mse = (error[seen] ** 2).mean()
    expected = {
        "pct_mse": pct_mse, "pct_rmse": pct_mse**0.5, "pct_r2": 1 - pct_mse / returns.var(), "price_mse": price_mse,
        "price_rmse": price_mse**0.5, "pct_mape": np.mean(100 * np.abs(100 * error / last)[seen] / np.abs(returns)),
    }  # fmt: skip
    assert metrics.price_squares(replace(scored, unit=("USD",) * 4)) == pytest.approx(expected, rel=1e-12)
    mixed = replace(scored, unit=("USD", "EUR", "USD", "USD"))
    assert metrics.price_squares(mixed) == pytest.approx(
        {name: expected[name] for name in expected if name.startswith("pct_")}, rel=1e-12
    )
    assert metrics.price_squares(_random(make_scored)) == {}


def test_the_width_of_the_interval_equals_a_plain_loop_and_needs_no_common_unit(make_scored):
    scored = _random(make_scored, price=True)
    low, high = (scored.quantiles[:, :, scored.levels.index(level)] for level in (0.1, 0.9))
    seen = [(n, h) for n in range(len(scored)) for h in range(scored.horizon) if np.isfinite(scored.target[n, h])]
    assert 0 < len(seen) < scored.target.size
    wanted = sum(high[at] - low[at] for at in seen) / sum(abs(scored.target[at]) for at in seen)
    assert metrics.squares(scored)["width_80_ratio"] == pytest.approx(wanted, rel=1e-12)
    none = make_scored(np.zeros((1, 2)), np.ones((1, 2)), item=[0])
    assert np.isnan(metrics.squares(none)["width_80_ratio"]) and metrics.squares(none)["mse"] == 1


def test_r2_is_1_for_the_truth_0_for_its_mean_return_and_undefined_without_a_spread(make_scored):
    truth = [[101.0, 102.0], [99.0, 104.0]]
    score = partial(make_scored, item=[0, 0], last=[100.0, 100.0], price=True)
    assert metrics.price_squares(score(truth, truth))["pct_r2"] == 1.0
    assert metrics.price_squares(score(truth, np.full((2, 2), 101.5)))["pct_r2"] == pytest.approx(0.0, abs=1e-12)
    assert metrics.price_squares(score(truth, np.full((2, 2), 100.0)))["pct_r2"] < 0
    flat = np.full((2, 2), 101.0)
    assert np.isnan(metrics.price_squares(score(flat, flat))["pct_r2"])


def test_an_error_of_116_percent_reads_as_116(make_scored):
    """A fraction of 1.161 of the last close was once published as 1.16 percent."""
    scored = make_scored([[100 + 116.1]], [[100.0]], last=[100.0], price=True)
    assert metrics.pooled(scored)["pct_mae"] == pytest.approx(116.1)


def test_direction_leaves_out_unchanged_truth_and_never_credits_a_forecast_that_does_not_move(make_scored):
    scored = make_scored([[11.0, 10.0, 9.0]], [[12.0, 12.0, 12.0]], last=[10.0], price=True)
    assert metrics.pooled(scored)["direction_accuracy_share"] == 0.5
    still = make_scored([[11.0, 10.0, 9.0]], [[10.0, 10.0, 10.0]], last=[10.0], price=True)
    assert metrics.pooled(still)["direction_accuracy_share"] == 0.0


def test_a_forecast_that_is_not_finite_makes_its_metrics_nan(make_scored):
    scored = _random(make_scored)
    quantiles = scored.quantiles.copy()
    quantiles[0] = np.nan
    broken = metrics.pooled(scored.forecast(quantiles))
    assert all(math.isnan(broken[name]) for name in ("wql", "mase", "sql", "smape_pct", "coverage_80_share"))


def test_order_of_rows_changes_nothing_but_rounding(make_scored):
    scored = _random(make_scored)
    shuffled = scored.take(np.random.default_rng(0).permutation(len(scored)))
    assert metrics.pooled(shuffled) == pytest.approx(metrics.pooled(scored), rel=1e-12)


def test_rows_without_a_seasonal_error_are_counted_and_left_out_of_mase_only(make_scored):
    scored = _random(make_scored)
    assert metrics.undefined_scale(scored).sum() == 1
    changed = scored.quantiles.copy()
    changed[3] += 1e6
    before, after = metrics.pooled(scored), metrics.pooled(scored.forecast(changed))
    assert before["mase"] == after["mase"] and before["wql"] != after["wql"]


def test_no_row_with_a_seasonal_error_gives_nan_not_an_exception(make_scored):
    scored = make_scored(np.zeros((2, 3)), np.zeros((2, 3)), seasonal_error=[np.nan, np.nan])
    pooled = metrics.pooled(scored)
    assert math.isnan(pooled["mase"]) and math.isnan(pooled["wql"]) and math.isnan(pooled["smape_pct"])
    assert pooled["coverage_80_share"] == 1.0


def test_wql_sums_over_the_given_levels_only(make_scored):
    scored = _random(make_scored)
    only = metrics.pooled(replace(scored, scored_levels=(0.5,)))
    observed = np.isfinite(scored.target)
    wanted = np.abs(scored.target - scored.median)[observed].sum() / np.abs(scored.target[observed]).sum()
    assert only["wql"] == pytest.approx(wanted, rel=1e-12)
    assert only["mase"] == metrics.pooled(scored)["mase"]


def test_skill_is_one_for_a_perfect_model_and_negative_for_one_twice_as_bad_as_naive(make_scored):
    naive = make_scored(np.full((3, 2), 5.0), np.full((3, 2), 4.0), seasonal_error=[1.0, 2.0, np.nan])
    assert metrics.skill(naive.forecast(naive.quantiles + 1.0), naive) == 1.0
    assert metrics.skill(naive.forecast(naive.quantiles - 1.0), naive) == -1.0
    np.testing.assert_array_equal(metrics.skill_per_item(naive.forecast(naive.quantiles - 1.0), naive), [-1, -1, -1])


def test_skill_over_symbols_is_not_dominated_by_the_most_expensive_one(make_scored):
    """A tenth better on a 1 dollar stock and a tenth worse on a 1000 dollar one is no skill, despite their errors."""
    target = np.array([[2.0], [2000.0]])
    naive = make_scored(target, np.array([[1.0], [1000.0]]), last=[1.0, 1000.0], price=True)
    model = naive.forecast(np.repeat(np.array([[[1.1]], [[900.0]]]), 9, 2))
    assert metrics.skill(model, naive) == pytest.approx(0.0, abs=1e-12)


def test_a_calibrated_forecaster_is_on_the_diagonal(make_scored, levels):
    rng = np.random.default_rng(0)
    target = rng.uniform(0, 1, (2000, 5))
    target[::7] = np.nan
    scored = make_scored(target, np.broadcast_to(np.array(levels), (2000, 5, 9)))
    np.testing.assert_allclose(metrics.calibration(scored), levels, atol=0.02)


def test_every_metric_states_its_unit():
    for name, metric in metrics.METRICS.items():
        assert metric.unit and metric.label
        if metric.unit.startswith("percent"):
            assert "pct" in name
        if metric.unit == "share":
            assert name.endswith("_share")
