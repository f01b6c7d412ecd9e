"""The self-check on generated data, whose figures are worked out here by loops; and `foretrain benchmark`."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from tests.cli.test_app import foretrain

from foretrain.suites import definition, published
from foretrain.suites.definition import tasks_of
from foretrain.suites.self_check import TOLERANCE, FigureCheck, agreeing_digits, check_task

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SUITE = """
title: two small tasks
origin: this test
licence: none
hub: {repository: someone/sets, layout: parquet}
rule: RULE
baseline: BASELINE
metrics_of: MODE
metrics: {MASE: "MASE_OF", WQL: "WQL_OF"}
eval_metric: WQL
quantile_levels: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
published: small.csv
tasks:
  walks:
    {horizon: 3, freq: D, seasonality: 2, num_windows: 2, TARGETS dataset: walks, raw: {source: walks, split: SPLIT}}
  other: {horizon: 3, freq: D, seasonality: 2, dataset: other}
"""
SOURCES = "walks: {reader: columns, files: [walks.txt], origin: github.com/someone/data, licence: none}\n"
WALKS = np.cumsum(np.random.default_rng(3).standard_normal((40, 2)), axis=0).round(3) + 20


def naive(past: np.ndarray, normal: bool):
    """Point and quantiles of three steps of the seasonal naive of period 2."""
    errors = [past[t] - past[t - 2] for t in range(2, len(past))]
    sigma = math.sqrt(sum(e * e for e in errors) / len(errors)) if normal else 0.0
    for h in range(3):
        point = past[len(past) - 2 + h % 2]
        width = sigma * math.sqrt(h // 2 + 1)
        yield point, [point + NormalDist().inv_cdf(level) * width for level in LEVELS]


def figures(rule: str) -> dict[str, float]:
    """MASE and WQL of the walks by loops: gluonts' over one window a series, or fev's over two of two variates."""
    cutoffs, pooled = ([37], True) if rule == "offset" else ([34, 37], False)
    windows = []
    for cutoff in cutoffs:
        parts = []
        for column in WALKS.T:
            past, future = column[:cutoff], column[cutoff : cutoff + 3]
            scale = np.mean([abs(past[t] - past[t - 2]) for t in range(2, cutoff)])
            forecasts = list(naive(past, normal=not pooled))
            mase = np.mean([abs(y - point) / scale for y, (point, _) in zip(future, forecasts, strict=True)])
            loss = [
                sum(2 * max(q * (y - f), (q - 1) * (y - f)) for q, f in zip(LEVELS, levels, strict=True)) / 9
                for y, (_, levels) in zip(future, forecasts, strict=True)
            ]
            parts.append((mase, np.sum(loss), np.sum(np.abs(future))))
        mase, loss, size = np.transpose(parts)
        windows.append((mase.mean(), loss.sum() / size.sum() if pooled else (loss / size).mean()))
    return dict(zip(("MASE", "WQL"), np.mean(windows, axis=0).tolist(), strict=True))


@pytest.fixture(params=["offset", "fev"])
def suite(request, tmp_path, monkeypatch) -> Iterator[Path]:
    """A data root; the shipped definitions are replaced by a suite `small` with the figures of this file."""
    rule = request.param
    point = rule == "offset"
    words = {
        "RULE": rule, "BASELINE": "point" if point else "statsforecast-normal", "SPLIT": str(point).lower(),
        "TARGETS": "" if point else 'targets: ["0", "1"],',
        "MODE": "gluonts" if point else "fev", "MASE_OF": "MASE[0.5]" if point else "MASE",
        "WQL_OF": "mean_weighted_sum_quantile_loss" if point else "WQL",
    }  # fmt: skip
    text = SUITE
    for word, value in words.items():
        text = text.replace(word, value)
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "small.yaml").write_text(text)
    (folder / "sources.yaml").write_text(SOURCES)
    write_figures(folder, figures(rule))
    monkeypatch.setattr(definition, "FOLDER", folder)
    monkeypatch.setattr(published, "FOLDER", folder)
    caches = (definition._read, definition.raw_sources, published.published_table)
    for cached in caches:
        cached.cache_clear()
    root = tmp_path / "data"
    root.mkdir()
    (root / "walks.txt").write_text("\n".join(",".join(map(str, row)) for row in WALKS.tolist()) + "\n")
    yield root
    for cached in caches:
        cached.cache_clear()


def write_figures(folder: Path, found: dict[str, float]) -> None:
    row = ",".join(map(repr, found.values()))
    (folder / "small.csv").write_text(
        f"# Seasonal naive as published: a test\ntask,MASE,WQL\nwalks,{row}\nother,1.0,1.0\n"
    )
    published.published_table.cache_clear()


def test_figures_worked_out_by_loops_agree_to_twelve_digits(suite: Path):
    check = check_task(tasks_of("small")[0], suite)
    assert check.state == "agreed" and check.digits >= 12
    assert check.series == (2 if tasks_of("small")[0].suite.rule == "offset" else 1)


def test_agreement_is_exit_code_0_and_json_has_every_task(suite: Path, tmp_path: Path, capsys):
    foretrain("benchmark", "--self-check", "--data-root", suite, "--json", tmp_path / "check.json")
    found = json.loads((tmp_path / "check.json").read_text())
    assert found["counts"] == {"agreed": 1, "disagreed": 0, "failed": 0, "absent": 1}
    assert found["published"] == {"small": "a test"} and found["tolerance"] == TOLERANCE
    walks, other = found["tasks"]
    assert walks["metrics"]["MASE"]["found"] == pytest.approx(walks["metrics"]["MASE"]["published"], rel=1e-12)
    assert other["state"] == "absent" and str(suite / "sets") in other["remedy"]
    said = capsys.readouterr().out
    assert "1 of 2 tasks have data: 1 agreed" in said and "put data sets of someone/sets" in said


def test_json_may_go_to_stdout_and_all_else_then_goes_beside_it(suite: Path, capfd):
    foretrain("benchmark", "--self-check", "--data-root", suite, "--json", "-")
    said = capfd.readouterr()
    assert json.loads(said.out)["counts"]["agreed"] == 1 and "1 of 2 tasks have data" in said.err


def test_a_file_that_cannot_be_written_is_named_before_the_work(suite: Path, tmp_path: Path, capsys):
    (tmp_path / "file").write_text("")
    foretrain("benchmark", "--self-check", "--data-root", suite, "--json", tmp_path / "file" / "x.json", code=2)
    said = capsys.readouterr()
    assert "x.json: cannot be written" in said.err and not said.out


def test_no_file_is_left_by_a_check_without_data(suite: Path, tmp_path: Path):
    (suite / "walks.txt").unlink()
    foretrain("benchmark", "--self-check", "--data-root", suite, "--json", tmp_path / "new" / "x.json", code=2)
    assert not (tmp_path / "new").exists()


def test_a_figure_beyond_the_tolerance_is_exit_code_1_with_its_ratio(suite: Path, capsys):
    rule = tasks_of("small")[0].suite.rule
    wrong = figures(rule)
    write_figures(definition.FOLDER, wrong | {"WQL": wrong["WQL"] / 1.01})
    foretrain("benchmark", "--self-check", "--data-root", suite, code=1)
    said = capsys.readouterr().out
    assert "DISAGREED" in said and "(ratio 1.01)" in said and "MASE" not in said.partition("DISAGREED")[2]
    write_figures(definition.FOLDER, wrong | {"WQL": wrong["WQL"] * (1 + 0.9 * TOLERANCE)})
    foretrain("benchmark", "--self-check", "--data-root", suite)


def test_data_that_cannot_be_used_are_exit_code_1_and_named(suite: Path, capsys):
    (suite / "walks.txt").write_text("1,2\n3,4\n")
    foretrain("benchmark", "--self-check", "--data-root", suite, code=1)
    assert "FAILED" in capsys.readouterr().out


def test_a_history_of_missing_values_does_not_end_the_check(suite: Path, capsys):
    (suite / "walks.txt").write_text("nan,1\n" * 37 + "1,2\n" * 3)
    foretrain("benchmark", "--self-check", "--data-root", suite, code=1)
    assert "DISAGREED" in capsys.readouterr().out


def test_no_data_at_all_is_an_error_that_says_where_to_put_it(suite: Path, capsys):
    (suite / "walks.txt").unlink()
    foretrain("benchmark", "--self-check", "--data-root", suite, code=2)
    said = capsys.readouterr()
    assert f"put walks.txt, from github.com/someone/data, into {suite}" in said.out
    assert "no task of 2 has its data there" in said.err
    foretrain("benchmark", "--self-check", "--data-root", suite / "nowhere", code=2)
    assert "no such folder" in capsys.readouterr().err


def test_a_corpus_of_a_task_comes_before_raw_files(suite: Path, tmp_path: Path):
    rows = [f"2024-01-{d + 1:02},{x},{y}" for d, (x, y) in enumerate(WALKS[:31].tolist())]
    (tmp_path / "walks.csv").write_text("\n".join(["timestamp,0,1", *rows]) + "\n")
    foretrain("data", "import", tmp_path / "walks.csv", "--out", suite / "small" / "walks")
    check = check_task(tasks_of("small")[0], suite)
    assert check.data == str(suite / "small" / "walks") and check.state == "disagreed"
    shutil.rmtree(suite / "small")
    assert check_task(tasks_of("small")[0], suite).state == "agreed"


@pytest.mark.parametrize("suite", ["offset"], indirect=True)
@pytest.mark.parametrize("layout", ["parquet", "arrow"])
def test_a_data_set_of_the_suite_s_repository_has_the_figures_of_the_raw_file(suite: Path, layout: str):
    days = [np.datetime64("2024-01-01") + day for day in range(len(WALKS))]
    row = {"id": ["a"], "timestamp": [[str(day) for day in days]], "x": [WALKS[:, 0]], "y": [WALKS[:, 1]]}
    folder = suite / "sets" / "walks"
    folder.mkdir(parents=True)
    (suite / "walks.txt").unlink()
    if layout == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        stamps = pa.array([np.array(days, "datetime64[ms]")])
        pq.write_table(pa.table(row | {"timestamp": stamps}), folder / "train-00000-of-00001.parquet")
    else:
        from datasets import Dataset

        text = (definition.FOLDER / "small.yaml").read_text().replace("layout: parquet", "layout: arrow")
        (definition.FOLDER / "small.yaml").write_text(text)
        rows = {"item_id": ["a"], "start": [days[0].astype("datetime64[ms]").item()], "freq": ["D"]}
        Dataset.from_dict(rows | {"target": [WALKS.T.tolist()]}).save_to_disk(str(folder))
    check = check_task(tasks_of("small")[0], suite)
    assert check.data == str(folder) and check.series == 2
    assert check.digits >= (12 if layout == "parquet" else 5)  # of arrow folders values are float32


def test_tasks_are_chosen_by_suite_and_pattern(suite: Path, capsys):
    foretrain("benchmark", "--self-check", "--data-root", suite, "--task", "w*")
    assert "1 of 1 tasks" in capsys.readouterr().out
    foretrain("benchmark", "--self-check", "--data-root", suite, "--task", "walk", code=2)
    assert "Did you mean 'walks'" in capsys.readouterr().err
    foretrain("benchmark", "--list", "--suite", "smal", code=2)
    assert "no such suite" in capsys.readouterr().err


def test_the_list_says_which_data_are_there(suite: Path, capsys):
    foretrain("benchmark", "--list", "--data-root", suite)
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("data: raw") for line in lines if line.startswith("  walks")] == [True]
    (absent,) = [line.split() for line in lines if line.startswith("  other")]
    assert "data:" not in absent and absent[5:8] == ["D", "unit", "unknown"]  # and the licence of the suite


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "give --self-check, or --list"),
        (["--self-check", "--list"], "give --self-check, or --list"),
        (["--list", "--json", "x.json"], "no effect with --list"),
    ],
)
def test_a_choice_without_effect_is_refused(words, reason, capsys):
    foretrain("benchmark", *words, code=2)
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("difference", "digits"), [(0.0, 16), (4.9e-4, 3), (1e-6, 6), (2e-7, 6), (0.3, 0), (5.0, 0), (math.nan, 0)]
)
def test_digits_are_those_of_the_relative_difference(difference: float, digits: int):
    assert agreeing_digits(difference) == digits


def test_a_figure_that_is_none_does_not_agree():
    assert not FigureCheck(1.0, math.nan).difference <= TOLERANCE
    assert FigureCheck(2.0, 1.0).difference == FigureCheck(2.0, 1.0).ratio == 0.5
