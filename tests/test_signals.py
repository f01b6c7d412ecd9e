"""A short version of tests/proofs/signals.py, which is the one to run after a change of how a run ends."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.waiting import DEADLINE, as_from_a_terminal

pytestmark = pytest.mark.processes

PROOF = Path(__file__).parent / "proofs" / "signals.py"


def test_two_processes_signalled_at_random_moments_end_like_an_undisturbed_run():
    command = [sys.executable, str(PROOF), "--signals", "5", "--steps", "24", "--fork", "--processes", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, preexec_fn=as_from_a_terminal)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.match(r"5 signals \(.*\) in \d runs of 24 steps", done.stdout), done.stdout
