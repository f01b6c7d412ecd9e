"""A short version of tests/proofs/kill_cli.py, which is the one to run after a change of what a checkpoint holds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PROOF = Path(__file__).parent / "proofs" / "kill_cli.py"


def test_the_train_command_killed_at_random_moments_ends_as_if_nobody_had_touched_it():
    """About 20 s, most of it the start of five processes."""
    command = [sys.executable, str(PROOF), "--kills", "3", "--steps", "45", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.match(r"3 kills \(.*\) in \d runs of 45 steps: all identical", done.stdout), done.stdout
