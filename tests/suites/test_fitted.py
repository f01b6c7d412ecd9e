"""Statistical models as contestants: with a stand-in for the package, and with the package where it is installed."""

from __future__ import annotations

import importlib.util
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
from tests.suites.fake_statsforecast import stand_in  # noqa: F401
from tests.suites.tasks import LEVELS, series, task

from foretrain.evaluation.baselines import STATISTICAL, baselines
from foretrain.suites import run, scoring
from foretrain.suites.fitted import StatisticalMethod
from foretrain.suites.rows import BenchmarkWindow, TaskRows
from foretrain.suites.run import BenchmarkRun, Entrant
from foretrain.suites.score import TaskData

needs_extra = pytest.mark.skipif(
    importlib.util.find_spec("statsforecast") is None, reason="statsforecast is not installed (extra `baselines`)"
)


def windows(*histories):
    return [BenchmarkWindow("a", len(row), ("y",), np.array([row], np.float64), None, None) for row in histories]


def test_fits_read_what_the_suite_s_baseline_reads_and_nothing_is_forecast_as_0(stand_in):  # noqa: F811
    found = StatisticalMethod("auto_ets")
    given = task(horizon=3, seasonality=7, baseline_context=4)
    rows = windows([9, 1, 2, np.nan, 4], [5, 4, 3], [np.nan, np.nan])
    np.random.seed(1)
    expected = np.random.RandomState(1).rand(3).tolist()
    forecasts = found.forecast(rows, given)
    assert np.random.rand(3).tolist() == expected  # draws of others go on as they would
    from statsforecast.models import AutoETS  # type: ignore[import-not-found]

    assert AutoETS.asked == [([1, 2, 2, 4], 3, [80], 7), ([5, 4, 3], 3, [80], 7)]
    assert forecasts.shape == (3, 1 + len(LEVELS), 3)
    np.testing.assert_array_equal(forecasts[0], np.repeat([[4], [-4], [4], [12]], 3, axis=1))
    naive = baselines(["naive"], [np.array([5.0, 4.0, 3.0])], 3, LEVELS)["naive"][0]
    np.testing.assert_array_equal(forecasts[1, 1:], naive.T)
    assert not forecasts[2].any()
    (tally,) = found.take_notes()
    note = tally.note()
    assert note is not None and note.counts == {"rows": 1, "of": 3} and "1 of 3 rows" in note.text
    assert found.take_notes()[0].note() is None


def data(items: int = 6) -> TaskData:
    growing = np.arange(30.0)
    return TaskData([series(growing * (k + 1), item=f"i{k}") for k in range(items)], "generated")


def benchmark_run(tmp_path, seconds: float) -> BenchmarkRun:
    entrant = Entrant(StatisticalMethod("auto_ets"), "baseline:auto_ets", seconds=seconds)
    return BenchmarkRun([entrant], tmp_path, tmp_path, load=lambda _: data())


def test_what_takes_longer_than_its_time_has_failed_and_says_what_to_do(stand_in, tmp_path, monkeypatch):  # noqa: F811
    clock = count(0.0, 10.0)  # each look at it takes ten seconds
    timed = SimpleNamespace(monotonic=lambda: next(clock))
    for module in (run, scoring):
        monkeypatch.setattr(module, "time", timed)
    given = task(rule="gift-eval", horizon=2, num_windows=1)
    (short,), losses = benchmark_run(tmp_path, 45.0).losses(given)
    assert short.state == "failed" and list(losses) == ["seasonal_naive"] and short.metrics == {}
    assert short.error is not None and "the time was over after 3 of 6 batches" in short.error
    assert "It had 45 s for the task" in short.error and "--baseline-seconds" in short.error
    (enough,), losses = benchmark_run(tmp_path, 1000.0).losses(given)
    assert (enough.state, enough.error, enough.windows) == ("done", None, 6) and "auto_ets" in losses
    assert enough.identity == short.identity  # the limit decides no figure


def test_a_dry_run_times_a_few_fits_one_by_one(stand_in, tmp_path, monkeypatch):  # noqa: F811
    clock = count(0.0, 30.0)
    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    (trial,) = benchmark_run(tmp_path, 45.0).trials(task(rule="gift-eval", horizon=2, num_windows=1))
    from statsforecast.models import AutoETS  # type: ignore[import-not-found]

    assert len(AutoETS.asked) == 4 and (trial.seconds, trial.limit) == (60.0, 45.0)  # 30 s for three of six


def test_notes_of_a_task_that_failed_are_not_those_of_the_next(stand_in, tmp_path):  # noqa: F811
    given = task(rule="gift-eval", horizon=2, num_windows=1)
    method = StatisticalMethod("auto_ets")
    method.forecast(windows([5, 4, 3, 2]), given)  # replaced, and never told
    made = BenchmarkRun([Entrant(method, "baseline:auto_ets", seconds=1e6)], tmp_path, tmp_path, load=lambda _: data())
    (result,), _ = made.losses(given)
    assert result.state == "done" and not any("fitted" in note for note in result.notes)
    falling = TaskData([series(np.arange(30.0)[::-1] + 1)], "generated")
    (result,), _ = BenchmarkRun(made.entrants, tmp_path, tmp_path, load=lambda _: falling).losses(given)
    assert [note for note in result.notes if "AutoETS could not be fitted to 1 of 1 rows" in note]


@needs_extra
@pytest.mark.parametrize("name", STATISTICAL)
def test_the_package_s_models_beat_naive_on_a_season(name):
    months = np.arange(72)
    values = 50 + 10 * np.sin(months / 6 * np.pi) + np.random.default_rng(0).standard_normal(72)
    rows = TaskRows(task(rule="gift-eval", horizon=6, seasonality=12, num_windows=1), [series(values)])
    found = StatisticalMethod(name).forecast([rows.window(0, with_covariates=False)], rows.task)
    truth = values[-6:]
    assert np.abs(found[0, 2] - truth).mean() < 0.5 * np.abs(values[-7] - truth).mean()
    assert (np.diff(found[0, 1:], axis=0) > 0).all()
