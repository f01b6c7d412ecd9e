"""A short version of tests/proofs/kill_resume.py, which should be run after a change of the content of checkpoints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.waiting import DEADLINE

pytestmark = pytest.mark.processes

PROOF = Path(__file__).parents[1] / "proofs" / "kill_resume.py"


@pytest.mark.parametrize("how", [[], ["--background"]], ids=["at once", "in the background"])
def test_a_run_killed_at_random_moments_ends_like_an_uninterrupted_one(how):
    command = [sys.executable, str(PROOF), "--kills", "5", "--steps", "60", *how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kills" in done.stdout
    assert "all identical" in done.stdout
