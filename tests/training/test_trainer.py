from __future__ import annotations

import io
import json
import math
import os
import shutil
import time

import pytest
import torch
from rich.console import Console
from tests.training.curves import loss_curve_hash

from foretrain.atomic import write_json
from foretrain.errors import ConfigError, TrainingError
from foretrain.training.checkpoint import CheckpointManager
from foretrain.training.settings import TrainingConfig
from foretrain.training.trainer import ValidationResult


def scores(*values):
    """Return an evaluate whose n-th call returns the n-th value."""
    left = list(values)
    return lambda model, step: ValidationResult({"loss": left.pop(0)})


def weight_sum(model, step):
    """A metric of the weights alone."""
    return ValidationResult({"loss": sum(p.double().abs().sum().item() for p in model.parameters())})


def test_a_run_learns(toy, tmp_path):
    toy.trainer(tmp_path, max_steps=150, batch_size=16, log_every=1, checkpoint_every=None).fit()
    losses = [loss for _, loss in toy.losses(tmp_path)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


@pytest.mark.parametrize("micro", [1, 3, 4])
def test_accumulation_changes_nothing_though_weights_are_uneven(toy, tmp_path, micro):
    toy.trainer(tmp_path / "whole").fit()
    toy.trainer(tmp_path / "parts", micro_batch_size=micro).fit()
    whole, parts = ([loss for _, loss in toy.losses(tmp_path / name)] for name in ("whole", "parts"))
    assert parts == pytest.approx(whole, rel=1e-5)


def test_a_loss_is_the_mean_over_what_was_observed(toy, tmp_path):
    toy.trainer(tmp_path, max_steps=1, micro_batch_size=3).fit()
    model = toy.Model()
    loss = model(model.collate(toy.Source().windows(0, 8)))
    assert toy.losses(tmp_path) == [(1, pytest.approx((loss.total.detach() / loss.weight).item(), rel=1e-6))]


@pytest.mark.parametrize("kind", ["constant", "plateau"])
@pytest.mark.parametrize("at", [4, 6, 10])
def test_a_resumed_run_equals_an_uninterrupted_one(toy, tmp_path, at, kind):
    """The first run is cut after step `at` by copying its folder as it was then: what a kill leaves behind."""
    schedule = toy.Schedule(kind=kind, patience=1) if kind == "plateau" else toy.Schedule()
    settings = {
        "optimizer": toy.Optimizer(learning_rate=1e-2, schedule=schedule),
        "micro_batch_size": 3,
        "ema_decay": 0.9,
        "validate_every": 2,
        "keep_best": 2,
    }
    whole, cut = tmp_path / "whole", tmp_path / "cut"

    def evaluate(model, step):
        result = weight_sum(model, step)
        if step == at:
            shutil.rmtree(cut, ignore_errors=True)
            shutil.copytree(whole, cut, ignore=shutil.ignore_patterns("run.lock"))
        return result

    toy.trainer(whole, model=toy.Model(dropout=0.2), evaluate=evaluate, **settings).fit()
    toy.trainer(cut, model=toy.Model(dropout=0.2, seed=9), evaluate=weight_sum, resume="auto", **settings).fit()
    assert loss_curve_hash(cut / "metrics.jsonl") == loss_curve_hash(whole / "metrics.jsonl")
    assert toy.steps(cut) == toy.steps(whole)
    for name in ("model.safetensors", "release.json"):
        assert (cut / "release" / name).read_bytes() == (whole / "release" / name).read_bytes()
    assert [r["loss"] for r in toy.lines(cut, "validation")] == [r["loss"] for r in toy.lines(whole, "validation")]


def test_resuming_a_finished_run_leaves_it_as_it_is(toy, tmp_path):
    first = toy.trainer(tmp_path).fit()
    before = (tmp_path / "release" / "model.safetensors").read_bytes()
    again = toy.trainer(tmp_path, resume="auto").fit()
    assert (again.step, again.stopped_by) == (first.step, "max_steps")
    assert (tmp_path / "release" / "model.safetensors").read_bytes() == before


def test_a_run_ended_by_early_stopping_does_not_continue_when_resumed(toy, tmp_path):
    settings = {"max_steps": 20, "validate_every": 2, "patience": 2}
    first = toy.trainer(tmp_path, evaluate=scores(1.0, 2.0, 3.0), **settings).fit()
    again = toy.trainer(tmp_path, evaluate=scores(), resume="auto", **settings).fit()
    assert (first.step, first.stopped_by) == (again.step, again.stopped_by) == (6, "patience")
    assert first.release_step == again.release_step == 2


def test_resume_without_a_checkpoint_starts(toy, tmp_path):
    assert toy.trainer(tmp_path, resume="auto").fit().step == 12


def test_a_folder_that_holds_a_run_is_not_overwritten(toy, tmp_path):
    toy.trainer(tmp_path).fit()
    with pytest.raises(TrainingError, match=r"already holds a run. Continue it with --resume, or choose another"):
        toy.trainer(tmp_path).fit()


def test_more_steps_may_be_asked_for_and_are_announced(toy, tmp_path):
    toy.trainer(tmp_path).fit()
    console = Console(file=io.StringIO(), width=300)
    result = toy.trainer(tmp_path, max_steps=15, resume="auto", console=console).fit()
    assert result.step == 15
    assert "training.max_steps: 12 -> 15" in console.file.getvalue()
    assert [step for step, _ in toy.losses(tmp_path)] == list(range(1, 16))


def test_a_run_may_continue_with_another_layout_and_more_retained_checkpoints(toy, tmp_path):
    toy.trainer(tmp_path / "whole").fit()
    toy.trainer(tmp_path / "cut", max_steps=6, micro_batch_size=8).fit()
    console = Console(file=io.StringIO(), width=300)
    layout = {"micro_batch_size": 3, "activation_checkpointing": True, "keep_best": 2, "prefetch": 1}
    toy.trainer(tmp_path / "cut", resume="auto", console=console, **layout).fit()
    whole, cut = ([loss for _, loss in toy.losses(tmp_path / name)] for name in ("whole", "cut"))
    assert cut == pytest.approx(whole, rel=1e-5)
    output = console.file.getvalue()
    assert (
        "training.micro_batch_size: 8 -> 3" in output and "terms of a loss that are computed per micro-batch" in output
    )
    assert "training.activation_checkpointing: 'off' -> 'full'" in output and output.count("another layout: sums") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 4}, "training.batch_size: 8 was saved, 4 is asked for"),
        ({"seed": 7}, "seed 1, not 7"),
    ],
)
def test_a_run_is_not_resumed_as_another(toy, tmp_path, change, message):
    toy.trainer(tmp_path).fit()
    with pytest.raises(TrainingError, match=message):
        toy.trainer(tmp_path, resume="auto", **change).fit()


