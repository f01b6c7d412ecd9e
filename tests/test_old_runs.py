"""Run folders, releases and checkpoints that an older version wrote still resume, evaluate, forecast and export.

tests/fixtures/make_old_runs.py wrote them and says what is in them. This module uses the command line, `foretrain.load`
and the files on disk alone: what users of an older version have.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

import foretrain
from foretrain import cli

FIXTURES = Path(__file__).parent / "fixtures" / "old_runs"
FAMILIES = json.loads((FIXTURES / "manifest.json").read_text())["families"]
RUNS = {name: json.loads((FIXTURES / name / "expected.json").read_text()) for name in FAMILIES}
EPS = 2.0**-23
# The same arithmetic in another order of summation: with every vector instruction switched off
# (ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE), losses move by 2 eps at most and forecasts, which are sampled by
# searching a cumulative sum, by 18 eps. 30 and 15 times as much is allowed: 8e-6 and 3e-5 of a value. A
# resume that loses the optimizer's first moments moves losses by 3e-3 and more from its second step on.
LOSS = 64 * EPS
SCORE = 256 * EPS
# The recorded forecasts are those that the models gave, without what is done to them now by default.
AS_GIVEN = ("--no-sort-quantiles", "--no-repair-candles", "--no-blank-missing")


def cases(kind: str) -> list[tuple[str, str]]:
    """(family, run) of the runs that were "killed", or of those that were finished and are "extended"."""
    return [(name, run) for name in FAMILIES for run, entry in RUNS[name].items() if bool(entry[kind])]


def releases(kind: str) -> list[tuple[str, str, str]]:
    """(family, run, release) of the releases that make forecasts."""
    return [(name, run, release) for name, run in cases(kind) for release in RUNS[name][run]["releases"]]


def train(*arguments: object) -> None:
    """`foretrain train` in this process."""
    command("train", *arguments)


def command(*arguments: object) -> None:
    """`foretrain ARGUMENTS` in this process, which keeps its number of threads; fails unless the exit code is 0."""
    old, threads, environment = sys.argv, torch.get_num_threads(), dict(os.environ)
    sys.argv = ["foretrain", *map(str, arguments)]
    try:
        cli.main()
    except SystemExit as leave:
        assert not leave.code, f"{' '.join(sys.argv)} ended with {leave.code}"
    finally:
        sys.argv = old
        torch.set_num_threads(threads)
        os.environ.clear()
        os.environ.update(environment)


def copy_of(name: str, folder: Path) -> Path:
    """A family's fixtures in a folder where they may be changed."""
    return Path(shutil.copytree(FIXTURES / name, folder / name))


def journal(run: Path) -> dict[int, tuple[str, float]]:
    """Step -> (line, loss) of the training lines of a run; a step that is there twice is an error."""
    lines = [line for line in (run / "metrics.jsonl").read_text().splitlines() if '"kind": "train"' in line]
    found = {json.loads(line)["step"]: (line, json.loads(line)["loss"]) for line in lines}
    assert len(found) == len(lines)
    return found


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file of a folder: hash and time of its last change."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in files
    }


def assert_losses(found: dict[int, tuple[str, float]], recorded: list[list[float]]) -> None:
    """The steps are the same, and each loss is the recorded one up to the order of summation."""
    assert list(found) == [step for step, _ in recorded]
    for step, loss in recorded:
        assert found[step][1] == pytest.approx(loss, rel=LOSS), f"step {step}"


def assert_used_as_recorded(release: str, asked: dict[str, Any], out: Path) -> None:
    """A release in the current folder scores and forecasts as recorded."""
    command("evaluate", release, *asked["evaluate"], "--out", out / "evaluation")
    pooled = json.loads((out / "evaluation" / "evaluation.json").read_text())["pooled"]
    assert pooled.keys() == asked["metrics"].keys()
    for forecaster, metrics in asked["metrics"].items():
        assert pooled[forecaster] == pytest.approx(metrics, rel=SCORE, abs=SCORE), forecaster
    longest = foretrain.load(release).model.max_context_length  # the context of a forecast in that version
    flags = [*asked["forecast"], *AS_GIVEN, "--context-length", longest]
    command("forecast", release, *flags, "--out", out / "forecast.csv")
    found, recorded = pd.read_csv(out / "forecast.csv"), pd.read_csv(asked["table"])
    pd.testing.assert_frame_equal(found, recorded, rtol=SCORE, atol=0)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """A killed run after `--resume`, made when it is first asked for: its family's folder."""
    held: dict[tuple[str, str], Path] = {}

    def of(name: str, run: str) -> Path:
        if (name, run) not in held:
            held[name, run] = folder = copy_of(name, tmp_path_factory.mktemp("resumed"))
            with contextlib.chdir(folder):
                train(RUNS[name][run]["config"], "--resume")
        return held[name, run]

    return of


@pytest.mark.parametrize(("name", "run"), cases("killed"))
def test_a_killed_run_resumes_at_its_checkpoint_and_meets_the_recorded_losses(resumed, name, run):
    entry = RUNS[name][run]
    stage, checkpoint = entry["killed"]["in"], entry["killed"]["checkpoint"]
    before, after = (journal(root / run / stage) for root in (FIXTURES / name, resumed(name, run)))
    assert list(before) == list(range(1, entry["killed"]["last_line"] + 1)) and checkpoint < max(before)
    for step, (line, _) in before.items():
        assert (line == after[step][0]) == (step <= checkpoint), f"step {step}"  # lines hold the time of their writing
    assert_losses(after, entry["journals"][stage])


