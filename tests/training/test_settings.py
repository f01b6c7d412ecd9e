from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from foretrain.errors import ConfigError, TrainingError
from foretrain.run.config import RunConfig
from foretrain.training import settings as training_settings
from foretrain.training.settings import StepPlan, TrainingConfig, plan_run


def check_resumable(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """Compare trees that are parts of a config."""
    return training_settings.check_resumable(saved, current, RunConfig)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one of max_steps and epochs"),
        ({"max_steps": 5, "validate_every": 0}, "give a number of steps, 1 or more, or epoch"),
        ({"max_steps": 5, "checkpoint_every": "epochs"}, "give a number of steps, 1 or more, or epoch"),
        ({"max_steps": 5, "epochs": 1}, "exactly one of max_steps and epochs"),
        ({"max_steps": 5, "parallel": "fsdp3"}, "should be 'auto', 'ddp', 'fsdp' or 'hsdp'"),
        ({"max_steps": 5, "parallel": "fsdp", "shard_size": 2}, "shard_size has no effect without parallel: hsdp"),
        (
            {"max_steps": 5, "parallel": "ddp", "reshard_after_forward": False},
            "reshard_after_forward has no effect on parallel: ddp",
        ),
        ({"max_steps": 5, "batch_size": 4, "micro_batch_size": 8}, "exceeds batch_size"),
        ({"max_steps": 5, "compile_mode": "max-autotune"}, "no effect without compile"),
        ({"max_steps": 5, "patience": 2}, "set validate_every"),
        ({"max_steps": 5, "checkpoint_in_background": "maybe"}, "should be a valid boolean.*, or auto"),
        ({"max_steps": 5, "compile": "maybe"}, "compile\n  Value error, Input should be a valid boolean.*, or auto"),
        ({"max_steps": 5, "token_budget": {"max_tokens_per_batch": 0}}, "greater than 0, or auto"),
    ],
)
def test_contradictions_are_errors(settings, message):
    with pytest.raises(ValidationError, match=message):
        TrainingConfig(**settings)


def test_an_epoch_ends_in_the_step_that_completes_it():
    plan = plan_run(TrainingConfig(epochs=2, batch_size=8, validate_every="epoch"), epoch_length=20, world_size=1)
    assert [step for step in range(plan.steps + 1) if plan.is_due("epoch", step)] == [3, 5]
    assert [step for step in range(plan.steps + 1) if plan.is_due(2, step)] == [0, 2, 4]
    assert plan.epoch(3) == 1.2 and plan.epoch(5) == 2.0
    short = plan_run(TrainingConfig(max_steps=3, batch_size=8, checkpoint_every="epoch"), epoch_length=3, world_size=1)
    assert [short.is_due("epoch", step) for step in range(4)] == [False, True, True, True]
    assert plan_run(TrainingConfig(max_steps=3), epoch_length=3, world_size=1).epoch(2) is None


def test_epochs_become_steps_of_which_only_the_last_is_short():
    plan = plan_run(TrainingConfig(epochs=1.5, batch_size=8), epoch_length=50, world_size=1)
    sizes = [sum(count for _, count in plan.micro_batches(step)) for step in range(plan.steps)]
    assert sizes == [8] * 9 + [3]


def test_micro_batches_default_to_an_equal_share_and_a_checkpoint_s_size_wins():
    config = TrainingConfig(max_steps=1, batch_size=9)
    assert plan_run(config, epoch_length=1, world_size=2).micro_batch_size == 5
    assert plan_run(config, epoch_length=1, world_size=2, micro_batch_size=9).micro_batch_size == 9


def test_no_window_to_train_on_is_an_error():
    with pytest.raises(ConfigError, match="no window to train on"):
        plan_run(TrainingConfig(epochs=1), epoch_length=0, world_size=1)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_every_window_is_used_once_by_any_number_of_ranks(size):
    plan = StepPlan(steps=4, total=45, batch_size=12, micro_batch_size=5)
    by_rank = [[m for step in range(4) for m in plan.for_rank(step, rank, size)] for rank in range(size)]
    seen = [n for batches in by_rank for m in batches if not m.idle for n in range(m.first, m.first + m.count)]
    assert sorted(seen) == list(range(45))
    assert len({len(batches) for batches in by_rank}) == 1  # else a rank would wait for gradients forever


def test_micro_batches_do_not_depend_on_the_number_of_ranks():
    plan = StepPlan(steps=2, total=24, batch_size=12, micro_batch_size=5)
    expected = {(p.step, p.k, p.first, p.count) for p in plan.for_rank(1, 0, 1)}
    assert expected == {(1, 0, 12, 5), (1, 1, 17, 5), (1, 2, 22, 2)}
    assert expected == {(p.step, p.k, p.first, p.count) for r in range(2) for p in plan.for_rank(1, r, 2) if not p.idle}


def test_only_length_minutes_devices_and_logging_may_change_on_resume():
    saved = {"training": {"max_steps": 10, "log_every": 1, "batch_size": 4}, "device": "cpu", "betas": [0.9, 0.99]}
    current = {"training": {"max_steps": 20, "log_every": 5, "batch_size": 4}, "device": "cuda", "betas": (0.9, 0.99)}
    notes = check_resumable(saved, current)
    assert "training.max_steps: 10 -> 20" in notes
    assert any("schedule is computed anew" in note for note in notes)


@pytest.mark.parametrize(
    "key", ["on_nonfinite", "skip_budget", "checkpoint_every", "checkpoint_minutes", "keep_last", "prefetch"]
)
def test_what_changes_no_step_that_was_done_may_change_on_resume(key):
    assert check_resumable({"training": {key: 1}}, {"training": {key: 2}}) == [f"training.{key}: 1 -> 2"]


