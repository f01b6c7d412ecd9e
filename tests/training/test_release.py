from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from foretrain.training.release import ALIASES, link_release, mark_promotion
from foretrain.training.trainer import ValidationResult

NAMES = ("release", *ALIASES)
MARK = {"promoted": False, "reason": "no lower than naive's"}


def read(path: Path):
    return json.loads(path.read_text())


def one_file(*paths: Path) -> bool:
    return len({path.stat().st_ino for path in paths}) == 1


@pytest.fixture
def run(toy, tmp_path: Path) -> Path:
    """The folder of a run whose second validation, at step 8 of 12, was the best."""
    values = iter((3.0, 1.0, 2.0))

    def evaluate(model, step):
        return ValidationResult({"val_loss": next(values), "val_pct_mae": float("nan")})

    units = {"val_loss": "nats", "val_pct_mae": "percent of the last close"}
    out = tmp_path / "run"
    toy.trainer(out, evaluate=evaluate, validate_every=4, best_metric="val_loss", keep_best=2, units=units).fit()
    return out


@pytest.fixture
def pipeline(run: Path, tmp_path: Path) -> Path:
    """The folder of a pipeline with two stages, of which the run is the second."""
    root = tmp_path / "root"
    (root / "stages" / "01-first" / "release").mkdir(parents=True)
    (root / "stages" / "01-first" / "release" / "release.json").write_text('{"step": 3}')
    run.rename(root / "stages" / "02-second")
    link_release(root / "stages" / "02-second" / "release", root)
    return root


def test_final_metrics_are_those_of_the_released_weights_with_units_and_the_last_validation(run):
    found = read(run / "final_metrics.json")
    assert found["step"] == read(run / "release" / "release.json")["step"] == 8
    assert found["metrics"] == {
        "val_loss": {"value": 1.0, "unit": "nats"},
        "val_pct_mae": {"value": None, "unit": "percent of the last close"},
    }
    assert found["last_validation"]["step"] == 12
    assert found["last_validation"]["metrics"]["val_loss"]["value"] == 2.0


def test_best_records_name_the_best_checkpoints_and_where_they_lie(run):
    records = read(run / "best_records.json")
    assert [(r["step"], r["metric"], r["value"]) for r in records] == [(8, "val_loss", 1.0), (12, "val_loss", 2.0)]
    assert all((run / record["path"] / "manifest.json").is_file() for record in records)


def test_a_run_without_validation_has_no_metrics_and_no_records(toy, tmp_path):
    toy.trainer(tmp_path).fit()
    found = read(tmp_path / "final_metrics.json")
    assert found.pop("run")["steps"] == 12
    assert found == {
        "weights": "trained",
        "stopped": {"step": 12, "by": "max_steps"},
        "step": 12,
        "metrics": {},
        "last_validation": None,
    }
    assert read(tmp_path / "best_records.json") == []


def test_a_pipeline_has_the_last_stage_s_files_at_its_root(pipeline):
    stage = pipeline / "stages" / "02-second"
    for name in ("final_metrics.json", "training.log", *(f"{name}/model.safetensors" for name in NAMES)):
        assert one_file(stage / name, pipeline / name), name
    assert all(
        (pipeline / record["path"] / "manifest.json").is_file() for record in read(pipeline / "best_records.json")
    )


def test_adapters_of_the_last_stage_are_at_the_root(run, tmp_path):
    (run / "adapters").mkdir()
    (run / "adapters" / "adapter_config.json").write_text("{}")
    stage = tmp_path / "root" / "stages" / "01-only"
    stage.parent.mkdir(parents=True)
    run.rename(stage)
    link_release(stage / "release", tmp_path / "root")
    assert one_file(*(folder / "adapters" / "adapter_config.json" for folder in (stage, tmp_path / "root")))


