"""Pipelines of tiny Chronos-2 models: context 32, then 64 from the first one's release."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.run.test_train import tiny
from tests.test_world import alone, in_pair, leave
from tests.waiting import DEADLINE, wait_until

import foretrain
from foretrain.cli.train import BatchFlags, train_command
from foretrain.config import dump_yaml, parse_scalar, read_yaml
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, DataError, ModelError, TrainingError
from foretrain.models.hub import release_hash
from foretrain.run.config import config_hash, config_hash_1, load_config
from foretrain.run.dry_run import describe_run, describe_stages
from foretrain.run.export import export_checkpoint
from foretrain.run.pipeline import make_stages, open_sources, plan_actions, run_stages
from foretrain.run.stages import Draft, StagesConfig
from foretrain.run.train import train_run
from foretrain.training import auto
from foretrain.training.checkpoint import steps_in
from foretrain.training.lock import RunLock
from foretrain.training.trainer import TrainResult

STEPS = 6
TREE = {
    "model": {"family": "chronos2", "dropout_rate": 0.1},
    "data": {
        "corpora": [{"synthetic": {"kind": "seasonal", "num_series": 6, "length": 160, "freq": "h"}}],
        "context_length": 32,
        "prediction_length": 8,
    },
    "training": {
        "max_steps": STEPS,
        "batch_size": 4,
        "validate_every": 3,
        "checkpoint_every": 2,
        "log_every": 1,
        "tensorboard": False,
    },
    "stages": [
        {
            "name": "short",
            "model": {
                "random_init": True,
                "d_model": 16,
                "d_kv": 8,
                "d_ff": 32,
                "num_heads": 2,
                "num_layers": 1,
                "patch_size": 8,
                "quantiles": [0.1, 0.5, 0.9],
            },
        },
        {"name": "long", "model": {"model_id": "stage:short"}, "data": {"context_length": 64}},
    ],
    "device": "cpu",
    "threads": 1,
}


def pipeline(folder: Path, *overrides: Any) -> StagesConfig:
    config = Draft.of({**TREE, "output_dir": str(folder)}, overrides).build()
    assert isinstance(config, StagesConfig)
    return config


def run(folder: Path, *overrides: Any, resume: str | None = None) -> dict[str, TrainResult]:
    return run_stages(pipeline(folder, *overrides), resume=resume)


def stage(folder: Path, name: str) -> Path:
    return next((folder / "stages").glob(f"*-{name}"))


def facts(release: Path) -> dict[str, Any]:
    return json.loads((release / "release.json").read_text())


def weights(release: Path) -> dict[str, torch.Tensor]:
    return load_file(release / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pipeline that ran undisturbed. Tests must not write to it."""
    folder = tmp_path_factory.mktemp("pipeline") / "run"
    run(folder)
    return folder


