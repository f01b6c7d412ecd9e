"""Optimizer state in the host's memory. Here a CPU stands for the device: its state moves from tensors to others.

tests/gpu/test_offload.py does it with a GPU, training/test_sharding.py on split parameters.
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from foretrain.distributed.world import World
from foretrain.errors import ConfigError
from foretrain.training import offload
from foretrain.training.manifest import read_run_state
from foretrain.training.memory import PeakOfTensors, ways_of_training
from foretrain.training.micro_batch import _kept
from foretrain.training.offload import IN_FLIGHT, OffloadedOptimizer, on_device
from foretrain.training.optimizer import OptimizerConfig, state_size

CONFIGS = {
    "adamw": OptimizerConfig(learning_rate=1e-2),
    "adamw, unfused": OptimizerConfig(learning_rate=1e-2, fused=False),
    "muon": OptimizerConfig(name="muon", learning_rate=1e-2),
    "adafactor": OptimizerConfig(name="adafactor", learning_rate=1e-2),
    "lion": OptimizerConfig(name="lion", learning_rate=1e-3),
    "lamb": OptimizerConfig(name="lamb", learning_rate=1e-3),  # counts its steps in the parameter groups
}


@pytest.fixture
def apart(monkeypatch):
    """Let the memory of a CPU count as another than the host's, and step parameters one by one or two."""
    monkeypatch.setattr(offload, "APART", {"cpu"})
    monkeypatch.setattr(offload, "PART", 300)


def checkpoint(folder, step):
    """Return the tensors of a checkpoint by name, and of its state what the optimizer and the loop count."""
    path = folder / "checkpoints" / f"step-{step:08d}"
    tensors = {name: t for file in sorted(path.glob("*.safetensors")) for name, t in load_file(file).items()}
    state = read_run_state(path)
    return tensors, {key: state[key] for key in ("optimizer", "progress")}


@pytest.mark.parametrize("name", CONFIGS)
def test_twenty_steps_with_offloading_on_and_off_in_turns_are_bit_for_bit_those_without(toy, tmp_path, apart, name):
    """Gradients are clipped and weights averaged; each part begins from the checkpoint of the one before."""
    settings = {"optimizer": CONFIGS[name], "ema_decay": 0.9, "clip_norm": 0.5, "checkpoint_every": 20}
    toy.trainer(tmp_path / "plain", max_steps=20, **settings).fit()
    for steps, on in ((6, True), (13, False), (20, True)):
        trainer = toy.trainer(tmp_path / "turns", max_steps=steps, offload_optimizer=on, resume="auto", **settings)
        trainer.fit()
        assert isinstance(trainer.optimizer, OffloadedOptimizer) == on
    assert toy.losses(tmp_path / "turns") == toy.losses(tmp_path / "plain")
    (found, counts), (expected, its_counts) = (checkpoint(tmp_path / run, 20) for run in ("turns", "plain"))
    assert found.keys() == expected.keys() and any(not key.startswith(("model.", "ema.")) for key in found)
    assert [key for key, value in expected.items() if not torch.equal(found[key], value)] == []
    assert json.dumps(counts, sort_keys=True) == json.dumps(its_counts, sort_keys=True)


def test_state_stays_in_the_same_tensors_of_the_host_and_is_never_whole_on_the_device(toy):
    model = torch.nn.ParameterDict({str(n): torch.nn.Parameter(torch.ones(10, 100)) for n in range(12)})
    optimizer = OffloadedOptimizer(torch.optim.AdamW(model.parameters(), fused=True), most=2 * 4_000)
    state = on_device(12 * 8_000, model)
    assert state == 12 * 8_000  # smaller than a part of the default size
    homes = []
    for _ in range(3):
        for parameter in model.values():
            parameter.grad = torch.ones_like(parameter)
        with PeakOfTensors() as tensors:
            optimizer.step()
        homes.append([id(value) for p in model.values() for value in optimizer.state[p].values() if value.dim()])
        peak = tensors.peak
    assert homes[0] == homes[1] == homes[2] and len(homes[0]) == 24
    assert 0 < peak <= IN_FLIGHT * 2 * 8_000 < 12 * 8_000  # parts of two parameters, whose moments take 16,000 bytes
    assert tensors.live == 0


