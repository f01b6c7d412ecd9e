from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from foretrain.errors import ModelError, TrainingError, UnreadableError
from foretrain.models import checkpoints
from foretrain.models.checkpoints import checkpoint_at, checkpoint_family, describe_checkpoint, is_checkpoint
from foretrain.models.hub import resolve
from foretrain.run.export import export_checkpoint


def write(folder: Path, step: int, best: int | None = None, whole: bool = True) -> Path:
    """The JSON files of a checkpoint of a linear model; a killed process leaves no manifest."""
    path = folder / f"step-{step:08d}"
    path.mkdir(parents=True)
    state = {"config": {"model": {"family": "linear"}}, "progress": {"best_step": best}}
    (path / "state.json").write_text(json.dumps(state))
    if whole:
        (path / "manifest.json").write_text("{}")
    return path


def test_names_mean_complete_checkpoints_alone(tmp_path: Path):
    first, second = (write(tmp_path / "run" / "checkpoints", step, best=100) for step in (100, 200))
    write(tmp_path / "run" / "checkpoints", 300, whole=False)
    assert checkpoint_at(tmp_path / "run" / "latest") == second
    assert checkpoint_at(tmp_path / "run" / "checkpoints" / "best") == first
    assert checkpoint_at(tmp_path / "run" / "step-300") is None
    assert checkpoint_at(first / "..") is None and not is_checkpoint(tmp_path)
    assert describe_checkpoint(first) == "step 100, the best of its run"
    assert describe_checkpoint(second) == "step 200, the last of its run"


@pytest.mark.parametrize("best", [None, 50])
def test_the_best_of_a_run_without_a_validation_or_without_that_checkpoint_is_the_last(tmp_path: Path, best):
    only = write(tmp_path / "checkpoints", 100, best=best)
    assert checkpoint_at(tmp_path / "best") == only
    assert describe_checkpoint(only) == "step 100, the last of its run"


def test_the_best_is_no_other_while_the_newest_record_cannot_be_read(tmp_path: Path, monkeypatch):
    for step, best in ((100, 100), (200, 200)):
        write(tmp_path / "checkpoints", step, best=best)
    read = checkpoints.read_object

    def failing(path: Path) -> dict:
        if path.parent.name == "step-00000200":
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(checkpoints, "read_object", failing)
    with pytest.raises(UnreadableError, match=r"state\.json: cannot be read \(Input/output error"):
        checkpoint_at(tmp_path / "best")


def test_the_names_of_a_pipeline_are_those_of_its_last_stage(tmp_path: Path):
    write(tmp_path / "stages" / "01-first" / "checkpoints", 900)
    last = write(tmp_path / "stages" / "02-second" / "checkpoints", 100)
    assert checkpoint_at(tmp_path / "final-checkpoint") == last


def test_a_file_or_folder_of_such_a_name_is_what_it_is(tmp_path: Path):
    write(tmp_path / "checkpoints", 100)
    (tmp_path / "latest").mkdir()
    assert checkpoint_at(tmp_path / "latest") is None


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("run", r"is a run\. Name one of its checkpoints: .*best or .*latest"),
        ("run/checkpoints", r"is a run\. Name one of its checkpoints: .*best or .*latest"),
        ("run/checkpoints/step-00000999", r"no such folder\. .*checkpoints has step-00000100, step-00000200"),
        ("run/step-999", r"no such folder\. .*checkpoints has step-00000100, step-00000200"),
        ("run/release", "is a release or another model, no checkpoint of a run"),
        ("data.csv", "is a file. A checkpoint is a folder"),
        (".", "is no checkpoint of a run"),
        ("nothing", "no such folder"),
    ],
)
def test_what_is_no_checkpoint_is_named_with_those_that_are_there(tmp_path: Path, name: str, answer: str):
    for step in (100, 200):
        write(tmp_path / "run" / "checkpoints", step)
    (tmp_path / "run" / "release").mkdir()
    for file in ("run/release/config.json", "data.csv"):
        (tmp_path / file).write_text("{}")
    with pytest.raises(TrainingError, match=f"cannot be exported: {answer}"):
        export_checkpoint(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_family_stands_in_the_state(tmp_path: Path):
    checkpoint = write(tmp_path, 100)
    assert checkpoint_family(checkpoint) == "linear"
    (checkpoint / "state.json").write_text("[")
    assert checkpoint_family(checkpoint) is None


@pytest.mark.parametrize("inside", ["", "checkpoints"])
def test_a_run_without_a_release_names_its_checkpoints(tmp_path: Path, inside):
    write(tmp_path / "run" / "checkpoints", 100)
    with pytest.raises(ModelError, match=r"holds checkpoints and no release\. Name one: .*best or .*latest"):
        resolve(tmp_path / "run" / inside)


@pytest.mark.parametrize("asked", ["step-60", "checkpoints/step-70", "relaese"])
def test_a_checkpoint_that_a_run_does_not_have_is_no_hub_id(tmp_path: Path, monkeypatch, asked):
    """run/step-60 could be one."""
    for step in (10, 20, 30, 40, 50):
        write(tmp_path / "run" / "checkpoints", step)
    write(tmp_path / "run" / "checkpoints", 60, whole=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"no such folder or checkpoint; its run has 1 older ones, .*20, .*50 "):
        resolve(f"run/{asked}")
