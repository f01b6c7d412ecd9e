from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.training import budget_run

from foretrain.distributed.world import World
from foretrain.errors import ConfigError
from foretrain.run.train import train_run
from foretrain.training import profile
from foretrain.training.profile_table import table

PROFILE = {"start": 3, "steps": 4}  # then steps 7 to 9 rank operators, and step 10 is counted


def profile_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "profile" / "profile.json").read_text())


@pytest.fixture(scope="module")
def profiled(toy, tmp_path_factory):
    """The folder of a run with three micro-batches a step, averaged weights and a profile, and its log."""
    folder, console = tmp_path_factory.mktemp("profiled"), Console(file=io.StringIO(), width=400)
    settings = {"micro_batch_size": 3, "ema_decay": 0.9, "log_every": 5}
    toy.trainer(folder, profile=PROFILE, console=console, **settings).fit()
    return folder, console.file.getvalue()


def test_parts_and_the_rest_sum_to_the_step(profiled):
    (own,) = profile_of(profiled[0])["ranks"]
    assert list(own) == ["data", "copy", "forward", "backward", "optimizer", "average", "rest", "step"]
    parts = [times["mean_s"] for part, times in own.items() if part != "step"]
    assert math.fsum(parts) == pytest.approx(own["step"]["mean_s"], rel=1e-9)
    assert all(seconds > 0 for seconds in parts)


def test_the_table_is_a_file_of_its_step_and_in_the_log(profiled):
    folder, log = profiled
    text = (folder / "profile" / "step-3.txt").read_text()
    assert text.strip() in log and text.strip() == table(profile_of(folder)).strip()
    assert text.startswith("profile of steps 3 to 6 on cpu: 1 process, 1 thread, float32")
    assert max(map(len, text.splitlines())) <= 120


class FakeEvent:
    """An event of a GPU whose clock goes on by a millisecond a record."""

    clock = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.at = 0

    def record(self) -> None:
        FakeEvent.clock += 1
        self.at = FakeEvent.clock

    def elapsed_time(self, later: FakeEvent) -> float:
        return float(later.at - self.at)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_follows_the_last_gradient_of_a_step_is_exchange(monkeypatch, device):
    clock = iter(range(1, 100))
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr("time.perf_counter", lambda: next(clock) / 1000)
    times = profile.PartTimes(torch.device(device))
    for part in ("data", "forward"):
        times.mark(part)
    for _ in range(3):  # gradients, of which the newest counts
        times.touch(torch.ones(()))
    for part in ("last backward", "exchange", "optimizer"):
        times.mark(part)
    expected = {"data": 1, "forward": 1, "backward": 3, "exchange": 2, "optimizer": 1}
    assert times.seconds() == pytest.approx({part: milliseconds / 1000 for part, milliseconds in expected.items()})


def test_operators_are_ranked_by_their_own_time(profiled):
    operators = profile_of(profiled[0])["operators"]
    ranked = operators["of"]
    assert len(ranked) == 15 and operators["complete"] and operators["micro_batches"] == 9
    assert [row["self_s"] for row in ranked] == sorted((row["self_s"] for row in ranked), reverse=True)
    calls = {row["name"]: row["calls"] for row in ranked}
    assert calls["aten::addmm"] == 3 * 3 * 4  # linear layers, of 3 micro-batches in 3 steps


