"""Results beside published figures: generated results, with the ratios worked out from the shipped files here."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cli.test_app import foretrain

from foretrain.errors import DataError
from foretrain.suites import published
from foretrain.suites.beside import beside, draw_against, table_of, write_report
from foretrain.suites.definition import tasks_of
from foretrain.suites.published import published_figures, published_models
from foretrain.suites.results import TaskResult, result_file, write_result

SUITE = "chronos-zero-shot"
TASKS = {task.name: task for task in tasks_of(SUITE)}
CHOSEN = ("m5", "ETTh", "nn5")


def result(task: str, factor: float = 0.8, **more) -> TaskResult:
    """A result whose errors are `factor` times those of the published seasonal naive."""
    naive = published_figures(TASKS[task])
    done = TaskResult(
        "mine", "0", SUITE, task, task, "0", "done", metrics={name: factor * value for name, value in naive.items()},
        baseline=dict(naive), series=3, windows=4, seconds=1.5, device="cpu", num_parameters=1000, trained_on=[],
    )  # fmt: skip
    return replace(done, **more)


def shipped(file: str) -> list[dict[str, str]]:
    lines = (Path(published.MODELS) / file).read_text().splitlines()
    return list(csv.DictReader(lines[1:]))


def test_the_shipped_figures_belong_to_tasks_and_name_their_sources():
    rows = shipped("sources.csv")
    assert len(rows) == len({(row["suite"], row["model"]) for row in rows}) == 56
    assert all(":" in row["source"] and bool(row["parameters"]) == bool(row["parameters_source"]) for row in rows)
    count = 0
    for suite in sorted({row["suite"] for row in rows}):
        models, own = published_models(suite), tasks_of(suite)
        assert {model.name for model in models} == {row["model"] for row in shipped(f"{suite}.csv")}
        assert all(model.scores.keys() <= {task.name for task in own} for model in models)
        assert all(score.metrics.keys() <= own[0].suite.metrics.keys() for m in models for score in m.scores.values())
        count += sum(len(score.metrics) for model in models for score in model.scores.values())
    assert count == 11_412
    assert published_models("local") == ()


def test_ratios_are_geometric_means_over_the_same_tasks_of_all():
    (found,) = beside([result(task, factor) for task, factor in zip(CHOSEN, (0.5, 0.8, 1.0), strict=True)])
    assert (sorted(found.tasks), found.of_tasks, found.items, found.windows) == (sorted(CHOSEN), 27, 9, 12)
    rows = {row.model: row for row in found.rows}
    mine = rows["mine (here)"]
    assert mine.ratios == pytest.approx(dict.fromkeys(("MASE", "WQL"), 0.4 ** (1 / 3)), rel=1e-12)
    assert (mine.seconds, mine.parameters, mine.seen, mine.unknown) == (4.5, 1000, 0, 0)
    bolt = {row["task"]: row for row in shipped(f"{SUITE}.csv") if row["model"] == "amazon/chronos-bolt-tiny"}
    logs = [math.log(float(bolt[task]["WQL"]) / published_figures(TASKS[task])["WQL"]) for task in CHOSEN]
    other = rows["amazon/chronos-bolt-tiny"]
    assert other.ratios["WQL"] == pytest.approx(math.exp(sum(logs) / 3), rel=1e-12)
    assert (other.parameters, other.seconds, other.ours) == (9_000_000, None, False)
    assert rows["seasonal naive, as published"].skill == 0 and len(rows) == 11
    assert [row.skill for row in found.rows] == sorted((row.skill for row in found.rows), reverse=True)
    assert any("3 of the suite's 27 tasks: 9 items and 12 windows" in note for note in table_of(found).notes)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"state": "failed", "metrics": {}, "error": "x"}, "failed"),
        ({"state": "failed", "imputed": True}, "failed, imputed with seasonal naive"),
        ({"max_items": 7, "items_of": 9}, "a sample of 7 items"),
        ({"baseline": {"MASE": 1.0, "WQL": 1.0}}, "its seasonal naive is not the published one within 0.0005"),
        ({"metrics": {"MASE": None, "WQL": 1.0}}, "MASE is undefined"),
    ],
)
def test_what_is_not_whole_counts_nowhere_and_is_named(change, why):
    other = [replace(result(task), model="other") for task in CHOSEN]
    (found,) = beside([result("m5", **change), result("ETTh"), *other])
    assert found.tasks == ("ETTh",)
    assert any(line.startswith(f"mine: m5 ({why}") for line in found.left_out)
    assert any(line.startswith("other:") and "no whole score there" in line for line in found.left_out)
    with pytest.raises(DataError, match="no task that all of its models have a whole score of"):
        beside([result("m5", **change)])


def test_published_models_without_a_task_have_no_row_and_seen_tasks_are_counted():
    own = {task.name: task for task in tasks_of("fev-bench")}
    models = published_models("fev-bench")
    short = next(model for model in models if len(model.scores) < 100)
    task = next(name for name in own if name not in short.scores)
    leaky = next(model for model in models if any(score.seen for score in model.scores.values()))
    seen = next(name for name, score in leaky.scores.items() if score.seen)
    results = [
        TaskResult("mine", "0", "fev-bench", name, name, "0", "done", metrics=published_figures(own[name]),
                   baseline=published_figures(own[name]), device="cpu", processes=2, seconds=1.0)
        for name in (task, seen)
    ]  # fmt: skip
    (found,) = beside(results)
    rows = {row.model: row for row in found.rows}
    assert short.name not in rows and any(
        line.startswith(f"{short.name}, published: no row") for line in found.left_out
    )
    assert rows[leaky.name].seen == 1 and rows["mine (here)"].unknown == 2
    assert rows["mine (here)"].skill == pytest.approx(0) and rows["mine (here)"].seconds_on == "2 x cpu"
    expected = sum(leaky.scores[name].seconds or 0 for name in found.tasks)
    assert rows[leaky.name].seconds == pytest.approx(expected)


def test_the_command_writes_a_report_that_stands_alone(tmp_path, capsys):
    for task in CHOSEN:
        write_result(result_file(tmp_path / "results", "mine", TASKS[task]), result(task))
    foretrain("benchmark", "--from", tmp_path / "results", "--report", tmp_path / "report")
    said = capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "report").iterdir())
    pictures = [f"{SUITE}-parameters.png", f"{SUITE}-seconds.png"]
    assert names == [*pictures, "report.html", "report.json", "report.md"]
    data = json.loads((tmp_path / "report" / "report.json").read_text())
    (row,) = [row for row in data["suites"][0]["rows"] if row["ours"]]
    assert row["ratios"]["WQL"] == pytest.approx(0.8) and "mine (here)" in said and "0.8000" in said
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count('src="data:image/png') == 2 and "<script" not in page and "<link" not in page
    assert pictures[0] in (tmp_path / "report" / "report.md").read_text()
    foretrain("benchmark", "--from", tmp_path / "results", "--report", tmp_path / "report", code=2)
    assert "exists already" in capsys.readouterr().err
    foretrain("benchmark", "--from", tmp_path / "results", code=2)
    assert "--submission DIR or --report DIR" in capsys.readouterr().err


def test_there_is_no_picture_against_what_no_model_here_has(tmp_path):
    (found,) = beside([result(task, num_parameters=None) for task in CHOSEN])
    assert draw_against(found, "parameters") is None and draw_against(found, "seconds") is not None
    files = write_report([found], tmp_path / "report")
    assert f"{SUITE}-parameters.png" not in {path.name for path in files}
    assert "No picture against parameters" in (tmp_path / "report" / "report.md").read_text()