@pytest.fixture
def done(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(whole, tmp_path / "run")


@pytest.fixture
def begun(done: Path) -> Path:
    """A copy whose second stage is in the middle: its checkpoint of step 4 is the newest."""
    folder = stage(done, "long")
    shutil.rmtree(folder / "checkpoints" / "step-00000006")
    for name in ("release", "best_model", "hf_export"):
        shutil.rmtree(folder / name)
        shutil.rmtree(done / name)
    return done


def test_every_stage_leaves_a_run_folder_and_the_root_has_the_last_one_s_release(whole: Path):
    for name in ("short", "long"):
        assert {"config.yaml", "metrics.jsonl", "training.log", "checkpoints", "release"} <= {
            path.name for path in stage(whole, name).iterdir()
        }
    for name in ("release", "best_model", "hf_export"):
        assert os.path.samefile(whole / name / "model.safetensors", stage(whole, "long") / "release/model.safetensors")
    assert [entry["name"] for entry in read_yaml(whole / "config.yaml")["stages"]] == ["short", "long"]
    assert foretrain.load(whole).model.max_context_length == 64


def test_a_stage_starts_from_the_release_it_refers_to_and_records_its_hash(whole: Path):
    first, second = (stage(whole, name) / "release" for name in ("short", "long"))
    assert facts(first)["parents"] == {} and facts(first)["stage"] == "short"
    known = release_hash(first)
    assert facts(second)["parents"] == {"model": {"hash": known, "asked": str(first)}}
    assert read_yaml(stage(whole, "long") / "config.yaml")["parents"] == {"model": known}
    state = json.loads((steps_in(stage(whole, "long") / "checkpoints")[-1] / "state.json").read_text())
    assert state["config"]["parents"] == {"model": known}


def test_the_hash_of_a_config_is_of_what_decides_the_weights(whole: Path, tmp_path: Path):
    recorded = facts(whole / "release")["config_hash"]

    def hashed(*overrides: str) -> str:
        return config_hash(pipeline(tmp_path / "elsewhere", "data.with_times=false", *overrides).run(1))

    assert hashed("training.log_every=7", "threads=2", "training.tensorboard=true") == recorded
    assert hashed("training.max_steps=7", "training.keep_last=5", "training.compile=true") == recorded
    assert hashed("optimizer.learning_rate=0.5") != recorded


def test_the_log_states_stage_start_and_batch(whole: Path):
    logs = [(stage(whole, name) / "training.log").read_text() for name in ("short", "long")]
    assert "stage 1 of 2, short" in logs[0] and "starts from random weights (seed 42)" in logs[0]
    first = stage(whole, "short") / "release"
    assert "stage 2 of 2, long" in logs[1]
    assert f"starts from {first} (hash {release_hash(first)[:12]})" in logs[1]
    batch = "batch: 4 windows a step = 4 per process and forward x 1 accumulation x 1 process"
    assert all(batch in log for log in logs)


def test_the_config_of_a_stage_runs_alone_with_equal_weights(whole: Path, tmp_path: Path):
    draft = Draft.read(stage(whole, "long") / "config.yaml", [("output_dir", str(tmp_path / "alone"))])
    train_run(draft.build())  # type: ignore[arg-type]
    assert same(weights(tmp_path / "alone" / "release"), weights(whole / "release"))


def test_a_second_start_is_refused_naming_both_ways_out(done: Path):
    before = sorted(done.rglob("*"))
    with pytest.raises(TrainingError, match=r"stage short was started\. Resume it with --resume, or choose another"):
        run(done)
    assert sorted(done.rglob("*")) == before


def test_resuming_what_is_finished_trains_nothing(done: Path):
    log = (stage(done, "long") / "training.log").read_text()
    assert run(done, resume="auto") == {}
    assert (stage(done, "long") / "training.log").read_text() == log
    assert os.path.samefile(done / "release" / "config.json", stage(done, "long") / "release" / "config.json")


def test_a_stage_that_was_killed_before_its_records_gets_them(done: Path):
    before, records = weights(done / "release"), stage(done, "long") / "best_records.json"
    records.unlink()
    assert list(run(done, resume="auto")) == ["long"]
    assert records.is_file() and same(weights(done / "release"), before)


def test_resume_goes_on_with_the_stage_that_was_interrupted(begun: Path, whole: Path):
    results = run(begun, resume="auto")
    assert list(results) == ["long"] and results["long"].step == STEPS
    assert same(weights(begun / "release"), weights(whole / "release"))


def test_a_stage_that_ran_out_of_minutes_is_finished(tmp_path: Path, capsys):
    brief = "stages.short.training.max_minutes=0.000001"
    ended = run(tmp_path / "run", brief)["short"]
    assert ended.stopped_by == "max_minutes" and ended.step < STEPS
    said = capsys.readouterr().out
    assert f"stopped at step {ended.step} of 6: training.max_minutes (1e-06) are over; release/ holds step" in said
    assert "stage 1 of 2, short: training.max_minutes ended it before its last step; it counts as finished" in said
    assert run(tmp_path / "run", brief, resume="auto") == {}
    said = capsys.readouterr().out
    assert f"stage 1 of 2, short: finished before, at step {ended.step} of 6 by training.max_minutes" in said
    assert run(tmp_path / "run", resume="auto") == {}  # more minutes, but the next stage has begun from its release


def test_the_last_stage_trains_on_with_more_minutes(tmp_path: Path, whole: Path):
    brief = "stages.long.training.max_minutes=0.000001"
    assert run(tmp_path / "run", brief)["long"].step < STEPS
    results = run(tmp_path / "run", "stages.long.training.max_minutes=60", resume="auto")
    assert list(results) == ["long"] and (results["long"].step, results["long"].stopped_by) == (STEPS, "max_steps")
    assert same(weights(tmp_path / "run" / "release"), weights(whole / "release"))


def test_the_saved_config_of_a_pipeline_runs_again_elsewhere_with_equal_weights(whole: Path, tmp_path: Path):
    config = Draft.read(whole / "config.yaml", [("output_dir", str(tmp_path / "again"))]).build()
    run_stages(config)  # type: ignore[arg-type]
    assert same(weights(tmp_path / "again" / "release"), weights(whole / "release"))


def test_resume_works_where_the_run_folder_was_moved_to(begun: Path, whole: Path):
    moved = begun.rename(begun.with_name("moved"))
    assert list(run(moved, resume="auto")) == ["long"]
    assert same(weights(moved / "release"), weights(whole / "release"))


def test_a_finished_stage_without_its_checkpoints_stays_finished_under_the_same_config(begun: Path):
    shutil.rmtree(stage(begun, "short") / "checkpoints")
    assert list(run(begun, resume="auto")) == ["long"]


def test_a_finished_stage_without_its_checkpoints_is_refused_under_another_config(begun: Path):
    shutil.rmtree(stage(begun, "short") / "checkpoints")
    with pytest.raises(TrainingError, match=r"stage short: its release was made by another config.*skip_existing=true"):
        run(begun, "optimizer.learning_rate=0.5", resume="auto")


def test_a_finished_stage_without_its_checkpoints_may_have_another_layout_and_keep_more(begun: Path):
    shutil.rmtree(stage(begun, "short") / "checkpoints")
    changes = ["training.keep_last=5", "training.prefetch=1", "training.micro_batch_size=2", "evaluation.batch_size=8"]
    assert list(run(begun, *(f"stages.short.{change}" for change in changes), resume="auto")) == ["long"]


def test_a_finished_stage_without_its_checkpoints_does_not_pass_for_a_longer_one(begun: Path):
    shutil.rmtree(stage(begun, "short") / "checkpoints")
    with pytest.raises(TrainingError, match=r"stage short: its release was trained for 6 of the 600 steps that are pl"):
        run(begun, "stages.short.training.max_steps=600", resume="auto")
    assert list(run(begun, "stages.short.training.max_steps=3", resume="auto")) == ["long"]


def test_a_finished_stage_without_its_checkpoints_is_refused_on_other_data(begun: Path):
    shutil.rmtree(stage(begun, "short") / "checkpoints")
    path = stage(begun, "short") / "release" / "release.json"
    rewrite(path, data_fingerprint="others")
    with pytest.raises(TrainingError, match=r"its release was trained on other data \(fingerprint others, now"):
        run(begun, resume="auto")


def test_a_release_with_a_hash_of_version_1_is_compared_by_it_and_then_with_the_config_of_its_run(begun: Path):
    shutil.rmtree(stage(begun, "short") / "checkpoints")
    saved = stage(begun, "short") / "config.yaml"
    rewrite(stage(begun, "short") / "release" / "release.json", config_hash=config_hash_1(load_config(saved)))
    resume = partial(plan, begun, resume="auto")
    assert resume() == resume("training.keep_last=5", "training.compile=true") == ["finished", "run"]
    with pytest.raises(TrainingError, match=r"made by another config .*\(compared with .*config\.yaml\)"):
        resume("optimizer.learning_rate=0.5")
    saved.unlink()
    assert resume() == ["finished", "run"]
    with pytest.raises(TrainingError, match=r"made by another config .*\(compared by config_hash of version 1\)"):
        resume("training.keep_last=5")


def rewrite(path: Path, **changes: Any) -> None:
    facts = {**json.loads(path.read_text()), **changes}
    path.unlink()  # it has other names
    path.write_text(json.dumps(facts))


def plan(folder: Path, *overrides: Any, resume: str | None = None) -> list[str]:
    """What would be done with each stage."""
    stages = make_stages(pipeline(folder, *overrides))
    open_sources(stages, {}, resume=resume)
    return [step.do for step in plan_actions(stages, folder, resume)]


def test_a_stage_takes_the_device_s_value_for_auto_and_is_finished_with_it(tmp_path: Path, monkeypatch):
    asked = ("training.dtype=auto", "training.compile=auto")
    with monkeypatch.context() as there:  # a record of a GPU; the run is on the CPU
        there.setattr(auto, "examine", lambda device, compiler: auto.DeviceFacts("a card", "cuda", True, "no triton"))
        run(tmp_path / "run", *asked)
    assert read_yaml(stage(tmp_path / "run", "long") / "config.yaml")["training"]["dtype"] == "bfloat16"
    assert plan(tmp_path / "run", *asked, resume="auto") == ["finished", "finished"]
    config = pipeline(tmp_path / "new", *asked)
    assert sum(line.startswith("auto on cpu: training.dtype float32") for line in describe_stages(config, World())) == 2


def test_resume_refuses_another_config_for_a_finished_stage_naming_stage_and_key(begun: Path):
    with pytest.raises(TrainingError, match=r"stage short: (?s:.*)optimizer\.learning_rate: 0\.0001 was saved"):
        run(begun, "optimizer.learning_rate=0.5", resume="auto")


def test_resume_refuses_to_prolong_a_stage_that_another_was_made_from(begun: Path):
    with pytest.raises(TrainingError, match=r"stage short is to run, but stage long, .* has run already\."):
        run(begun, "stages.short.training.max_steps=9", resume="auto")


def test_a_stage_whose_parent_has_other_weights_by_now_cannot_go_on(begun: Path):
    path = stage(begun, "short") / "release" / "model.safetensors"
    changed = {name: tensor + 1 for name, tensor in load_file(path).items()}
    path.unlink()
    save_file(changed, path)
    with pytest.raises(TrainingError, match=r"parents\.model: it began from weights with the hash \w+, and"):
        run(begun, resume="auto")


def test_resume_from_a_checkpoint_of_a_stage_goes_on_there(begun: Path, whole: Path):
    path = stage(begun, "long") / "checkpoints" / "step-00000004"
    assert list(run(begun, resume=str(path))) == ["long"]
    assert same(weights(begun / "release"), weights(whole / "release"))


def test_resume_from_a_checkpoint_before_a_stage_that_has_run_is_refused(done: Path):
    path = steps_in(stage(done, "short") / "checkpoints")[0]
    with pytest.raises(TrainingError, match="stage short is to run, but stage long, which comes after it, has run"):
        run(done, resume=str(path))


def test_resume_from_a_checkpoint_of_another_run_is_refused(done: Path, tmp_path: Path):
    with pytest.raises(TrainingError, match=r"is not a checkpoint of a stage of this run(?s:.*)01-short"):
        run(done, resume=str(tmp_path / "checkpoints" / "step-00000004"))


def test_a_skipped_stage_lends_the_release_it_has(done: Path, tmp_path: Path, whole: Path):
    out = tmp_path / "other"
    shutil.copytree(stage(done, "short") / "release", out / "stages" / "01-short" / "release")
    assert list(run(out, "stages.short.skip=true")) == ["long"]
    assert same(weights(out / "release"), weights(whole / "release"))


def test_a_skipped_stage_without_a_release_cannot_be_referred_to(tmp_path: Path):
    with pytest.raises(TrainingError, match=r"stage long starts from stage short, which is skipped and has no release"):
        run(tmp_path / "run", "stages.short.skip=true")
    assert not (tmp_path / "run" / "stages").exists()


def test_where_the_last_stage_is_skipped_the_one_before_is_released(tmp_path: Path):
    assert list(run(tmp_path / "run", "stages.long.skip=true")) == ["short"]
    assert facts(tmp_path / "run" / "release")["stage"] == "short"


def test_skip_existing_leaves_a_stage_that_has_a_release_and_runs_the_others(begun: Path, whole: Path, capsys):
    shutil.rmtree(stage(begun, "long"))
    assert list(run(begun, "stages.short.skip_existing=true")) == ["long"]
    assert "stage 1 of 2, short: not run, since it has a release" in capsys.readouterr().out
    assert same(weights(begun / "release"), weights(whole / "release"))


def test_skip_existing_says_when_the_release_is_of_another_config(begun: Path, capsys):
    shutil.rmtree(stage(begun, "long"))
    changes = ["optimizer.learning_rate=0.5", "training.max_steps=9"]
    run(begun, "stages.short.skip_existing=true", *(f"stages.short.{change}" for change in changes))
    out = capsys.readouterr().out
    assert "note: its release was made by another config than the present one" in out
    assert "note: its release was trained for 6 of the 9 steps that are planned now" in out


def test_skip_existing_says_when_a_parent_is_another_by_now(done: Path, capsys):
    path = stage(done, "short") / "release" / "model.safetensors"
    changed = {name: tensor + 1 for name, tensor in load_file(path).items()}
    path.unlink()
    save_file(changed, path)
    assert run(done, "stages.short.skip_existing=true", "stages.long.skip_existing=true") == {}
    assert "note: its model was not the present release of stage short" in capsys.readouterr().out


def test_skip_existing_runs_a_stage_that_has_no_release(tmp_path: Path):
    assert list(run(tmp_path / "run", "stages.short.skip_existing=true", "stages.long.skip=true")) == ["short"]


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("stages.long.data.prediction_length=80", DataError, "stage long: .*none of its 6 series can be trained on"),
        ("stages.long.training.best_metric=val_los", ConfigError, "stage long: training.best_metric: 'val_los' is"),
        ("stages.long.data.validation_steps=2", ConfigError, "stage long: data.validation_steps: 2 steps hold"),
        ("stages.long.optimizer.schedule.warmup_steps=9", ConfigError, "stage long: .*9 exceed the run's 6 steps"),
        (
            "stages.long.model.random_init=true",
            ConfigError,
            "stage long: model: give either model_id",
        ),
        ("stages.long.model={family: chronos2, model_id: nowhere}", ModelError, "stage long: nowhere: no such folder"),
    ],
)
def test_an_impossible_later_stage_is_reported_before_the_first_one_starts(tmp_path: Path, override, error, message):
    with pytest.raises(error, match=message):
        run(tmp_path / "run", override)
    assert not (tmp_path / "run" / "stages").exists()


