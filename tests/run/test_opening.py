"""Checkpoints of runs where a model is asked for."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.cli.test_app import foretrain as command
from tests.models.zoo import CONTEXT, HORIZON
from tests.run.test_train import tiny

import foretrain
from foretrain.errors import ModelError, TrainingError
from foretrain.forecasting import predictor
from foretrain.models import infer_family
from foretrain.models.checkpoints import checkpoint_at, steps_in
from foretrain.models.hub import release_hash
from foretrain.notes import Code, codes
from foretrain.run import export
from foretrain.run.export import export_checkpoint
from foretrain.run.train import train_run
from foretrain.training.manifest import delete_checkpoint

CORPUS = "data.corpora=[{path: PATH}]"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rows = "".join(f"2024-01-{1 + k // 24:02d} {k % 24}:00,{10 + k % 24 + k % 7}\n" for k in range(500))
    (folder / "hourly.csv").write_text(f"timestamp,value\n{rows}")
    command("data", "import", folder / "hourly.csv", "--out", folder / "corpus")
    return folder / "corpus"


@pytest.fixture(scope="module")
def base(tmp_path_factory, corpus: Path) -> Path:
    """A run with averaged weights that kept every checkpoint."""
    folder = tmp_path_factory.mktemp("base") / "run"
    train_run(tiny(folder, *settings(corpus)))
    return folder


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "run"))


def settings(corpus: Path) -> list[str]:
    return [CORPUS.replace("PATH", str(corpus)), "data.test_steps=48", "training.ema_decay=0.5", "training.keep_last=9",
            "training.validate_every=2"]  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "release.json").read_text())


def test_a_checkpoint_opens_with_the_weights_that_its_release_would_hold(run, tmp_path, logged_notes):
    checkpoint = run / "checkpoints" / "step-00000004"
    loaded = foretrain.load(checkpoint)
    assert codes(logged_notes()) == {Code.CHECKPOINT_OPENED}
    export_checkpoint(checkpoint, tmp_path / "averaged", ema=True)
    for key, value in weights(tmp_path / "averaged").items():
        assert torch.equal(loaded.network.state_dict()[key], value)
    released = facts(run / "release")
    for key in ("data", "corpora", "ancestry", "config_hash", "output", "weights"):
        assert loaded.facts[key] == released[key]
    assert (loaded.facts["step"], loaded.facts["from"]) == (4, "step-00000004")


@pytest.mark.parametrize(
    ("name", "step"),
    [("step-4", 4), ("checkpoint-4", 4), ("latest", 6), ("last", 6), ("final-checkpoint", 6), ("best", None)],
)
def test_a_checkpoint_has_names_in_its_run_folder_and_among_the_checkpoints(run, name, step):
    step = step or facts(run / "release")["step"]
    expected = run / "checkpoints" / f"step-{step:08d}"
    assert checkpoint_at(run / name) == checkpoint_at(run / "checkpoints" / name) == expected
    assert checkpoint_at(run / "step-5") is checkpoint_at(run / "newest") is checkpoint_at(run) is None


def test_a_line_says_whether_it_is_the_best_or_the_last(run, logged_notes):
    best = facts(run / "release")["step"]
    found = {}
    for path in steps_in(run / "checkpoints"):
        foretrain.load(path)
        found[int(path.name[5:])] = logged_notes()[-1].text
    assert sum("neither the best nor the last" in text for text in found.values()) == len(found) - len({best, 6})
    assert "the best" in found[best] and "the last of its run" in found[6] and f"step {best}" in found[best]


def test_a_run_starts_from_a_checkpoint_and_records_it_like_a_release(run, corpus, tmp_path):
    child = tmp_path / "child"
    start = ("model={family: chronos2}", f"model.model_id={run}/latest", *settings(corpus), "training.max_steps=2")
    train_run(tiny(child, *start))
    checkpoint, recorded = run / "checkpoints" / "step-00000006", facts(child / "release")
    assert recorded["parents"]["model"] == {"hash": release_hash(checkpoint / "release"), "asked": str(checkpoint)}
    assert recorded["ancestry"]["known"]
    assert {rule["by"]: rule["test_steps"] for rule in recorded["ancestry"]["corpora"]} == {"model": 48}
    assert f"starts from {checkpoint}, step 6, " in (child / "training.log").read_text()
    # the first run goes on, past a release in its folder of checkpoints, and `latest` is what it was
    train_run(tiny(run, *settings(corpus), "training.max_steps=8"), resume="auto")
    assert checkpoint_at(run / "latest") == run / "checkpoints" / "step-00000008"
    train_run(tiny(child, *start, "training.max_steps=4"), resume="auto")
    assert facts(child / "release")["parents"] == recorded["parents"]


def test_an_evaluation_of_a_checkpoint_scores_what_its_run_held_out(run, corpus, capsys):
    def scored(model: Path, *more: object) -> tuple[str, str]:
        capsys.readouterr()
        command("evaluate", model, "--data", corpus, "--prediction-length", 8, *more)
        shown = capsys.readouterr()
        return re.sub(r"[\s-]+", " ", shown.out.replace(str(model), "MODEL")), shown.err  # columns follow the name

    step = facts(run / "release")["step"]
    released, _ = scored(run / "release")
    table, said = scored(run / "checkpoints" / f"step-{step:08d}")
    assert table == released and f"is a checkpoint: step {step}, the best" in said
    gate, _ = scored(run / "checkpoints" / f"step-{step:08d}", "--against", "zero-shot")
    assert "recorded in MODEL/release/release.json: not promoted" in gate
    promotion = facts(run / "checkpoints" / f"step-{step:08d}" / "release")["promotion"]
    assert promotion["against"]["name"] == "random weights (seed 42)" and "promotion" not in facts(run / "release")


def test_a_forecast_and_an_export_take_the_names(run, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command("forecast", run / "best", corpus, "--prediction-length", 8, "--out", "a.csv")
    command("forecast", run / "release", corpus, "--prediction-length", 8, "--out", "b.csv")
    assert Path("a.csv").read_text() == Path("b.csv").read_text()
    command("export", run / "latest", "--out", "exported")
    assert facts(Path("exported"))["from"] == "step-00000006"


@pytest.mark.parametrize("name", ["toto2", "linear"])
def test_a_checkpoint_tells_its_family_and_an_adapter_is_merged(zoo, tmp_path, name):
    from tests.run.test_adapter_run import base_of, config

    train_run(config(tmp_path / "run", base_of(zoo, tmp_path / "start", name), name))
    step = facts(tmp_path / "run" / "release")["step"]
    asked = tmp_path / "run" / f"step-{step}"
    assert infer_family(str(asked)) == name
    loaded = foretrain.load(asked).network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in weights(tmp_path / "run" / "release").items())
    series = np.sin(np.arange(CONTEXT, dtype=np.float32))
    assert foretrain.load(asked).forecast([series], HORIZON)[0].shape[1] == HORIZON


def test_a_damaged_checkpoint_is_no_model(run):
    next((run / "checkpoints" / "step-00000002").glob("*.safetensors")).write_bytes(b"x")
    with pytest.raises(TrainingError, match=r"step-00000002: cannot be exported: .*instead of"):
        foretrain.load(run / "step-2")


def test_a_checkpoint_without_a_release_is_explained_where_none_is_written(run):
    with pytest.raises(ModelError, match=r"is a checkpoint, and no release of it .* foretrain export .*step-00000004"):
        predictor.load(run / "step-4")


@pytest.mark.parametrize("moment", ["build_model", "adapter_facts", "write_json"])
def test_a_name_means_another_checkpoint_if_the_run_deletes_the_first_while_it_is_read(run, monkeypatch, moment):
    folder = run / "checkpoints"
    newest, before = reversed(steps_in(folder)[-2:])
    original = getattr(export, moment)

    def late(*given: Any, **named: Any) -> Any:
        if newest.exists():
            delete_checkpoint(newest)
        return original(*given, **named)

    monkeypatch.setattr(export, moment, late)
    assert foretrain.load(run / "latest").facts["from"] == before.name
    assert not newest.exists()  # no folder without a checkpoint is left behind


def test_a_checkpoint_that_its_run_deletes_while_it_is_read_is_named(run, monkeypatch):
    newest, original = steps_in(run / "checkpoints")[-1], export.build_model
    monkeypatch.setattr(export, "build_model", lambda config: delete_checkpoint(newest) or original(config))
    with pytest.raises(ModelError, match=r"step-00000006: its run deleted it meanwhile .*keep_last"):
        foretrain.load(newest)


def test_another_process_may_write_the_release_of_a_checkpoint_first(run, monkeypatch):
    checkpoint = checkpoint_at(run / "latest")
    assert checkpoint is not None

    def slow(given: Path, out: Path, **how: Any) -> None:
        export_checkpoint(given, out, **how)  # the other process, between this one's look and its own export
        export_checkpoint(given, out, **how)

    monkeypatch.setattr(export, "export_checkpoint", slow)
    assert foretrain.load(run / "latest").facts["from"] == checkpoint.name


def test_an_intact_checkpoint_opens_beside_a_newer_damaged_one(run):
    (steps_in(run / "checkpoints")[-1] / "state.json").write_text("{")
    assert foretrain.load(run / "checkpoints" / "step-00000004").facts["step"] == 4