def test_a_run_is_not_resumed_on_other_data(toy, tmp_path):
    toy.trainer(tmp_path).fit()
    source = toy.Source()
    source.fingerprint = "waves-2"
    with pytest.raises(TrainingError, match=r"other data \(fingerprint waves-1, now waves-2\)"):
        toy.trainer(tmp_path, source=source, resume="auto").fit()


def test_another_number_of_threads_is_announced(toy, tmp_path):
    toy.trainer(tmp_path).fit()
    console = Console(file=io.StringIO(), width=300)
    torch.set_num_threads(2)
    try:
        toy.trainer(tmp_path, max_steps=13, resume="auto", console=console).fit()
    finally:
        torch.set_num_threads(1)
    assert "2 threads now, 1 before" in console.file.getvalue()


def test_an_earlier_checkpoint_can_be_gone_back_to_and_later_ones_are_set_aside(toy, tmp_path):
    toy.trainer(tmp_path).fit()
    expected = loss_curve_hash(tmp_path / "metrics.jsonl")
    toy.trainer(tmp_path, resume=tmp_path / "checkpoints" / "step-00000010").fit()
    assert loss_curve_hash(tmp_path / "metrics.jsonl") == expected
    assert (tmp_path / "checkpoints" / "abandoned-step-00000012-1").is_dir()


def test_resuming_from_what_is_no_checkpoint_is_an_error(toy, tmp_path):
    with pytest.raises(TrainingError, match="cannot be resumed from"):
        toy.trainer(tmp_path / "run", resume=tmp_path / "nowhere").fit()


