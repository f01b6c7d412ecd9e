from __future__ import annotations

import json

import pytest
from tests.cli.test_app import foretrain
from tests.training.test_health import line, start

from foretrain.training.health import health, render


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    records = [start(), line(10, 3.0), line(20, 2.0)]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path / "run", records


def test_health_prints_the_report_of_a_run(folder, capsys):
    run, records = folder
    foretrain("runs", "health", run)
    assert capsys.readouterr().out == render(health(records)) + "\n"
    foretrain("runs", "health", run, "--step", 15)
    assert capsys.readouterr().out == render(health(records, 15)) + "\n"
    foretrain("runs", "health", run, "--json")
    assert json.loads(capsys.readouterr().out) == health(records)


def test_health_prints_those_of_stages(folder, capsys):
    run, records = folder
    stages = run.parent / "pipeline" / "stages"
    stages.mkdir(parents=True)
    first = run.rename(stages / "01-tokenizer")
    (stages / "02-predictor").mkdir()
    foretrain("runs", "health", stages.parent)
    assert capsys.readouterr().out == f"{first}:\n{render(health(records))}\n"
    foretrain("runs", "health", stages.parent, "--json")
    assert list(json.loads(capsys.readouterr().out)) == [str(first)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere",), "nowhere: no such folder"),
        ((".",), "holds no metrics.jsonl"),
        (("run", "--step", 5), "run/metrics.jsonl: has no training line up to step 5"),
        (("run", "--step", 0), "'--step': Input should be greater"),
    ],
)
def test_what_is_no_run_is_told_in_a_line(folder, monkeypatch, capsys, words, said):
    monkeypatch.chdir(folder[0].parent)
    foretrain("runs", "health", *words, code=2)
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