@pytest.mark.parametrize("name", NAMES)
def test_a_mark_reaches_every_name_of_a_release(run, name):
    before = read(run / "release" / "release.json")
    mark_promotion(run / name, MARK)
    assert one_file(*(run / other / "release.json" for other in NAMES))
    assert read(run / "release" / "release.json") == {**before, "promotion": MARK}
    assert read(run / "final_metrics.json")["promotion"] == MARK
    assert not list(run.rglob(".tmp-*"))


@pytest.mark.parametrize("place", ["release", "hf_export", "stages/02-second/release"])
def test_a_mark_reaches_stage_and_root_and_no_other_stage(pipeline, place):
    mark_promotion(pipeline / place, MARK)
    homes = (pipeline, pipeline / "stages" / "02-second")
    assert one_file(*(home / name / "release.json" for home in homes for name in NAMES))
    assert one_file(*(home / "final_metrics.json" for home in homes))
    assert read(pipeline / "final_metrics.json")["promotion"] == MARK
    assert read(pipeline / "stages" / "01-first" / "release" / "release.json") == {"step": 3}


def test_a_new_mark_replaces_an_old_one_even_where_only_some_names_have_it(run):
    mark_promotion(run / "release", {"promoted": True})
    (run / "best_model" / "release.json").unlink()
    facts = {key: value for key, value in read(run / "release" / "release.json").items() if key != "promotion"}
    (run / "best_model" / "release.json").write_text(json.dumps(facts))
    mark_promotion(run / "release", MARK)
    assert {read(run / name / "release.json")["promotion"]["reason"] for name in NAMES} == {MARK["reason"]}


def test_neighbours_of_a_release_outside_a_run_do_not_change(run, tmp_path):
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "release.json").write_text('{"step": 1}')
    alone = run.parent / "alone"
    (run / "release").rename(alone)
    mark_promotion(alone, MARK)
    assert read(alone / "release.json")["promotion"] == MARK
    assert read(tmp_path / "release" / "release.json") == {"step": 1}


def test_a_mark_that_cannot_be_written_leaves_the_file_as_it_was(run, monkeypatch):
    before = (run / "release" / "release.json").read_bytes()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        mark_promotion(run / "release", MARK)
    assert (run / "release" / "release.json").read_bytes() == before and not list(run.rglob(".tmp-*"))


def test_resuming_a_finished_run_keeps_its_mark(toy, tmp_path):
    toy.trainer(tmp_path).fit()
    mark_promotion(tmp_path / "release", MARK)
    toy.trainer(tmp_path, resume="auto").fit()
    assert read(tmp_path / "release" / "release.json")["promotion"] == MARK
    assert read(tmp_path / "final_metrics.json")["promotion"] == MARK
    toy.trainer(tmp_path, resume="auto", max_steps=14).fit()
    assert "promotion" not in read(tmp_path / "release" / "release.json")
    assert "promotion" not in read(tmp_path / "final_metrics.json")


def test_a_promotion_with_a_number_that_json_lacks_is_not_taken_over(tmp_path: Path, toy) -> None:
    toy.trainer(tmp_path).fit()
    mark_promotion(tmp_path / "release", MARK)
    path = tmp_path / "release" / "release.json"
    text = path.read_text().replace('"promotion": {', '"promotion": {"p_value": -Infinity, ')
    assert "Infinity" in text
    path.unlink()
    path.write_text(text)
    toy.trainer(tmp_path, resume="auto").fit()
    assert "promotion" not in read(path)


@pytest.mark.parametrize("text", ['{"step": 2', "[1]", "[" * 3000, "\x00", ""])
def test_a_run_with_a_damaged_release_json_is_resumed_and_writes_it_anew(tmp_path: Path, toy, text: str) -> None:
    toy.trainer(tmp_path).fit()
    path = tmp_path / "release" / "release.json"
    path.unlink()  # all its names are links to one file
    path.write_text(text)
    toy.trainer(tmp_path, max_steps=16, resume="auto").fit()
    assert read(path)["step"] == 16
