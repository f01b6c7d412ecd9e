from __future__ import annotations

import errno
import json
import re
from pathlib import Path
from unittest.mock import Mock

import pytest
from tests.cli.test_app import foretrain
from tests.training.test_health import line, start
from tests.training.test_run_record import LINES, finished, write_run

from foretrain.errors import DataError
from foretrain.run import registry
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


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder `runs` of two runs that validated alike, and a folder that is no run; the current folder holds it."""
    monkeypatch.chdir(tmp_path)
    write_run(Path("runs/a"), LINES, finished(20, 0.25, 10))
    write_run(Path("runs/b"), LINES, batch_size=8)
    Path("runs/notes").mkdir()
    return Path("runs")


def test_list_shows_runs_and_stages_and_writes_the_registry(runs, capsys):
    stage = write_run(runs / "p" / "stages" / "01-first", LINES, finished(20, 0.25, 10, "patience"))
    (runs / "p" / "config.yaml").write_text("stages: [{name: first}, {name: second}]")
    foretrain("runs", "tag", stage, "good")
    foretrain("runs", "list")
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0] == "runs/p/stages/01-first: good" and said.err == ""
    table = [re.split(" {2,}", one.strip()) for one in lines[1:]]
    assert table[0] == ["run", "model", "state", "step", "best", "at step", "started", "trained", "tags"]
    assert table[1][:6] == ["a", "chronos2", "finished", "20/1,000", "val_wql 0.25", "10"]
    assert table[2][:6] == ["b", "chronos2", "ended early", "20/1,000", "val_wql 0.3", "10"]
    assert table[3][:5] == ["p", "chronos2", "ended early", "stage 1/2", "-"]
    assert table[4][0] == "01-first" and table[4][2] == "stopped by patience" and table[4][-1] == "good"
    assert len(table) == 5 and (runs / "checkpoint_registry.json").is_file()
    foretrain("runs", "list", "runs", "--json", "--tag", "good")
    (found,) = json.loads(capsys.readouterr().out)
    assert found["folder"] == "runs/p" and found["stages"][0]["state"] == "stopped by patience"


def test_list_names_what_is_damaged_in_a_line_each(runs, capsys):
    (runs / "a" / "metrics.jsonl").write_text("no json\n")
    (runs / "b" / "environment.json").write_text("3")
    (runs / "checkpoint_registry.json").write_text("{")
    foretrain("runs", "list", runs)
    said = capsys.readouterr()
    assert "metrics.jsonl: line 1 is no record" in said.err and "runs/b: holds values that cannot be used" in said.err
    assert "kept as checkpoint_registry.damaged-1.json" in said.err and said.err.count("\n") == 3
    assert [one.split()[0] for one in said.out.splitlines()] == ["run", "a"]


def test_list_of_a_folder_whose_registry_cannot_be_written_shows_it_all_the_same(runs, capsys, monkeypatch):
    foretrain("runs", "tag", runs / "a", "good")
    capsys.readouterr()
    for error, text in (
        (OSError(errno.EROFS, "Read-only file system"), "cannot be written: Read-only file system"),
        (DataError("process 7 is writing it."), "not updated: process 7 is writing it."),
    ):
        monkeypatch.setattr(registry, "_write", Mock(side_effect=error))
        foretrain("runs", "list")
        said = capsys.readouterr()
        assert f"checkpoint_registry.json: {text}" in said.err and len(said.out.splitlines()) == 3
        assert said.out.splitlines()[1].endswith("  good")


def test_tags_are_changed_and_shown(runs, capsys):
    foretrain("runs", "tag", runs / "a", "x", "good", "--json")
    assert json.loads(capsys.readouterr().out) == {"run": "runs/a", "tags": ["good", "x"]}
    foretrain("runs", "tag", runs / "a", "x", "--remove")
    foretrain("runs", "show", runs / "a")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "runs/a: good" and said[1] == "runs/a: chronos2, finished, tags: good"
    foretrain("runs", "tag", "runs/notes", "x", code=2)
    assert "runs/notes: is no run" in capsys.readouterr().err


def test_show_tells_of_the_newest_line_validations_and_what_to_do_next(runs, capsys):
    checkpoint = runs / "b" / "checkpoints" / "step-00000010"
    checkpoint.mkdir()
    (checkpoint / "manifest.json").write_text('{"metric": 0.3}')
    (checkpoint / "state.json").write_text("{}")
    foretrain("runs", "show", runs / "b", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["last_line"]["step"] == 20 and found["trend"] == "too few lines to tell"
    assert found["validations"] == [{"step": 10, "value": 0.3}, {"step": 20, "value": 0.4}]
    assert found["checkpoints"] == [{"step": 10, "path": str(checkpoint), "metric": 0.3, "best": True}]
    assert found["next"] == ["foretrain train runs/b/config.yaml --resume"] and found["release"] is None
    foretrain("runs", "show", runs / "b")
    said = capsys.readouterr().out
    assert "val_wql     ▁█  lower is better" in said and f"checkpoint  {checkpoint}  val_wql 0.3  best" in said
    runs.rename("moved")
    foretrain("runs", "show", "moved/b", "--json")
    assert json.loads(capsys.readouterr().out)["next"][0].endswith("--resume output_dir=moved/b")


def test_an_unfinished_stage_is_continued_by_its_pipeline(runs, capsys):
    stage = write_run(runs / "p" / "stages" / "01-first", LINES)
    tree = json.loads((stage / "config.yaml").read_text())
    (stage / "config.yaml").write_text(json.dumps({**tree, "stage": "first"}))
    (runs / "p" / "config.yaml").write_text("output_dir: runs/p\nstages: [{name: first}]")
    for place in (stage, runs / "p"):
        foretrain("runs", "show", place, "--json")
        assert json.loads(capsys.readouterr().out)["next"] == ["foretrain train runs/p/config.yaml --resume"]


def test_show_tells_what_the_gate_said(runs, capsys):
    gate = {"promotion": {"promoted": False, "reason": "naive is better"}}
    (runs / "a" / "final_metrics.json").write_text(json.dumps({**finished(20, 0.25, 10), **gate}))
    foretrain("runs", "show", runs / "a")
    assert "gate       NOT PROMOTED: naive is better" in capsys.readouterr().out


def test_a_name_with_a_line_break_stays_in_its_row(runs, capsys):
    (runs / "a").rename(runs / "a\nb")
    foretrain("runs", "list")
    assert [one.split()[0] for one in capsys.readouterr().out.splitlines()] == ["run", "a\\nb", "b"]


def test_show_of_a_finished_run_names_the_commands_that_it_logged(runs, capsys):
    (runs / "a" / "training.log").write_text("2026-01-01T00:00:00 next: foretrain forecast runs/a corpus\n")
    foretrain("runs", "show", runs / "a", "--json")
    assert json.loads(capsys.readouterr().out)["next"] == ["foretrain forecast runs/a corpus"]


def test_compare_shows_what_differs_and_ranks_by_the_common_metric(runs, capsys):
    tree = json.loads((runs / "a" / "config.yaml").read_text())
    (runs / "a" / "config.yaml").write_text(json.dumps({**tree, "adapter": None, "parents": {}}))  # as if they had none
    foretrain("runs", "compare", runs / "b", runs / "a", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["settings"] == {"training.batch_size": {"runs/b": 8, "runs/a": None}}
    assert found["metrics"]["val_wql"] == {"unit": "ratio", "values": {"runs/b": 0.3, "runs/a": 0.25}}
    assert found["ranking"] == ["runs/a", "runs/b"] and found["higher_is_better"] is False
    foretrain("runs", "compare", runs / "b", runs / "a")
    assert "ranked by val_wql (lower is better): 1. runs/a, 2. runs/b" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        ({"training": {"best_metric": "val_loss"}}, (), "runs/a by val_wql, runs/c by val_loss"),
        ({"training": {"best_metric": "val_loss"}}, ("--metric", "val_loss"), "runs/a: no val_loss"),
        (
            {"data": {"prediction_length": 5}},
            (),
            "they were not scored on the same windows or alike (data.prediction_length)",
        ),
        (
            {"evaluation": {"num_windows": 3}},
            (),
            "they were not scored on the same windows or alike (evaluation.num_windows)",
        ),
    ],
)
def test_compare_ranks_nothing_that_was_not_scored_alike(runs, capsys, change, words, said):
    write_run(runs / "c", LINES)
    tree = json.loads((runs / "c" / "config.yaml").read_text())
    for section, values in change.items():
        tree[section] = {**tree.get(section, {}), **values}
    (runs / "c" / "config.yaml").write_text(json.dumps(tree))
    foretrain("runs", "compare", runs / "a", runs / "c", *words)
    (shown,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("not ranked: ")]
    assert said in shown


def test_compare_ranks_nothing_that_was_scored_on_other_content(runs, capsys):
    for name, content in (("a", "one"), ("b", "another")):
        release = runs / name / "release"
        release.mkdir()
        (release / "release.json").write_text(json.dumps({"corpora": [{"fingerprint": content}]}))
    foretrain("runs", "compare", runs / "a", runs / "b")
    assert "not ranked: the content of their corpora differs" in capsys.readouterr().out


def test_compare_wants_two_single_runs_and_a_metric_of_theirs(runs, capsys):
    write_run(runs / "p" / "stages" / "01-first", LINES)
    (runs / "p" / "config.yaml").write_text("stages: [{name: first}]")
    for words, said in (
        ((runs / "a",), "name two or more different runs"),
        ((runs / "a", runs / "a"), "name two or more different runs"),
        ((runs / "a", runs / "p"), "runs/p: is a pipeline. Name a stage of it: runs/p/stages/01-first"),
        ((runs / "a", runs / "b", "--metric", "val_wq"), "Did you mean 'val_wql'?"),
    ):
        foretrain("runs", "compare", *words, code=2)
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
