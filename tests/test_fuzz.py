"""A short, fixed run of tests/proofs/fuzz_files.py: damaged files are accepted or refused in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.waiting import DEADLINE

SCRIPT = Path(__file__).parent / "proofs" / "fuzz_files.py"


@pytest.mark.processes
def test_damaged_files_end_no_command_but_by_a_refusal_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--count", "60", "--seed", "0", "--keep", str(tmp_path / "kept")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["inputs"] == 60 and counts["refused"] > 20 and "fault" not in counts
    assert not (tmp_path / "kept").exists()
