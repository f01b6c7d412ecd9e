"""Runs in one and in two processes that read a corpus from its map, from a copy and shard by shard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from tests import forks
from tests.run import reading
from tests.waiting import DEADLINE

from foretrain.errors import ConfigError, TrainingError
from foretrain.run.config import config_hash
from foretrain.run.train import train_run
from foretrain.training.journal import read_journal

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("reading")
    reading.write_corpus(found)
    process = forks.started("tests.run.reading", found, 1, 2)
    try:
        assert process.wait(timeout=DEADLINE) == 0, (found / "forks.log").read_text()
    finally:
        forks.stop(process)
    return found


def losses(run: Path) -> list[float]:
    found = [record["loss"] for record in read_journal(run / "metrics.jsonl") if record["kind"] == "train"]
    assert len(found) == reading.STEPS
    return found


def assert_the_same_run(ours: Path, theirs: Path) -> None:
    assert losses(ours) == losses(theirs)
    weights, others = (load_file(run / "release" / "model.safetensors") for run in (ours, theirs))
    assert all(np.array_equal(weights[key], others[key]) for key in others)


@pytest.mark.parametrize("size", [1, 2])
def test_a_copy_changes_no_loss_in_any_number_of_processes(folder: Path, size: int) -> None:
    place = folder / f"processes {size}"
    for ours, theirs in (("staged", "mapped"), ("resumed", "mapped"), ("both", "sequential")):
        assert_the_same_run(place / ours, place / theirs)
    assert len(list((place / "local").iterdir())) == 1


@pytest.mark.parametrize("size", [1, 2])
def test_a_resumed_run_reads_shards_on_where_it_was(folder: Path, size: int) -> None:
    place = folder / f"processes {size}"
    assert_the_same_run(place / "resumed sequential", place / "sequential")
    assert losses(place / "sequential") != losses(place / "mapped")
    assert "reader: sequential, " in (place / "sequential" / "training.log").read_text()


def test_a_run_killed_in_the_middle_of_an_epoch_ends_as_an_undisturbed_one(folder: Path) -> None:
    place = folder / "processes 1"
    assert_the_same_run(place / "killed", place / "sequential")


def test_two_processes_read_what_one_does_also_after_a_resume(folder: Path) -> None:
    one, two = (folder / f"processes {size}" for size in (1, 2))
    expected = losses(one / "sequential")
    assert losses(two / "sequential") == pytest.approx(expected, rel=1e-5)  # sums in another order
    train_run(reading.config(two, "to one", **reading.SEQUENTIAL), resume="auto")
    assert losses(two / "to one") == pytest.approx(expected, rel=1e-5)


def test_reader_and_buffer_are_identity(folder: Path) -> None:
    place = folder / "processes 1"
    own = reading.config(place, "sequential", 9, **reading.SEQUENTIAL)
    others = [{}, reading.SEQUENTIAL | {"read_buffer_mb": 3}]
    for other in others:
        changed = reading.config(place, "sequential", 9, **other)
        assert config_hash(changed) != config_hash(own)
        with pytest.raises(TrainingError, match=r"data\.read"):
            train_run(changed, resume="auto")


def test_a_token_budget_is_refused_by_name(folder: Path) -> None:
    own = reading.config(folder / "processes 1", "budget", **reading.SEQUENTIAL)
    budget = {"token_budget": {"max_tokens_per_batch": 1000, "micro_batches_per_step": 2}, "max_steps": 2}
    tree = own.model_dump() | {"training": budget}
    with pytest.raises(ConfigError, match=r"training.token_budget: a bucket takes its windows from all shards"):
        train_run(type(own).model_validate(tree))