def test_a_resume_that_is_refused_leaves_every_checkpoint_in_its_place(toy, tmp_path):
    toy.trainer(tmp_path).fit()
    before = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    with pytest.raises(TrainingError, match="batch_size"):
        toy.trainer(tmp_path, resume=tmp_path / "checkpoints" / "step-00000010", batch_size=4).fit()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == before


def test_fewer_steps_than_are_done_end_a_resumed_run_where_it_is(toy, tmp_path):
    toy.trainer(tmp_path).fit()
    result = toy.trainer(tmp_path, max_steps=4, resume="auto").fit()
    assert (result.step, result.release_step) == (12, 12)
    assert toy.steps(tmp_path) == [10, 12]


@pytest.mark.parametrize("kind", ["constant", "plateau"])
def test_a_metric_that_is_infinite_is_never_the_best_and_stops_no_checkpoint(toy, tmp_path, kind):
    schedule = toy.Schedule(kind=kind, patience=2) if kind == "plateau" else toy.Schedule()
    optimizer = toy.Optimizer(learning_rate=1e-2, schedule=schedule)
    evaluate = scores(math.inf, -math.inf, 2.0, math.nan)
    result = toy.trainer(tmp_path, evaluate=evaluate, validate_every=3, optimizer=optimizer).fit()
    assert (result.best, result.best_step, result.release_step) == (2.0, 9, 9)


def test_a_run_resumed_before_its_newest_validation_repeats_it_and_logs_it_once(toy, tmp_path):
    """A checkpoint that a signal put before its validation; the run that resumes is killed right after validating."""
    from foretrain.training.manifest import file_entry, make_manifest, read_state

    toy.trainer(tmp_path, max_steps=4, checkpoint_every=None).fit()
    newest = tmp_path / "checkpoints" / "step-00000004"
    state = read_state(newest)
    state["progress"]["validation_due"] = True
    state["config"]["training"]["validate_every"] = 4
    write_json(newest / "state.json", state)
    files = {path.name: file_entry(path) for path in newest.iterdir() if path.name != "manifest.json"}
    write_json(newest / "manifest.json", make_manifest(4, None, False, files))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, "kind": "validation", "loss": 0.25, "best": True}) + "\n")
    settings = {"checkpoint_every": None, "validate_every": 4, "max_steps": 8, "resume": "auto"}
    result = toy.trainer(tmp_path, evaluate=scores(0.25, 0.5), **settings).fit()
    assert [(r["step"], r["loss"]) for r in toy.lines(tmp_path, "validation")] == [(4, 0.25), (8, 0.5)]
    assert (result.best_step, result.release_step) == (4, 4)


def test_the_release_holds_the_best_validation_not_the_last(toy, tmp_path):
    seen = {}

    def evaluate(model, step):
        seen[step] = {name: value.clone() for name, value in model.state_dict().items()}
        return ValidationResult({"loss": {3: 2.0, 6: 1.0, 9: math.nan, 12: 3.0}[step]})

    model = toy.Model()
    result = toy.trainer(tmp_path, model=model, evaluate=evaluate, validate_every=3, keep_last=1).fit()
    assert (result.best_step, result.release_step, result.best) == (6, 6, 1.0)
    released = toy.release(tmp_path)
    assert all(torch.equal(released[name], value) for name, value in seen[6].items())
    assert all(torch.equal(released[name], value) for name, value in model.state_dict().items())
    assert json.loads((tmp_path / "release" / "release.json").read_text())["metric"] == {"name": "loss", "value": 1.0}


def test_weights_validated_before_the_first_step_are_released_if_training_makes_them_worse(toy, tmp_path):
    model = toy.Model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = toy.trainer(
        tmp_path, model=model, evaluate=scores(1.0, 2.0, 3.0), validate_first=True, validate_every=6, keep_last=1
    ).fit()
    assert [line["step"] for line in toy.lines(tmp_path, "validation")] == [0, 6, 12]
    assert (found.best_step, found.release_step, found.best) == (0, 0, 1.0)
    released = toy.release(tmp_path)
    assert all(torch.equal(released[name], value) for name, value in before.items())
    with pytest.raises(ValueError, match="validate_first: has no effect without validate_every"):
        TrainingConfig(max_steps=1, validate_first=True)