@pytest.mark.parametrize(("name", "run", "release"), releases("killed"))
def test_a_resumed_run_leaves_the_release_of_the_undisturbed_one(resumed, name, run, release, tmp_path, monkeypatch):
    monkeypatch.chdir(resumed(name, run))
    assert_used_as_recorded(release, RUNS[name][run]["releases"][release], tmp_path)


def test_a_finished_stage_is_left_alone(resumed):
    folder, stage = resumed("kronos", "staged"), "staged/stages/01-tokenizer"
    assert contents(folder / stage) == contents(FIXTURES / "kronos" / stage)
    release = json.loads((folder / "staged" / "release" / "release.json").read_text())
    made_of = json.loads((folder / "staged/stages/02-predictor/release/release.json").read_text())["parents"]
    assert release["parents"] == made_of and made_of["tokenizer"]["hash"]


def test_a_finished_stage_whose_checkpoints_are_gone_is_known_by_its_config(tmp_path, monkeypatch):
    folder, stage = copy_of("kronos", tmp_path), Path("staged/stages/01-tokenizer")
    monkeypatch.chdir(folder)
    shutil.rmtree(stage / "checkpoints")
    before = contents(stage)
    train("staged.yaml", "--resume")
    assert contents(stage) == before
    assert_losses(
        journal(Path("staged/stages/02-predictor")), RUNS["kronos"]["staged"]["journals"]["stages/02-predictor"]
    )


@pytest.mark.parametrize(("name", "run"), cases("extended"))
def test_a_finished_run_goes_on_to_more_steps(name, run, tmp_path, monkeypatch):
    entry = RUNS[name][run]
    monkeypatch.chdir(copy_of(name, tmp_path))
    before = journal(Path(run))
    train(entry["config"], "--resume", "--max-steps", entry["extended"]["to"])
    after = journal(Path(run))
    assert all(after[step][0] == line for step, (line, _) in before.items())
    assert_losses(after, entry["extended"]["losses"])
    assert {path.name for path in Path(run).glob("adapters/*")} <= {"default"}  # the name that it began with


@pytest.mark.parametrize(("name", "run", "release"), releases("extended"))
def test_a_release_scores_and_forecasts_as_it_did(name, run, release, tmp_path, monkeypatch):
    monkeypatch.chdir(copy_of(name, tmp_path))
    assert_used_as_recorded(release, RUNS[name][run]["releases"][release], tmp_path)


@pytest.mark.parametrize(("name", "run", "release"), releases("extended"))
def test_load_opens_a_release(name, run, release, tmp_path, monkeypatch):
    monkeypatch.chdir(copy_of(name, tmp_path))
    foretrain.load(release).save("saved")
    saved, weights = (load_file(f"{folder}/model.safetensors") for folder in ("saved", release))
    assert saved.keys() == weights.keys()
    assert all(torch.equal(saved[key], value) for key, value in weights.items())


def test_load_merges_an_adapter_with_its_base(tmp_path, monkeypatch):
    monkeypatch.chdir(copy_of("toto", tmp_path))
    merged, released = (
        foretrain.load(place).network.state_dict() for place in ("lora/adapters/default", "lora/release")
    )
    assert_weights(merged, released)


def test_load_keeps_the_record_beside_the_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(copy_of("toto", tmp_path))
    for place in ("lora/adapters/default", "lora/release", "lora"):
        assert foretrain.load(place).facts == json.loads(Path("lora/release/release.json").read_text()), place


@pytest.mark.parametrize(("name", "run"), [*cases("killed"), *cases("extended")])
def test_a_checkpoint_is_exported(name, run, tmp_path, monkeypatch):
    monkeypatch.chdir(copy_of(name, tmp_path))
    entry = RUNS[name][run]
    folder = Path(run, entry["killed"]["in"] if entry["killed"] else ".")
    averaged = yaml.safe_load((folder / "config.yaml").read_text())["training"]["ema_decay"] is not None
    flags = ["--ema"] if averaged else []
    facts = folder / "release" / "release.json"
    newest = sorted(folder.glob("checkpoints/step-*"))[-1]
    checkpoint = newest if entry["killed"] else folder / "checkpoints" / f"step-{step_of(facts):08d}"
    command("export", checkpoint, "--out", "exported", *flags)
    assert step_of(Path("exported/release.json")) == int(checkpoint.name.removeprefix("step-"))
    weights = load_file("exported/model.safetensors")
    if entry["releases"]:
        foretrain.load("exported").save("saved")
        assert load_file("saved/model.safetensors").keys() == weights.keys()
    if not entry["killed"]:
        assert_weights(weights, load_file(folder / "release" / "model.safetensors"))
    if (folder / "adapters").is_dir():
        command("export", checkpoint, "--out", "adapter", "--adapter", *flags)
        file = "adapter_model.safetensors"
        assert_weights(load_file(f"adapter/{file}"), load_file(folder / "adapters" / "default" / file))


def step_of(facts: Path) -> int:
    """The step of a release.json."""
    return json.loads(facts.read_text())["step"]


def assert_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Tensors are the same up to the order of summation of a low-rank product."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=4 * EPS * max(float(value.abs().max()), EPS))


def test_the_fixtures_name_no_machine():
    for path in FIXTURES.rglob("*"):
        assert path.name not in ("run.lock", "training.log")
        if path.suffix in (".json", ".jsonl", ".yaml", ".csv"):
            text = path.read_text()
            assert not any(f"{mark}/" in text for mark in ('"', "'", ": ")), f"{path} names an absolute path"
