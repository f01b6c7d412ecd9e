from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from foretrain.models.base import Loss
from foretrain.training.alarms import RECENT, Watcher
from foretrain.training.health import health, render
from foretrain.training.journal import read_journal
from foretrain.training.trainer import ValidationResult

START = {"step": 0, "kind": "start", "processes": 1, "best_metric": "val_loss", "best_mode": "min"}


def lines(losses, **columns):
    """Training records with losses, and columns of values of each or for all."""
    for k, loss in enumerate(losses):
        given = {name: value[k] if isinstance(value, list | np.ndarray) else value for name, value in columns.items()}
        norms = {"grad_norm_mean": 1.0, "grad_norm_max": 2.0, "data_share": 0.01, "bad_batches": 0, "steps_per_s": 10.0}
        yield {"step": 10 * (k + 1), "kind": "train", "loss_mean": loss, **norms, **given}


def raised(records, start=START):
    watcher = Watcher()
    return [(record["step"], alarm.code) for record in [start, *records] for alarm in watcher.see(record)]


def falling(count=120, seed=0, scale=0.05, level=0.0):
    draw = np.random.default_rng(seed)
    return level + 3 * np.exp(-np.arange(count) / 30) + scale * draw.standard_normal(count)


@pytest.mark.parametrize("level", [0.0, -50.0])  # losses of likelihoods are negative
@pytest.mark.parametrize("seed", range(10))
def test_a_loss_that_falls_or_stays_raises_none(seed, level):
    assert raised(lines(falling(seed=seed, level=level))) == []
    assert raised(lines(level + 0.3 * np.random.default_rng(seed).standard_t(3, 200))) == []  # heavy tails


@pytest.mark.parametrize("level", [0.0, -50.0])
def test_a_spike_is_told_once(level):
    losses = falling(level=level)
    losses[60] += 4.0
    assert raised(lines(losses)) == [(610, "loss_spike")]


def test_a_loss_that_rises_for_long_diverges():
    losses = np.concatenate([falling(80), falling(80)[-1] + 0.05 * np.arange(40)])
    found = raised(lines(losses))
    assert [code for _, code in found] == ["divergence"] and 810 <= found[0][0] <= 1200


def test_what_goes_on_is_told_again_after_a_while():
    found = raised(lines(falling(RECENT + 30), data_share=0.8))
    assert found == [(50, "data_starved"), (50 + 10 * (RECENT + 1), "data_starved")]


def test_gradients_explode_if_several_lines_have_huge_norms_or_one_an_enormous_one():
    norms = np.full(60, 2.0)
    norms[30] = 60.0
    assert raised(lines(falling(60), grad_norm_max=norms)) == []
    norms[[32, 35]] = 60.0
    assert raised(lines(falling(60), grad_norm_max=norms)) == [(360, "gradients_explode")]
    norms = np.full(60, 2.0)
    norms[30] = 5000.0
    assert raised(lines(falling(60), grad_norm_max=norms)) == [(310, "gradients_explode")]


def test_gradients_of_zero_are_dead_and_small_ones_are_not():
    assert raised(lines(falling(30), grad_norm_mean=0.0, grad_norm_max=0.0)) == [(30, "gradients_dead")]
    norms = np.array([1.0] * 20 + [1e-3] * 20)
    assert raised(lines(falling(40), grad_norm_mean=norms, grad_norm_max=norms)) == []
    norms = np.array([0.0] + [1.0] * 39)  # LoRA's first step may move one factor alone
    assert raised(lines(falling(40), grad_norm_mean=norms, grad_norm_max=norms)) == []


def test_a_rank_that_takes_twice_as_long_straggles():
    four = START | {"processes": 4}
    slow = {"slowest_rank": 2, "slowest_rank_s": 0.5, "median_rank_s": 0.2, "steps_per_s": 1.5}
    assert raised(lines(falling(30), **slow), four) == [(100, "rank_straggles")]
    assert raised(lines(falling(30), **(slow | {"slowest_rank": [k % 4 for k in range(30)]})), four) == []
    assert raised(lines(falling(30), **(slow | {"slowest_rank_s": 0.3})), four) == []
    two = {"slowest_rank": 1, "slowest_rank_s": 0.3, "median_rank_s": 0.25}  # the other takes 0.2
    assert raised(lines(falling(30), **two), START | {"processes": 2}) == []
    assert raised(lines(falling(30), **(two | {"slowest_rank_s": 0.45})), START | {"processes": 2}) != []
    waits = {"waiting_rank": 3, "waiting_rank_s": 0.4, "steps_per_s": 2.0}
    assert raised(lines(falling(30), **waits), four) == [(100, "rank_straggles")]


