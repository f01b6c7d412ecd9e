"""`train --dry-run` of settings that are found by trial; test_train.py and test_pipeline.py have the rest."""

from __future__ import annotations

from pathlib import Path

from tests.run.test_train import tiny

from foretrain.distributed.world import World
from foretrain.run.dry_run import describe_run


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