def test_a_trace_is_cut_short_at_a_number_of_events(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(profile, "MOST_EVENTS", 1)
    toy.trainer(tmp_path, profile=PROFILE, micro_batch_size=3).fit()
    operators = profile_of(tmp_path)["operators"]
    assert operators["micro_batches"] == 1 and not operators["complete"]
    assert "cut short after 1 micro-batches" in (tmp_path / "profile" / "step-3.txt").read_text()


@pytest.mark.parametrize("settings", [{"micro_batch_size": 3}, {"activation_checkpointing": "selective"}])
def test_a_profile_changes_no_number_of_the_training(toy, tmp_path, settings):
    for name, chosen in (("with", PROFILE), ("without", None)):
        toy.trainer(tmp_path / name, profile=chosen, model=toy.Model(dropout=0.2), **settings).fit()
    losses, release = ([read(tmp_path / name) for name in ("with", "without")] for read in (toy.losses, toy.release))
    assert losses[0] == losses[1]
    assert all(torch.equal(value, release[1][key]) for key, value in release[0].items())


def test_slowed_steps_are_left_out_of_the_rates(toy, tmp_path, profiled):
    lines = toy.lines(profiled[0])  # of steps 1-5, 6-10, 11-12
    assert [line.get("untimed_steps") for line in lines] == [None, 4, None]
    assert [line["steps"] for line in lines] == [5, 5, 2]
    assert [sum(line["step_s_bins"].values()) for line in lines] == [5, 1, 2]
    assert lines[1]["windows_per_s"] == pytest.approx(8 * lines[1]["steps_per_s"])
    assert "steps 7 to 10, which ranked and counted, are left out of the rates in metrics.jsonl" in profiled[1]
    console = Console(file=io.StringIO(), width=400)
    toy.trainer(tmp_path, profile=PROFILE, health_every=10, console=console).fit()
    rates = [line["steps_per_s"] is None for line in toy.lines(tmp_path)]
    assert rates == [False] * 6 + [True] * 4 + [False] * 2
    run = json.loads((tmp_path / "final_metrics.json").read_text())["run"]
    assert run["untimed_steps"] == 4 and run["windows_per_s"] == pytest.approx(8 * run["steps_per_s"])
    timed = sum(1 / line["steps_per_s"] for line in toy.lines(tmp_path) if line["steps_per_s"])
    assert run["step_s_mean"] == pytest.approx(timed / 8)
    assert "; training alone (without 4 profiled steps): " in console.file.getvalue()
    assert console.file.getvalue().count("| profiled |") == 4 and "health at step 10" in console.file.getvalue()


def test_needed_and_executed_flops_differ_by_what_has_a_name(profiled):
    flops = profile_of(profiled[0])["flops"]
    # the last of a step's 3 + 3 + 2 windows included; torch leaves out the gradient of the first layer's inputs
    window = 2 * 16 * (12 + 2 * 16 + 4)
    assert flops["needed"] == 3 * 8 * window and flops["executed"] == 3 * 8 * window - 8 * 2 * 16 * 12
    assert flops["differences"] == {"backward, beside the family's count": -8 * 2 * 16 * 12}


def test_activations_computed_again_are_a_reason_for_more_flops(toy, tmp_path):
    toy.trainer(tmp_path, profile=PROFILE, activation_checkpointing="full").fit()
    differences = profile_of(tmp_path)["flops"]["differences"]
    assert differences["activations computed again"] == 8 * 2 * 2 * 16 * 16  # the layer of each block, forward


def test_windows_that_only_fill_a_batch_are_a_reason_for_more_flops(tmp_path):
    config = budget_run.config(tmp_path, max_steps=6, profile={"start": 1, "steps": 1})
    train_run(config, corpora=[budget_run.corpus()], world=World())
    flops = profile_of(tmp_path)["flops"]
    named = sum(flops["differences"].values())
    assert flops["needed"] + named == pytest.approx(flops["executed"], rel=1e-12)


def test_compiled_steps_are_not_counted(toy, tmp_path):
    settings = toy.config(profile=PROFILE, compile=True)
    plan = toy.trainer(tmp_path).plan
    assert profile.steps_of(settings, plan) == profile.ProfiledSteps(3, 6, 9, 9)
    assert profile.steps_of(toy.config(profile=PROFILE), plan) == profile.ProfiledSteps(3, 6, 9, 10)


def test_a_profile_beyond_the_run_is_an_error_before_anything_is_written(toy, tmp_path):
    with pytest.raises(ConfigError, match=r"training.profile: profiles steps 9 to 13, .* and the run has 12"):
        toy.trainer(tmp_path / "run", profile={"start": 9, "steps": 2})
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_past_the_profile_does_not_profile_again(toy, tmp_path):
    toy.trainer(tmp_path, profile=PROFILE, max_steps=10).fit()
    before = (tmp_path / "profile" / "step-3.txt").read_text()
    console = Console(file=io.StringIO(), width=400)
    toy.trainer(tmp_path, profile=PROFILE, resume="auto", console=console).fit()
    assert (tmp_path / "profile" / "step-3.txt").read_text() == before
    assert "profile of steps" not in console.file.getvalue() and "| profiled |" not in console.file.getvalue()
    assert all(line["steps_per_s"] for line in toy.lines(tmp_path) if line["step"] > 10)


def test_a_run_that_goes_on_within_its_profile_says_that_there_is_none(toy, tmp_path):
    toy.trainer(tmp_path, max_steps=5).fit()
    console = Console(file=io.StringIO(), width=400)
    toy.trainer(tmp_path, profile=PROFILE, resume="auto", console=console).fit()
    text = "no profile: training.profile.start is 3, and the run goes on at step 6; a later one may be given"
    assert text in console.file.getvalue() and not (tmp_path / "profile").exists()
    later = Console(file=io.StringIO(), width=400)
    toy.trainer(tmp_path, profile={"start": 13, "steps": 1}, max_steps=16, resume="auto", console=later).fit()
    assert "profile of steps 13 to 13" in later.file.getvalue()


def test_a_run_that_ends_within_its_profile_says_that_there_is_none(toy, tmp_path):
    console = Console(file=io.StringIO(), width=400)
    toy.trainer(tmp_path, profile=PROFILE, max_minutes=1e-9, console=console).fit()
    assert "WARNING: no profile: the run ends at step 1, and the profile at step 10" in console.file.getvalue()


def test_a_profile_that_cannot_be_written_stops_no_run(toy, tmp_path):
    (tmp_path / "profile").write_text("a file")
    console = Console(file=io.StringIO(), width=400)
    assert toy.trainer(tmp_path, profile=PROFILE, console=console).fit().step == 12
    assert "WARNING: no profile in" in console.file.getvalue() and "profile of steps 3 to 6" in console.file.getvalue()
