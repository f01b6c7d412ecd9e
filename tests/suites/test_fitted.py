"""Contestants that are fitted: statistical models, with a stand-in for their package and with it, and a linear one."""

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
from foretrain.suites.fitted import StatisticalMethod, TaskLinear, examples_of
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


def walks(items: int = 4, steps: int = 90):
    rng = np.random.default_rng(5)
    season = 10 * np.sin(np.arange(steps) / 6 * np.pi)
    return [series(season + rng.normal(50, 1, steps), item=f"i{k}") for k in range(items)]


def linear_forecasts(rows: TaskRows) -> np.ndarray:
    contestant = TaskLinear()
    contestant.begin(rows)
    given = [rows.window(k, with_covariates=False) for k in range(len(rows.cuts))]
    return contestant.forecast(given, rows.task)


def test_the_linear_model_learns_a_season_from_steps_before_the_first_window_alone():
    given = task(rule="gift-eval", horizon=6, seasonality=12, num_windows=3)
    rows = TaskRows(given, walks())
    found = linear_forecasts(rows)
    truth = np.stack([rows.series[c.series].values[0, c.cutoff : c.cutoff + 6] for c in rows.cuts])
    assert np.abs(found[:, 0] - truth).mean() < 2.0 < np.abs(truth - 50).mean()
    noise = np.random.default_rng(6).normal(0, 100, 18)
    changed = [series(np.append(one.values[0, :72], noise), item=one.item_id) for one in walks()]
    after = linear_forecasts(TaskRows(given, changed))
    first = [k for k, cut in enumerate(rows.cuts) if cut.cutoff == 72]
    assert len(first) == 4 and not np.array_equal(found, after)
    np.testing.assert_array_equal(found[first], after[first])


def test_its_windows_are_those_of_histories_and_the_held_out_ones_overlap_with_none_of_the_others():
    rows = TaskRows(task(rule="gift-eval", horizon=6, seasonality=12, num_windows=3), walks(1))
    found = examples_of(rows)
    values = rows.series[0].values[0]
    assert found.contexts.shape == (72 - 6 - 12 + 1, 32) and found.futures.shape == (55, 6)
    np.testing.assert_array_equal(found.futures[0], values[12:18])
    np.testing.assert_array_equal(found.futures[-1], values[66:72])
    np.testing.assert_array_equal(found.contexts[-1], values[34:66])
    assert np.isnan(found.contexts[0, :20]).all() and not np.isnan(found.contexts[0, 20:]).any()
    assert found.held_out.sum() == 11 and np.flatnonzero(found.held_out)[0] - np.flatnonzero(found.old)[-1] == 6


def test_windows_with_missing_truth_are_left_out_and_short_histories_are_a_failure(tmp_path):
    values = walks(1)[0].values[0].copy()
    values[40] = np.nan
    given = task(rule="gift-eval", horizon=6, seasonality=12, num_windows=3)
    assert len(examples_of(TaskRows(given, [series(values)])).futures) == 55 - 6
    short = TaskData([series(np.arange(20.0))], "generated")
    made = BenchmarkRun([Entrant(TaskLinear(), "baseline:linear")], tmp_path, tmp_path, load=lambda _: short)
    (result,), _ = made.losses(task(rule="gift-eval", horizon=6, seasonality=12, num_windows=1))
    assert result.state == "failed" and result.error is not None
    assert "linear: no history before the first scored window has the 18 steps" in result.error


def test_each_task_is_fitted_anew_and_says_to_what(tmp_path):
    contestant = TaskLinear()
    entrant = Entrant(contestant, "baseline:linear")
    given = task(rule="gift-eval", horizon=6, seasonality=12, num_windows=3)
    figures = []
    for batch, items in ((256, walks()), (1, walks(2, 60)), (1, walks())):
        found = TaskData(items, "generated")
        made = BenchmarkRun([entrant], tmp_path, tmp_path, load=lambda _, d=found: d, batch_size=batch)
        (result,), _ = made.losses(given)
        figures.append(result.metrics["MASE"])
        assert sum("steps are regressed on 32 before them" in note for note in result.notes) == 1
    assert figures[0] == pytest.approx(figures[2], rel=1e-6) and figures[0] != figures[1]
    (trial,) = made.trials(given)
    assert trial.seconds is not None and trial.limit is None