def test_what_is_scored_is_what_is_released_when_weights_are_averaged(toy, tmp_path):
    seen = {}

    def evaluate(model, step):
        seen[step] = {name: value.clone() for name, value in model.state_dict().items()}
        return ValidationResult({"loss": 1.0 / step})

    toy.trainer(tmp_path, evaluate=evaluate, ema_decay=0.99).fit()
    toy.trainer(tmp_path / "raw").fit()
    released, raw = toy.release(tmp_path), toy.release(tmp_path / "raw")
    assert all(torch.equal(released[name], value) for name, value in seen[12].items())
    assert not any(torch.equal(released[name], raw[name]) for name in raw)


def test_averaging_does_not_change_the_course_of_training(toy, tmp_path):
    toy.trainer(tmp_path / "a", ema_decay=0.99, evaluate=weight_sum, validate_every=2).fit()
    toy.trainer(tmp_path / "b").fit()
    assert toy.losses(tmp_path / "a") == toy.losses(tmp_path / "b")


def test_higher_is_better_where_the_config_says_so(toy, tmp_path):
    result = toy.trainer(tmp_path, evaluate=scores(1.0, 3.0, 2.0), validate_every=4, best_mode="max").fit()
    assert result.best_step == 8


def test_a_metric_that_validation_does_not_return_is_an_error(toy, tmp_path):
    with pytest.raises(ConfigError, match="'wql' is not among the validation's metrics: loss"):
        toy.trainer(tmp_path, evaluate=scores(1.0), best_metric="wql").fit()


def test_a_metric_that_one_validation_lacks_is_an_error_that_leaves_the_best_in_its_place(toy, tmp_path):
    def evaluate(model, step):
        return ValidationResult({"loss": 1.0} | ({"skill": float(-step)} if step != fails else {}))

    settings = {"evaluate": evaluate, "validate_every": 3, "best_metric": "skill", "keep_last": 1}
    fails = 9
    with pytest.raises(ConfigError, match="'skill' is not among the validation's metrics: loss"):
        toy.trainer(tmp_path, **settings, checkpoint_every=7).fit()
    assert toy.steps(tmp_path) == [3, 7]
    fails = None
    result = toy.trainer(tmp_path, **settings, checkpoint_every=7, resume="auto").fit()
    assert (result.best, result.best_step, result.release_step) == (-3.0, 3, 3)


def test_an_evaluation_can_stop_the_run(toy, tmp_path):
    result = toy.trainer(
        tmp_path, evaluate=lambda m, s: ValidationResult({"loss": 1.0}, stop=s >= 6), validate_every=3
    ).fit()
    assert (result.step, result.stopped_by) == (6, "evaluation")


def test_validation_sees_a_model_in_eval_mode_without_gradients(toy, tmp_path):
    seen = []

    def evaluate(model, step):
        seen.append((model.training, torch.is_grad_enabled()))
        return ValidationResult({"loss": 1.0})

    toy.trainer(tmp_path, evaluate=evaluate).fit()
    assert seen == [(False, False)]


def test_draws_inside_validation_do_not_change_training(toy, tmp_path):
    def evaluate(model, step):
        return ValidationResult({"loss": torch.rand(()).item()})

    toy.trainer(tmp_path / "a", model=toy.Model(dropout=0.3), evaluate=evaluate, validate_every=1).fit()
    toy.trainer(tmp_path / "b", model=toy.Model(dropout=0.3)).fit()
    assert toy.losses(tmp_path / "a") == toy.losses(tmp_path / "b")


def test_validation_without_anything_to_validate_on_is_an_error(toy, tmp_path):
    with pytest.raises(ConfigError, match="need something to validate on"):
        toy.trainer(tmp_path, validate_every=2)


def test_epochs_use_every_window_so_often(toy, tmp_path):
    source = toy.Source(epoch_length=20)
    result = toy.trainer(tmp_path, source=source, epochs=2, prefetch=0).fit()
    assert result.step == 5
    assert source.asked == [(0, 8), (8, 8), (16, 8), (24, 8), (32, 8)]
    short = toy.Source(epoch_length=9)
    toy.trainer(tmp_path / "short", source=short, epochs=1, prefetch=0).fit()
    assert short.asked == [(0, 8), (8, 1)]


