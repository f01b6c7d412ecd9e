"""Scores of contestants on small tasks, with figures worked out here by loops."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.models.zoo import Zoo
from tests.suites.tasks import LEVELS, series, task
from tests.waiting import DEADLINE

from foretrain.distributed.world import World
from foretrain.errors import DataError
from foretrain.suites.contestants import LoadedModel, SuiteNaive, baseline
from foretrain.suites.rows import TaskRows
from foretrain.suites.scoring import ForecastFailed, OutOfTime, batches_of, score_task

FIGURES = {"MASE": "MASE[0.5]", "WQL": "mean_weighted_sum_quantile_loss", "MSE": "MSE[mean]"}


def panel(count: int = 23, seed: int = 0):
    """Walks of unlike lengths with gaps; every third has two variates."""
    rng = np.random.default_rng(seed)
    found = []
    for k in range(count):
        variates = ("x", "y") if k % 3 == 2 else ("x",)
        values = 30 + rng.standard_normal((len(variates), 40 + 3 * (k % 7))).cumsum(axis=1)
        values[rng.random(values.shape) < 0.05] = np.nan
        found.append(series(values, item=f"walk {k}", variates=variates))
    return found


def small(**changes):
    return task(rule="gift-eval", metrics=FIGURES, **{"horizon": 4, "seasonality": 3, "num_windows": 2} | changes)


class Shifted:
    """The newest value plus a shift, with quantiles a step around it; counts its calls."""

    takes_covariates = False

    def __init__(self, shift: float = 0.0, name: str = "shifted") -> None:
        self.name, self.shift, self.calls = name, shift, list[int]()

    def forecast(self, windows, task):
        rows = [row[np.isfinite(row)][-1] for window in windows for row in window.history]
        self.calls.append(len(rows))
        point = np.array(rows)[:, None, None] + self.shift
        return point + np.array([0.0, -1.0, 0.0, 1.0])[:, None] + np.zeros(task.definition.horizon)


def by_loops(shift: float) -> dict[str, float]:
    """The metrics of Shifted on the panel, in gluonts' way: everything pooled over observed steps."""
    scaled, losses, sizes, squares = [], [], [], []
    for item in panel():
        for values, back in itertools.product(item.values, (8, 4)):
            past, future = values[: len(values) - back], values[len(values) - back :][:4]
            gaps = [abs(past[t] - past[t - 3]) for t in range(3, len(past))]
            scale = np.mean([gap for gap in gaps if np.isfinite(gap)])
            point = next(v for v in past[::-1] if np.isfinite(v)) + shift
            for y in future[np.isfinite(future)]:
                scaled.append(abs(y - point) / scale)
                quantiles = zip(LEVELS, (point - 1, point, point + 1), strict=True)
                losses.append(np.mean([2 * max(q * (y - f), (q - 1) * (y - f)) for q, f in quantiles]))
                sizes.append(abs(y))
                squares.append((y - point) ** 2)
    return {"MASE": np.mean(scaled), "WQL": np.sum(losses) / np.sum(sizes), "MSE": np.mean(squares)}


@pytest.mark.parametrize("shift", [0.0, 2.5])
def test_metrics_are_those_of_loops_over_every_window_and_variate(shift):
    found = score_task(Shifted(shift), small(), panel(), batch_size=5)
    assert found.metrics == pytest.approx(by_loops(shift), rel=1e-12)
    assert (found.series, found.windows, found.variates, found.forecasts) == (23, 46, 2, 2 * (23 + 7))


def test_a_contestant_sees_no_value_after_the_cutoff_and_at_most_the_context_of_the_task():
    seen = []

    class Watching(Shifted):
        def forecast(self, windows, task):
            seen.extend((w.item_id, w.cutoff, w.history.copy()) for w in windows)
            return super().forecast(windows, task)

    items = panel()
    score_task(Watching(), small(max_context=10), items)
    by_id = {item.item_id: item for item in items}
    assert len(seen) == 46
    for item_id, cutoff, history in seen:
        np.testing.assert_array_equal(history, by_id[item_id].values[:, cutoff - 10 : cutoff])
        assert cutoff <= by_id[item_id].values.shape[1] - 4


def test_no_call_has_more_rows_than_the_batch_size_and_long_windows_come_first():
    contestant, rows = Shifted(), TaskRows(small(), panel(90))
    score_task(contestant, small(), panel(90), batch_size=7)
    assert sum(contestant.calls) == len(rows) and max(contestant.calls) <= 7
    batches = batches_of(rows, 7)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(rows.cuts)))
    steps = rows.steps()[np.concatenate(batches)]
    assert (np.diff(steps) <= 0).all()


@pytest.mark.parametrize("name", ["naive", "drift", "mean", "seasonal_naive"])
def test_baselines_score_a_panel_with_gaps_and_an_empty_history(name):
    items = [*panel(3), series([np.nan] * 30 + [1.0] * 8, item="empty"), series(np.arange(40.0), item="line")]
    found = score_task(baseline(name), small(baseline_seasonality=1), items)
    assert all(np.isfinite(value) for value in found.metrics.values())


def test_drift_is_perfect_on_a_line_and_naive_is_off_by_the_steps_ahead():
    line = [series(np.arange(40.0), item="line")]
    assert score_task(baseline("drift"), small(), line).metrics["MASE"] == pytest.approx(0, abs=1e-12)
    assert score_task(baseline("naive"), small(), line).metrics["MASE"] == pytest.approx((1 + 2 + 3 + 4) / 4 / 3)