def test_the_stated_share_on_the_device_follows_the_parts_and_the_largest_parameter(toy, monkeypatch):
    model = toy.Model()
    trained = sum(p.nbytes for p in model.parameters())
    state = 4 * state_size(model, OptimizerConfig())
    assert state == 2 * trained
    monkeypatch.setattr(offload, "PART", 100)
    largest = max(p.nbytes for p in model.parameters())
    assert on_device(state, model) == min(state, IN_FLIGHT * 2 * largest) < state
    assert on_device(state // 2, model, 2) == IN_FLIGHT * 2 * (largest // 2)


def test_an_automatic_micro_batch_has_the_room_that_offloading_leaves(toy, apart):
    model, world = toy.Model(), World()
    kept = [_kept(model, toy.config(offload_optimizer=on), OptimizerConfig(), world) for on in (False, True)]
    state = 4 * state_size(model, OptimizerConfig())
    assert kept[0] - kept[1] == state - on_device(state, model) > 0


def test_an_optimizer_that_looks_at_all_parameters_at_once_is_refused_before_anything_is_written(
    toy, tmp_path, monkeypatch
):
    """Prodigy's estimate of the rate sums over all parameters."""
    prodigy = OptimizerConfig(name="prodigy", learning_rate=1.0)
    trainer = toy.trainer(tmp_path / "plain", optimizer=prodigy, max_steps=1, offload_optimizer=True)
    trainer.fit()  # the host's memory is the device's
    monkeypatch.setattr(offload, "APART", {"cpu"})
    with pytest.raises(ConfigError, match=r"^training.offload_optimizer: the step of prodigy on a part .* leave"):
        toy.trainer(tmp_path / "run", optimizer=prodigy, offload_optimizer=True)
    assert not (tmp_path / "run").exists()


def test_a_run_on_a_cpu_says_that_offloading_has_no_effect_there(toy, tmp_path):
    trainer = toy.trainer(tmp_path, max_steps=2, offload_optimizer=True)
    trainer.fit()
    line = "warning: training.offload_optimizer has no effect on cpu, whose memory is the host's"
    assert line in (tmp_path / "training.log").read_text()
    assert not isinstance(trainer.optimizer, OffloadedOptimizer)


def test_a_roll_back_returns_to_the_state_of_the_checkpoint(toy, tmp_path, apart):
    poison = toy.Source(poison={8 * 7 + 3: float("inf")})
    settings = {"on_nonfinite": "rollback", "checkpoint_every": 3, "max_steps": 10}
    for run, on in (("plain", False), ("apart", True)):
        toy.trainer(tmp_path / run, source=poison, offload_optimizer=on, **settings).fit()
    assert "back to step 6" in (tmp_path / "apart" / "training.log").read_text()
    (found, _), (expected, _) = (checkpoint(tmp_path / run, 10) for run in ("apart", "plain"))
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_checkpoint_in_the_background_holds_the_state_of_its_step(toy, tmp_path, apart):
    for run, on in (("plain", False), ("apart", True)):
        settings = {"checkpoint_every": 2, "checkpoint_in_background": True, "keep_last": 6}
        toy.trainer(tmp_path / run, max_steps=6, offload_optimizer=on, **settings).fit()
    for step in (2, 4, 6):
        (found, _), (expected, _) = (checkpoint(tmp_path / run, step) for run in ("apart", "plain"))
        assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_full_device_names_offloading_among_what_takes_less(toy, tmp_path, apart):
    for on in (False, True):
        trainer = toy.trainer(tmp_path, offload_optimizer=on)
        ways = list(ways_of_training(trainer.config, trainer.plan, {}, trainer.world))
        assert ("training.offload_optimizer=true (now false)" in ways) != on
