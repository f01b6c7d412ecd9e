"""`train --dry-run`: memory, disk, processes, and settings that are found by trial; test_pipeline.py has the rest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.run.test_train import tiny

from foretrain.distributed.world import World
from foretrain.errors import ConfigError
from foretrain.run.build import build_model
from foretrain.run.by_context import GAPS, PROCESS, AtContext, memory_by_context
from foretrain.run.config import RunConfig
from foretrain.run.counting import Passes, Size
from foretrain.run.dry_run import describe_run
from foretrain.run.estimate import memory_of, most_activations
from foretrain.run.train import train_run


def test_a_dry_run_says_what_an_automatic_micro_batch_becomes(tmp_path: Path, monkeypatch):
    config = tiny(tmp_path / "run", "training.micro_batch_size=auto", "training.batch_size=12")
    lines = describe_run(config, World())
    assert lines[0].startswith("auto: training.micro_batch_size 12 (all windows that a step has for a process; ")
    lines = describe_run(config, World(size=3))
    assert lines[0].startswith("auto: training.micro_batch_size 4 (") and lines[0].endswith(
        ", asked for this process alone)"
    )
    monkeypatch.setattr("foretrain.run.estimate.LONGEST", 0.0)
    lines = describe_run(config, World())
    assert lines[0] == (
        "auto: training.micro_batch_size is found at the start; of 12, the most, are the lines below (a micro-batch "
        "takes too long to be tried here)"
    )
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_what_it_needs_and_what_it_would_refuse(tmp_path: Path):
    config = tiny(tmp_path / "run")
    text = "\n".join(describe_run(config, World()))
    for part in ("parameters", "series", "windows", "memory:", "disk:", "steps: 6 of 4 windows"):
        assert part in text
    assert "refused" not in text and not (tmp_path / "run").exists()
    train_run(config)
    assert "already holds a run" in "\n".join(describe_run(config, World()))


def test_a_dry_run_counts_the_copy_of_the_state_that_is_written_in_the_background(tmp_path: Path, monkeypatch):
    background = tiny(tmp_path / "run", "training.checkpoint_in_background=true")
    state = memory_of(background, build_model(background)).checkpoint(build_model(background))
    copies = [
        re.findall(r"checkpoint_in_background: ([\d.]+) KiB more of the host's memory(.*), for", line)
        for config, size in ((tiny(tmp_path / "run"), 1), (background, 1), (background, 4))
        for line in ["\n".join(describe_run(config, World(size=size)))]
    ]
    each = f"{state / 1024:.1f}"
    assert copies == [[], [(each, "")], [(each, " for each of 4 processes")]]
    monkeypatch.setattr("foretrain.run.estimate.device_memory", lambda device: 1000)
    assert "checkpoint_in_background: false needs no copy" in "\n".join(describe_run(background, World()))


def test_a_dry_run_counts_state_in_the_hosts_memory_and_not_on_the_device(tmp_path: Path, monkeypatch):
    apart = tiny(tmp_path / "run", "training.offload_optimizer=true", "training.ema_decay=0.9")
    text = "\n".join(describe_run(apart, World()))
    assert "training.offload_optimizer has no effect on cpu" in text and "offload_optimizer: " not in text
    whole = memory_of(apart, model := build_model(apart), World())
    monkeypatch.setattr("foretrain.training.offload.APART", {"cpu"})
    monkeypatch.setattr("foretrain.training.offload.PART", 1024)
    for size, settings in ((1, []), (4, ["training.parallel=fsdp"])):
        config = tiny(tmp_path / "run", "training.offload_optimizer=true", "training.ema_decay=0.9", *settings)
        memory = memory_of(config, model, World(size=size))
        assert memory.host == pytest.approx(2 * whole.weights / size, abs=1)
        assert memory.optimizer == pytest.approx(whole.weights / size, abs=1)  # the average
        assert 0 < memory.visiting < memory.host
        assert memory.checkpoint(model) == pytest.approx(whole.checkpoint(model) / size, abs=4)
        text = "\n".join(describe_run(config, World(size=size)))
        held, visiting = (f"{count / 1024:.1f} KiB" for count in (memory.host, memory.visiting))
        assert f" + parts of its state on the host {visiting}" in text
        assert f"offload_optimizer: {held} of the host's memory" in text
        assert ("optimizer state, " in text) == (size > 1)
    prodigy = tiny(tmp_path / "run", "training.offload_optimizer=true", "optimizer.name=prodigy")
    with pytest.raises(ConfigError, match=r"training.offload_optimizer: the step of prodigy on a part"):
        describe_run(prodigy, World())
    monkeypatch.setattr("foretrain.run.estimate.device_memory", lambda device: 1000)
    assert "or training.offload_optimizer: true" in "\n".join(describe_run(tiny(tmp_path / "run"), World()))


def test_activations_of_a_large_micro_batch_are_counted_by_four_of_its_windows(tmp_path: Path, monkeypatch):
    config = tiny(tmp_path / "run")
    model, sizes = build_model(config).to("meta"), [Size(1, 7, 32, 4, 3)]
    whole = most_activations(config, model, sizes)
    monkeypatch.setattr("foretrain.run.estimate._MOST", 4 * 3 * 36)
    assert whole and most_activations(config, model, sizes) == whole
    monkeypatch.setattr("foretrain.run.estimate._MOST", 4 * 3 * 36 - 1)
    assert most_activations(config, model, sizes) is None


def test_a_model_of_many_layers_is_not_tried_for_long(tmp_path: Path, monkeypatch):
    config = tiny(tmp_path / "run")
    assert "measured on the first micro-batch" in "\n".join(describe_run(config, World()))
    monkeypatch.setattr("foretrain.run.estimate.COUNTING", 0.0)
    text = "\n".join(describe_run(config, World()))
    assert (
        "activations unknown" in text and "of a matrix product here; a micro-batch takes too long to be tried" in text
    )


def test_a_dry_run_counts_the_checkpoints_that_are_kept_for_ever(tmp_path: Path):
    texts = [
        "\n".join(describe_run(tiny(tmp_path / "run", *settings), World()))
        for settings in ([], ["training.keep_every=2"], ["training.keep_every=7"])
    ]
    counts = [int(re.findall(r"disk: .* for (\d+) checkpoints", text)[0]) for text in texts]
    assert counts == [counts[0], counts[0] + 3, counts[0]]  # of 6 steps


def test_a_dry_run_divides_the_memory_of_a_model_that_is_split_over_processes(tmp_path: Path):
    config = tiny(tmp_path / "run", "training.parallel=fsdp")
    model = build_model(config)
    alone, split = (memory_of(config, model, World(size=size)) for size in (1, 4))
    for part in ("weights", "gradients", "optimizer"):
        assert 0 <= 4 * getattr(split, part) - getattr(alone, part) < 4
    blocks = [sum(p.numel() for p in block.parameters()) for block in model.blocks()]
    outside = sum(p.numel() for p in model.parameters()) - sum(blocks)
    assert split.gathered == 4 * (outside + min(2 * max(blocks), sum(blocks)) + max(blocks))
    trained = memory_of(config, model, World(size=4), accumulates=True).gathered - split.gathered
    assert trained == alone.gradients - 4 * max(blocks)  # gradients accumulate whole
    assert (alone.shards, alone.gathered, split.shards, split.whole) == (1, 0, 4, alone.weights)
    assert split.most == max(split.total, split.weights + split.optimizer + alone.weights)
    texts = ["\n".join(describe_run(config, World(size=size))) for size in (1, 4)]
    assert ["split over 4 processes" in text for text in texts] == [False, True]
    assert ["\nprocesses: 4, fsdp (training.parallel: fsdp): each holds 1/4 of " in text for text in texts] == [
        False,
        True,
    ]
    disks = [re.search(r"disk: .* for", text) for text in texts]
    assert disks[0] is not None and disks[0][0] == disks[1][0]  # checkpoints hold the whole model


def test_a_dry_run_tells_of_processes_without_work(tmp_path: Path):
    texts = [
        "\n".join(describe_run(tiny(tmp_path / "run", f"training.micro_batch_size={size}"), World(size=4)))
        for size in (4, 1)
    ]
    assert ["warning: 3 of 4 processes are idle in the last round of a step" in text for text in texts] == [True, False]


@pytest.mark.parametrize(("size", "parallel", "advised"), [(1, "auto", False), (4, "ddp", True), (4, "fsdp", False)])
def test_a_dry_run_that_finds_too_little_memory_advises_to_split_a_whole_model(
    tmp_path: Path, monkeypatch, size, parallel, advised
):
    monkeypatch.setattr("foretrain.run.estimate.device_memory", lambda device: 1000)
    text = "\n".join(describe_run(tiny(tmp_path / "run", f"training.parallel={parallel}"), World(size=size)))
    assert "warning: that may be too much" in text
    assert ("or split the model: training.parallel: fsdp" in text) == advised


def test_a_dry_run_says_what_a_longer_context_costs(tmp_path: Path):
    config = tiny(tmp_path / "run")
    text = next(line for line in describe_run(config, World()) if line.startswith("memory by context, of "))
    context, found = config.data.context_length, re.findall(r"(\d+) steps ([\d.]+) MiB", text)
    assert [int(steps) for steps, _ in found] == [context // 2, context, 2 * context, 4 * context]
    assert all(float(bytes_) >= 30 for _, bytes_ in found)  # beside tensors, whatever the model


def by_context(config: RunConfig, *others: Any) -> list[AtContext]:
    return memory_by_context(config, build_model(config, device="meta"), *others)


def test_memory_by_context_grows_with_the_passes_and_leaves_out_what_the_model_does_not_read(tmp_path: Path):
    config, cpu = tiny(tmp_path / "run"), torch.device("cpu")
    size = Size(1, 4, config.data.context_length, 4, 1)
    own = Passes(kept=1 << 20, peak=3 << 20)
    found = by_context(config, size, 5 << 20, 1 << 20, own, 1.5, cpu)
    assert found[1] == (size.context_length, PROCESS + round(1.5 * GAPS * (7 << 20)))
    assert len(found) == 4 and found[2].bytes == found[3].bytes == PROCESS + round(
        1.5 * GAPS * (5 << 20)
    )  # fewer than `shared`
    growing = [one.bytes for one in by_context(config, size, 0, 0, None, 1.0, cpu)]
    assert len(growing) == 3 and growing == sorted(set(growing))
    elsewhere = by_context(config, size, 5 << 20, 1 << 20, own, 1.0, torch.device("cuda"))
    assert elsewhere[1].bytes == 7 << 20
    limited = tiny(tmp_path / "run", f"model.context_length={size.context_length}")
    assert [one.context_length for one in by_context(limited, size, 0, 0, own, 1.0, cpu)] == [
        size.context_length // 2,
        size.context_length,
    ]


def test_memory_by_context_counts_the_weights_that_a_context_brings(tmp_path: Path):
    """A linear model has weights for each step of its context, so twice the context has nearly twice as many."""
    config = tiny(tmp_path / "run", "model={family: linear, random_init: true}")
    size = Size(1, 2, config.data.context_length, config.data.prediction_length, 1)
    found = by_context(config, size, 64 << 20, 0, None, 1.0, torch.device("cpu"))
    half, twice, four = ((one.bytes - PROCESS) / GAPS / 2**20 / 64 for one in found)
    assert 0.4 < half < 0.75 and 1.5 < twice < 2.1 and 2.5 < four < 4.1
