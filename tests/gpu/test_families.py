"""Every family on a GPU. The same code runs on the CPU in the suite and, as `make gpu`, on CUDA.

Results on CPU and GPU differ by the order of float32 sums: by some hundred eps, because the models are small.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from tests.models.two_processes import STEPS, cases, run
from tests.models.zoo import HORIZON, ZOO, Zoo, windows_of
from torch.nn.parallel import DistributedDataParallel

from foretrain.data.windows import stack_windows
from foretrain.distributed.world import World, leave_process_group
from foretrain.models.base import Batch, move
from foretrain.models.request import ForecastRequest
from foretrain.training.journal import read_journal
from foretrain.training.loader import BatchIterator, DevicePrefetcher, PreparedBatch
from foretrain.training.parallel import gradient_sync
from foretrain.training.settings import MicroBatch

CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
DRAWING = {"kronos"}  # draws tokens while it trains, and a device has its own generator
LEVELS = (0.1, 0.5, 0.9)

every_device = pytest.mark.parametrize("device", ["cpu", CUDA])
every_family = pytest.mark.parametrize("name", ZOO)


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """A function that returns the folder of a short run of a family on a device; equal runs are made once."""
    trees = dict(cases(Zoo(tmp_path_factory.mktemp("parts"))))

    @cache
    def made(name: str, device: str = "cpu", **training: object) -> Path:
        tree, folder = trees[f"{name}-full"], tmp_path_factory.mktemp(name) / "run"
        run({**tree, "training": tree["training"] | training}, folder, World.start(device))
        return folder

    return made


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_journal(folder / "metrics.jsonl") if record["kind"] == "train"]


def batches_of(zoo: Zoo, name: str, count: int) -> list[Batch]:
    """Return batches of full, complete windows of a family."""
    kind = next(kind for kind, facts in ZOO[name].kinds.items() if facts.even and facts.trains)
    model = zoo.shared(name)
    return [model.collate(stack_windows(windows_of(name, kind, seed=seed), HORIZON)) for seed in range(count)]


@every_device
@every_family
def test_steps_from_batches_sent_ahead_are_those_of_the_cpu(train, name, device):
    found, expected = losses(train(name, device, prefetch=2)), losses(train(name))
    if device == "cpu":
        assert found == expected
    elif name in DRAWING:
        assert found[0] == pytest.approx(expected[0], rel=0.1)
    else:
        assert found[0] == pytest.approx(expected[0], rel=1e-4)
        assert found == pytest.approx(expected, rel=1e-2)  # Adam divides by small gradients
    assert len(found) == STEPS and np.isfinite(found).all()


@every_device
@every_family
def test_bfloat16_trains_near_float32_and_keeps_float32_weights(train, name, device):
    """A factor of bfloat16 has a relative error of 2**-9; a loss averages many of them, of either sign."""
    folder = train(name, device, dtype="bfloat16")
    found, exact = losses(folder), losses(train(name, device))
    assert found != exact
    assert found[0] == pytest.approx(exact[0], rel=0.1 if name in DRAWING else 0.01)
    assert len(found) == STEPS and np.isfinite(found).all()
    weights = load_file(folder / "release" / "model.safetensors").values()
    assert {value.dtype for value in weights if value.is_floating_point()} == {torch.float32}


@pytest.mark.gpu
@every_family
def test_compiled_blocks_give_the_losses_of_eager_ones(train, name):
    """On the CPU tests/training/test_distributed.py does this once: a family costs the C++ compiler 50 s there."""
    found, expected = losses(train(name, "cuda", compile=True)), losses(train(name, "cuda"))
    assert found[0] == pytest.approx(expected[0], rel=0.1 if name in DRAWING else 1e-4)
    assert len(found) == STEPS and np.isfinite(found).all()


@pytest.mark.gpu
@every_family
def test_recomputed_activations_give_the_losses_of_stored_ones(train, name):
    found, expected = losses(train(name, "cuda", activation_checkpointing=True)), losses(train(name, "cuda"))
    assert found == pytest.approx(expected, rel=1e-3)


@every_device
@every_family
def test_batches_arrive_as_they_were_sent(zoo, name, device):
    """The device computes meanwhile, so that a copy used before completion or after reuse would show."""
    made, place = batches_of(zoo, name, 12), World.start(device).device
    busy = torch.ones(512, 512, device=place)

    def prepare(micro_batch: MicroBatch) -> PreparedBatch:
        batch = made[micro_batch.step]
        if device == "cuda":
            batch = {key: value.pin_memory() for key, value in batch.items()}
        return PreparedBatch(micro_batch, batch, 4, 1, 24, HORIZON)

    micro_batches = (MicroBatch(step, 0, 4 * step, 4, False, True) for step in range(len(made)))
    batches, sums = BatchIterator(prepare, micro_batches, 2, DevicePrefetcher(place)), []
    for prepared in batches:
        batch = prepared.to(place)
        busy = busy @ busy / 512
        sums.append({key: value.clone() for key, value in batch.items()})
        assert {value.device for value in batch.values()} == {place}
    batches.close()
    for found, expected in zip(sums, made, strict=True):
        for key, value in expected.items():
            torch.testing.assert_close(found[key].cpu(), value, rtol=0, atol=0, equal_nan=True, msg=key)


@contextmanager
def group_of_one(device: torch.device, folder: Path) -> Iterator[None]:
    """A process group of one process, with the backend of the device."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = dist.FileStore(str(folder / "store"), 1)
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        leave_process_group()


@every_device
@every_family
def test_a_process_group_of_one_gives_the_gradients_of_none(zoo, name, device, tmp_path):
    """Two micro-batches; the second one reduces gradients, as in a step."""
    place = World.start(device).device
    plain = zoo.built(name).eval().to(place)  # nothing is drawn
    model = copy.deepcopy(plain)
    batches = [move(batch, place) for batch in batches_of(zoo, name, 2)]
    for batch in batches:
        plain(batch).total.backward()
    with group_of_one(place, tmp_path):
        network = DistributedDataParallel(model, device_ids=[place.index] if device == "cuda" else None)
        for number, batch in enumerate(batches):
            with gradient_sync(network, last=number == 1):
                network(batch).total.backward()
    for (key, found), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert found.grad is not None and expected.grad is not None, key
        scale = expected.grad.abs().max().item()
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-6 * scale, msg=key)


@every_device
@pytest.mark.parametrize("name", [name for name, entry in ZOO.items() if entry.forecasts])
@torch.no_grad()
def test_forecasts_are_those_of_the_cpu(zoo, name, device):
    place, (batch,) = World.start(device).device, batches_of(zoo, name, 1)
    request = ForecastRequest(prediction_length=HORIZON, quantile_levels=LEVELS, num_samples=3, seed=1)
    found, expected = (
        model.forecast(move(batch, where), request).quantiles.cpu()
        for model, where in ((zoo.built(name).eval().to(place), place), (zoo.shared(name), torch.device("cpu")))
    )
    assert found.shape == expected.shape and math.isfinite(found.sum())
    if not ZOO[name].samples:  # a draw near the edge of two tokens may fall on either side
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
