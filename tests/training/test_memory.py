from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from foretrain.distributed.world import World
from foretrain.errors import TrainingError
from foretrain.training.memory import (
    PeakOfTensors,
    ResidentGrowth,
    available,
    host_memory,
    naming_what_to_lower,
    ways_of_training,
)
from foretrain.training.settings import TrainingConfig, plan_run
from foretrain.training.trainer import ValidationResult

GB = 2**30


def files(root: Path, **texts: str | int) -> Path:
    """Write files, whose names have __ for /."""
    for name, text in texts.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


@pytest.fixture
def proc(tmp_path):
    """A /proc of a host with 8 GB free, and of a process in the group /jobs/one."""
    folder = files(tmp_path / "proc", meminfo=f"MemTotal: {16 << 20} kB\nMemAvailable:   {8 << 20} kB")
    return files(folder, self__cgroup="0::/jobs/one", self__statm="1000 10 1 1 0 1 0")


def test_without_a_limit_the_host_s_free_memory_counts(proc, tmp_path):
    assert host_memory(proc, files(tmp_path / "groups", jobs__one__memory_max="max")) == 8 * GB


def test_a_control_group_and_those_above_it_limit_memory_and_cached_files_do_not_count(proc, tmp_path):
    groups = tmp_path / "groups"
    for place, most, used in ((groups / "jobs" / "one", 6 * GB, 5 * GB), (groups / "jobs", 10 * GB, 9 * GB)):
        files(place, **{"memory.max": most, "memory.current": used, "memory.stat": f"anon 1\ninactive_file {3 * GB}"})
    assert host_memory(proc, groups) == 4 * GB  # 6 - (5 - 3)
    (groups / "jobs" / "memory.max").write_text(str(7 * GB))
    assert host_memory(proc, groups) == 1 * GB  # 7 - (9 - 3)


def test_groups_of_version_1_and_a_container_that_sees_only_its_own_root_limit_it_too(proc, tmp_path):
    files(proc, self__cgroup="4:memory:/docker/abc\n0::/")
    names = {"memory.limit_in_bytes": 2 * GB, "memory.usage_in_bytes": GB, "memory.stat": "total_inactive_file 0"}
    files(tmp_path / "groups" / "memory", **names)
    assert host_memory(proc, tmp_path / "groups") == GB


def test_a_limit_of_addresses_counts(proc, tmp_path, monkeypatch):
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = own + GB // 2
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    (proc / "self" / "statm").write_text(f"{own // resource.getpagesize() + 1000} 0 0")
    assert host_memory(proc, tmp_path) == GB // 2 - 1000 * resource.getpagesize()
    assert 0 < available(torch.device("cpu")) < GB


def test_the_peak_of_tensors_counts_what_lived_at_once_and_no_views_or_arguments():
    given = torch.ones(1000)
    with PeakOfTensors() as tensors:
        a = given * 2  # 4,000 bytes
        b = a[:500].view(5, 100)
        del a
        c = torch.zeros(100, dtype=torch.float64)  # 800, beside a, whose memory b holds
        del b
        d = given + 1
        given.add_(1)
    assert (tensors.peak, tensors.live) == (4_800, 4_800)
    del c, d
    assert tensors.live == 0


def test_the_peak_of_a_backward_pass_holds_what_it_needs_at_once():
    x = torch.ones(1000, requires_grad=True)
    with PeakOfTensors() as tensors:
        y = x.exp()
        loss = (y * y).sum()
        torch.autograd.grad(loss, [x])
    assert 16_000 <= tensors.peak <= 24_100  # y, y * y, then gradients of y and x in turn


def test_the_growth_of_resident_memory_is_that_of_its_peak():
    growth = ResidentGrowth()
    before = growth.bytes()
    if before is None:
        pytest.skip("this system does not tell a process its resident memory, or does not forget the earlier peak")
    del (held := [torch.ones(16 << 20)])[:]  # 64 MiB
    assert not held and 60 << 20 <= (growth.bytes() or 0) - before <= 80 << 20


# -- errors ----------------------------------------------------------------------------------------------------------

FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp] data. not enough memory: you tried to allocate 8 bytes."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
]


def raising(model: torch.nn.Module, error: Exception, after: int) -> None:
    """Let a model's forward passes raise an error after some of them."""
    calls, real = [0], model.forward

    def forward(batch):
        calls[0] += 1
        if calls[0] > after:
            raise error
        return real(batch)

    model.forward = forward


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_a_step_that_finds_no_memory_names_what_to_lower_in_the_order_of_its_effect(toy, tmp_path, error):
    model = toy.Model()
    raising(model, error, after=6)
    with pytest.raises(TrainingError, match=r"^out of memory on cpu ") as caught:
        toy.trainer(tmp_path / "run", model=model, micro_batch_size=4, checkpoint_every=2).fit()
    text = str(caught.value)
    places = [
        text.index(part)
        for part in ("training.micro_batch_size (now 4;", "activation_checkpointing=full (now off)",
                     "data.context_length", "training.parallel=fsdp", "Then --resume")
    ]  # fmt: skip
    assert places == sorted(places) and "\n" not in text
    assert toy.trainer(tmp_path / "run", micro_batch_size=2, checkpoint_every=2, resume="auto").fit().step == 12


def test_other_errors_stay_what_they_are(toy, tmp_path):
    model = toy.Model()
    raising(model, RuntimeError("shapes do not match"), after=2)
    with pytest.raises(RuntimeError, match=r"^shapes do not match$"):
        toy.trainer(tmp_path / "run", model=model).fit()


def test_a_validation_that_finds_no_memory_names_its_own_batch_size(toy, tmp_path):
    def evaluate(model, step):
        raise MemoryError

    trainer = toy.trainer(tmp_path / "run", validate_every=2, evaluate=evaluate)
    trainer.resolved_config |= {"evaluation": {"batch_size": 256}}
    with pytest.raises(TrainingError, match=r"^out of memory in a validation on cpu .*batch_size \(now 256 rows\)"):
        trainer.fit()
    assert ValidationResult  # the type that evaluate would return


def advice(world: World, settings: dict | None = None, unit: int | None = None, **training) -> str:
    config = TrainingConfig(max_steps=1, **training)
    plan = plan_run(config, epoch_length=8, world_size=world.size, micro_batches=unit)
    with (
        pytest.raises(TrainingError) as caught,
        naming_what_to_lower(world, lambda: ways_of_training(config, plan, settings or {}, world)),
    ):
        raise MemoryError
    return str(caught.value)


def test_what_is_lowest_already_is_not_named():
    text = advice(World(size=4), batch_size=4, activation_checkpointing="full", parallel="fsdp")
    assert "micro_batch_size" not in text and "checkpointing" not in text and "fsdp" not in text
    assert "data.context_length" in text


def test_batches_of_tokens_and_of_generated_series_name_their_own_keys():
    tokens = advice(World(size=2), {"data": {"context_length": 512}}, token_budget={"max_tokens_per_batch": 8192})
    assert "training.token_budget.max_tokens_per_batch (now 8,192)" in tokens and "micro_batch_size" not in tokens
    assert "data.context_length (now 512)" in tokens and "training.parallel=fsdp (now auto)" in tokens
    made = advice(World(), {"data": {"generated": {"max_tokens": 4096}}}, unit=2)
    assert "data.generated.max_tokens (now 4,096)" in made
