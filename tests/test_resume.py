"""A short version of tests/proofs/kill_cli.py, which is the one to run after a change of what a checkpoint holds."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tests.run.test_train import TINY  # the overrides that make debug.yaml run in a second
from tests.training.curves import loss_curve_hash
from tests.waiting import DEADLINE, wait_until

from foretrain.run.config import load_config, shipped_config
from foretrain.run.train import train_run
from foretrain.training.checkpoint import steps_in
from foretrain.training.manifest import read_manifest

pytestmark = pytest.mark.processes

PROOF = Path(__file__).parent / "proofs" / "kill_cli.py"


@pytest.mark.parametrize("case", ["chronos2", "kronos"])
def test_the_train_command_killed_at_random_moments_ends_like_an_undisturbed_run(case):
    """Kronos in its two stages: a kill while the first one saves, one between the two, one in the second."""
    command = [sys.executable, str(PROOF), "--case", case, "--kills", "3", "--steps", "32", "--seed", "1", "--fork"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.match(r"3 kills \(.*\) in \d runs of 32 steps: all identical", done.stdout), done.stdout


def test_a_disk_that_fills_up_under_the_train_command_costs_one_line_and_an_interval(tmp_path):
    """The kernel's limit on the size of files, set while the run goes on, stands for the full disk."""
    out, config = tmp_path / "run", shipped_config("debug.yaml")
    settings = [*TINY, "training.checkpoint_every=5", "threads=1", "optimizer.schedule={kind: constant}"]
    command = [sys.executable, "-m", "foretrain.cli", "train", str(config), *settings]
    process = subprocess.Popen(
        [*command, f"output_dir={out}", "training.max_steps=100000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: steps_in(out / "checkpoints"), process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    _, error = process.communicate(timeout=DEADLINE)
    assert process.returncode == 2
    assert error.startswith(f"error: {out}") and error.count("\n") == 1 and "free some space" in error
    assert {path.name[:5] for path in (out / "checkpoints").iterdir()} == {"step-"}  # nothing half written
    end = f"training.max_steps={read_manifest(steps_in(out / 'checkpoints')[-1])['step'] + 5}"
    for folder, resume in ((out, "auto"), (tmp_path / "whole", None)):
        train_run(load_config(config, [*settings, f"output_dir={folder}", end]), resume=resume)
    assert loss_curve_hash(out / "metrics.jsonl") == loss_curve_hash(tmp_path / "whole" / "metrics.jsonl")
