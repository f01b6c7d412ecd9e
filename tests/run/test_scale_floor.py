"""The scale floor of a run: relative for new models, as stored for all others, and told where it hides moves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.zoo import ZOO

from foretrain.config import build, dump_yaml
from foretrain.data.store import Corpus
from foretrain.evaluation.tasks import evaluate
from foretrain.forecasting.predictor import load
from foretrain.notes import Code
from foretrain.run.build import build_model, open_source
from foretrain.run.config import RunConfig
from foretrain.run.export import export_checkpoint
from foretrain.run.train import train_run

FAMILIES = ("toto", "toto2")
RATE = {"toto": 1e-2, "toto2": 3e-2}


def rate_of_exchange(unit: float = 1.0) -> Corpus:
    """Hourly rates that move by 0.002 around 1.08, in a unit."""
    t, rng = np.arange(400), np.random.default_rng(0)
    values = 1.08 + 0.003 * np.sin(t / 5) + rng.normal(0, 2e-4, len(t))
    return Corpus.from_arrays("fx", [("EURUSD", (unit * values).astype(np.float32)[None], None)], ["rate"])


def config(folder: Path, family: str, steps: int = 2, **model: Any) -> RunConfig:
    start = {} if "model_id" in model else {**ZOO[family].section, "scale_floor": None}
    tree = {
        "model": {"family": family, **start, **model},
        "data": {"corpora": [{"path": "fx"}], "context_length": 48, "prediction_length": 6, "test_steps": 120},
        "training": {"max_steps": steps, "batch_size": 16, "validate_every": steps, "checkpoint_every": steps},
        "evaluation": {"forecasts": False},
        "optimizer": {"learning_rate": RATE[family]},
        "output_dir": str(folder),
    }
    return build(RunConfig, tree)


def trained(folder: Path, family: str, steps: int = 2, **model: Any) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Train on the rates; the release, its config.json and its release.json."""
    train_run(config(folder, family, steps, **model), corpora=[rate_of_exchange()])
    release = folder / "release"
    stored, facts = (json.loads((release / name).read_text()) for name in ("config.json", "release.json"))
    return release, stored, facts


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_model_has_the_relative_floor_and_its_children_too(tmp_path, family):
    release, stored, facts = trained(tmp_path / "parent", family)
    assert stored["scale_floor"] == "relative" and "rescale" not in stored
    assert [note["code"] for note in facts["warnings"]] == [Code.NOT_UPSTREAMS_FUNCTION]
    _, stored, _ = trained(tmp_path / "child", family, model_id=str(release))
    assert stored["scale_floor"] == "relative"
    _, stored, _ = trained(tmp_path / "upstream", family, model_id=str(release), scale_floor="upstream")
    assert "scale_floor" not in stored


def test_a_run_of_a_version_without_the_key_goes_on_with_upstreams_floor(tmp_path):
    made, corpora = config(tmp_path, "toto"), [rate_of_exchange()]
    assert open_source(made, corpora)[0].model.scale_floor == "relative"
    assert open_source(made, corpora, {"model": {"family": "toto"}})[0].model.scale_floor is None
    tree = made.model_dump(mode="json")
    del tree["model"]["scale_floor"]
    (tmp_path / "config.yaml").write_text(dump_yaml(tree))
    settled = open_source(made, corpora)[0]
    assert settled.model.scale_floor is None and build_model(settled).network.config.scale_floor == "upstream"


@pytest.mark.parametrize(("family", "unit"), [("toto", 1.0), ("toto2", 1e-6)])
def test_training_tells_of_moves_that_upstreams_floor_hides(tmp_path, family, unit):
    made = config(tmp_path, family, scale_floor="upstream")
    train_run(made, corpora=[rate_of_exchange(unit)])
    (note,) = json.loads((tmp_path / "release" / "release.json").read_text())["warnings"]
    assert note["code"] == Code.SCALE_FLOORED and note["counts"] == {"floored windows": 64, "windows": 64}
    assert note["text"] in (tmp_path / "training.log").read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_trained_on_rescaled_rows_learns_the_same_in_every_unit(tmp_path, family):
    found = []
    for unit in (1.0, 2.0**-20):
        folder = tmp_path / str(unit)
        train_run(config(folder, family, rescale=True), corpora=[rate_of_exchange(unit)])
        assert json.loads((folder / "release" / "config.json").read_text())["rescale"] is True
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found.append([line["loss"] for line in lines if line["kind"] == "train"])
        assert load(folder).model.rescales
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_scores_of_a_relative_model_do_not_depend_on_the_unit_and_those_of_upstreams_floor_do(tmp_path):
    """A rate of exchange in another unit: the report is the same, or says why it is not."""
    mase = {}
    for floor in ("relative", "upstream"):
        release, _, facts = trained(tmp_path / floor, "toto", steps=40, scale_floor=floor)
        for unit in (1.0, 1e5):
            result = evaluate(
                load(release).model, rate_of_exchange(unit), prediction_length=6, num_windows=8, release=facts
            )
            mase[floor, unit] = result.pooled["model"]["mase"]
            assert (Code.SCALE_FLOORED in {note.code for note in result.warnings}) == (
                floor == "upstream" and unit == 1
            )
            assert result.settings["rescale"] is False
    assert mase["relative", 1.0] == pytest.approx(mase["relative", 1e5], rel=1e-3)
    assert mase["upstream", 1.0] != pytest.approx(mase["upstream", 1e5], rel=0.1)
    rescaled = evaluate(
        load(tmp_path / "upstream").model, rate_of_exchange(), prediction_length=6, num_windows=8, rescale=True
    )
    assert rescaled.pooled["model"]["mase"] == pytest.approx(mase["upstream", 1e5], rel=0.05)
    assert rescaled.settings["rescale"] is True and Code.SCALE_FLOORED not in {n.code for n in rescaled.warnings}


def test_an_export_says_that_upstream_computes_another_function(tmp_path, logged_notes):
    release, _, _ = trained(tmp_path / "run", "toto2")
    logged_notes()
    export_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000002", tmp_path / "exported")
    assert Code.NOT_UPSTREAMS_FUNCTION in {note.code for note in logged_notes()}
    load(release).save(tmp_path / "saved")
    (note,) = logged_notes()
    assert note.code == Code.NOT_UPSTREAMS_FUNCTION and "scale_floor" in note.text
