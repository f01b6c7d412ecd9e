from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.run.test_train import tiny

from foretrain.distributed.world import World
from foretrain.run.build import build_model, open_source
from foretrain.run.summary import start_lines


@pytest.mark.parametrize(
    ("size", "settings", "line"),
    [
        (1, (), None),
        (
            4,
            (),
            r"processes: 4, ddp \(training.parallel: auto\): each holds all weights, gradients and optimizer .*KiB",
        ),
        (
            4,
            ("training.parallel=hsdp", "training.shard_size=2"),
            r"processes: 4, hsdp .*: 2 copies; each holds 1/2 of ",
        ),
    ],
)
def test_a_run_says_first_what_each_of_several_processes_holds(tmp_path: Path, size, settings, line):
    config = tiny(tmp_path / "run", *settings)
    config, source = open_source(config)
    lines = start_lines(config, source, build_model(config), World(size=size))
    assert lines[3:] == [] if line is None else re.match(line, lines[3])
