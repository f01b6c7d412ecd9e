"""Market suites on generated candles: figures by loops, Kronos among the contestants, and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, median

import numpy as np
import pytest
from tests.cli.test_app import foretrain
from tests.models.zoo import Zoo

from foretrain.data.frames import open_input
from foretrain.errors import DataError
from foretrain.suites.contestants import LoadedModel, SuiteNaive
from foretrain.suites.definition import tasks_of
from foretrain.suites.market import candles_of, market_data
from foretrain.suites.rows import TaskRows
from foretrain.suites.scoring import score_task

COLUMNS = ("Open", "High", "Low", "Close", "Vol")
TASKS = {task.name: task for task in tasks_of("market-daily")}


def candles(steps: int = 200, seed: int = 0) -> np.ndarray:
    """Open, high, low, close and volume of a walk (steps, 5)."""
    rng = np.random.default_rng(seed)
    close = 50 * np.exp(np.cumsum(rng.normal(0.001, 0.02, steps)))
    opened = close * np.exp(rng.normal(0, 0.005, steps))
    high, low = np.maximum(opened, close) * 1.01, np.minimum(opened, close) * 0.99
    return np.stack([opened, high, low, close, rng.integers(1, 9, steps) * 100.0], axis=1).round(4)


def write(folder: Path, name: str, bars: np.ndarray, columns=COLUMNS) -> None:
    days = np.busday_offset("2020-01-01", np.arange(len(bars)), roll="forward")
    rows = [f"{day},{','.join(map(repr, bar))}" for day, bar in zip(days, bars.tolist(), strict=True)]
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.csv").write_text("\n".join([f"Date,{','.join(columns)}", *rows]) + "\n")


@pytest.fixture
def one(tmp_path) -> Path:
    write(tmp_path / "one", "AAA", candles())
    return tmp_path / "one"


def data_of(path: Path, task: str, chosen: list[int] | None = None):
    return market_data(TASKS[task], candles_of(open_input(path).corpus, str(path)), chosen)


class Up:
    """The last close, half a percent higher; quantiles a percent of it apart."""

    name, takes_covariates = "up", True

    def forecast(self, windows, task):
        last = np.array([window.history[0][-1] for window in windows])
        levels = np.array([0.5, *task.suite.quantile_levels])
        rows = last[:, None] * (1.005 + 0.1 * (levels - 0.5))
        return np.repeat(rows[:, :, None], task.definition.horizon, axis=2)


def by_loops(close: list[float], horizon: int, windows: int) -> dict[str, float]:
    percent, errors, returns, relative, inside, right, up = [], [], [], [], [], [], []
    for window in range(windows):
        cutoff = len(close) - horizon * (windows - window)
        last = close[cutoff - 1]
        for y in close[cutoff : cutoff + horizon]:
            error = y - last * 1.005
            errors.append(error)
            percent.append(100 * error / last)
            returns.append(100 * (y - last) / last)
            inside.append(last * 0.965 <= y <= last * 1.045)
            if y != last:
                relative.append(100 * abs(error) / abs(y - last))
                right.append(y > last)
                up.append(y > last)
    squared, centre = fmean(x * x for x in percent), fmean(returns)
    return {
        "pct_mae": fmean(map(abs, percent)), "pct_mse": squared, "pct_rmse": squared**0.5, "pct_mape": fmean(relative),
        "pct_r2": 1 - squared / fmean((x - centre) ** 2 for x in returns), "coverage_80_share": fmean(inside),
        "price_mae": fmean(map(abs, errors)), "price_mse": fmean(x * x for x in errors),
        "price_rmse": fmean(x * x for x in errors) ** 0.5, "direction_accuracy_share": fmean(right),
        "direction_up_share": fmean(up),
    }  # fmt: skip


@pytest.mark.parametrize(("task", "horizon", "windows"), [("close/1", 1, 60), ("close/5", 5, 24)])
def test_figures_are_those_of_loops(one: Path, task: str, horizon: int, windows: int):
    found = score_task(Up(), TASKS[task], data_of(one, task).series)
    stored = candles()[:, 3].astype(np.float32)  # as corpora do
    expected = by_loops(stored.astype(np.float64).tolist(), horizon, windows)
    assert {name: found.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert found.metrics["WQL"] > 0 and found.metrics["MASE"] > 0 and found.windows == windows


def test_errors_of_several_items_in_their_currencies_are_not_averaged_but_percents_are(tmp_path):
    for seed in range(3):
        write(tmp_path / "many", f"A{seed}", candles(seed=seed) * 10.0**seed)
    found = score_task(Up(), TASKS["close/1"], data_of(tmp_path / "many", "close/1").series).metrics
    assert all(np.isnan(found[name]) for name in ("price_mae", "price_mse", "price_rmse"))
    each = [by_loops((candles(seed=seed)[:, 3] * 10.0**seed).tolist(), 1, 60)["pct_mae"] for seed in range(3)]
    assert found["pct_mae"] == pytest.approx(fmean(each), rel=1e-4) and median(each) > 0.5


def test_naive_names_no_direction_and_its_returns_are_missed_by_all_of_them(one: Path):
    found = score_task(SuiteNaive(), TASKS["close/5"], data_of(one, "close/5").series).metrics
    assert np.isnan(found["direction_accuracy_share"]) and found["pct_mape"] == pytest.approx(100)
    assert found["pct_r2"] <= 0 and 0.5 < found["coverage_80_share"] < 1


def test_percents_of_a_whole_candle_are_of_its_last_close(one: Path):
    rows = TaskRows(TASKS["ohlc/5"], data_of(one, "ohlc/5").series)
    last = rows.instances(np.ones((len(rows), 10, 5))).last
    bars = candles()
    assert last is not None and last[:4].tolist() == pytest.approx([bars[200 - 24 * 5 - 1, 3]] * 4, rel=1e-6)


def test_kronos_reads_the_whole_candle_and_other_contestants_its_other_columns(zoo: Zoo, one: Path):
    data, task = data_of(one, "close/1"), TASKS["close/1"]
    assert data.covariates is not None and data.covariates.past == ("open", "high", "low", "volume")
    assert data.covariates.absent == ("amount",)
    rows = TaskRows(task, data.series, data.covariates)
    rows.cuts, rows.widths = rows.cuts[-3:], rows.widths[-3:]
    windows = [rows.window(k, with_covariates=True) for k in range(3)]
    model = LoadedModel("small", zoo.shared("kronos"), takes_covariates=True)  # type: ignore[arg-type]
    found = model.forecast(windows, task)
    assert found.shape == (3, 10, 1) and np.isfinite(found).all()
    both = zip(found[:, 0, 0], windows, strict=True)
    assert all(0.3 * w.history[0].min() < point < 3 * w.history[0].max() for point, w in both)


def test_data_without_candles_and_prices_that_are_none_are_refused(tmp_path):
    write(tmp_path / "lacking", "AAA", candles()[:, :4], ("Open", "High", "Bottom", "Close"))
    with pytest.raises(DataError, match="has no column 'low'"):
        data_of(tmp_path / "lacking", "close/1")
    bars = candles()
    bars[7, :4] = -1.0
    write(tmp_path / "zero", "AAA", bars)
    write(tmp_path / "zero", "BBB", candles(seed=1))
    with pytest.raises(DataError, match="prices that are not above 0"):
        data_of(tmp_path / "zero", "close/1")
    found = data_of(tmp_path / "zero", "close/1", [1])
    assert [one.item_id for one in found.series] == ["BBB"] and found.own is not None and found.own.items == (1,)
    assert found.covariates is not None and found.part == "1 of 2 items of zero, chosen by --items."
    close = found.covariates.of(0, 0, 3, 3, found.series[0].values[0]).past["open"]
    assert close == pytest.approx(candles(seed=1)[:3, 0], rel=1e-6)


def test_the_command_scores_baselines_and_prints_units(one: Path, tmp_path, capsys):
    words = ("naive", "drift", "--suite", "market-daily", "--task", "close/1", "--data", one)
    foretrain("benchmark", *words, "--out", tmp_path / "out")
    said = capsys.readouterr().out
    assert "percent of the last close" in said and "went up" in said and "2 scored" in said
    found = json.loads((tmp_path / "out" / "drift" / "market-daily" / "close--1.json").read_text())
    assert found["metrics"]["pct_mae"] > 0 and found["baseline"]["direction_accuracy_share"] is None


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["naive", "--suite", "market-daily"], "give --data"),
        (["naive", "--suite", "market-daily", "--suite", "ltsf", "--data", "x"], "is scored alone"),
        (["naive", "--suite", "market-daily", "--data", "ONE", "--horizon", "3"], "--horizon: has no effect"),
        (["naive", "--suite", "market-daily", "--data", "ONE", "--option", "top_k=1"], "--option: has no effect"),
        (["naive", "--suite", "market-daily", "--data", "ONE", "--tokenizer", "x"], "--tokenizer: has no effect"),
        (["tiny", "--suite", "market-daily", "--data", "ONE", "--option", "top_x=1"], "no forecast option 'top_x'"),
        (["naive", "--suite", "market-daily", "--data", "ONE", "--context", "9"], "--context: has no effect"),
        (["naive", "--suite", "market-daily", "--data", "ONE", "--items", "B*"], "no item of one matches 'B*'"),
        (["naive", "--suite", "market-daily", "--data", "ONE", "--items", "unseen"], "training of one model"),
        (["naive", "--suite", "chronos-lite", "--items", "B*"], "--items: names items of --data"),
        (["--self-check", "--suite", "market-daily"], "no figures are published"),
    ],
)
def test_choices_without_effect_are_refused(words, reason, one: Path, capsys):
    foretrain("benchmark", *(one if word == "ONE" else word for word in words), code=2)
    assert reason in capsys.readouterr().err