def test_an_impossible_first_stage_is_named_and_writes_nothing(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"stage short: .*best_metric"):
        run(tmp_path / "run", "stages.short.training.best_metric=val_foo")
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {"run.lock"}


def test_a_dry_run_with_resume_does_not_refuse_a_run_that_is_there(tmp_path: Path):
    config = tiny(tmp_path / "run")
    train_run(config)
    assert "refused" in "\n".join(describe_run(config, World()))
    assert "refused" not in "\n".join(describe_run(config, World(), "auto"))


def test_two_pipelines_do_not_write_one_folder(done: Path):
    with RunLock(done), pytest.raises(TrainingError, match="is writing this run"):
        run(done, resume="auto")


def test_a_folder_of_a_single_run_takes_no_pipeline_nor_the_other_way_round(done: Path, tmp_path: Path):
    with pytest.raises(TrainingError, match="holds a run in stages"):
        train_run(tiny(done))
    train_run(tiny(tmp_path / "single", "training.max_steps=3"))
    with pytest.raises(TrainingError, match="already holds a run without stages"):
        run(tmp_path / "single", resume="auto")


def test_stages_keep_their_names_and_places(done: Path):
    with pytest.raises(TrainingError, match=r"holds 01-short, which this config does not have \(its stages: 01-brief"):
        run(done, "stages.0.name=brief", "stages.1.model.model_id=stage:brief", resume="auto")