def with_validations(losses, values, every=10):
    for k, record in enumerate(lines(losses)):
        yield record
        if (k + 1) % every == 0 and (k + 1) // every <= len(values):
            yield {"step": record["step"], "kind": "validation", "val_loss": values[(k + 1) // every - 1]}


def test_a_validation_that_worsens_while_training_improves_is_told():
    losses = 3 - 0.02 * np.arange(120) + 0.01 * np.random.default_rng(0).standard_normal(120)
    best_early = [2.0, 1.5, 1.4, 1.35, 1.5, 1.7, 1.9, 2.1, 2.3, 2.5, 2.6]
    assert [code for _, code in raised(with_validations(losses, best_early))] == ["validation_worsens"]
    assert raised(with_validations(losses, [2.0, 1.5, 1.4, 1.35, 1.36, 1.35, 1.37, 1.36, 1.36, 1.37, 1.36])) == []
    flat = 1 + 0.01 * np.random.default_rng(0).standard_normal(120)
    flat[35:] += 0.1  # nothing is learned either
    assert "validation_worsens" not in [code for _, code in raised(with_validations(flat, best_early))]
    higher = START | {"best_metric": "val_loss", "best_mode": "max"}
    assert [c for _, c in raised(with_validations(losses, [-v for v in best_early]), higher)] == ["validation_worsens"]


def test_batches_that_are_not_finite_are_told():
    assert raised(lines(falling(20), bad_batches=[0] * 9 + [2] * 11)) == [(100, "nonfinite_skipped")]


def test_lines_of_an_older_version_raise_nothing():
    assert raised([{"step": k, "kind": "train", "loss": 1.0, "grad_norm": 0.5} for k in range(1, 60)]) == []


class Diverging:
    """A toy's loss that grows from a step on, without changing what is learned."""

    def __init__(self, model, first):
        self.loss, self.calls, self.first = model.native_loss, 0, first

    def __call__(self, batch):
        self.calls += 1
        found = self.loss(batch)
        return Loss(found.total + max(0, self.calls - self.first) * found.weight, found.weight)


def diverging(toy, folder, first=60, **settings):
    model = toy.Model()
    model.native_loss = Diverging(model, first)
    console = Console(file=io.StringIO(), width=400)
    run = {"max_steps": 130, "checkpoint_every": 20, "console": console, **settings}
    return toy.trainer(folder, model=model, **run)


def test_a_run_says_its_alarms_and_trains_on(toy, tmp_path):
    result = diverging(toy, tmp_path).fit()
    assert result.stopped_by == "max_steps"
    records = list(read_journal(tmp_path / "metrics.jsonl"))
    alarms = [record for record in records if record["kind"] == "alarm"]
    assert "divergence" in {alarm["code"] for alarm in alarms}
    log = (tmp_path / "training.log").read_text()
    assert all(f"ALARM at step {one['step']:,}: {one['code']}: {one['text']}" in log for one in alarms)
    watcher = Watcher()
    again = [(r["step"], a.code) for r in records for a in watcher.see(r)]
    assert again == [(alarm["step"], alarm["code"]) for alarm in alarms]  # a function of the file
    assert health(records)["alarms"][0] == {name: alarms[0][name] for name in ("step", "code", "text")}
    assert f"ALARM {alarms[-1]['step']}" in render(health(records))
    assert health(records, alarms[0]["step"])["alarms"] == health(records)["alarms"][:1]


def test_a_serious_alarm_ends_the_run_and_a_restart_leaves_it_ended(toy, tmp_path):
    result = diverging(toy, tmp_path, alarms="stop").fit()
    assert result.stopped_by == "alarm" and 70 < result.step < 130
    assert "by the alarm above (training.alarms: stop)" in (tmp_path / "training.log").read_text()
    assert (tmp_path / "release" / "model.safetensors").is_file()
    again = diverging(toy, tmp_path, alarms="stop", resume="auto").fit()
    assert (again.stopped_by, again.step) == ("alarm", result.step)
    on = diverging(toy, tmp_path, alarms="say", resume="auto").fit()
    assert (on.stopped_by, on.step) == ("max_steps", 130)


def test_a_serious_alarm_at_the_step_of_a_checkpoint_ends_the_run_that_resumes_from_it(toy, tmp_path):
    ended = diverging(toy, tmp_path / "whole", alarms="stop").fit()
    settings = {"alarms": "stop", "checkpoint_every": ended.step - 1}  # the step of the alarm
    cut = diverging(toy, tmp_path / "cut", **settings)
    step = cut._step

    def killed():
        if cut.train_state.step == ended.step - 1:
            raise KeyboardInterrupt
        return step()

    cut._step = killed
    with pytest.raises(KeyboardInterrupt):
        cut.fit()
    again = diverging(toy, tmp_path / "cut", resume="auto", first=10**6, **settings).fit()
    assert (again.stopped_by, again.step) == ("alarm", ended.step)


def test_what_is_not_serious_ends_no_run(toy, tmp_path):
    class Poisoned(toy.Model):
        def native_loss(self, batch):
            found = super().native_loss(batch)
            self.calls = getattr(self, "calls", 0) + 1
            return Loss(found.total * (math.nan if self.calls == 5 else 1.0), found.weight)

    result = toy.trainer(tmp_path, model=Poisoned(), alarms="stop", on_nonfinite="skip").fit()
    assert result.stopped_by == "max_steps" and result.step == 12
    assert [r["code"] for r in read_journal(tmp_path / "metrics.jsonl") if r["kind"] == "alarm"] == [
        "nonfinite_skipped"
    ]


def test_alarms_know_the_lines_before_a_resume(toy, tmp_path):
    evaluate = lambda model, step: ValidationResult({"loss": 1.0})  # noqa: E731
    settings = {"validate_every": 5, "evaluate": evaluate, "max_steps": 30, "checkpoint_every": 15}
    toy.trainer(tmp_path, **settings).fit()
    torch.manual_seed(0)
    watcher = Watcher(read_journal(tmp_path / "metrics.jsonl"))
    assert len(watcher._lines) == 30 and len(watcher._validations) == 6
