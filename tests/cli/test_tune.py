"""The verbs of `foretrain tune`, over trials that cost nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.tuning.cheap_studies import new_study
from tests.tuning.fake_worker import fake_trial
from typer.testing import CliRunner

from foretrain.cli import tune
from foretrain.cli.app import app
from foretrain.config import read_yaml
from foretrain.errors import ConfigError
from foretrain.tuning.study import StudyFolder
from foretrain.tuning.worker import TuneWorker


def said(*words: object) -> str:
    """What a verb prints. Raises what it raises."""
    done = CliRunner().invoke(app, [*map(str, words)], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.output


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    """A study of four trials that has ended."""
    space = {"optimizer.learning_rate": {"kind": "float", "low": 1e-4, "high": 1.0, "log": True}}
    study = new_study(tmp_path, space=space, trials=4, set={"training.max_steps": 7})
    TuneWorker(study, fake_trial).run()
    return study


def test_a_first_word_that_is_no_verb_is_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    checks = SimpleNamespace(check_study=lambda config: [f"checked {config.run}"])
    monkeypatch.setitem(sys.modules, "foretrain.tuning.checks", checks)
    out = tmp_path / "study"
    text = said("tune", "tune/quick", f"output_dir={out}", "--trials", 7, "--dry-run")
    assert "checked debug" in text and "7 trials of debug" in text and "val_wql (minimize)" in text
    assert not out.exists()
    with pytest.raises(ConfigError, match="gp takes no conditional space"):
        said("tune", "tune/quick", "sampler.kind=gp", "space.seed={kind: int, low: 0, high: 9, "
             "when: {training.batch_size: [16]}}")  # fmt: skip
    with pytest.raises(ConfigError, match="cmaes takes numbers alone"):
        said("tune", "tune/quick", "sampler.kind=cmaes")
    with pytest.raises(ConfigError, match="grid needs steps"):
        said("tune", "tune/quick", "sampler.kind=grid")
    with pytest.raises(ConfigError, match="describes a search: foretrain tune tune/quick"):
        said("train", "tune/quick")


def test_a_missing_optuna_is_a_line_with_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tune, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package optuna; pip install 'foretrain\[tune\]'"):
        said("tune", "tune/quick")


def test_a_study_is_shown(study: StudyFolder):
    text = said("tune", "show", study.path)
    assert "4 of 4 trials, 4 complete, best val_wql" in text and "\ndefault: val_wql" in text
    assert [record["number"] for record in json.loads(said("tune", "show", study.path, "--json"))] == [-1, 0, 1, 2, 3]
    with pytest.raises(ConfigError, match="no such folder"):
        said("tune", "show", study.path / "none")


def test_the_best_is_a_config_with_its_lineage(study: StudyFolder, tmp_path: Path):
    out = tmp_path / "best.yaml"
    assert f"wrote {out}; foretrain train {out}" in said("tune", "best", study.path, "--out", out)
    best = min(study.records()[1:], key=lambda record: record.values or ())
    tree = read_yaml(out)
    assert tree["optimizer"]["learning_rate"] == best.params["optimizer.learning_rate"]
    assert tree["training"]["max_steps"] == 7
    assert f"trial {best.number} of the study {study.path} ({study.hash})" in out.read_text()
    assert f"trial {best.number - 1 if best.number else 1} of" in said(
        "tune", "best", study.path, "--trial", best.number - 1 if best.number else 1
    )
    with pytest.raises(ConfigError, match="is not overwritten"):
        said("tune", "best", study.path, "--out", out)
    with pytest.raises(ConfigError, match="--trial 99: is no complete trial"):
        said("tune", "best", study.path, "--trial", 99)


def test_a_study_is_reported_with_pictures_and_results(study: StudyFolder):
    out = study.path / "report"
    out.mkdir()
    (out / "pareto.png").write_bytes(b"of a study before")
    text = said("tune", "report", study.path, "--html")
    assert "4 of 4 trials: 4 complete" in text and "importance for val_wql: none, since 4 trials" in text
    assert f"wrote {out}: history.png, slices.png, curves.png, report.html" in text
    assert sorted(path.name for path in out.iterdir()) == ["curves.png", "history.png", "report.html", "slices.png"]
    results = json.loads((study.path / "full_optimization_results.json").read_text())
    assert [trial["id"] for trial in results["trials"]] == ["default", "0", "1", "2", "3"]


def test_a_report_as_json_writes_nothing(study: StudyFolder):
    before = sorted(study.path.rglob("*"))
    facts = json.loads(said("tune", "report", study.path, "--json", "--trial", 2))
    assert facts["trials"]["complete"] == 4 and facts["chosen"] == 2 == facts["edges"]["default"]["trial"]
    assert sorted(study.path.rglob("*")) == before


def test_a_report_that_cannot_be_made_is_refused(study: StudyFolder, tmp_path: Path):
    with pytest.raises(ConfigError, match="--trial 9: is no complete trial"):
        said("tune", "report", study.path, "--trial", 9)
    with pytest.raises(ConfigError, match=r"is a file\. Name a folder"):
        said("tune", "report", study.path, "--out", study.path / "study.yaml")
    with pytest.raises(ConfigError, match="no trial of it has ended"):
        said("tune", "report", new_study(tmp_path / "empty").path)
    with pytest.raises(ConfigError, match="Leave --out and --html out"):
        said("tune", "report", study.path, "--final", "--html")


def test_the_final_table_is_made_by_its_own_module(study: StudyFolder, monkeypatch: pytest.MonkeyPatch):
    asked = []
    final = SimpleNamespace(report_final=lambda study, trial, as_json: asked.append((study.path, trial, as_json)))
    monkeypatch.setitem(sys.modules, "foretrain.cli.tune_final", final)
    assert said("tune", "report", study.path, "--final", "--trial", 1, "--json") == ""
    assert asked == [(study.path, 1, True)]