def test_a_dry_run_tells_every_stage_and_writes_nothing(tmp_path: Path):
    text = "\n".join(describe_stages(pipeline(tmp_path / "run"), World()))
    for part in ("stage 1 of 2, short", "stage 2 of 2, long", "starts from stage short, not released yet"):
        assert part in text
    assert text.count("steps: 6 of 4 windows") == text.count("memory:") == 2
    assert "refused" not in text and not (tmp_path / "run").exists()


def test_a_dry_run_tells_what_would_be_refused_and_what_is_finished(begun: Path):
    assert "refused: " in "\n".join(describe_stages(pipeline(begun), World()))
    assert "finished before" in "\n".join(describe_stages(pipeline(begun), World(), "auto"))


def test_a_checkpoint_of_a_later_stage_can_be_exported(whole: Path, tmp_path: Path):
    export_checkpoint(steps_in(stage(whole, "long") / "checkpoints")[-1], tmp_path / "out")
    assert same(weights(tmp_path / "out"), weights(whole / "release"))
    assert {key: facts(tmp_path / "out")[key] for key in ("parents", "stage", "config_hash")} == {
        key: facts(whole / "release")[key] for key in ("parents", "stage", "config_hash")
    }


def test_a_checkpoint_can_be_exported_where_the_run_folder_was_moved_to(done: Path, tmp_path: Path, whole: Path):
    config = Draft.read(done / "config.yaml", [("output_dir", str(tmp_path / "old"))]).build()
    run_stages(config)  # type: ignore[arg-type]
    hashed = facts(tmp_path / "old" / "release")["config_hash"]
    moved = (tmp_path / "old").rename(tmp_path / "new")
    export_checkpoint(steps_in(stage(moved, "long") / "checkpoints")[-1], tmp_path / "out")
    assert same(weights(tmp_path / "out"), weights(whole / "release"))
    assert facts(tmp_path / "out")["config_hash"] == hashed
    assert facts(tmp_path / "out")["parents"]["model"]["asked"] == str(stage(moved, "short") / "release")


