from __future__ import annotations

import numpy as np
import pytest

from foretrain.evaluation.baselines import BASELINES, baselines
from foretrain.timeaxis.frequency import DAY, HOUR, MINUTE

H = 5


def baseline(name, contexts, horizon, levels, seasonality=1):
    return baselines((name,), contexts, horizon, levels, seasonality)[name]


def _plain_point(name, context, season):
    """The method written plainly: one row, one step at a time."""
    seen = [(t, float(v)) for t, v in enumerate(context) if np.isfinite(v)]
    if not seen:
        return [np.nan] * H
    (t0, first), (t1, last) = seen[0], seen[-1]
    points = []
    for h in range(H):
        t = len(context) + h
        if name == "naive":
            points.append(last)
        elif name == "drift":
            points.append(last + ((last - first) / (t1 - t0) if t1 > t0 else 0.0) * (t - t1))
        elif name == "historical_mean":
            points.append(np.mean([v for _, v in seen]))
        else:
            same = [v for s, v in seen if (t - s) % season == 0]
            points.append(same[-1] if same else last)
    return points


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("season", [1, 4, 7, 100])
def test_points_equal_the_plain_method_with_gaps_and_any_lengths(name, season):
    rng = np.random.default_rng(season)
    contexts = [rng.standard_normal(int(n)) for n in rng.integers(1, 30, 60)]
    for context in contexts[::2]:
        context[rng.random(len(context)) < 0.4] = np.nan
    found = baseline(name, contexts, H, [0.5], season)[:, :, 0]
    wanted = np.array([_plain_point(name, context, season) for context in contexts])
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("name", BASELINES)
def test_quantiles_do_not_depend_on_the_batch(name):
    rng = np.random.default_rng(0)
    contexts = [rng.standard_normal(int(n)).cumsum() for n in rng.integers(1, 40, 30)]
    contexts[3][5:9] = np.nan
    together = baseline(name, contexts, H, [0.1, 0.5, 0.9], 6)
    alone = np.concatenate([baseline(name, [context], H, [0.1, 0.5, 0.9], 6) for context in contexts])
    np.testing.assert_allclose(together, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", BASELINES)
def test_the_median_is_the_point_and_quantiles_ascend(name):
    rng = np.random.default_rng(0)
    contexts = list(rng.standard_normal((20, 50)).cumsum(1))
    levels = [0.1, 0.3, 0.5, 0.7, 0.9]
    found = baseline(name, contexts, H, levels, 6)
    assert (np.diff(found, axis=2) > 0).all()
    np.testing.assert_allclose(found[:, :, 2] - found[:, :, 0], found[:, :, 4] - found[:, :, 2], rtol=1e-9)


def test_naive_quantiles_are_the_steps_own_quantiles_times_the_root_of_the_horizon():
    steps = np.array([1.0, -2.0, 3.0, -4.0, 5.0])
    context = np.concatenate([[0.0], steps.cumsum()])
    found = baseline("naive", [context], 4, [0.1, 0.5, 0.9])[0]
    width = np.quantile(np.abs(steps), 0.8) * np.sqrt([1, 2, 3, 4])
    np.testing.assert_allclose(found, 3.0 + width[:, None] * [-1, 0, 1], rtol=1e-12)


def test_naive_quantiles_widen_while_nothing_is_observed():
    context = np.concatenate([np.arange(0, 20.0), [np.nan] * 3])
    found = baseline("naive", [context], 2, [0.5, 0.9])[0]
    np.testing.assert_allclose(found[:, 1] - found[:, 0], np.sqrt([4, 5]), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "seasonality"), [("naive", 1), ("drift", 1), ("seasonal_naive", 8), ("historical_mean", 1)]
)
def test_intervals_have_the_right_coverage_on_data_that_fit_the_method(name, seasonality):
    rng = np.random.default_rng(3)
    noise = rng.standard_normal((800, 420))
    if name == "historical_mean":
        series = noise
    elif name == "seasonal_naive":
        series = noise.copy()
        for t in range(seasonality, 420):
            series[:, t] += series[:, t - seasonality]
    else:
        series = noise.cumsum(1) + (0.1 * np.arange(420) if name == "drift" else 0.0)
    found = baseline(name, list(series[:, :400]), 20, [0.1, 0.9], seasonality)
    truth = series[:, 400:]
    inside = ((truth >= found[:, :, 0]) & (truth <= found[:, :, 1])).mean(0)
    assert inside.min() > 0.74 and inside.max() < 0.86


