"""The metrics of other libraries beside loops over single steps; tests/parity compares with gluonts itself."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from foretrain.errors import DataError
from foretrain.evaluation import library_metrics as metrics
from foretrain.evaluation.library_metrics import (
    Instances,
    fev_metrics,
    gluonts_metrics,
    utilsforecast_metrics,
    utilsforecast_seasonal_error,
)

LEVELS = (0.1, 0.5, 0.9)


def instances(seed: int = 0, rows: int = 12, horizon: int = 4, missing: float = 0.2, levels=LEVELS) -> Instances:
    """Random rows of three windows and two variates; the seasonal error of one is missing, of another 0."""
    rng = np.random.default_rng(seed)
    target = rng.standard_normal((rows, horizon)) * 4
    target[rng.random(target.shape) < missing] = np.nan
    error = rng.uniform(0.5, 2, rows)
    error[2], error[5] = np.nan, 0.0
    return Instances(
        target=target,
        point=rng.standard_normal((rows, horizon)),
        quantiles=np.sort(rng.standard_normal((rows, horizon, len(levels))), axis=2),
        levels=levels,
        seasonal_error=error,
        variate=np.arange(rows) % 2,
        window=np.arange(rows) // 2 % 3,
    )


def steps(rows: Instances):
    """(row, y, point, quantiles, seasonal error or None) of every observed step."""
    for n in range(len(rows.target)):
        scale = rows.seasonal_error[n]
        for h in range(rows.target.shape[1]):
            if not math.isnan(rows.target[n, h]):
                scaled = scale if scale > 0 else None
                yield n, rows.target[n, h], rows.point[n, h], rows.quantiles[n, h], scaled


def pinball(y: float, quantiles, levels) -> float:
    return sum(2 * max(q * (y - f), (q - 1) * (y - f)) for q, f in zip(levels, quantiles, strict=True))


def test_gluonts_metrics_are_means_and_ratios_over_all_observed_steps():
    rows = instances()
    found = gluonts_metrics(rows)
    every = list(steps(rows))
    size = [abs(y) for _, y, _, _, _ in every]
    error = [abs(y - q[1]) for _, y, _, q, _ in every]
    squared = [(y - point) ** 2 for _, y, point, _, _ in every]
    scaled = [abs(y - q[1]) / s for _, y, _, q, s in every if s is not None]
    expected = {
        "MSE[mean]": np.mean(squared),
        "MSE[0.5]": np.mean(np.square(error)),
        "MAE[0.5]": np.mean(error),
        "MASE[0.5]": np.mean(scaled),
        "MAPE[0.5]": np.mean([e / s for e, s in zip(error, size, strict=True)]),
        "sMAPE[0.5]": np.mean([2 * abs(y - q[1]) / (abs(y) + abs(q[1])) for _, y, _, q, _ in every]),
        "RMSE[mean]": math.sqrt(np.mean(squared)),
        "NRMSE[mean]": math.sqrt(np.mean(squared)) / np.mean(size),
        "ND[0.5]": sum(error) / sum(size),
        "mean_weighted_sum_quantile_loss": sum(pinball(y, q, LEVELS) for _, y, _, q, _ in every) / 3 / sum(size),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12)


def test_the_interval_score_has_the_bounds_of_its_levels():
    rows = instances(levels=(0.025, 0.5, 0.975))
    scores = []
    for _, y, _, q, scale in steps(rows):
        if scale is not None:
            scores.append((q[2] - q[0] + 40 * max(q[0] - y, 0) + 40 * max(y - q[2], 0)) / scale)
    assert gluonts_metrics(rows)["MSIS"] == pytest.approx(np.mean(scores), rel=1e-12)


def test_truths_of_zero_are_left_out_of_percentage_errors_alone():
    rows = instances(missing=0.0)
    target = rows.target.copy()
    target[0, 0] = 0.0
    with_zero, blank = replace(rows, target=target), target.copy()
    blank[0, 0] = np.nan
    without = gluonts_metrics(replace(rows, target=blank))
    found = gluonts_metrics(with_zero)
    assert found["MAPE[0.5]"] == pytest.approx(without["MAPE[0.5]"], rel=1e-12)
    assert found["MAE[0.5]"] != without["MAE[0.5]"]


def test_fev_metrics_are_means_over_variates_then_windows():
    rows, epsilon = instances(), 3.0
    by_window = []
    for window in range(3):
        by_variate = []
        for variate in range(2):
            mine = [s for s in steps(rows) if rows.window[s[0]] == window and rows.variate[s[0]] == variate]
            size = max(np.mean([abs(y) for _, y, _, _, _ in mine]), epsilon)
            losses = [pinball(y, q, LEVELS) / 3 for _, y, _, q, _ in mine]
            errors = [abs(y - point) for _, y, point, _, _ in mine]
            scales = [s for _, _, _, _, s in mine]
            by_variate.append([
                np.mean([loss / s for loss, s in zip(losses, scales, strict=True) if s is not None]),
                np.mean([e / s for e, s in zip(errors, scales, strict=True) if s is not None]),
                np.mean(errors) / size,
                np.mean(losses) / size,
            ])  # fmt: skip
        by_window.append(np.mean(by_variate, axis=0))
    expected = dict(zip(("SQL", "MASE", "WAPE", "WQL"), np.mean(by_window, axis=0), strict=True))
    assert fev_metrics(rows, epsilon) == pytest.approx(expected, rel=1e-12)


def test_a_small_variate_is_divided_by_epsilon():
    rows = instances(missing=0.0)
    assert fev_metrics(rows, epsilon=1e6)["WAPE"] == pytest.approx(
        np.abs(rows.target - rows.point).mean() / 1e6, rel=1e-12
    )


def test_the_libraries_disagree_on_a_history_shorter_than_the_season():
    history = np.array([1.0, 3.0, np.nan, 4.0, 8.0])
    assert metrics.gluonts_seasonal_error(history, 7) == 3.0  # of 1-3 and 4-8, the pairs a step apart
    assert math.isnan(metrics.fev_seasonal_error(history, 7))
    assert metrics.gluonts_seasonal_error(history, 2) == metrics.fev_seasonal_error(history, 2) == 1.0
    assert math.isnan(metrics.gluonts_seasonal_error(history, 5))  # as long as the season: no pair at all


def test_nothing_to_score_is_nan_and_no_error():
    rows = instances()
    empty = replace(rows, target=np.full_like(rows.target, np.nan))
    assert all(math.isnan(value) for value in [*gluonts_metrics(empty).values(), *fev_metrics(empty).values()])


def test_what_cannot_be_scored_is_refused():
    rows = instances()
    quantiles = rows.quantiles.copy()
    quantiles[3, 1, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        replace(rows, quantiles=quantiles)
    with pytest.raises(DataError, match="point has shape"):
        replace(rows, point=rows.point[:, 1:])
    with pytest.raises(DataError, match=r"0\.5"):
        replace(rows, levels=(0.1, 0.4, 0.9))


def test_utilsforecast_metrics_are_means_over_rows_of_each_row_s_value():
    rows = replace(instances(), squared_seasonal_error=np.linspace(0.5, 2, 12))
    rows.target[3] = np.nan  # a row without truth
    rows.target[4, :2] = 0.0
    rows.seasonal_error[5] = 1.5  # 0 would make the mean infinite, which another test shows
    values: dict[str, list[float]] = {name: [] for name in utilsforecast_metrics(rows)}
    for n in range(12):
        every = [step[1:4] for step in steps(rows) if step[0] == n]
        inside = sum(q[0] <= y <= q[2] for y, _, q in every)
        values["coverage-80"].append(inside / rows.target.shape[1])  # a missing step counts as outside
        if not every:
            continue
        errors = [abs(y - f) for y, f, _ in every]
        size = sum(abs(y) for y, _, _ in every)
        loss = np.mean([pinball(y, q, LEVELS) / 6 for y, _, q in every])
        values["mae"].append(np.mean(errors))
        values["rmse"].append(math.sqrt(np.mean(np.square(errors))))
        values["mape"].append(np.mean([e / abs(y) for e, (y, _, _) in zip(errors, every, strict=True) if y != 0]))
        values["smape"].append(np.mean([abs(y - f) / (abs(y) + abs(f)) for y, f, _ in every]))
        values["nd"].append(sum(errors) / size)
        values["mqloss"].append(loss)
        values["scaled_crps"].append(2 * loss * rows.target.shape[1] / size)  # missing steps count as steps
        values["rmsse"].append(math.sqrt(np.mean(np.square(errors)) / rows.squared_seasonal_error[n]))
        if not math.isnan(rows.seasonal_error[n]):
            values["mase"].append(np.mean(errors) / rows.seasonal_error[n])
            values["scaled_mqloss"].append(loss / rows.seasonal_error[n])
    expected = {name: np.mean(of) for name, of in values.items()}
    assert utilsforecast_metrics(rows) == pytest.approx(expected, rel=1e-12)


def test_utilsforecast_has_infinite_scaled_errors_for_a_constant_history():
    rows = instances(missing=0.0)
    found = utilsforecast_metrics(rows)
    assert (found["mase"], found["scaled_mqloss"]) == (math.inf, math.inf)
    assert math.isfinite(found["scaled_crps"])
    assert "rmsse" not in found
    assert utilsforecast_seasonal_error(np.array([1.0, np.nan, 3.0, 5.0]), 1) == 2.0
    assert math.isnan(utilsforecast_seasonal_error(np.array([1.0, 2.0]), 2))


@pytest.mark.parametrize("mode", metrics.METRICS_OF)
def test_rows_that_fill_several_blocks_have_the_figures_of_one_block(mode: str, monkeypatch):
    rows = instances(rows=60, levels=(0.05, 0.1, 0.5, 0.9))
    whole = metrics.METRICS_OF[mode][1](rows)
    monkeypatch.setattr(metrics, "_BLOCK", 7 * rows.target.shape[1] + 1)
    assert metrics.METRICS_OF[mode][1](rows) == pytest.approx(whole, rel=1e-13)