def test_max_minutes_ends_the_run_with_a_checkpoint_and_a_release_and_the_rest_follows_exactly(toy, tmp_path):
    toy.trainer(tmp_path / "whole").fit()
    result = toy.trainer(tmp_path / "cut", max_minutes=1e-9, checkpoint_every=None).fit()
    assert (result.step, result.stopped_by) == (1, "max_minutes")
    assert (tmp_path / "cut" / "release" / "model.safetensors").exists()
    toy.trainer(tmp_path / "cut", resume="auto", checkpoint_every=None).fit()
    assert toy.losses(tmp_path / "cut") == toy.losses(tmp_path / "whole")


def test_checkpoint_minutes_saves_between_the_steps_that_are_due(toy, tmp_path):
    toy.trainer(tmp_path, checkpoint_every=None, checkpoint_minutes=1e-9, keep_last=20).fit()
    assert toy.steps(tmp_path) == list(range(1, 13))


def test_the_last_n_the_best_k_and_the_final_checkpoints_are_kept(toy, tmp_path):
    values = scores(5.0, 1.0, 4.0, 2.0, 3.0, 6.0)
    toy.trainer(tmp_path, evaluate=values, validate_every=2, checkpoint_every=1, keep_last=3, keep_best=2).fit()
    assert toy.steps(tmp_path) == [4, 8, 10, 11, 12]


@pytest.mark.parametrize("every", [None, 1, 3])
def test_the_checkpoints_of_every_m_steps_are_saved_and_kept_whatever_else_is(toy, tmp_path, every):
    values = scores(2.0, 1.0, 3.0)
    settings = {"keep_last": 1, "keep_best": 1, "keep_every": 5, "checkpoint_every": every}
    toy.trainer(tmp_path, evaluate=values, validate_every=4, **settings).fit()
    assert toy.steps(tmp_path) == [5, 8, 10, 12]


def test_what_a_run_killed_after_its_last_save_has_not_pruned_is_pruned_by_a_resume(toy, tmp_path, monkeypatch):
    def killed(self: CheckpointManager) -> None:
        if self.list_complete()[-1].step == 12:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(CheckpointManager, "prune", killed)
        toy.trainer(tmp_path, checkpoint_every=4, keep_last=1).fit()
    assert toy.steps(tmp_path) == [4, 8, 12]
    toy.trainer(tmp_path, checkpoint_every=4, keep_last=1, resume="auto").fit()
    assert toy.steps(tmp_path) == [12]


def test_familiar_names_are_hard_links_to_the_release(toy, tmp_path):
    toy.trainer(tmp_path).fit()
    inodes = {os.stat(tmp_path / name / "model.safetensors").st_ino for name in ("release", "best_model", "hf_export")}
    assert len(inodes) == 1


def test_nothing_in_a_run_folder_is_a_link_or_a_pickle(toy, tmp_path):
    toy.trainer(tmp_path, evaluate=weight_sum, ema_decay=0.9, tensorboard=True).fit()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))
    suffixes = {path.suffix for path in files if "tfevents" not in path.name}
    assert suffixes == {".json", ".jsonl", ".safetensors", ".log", ".yaml"}
    assert not any(path.read_bytes()[:2] in (b"\x80\x02", b"\x80\x04", b"PK") for path in files)


def test_release_json_names_step_data_and_what_the_caller_adds(toy, tmp_path):
    toy.trainer(tmp_path, facts={"parents": ["abc"]}).fit()
    facts = json.loads((tmp_path / "release" / "release.json").read_text())
    assert (facts["step"], facts["data_fingerprint"], facts["parents"]) == (12, "waves-1", ["abc"])


def test_the_model_can_be_trained_again_as_a_second_stage(toy, tmp_path):
    model = toy.Model()
    toy.trainer(tmp_path / "1", model=model, activation_checkpointing=True).fit()
    runs = model.body[0].runs
    toy.trainer(tmp_path / "2", model=model, activation_checkpointing=False).fit()
    assert model.body[0].runs - runs == 12


def test_a_checkpoint_of_a_small_model_takes_no_time_to_speak_of(toy, tmp_path):
    """In the processor's time: other processes and a slow disk have no part in it."""
    trainer = toy.trainer(tmp_path, max_steps=60, checkpoint_every=1, log_every=100)
    began = time.process_time()
    trainer.fit()
    assert (time.process_time() - began) / 60 < 0.5  # 0.03 s
