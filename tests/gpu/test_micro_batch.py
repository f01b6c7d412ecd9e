"""`micro_batch_size: auto` on a GPU, whose allocator refuses what does not fit. Left out without one."""

from __future__ import annotations

import pytest
import torch
from tests.models.zoo import ZOO

from foretrain.config import build
from foretrain.distributed.world import World
from foretrain.models.base import move
from foretrain.run.build import build_model, open_source
from foretrain.run.config import RunConfig
from foretrain.training.micro_batch import _Trial, find

pytestmark = pytest.mark.gpu
LIMIT = 2**15  # windows, of which a quarter of a gigabyte holds a part only
QUARTER = 2**28


@pytest.fixture
def small_gpu():
    """A world whose GPU gives this process some 256 MB more than it has."""
    world = World.start("cuda")
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(world.device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(world.device) + QUARTER) / total)
    yield world
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def setting(tmp_path, name: str, world: World):
    """Return config, source and model of a family's small run, with steps of LIMIT windows."""
    data = {"corpora": [{"synthetic": {"kind": "seasonal", "num_variates": 3, "num_series": 6, "length": 200}}]}
    tree = {
        "model": {"family": name, **ZOO[name].section},
        "data": {**data, "context_length": 24, "prediction_length": 6},
        "training": {"max_steps": 1, "batch_size": LIMIT, "micro_batch_size": "auto"},
    }
    config, source = open_source(build(RunConfig, {**tree, "output_dir": str(tmp_path)}))
    return config, source, build_model(config).to(world.device).train()


@pytest.mark.parametrize("name", ["chronos2", "toto2"])
def test_a_trial_ends_where_the_allocator_refuses_and_leaves_no_trace(tmp_path, small_gpu, name):
    config, source, model = setting(tmp_path, name, small_gpu)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    states, used = torch.cuda.get_rng_state(small_gpu.device), torch.cuda.memory_allocated(small_gpu.device)
    found = find(model, source, config.training, config.optimizer, small_gpu)
    assert 1 < found.windows < LIMIT
    assert torch.equal(torch.cuda.get_rng_state(small_gpu.device), states)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.cuda.memory_allocated(small_gpu.device) == used
    batch = model.collate(source.windows(0, found.windows))
    loss = model(move(batch, small_gpu.device))
    (loss.total / loss.weight).backward()  # what was found fits
    with _Trial(model, source, config.training, small_gpu.device) as trial:
        assert trial.on_gpu(LIMIT) is None
