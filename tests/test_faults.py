"""A short, fixed run of tests/proofs/fault_files.py: a file operation that fails, or where the process is killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.waiting import DEADLINE

SCRIPT = Path(__file__).parent / "proofs" / "fault_files.py"

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler (cc, gcc, clang) is in the PATH"
    ),
]


def test_a_failing_operation_or_a_kill_leaves_whole_outputs_and_the_next_run_is_as_undisturbed(tmp_path: Path) -> None:
    log, cases = tmp_path / "log.jsonl", "score,data import --update"
    command = [sys.executable, str(SCRIPT), "--case", cases, "--faults", "enospc,eio,kill", "--most", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--log", str(log)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    trials = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(trials) == 18 and {trial["fault"] for trial in trials} == {"enospc", "eio", "kill"}
    assert {trial["end"] for trial in trials} >= {"refused", "killed"} and not any(trial["wrong"] for trial in trials)
