from __future__ import annotations

import json

import pytest
import torch

from foretrain.atomic import write_json
from foretrain.training import checkpoint
from foretrain.training.manifest import file_entry, make_manifest, read_manifest, read_state
from foretrain.training.optimizer import OptimizerConfig, build_optimizer
from foretrain.training.optimizer_state import allocate_state, state_numbers, state_tensors

EVERY = {
    "adamw": {"options": {"amsgrad": True}},
    "muon": {"options": {"momentum": 0.9}},
    "adafactor": {"learning_rate": 1e-2},
    "lion": {"learning_rate": 1e-3},  # counts its steps in its groups
    "prodigy": {"learning_rate": 1.0},  # finds its rate by itself, in its groups
    "adan": {},
    "simplifiedademamix": {},  # has plain numbers beside tensors
}
every_optimizer = pytest.mark.parametrize("name", EVERY)


def config(name: str) -> OptimizerConfig:
    return OptimizerConfig(name=name, **{"learning_rate": 1e-2, **EVERY[name]})


def stepped(toy, name: str, steps: int):
    model = toy.Model()
    optimizer = build_optimizer(model, config(name))
    for step in range(steps):
        loss = model(model.collate(toy.Source().windows(8 * step, 8)))
        (loss.total / loss.weight).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


@every_optimizer
def test_a_stopped_and_resumed_run_ends_with_the_weights_of_one_that_went_through(toy, tmp_path, name):
    settings = {"optimizer": config(name), "micro_batch_size": 3, "ema_decay": 0.9}
    toy.trainer(tmp_path / "whole", model=toy.Model(dropout=0.2), **settings).fit()
    for steps in (5, 9, 12):
        parts = {"model": toy.Model(dropout=0.2), "resume": "auto", "max_steps": steps}
        toy.trainer(tmp_path / "parts", **parts, **settings).fit()
    assert toy.losses(tmp_path / "parts") == toy.losses(tmp_path / "whole")
    whole, parts = toy.release(tmp_path / "whole"), toy.release(tmp_path / "parts")
    assert all(torch.equal(parts[key], value) for key, value in whole.items())


@every_optimizer
def test_state_and_its_names_cover_every_tensor_that_an_optimizer_holds(toy, name):
    model, optimizer = stepped(toy, name, 2)
    tensors, numbers = state_tensors(model, optimizer), state_numbers(model, optimizer)
    named = len(tensors) + sum(len(values) for kinds in numbers["state"].values() for values in kinds.values())
    assert named == sum(len(state) for state in optimizer.state.values()) > 0
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers


@every_optimizer
def test_going_back_to_before_the_first_step_leaves_nothing_of_later_ones(toy, name):
    fresh_model, fresh = stepped(toy, name, 0)
    model, optimizer = stepped(toy, name, 3)
    allocate_state(model, optimizer, state_numbers(fresh_model, fresh), {})
    assert not optimizer.state
    for group, expected in zip(optimizer.param_groups, fresh.param_groups, strict=True):
        assert {k: v for k, v in group.items() if k != "params"} == {k: v for k, v in expected.items() if k != "params"}


def test_numbers_that_json_cannot_write_survive(toy):
    model, optimizer = stepped(toy, "prodigy", 1)
    assert optimizer.param_groups[0]["growth_rate"] == float("inf")
    numbers = json.loads(json.dumps(state_numbers(model, optimizer), allow_nan=False))
    optimizer.param_groups[0]["growth_rate"] = 2.0
    allocate_state(model, optimizer, numbers, {})
    assert optimizer.param_groups[0]["growth_rate"] == float("inf")


def test_a_checkpoint_of_adamw_from_before_other_optimizers_is_resumed_exactly(toy, tmp_path):
    toy.trainer(tmp_path / "whole").fit()
    toy.trainer(tmp_path / "old", max_steps=6).fit()
    path = checkpoint.steps_in(tmp_path / "old" / "checkpoints")[-1]
    state, manifest = read_state(path), read_manifest(path)
    steps = state.pop("optimizer")["state"]["step"]["float32"]
    state |= {"optimizer_steps": steps, "optimizer_keys": ["exp_avg", "exp_avg_sq"]}
    write_json(path / "state.json", state)
    files = manifest["files"] | {"state.json": file_entry(path / "state.json")}
    write_json(path / "manifest.json", make_manifest(manifest["step"], manifest["metric"], manifest["final"], files))
    toy.trainer(tmp_path / "old", resume="auto").fit()
    assert toy.losses(tmp_path / "old") == toy.losses(tmp_path / "whole")
