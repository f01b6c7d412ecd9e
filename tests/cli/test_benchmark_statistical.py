"""Fitted baselines in `foretrain benchmark` and `compare`, with a stand-in for statsforecast."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.cli.test_app import foretrain
from tests.suites.fake_statsforecast import of_stand_in, stand_in  # noqa: F401
from tests.suites.shipped import WALKS, suites  # noqa: F401

from foretrain.evaluation import statistical

FALLING = sum(column[cut - 1] < column[0] for column in WALKS.T for cut in (34, 37))  # histories the stand-in refuses


def result(*parts: str) -> dict:
    return json.loads(Path("results").joinpath(*parts).read_text())


def benchmark(root: Path, *words: object, code: int = 0) -> None:
    foretrain("benchmark", *words, "--data-root", root, "--out", "results", "--threads", 1, code=code)


def test_they_are_scored_like_others_and_say_what_naive_replaces(suites, stand_in, tmp_path, capsys):  # noqa: F811
    words = ("auto_ets", "naive", "--suite", "pooled", "--task", "walks")
    benchmark(suites, *words)
    assert of_stand_in(tmp_path) and 0 < FALLING < 10
    found, naive = (result(name, "pooled", "walks.json") for name in ("auto_ets", "naive"))
    assert found["metrics"]["MASE"] == pytest.approx(naive["metrics"]["MASE"], rel=1e-12)  # both: the newest value
    assert found["metrics"]["WQL"] != naive["metrics"]["WQL"]
    facts = ("state", "windows", "point", "dtype", "device", "num_parameters", "max_items", "trained_on")
    assert [found[name] for name in facts] == ["done", 10, "median", "float64", "cpu", None, None, []]
    said = f"AutoETS could not be fitted to {FALLING} of 10 rows, which have naive's"
    assert [note for note in found["notes"] if said in note] and said in capsys.readouterr().out


def test_the_package_s_version_decides_whether_a_result_is_kept(suites, stand_in, capsys):  # noqa: F811
    words = ("auto_ets", "--suite", "pooled", "--task", "walks")
    benchmark(suites, *words)
    benchmark(suites, *words, "--baseline-seconds", 5)
    assert "0 scored, 1 kept" in capsys.readouterr().out
    before = result("auto_ets", "pooled", "walks.json")
    stand_in("2.0")
    benchmark(suites, *words)
    assert "1 scored, 0 kept" in capsys.readouterr().out
    after = result("auto_ets", "pooled", "walks.json")
    hashes = [one["model_hash"] for one in (before, after)]
    assert hashes == ["baseline:auto_ets, statsforecast 1.0", "baseline:auto_ets, statsforecast 2.0"]
    assert before["identity"] != after["identity"] and before["metrics"] == after["metrics"]


def test_out_of_time_is_a_failure_and_a_dry_run_says_so_before(suites, stand_in, monkeypatch, capsys):  # noqa: F811
    words = ("auto_ets", "naive", "--suite", "pooled", "--task", "walks")
    monkeypatch.setattr("foretrain.cli.benchmark_models.USUAL_SECONDS", 1e-9)
    benchmark(suites, *words, "--dry-run")
    over = [line for line in capsys.readouterr().out.splitlines() if "so one process would fail" in line]
    assert len(over) == 1 and over[0].startswith("  auto_ets: about") and "(--baseline-seconds)" in over[0]
    benchmark(suites, *words, code=1)
    found = result("auto_ets", "pooled", "walks.json")
    assert (found["state"], found["imputed"]) == ("failed", True)
    assert "auto_ets: the time was over after 0 of 10 batches" in found["error"]
    assert found["error"] in capsys.readouterr().out
    benchmark(suites, *words, "--baseline-seconds", 3600)
    assert "1 scored, 1 kept, 0 failed" in capsys.readouterr().out


def test_they_are_compared_on_the_same_windows(suites, stand_in, capsys):  # noqa: F811
    words = ("auto_ets", "auto_theta", "linear", "naive", "--suite", "single", "--data-root", suites, "--threads", 1)
    foretrain("compare", *words, "--json", "out.json")
    found = json.loads(Path("out.json").read_text())
    assert set(found["models"]) == {"auto_ets", "auto_theta", "linear", "naive", "seasonal_naive"}
    (task,) = found["tasks"]
    figures = task["figures"]
    assert figures["auto_ets"]["MASE"] == pytest.approx(figures["naive"]["MASE"], rel=1e-12)
    assert np.isfinite(figures["auto_ets"]["SQL"])
    pairs = {(test["model"], test["other"]) for test in found["tests"]}
    assert ("auto_ets", "naive") in pairs and len(pairs) == 10
    said = capsys.readouterr().out
    assert "AutoTheta could not be fitted" in said and "3 steps are regressed on 32 before them" in said


@pytest.mark.parametrize("verb", ["benchmark", "compare"])
def test_without_the_extra_or_with_a_time_for_nothing_one_line_says_so(verb, suites, monkeypatch, capsys):  # noqa: F811
    words = ("--suite", "single", "--data-root", suites)
    foretrain(verb, "naive", *words, "--baseline-seconds", 5, code=2)
    assert "--baseline-seconds: has no effect without one of auto_ets" in capsys.readouterr().err
    without = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))
    monkeypatch.setattr(statistical, "importlib", without)
    foretrain(verb, "naive", "auto_arima", *words, code=2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: auto_arima needs statsforecast, which is not installed")
    assert not Path("results").exists()


def test_a_package_that_cannot_be_imported_is_one_line(suites, stand_in, tmp_path, capsys):  # noqa: F811
    (tmp_path / "statsforecast" / "models.py").write_text("import no_such_module_here\n")
    benchmark(suites, "auto_ets", "--suite", "single", code=2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "cannot be imported (No module named 'no_such_module_here')" in said