def test_one_extreme_bar_does_not_widen_the_interval():
    rng = np.random.default_rng(0)
    calm = rng.standard_normal(500).cumsum()
    split = calm.copy()
    split[250:] -= 500.0
    calm_width, split_width = (np.ptp(baseline("naive", [context], 1, [0.1, 0.9])[0]) for context in (calm, split))
    assert split_width == pytest.approx(calm_width, rel=0.05)


def test_a_row_without_history_is_nan_and_a_single_value_has_no_width():
    for name in BASELINES:
        nothing, single = baseline(name, [np.full(6, np.nan), np.array([7.0])], 3, [0.1, 0.5, 0.9], 4)
        assert np.isnan(nothing).all()
        assert (single == 7.0).all()


def _plain_by_clock(values, times, future):
    """The method written plainly: the same time of day of the newest earlier day that has seen it, or just before."""
    seen = [(int(t), float(v)) for t, v in zip(times, values, strict=True) if np.isfinite(v)]
    points = []
    for stamp in future.tolist():
        days = {t // DAY for t, _ in seen if t // DAY < stamp // DAY and t // DAY * DAY + stamp % DAY <= seen[-1][0]}
        before = [v for t, v in seen if days and t <= max(days) * DAY + stamp % DAY]
        points.append(before[-1] if before else seen[-1][1])
    return points


def _sessions(rng, days=6):
    """Half-hour stamps of days that open at any time and lack bars, some of them weekend days without any."""
    opening = rng.integers(14, 19, days)
    whole = [day * DAY + 30 * MINUTE * np.arange(opens, 40) for day, opens in enumerate(opening.tolist()) if day != 3]
    stamps = np.concatenate(whole)
    return stamps[rng.random(len(stamps)) > 0.2].astype(np.int64)


@pytest.mark.parametrize("seed", range(6))
def test_sessions_of_unlike_lengths_repeat_the_time_of_day(seed):
    rng = np.random.default_rng(seed)
    times = _sessions(rng)
    cutoff = int(rng.integers(1, len(times) - H))
    values = rng.standard_normal(cutoff)
    values[rng.random(cutoff) < 0.2] = np.nan
    values[0] = 1.0
    past, future = times[:cutoff], times[cutoff : cutoff + H]
    found = baselines(("seasonal_naive",), [values, values[-3:]], H, [0.1, 0.5, 0.9], 20, [(past, future)] * 2)
    points = found["seasonal_naive"]
    np.testing.assert_allclose(points[0, :, 1], _plain_by_clock(values, past, future), rtol=1e-12)
    assert (np.diff(points, axis=2)[0] >= 0).all()


def test_after_a_clock_change_the_time_of_day_is_that_of_the_stamps():
    """Stamps in UTC open an hour earlier from the fourth day on; what the day before lacks is its last bar before."""
    opens = [14, 14, 14, 13, 13]
    times = np.concatenate([d * DAY + HOUR * np.arange(h, h + 6) for d, h in enumerate(opens)]).astype(np.int64)
    values = np.arange(len(times), dtype=float)
    stamps = [(times[:18], times[18:24]), (times[:24], times[24:30])]
    found = baselines(("seasonal_naive",), [values[:18], values[:24]], 6, [0.5], 6, stamps)["seasonal_naive"][:, :, 0]
    assert found[0].tolist() == [11.0, 12.0, 13.0, 14.0, 15.0, 16.0]
    assert found[1].tolist() == [18.0, 19.0, 20.0, 21.0, 22.0, 23.0]
