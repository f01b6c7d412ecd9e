"""A short, fixed run of tests/proofs/race_files.py: commands at once lose nothing, and each is done or refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.waiting import DEADLINE

SCRIPT = Path(__file__).parent / "proofs" / "race_files.py"


@pytest.mark.processes
def test_commands_that_race_lose_nothing_and_are_done_or_refused(tmp_path: Path) -> None:
    kinds = "updates,update_train,evaluates,import_inspect"
    log = tmp_path / "log.jsonl"
    command = [sys.executable, str(SCRIPT), "--count", "4", "--seed", "0", "--log", str(log), "--kinds", kinds]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert (counts["races"], counts["faults"]) == (4, 0) and counts["succeeded"] + counts["refused"] == counts[
        "processes"
    ]
    assert [json.loads(line)["number"] for line in log.read_text().splitlines()] == list(range(4))
