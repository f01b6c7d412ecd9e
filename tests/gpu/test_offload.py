"""Optimizer state in the host's memory, with a GPU. The same code runs on the CPU in tests/training/test_offload.py."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from tests.models.two_processes import cases
from tests.models.zoo import Zoo

from foretrain.config import build
from foretrain.distributed.world import World
from foretrain.run.config import RunConfig
from foretrain.run.train import train_run
from foretrain.training import offload
from foretrain.training.journal import read_journal
from foretrain.training.offload import IN_FLIGHT, OffloadedOptimizer, host_like

pytestmark = pytest.mark.gpu
WIDTH, LAYERS, STEPS = 1024, 24, 6  # parts of 4 MiB, whose AdamW state takes 8


def tensors(folder, step):
    path = folder / "checkpoints" / f"step-{step:08d}"
    return {name: t for file in sorted(path.glob("*.safetensors")) for name, t in load_file(file).items()}


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adafactor"])
@pytest.mark.parametrize("background", [False, True], ids=["at once", "in the background"])
def test_a_run_with_offloading_on_and_off_in_turns_is_one_without(tmp_path, monkeypatch, optimizer, background):
    """Toto's small model, in parts of a few parameters. A GPU's backward pass may sum in another order each time."""
    monkeypatch.setattr(offload, "PART", 20_000)
    tree, world = dict(cases(Zoo(tmp_path)))["toto-full"], World.start("cuda")
    for name, turns in (("plain", [(STEPS, False)]), ("turns", [(2, True), (4, False), (STEPS, True)])):
        for steps, on in turns:
            training = {"max_steps": steps, "offload_optimizer": on, "checkpoint_in_background": background}
            settings = {**tree, "training": tree["training"] | training, "output_dir": str(tmp_path / name)}
            settings["optimizer"] = {"name": optimizer, "learning_rate": 1e-3, "schedule": {"kind": "constant"}}
            train_run(build(RunConfig, settings), world=world, resume="auto")
    plain, turns = (
        [line["loss"] for line in read_journal(tmp_path / name / "metrics.jsonl") if line["kind"] == "train"]
        for name in ("plain", "turns")
    )
    assert len(plain) == STEPS and turns == pytest.approx(plain, rel=1e-3)
    found, expected = (tensors(tmp_path / name, STEPS) for name in ("turns", "plain"))
    assert {key: (t.shape, t.dtype) for key, t in found.items()} == {
        key: (t.shape, t.dtype) for key, t in expected.items()
    }
    assert all(torch.isfinite(value).all() for value in found.values())


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_many_parts_come_and_go_beside_the_steps_and_leave_the_bits_of_steps_without(name):
    """Gradients are drawn while copies may still be under way: one that is too early or too late would show."""
    made = {
        "adamw": lambda weights: torch.optim.AdamW(weights, lr=1e-3, fused=True),
        "muon": lambda weights: torch.optim.Muon(weights, lr=1e-3),
        "adafactor": lambda weights: torch.optim.Adafactor(weights, lr=1e-3),
    }[name]
    weights = {on: layers() for on in (False, True)}
    plain, apart = made(weights[False]), OffloadedOptimizer(made(weights[True]), most=weights[True][0].nbytes)
    peaks = dict[bool, int]()
    for on, optimizer in ((False, plain), (True, apart)):
        draw = torch.Generator("cuda").manual_seed(1)
        for _ in range(STEPS):
            for weight in weights[on]:
                weight.grad = torch.randn(weight.shape, generator=draw, device="cuda")
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            optimizer.step()
        torch.cuda.synchronize()
        peaks[on] = torch.cuda.max_memory_allocated() - before
    for first, second in zip(weights[False], weights[True], strict=True):
        assert torch.equal(first, second)
        kept = {key: value for key, value in plain.state[first].items() if value.dim()}
        assert kept
        for key, value in kept.items():
            home = apart.state[second][key]
            assert home.device.type == "cpu" and home.is_pinned() and value.device.type == "cuda"
            assert torch.equal(value.cpu(), home), key
    if name == "adamw":  # the others compute in memory of their own
        assert peaks[True] <= IN_FLIGHT * 2 * weights[True][0].nbytes + 2**20 < sum(2 * w.nbytes for w in weights[True])


def layers():
    draw = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(WIDTH, WIDTH, generator=draw).cuda()) for _ in range(LAYERS)]


def test_a_tensor_of_the_host_is_pinned_and_has_the_layout_of_that_of_the_device():
    value = torch.randn(6, 4, device="cuda").t()
    home = host_like(value)
    assert home.is_pinned() and home.stride() == value.stride() and home.device.type == "cpu"