@pytest.mark.parametrize(
    ("flags", "world", "expected"),
    [
        (BatchFlags(8, 2), 1, (8, 16)),
        (BatchFlags(8, None), 4, (8, 32)),
        (BatchFlags(None, 4), 2, (8, 64)),
        (BatchFlags(None, None), 2, None),
        (BatchFlags("auto", None), 2, ("auto",)),
    ],
)
def test_batch_flags_mean_micro_times_accumulation_times_processes(flags, world, expected):
    found = dict(flags.overrides({"training": {"batch_size": 64}}, world))
    assert (tuple(found.values()) or None) == expected


def written(path: Path, config: Any) -> Path:
    path.write_text(dump_yaml(config))
    return path


def test_on_resume_the_saved_batch_sizes_rule(tmp_path: Path, capsys):
    path = written(tmp_path / "run.yaml", tiny(tmp_path / "run"))
    train_command(path, [], batch=BatchFlags(2, 2))
    saved = read_yaml(tmp_path / "run" / "config.yaml")["training"]
    assert (saved["micro_batch_size"], saved["batch_size"]) == (2, 4)
    train_command(path, ["training.max_steps=7"], batch=BatchFlags(2, None), resume="auto")
    assert "finished at step 7" in capsys.readouterr().out


def test_micro_batches_may_be_smaller_on_resume_by_flag_or_by_key(tmp_path: Path, capsys):
    path = written(tmp_path / "run.yaml", tiny(tmp_path / "run"))
    train_command(path, [], batch=BatchFlags(4))
    train_command(path, ["training.max_steps=7"], batch=BatchFlags(2), resume="auto")
    assert "4 windows a step = 2 per process and forward x 2 accumulation" in capsys.readouterr().out
    train_command(path, ["training.max_steps=8", "training.micro_batch_size=1"], batch=BatchFlags(), resume="auto")
    out = capsys.readouterr().out
    assert "training.micro_batch_size: 2 -> 1" in out and "1 per process and forward x 4 accumulation" in out


