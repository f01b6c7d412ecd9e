"""Statistical baselines, where the extra `baselines` is installed; what is said where it is not."""

from __future__ import annotations

import importlib.util
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
from tests.cli.test_app import foretrain

from foretrain.errors import ConfigError
from foretrain.evaluation import backtest, statistical, tasks
from foretrain.evaluation.baselines import STATISTICAL, baselines
from foretrain.evaluation.statistical import statistical_baseline
from foretrain.evaluation.tasks import evaluate
from foretrain.notes import Code, codes

LEVELS = (0.1, 0.5, 0.9)
needs_extra = pytest.mark.skipif(
    importlib.util.find_spec("statsforecast") is None, reason="statsforecast is not installed (extra `baselines`)"
)


def test_without_the_extra_one_line_says_how_to_install_it(persistence, hourly, monkeypatch):
    without = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))
    monkeypatch.setattr(statistical, "importlib", without)
    with pytest.raises(ConfigError, match=r"auto_ets needs statsforecast.*pip install 'foretrain\[baselines\]'"):
        statistical_baseline("auto_ets", [np.arange(20.0)], 2, LEVELS, 1)
    model = persistence()
    with pytest.raises(ConfigError, match="auto_arima needs statsforecast"):
        evaluate(model, hourly(1, 60), prediction_length=2, compare=["naive", "auto_arima"])
    assert not model.seen


def test_the_command_refuses_unknown_names_and_a_time_for_nothing(tmp_path, capsys):
    foretrain("evaluate", "none", "--data", "none", "--baselines", "naive,arima", code=2)
    assert "'arima' is not a baseline. Did you mean 'auto_arima'" in capsys.readouterr().err
    foretrain("evaluate", "none", "--data", "none", "--baseline-seconds", 5, code=2)
    assert "--baseline-seconds: has no effect" in capsys.readouterr().err


def test_what_a_fit_gives_becomes_quantiles_and_what_it_cannot_is_naive(monkeypatch):
    """With a stand-in for the package: levels are sides of intervals, and holes hold the last value before them."""
    asked = []

    def fit(values, horizon, widths, season):
        asked.append((values.tolist(), widths, season))
        if len(values) < 4:
            raise NotImplementedError("tiny datasets")
        sides = {f"{side}-{width}": np.full(horizon, width) for width in widths for side in ("lo", "hi")}
        return {"mean": np.full(horizon, values[-1])} | sides

    monkeypatch.setattr(statistical, "_fit", lambda name: fit)
    monkeypatch.setattr(statistical, "check_names", lambda names: None)
    contexts = [np.array([np.nan, 1.0, 2.0, np.nan, 4.0]), np.array([1.0, 5.0]), np.full(3, np.nan)]
    found = statistical_baseline("auto_ets", contexts, 2, (0.05, 0.1, 0.5, 0.9), 7)
    assert asked[0] == ([1.0, 2.0, 2.0, 4.0], [80, 90], 7)
    assert found.quantiles[0].tolist() == [[90, 80, 4, 80]] * 2
    naive = baselines(["naive"], contexts[1:2], 2, (0.05, 0.1, 0.5, 0.9))["naive"][0]
    np.testing.assert_array_equal(found.quantiles[1], naive)
    assert np.isnan(found.quantiles[2]).all() and found.replaced == 1


def test_more_than_the_time_allows_is_a_sample_of_items_that_max_items_draws_again(persistence, hourly, monkeypatch):
    clock = count(0.0, 2.0)  # two seconds a fit
    monkeypatch.setattr(statistical, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(statistical, "check_names", lambda names: None)
    monkeypatch.setattr(tasks, "check_names", lambda names: None)
    monkeypatch.setattr(backtest, "check_names", lambda names: None)

    def fit(values, horizon, *_):
        return {"mean": np.full(horizon, values[-1]), "lo-80": np.zeros(horizon), "hi-80": np.full(horizon, 9.0)}

    monkeypatch.setattr(statistical, "_fit", lambda name: fit)
    how = {"prediction_length": 2, "num_windows": 1, "compare": ("naive", "auto_theta"), "quantile_levels": LEVELS}
    corpus = hourly(20, 250)
    limited = evaluate(persistence(), corpus, baseline_seconds=10.0, **how)
    assert limited.counts["items"] == 5  # of 20 items, 40 s
    (note,) = [note for note in limited.warnings if note.code == Code.BASELINES_SAMPLED]
    assert note.counts == {"items": 5, "of": 20} and "--max-items 5" in note.text
    again = evaluate(persistence(), corpus, max_items=5, **how)
    assert again.items == limited.items and Code.BASELINES_SAMPLED not in codes(again.warnings)
    assert limited.labels["auto_theta"] == "AutoTheta" and limited.pooled == again.pooled


@needs_extra
@pytest.mark.parametrize("name", ["auto_ets", "auto_theta", "dynamic_optimized_theta", "auto_arima"])
def test_the_package_s_forecasts_are_ordered_finite_and_follow_the_season(name):
    months = np.arange(102)
    truth = 50 + 10 * np.sin(months / 6 * np.pi)
    values = truth[:96] + np.random.default_rng(0).standard_normal(96)
    found = statistical_baseline(name, [values, np.array([1.0])], 6, LEVELS, 12)
    quantiles = found.quantiles[0]
    assert np.isfinite(found.quantiles).all() and (np.diff(quantiles, axis=1) > 0).all()
    assert np.abs(quantiles[:, 1] - truth[96:]).max() < 3
    assert found.replaced == (0 if name == "auto_arima" else 1)
    assert set(STATISTICAL) >= {name}


@needs_extra
def test_an_evaluation_has_them_beside_naive(persistence, hourly):
    how = {"prediction_length": 2, "num_windows": 2, "compare": ("dynamic_optimized_theta",)}
    result = evaluate(persistence(), hourly(2, 60), **how)
    assert {"naive", "dynamic_optimized_theta"} <= result.pooled.keys()
    assert all(np.isfinite(result.pooled["dynamic_optimized_theta"][metric]) for metric in ("mase", "wql"))