@pytest.mark.parametrize("family", ["chronos2", "toto"])
def test_the_score_of_a_model_depends_on_neither_batches_nor_the_order_of_items(zoo: Zoo, family):
    model = LoadedModel("small", zoo.shared(family))  # type: ignore[arg-type]
    items = panel()
    figures = [
        score_task(model, small(), items, batch_size=1).metrics,
        score_task(model, small(), items, batch_size=256).metrics,
        score_task(model, small(), [items[k] for k in np.random.default_rng(1).permutation(23)]).metrics,
    ]
    assert figures[0] == pytest.approx(figures[1], rel=1e-6) and figures[2] == pytest.approx(figures[1], rel=1e-6)


def test_the_mean_of_sampled_paths_is_the_point_only_where_a_metric_scores_the_mean(zoo: Zoo):
    model = LoadedModel("small", zoo.shared("toto"))  # type: ignore[arg-type]
    items = panel(4)
    with_mean, without = TaskRows(small(), items), TaskRows(task(rule="gift-eval", horizon=4, num_windows=2), items)
    windows = [with_mean.window(k, with_covariates=False) for k in range(len(with_mean.cuts))]
    mean, median = (model.forecast(windows, rows.task) for rows in (with_mean, without))
    np.testing.assert_array_equal(mean[:, 1:], median[:, 1:])
    np.testing.assert_array_equal(median[:, 0], median[:, 2])
    assert (mean[:, 0] != median[:, 0]).mean() > 0.9


def test_a_shorter_context_of_a_model_is_kept(zoo: Zoo):
    items = panel(6)
    long, short = (LoadedModel("m", zoo.shared("chronos2"), context_length=c) for c in (None, 8))  # type: ignore[arg-type]
    cut = score_task(long, small(max_context=8), items)
    assert score_task(short, small(), items).metrics["WQL"] == pytest.approx(cut.metrics["WQL"], rel=1e-6)
    assert score_task(long, small(), items).metrics["WQL"] != pytest.approx(cut.metrics["WQL"], rel=1e-3)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (lambda found: found[:, :2], r"broken: forecasts have shape \(\d+, 2, 4\); \(N, 1 \+ Q, H\) is \(\d+, 4, 4\)"),
        (lambda found: found * np.nan, "broken: 60 of 60 forecasts are not finite, first that of item 'walk 0' from"),
        (lambda found: 1 / 0, "broken: raised ZeroDivisionError: division by zero"),
    ],
)
def test_a_failing_contestant_is_said_in_a_line(fault, text):
    class Broken(Shifted):
        def forecast(self, windows, task):
            return fault(super().forecast(windows, task))

    with pytest.raises(ForecastFailed, match=text):
        score_task(Broken(name="broken"), small(), panel())


def test_time_that_is_over_ends_a_task_before_the_next_batch():
    contestant = Shifted()
    with pytest.raises(OutOfTime, match="shifted: the time was over"):
        score_task(contestant, small(), panel(), until=time.monotonic())
    assert not contestant.calls


def test_series_without_a_window_are_an_error_of_the_data():
    with pytest.raises(DataError, match="its windows need"):
        score_task(SuiteNaive(), small(), [series([1.0, 2.0])])


_WORKER = """
import importlib.util, json, sys
sys.path.insert(0, sys.argv[1])
spec = importlib.util.spec_from_file_location("told", sys.argv[2])
told = importlib.util.module_from_spec(spec)
spec.loader.exec_module(told)
from foretrain.distributed.world import World
from tests.waiting import end
with World.start("cpu", 1) as world:
    print(json.dumps(told.in_a_world(world, sys.argv[3])), flush=True)
    world.barrier()
end()
"""


class FailsOnRank1(Shifted):
    """Raises an error on rank 1."""

    def __init__(self, rank: int) -> None:
        super().__init__(name="faulty")
        self.rank = rank

    def forecast(self, windows, task):
        if self.rank == 1:
            raise ZeroDivisionError("on one rank")
        return super().forecast(windows, task)


def in_a_world(world: World, folder: str):
    """Figures of a model and of a function, the share of rows forecast here, and what the failure of rank 1 says."""
    items, contestant = panel(90), Shifted(1.0)
    model = LoadedModel("small", Zoo(Path(folder)).shared("chronos2"))  # type: ignore[arg-type]
    figures = [
        score_task(model, small(), items[:23], batch_size=9, world=world).metrics,
        score_task(contestant, small(), items, batch_size=16, world=world).metrics,
        sum(contestant.calls),
    ]
    for broken, until in ((FailsOnRank1(world.rank), None), (Shifted(), 0.0 if world.rank == world.size - 1 else 1e18)):
        try:
            score_task(broken, small(), items, world=world, until=until)
        except (ForecastFailed, OutOfTime) as error:
            figures.append(f"{type(error).__name__}: {error}")
    return figures


@pytest.mark.processes
@pytest.mark.parametrize("size", [2, 4])
def test_processes_share_the_windows_and_agree_on_scores_and_errors(size, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "WORLD_SIZE": str(size)}
    root = str(Path(__file__).parents[2])
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, root, __file__, str(tmp_path / str(k))],
            cwd=root,
            env={**base, "RANK": str(k), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for k in range(size)
    ]
    alone = in_a_world(World(), str(tmp_path / "alone"))
    outputs = [json.loads(worker.communicate(timeout=DEADLINE)[0].splitlines()[-1]) for worker in workers]
    for found in outputs:
        assert found[0] == pytest.approx(alone[0], rel=1e-6) and found[1] == pytest.approx(alone[1], rel=1e-12)
        assert 0 < found[2] < alone[2]
        assert found[3:] == outputs[0][3:]
    assert sum(found[2] for found in outputs) == alone[2]
    assert outputs[0][3] == "ForecastFailed: faulty: raised ZeroDivisionError: on one rank."
    assert outputs[0][4].startswith("OutOfTime: shifted: the time was over")
