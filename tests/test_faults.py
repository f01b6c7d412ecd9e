"""Short runs of tests/proofs/fault_files.py and save_faults.py: file operations that fail, or kill the process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import DEADLINE

PROOFS = Path(__file__).parent / "proofs"

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler (cc, gcc, clang) is in the PATH"
    ),
]


def trials(folder: Path, script: str, *words: str) -> list[dict[str, Any]]:
    """Run a proof and return its trials."""
    log = folder / "log.jsonl"
    done = subprocess.run(
        [sys.executable, str(PROOFS / script), *words, "--log", str(log)],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if "fault" in line]  # the others list the operations of a command


def test_a_failing_operation_or_a_kill_leaves_whole_outputs_and_the_next_run_is_as_undisturbed(tmp_path: Path) -> None:
    cases = ["--case", "score,data import --update", "--faults", "enospc,eio,kill", "--most", "2"]
    found = trials(tmp_path, "fault_files.py", *cases)
    assert len(found) == 18 and {trial["fault"] for trial in found} == {"enospc", "eio", "kill"}
    assert {trial["end"] for trial in found} >= {"refused", "killed"} and not any(trial["wrong"] for trial in found)


def test_a_failing_operation_of_a_save_a_kill_or_later_damage_costs_one_checkpoint_interval(tmp_path: Path) -> None:
    found = trials(tmp_path, "save_faults.py", "--cases", "new", "--faults", "enospc,kill,damage", "--most", "1")
    ends = {(trial["fault"], trial["end"], trial["resumed"]) for trial in found}
    assert len(found) == 6 and not any(trial["wrong"] for trial in found)
    assert ends == {("enospc", "refused", 4), ("kill", "killed", 4), ("damage", "killed", 4)}
