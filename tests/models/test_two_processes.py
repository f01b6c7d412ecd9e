"""Every family in two gloo processes against one: the same losses and the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests import forks
from tests.models.two_processes import STEPS, cases, run
from tests.models.zoo import Zoo
from tests.waiting import DEADLINE

from foretrain.distributed.world import World
from foretrain.models import FAMILIES
from foretrain.training.journal import read_journal

pytestmark = pytest.mark.processes

KINDS = ("full", "adapter", "budget", "huber")
NAMES = [f"{name}-{kind}" for name in FAMILIES for kind in KINDS]
NAMES = [name for name in NAMES if not (name.startswith("kronos") and name.endswith("huber"))]  # tokens have one loss


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of the runs in two processes, and of the same runs in one."""
    two, one = (tmp_path_factory.mktemp(name) for name in ("two", "one"))
    zoo = Zoo(two / "parts")
    every = dict(cases(zoo))  # builds the parts, which both sides read
    process = forks.started("tests.models.two_processes", two, 2)
    try:
        for name, tree in every.items():
            run(tree, one / name, World())
        assert process.wait(timeout=DEADLINE) == 0, (two / "forks.log").read_text()
    finally:
        forks.stop(process)
    assert sorted(every) == sorted(NAMES)
    return two, one


def losses(folder: Path) -> dict[int, float]:
    return {r["step"]: r["loss"] for r in read_journal(folder / "metrics.jsonl") if r["kind"] == "train"}


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_as_one(folders, name):
    two, one = (folder / name for folder in folders)
    assert sorted(losses(one)) == list(range(1, STEPS + 1))
    assert losses(two) == pytest.approx(losses(one), rel=1e-6)
    ours, theirs = (load_file(folder / "release" / "model.safetensors") for folder in (two, one))
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5, msg=key)