def test_batch_flags_hold_for_every_stage_and_saved_sizes_for_those_that_have_begun(begun: Path, tmp_path: Path):
    path = written(tmp_path / "run.yaml", pipeline(begun))
    train_command(path, [], batch=BatchFlags(None, 8), resume="auto")
    assert read_yaml(begun / "config.yaml")["stages"][1]["training"]["batch_size"] == 4
    train_command(path, ["stages.long.skip=true"], flags={"output_dir": str(tmp_path / "b")}, batch=BatchFlags(1, 3))
    assert [entry["training"]["batch_size"] for entry in read_yaml(tmp_path / "b/config.yaml")["stages"]] == [3, 3]


def test_the_flags_of_the_command_reach_every_stage(tmp_path: Path, capsys):
    path = str(written(tmp_path / "run.yaml", pipeline(tmp_path / "run")))
    flags = ["--max-steps", "3", "--learning-rate", "0.5", "--seed", "9", "--output-dir", str(tmp_path / "other")]
    assert alone("train", path, "stages.long.training.max_steps=5", "--dry-run", "--verbose", *flags) == 0
    text = capsys.readouterr().out
    assert text.count("max_steps: 3") == text.count("learning_rate: 0.5") == 2
    assert "seed: 9" in text and f"output_dir: {tmp_path / 'other'}" in text
    assert alone("config", "show", path, "stages.long.training.max_steps=5") == 0
    assert [s["training"]["max_steps"] for s in parse_scalar(capsys.readouterr().out)["stages"]] == [6, 5]
    assert alone("train", path, "--model-id", "x") == 2
    assert "--model-id: this config has stages" in capsys.readouterr().err


