"""Suites of rule ltsf on generated data: parts, standardised values, windows at every step, and errors by loops."""

from __future__ import annotations

from statistics import fmean, pstdev

import numpy as np
import pytest
from tests.models.zoo import Zoo
from tests.suites.tasks import series

from foretrain.errors import DataError
from foretrain.suites.contestants import LoadedModel, SuiteNaive
from foretrain.suites.definition import BenchmarkTask, SuiteDefinition, tasks_of
from foretrain.suites.rows import TaskRows
from foretrain.suites.score import score_naive
from foretrain.suites.scoring import ForecastFailed, score_task
from foretrain.suites.windows import part_bounds

HORIZON, CONTEXT = 3, 5


def long_task(batch: int | None = None, **definition) -> BenchmarkTask:
    suite = SuiteDefinition.model_validate({
        "title": "a test", "origin": "here", "licence": "none", "rule": "ltsf", "together": True, "baseline": "point",
        "metrics_of": "ltsf", "metrics": {"MSE": "MSE", "MAE": "MAE"}, "eval_metric": "MSE", "quantile_levels": [0.5],
        "published": "test.csv", "published_decimals": 3, "published_batch": batch,
        "tasks": {"long": {"horizon": HORIZON, "freq": "h", "seasonality": 1, "min_context": CONTEXT,
                           "max_context": CONTEXT, "dataset": "long"} | definition},
    })  # fmt: skip
    return BenchmarkTask("long", "test", suite, suite.tasks["long"])


def walks(steps: int = 47, variates: int = 4, seed: int = 0):
    values = np.cumsum(np.random.default_rng(seed).standard_normal((variates, steps)), axis=1) * 7 + 100
    return [series(values, variates=tuple("abcdefgh"[:variates]))]


def by_loops(values: np.ndarray, train: int, cutoffs: list[int], shift: float = 0.0) -> dict[str, float]:
    """MSE and MAE of the last value, plus a shift, by plain loops over windows, variates and steps."""
    squared, absolute = [], []
    for row in values.tolist():
        mean, deviation = fmean(row[:train]), pstdev(row[:train])
        scaled = [(value - mean) / deviation for value in row]
        for cutoff in cutoffs:
            for step in range(HORIZON):
                error = scaled[cutoff + step] - scaled[cutoff - 1] - shift
                squared.append(error**2)
                absolute.append(abs(error))
    return {"MSE": fmean(squared), "MAE": fmean(absolute)}


def test_parts_are_shares_rounded_as_published_code_rounds_them():
    assert part_bounds(long_task(), 47) == (32, 38, 47)  # 32.9 and 9.4 rounded down
    assert part_bounds(long_task(), 90) == (62, 72, 90)  # 0.7 * 90 is 62.99... in floating point
    assert part_bounds(long_task(parts=[20, 8, 9]), 47) == (20, 28, 37)  # the rest is unused


@pytest.mark.parametrize(("parts", "train", "cutoffs"), [
    (None, 32, list(range(38, 45))),
    ([20, 8, 9], 20, list(range(28, 35))),
])  # fmt: skip
def test_figures_are_those_of_loops_over_every_window_of_the_test_part(parts, train, cutoffs):
    data, task = walks(), long_task(parts=parts)
    found = score_task(SuiteNaive(), task, data)
    assert (found.windows, found.series, found.variates, found.forecasts) == (7, 1, 4, 28)
    assert found.metrics == pytest.approx(by_loops(data[0].values, train, cutoffs), rel=1e-12)


class Shifted:
    """The last value and a shift; writes down what it sees."""

    name, takes_covariates = "shifted", False

    def __init__(self, shift: float) -> None:
        self.shift, self.seen = shift, list[np.ndarray]()

    def forecast(self, windows, task):
        self.seen += [window.history for window in windows]
        newest = np.concatenate([window.history[:, -1] for window in windows]) + self.shift
        return np.tile(newest[:, None, None], (1, 2, task.definition.horizon))


@pytest.mark.parametrize("batch_size", [1, 9, 256])
def test_a_contestant_sees_standardised_histories_and_its_score_does_not_depend_on_batches(batch_size):
    data, contestant = walks(), Shifted(0.25)
    found = score_task(contestant, long_task(), data, batch_size=batch_size)
    assert found.metrics == pytest.approx(by_loops(data[0].values, 32, list(range(38, 45)), 0.25), rel=1e-12)
    assert {history.shape for history in contestant.seen} == {(4, CONTEXT)}
    train = data[0].values[:, :32]
    expected = (data[0].values[:, 33:38] - train.mean(1, keepdims=True)) / train.std(1, keepdims=True)
    assert min(float(np.abs(history - expected).max()) for history in contestant.seen) < 1e-12


def test_published_figures_without_a_last_batch_are_compared_over_the_full_ones():
    data = walks()
    full = by_loops(data[0].values, 32, list(range(38, 42)))
    assert score_naive(long_task(batch=4), data) == pytest.approx(full, rel=1e-12)
    assert score_naive(long_task(batch=7), data) == pytest.approx(score_naive(long_task(), data), rel=1e-12)
    assert score_naive(long_task(batch=8), data) == score_naive(long_task(), data)  # not one batch is full
    assert score_task(SuiteNaive(), long_task(batch=4), data).windows == 7  # models are scored on all


def test_forecasts_of_all_windows_are_never_held():
    rows = TaskRows(long_task(), walks(400, 8))
    assert rows.empty().shape == (len(rows.cuts), 3) == (78, 3)


def test_a_missing_truth_is_left_out_and_a_forecast_that_is_not_finite_is_named():
    data = walks()
    data[0].values[1, 40] = np.nan
    rows = TaskRows(long_task(), data)
    kept = rows.kept(np.array([0, 1, 6]), np.zeros((12, 2, HORIZON)))
    assert kept[:, 2].tolist() == [11.0, 11.0, 12.0]  # steps 38..40, 39..41 and 44..46 of four variates
    with pytest.raises(ForecastFailed, match=r"shifted: .* first that of item 'a' from step 38 on"):
        score_task(Shifted(np.inf), long_task(), walks())


def test_a_constant_of_the_train_part_is_divided_by_one():
    data = walks()
    data[0].values[0, :32] = 5.0
    assert TaskRows(long_task(), data).series[0].values[0, 40] == data[0].values[0, 40] - 5.0
    data[0].values[0, :32] = np.nan
    with pytest.raises(DataError, match="variate without train values"):
        TaskRows(long_task(), data)


def test_models_forecast_each_variate_alone(zoo: Zoo):
    """One of several variates has the score that it has by itself."""
    model, data = LoadedModel("small", zoo.shared("chronos2")), walks()  # type: ignore[arg-type]
    together = score_task(model, long_task(), data).metrics
    alone = [
        score_task(model, long_task(), [series(row, item=f"a_{name}")]).metrics
        for name, row in zip("abcd", data[0].values, strict=True)
    ]
    for name in ("MSE", "MAE"):
        assert together[name] == pytest.approx(fmean(one[name] for one in alone), rel=1e-5)


def test_the_shipped_parts_of_ett_are_twelve_four_and_four_months():
    found = {task.name: task.definition.parts for task in tasks_of("ltsf")}
    assert found["ETTh2/96"] == (8640, 2880, 2880) and found["ETTm1/720"] == (34560, 11520, 11520)
    assert found["weather/96"] is None
    assert {task.definition.max_context for task in tasks_of("ltsf")} == {36, 96}
