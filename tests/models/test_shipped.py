"""The model in the box: found by its name, without a network, in upstream's layout, with the record of its making."""

from __future__ import annotations

import importlib.resources
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import foretrain
from foretrain.errors import ModelError
from foretrain.forecasting.ancestry import Ancestry, own_training
from foretrain.models import infer_family
from foretrain.models.hub import facts_of, local_folder, release_hash, resolve
from foretrain.models.shipped import DEFAULT, default_model, describe, shipped
from foretrain.notes import Code, codes

MOST_BYTES = 8_000_000


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def series(steps: int = 120) -> np.ndarray:
    return (10 + np.sin(np.arange(steps) * np.pi / 6)).astype(np.float32)


def test_the_package_lists_the_files_of_the_release():
    held = importlib.resources.files("foretrain") / "pretrained" / DEFAULT
    assert {"config.json", "model.safetensors", "release.json"} <= {file.name for file in held.iterdir()}


def test_all_models_in_the_box_are_small():
    files = [file for folder in shipped().values() for file in folder.iterdir()]
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES


def test_a_name_in_the_box_needs_no_folder_and_no_network(elsewhere: Path, monkeypatch):
    monkeypatch.setattr("foretrain.models.hub._download", lambda *_: pytest.fail("asked the hub"))
    assert resolve(DEFAULT) == local_folder(DEFAULT) == shipped()[DEFAULT]
    predictor = foretrain.load(DEFAULT, device="cpu")
    assert infer_family(DEFAULT) == predictor.model.family
    (found,) = predictor.forecast([series()], 12)
    assert np.abs(found[0, :, 4] - series(132)[120:]).mean() < 0.4  # a sine of a deviation of 0.7 is continued


def test_a_folder_of_the_same_name_is_used_and_that_is_said(elsewhere: Path, logged_notes):
    shutil.copytree(shipped()[DEFAULT], elsewhere / DEFAULT)
    assert resolve(DEFAULT) == Path(DEFAULT)
    assert codes(logged_notes()) == {Code.FOLDER_NAMED_AS_SHIPPED}
    assert Path(default_model()) == shipped()[DEFAULT]  # a folder that nobody named counts for nothing
    assert resolve(default_model()) == shipped()[DEFAULT] and not logged_notes()


def test_an_unknown_name_is_told_what_is_in_the_box(elsewhere: Path):
    with pytest.raises(ModelError, match=rf"tinny: no such folder, and neither a model in the box \({DEFAULT}\)"):
        resolve("tinny")


def test_the_record_says_how_the_model_was_made_and_that_all_data_were_synthetic():
    facts = facts_of(shipped()[DEFAULT])
    about, ancestry = facts["pretraining"], Ancestry.read(facts)
    assert ancestry is not None and not ancestry.unknown
    assert {rule.provenance for rule in [*own_training(facts), *ancestry.seen]} == {"synthetic"}
    assert facts["license"] == "Apache-2.0" and about["data"] == "synthetic series alone"
    assert about["recipe"]["config_hash"] == facts["config_hash"] and about["recipe"]["config"]["seed"] == about["seed"]
    assert all(about[name] > 0 for name in ("steps", "windows", "flops", "hours", "parameters"))
    assert about["machine"] and about["commit"] and "scores" in about


def test_the_record_describes_these_weights():
    predictor = foretrain.load(DEFAULT, device="cpu")
    parameters = sum(parameter.numel() for parameter in predictor.model.parameters())
    assert predictor.facts["pretraining"]["parameters"] == parameters
    assert f"{parameters / 1e6:.2f} million" in describe(DEFAULT)
    trained = predictor.facts["data"]
    assert trained["prediction_length"] <= predictor.network.config.native_horizon
    assert trained["context_length"] <= predictor.model.max_context_length


def test_lengths_beyond_its_training_are_told_with_both_numbers(logged_notes):
    predictor = foretrain.load(DEFAULT, device="cpu")
    trained = predictor.facts["data"]
    steps, context = (trained[key] + 1 for key in ("prediction_length", "context_length"))
    predictor.forecast([series(context)], steps, context_length=context)
    notes = {note.code: note.counts for note in logged_notes()}
    assert notes[Code.HORIZON_BEYOND_TRAINING] == {"prediction_length": steps, "trained": steps - 1}
    assert {Code.CONTEXT_CLIPPED, Code.CONTEXT_BEYOND_TRAINING} & notes.keys()


def test_a_saved_copy_is_the_same_release(tmp_path: Path):
    predictor = foretrain.load(DEFAULT, device="cpu")
    predictor.save(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "release.json").read_text()) == predictor.facts
    assert release_hash(tmp_path / "copy") == release_hash(shipped()[DEFAULT])