LONG = ["training.max_steps=40", "training.validate_every=20", "training.checkpoint_every=5"]  # time to be killed in


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long") / "run"
    run(folder, *LONG)
    return folder


@pytest.mark.processes
@pytest.mark.parametrize("name", ["01-short", "02-long"])
def test_killed_in_either_stage_it_ends_like_an_undisturbed_run(undisturbed: Path, tmp_path: Path, name):
    out = tmp_path / "run"
    config = pipeline(out, *LONG)
    words = [sys.executable, "-m", "foretrain.cli", "train", str(written(tmp_path / "run.yaml", config))]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: steps_in(out / "stages" / name / "checkpoints"), process)
    process.send_signal(signal.SIGKILL)
    process.wait(DEADLINE)
    assert not (out / "stages" / name / "release").exists()
    results = run_stages(config, resume="auto")
    assert list(results) == ["short", "long"][int(name == "02-long") :]
    assert same(weights(out / "release"), weights(undisturbed / "release"))


@pytest.mark.processes
def test_two_processes_run_the_stages_of_one(tmp_path: Path):
    out = tmp_path / "two"
    overrides = ["model.dropout_rate=0", "training.micro_batch_size=2"]
    path = written(tmp_path / "run.yaml", pipeline(out, *overrides))
    process = in_pair("train", str(path), output=tmp_path / "log")
    run(tmp_path / "one", *overrides)
    log = tmp_path / "log"
    assert leave(process) == 0, log.read_text()[-3000:]
    assert "batch: 4 windows a step = 2 per process and forward x 1 accumulation x 2 processes" in log.read_text()
    one, two = (weights(folder / "release") for folder in (tmp_path / "one", out))
    for tensor, other in zip(one.values(), two.values(), strict=True):
        torch.testing.assert_close(tensor, other, rtol=1e-4, atol=1e-5)
    assert facts(out / "release")["parents"]["model"]["hash"] == release_hash(stage(out, "short") / "release")


def test_columns_that_a_later_stage_cannot_learn_are_reported_before_the_first_one_starts(tmp_path: Path):
    sizes = {"random_init": True, "d_model": 16, "n_heads": 2, "ff_dim": 16}
    reader = {"family": "kronos_tokenizer", **sizes, "n_enc_layers": 2, "n_dec_layers": 2}
    writer = {"family": "kronos", **sizes, "n_layers": 1, "tokenizer": "stage:reader"}
    bars = [{"synthetic": {"kind": "ohlcv", "num_series": 4, "length": 120, "freq": "h"}}]
    later = {"name": "writer", "model": writer}
    for stage, error, message in (
        ({**later, "data": {"target": ["open", "close"]}}, DataError, "Kronos reads candles.* there is no high, low"),
        (
            {**later, "model": {**writer, "token_cache": True}},
            ConfigError,
            "model.token_cache: windows drawn at random",
        ),
    ):
        tree = {
            "data": {"corpora": bars, "context_length": 32, "prediction_length": 8},
            "training": {"max_steps": 2},
            "stages": [{"name": "reader", "model": reader}, stage],
            "output_dir": str(tmp_path / "run"),
        }
        config = Draft.of(tree).build()
        assert isinstance(config, StagesConfig)
        with pytest.raises(error, match=f"stage writer: {message}"):
            run_stages(config)
        assert not (tmp_path / "run" / "stages").exists()