def test_the_path_of_a_corpus_may_change_on_resume_and_its_weight_may_not():
    def tree(path, weight):
        return {"data": {"corpora": [{"path": "a", "weight": 1.0}, {"path": path, "weight": weight}]}}

    assert check_resumable(tree("b", 2.0), tree("c", 2.0)) == ["data.corpora.1.path: 'b' -> 'c'"]
    with pytest.raises(TrainingError, match=r"data\.corpora\.1\.weight: 2.0 was saved, 3.0 is asked for"):
        check_resumable(tree("b", 2.0), tree("b", 3.0))
    with pytest.raises(TrainingError, match=r"data\.corpora\.1\.weight: 2.0 was saved, None is asked for"):
        check_resumable(tree("b", 2.0), {"data": {"corpora": [{"path": "a", "weight": 1.0}]}})


def test_any_other_change_on_resume_is_an_error_that_names_it():
    saved = {"training": {"batch_size": 4}, "model": {"width": 8}}
    current = {"training": {"batch_size": 8}, "model": {"width": 8, "depth": 2}}
    with pytest.raises(TrainingError, match=r"(?s)model.depth: None was saved, 2.*training.batch_size: 4 was saved, 8"):
        check_resumable(saved, current)


def test_equal_configs_have_nothing_to_announce():
    tree = {"training": {"max_steps": 10}, "output_dir": "a"}
    assert check_resumable(tree, {**tree, "output_dir": "b"}) == []


def test_a_change_of_layout_says_that_sums_may_differ_once_and_the_number_kept_does_not():
    saved = {"training": {"compile": False, "parallel": "auto", "keep_best": 1}}
    notes = check_resumable(saved, {"training": {"compile": True, "parallel": "ddp", "keep_best": 1}})
    assert [note for note in notes if "->" not in note] == ["another layout: sums may differ in their last bits"]
    assert check_resumable(saved, {"training": {**saved["training"], "keep_best": 3}}) == ["training.keep_best: 1 -> 3"]


def test_a_refusal_names_everything_that_may_change():
    with pytest.raises(
        TrainingError, match=r"may change:\n.*training\.keep_last.*\n.*same content: .*data\.corpora\.\*\.path"
    ):
        check_resumable({"seed": 1}, {"seed": 2})


@pytest.mark.parametrize(
    ("batch", "micro", "world", "text"),
    [
        (32, 8, 2, "batch: 32 windows a step = 8 per process and forward x 2 accumulation x 2 processes"),
        (8, 3, 2, "batch: 8 windows a step = 3 per process and forward x 2 accumulation x 2 processes, less 4"),
        (4, 4, 1, "batch: 4 windows a step = 4 per process and forward x 1 accumulation x 1 process"),
    ],
)
def test_the_batch_of_a_step_is_described(batch, micro, world, text):
    assert StepPlan(10, 10 * batch, batch, micro).describe_batch(world) == text


@pytest.mark.parametrize(
    ("batch", "micro", "world", "text"),
    [
        (1024, 2, 512, None),
        (1024, 2, 7, None),  # 6 of 518 micro-batches are missing
        # a run of 64 processes that is resumed on 512 with the micro-batches that it began with
        (1024, 16, 512, "448 of 512 processes .* has 64 micro-batches of 16 windows; training.micro_batch_size=2 "),
        (32, 32, 2, "1 of 2 processes .* 1 micro-batch of 32 windows; training.micro_batch_size=16 gives work to more"),
        (32, 1, 512, "480 of 512 processes .* make training.batch_size a multiple of 512"),
    ],
)
def test_processes_without_work_are_told_of_with_the_setting_that_helps(batch, micro, world, text):
    said = StepPlan(10, 10 * batch, batch, micro).warn_of_idle(world, "")
    assert [bool(re.search(text, line)) for line in said] == [True] if text else said == []


def test_a_token_budget_s_steps_count_micro_batches():
    config = TrainingConfig(epochs=2, token_budget={"micro_batches_per_step": 4})
    plan = plan_run(config, epoch_length=9, world_size=2)
    assert (plan.steps, plan.total, plan.batch_size, plan.micro_batch_size) == (5, 18, 4, 1)
    assert plan.micro_batches(4) == [(0, 1), (1, 1)]
    assert plan.describe_batch(2) == "batch: 4 micro-batches a step = 2 accumulation x 2 processes"


def test_whether_to_warm_up_may_change_on_resume_and_a_budget_may_not():
    def tree(warmup, tokens):
        return {"training": {"token_budget": {"warmup": warmup, "max_tokens_per_batch": tokens}}}

    assert len(check_resumable(tree(None, 9), tree(True, 9))) == 1
    with pytest.raises(TrainingError, match=r"training.token_budget.max_tokens_per_batch: 9 was saved, 8"):
        check_resumable(tree(True, 9), tree(True, 8))


def test_parents_may_have_another_path_but_not_another_hash():
    parents = {"model": "11", "tokenizer": "22"}
    saved = {"model": {"family": "kronos", "model_id": "a", "tokenizer": "t"}, "parents": parents}
    moved = {"model": {"family": "kronos", "model_id": "b", "tokenizer": "u"}, "parents": parents}
    assert len(check_resumable(saved, moved)) == 2
    with pytest.raises(TrainingError, match=r"parents\.tokenizer: it began from weights with the hash 22, and .* 33"):
        check_resumable(saved, {**moved, "parents": {"model": "11", "tokenizer": "33"}})
    with pytest.raises(TrainingError, match=r"model\.model_id: 'a' was saved, 'b' is asked for"):
        check_resumable({"model": {"model_id": "a"}, "parents": {}}, {"model": {"model_id": "b"}, "parents": {}})
