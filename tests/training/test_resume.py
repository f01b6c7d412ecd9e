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
    assert "5 kills" in killed("--kills", "5", "--steps", "60", *how)


def test_a_run_of_which_one_process_is_killed_ends_like_an_uninterrupted_one():
    said = killed("--kills", "3", "--steps", "24", "--layout", "fsdp", "--ranks", "2", "--background")
    assert "3 kills" in said and "the others had ended after" in said


def killed(*words: str) -> str:
    """Run the proof and return what it says."""
    done = subprocess.run([sys.executable, str(PROOF), *words], capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all identical" in done.stdout
    return done.stdout
